"""The manifest's word about the folder as a whole: its files, its totals, its quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cogaze.data.schema import parse_json
from cogaze.data.shards import MANIFEST, QUARANTINE, Shard
from data_prep.check.result import Findings, ShardFacts
from data_prep.records import counts_of
from data_prep.shards.ledger import PLAN
from data_prep.stats import Totals


def foreign_files(folder: Path, shards: Iterable[Shard], findings: Findings) -> None:
    """Files that the manifest does not name, but for those a build keeps beside it."""
    expected = {MANIFEST, QUARANTINE, PLAN, *(name for s in shards for name in (s.tar.name, s.index.name))}
    for path in sorted(folder.iterdir()):
        if path.name not in expected:
            findings.fault(f"{path.name} is not named by the manifest")


def check_sizes(manifest: Mapping[str, Any], findings: Findings) -> None:
    """Totals against the manifest's own entries: all that can be said without opening a tar."""
    images: Counter[str] = Counter()
    gaze: Counter[str] = Counter()
    for entry in manifest["shards"]:
        images[entry["split"]] += entry["images"]
        gaze[entry["split"]] += len(entry["gaze"])
    totals = manifest["totals"]
    if totals.get("images") != sum(images.values()):
        findings.fault(f"totals.images is {totals.get('images')}, the shards have {sum(images.values())}")
    for split in sorted({*images, *totals["by_split"]}):
        row = totals["by_split"].get(split)
        counts = (row.get("images", 0), row.get("gaze_images", 0)) if isinstance(row, dict) else (0, 0)
        if counts != (images[split], gaze[split]):
            findings.fault(f"totals.by_split.{split} is not what the shards add up to")


def check_totals(manifest: Mapping[str, Any], facts: Iterable[ShardFacts], findings: Findings) -> None:
    """Totals against the samples."""
    counted = Totals()
    for found in facts:
        counted.merge(found.totals)
    counts = counted.as_dict()
    for name, number in counts.items():
        if name != "by_split" and manifest["totals"].get(name) != number:
            findings.fault(f"totals.{name} is {manifest['totals'].get(name)}, counted {number}")
    for split in sorted({*counts["by_split"], *manifest["totals"]["by_split"]}):
        if manifest["totals"]["by_split"].get(split) != counts["by_split"].get(split):
            findings.fault(f"totals.by_split.{split} is not what the samples add up to")


def check_quarantine(folder: Path, manifest: Mapping[str, Any], findings: Findings) -> None:
    """quarantine.jsonl line by line, and its reasons against the manifest's counts."""
    rows = []
    try:
        with open(folder / QUARANTINE, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                row = None
                with suppress(ValueError):
                    row = parse_json(line)
                if not isinstance(row, dict) or not isinstance(row.get("reason"), str) or "source" not in row:
                    findings.fault(f"{QUARANTINE}, line {number}: not a JSON object with source and reason")
                elif type(row.get("count", 1)) is not int:
                    findings.fault(f"{QUARANTINE}, line {number}: count is no whole number")
                else:
                    rows.append(row)
    except (OSError, UnicodeDecodeError) as error:
        findings.fault(f"{QUARANTINE} cannot be read: {error}")
        return
    counted = ("quarantined", manifest.get("quarantined")), ("noted", manifest.get("noted", {}))
    for counts, (name, told) in zip(counts_of(rows), counted, strict=True):
        if dict(counts) != told:
            findings.fault(f"{QUARANTINE} does not hold what the manifest's `{name}` counts")
