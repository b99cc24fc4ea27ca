"""Records to shards: planned before anything is decoded, encoded in parallel, written in order.

    records -> validated -> contradictions set aside -> plan -> [processes: decode, shrink, encode] -> tar by tar

The plan decides every key, so the bytes depend on the records and the settings alone: not on the number of processes,
and not on which images turn out to be unreadable (they leave a gap in the numbering). The manifest is written last: a
folder that has one is complete.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import tarfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

import PIL

from cogaze import __version__
from cogaze.data.schema import GAZE_MEMBER, IMAGE_FORMATS, SCHEMA_VERSION, pack_gaze
from cogaze.data.shards import MANIFEST, QUARANTINE
from data_prep.images import ImageError, ImageFormat, encode, load_grey
from data_prep.plan import ShardPlan, consistent, meta_of, plan, set_aside, source_digests, valid
from data_prep.records import ImageRecord, Quarantine
from data_prep.stats import Totals

Progress = Callable[[int, int], None]  # (images done, images planned)

CHUNK = 16  # images a process is handed at once
OURS = re.compile(r"([a-z][a-z0-9_]*-[0-9]{6}\.(tar|index\.json)|manifest\.json|quarantine\.jsonl)(\.partial)?")


class BuildError(ValueError):
    """The build cannot be done as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Encoded:
    """One sample's members; or `fault` with nothing else."""

    members: dict[str, bytes]
    meta: dict[str, Any]
    fault: tuple[str, str] | None = None  # reason, detail


def build(
    records: Iterable[ImageRecord],
    out: Path,
    *,
    quarantine: Quarantine | None = None,
    image_size: int = 518,
    image_format: ImageFormat = "jpg",
    quality: int = 95,
    images_per_shard: int = 2048,
    jobs: int = 1,
    overwrite: bool = False,
    phantom: bool = False,
    parts: Mapping[str, bool] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `records` as a shard folder at `out` and return its manifest.

    `image_size` is the shortest side in px. `quarantine` is what the reader has set aside so far (it may still grow
    while `records` is read); what is set aside here is added to it. `parts` says which optional parts of the source
    were found. The same records and settings give the same bytes at any number of `jobs`.

    Raises BuildError: settings out of range, `out` is in use or cannot be written, nothing usable. Raises what the
    reader raises (SourceError).
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    if image_format not in IMAGE_FORMATS or not 16 <= image_size <= 4096 or not 1 <= quality <= 100:
        raise BuildError(
            f"image size {image_size} (16..4096), format {image_format} ({' or '.join(IMAGE_FORMATS)}) or quality "
            f"{quality} (1..100) is out of range"
        )
    if not 1 <= images_per_shard <= 99_999 or jobs < 1:
        raise BuildError(f"{images_per_shard} images a shard (1..99999) or {jobs} jobs (at least 1) is out of range")
    _refuse_if_in_use(out, overwrite)
    usable = consistent(valid(records, quarantine), quarantine)
    shards = plan(usable, images_per_shard)
    settings = {"image_size": image_size, "image_format": image_format, "quality": quality}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _clear(out)
        entries, totals = _write(shards, out, settings, jobs, quarantine, progress)
        lines = "".join(f"{line}\n" for line in quarantine.lines())
        _replace(out / QUARANTINE, lines.encode("utf-8", "backslashreplace"))
    except BrokenProcessPool:
        raise BuildError("a worker process died, most likely for lack of memory: try fewer --jobs") from None
    except OSError as error:
        raise BuildError(f"{error.filename or out}: {error.strerror or error}") from None
    if not entries:
        reasons = ", ".join(f"{number}x {reason}" for reason, number in quarantine.counts().most_common(4))
        raise BuildError(f"not one usable image ({reasons or 'the source is empty'}); see {out / QUARANTINE}")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "source": sorted({record.source for record in usable}),
        "phantom": phantom,
        "image_size": image_size,
        "image_format": image_format,
        "shards": entries,
        "totals": totals.as_dict(),
        "quarantined": dict(sorted(quarantine.counts().items())),
        "sources": source_digests(shards, dict(parts or {})),
        "build": {**settings, "images_per_shard": images_per_shard, "cogaze": __version__, "pillow": PIL.__version__},
    }
    try:
        _replace(out / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1).encode() + b"\n")
    except OSError as error:
        raise BuildError(f"{error.filename or out}: {error.strerror or error}") from None
    return manifest


# ------------------------------------------------------------------------------------------------ images
def encode_records(records: Sequence[ImageRecord], settings: Mapping[str, Any]) -> list[Encoded]:
    """Decode and encode some records; runs in a worker process."""
    return [_encode_one(record, settings) for record in records]


def _encode_one(record: ImageRecord, settings: Mapping[str, Any]) -> Encoded:
    try:
        grey = load_grey(record.path, settings["image_size"])
        image = encode(grey.image, settings["image_format"], settings["quality"])
    except ImageError as error:
        return Encoded({}, {}, (error.reason, error.detail))
    meta = meta_of(record, {"width": grey.width, "height": grey.height, "sha256": grey.sha256})
    members = {settings["image_format"]: image, "json": json.dumps(meta, ensure_ascii=False).encode()}
    if record.readings:
        members[GAZE_MEMBER] = pack_gaze([reading.fixations for reading in record.readings])
    return Encoded(members, meta)


def _encoded(shards: Sequence[ShardPlan], settings: Mapping[str, Any], jobs: int) -> Generator[Encoded, None, None]:
    """Every planned record encoded, in plan order. Processes work ahead by a few chunks, so memory stays small."""
    records = (record for shard in shards for record in shard.records)
    chunks = iter(lambda: list(islice(records, CHUNK)), [])
    if jobs == 1:
        for chunk in chunks:
            yield from encode_records(chunk, settings)
        return
    # Spawned, not forked: the caller may hold threads (a progress bar, torch), which a fork would copy half-way.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        ahead: deque[Future[list[Encoded]]] = deque()
        try:
            for chunk in chunks:
                ahead.append(pool.submit(encode_records, chunk, settings))
                if len(ahead) > 3 * jobs:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------------ files
def _write(
    shards: Sequence[ShardPlan],
    out: Path,
    settings: Mapping[str, Any],
    jobs: int,
    quarantine: Quarantine,
    progress: Progress | None,
) -> tuple[list[dict[str, Any]], Totals]:
    """All tars and indices; returns the manifest's entries and totals."""
    planned, done = sum(len(shard.records) for shard in shards), 0
    entries, totals = [], Totals()
    with closing(_encoded(shards, settings, jobs)) as samples:
        for shard in shards:
            kept: list[tuple[str, dict[str, Any]]] = []
            with ShardWriter(out, shard.name) as writer:
                for number, record in enumerate(shard.records):
                    sample = next(samples)
                    if sample.fault:
                        set_aside(record, *sample.fault, quarantine)
                    else:
                        key = f"{shard.name}-{number:05d}"
                        writer.write(key, sample.members)
                        totals.add(sample.meta)
                        kept.append((key, sample.meta))
                    done += 1
                    if progress:
                        progress(done, planned)
                if kept:
                    entries.append({"name": shard.name, "split": shard.split, **writer.finish(kept)})
    return entries, totals


class ShardWriter:
    """One tar with its index, under temporary names until `finish`; leaving without it removes them."""

    def __init__(self, out: Path, name: str) -> None:
        # Here, not at the top: webdataset imports torch, which the encoding processes have no use for.
        from webdataset import TarWriter

        self.name = name
        self.tar, self.index = out / f"{name}.tar", out / f"{name}.index.json"
        self.file = _HashingFile(open(f"{self.tar}.partial", "wb"))  # noqa: SIM115  closed by __exit__
        # Everything in a tar header that could differ between two builds is fixed.
        self.writer = TarWriter(self.file, encoder=False, mtime=0, user="cogaze", group="cogaze", mode=0o444)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the disk may be full: that is being said already
            self.writer.close()
        self.file.close()
        for path in (self.tar, self.index):
            Path(f"{path}.partial").unlink(missing_ok=True)

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        self.writer.write({"__key__": key, **members})

    def finish(self, samples: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        """Close the tar, write its index from what really stands in it, rename both; returns the manifest's entry."""
        self.writer.close()
        self.file.close()
        spans: dict[str, dict[str, list[int]]] = {}
        with tarfile.open(f"{self.tar}.partial", "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                spans.setdefault(key, {})[extension] = [member.offset_data, member.size]
        rows = [
            {"key": key, "study": meta["study_id"], "gaze": bool(meta["readings"]), "members": spans[key]}
            for key, meta in samples
        ]
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        head = f'{{"schema_version": {SCHEMA_VERSION}, "shard": "{self.name}", "samples": [\n'
        data = f"{head}{lines}\n]}}\n".encode()
        os.replace(f"{self.tar}.partial", self.tar)
        _replace(self.index, data)
        runs = [len(list(group)) for _, group in groupby((meta["source"], meta["study_id"]) for _, meta in samples)]
        return {
            "images": len(rows),
            "studies": len(runs),
            "bytes": self.file.size,
            "sha256": self.file.sha256.hexdigest(),
            "index_sha256": hashlib.sha256(data).hexdigest(),
            "study_runs": runs,
            "gaze": [i for i, row in enumerate(rows) if row["gaze"]],
        }


class _HashingFile:
    """A file for writing that hashes on the way, so that a tar is not read again for its sha256."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def close(self) -> None:
        self.file.close()


def _replace(path: Path, data: bytes) -> None:
    """Write a file aside, on the disk for certain, then rename it into place."""
    partial = Path(f"{path}.partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _refuse_if_in_use(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out}: is a file; --out must be a folder")
    if not out.exists():
        return
    foreign = sorted(path.name for path in out.iterdir() if not OURS.fullmatch(path.name))
    if foreign:
        raise BuildError(f"{out}: holds other files ({', '.join(foreign[:3])}); give an empty or a new folder")
    if (out / MANIFEST).exists() and not overwrite:
        raise BuildError(f"{out}: already holds a finished build; --overwrite replaces it")


def _clear(out: Path) -> None:
    """Remove an earlier build, the manifest first: from then on the folder counts as unfinished."""
    for path in sorted(out.iterdir(), key=lambda path: path.name != MANIFEST):
        path.unlink()
