"""One shard: its tar, its index, and the manifest's entry for it."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np

from cogaze.data.schema import MAX_MEMBER_BYTES, ShardError, parse_json
from cogaze.data.shards import Shard
from data_prep.check.result import Findings, Level, ShardFacts, column, hash64
from data_prep.check.sample import Sample, check_sample

MAX_MEMBERS = 8  # a sample; twice what the schema knows. A tar of a million members is not read to its end

Spans = dict[str, dict[str, tuple[int, int]]]  # key -> member -> offset and size in the tar


def check_shard(shard: Shard, image_size: int, level: Level, copies: bool) -> ShardFacts:
    """Everything that can be checked inside one shard; runs in a worker process. A remote one comes here first.

    copies: whether `deep` takes the hashes of mirrored and turned copies (alike.py).
    """
    findings = Findings(shard.name)
    try:
        with nullcontext() if level == "fast" else shard.held():
            return _check_shard(shard, image_size, level, copies, findings)
    except ShardError as error:
        findings.fault(str(error))
        return ShardFacts(findings)


def _check_shard(shard: Shard, image_size: int, level: Level, copies: bool, findings: Findings) -> ShardFacts:
    index = _read_index(shard, findings)
    if level == "fast":
        return _from_index(shard, index, findings)
    facts = ShardFacts(findings)
    samples: list[Sample] = []
    spans: Spans = {}

    def finish(key: str, members: dict[str, bytes]) -> None:
        sample = check_sample(shard, image_size, key, members, facts, deep=level == "deep", copies=copies)
        if sample:
            samples.append(sample)

    try:
        if _size_fits(shard, findings) and _sha256(shard.tar) != shard.entry["sha256"]:
            where = f"its copy in the cache of this machine is damaged: remove {shard.tar}"
            findings.fault(where if shard.remote else "the tar's sha256 is not the manifest's")
        with tarfile.open(shard.tar, "r:", errorlevel=2) as tar:
            members: dict[str, bytes] = {}
            for member, data in _members(tar, shard, findings):
                key, _, extension = member.name.partition(".")
                if key not in spans:
                    if members:
                        finish(next(reversed(spans)), members)
                    members = {}
                    spans[key] = {}
                elif key != next(reversed(spans)):
                    findings.fault("its members are not adjacent in the tar", key)
                if extension in spans[key]:
                    findings.fault(f"has two {extension} members", key)
                spans[key][extension] = (member.offset_data, member.size)
                members[extension] = data
            if members:
                finish(next(reversed(spans)), members)
    except OSError as error:
        findings.fault(f"the tar cannot be read: {error.strerror or error}")
    except (tarfile.TarError, EOFError, ValueError) as error:
        findings.fault(f"the tar is damaged: {error}")
    facts.numbers = np.array([int(sample.key.rpartition("-")[2]) for sample in samples], np.int64)
    facts.images, facts.studies, facts.patients, facts.persons, facts.files = (
        column([getattr(sample, name) for sample in samples])
        for name in ("image", "study", "patient", "person", "file")
    )
    if level == "deep" and samples:
        facts.looks = np.stack([sample.looks for sample in samples])
    _compare_index(shard, index, spans, {sample.key: sample.study_id for sample in samples}, findings)
    _compare_entry(shard, facts, [i for i, sample in enumerate(samples) if sample.gaze])
    return facts


def _size_fits(shard: Shard, findings: Findings) -> bool:
    """Whether the tar has the manifest's size; where it has not, its checksum need not be looked at."""
    if shard.remote:  # seen to where it lies
        return True
    size = shard.tar.stat().st_size
    if size != shard.entry["bytes"]:
        findings.fault(f"the tar has {size} bytes, the manifest says {shard.entry['bytes']}")
    return bool(size == shard.entry["bytes"])


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _members(tar: tarfile.TarFile, shard: Shard, findings: Findings) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The tar's members with their bytes; those with a wrong name, kind or size become faults."""
    extensions = [name for name in MAX_MEMBER_BYTES if name not in ("jpg", "png") or name == shard.image_format]
    name = re.compile(rf"{re.escape(shard.name)}-[0-9]{{5}}\.({'|'.join(map(re.escape, extensions))})")
    for number, member in enumerate(tar):
        tar.members = []  # type: ignore[attr-defined]  # the library would keep every header
        if number >= MAX_MEMBERS * (shard.images + 1):
            raise tarfile.ReadError("it holds far more members than the manifest has samples")
        if member.name.startswith(("/", "\\")) or ".." in Path(member.name).parts:
            findings.fault("a member's name leaves the folder (absolute, or with ..)")
        elif not member.isreg():
            findings.fault("a member is not a plain file (a link, folder or device)")
        elif not name.fullmatch(member.name):
            findings.fault(f"a member's name is not {shard.name}-NNNNN and one of .{', .'.join(extensions)}")
        elif member.size > MAX_MEMBER_BYTES[member.name.partition(".")[2]]:
            findings.fault("a member is larger than is allowed", member.name.partition(".")[0])
        else:
            stream: IO[bytes] | None = tar.extractfile(member)
            data = stream.read() if stream else b""
            if len(data) < member.size:
                raise tarfile.ReadError("it ends inside a member")
            yield member, data


# ------------------------------------------------------------------------------------------------ index
def _read_index(shard: Shard, findings: Findings) -> list[dict[str, Any]] | None:
    try:
        data = shard.index_bytes() if shard.remote else shard.index.read_bytes()
        if hashlib.sha256(data).hexdigest() != shard.entry["index_sha256"]:
            findings.fault("the index's sha256 is not the manifest's")
        index = parse_json(data)
        rows = index["samples"]
        if index["shard"] != shard.name or any(not isinstance(row["key"], str) for row in rows):
            findings.fault("the index is of another shard, or a key is not text")
        return list(rows)
    except ShardError:
        raise
    except OSError as error:
        findings.fault(f"the index cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        findings.fault(f"the index is damaged: {type(error).__name__}")
    return None


def _from_index(shard: Shard, index: list[dict[str, Any]] | None, findings: Findings) -> ShardFacts:
    """The facts that the index alone gives: positions inside the tar, studies, gaze."""
    facts = ShardFacts(findings)
    try:
        _size_fits(shard, findings)
    except OSError as error:
        findings.fault(f"the tar cannot be read: {error.strerror or error}")
    numbers, studies, gaze = [], [], []
    key_of = re.compile(rf"{re.escape(shard.name)}-([0-9]{{5}})")
    for place, row in enumerate(index or []):
        try:
            number = key_of.fullmatch(row["key"])
            if number is None:
                findings.fault("a key of the index is not one of this shard")
                continue
            for offset, size in row["members"].values():
                if not 0 < size <= shard.entry["bytes"] - offset or offset < 0:
                    findings.fault("the index names bytes outside the tar", row["key"])
            if not {shard.image_format, "json"} <= row["members"].keys() or not isinstance(row["study"], str):
                raise KeyError
            if row["gaze"]:
                gaze.append(place)
            numbers.append(int(number[1]))
            studies.append(hash64(row["study"]))
        except (KeyError, TypeError, AttributeError, ValueError):
            findings.fault(f"the index's entry {place} is damaged")
    facts.numbers, facts.studies = np.array(numbers, np.int64), column(studies)
    if (np.diff(facts.numbers) <= 0).any():
        findings.fault("keys are not in ascending order in the index")
    if index is not None:
        _compare_entry(shard, facts, gaze)
    return facts


def _compare_index(
    shard: Shard, index: list[dict[str, Any]] | None, spans: Spans, studies: Mapping[str, str], findings: Findings
) -> None:
    """The index against what really stands in the tar; `studies` are the ids by key of the valid samples."""
    if list(spans) != sorted(spans):
        findings.fault("keys are not in ascending order in the tar")
    if index is None:
        return
    if [row["key"] for row in index] != list(spans):
        findings.fault(f"the index has {len(index)} keys, the tar {len(spans)}, and they are not the same in order")
    for row in index:
        found = spans.get(row["key"])
        if found is None:
            continue
        try:
            if {name: tuple(at) for name, at in row["members"].items()} != found:
                findings.fault("the index gives other offsets or sizes than the tar has", row["key"])
            elif row["gaze"] != any(name not in (shard.image_format, "json") for name in found):
                findings.fault("the index's gaze flag is wrong", row["key"])
            elif row["study"] != studies.get(row["key"], row["study"]):
                findings.fault("the index names another study than the sample", row["key"])
        except (KeyError, TypeError, AttributeError):
            findings.fault("the index's entry is damaged", row["key"])


# ------------------------------------------------------------------------------------------------ manifest's entry
def _compare_entry(shard: Shard, facts: ShardFacts, gaze: list[int]) -> None:
    """Counts, study runs and gaze positions of the manifest's entry against what is there."""
    entry, findings = shard.entry, facts.findings
    if len(facts.studies) != entry["images"]:
        findings.fault(f"{len(facts.studies)} valid samples, the manifest says {entry['images']}")
        return  # the positions below would all be shifted
    runs: list[int] = []
    seen: set[int] = set()
    before = None
    for row, study in enumerate(facts.studies.tolist()):
        if study == before:
            runs[-1] += 1
            continue
        if study in seen:
            findings.fault("its study's images are not adjacent", facts.key(row))
        before = study
        seen.add(study)
        runs.append(1)
    if runs != entry["study_runs"] or len(seen) != entry.get("studies"):
        findings.fault("study_runs or studies of the manifest are not those of the samples")
    if gaze != entry["gaze"]:
        findings.fault("gaze positions of the manifest are not those of the samples")
