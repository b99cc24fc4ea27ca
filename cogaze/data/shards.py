"""Shard folders: manifest, indices, and a sample as one positioned read.

    SHARDS/  manifest.json                          what is there: counts, hashes, study runs, gaze positions
             train-000000.tar                       a plain WebDataset tar
             train-000000.index.json                where in the tar each member of each sample lies
             quarantine.jsonl                       what was set aside when it was built, and why

A sample is addressed by its split and its position in manifest order (shard by shard, in key order); that position is
`Batch.sample_id`. Who sees which position when is the business of `cogaze.data.order`, which needs the manifest alone.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cogaze.data.order import SplitLayout
from cogaze.data.schema import (
    GAZE_MEMBER,
    IMAGE_FORMATS,
    MAX_MEMBER_BYTES,
    SCHEMA_VERSION,
    ShardError,
    manifest_digest,
    parse_json,
    unpack_gaze,
    validate_meta,
)

__all__ = ["SCHEMA_VERSION", "RawSample", "ShardError", "ShardSet", "manifest_digest", "validate_meta"]

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
SHARD_NAME = re.compile(r"[a-z][a-z0-9_]*-[0-9]{6}")
SAMPLE_OVERHEAD = 16 << 10  # bytes of tar headers and padding between the three members of one sample
MAX_OPEN_FILES = 256  # a process; the full MIMIC-CXR has fewer shards than this, so nothing is ever opened twice


@dataclass
class RawSample:
    """One sample as it lies in the shard: the image still encoded, the texts still text."""

    key: str  # "{split}-{shard:06d}-{number:05d}"
    shard: str  # "{split}-{shard:06d}"
    index: int  # row in the shard's index, without the gaps of quarantined images
    image: bytes  # a JPEG or PNG file, 8-bit grey
    meta: dict[str, Any]  # schema.Meta
    gaze: dict[int, np.ndarray]  # reading number -> float32 (F,6), schema.FIXATION_COLUMNS; empty without gaze


@dataclass(frozen=True)
class Shard:
    """One tar of one folder, and the manifest's entry for it."""

    folder: Path
    entry: dict[str, Any]
    image_format: str

    @cached_property
    def name(self) -> str:
        return str(self.entry["name"])

    @property
    def images(self) -> int:
        return int(self.entry["images"])

    @cached_property
    def tar(self) -> Path:
        return self.folder / f"{self.name}.tar"

    @cached_property
    def index(self) -> Path:
        return self.folder / f"{self.name}.index.json"


class ShardSet:
    """Several shard folders read as one data set. Cheap to open; made for many reading processes.

    Fork-safe because `os.pread` leaves no file position to share; pickling leaves open files and loaded indices behind.
    One object is for one thread.
    """

    def __init__(self, folders: Sequence[Path], manifests: Sequence[dict[str, Any]]) -> None:
        self.folders = tuple(folders)
        self.manifests = tuple(manifests)
        self._shards: dict[str, list[Shard]] = {}
        for folder, manifest in zip(folders, manifests, strict=True):
            for entry in manifest["shards"]:
                self._shards.setdefault(entry["split"], []).append(Shard(folder, entry, manifest["image_format"]))
        self._starts = {
            split: [0, *np.cumsum([shard.images for shard in shards]).tolist()]
            for split, shards in self._shards.items()
        }
        self._indices: dict[Path, np.ndarray] = {}
        self._files: OrderedDict[Path, int] = OrderedDict()

    @classmethod
    def open(cls, folders: Sequence[Path | str] | Path | str) -> ShardSet:
        """Open shard folders written by `cogaze data build`; their samples follow one another in this order.

        Reads the manifests and looks at the size of every file, nothing more. Raises ShardError: no folder, no or an
        unreadable manifest, another schema version, a missing file, a tar of another size, the same data twice.
        """
        paths = [Path(f) for f in ([folders] if isinstance(folders, (str, Path)) else folders)]
        if not paths:
            raise ShardError("no shard folder given: set data.shards, or build one with `cogaze data build`")
        manifests = [read_manifest(path) for path in paths]
        digests = [manifest_digest(manifest) for manifest in manifests]
        for i, digest in enumerate(digests):
            if digest in digests[:i]:
                raise ShardError(f"{paths[i]}: holds the same shards as {paths[digests.index(digest)]}; give it once")
        shards = cls(paths, manifests)
        for shard in (shard for group in shards._shards.values() for shard in group):
            shards._look_at(shard)
        return shards

    # -------------------------------------------------------------------------------------------- what is there
    @cached_property
    def digest(self) -> str:
        """sha256 (hex) that stands for every byte of the data; of several folders, in their order."""
        digests = [manifest_digest(manifest) for manifest in self.manifests]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._shards)

    @property
    def is_phantom(self) -> bool:
        """Every folder was built from phantom data, so its texts may be shown."""
        return all(manifest.get("phantom") is True for manifest in self.manifests)

    def size(self, split: str) -> int:
        """Number of samples. Raises ShardError for a split that is not there."""
        self._shards_of(split)
        return int(self._starts[split][-1])

    def layout(self, split: str) -> SplitLayout:
        """What the order needs to know: study run lengths, gaze flags, images a shard; all in position order."""
        shards = self._shards_of(split)
        gaze = np.zeros(self.size(split), dtype=bool)
        for start, shard in zip(self._starts[split], shards, strict=False):
            gaze[start + np.asarray(shard.entry["gaze"], dtype=np.int64)] = True
        runs = [np.asarray(shard.entry["study_runs"], dtype=np.int64) for shard in shards]
        return SplitLayout(
            study_runs=np.concatenate(runs),
            gaze=gaze,
            shard_images=np.array([shard.images for shard in shards], dtype=np.int64),
        )

    def label_counts(self, split: str) -> dict[str, dict[str, int]]:
        """Per observation the images that are positive, negative, uncertain, blank and unknown, over all folders."""
        self._shards_of(split)
        counts: dict[str, dict[str, int]] = {}
        for manifest in self.manifests:
            for name, row in manifest["totals"]["by_split"].get(split, {}).get("labels", {}).items():
                total = counts.setdefault(name, dict.fromkeys(row, 0))
                for kind, number in row.items():
                    total[kind] = total.get(kind, 0) + number
        return counts

    # -------------------------------------------------------------------------------------------- reading
    def read(self, split: str, position: int) -> RawSample:
        """The sample at `position` (0..size-1), in one positioned read.

        Raises IndexError outside the split, ShardError when index or sample are damaged.
        """
        shard, row = self._locate(split, position)
        number, *spans = self._index(shard)[row].tolist()
        members = list(zip(spans[::2], spans[1::2], strict=True))  # offset, size of image, JSON, gaze (0, 0 = none)
        first = min(offset for offset, size in members if size)
        block = self._read(shard, first, max(offset + size for offset, size in members) - first)
        image, text, npz = (block[o - first : o - first + n] if n else b"" for o, n in members)
        key = f"{shard.name}-{number:05d}"
        try:
            meta = parse_json(text)
            gaze = unpack_gaze(npz) if npz else {}
        except ValueError as error:
            raise ShardError(f"{shard.tar}, sample {key}: {error}; run `cogaze data check`") from None
        return RawSample(key, shard.name, row, image, meta, gaze)

    def read_meta(self, split: str, position: int) -> dict[str, Any]:
        """The JSON alone of the sample at `position`: for texts and statistics. Raises as `read`."""
        shard, row = self._locate(split, position)
        offset, size = self._index(shard)[row, JSON].tolist()
        try:
            meta: dict[str, Any] = parse_json(self._read(shard, offset, size))
        except ValueError as error:
            raise ShardError(f"{shard.tar}, sample in row {row}: {error}; run `cogaze data check`") from None
        return meta

    def close(self) -> None:
        """Close the files this process has open; the next read opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict(), "_indices": {}}

    # -------------------------------------------------------------------------------------------- inside
    def _shards_of(self, split: str) -> list[Shard]:
        if split not in self._shards:
            raise ShardError(
                f"there is no split {split!r} in {', '.join(map(str, self.folders))}; "
                f"there are: {', '.join(self._shards) or 'none'}"
            )
        return self._shards[split]

    def _locate(self, split: str, position: int) -> tuple[Shard, int]:
        shards, starts = self._shards_of(split), self._starts[split]
        if not 0 <= position < starts[-1]:
            raise IndexError(f"position {position} is outside 0..{starts[-1] - 1} of split {split}")
        number = bisect.bisect_right(starts, position) - 1
        return shards[number], int(position) - starts[number]

    def _look_at(self, shard: Shard) -> None:
        try:
            size = shard.tar.stat().st_size
            shard.index.stat()
        except OSError as error:
            raise ShardError(f"{error.filename}: {error.strerror}, but the manifest names it; build again") from None
        if size != shard.entry["bytes"]:
            raise ShardError(
                f"{shard.tar}: {size} bytes, the manifest says {shard.entry['bytes']}; copy or build again"
            )

    def _index(self, shard: Shard) -> np.ndarray:
        path = shard.index
        if path not in self._indices:
            self._indices[path] = read_index(shard)
        return self._indices[path]

    def _read(self, shard: Shard, offset: int, size: int) -> bytes:
        path = shard.tar
        file = self._files.get(path)
        try:
            if file is None:
                file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                self._files[path] = file
                if len(self._files) > MAX_OPEN_FILES:
                    os.close(self._files.popitem(last=False)[1])
            else:
                self._files.move_to_end(path)
            data = os.pread(file, size, offset)
            while len(data) < size:  # a signal or a network file system may return less than was asked for
                more = os.pread(file, size - len(data), offset + len(data))
                if not more:
                    raise ShardError(f"{path}: ends before byte {offset + size}; run `cogaze data check`")
                data += more
        except OSError as error:
            raise ShardError(f"{path}: {error.strerror}") from None
        return data


# ------------------------------------------------------------------------------------------------ files
def read_manifest(folder: Path) -> dict[str, Any]:
    """The parsed manifest of a shard folder. Raises ShardError when there is none or it is not of this schema."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder; `cogaze data build` writes shard folders")
    try:
        manifest = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ShardError(
            f"{folder}: has no {MANIFEST}, so it is no shard folder or its build did not finish; "
            "run `cogaze data build` again"
        ) from None
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be read ({error}); build again") from None
    fault = _manifest_fault(manifest)
    if fault:
        raise ShardError(f"{path}: {fault}")
    return dict(manifest)


def _manifest_fault(manifest: Any) -> str | None:
    if not isinstance(manifest, dict):
        return "is not a JSON object"
    if manifest.get("schema_version") != SCHEMA_VERSION:
        return (
            f"schema version {manifest.get('schema_version')!r}, this cogaze reads {SCHEMA_VERSION}; "
            "build again with this version"
        )
    if manifest.get("image_format") not in IMAGE_FORMATS or not isinstance(manifest.get("image_size"), int):
        return "image_format or image_size is missing or wrong"
    entries, totals = manifest.get("shards"), manifest.get("totals")
    if not isinstance(entries, list) or not isinstance(totals, dict) or not isinstance(totals.get("by_split"), dict):
        return "shards or totals are missing"
    names = set()
    for entry in entries:
        kinds = {"name": str, "split": str, "images": int, "bytes": int, "sha256": str, "index_sha256": str}
        if not isinstance(entry, dict) or any(not isinstance(entry.get(key), kind) for key, kind in kinds.items()):
            return f"a shard's entry lacks one of {', '.join(kinds)}"
        name = entry["name"]
        # A name becomes a path: only ours, never one that leaves the folder.
        if not SHARD_NAME.fullmatch(name) or name.rsplit("-", 1)[0] != entry["split"] or name in names:
            return f"shard name {name!r} is not {{split}}-{{000000}}, or stands twice"
        names.add(name)
        runs, gaze = entry.get("study_runs"), entry.get("gaze")
        if not _integers(runs, 1, entry["images"]) or sum(runs) != entry["images"]:  # type: ignore[arg-type]
            return f"study_runs of {name} do not add up to its {entry['images']} images"
        if not _integers(gaze, 0, entry["images"] - 1):
            return f"gaze positions of {name} are not inside its {entry['images']} images"
    return None


def _integers(values: Any, low: int, high: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and low <= value <= high for value in values)


# Columns of a loaded index: the number in the key, then offset and size in bytes of each member.
IMAGE, JSON, GAZE = slice(1, 3), slice(3, 5), slice(5, 7)


def read_index(shard: Shard) -> np.ndarray:
    """A shard's index as a compact array, int64 (images,7): number, then offset and size of image, JSON and gaze.

    Without gaze its offset and size are 0.

    Raises ShardError when the file is not the one the manifest names, or points outside its tar.
    """
    path = shard.index
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != shard.entry["index_sha256"]:
        raise ShardError(f"{path}: is not the file the manifest names (sha256 differs); copy or build again")
    try:
        samples = parse_json(data)["samples"]
        rows = np.zeros((len(samples), 7), dtype=np.int64)
        for row, sample in zip(rows, samples, strict=True):
            row[0] = int(sample["key"].removeprefix(f"{shard.name}-"))
            row[IMAGE] = sample["members"][shard.image_format]
            row[JSON] = sample["members"]["json"]
            row[GAZE] = sample["members"].get(GAZE_MEMBER, (0, 0))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ShardError(f"{path}: not a shard index ({error!r}); build again") from None
    for columns, member, least in ((IMAGE, shard.image_format, 1), (JSON, "json", 1), (GAZE, GAZE_MEMBER, 0)):
        offset, size = rows[:, columns].T  # (images,) each
        wrong = (offset < 0) | (size < least) | (size > MAX_MEMBER_BYTES[member])
        if (wrong | (offset + size > shard.entry["bytes"])).any():
            raise ShardError(f"{path}: a {member} member lies outside the tar or has no possible size; build again")
    # (3,images,2); where there is no gaze the JSON stands in for it
    members = np.stack([rows[:, IMAGE], rows[:, JSON], np.where(rows[:, 6:] > 0, rows[:, GAZE], rows[:, JSON])])
    span = members.sum(axis=2).max(axis=0) - members[..., 0].min(axis=0)  # (images,), bytes that `read` takes at once
    if (span > members[..., 1].sum(axis=0) + SAMPLE_OVERHEAD).any():
        raise ShardError(f"{path}: the members of a sample do not lie together; build again")
    if len(rows) != shard.images:
        raise ShardError(f"{path}: {len(rows)} samples, the manifest says {shard.images}; build again")
    return rows
