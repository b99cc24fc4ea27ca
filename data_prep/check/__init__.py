"""Is a shard folder what its manifest says, byte by byte and sample by sample?

    fast      manifest, sizes, indices, quarantine file; no tar is opened
    standard  every tar hashed and read, every JSON, image and fixation; maps of some readings
    deep      maps of every reading, and images that look alike in two splits

A fault makes the folder unfit for training: {"shard", "key", "fault"}. A warning is something to look at that training
survives: {"shard", "key", "warning", "detail"}. Both name keys of the shard, never ids or texts of the source. Nothing
in the folder is trusted: members are read through their tar headers, with limits, and nothing is unpacked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from cogaze.data.remote import remote_folder
from cogaze.data.schema import ShardError
from cogaze.data.shards import Shard, read_manifest
from data_prep.check.alike import largest
from data_prep.check.folder import check_quarantine, check_sizes, check_totals, foreign_files
from data_prep.check.result import LEVELS, Findings, Level, ShardFacts
from data_prep.check.splits import across
from data_prep.check.tar import check_shard
from data_prep.processes import pool

__all__ = ["LEVELS", "Level", "check"]


def check(
    folder: Path,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    level: Level = "standard",
) -> dict[str, Any]:
    """Check a whole shard folder with `jobs` processes; `progress(done, total)` counts shards. A URL is a folder too.

    Returns {"ok", "level", "faults", "warnings", "warnings_left_out", "shards", "images", "studies"} with the rows
    described above; raises nothing for a fault in the data. Memory: some 100 bytes an image, and one sample a process.
    """
    findings = Findings()
    try:
        remote = remote_folder(folder)
        manifest = remote.manifest() if remote else read_manifest(folder)
        if remote:
            remote.look_at(manifest)
    except ShardError as error:
        findings.fault(str(error))
        return _report(level, findings, [])
    shards = [Shard(folder, entry, manifest["image_format"], remote) for entry in manifest["shards"]]
    if not remote:
        foreign_files(folder, shards, findings)
    facts: list[ShardFacts] = []
    for found in _all_facts(shards, manifest["image_size"], jobs, level):
        facts.append(found)
        findings.merge(found.findings)
        if progress:
            progress(len(facts), len(shards))
    across([shard.entry["split"] for shard in shards], facts, findings)
    if level == "fast":
        check_sizes(manifest, findings)
    else:
        check_totals(manifest, facts, findings)
    if not remote:
        check_quarantine(folder, manifest, findings)
    return _report(level, findings, facts)


def _report(level: Level, findings: Findings, facts: list[ShardFacts]) -> dict[str, Any]:
    studies = [found.studies for found in facts]
    return {
        "ok": not findings.faults,
        "level": level,
        "faults": findings.faults,
        "warnings": findings.warnings,
        "warnings_left_out": sum(findings.left_out.values()),
        "shards": len(facts),
        "images": sum(len(found) for found in studies),
        "studies": len(np.unique(np.concatenate(studies))) if studies else 0,
    }


def _all_facts(shards: list[Shard], image_size: int, jobs: int, level: Level) -> Iterator[ShardFacts]:
    images: Counter[str] = Counter()
    for shard in shards:
        images[shard.entry["split"]] += shard.images
    copies = [shard.entry["split"] != largest(images) for shard in shards]
    sizes, levels = [image_size] * len(shards), [level] * len(shards)
    if jobs == 1 or len(shards) < 2 or level == "fast":
        yield from map(check_shard, shards, sizes, levels, copies)
        return
    with pool(min(jobs, len(shards))) as executor:
        try:
            yield from executor.map(check_shard, shards, sizes, levels, copies)
        except BrokenProcessPool:
            raise ShardError("a worker process died, most likely for lack of memory: try fewer --jobs") from None
