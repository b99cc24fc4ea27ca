"""Manifest and indices of a shard folder: what is there, and where in its tar each member of each sample lies.

Nothing in these files is trusted. Names become paths, offsets become reads and counts become arrays, so each is checked
against the bytes that are there before it is used.
"""

from __future__ import annotations

import hashlib
import re
import stat
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cogaze.data.cache import Cache
from cogaze.data.schema import (
    GAZE_MEMBER,
    IMAGE_FORMATS,
    MAPS_MEMBER,
    MAX_MEMBER_BYTES,
    SCHEMA_VERSION,
    ShardError,
    canonical_json,
    parse_json,
)

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
SHARD_NAME = re.compile(r"[a-z][a-z0-9_]*-[0-9]{6}")
MAX_MANIFEST_BYTES = 1 << 30  # 377,110 images have about 2 MB
INDEX_ENTRY_BYTES = 1024  # of a sample in the index; one with all four members has about 200
SAMPLE_OVERHEAD = 16 << 10  # bytes of tar headers and padding between the members of one sample
LEAST_SAMPLE_BYTES = 2048  # of a tar: header and one block each for image and JSON
LABEL_KINDS = ("positive", "negative", "uncertain", "blank", "unknown")

# Columns of a loaded index: the number in the key, then offset and size in bytes of each member; 0, 0 = not there.
IMAGE, JSON, GAZE, MAPS = slice(1, 3), slice(3, 5), slice(5, 7), slice(7, 9)
COLUMNS = 9


class Place(Protocol):
    """A shard folder that lies elsewhere (`cogaze.data.remote.RemoteFolder`)."""

    @property
    def url(self) -> str:
        """Of the folder, without a slash at its end."""

    @property
    def cache(self) -> Cache:
        """Where its tars are kept."""

    def path(self, sha256: str) -> Path:
        """Where a tar of that sha256 lies on this machine once it is here."""

    def index(self, name: str, limit: int, sha256: str) -> bytes:
        """A whole index. Raises ShardError, also for one of more than `limit` bytes or with another sha256."""

    def fetch(self, name: str, size: int, sha256: str, wait: bool = True) -> bool:
        """Bring a tar here. False, at once, where another process is at it and `wait` is false. Raises ShardError."""

    def held(self, name: str, size: int, sha256: str) -> AbstractContextManager[int]:
        """An open file of the tar, fetched first where it is not here; it stays here for as long as it is open."""


@dataclass(frozen=True)
class Shard:
    """One tar of one folder, and the manifest's entry for it."""

    folder: Path
    entry: dict[str, Any]
    image_format: str
    remote: Place | None = None

    @cached_property
    def name(self) -> str:
        return str(self.entry["name"])

    @property
    def images(self) -> int:
        return int(self.entry["images"])

    @cached_property
    def tar(self) -> Path:
        """A remote shard's is there only while it is held."""
        return self.remote.path(self.entry["sha256"]) if self.remote else self.folder / f"{self.name}.tar"

    @cached_property
    def index(self) -> Path:
        return self.folder / f"{self.name}.index.json"

    def held(self) -> AbstractContextManager[Any]:
        """While this is entered, `tar` is there: a remote one is fetched first. Raises ShardError."""
        if self.remote is None:
            return nullcontext()
        return self.remote.held(f"{self.name}.tar", self.entry["bytes"], self.entry["sha256"])

    def index_bytes(self) -> bytes:
        """The index file, unchecked for what it says. Raises ShardError where it cannot be had or is too large."""
        limit = INDEX_ENTRY_BYTES * (self.images + 1)
        if self.remote:
            return self.remote.index(f"{self.name}.index.json", limit, self.entry["index_sha256"])
        return _bytes_of(self.index, limit, "index of its shard")

    def says(self, kind: str) -> str:
        """The tar or index as messages name it; `kind`: tar | index.json."""
        return f"{self.remote.url if self.remote else self.folder}/{self.name}.{kind}"


# ------------------------------------------------------------------------------------------------ manifest
def read_manifest(folder: Path) -> dict[str, Any]:
    """The parsed manifest of a shard folder. Raises ShardError when there is none or it is not of this schema."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder; `cogaze data build` writes shard folders")
    if not path.exists():
        raise ShardError(
            f"{folder}: has no {MANIFEST}, so it is no shard folder or its build did not finish; "
            "run `cogaze data build` again"
        )
    return parse_manifest(_bytes_of(path, MAX_MANIFEST_BYTES, "manifest"), str(path))


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """The manifest in these bytes. Raises ShardError, its message beginning with `where`."""
    try:
        manifest = parse_json(data)
        fault = _manifest_fault(manifest)
        if fault is None:
            canonical_json(manifest)  # it can be written: no infinity (as 1e999), nothing nested too deeply to write
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where}: cannot be read ({error}); build again") from None
    if fault:
        raise ShardError(f"{where}: {fault}")
    return dict(manifest)


def _manifest_fault(manifest: Any) -> str | None:
    if not isinstance(manifest, dict):
        return "is not a JSON object"
    if manifest.get("schema_version") != SCHEMA_VERSION:
        return (
            f"schema version {manifest.get('schema_version')!r:.40}, this cogaze reads {SCHEMA_VERSION}; "
            "build again with this version"
        )
    if manifest.get("image_format") not in IMAGE_FORMATS or not isinstance(manifest.get("image_size"), int):
        return "image_format or image_size is missing or wrong"
    entries, totals = manifest.get("shards"), manifest.get("totals")
    if not isinstance(entries, list) or not isinstance(totals, dict):
        return "shards or totals are missing"
    if not _counts_labels(totals.get("by_split")):
        return "totals.by_split is not what it should be: per split its labels, per label five counts"
    names: set[str] = set()
    for entry in entries:
        fault = _entry_fault(entry, names)
        if fault:
            return fault
    return None


def _entry_fault(entry: Any, names: set[str]) -> str | None:
    """What is wrong with one shard's entry; `names` are those before it, and get this one's."""
    kinds = {"name": str, "split": str, "images": int, "bytes": int, "sha256": str, "index_sha256": str}
    if not isinstance(entry, dict) or any(type(entry.get(key)) is not kind for key, kind in kinds.items()):
        return f"a shard's entry lacks one of {', '.join(kinds)}"
    name, images = entry["name"], entry["images"]
    # A name becomes a path: only ours, never one that leaves the folder.
    if not SHARD_NAME.fullmatch(name) or name.rsplit("-", 1)[0] != entry["split"] or name in names:
        return f"shard name {name!r:.80} is not {{split}}-{{000000}}, or stands twice"
    names.add(name)
    # So does a hash, in the cache of remote shards.
    if any(not re.fullmatch("[0-9a-f]{64}", entry[key]) for key in ("sha256", "index_sha256")):
        return f"sha256 or index_sha256 of {name} is no sha256"
    # Arrays are made from the counts: none for more images than the bytes can hold.
    if not 0 <= images * LEAST_SAMPLE_BYTES <= entry["bytes"]:
        return f"{images} images of {name} cannot lie in its {entry['bytes']} bytes"
    runs, gaze = entry.get("study_runs"), entry.get("gaze")
    if not _integers(runs, 1, images) or sum(runs) != images:  # type: ignore[arg-type]
        return f"study_runs of {name} do not add up to its {images} images"
    if not _integers(gaze, 0, images - 1):
        return f"gaze positions of {name} are not inside its {images} images"
    return None


def _integers(values: Any, low: int, high: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and low <= value <= high for value in values)


def _counts_labels(by_split: Any) -> bool:
    def counts(row: Any) -> bool:
        return isinstance(row, dict) and all(k in LABEL_KINDS and type(v) is int and v >= 0 for k, v in row.items())

    return isinstance(by_split, dict) and all(
        isinstance(split, dict)
        and isinstance(split.get("labels", {}), dict)
        and all(map(counts, split.get("labels", {}).values()))
        for split in by_split.values()
    )


# ------------------------------------------------------------------------------------------------ index
def read_index(shard: Shard) -> np.ndarray:
    """A shard's index as a compact array, int64 (images,9): number, then offset and size of each member (IMAGE, ...).

    A member that is not there has offset and size 0. Raises ShardError when the file is not the one the manifest names,
    or points outside its tar.
    """
    path, data = shard.says("index.json"), shard.index_bytes()
    if hashlib.sha256(data).hexdigest() != shard.entry["index_sha256"]:
        raise ShardError(f"{path}: is not the file the manifest names (sha256 differs); copy or build again")
    prefix = f"{shard.name}-"
    try:
        samples = parse_json(data)["samples"]
        rows = np.zeros((len(samples), COLUMNS), dtype=np.int64)
        for row, sample in zip(rows, samples, strict=True):
            if not re.fullmatch("[0-9]{5}", sample["key"].removeprefix(prefix)):
                raise ValueError("a key is not of this shard")
            row[0] = int(sample["key"].removeprefix(prefix))
            members = sample["members"]
            row[IMAGE], row[JSON] = members[shard.image_format], members["json"]
            row[GAZE], row[MAPS] = members.get(GAZE_MEMBER, (0, 0)), members.get(MAPS_MEMBER, (0, 0))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ShardError(f"{path}: not a shard index ({error!r:.200}); build again") from None
    if len(rows) != shard.images:
        raise ShardError(f"{path}: {len(rows)} samples, the manifest says {shard.images}; build again")
    _check_spans(rows, shard, path)
    return rows


def _bytes_of(path: Path, limit: int, what: str) -> bytes:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit:
            raise ShardError(f"{path}: no file, or larger than the {what} may be; build again")
        return path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: {error.strerror}") from None


def _check_spans(rows: np.ndarray, shard: Shard, path: str) -> None:
    """Every member lies inside the tar and has a possible size, and a sample's members lie together."""
    size_of_tar = min(shard.entry["bytes"], 1 << 62)
    kinds = ((IMAGE, shard.image_format, 1), (JSON, "json", 1), (GAZE, GAZE_MEMBER, 0), (MAPS, MAPS_MEMBER, 0))
    for columns, member, least in kinds:
        offset, size = rows[:, columns].T  # (images,) each
        # offsets are compared before anything is added to them: a sum of int64 may wrap around
        wrong = (offset < 0) | (offset > size_of_tar) | (size < least) | (size > MAX_MEMBER_BYTES[member])
        wrong |= offset + np.where(wrong, 0, size) > size_of_tar
        if wrong.any():
            key = f"{shard.name}-{int(rows[np.argmax(wrong), 0]):05d}"
            raise ShardError(
                f"{path}: the {member} member of {key} lies outside the tar or has no possible size; build again"
            )
    # (4,images,2); where a member is missing the JSON stands in for it
    members = np.stack([np.where(rows[:, c][:, 1:] > 0, rows[:, c], rows[:, JSON]) for c, *_ in kinds])
    span = members.sum(axis=2).max(axis=0) - members[..., 0].min(axis=0)  # (images,), bytes that are read at once
    if (span > rows[:, 2::2].sum(axis=1) + SAMPLE_OVERHEAD).any():
        raise ShardError(f"{path}: the members of a sample do not lie together; build again")
