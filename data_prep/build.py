"""Records to shards: planned before anything is decoded, encoded in parallel, written in order, resumable.

    records -> valid -> spool on disk -> plan -> [processes: decode, shrink, encode] -> shard by shard -> manifest

The plan decides every key, so the bytes depend on the records and the settings alone: not on the number of processes,
not on what was interrupted, and not on which images turn out to be unreadable (they leave a gap in the numbering).
Memory does not grow with the records. A shard is there under its name when it is whole; the manifest is written last,
so a folder that has one is complete. `data_prep/shards/ledger.py` says what is remembered in between.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import PIL

from cogaze import __version__
from cogaze.data.schema import IMAGE_FORMATS, SCHEMA_VERSION, parse_json
from data_prep.heatmap_files import Aside, add_maps
from data_prep.images import GREY_MAPPINGS, MORE_PAGES, GreyMapping, ImageError, ImageFormat, encode, load_grey
from data_prep.processes import pool
from data_prep.records import ImageRecord, Quarantine
from data_prep.shards.changes import Changed, file_mark, files_changed
from data_prep.shards.ledger import (
    WORK,
    BuildError,
    Ledger,
    clear,
    finish,
    finished_manifest,
    record_finished,
    refuse_if_in_use,
    write_header,
)
from data_prep.shards.plan import (
    UNSEEN,
    PlanError,
    ShardPlan,
    as_json,
    image_digests,
    plan,
    report_aside,
    set_contradictions_aside,
    source_digests,
    spool_records,
)
from data_prep.shards.pseudonyms import hashed_checksum, hashed_records, hashed_rows
from data_prep.shards.spool import Spool, Spooled
from data_prep.shards.writer import BusyError, ShardWriter
from data_prep.sizes import OTHER_SHAPE, OTHER_SIZE, hold_to
from data_prep.stats import Totals

__all__ = ["BuildError", "Changed", "ShardWriter", "build", "finish"]

Progress = Callable[[int, int], None]  # (images done, images planned)

CHUNK = 16  # images a process is handed at once
KEPT = (OTHER_SIZE, OTHER_SHAPE, MORE_PAGES)  # told of images that are kept


@dataclass(frozen=True)
class Encoded:
    """One sample: its JSON, and its members; or a `fault` and no members."""

    meta: dict[str, Any]
    members: dict[str, bytes]
    fault: tuple[str, str] | None = None  # reason, detail
    mark: str | None = None  # of the file, see data_prep.shards.changes
    aside: tuple[Aside, ...] = ()  # what of its heat maps cannot be used, and what its table says wrongly


def build(
    records: Iterable[ImageRecord],
    out: Path,
    *,
    quarantine: Quarantine | None = None,
    image_size: int = 518,
    image_format: ImageFormat = "jpg",
    quality: int = 95,
    dicom_grey: GreyMapping = "window",
    images_per_shard: int = 2048,
    jobs: int = 1,
    overwrite: bool = False,
    phantom: bool = False,
    parts: Mapping[str, bool] | None = None,
    salt: bytes | None = None,
    part: tuple[int, int] = (1, 1),
    made_with: Mapping[str, Mapping[str, Any]] | None = None,
    changed: Changed | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `records` as a shard folder at `out` and return its manifest.

    `image_size` is the shortest side in px, `dicom_grey` how DICOM pixels become grey (data_prep/dicom/pixels.py).
    `quarantine` is what the reader sets aside (it may still grow while `records` is read). `parts` says which optional
    parts of the source were found. With `salt` (pseudonyms.read_salt) no id of the source gets into the folder. The
    same records and settings give the same bytes at any number of `jobs`. `made_with` says for the manifest by what
    options and from what paths the records were read: {"options", "paths"}.

    Where `out` holds the beginning of the same build, its finished shards are kept. Where it holds a finished build and
    the source has grown, the shards that are there keep their bytes and new studies get new ones (`plan`); `overwrite`
    starts from nothing instead. `changed` is told what image files are others now than those shards were made of; in an
    unfinished build their shards are made again.

    With `part` (i, n), n > 1, only every n-th shard of the plan, from the i-th, is made and no manifest is written;
    `finish(out)` writes it once all parts are done. Returns {"shards", "images", "kept"} of this part then.

    Raises BuildError: settings out of range, `out` is in use, cannot be written or holds shards that the source does
    not fit any more, nothing usable. Raises what the reader raises (SourceError).
    """
    quarantine = Quarantine() if quarantine is None else quarantine
    settings = {
        "image_size": image_size,
        "image_format": image_format,
        "quality": quality,
        "dicom_grey": dicom_grey,
        "images_per_shard": images_per_shard,
    }
    _check_settings(settings, jobs, part, overwrite)
    with _speaking_of(out):
        refuse_if_in_use(out)
        before = None if overwrite else finished_manifest(out)
        if before is not None:
            _refuse_other_settings(out, before, settings, (made_with or {}).get("options", {}), salt)
    with _speaking_of(out), _work_folder(out), Spool(out / WORK) as spool:
        aside = Quarantine()
        spool_records(records if salt is None else hashed_records(records, salt), spool, aside)
        set_contradictions_aside(spool)
        shards = plan(spool, images_per_shard, Ledger(out).earlier(before) if before is not None else ())
        report_aside(spool, aside)
        sources = source_digests(spool, parts or {})
        if overwrite and (out / "manifest.json").exists():
            clear(out)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "source": [source["name"] for source in sources],
            "phantom": phantom,
            "image_size": image_size,
            "image_format": image_format,
            "ids": "source" if salt is None else "hashed",
            "sources": sources,
            "read": dict(sorted(quarantine.noted.items())),
            "build": {**settings, **(made_with or {})},
        }
        digests = {shard.name: shard.digest({**settings, "ids": manifest["ids"]}) for shard in shards}
        header = {
            "manifest": manifest,
            "shards": [{"name": s.name, "images": len(s.rows), "digest": digests[s.name]} for s in shards],
            "quarantine": [
                *(quarantine.placed() if salt is None else hashed_rows(quarantine.placed(), salt)),
                *aside.rows,
            ],
        }
        write_header(out, header, shared=part[1] > 1)
        mine = shards[part[0] - 1 :: part[1]]
        ledger = Ledger(out)
        todo = []
        for shard in mine:
            line = ledger.line(shard.name, digests[shard.name])
            found = Changed() if line is None else files_changed(shard, line, spool, out, settings, salt)
            if line is None or (found.files and not ledger.stands(shard.name, before)):
                todo.append(shard)
            elif changed is not None:
                changed.add(found)
        images, kept = (sum(len(shard.rows) for shard in group) for group in (mine, todo))
        kept = images - kept
        _write(todo, spool, out, settings, digests, salt, jobs, lambda n: progress and progress(kept + n, images))
        if part[1] > 1:
            return {"shards": len(mine), "images": images, "kept": kept}
        return finish(out)


def _check_settings(settings: Mapping[str, Any], jobs: int, part: tuple[int, int], overwrite: bool) -> None:
    size, kind, quality, dicom_grey, images_per_shard = settings.values()
    if kind not in IMAGE_FORMATS or not 16 <= size <= 4096 or not 1 <= quality <= 100:
        raise BuildError(
            f"image size {size} (16..4096), format {kind} ({' or '.join(IMAGE_FORMATS)}) or quality "
            f"{quality} (1..100) is out of range"
        )
    if dicom_grey not in GREY_MAPPINGS:
        raise BuildError(f"the DICOM grey mapping {dicom_grey!r} is not one of {', '.join(GREY_MAPPINGS)}")
    if not 1 <= images_per_shard <= 99_999 or jobs < 1:
        raise BuildError(f"{images_per_shard} images a shard (1..99999) or {jobs} jobs (at least 1) is out of range")
    if not 1 <= part[0] <= part[1]:
        raise BuildError(f"part {part[0]} of {part[1]} is out of range: the first is 1/{part[1]}")
    if overwrite and part[1] > 1:
        raise BuildError("--overwrite and --part: the parts would remove each other's shards; remove the folder first")


def _refuse_other_settings(
    out: Path,
    manifest: Mapping[str, Any],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    salt: bytes | None,
) -> None:
    """`options` of the reader are held to those recorded; what an older build did not record is not known."""
    ids = "source" if salt is None else "hashed"
    recorded = manifest["build"].get("options", {})
    then = {**recorded, **manifest["build"], "ids": manifest.get("ids", "source")}
    now = {**{name: value for name, value in options.items() if name in recorded}, **settings, "ids": ids}
    other = [
        f"{name} {_told(then.get(name))}, now {_told(now[name])}"
        for name in now
        if _compared(then.get(name)) != _compared(now[name])
    ]
    if other:
        raise BuildError(
            f"{out}: already holds a finished build with other settings ({'; '.join(other)}); --overwrite replaces it"
        )


def _compared(value: Any) -> Any:
    """Of a file that was given, its content; it may have another name or place now."""
    return value.get("sha256", value) if isinstance(value, Mapping) else value


def _told(value: Any) -> Any:
    return f"{value.get('name', 'file')} ({value.get('sha256', '')[:12]})" if isinstance(value, Mapping) else value


@contextmanager
def _work_folder(out: Path) -> Iterator[None]:
    """The folder, with a place for what is at work; both go again where nothing was left in them."""
    made = [path for path in (out, *out.parents) if not path.exists()]
    (out / WORK).mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in (out / WORK, *made):
            with suppress(OSError):  # not empty
                path.rmdir()


@contextmanager
def _speaking_of(out: Path) -> Iterator[None]:
    """Failures of disk, scratch file and processes as BuildError: what is finished stays, so the message says so."""
    try:
        yield
    except BrokenProcessPool:
        raise BuildError(
            "a worker process died, most likely for lack of memory: try fewer --jobs; finished shards are kept"
        ) from None
    except BusyError as error:
        raise BuildError(f"{error.filename}: {error.strerror}; wait for it, or end it first") from None
    except PlanError as error:
        raise BuildError(f"{out}: {error}") from None
    except sqlite3.Error as error:
        raise BuildError(f"{out / WORK}: the scratch file cannot be written ({error}); is the disk full?") from None
    except OSError as error:
        raise BuildError(f"{error.filename or out}: {error.strerror or error}; finished shards are kept") from None


# ------------------------------------------------------------------------------------------------ images
def encode_all(jobs: Sequence[Spooled], settings: Mapping[str, Any], salt: bytes | None) -> list[Encoded]:
    """Decode and encode some images; runs in a worker process."""
    return [_encode_one(job, settings, salt) for job in jobs]


def _encode_one(job: Spooled, settings: Mapping[str, Any], salt: bytes | None) -> Encoded:
    meta = parse_json(job.meta)
    try:
        grey = load_grey(job.path, settings["image_size"], settings["dicom_grey"])
        image = encode(grey.image, settings["image_format"], settings["quality"])
    except ImageError as error:
        return Encoded(meta, {}, (error.reason, error.detail if salt is None else ""))
    table = meta["original"]["width"], meta["original"]["height"]
    stated = None if table == (UNSEEN["width"], UNSEEN["height"]) else table
    meta, rest, heatmaps, differing = hold_to(stated, (grey.width, grey.height), meta, job.members, job.heatmaps)
    sha256 = grey.sha256 if salt is None else hashed_checksum(grey.sha256, salt)
    meta["original"] |= {"width": grey.width, "height": grey.height, "sha256": sha256}
    meta, members, aside = add_maps(meta, rest, heatmaps, grey.image.size, (grey.width, grey.height))
    if salt is not None:  # a detail may quote the source, a file name for one
        aside = [(name, reason, "") for name, reason, _ in aside]
    aside = [*aside, *differing, *([(meta["image_id"], MORE_PAGES, "")] if grey.more_pages else [])]
    mark = file_mark(grey.file_size, grey.sha256, salt)
    members = {settings["image_format"]: image, "json": as_json(meta), **members}
    return Encoded(meta, members, aside=tuple(aside), mark=mark)


def _encoded(
    jobs: Iterator[Spooled], settings: Mapping[str, Any], salt: bytes | None, processes: int
) -> Generator[Encoded, None, None]:
    """All of them encoded, in order. Processes work ahead by a few chunks, so memory stays small."""
    chunks = iter(lambda: list(islice(jobs, CHUNK)), [])
    if processes == 1:
        for chunk in chunks:
            yield from encode_all(chunk, settings, salt)
        return
    with pool(processes) as executor:
        ahead: deque[Future[list[Encoded]]] = deque()
        try:
            for chunk in chunks:
                ahead.append(executor.submit(encode_all, chunk, settings, salt))
                if len(ahead) > 3 * processes:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------------ shards
def _write(
    shards: Sequence[ShardPlan],
    spool: Spool,
    out: Path,
    settings: Mapping[str, Any],
    digests: Mapping[str, str],
    salt: bytes | None,
    jobs: int,
    progress: Callable[[int], Any],
) -> None:
    """Make these shards one after another; each is noted as finished when its two files are there."""
    done = 0
    progress(done)
    images = (job for shard in shards for job in spool.read(shard.rows))
    with closing(_encoded(images, settings, salt, jobs)) as samples:
        for shard in shards:
            totals, aside, entry = Totals(), Quarantine(), None
            kept: list[tuple[str, dict[str, Any]]] = []
            marks: list[str | None] = []
            with ShardWriter(out, shard.name) as writer:
                for number, sample in zip(range(len(shard.rows)), samples, strict=False):
                    marks.append(sample.mark)
                    if sample.fault:
                        reason, detail = sample.fault
                        name, path = sample.meta["image_id"], sample.meta["original"]["path"]
                        aside.add(sample.meta["source"], reason, id=name, path=path, detail=detail)
                    else:
                        for name, reason, detail in sample.aside:
                            aside.add(sample.meta["source"], reason, id=name, detail=detail, kept=reason in KEPT)
                        key = f"{shard.name}-{number:05d}"
                        writer.write(key, sample.members)
                        totals.add(sample.meta)
                        kept.append((key, sample.meta))
                    done += 1
                    progress(done)
                if kept:
                    entry = writer.finish(kept)
            line = {
                "name": shard.name,
                "split": shard.split,
                "digest": digests[shard.name],
                "made_by": {"cogaze": __version__, "pillow": PIL.__version__},
                "entry": entry,
                "totals": totals.state(),
                "quarantine": aside.rows,
                "images": image_digests(spool, shard),
                "files": marks,
            }
            record_finished(out, line)
