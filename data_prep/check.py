"""Is a shard folder what its manifest says, byte by byte and sample by sample?

Every fault is one row {"shard", "key", "fault"}; the faults name keys of the shard, never ids or texts of the source.
Nothing in the folder is trusted: members are read through their tar headers, with limits, and nothing is unpacked.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from cogaze.data.schema import GAZE_MEMBER, MAX_MEMBER_BYTES, ShardError, parse_json, unpack_gaze, validate_meta
from cogaze.data.shards import MANIFEST, QUARANTINE, Shard, read_manifest
from data_prep.images import MAX_PIXELS
from data_prep.stats import Totals

Fault = dict[str, str]
FaultSink = Callable[..., None]  # (fault, key="")
PIL_FORMAT = {"jpg": "JPEG", "png": "PNG"}


@dataclass
class ShardFacts:
    """What one shard holds, for the checks across shards; hashes stand for ids."""

    faults: list[Fault] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    keys: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)  # hash of (source, image_id) of each key
    studies: list[bytes] = field(default_factory=list)
    gaze: list[int] = field(default_factory=list)  # rows with readings
    patients: list[bytes] = field(default_factory=list)


def check(folder: Path, jobs: int = 1, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Check a whole shard folder with `jobs` processes; `progress(done, total)` counts shards.

    Returns {"ok", "faults": [{"shard", "key", "fault"}], "images", "studies", "shards"}; raises nothing for a fault in
    the data. Looked at: the manifest's schema and totals, every file's presence and sha256, every tar member's name,
    every index entry, every JSON against the schema, every image decoded, all gaze arrays, studies adjacent, no image
    twice, no patient in two splits, the quarantine file.
    """
    try:
        manifest = read_manifest(folder)
    except ShardError as error:
        return _report([_fault("", "", str(error))], [])
    shards = [Shard(folder, entry, manifest["image_format"]) for entry in manifest["shards"]]
    faults = list(_files(folder, shards))
    facts: list[ShardFacts] = []
    for found in _all_facts(shards, manifest["image_size"], jobs):
        facts.append(found)
        faults += found.faults
        if progress:
            progress(len(facts), len(shards))
    faults += _across(shards, facts)
    faults += _totals(manifest, facts)
    faults += _quarantine(folder, manifest)
    return _report(faults, facts)


def _report(faults: list[Fault], facts: list[ShardFacts]) -> dict[str, Any]:
    return {
        "ok": not faults,
        "faults": faults,
        "shards": len(facts),
        "images": sum(len(f.keys) for f in facts),
        "studies": len({study for f in facts for study in f.studies}),
    }


def _fault(shard: str, key: str, fault: str) -> Fault:
    return {"shard": shard, "key": key, "fault": fault}


def _files(folder: Path, shards: Iterable[Shard]) -> Iterator[Fault]:
    expected = {MANIFEST, QUARANTINE, *(name for s in shards for name in (s.tar.name, s.index.name))}
    for path in sorted(folder.iterdir()):
        if path.name not in expected:
            yield _fault("", "", f"{path.name} is not named by the manifest")


def _all_facts(shards: list[Shard], image_size: int, jobs: int) -> Iterator[ShardFacts]:
    sizes = [image_size] * len(shards)
    if jobs == 1 or len(shards) < 2:
        yield from map(check_shard, shards, sizes)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(check_shard, shards, sizes)
        except BrokenProcessPool:
            raise ShardError("a worker process died, most likely for lack of memory: try fewer --jobs") from None


# ------------------------------------------------------------------------------------------------ one shard
def check_shard(shard: Shard, image_size: int) -> ShardFacts:
    """Everything that can be checked inside one shard; runs in a worker process."""
    facts = ShardFacts()

    def fault(text: str, key: str = "") -> None:
        facts.faults.append(_fault(shard.name, key, text))

    index = _read_index(shard, fault)
    spans: dict[str, dict[str, tuple[int, int]]] = {}  # of every key in the tar, offset and size of its members
    try:
        size = shard.tar.stat().st_size
        if size != shard.entry["bytes"]:
            fault(f"the tar has {size} bytes, the manifest says {shard.entry['bytes']}")
        if _sha256(shard.tar) != shard.entry["sha256"]:
            fault("the tar's sha256 is not the manifest's")
        with tarfile.open(shard.tar, "r:", errorlevel=2) as tar:
            sample: dict[str, bytes] = {}
            for member, data in _members(tar, shard, fault):
                key, _, extension = member.name.partition(".")
                if key not in spans:
                    if sample:
                        _check_sample(shard, image_size, next(reversed(spans)), sample, facts, fault)
                    sample = {}
                    spans[key] = {}
                elif key != next(reversed(spans)):
                    fault("its members are not adjacent in the tar", key)
                if extension in spans[key]:
                    fault(f"has two {extension} members", key)
                spans[key][extension] = (member.offset_data, member.size)
                sample[extension] = data
            if sample:
                _check_sample(shard, image_size, next(reversed(spans)), sample, facts, fault)
    except OSError as error:
        fault(f"the tar cannot be read: {error.strerror or error}")
    except (tarfile.TarError, EOFError, ValueError) as error:
        fault(f"the tar is damaged: {error}")
    _compare_index(shard, index, spans, fault)
    _compare_entry(shard, facts, fault)
    return facts


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _members(tar: tarfile.TarFile, shard: Shard, fault: FaultSink) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The tar's members with their bytes; those with a wrong name, kind or size become faults."""
    name = re.compile(rf"{re.escape(shard.name)}-[0-9]{{5}}\.({shard.image_format}|json|{re.escape(GAZE_MEMBER)})")
    for member in tar:
        if member.name.startswith(("/", "\\")) or ".." in Path(member.name).parts:
            fault("a member's name leaves the folder (absolute, or with ..)")
        elif not member.isreg():
            fault("a member is not a plain file (a link, folder or device)")
        elif not name.fullmatch(member.name):
            fault(f"a member's name is not {shard.name}-NNNNN.{shard.image_format}, .json or .{GAZE_MEMBER}")
        elif member.size > MAX_MEMBER_BYTES[member.name.partition(".")[2]]:
            fault("a member is larger than is allowed", member.name.partition(".")[0])
        else:
            stream: IO[bytes] | None = tar.extractfile(member)
            data = stream.read() if stream else b""
            if len(data) < member.size:
                raise tarfile.ReadError("it ends inside a member")
            yield member, data


def _check_sample(
    shard: Shard, image_size: int, key: str, members: Mapping[str, bytes], facts: ShardFacts, fault: FaultSink
) -> None:
    _check_image(shard, image_size, key, members, fault)
    meta = None
    if "json" not in members:
        fault("has no json member", key)
    else:
        try:
            meta = parse_json(members["json"])
        except ValueError as error:
            fault(f"json: cannot be parsed ({error})", key)
    if meta is None:
        return
    faults = validate_meta(meta)
    for text in faults:
        fault(f"json: {text}", key)
    if faults:
        return
    if meta["split"] != shard.entry["split"]:
        fault(f"json: split {meta['split']} in a shard of {shard.entry['split']}", key)
    _check_gaze(key, meta, members.get(GAZE_MEMBER), fault)
    facts.totals.add(meta)
    if meta["readings"]:
        facts.gaze.append(len(facts.keys))
    facts.keys.append(key)
    for hashes, owner in ((facts.images, "image_id"), (facts.studies, "study_id"), (facts.patients, "patient_id")):
        hashes.append(hashlib.blake2b(f"{meta['source']}\0{meta[owner]}".encode(), digest_size=16).digest())


def _check_image(shard: Shard, image_size: int, key: str, members: Mapping[str, bytes], fault: FaultSink) -> None:
    if shard.image_format not in members:
        fault(f"has no {shard.image_format} member", key)
        return
    try:
        with Image.open(io.BytesIO(members[shard.image_format]), formats=[PIL_FORMAT[shard.image_format]]) as image:
            if image.mode != "L":
                fault(f"image: mode {image.mode}, not 8-bit grey", key)
            if min(image.size) != image_size:
                fault(f"image: {image.size[0]}x{image.size[1]} px, the shortest side is not {image_size}", key)
            if image.size[0] * image.size[1] > MAX_PIXELS:
                fault("image: too large", key)
            else:
                image.load()
    except Exception as error:  # decoders raise whatever they like on damaged files
        fault(f"image: cannot be decoded ({type(error).__name__})", key)


def _check_gaze(key: str, meta: Mapping[str, Any], data: bytes | None, fault: FaultSink) -> None:
    readings = len(meta["readings"])
    if (data is not None) != bool(readings):
        fault(f"{readings} readings in the json, but {'a' if data is not None else 'no'} {GAZE_MEMBER}", key)
        return
    if data is None:
        return
    try:
        gaze = unpack_gaze(data)
    except ShardError as error:
        fault(str(error), key)
        return
    if list(gaze) != list(range(readings)):
        fault(f"gaze.npz: arrays {list(gaze)} for {readings} readings", key)
    for number, rows in gaze.items():
        if not len(rows) or not np.isfinite(rows).all():
            fault(f"gaze.npz: array {number} is empty or not finite", key)
        elif (rows[:, 3] < rows[:, 2]).any() or (rows[:, 4:] <= 0).any():
            fault(f"gaze.npz: array {number} has a fixation that ends before it starts, or a sigma of 0 or less", key)


# ------------------------------------------------------------------------------------------------ index, manifest
def _read_index(shard: Shard, fault: FaultSink) -> list[dict[str, Any]] | None:
    try:
        data = shard.index.read_bytes()
        if hashlib.sha256(data).hexdigest() != shard.entry["index_sha256"]:
            fault("the index's sha256 is not the manifest's")
        index = parse_json(data)
        rows = index["samples"]
        if index["shard"] != shard.name or any(not isinstance(row["key"], str) for row in rows):
            fault("the index is of another shard, or a key is not text")
        return list(rows)
    except OSError as error:
        fault(f"the index cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        fault(f"the index is damaged: {error!r}")
    return None


def _compare_index(
    shard: Shard,
    index: list[dict[str, Any]] | None,
    spans: Mapping[str, Mapping[str, tuple[int, int]]],
    fault: FaultSink,
) -> None:
    if list(spans) != sorted(spans):
        fault("keys are not in ascending order in the tar")
    if index is None:
        return
    if [row["key"] for row in index] != list(spans):
        fault(f"the index has {len(index)} keys, the tar {len(spans)}, and they are not the same in order")
    for row in index:
        found = spans.get(row["key"])
        try:
            if found is not None and {name: tuple(at) for name, at in row["members"].items()} != dict(found):
                fault("the index gives other offsets or sizes than the tar has", row["key"])
            elif found is not None and row["gaze"] != (GAZE_MEMBER in found):
                fault("the index's gaze flag is wrong", row["key"])
        except (KeyError, TypeError, AttributeError):
            fault("the index's entry is damaged", row["key"])


def _compare_entry(shard: Shard, facts: ShardFacts, fault: FaultSink) -> None:
    """Counts, study runs and gaze positions of the manifest's entry against what the tar holds."""
    entry = shard.entry
    if len(facts.keys) != entry["images"]:
        fault(f"{len(facts.keys)} valid samples, the manifest says {entry['images']}")
        return  # the positions below would all be shifted
    runs: list[int] = []
    seen: set[bytes] = set()
    for i, study in enumerate(facts.studies):
        if i and study == facts.studies[i - 1]:
            runs[-1] += 1
            continue
        if study in seen:
            fault("its study's images are not adjacent", facts.keys[i])
        seen.add(study)
        runs.append(1)
    if runs != entry["study_runs"] or len(seen) != entry.get("studies"):
        fault("study_runs or studies of the manifest are not those of the samples")
    if facts.gaze != entry["gaze"]:
        fault("gaze positions of the manifest are not those of the samples")


# ------------------------------------------------------------------------------------------------ across shards
def _across(shards: list[Shard], facts: list[ShardFacts]) -> Iterator[Fault]:
    """Images that occur twice, studies in two shards, patients in two splits."""
    first: dict[bytes, str] = {}
    study_shard: dict[bytes, str] = {}
    patient_split: dict[bytes, tuple[str, str]] = {}
    told: set[bytes] = set()  # one fault for a study or patient is enough
    for shard, found in zip(shards, facts, strict=True):
        for key, image, study, patient in zip(found.keys, found.images, found.studies, found.patients, strict=True):
            if first.setdefault(image, key) != key:
                yield _fault(shard.name, key, f"is the same image as {first[image]}")
            if study_shard.setdefault(study, shard.name) != shard.name and study not in told:
                told.add(study)
                yield _fault(shard.name, key, f"its study also stands in {study_shard[study]}")
            split, where = patient_split.setdefault(patient, (shard.entry["split"], key))
            if split != shard.entry["split"] and patient not in told:
                told.add(patient)
                yield _fault(shard.name, key, f"its patient is also in split {split} ({where})")


def _totals(manifest: Mapping[str, Any], facts: list[ShardFacts]) -> Iterator[Fault]:
    counted = Totals()
    for found in facts:
        counted.merge(found.totals)
    counts = counted.as_dict()
    for name, number in counts.items():
        if name != "by_split" and manifest["totals"].get(name) != number:
            yield _fault("", "", f"totals.{name} is {manifest['totals'].get(name)}, counted {number}")
    for split in sorted({*counts["by_split"], *manifest["totals"]["by_split"]}):
        if manifest["totals"]["by_split"].get(split) != counts["by_split"].get(split):
            yield _fault("", "", f"totals.by_split.{split} is not what the samples add up to")


def _quarantine(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Fault]:
    reasons: Counter[str] = Counter()
    try:
        with open(folder / QUARANTINE, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                row = None
                with suppress(ValueError):
                    row = parse_json(line)
                if not isinstance(row, dict) or not isinstance(row.get("reason"), str) or "source" not in row:
                    yield _fault("", "", f"{QUARANTINE}, line {number}: not a JSON object with source and reason")
                else:
                    reasons[row["reason"]] += 1
    except (OSError, UnicodeDecodeError) as error:
        yield _fault("", "", f"{QUARANTINE} cannot be read: {error}")
        return
    if dict(reasons) != manifest.get("quarantined"):
        yield _fault("", "", f"{QUARANTINE} does not hold what the manifest's `quarantined` counts")
