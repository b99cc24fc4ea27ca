"""Where the images to embed come from: a folder of files, a table that names them, or a split of a shard folder.

Each becomes a `Source`: so many rows in a fixed order, read one at a time from any thread.
"""

from __future__ import annotations

import copy
import csv
import gzip
import hashlib
import io
import json
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..data.remote import as_url
from ..data.schema import canonical_json
from ..data.shards import MANIFEST, ShardSet
from ..data.text import context_texts, report_text
from ..model.processing import Context, image_files

COLUMNS = ("image", "id", "view", "indication", "history", "text")
TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")
BLANK = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>"})
MALFORMED = "malformed row"


class SourceError(ValueError):
    """A source that cannot be used as a whole; the message says what to do."""


class RowError(ValueError):
    """One row that cannot be used: `reason` is a short fixed phrase, `detail` the particulars (may name the row)."""

    def __init__(self, reason: str, detail: str = "", row_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.row_id = reason, detail, row_id


class Row(NamedTuple):
    """One image as its source has it."""

    id: str
    image: Path | bytes  # a file, or what is in one
    view: str | None = None
    context: Context | None = None
    text: str | None = None
    key: str | None = None  # of a shard sample


@dataclass(frozen=True)
class Source:
    """`size` rows in a fixed order; `read(i)` gives one, from any thread, or raises RowError."""

    kind: str  # folder | table | shards
    size: int
    read: Callable[[int], Row]
    digest: str  # of what the source lists; equal on all ranks
    stamps: Callable[[], str]  # digest of the listed image files' sizes and times; slow, asked for once
    has_text: bool
    has_key: bool = False


def open_source(
    path: Path,
    *,
    split: str | None = None,
    root: Path | None = None,
    columns: Mapping[str, str] | None = None,
    sections: Sequence[str] = ("findings", "impression"),
) -> Source:
    """The source at `path`, of the kind that lies there; what lies at a URL is a shard folder.

    split: of a shard folder. root: what the image paths of a table are relative to (default: the table's folder).
    columns: the table's names of COLUMNS, where they differ. sections: the first one a shard sample has is its text.
    Raises SourceError: nothing there, nothing in it, an option of another kind of source, a missing column.
    """
    url = as_url(path)
    if url or path.is_dir():
        if root is not None or columns:
            raise SourceError(f"{url or path} is a folder; --root and --columns belong to a table")
        if url or (path / MANIFEST).is_file():
            return shard_source(path, split, sections)
        if split is not None:
            raise SourceError(f"{path} holds no {MANIFEST}, so it is no shard folder; --split belongs to one")
        return folder_source(path)
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder")
    if split is not None:
        raise SourceError(f"{path} is a table; --split belongs to a shard folder")
    return table_source(path, root or path.parent, columns or {})


# ------------------------------------------------------------------------------------------------ folder
def folder_source(folder: Path) -> Source:
    """Every image file in the folder and below it, sorted by path; the id is the path inside the folder."""
    try:
        files = image_files(folder)
    except ValueError as error:
        raise SourceError(str(error)) from None
    names = [_encodable(path.relative_to(folder).as_posix()) for path in files]
    return Source(
        kind="folder",
        size=len(files),
        read=lambda i: Row(names[i], files[i]),
        digest=_digest(["folder", names]),
        stamps=lambda: _digest([_stamp(path) for path in files]),
        has_text=False,
    )


# ------------------------------------------------------------------------------------------------ shards
def shard_source(folder: Path, split: str | None, sections: Sequence[str]) -> Source:
    """One split of a shard folder, in manifest order, with its views, contexts and reports."""
    shards = ShardSet.open(folder)
    if split is None and len(shards.splits) == 1:
        split = shards.splits[0]
    if split is None or split not in shards.splits:
        raise SourceError(f"{folder}: give --split, one of {', '.join(shards.splits)}")
    asked = split
    own = threading.local()  # a ShardSet is for one thread

    def read(i: int) -> Row:
        if not hasattr(own, "shards"):
            own.shards = copy.copy(shards)
        raw = own.shards.read(asked, i)
        try:
            context, text = context_texts(raw.meta), report_text(raw.meta, sections)
            return Row(raw.meta["image_id"], raw.image, raw.meta["view"], context, text, raw.key)
        except (KeyError, TypeError, AttributeError):
            raise RowError("not a sample of this schema", "run `cogaze data check`", raw.key) from None

    return Source(
        kind="shards",
        size=shards.size(split),
        read=read,
        digest=_digest(["shards", shards.digest, split, list(sections)]),
        stamps=lambda: "",  # the manifest stands for every byte
        has_text=True,
        has_key=True,
    )


# ------------------------------------------------------------------------------------------------ table
def table_source(path: Path, root: Path, columns: Mapping[str, str]) -> Source:
    """The rows of a CSV, TSV, JSONL or parquet table; the id is the column `id`, else the image path as written."""
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise SourceError(f"--columns: {unknown[0]} is none of {', '.join(COLUMNS)}")
    suffix = next((suffix for suffix in TABLES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise SourceError(f"{path}: is neither a folder nor a table; tables are {' '.join(TABLES)}")
    if not root.is_dir():
        raise SourceError(f"--root {root}: no such folder")
    try:
        data = path.read_bytes()
        opened = gzip.decompress(data) if suffix.endswith(".gz") else data
        if suffix == ".parquet":
            found, rows = _parquet(opened)
        elif suffix.startswith(".jsonl"):
            found, rows = _jsonl(opened)
        else:
            found, rows = _csv(opened, "\t" if suffix.startswith(".tsv") else ",")
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from None
    names = _named_columns(path, found, columns)
    read = [_table_row(line, row, names, root) for line, row in rows]
    if not read:
        raise SourceError(f"{path}: the table has no row")

    def row(i: int) -> Row:
        one = read[i]
        if isinstance(one, RowError):
            raise one
        return one

    return Source(
        kind="table",
        size=len(read),
        read=row,
        digest=_digest(["table", hashlib.sha256(data).hexdigest(), sorted(names.items())]),
        stamps=lambda: _digest([_stamp(one.image) for one in read if isinstance(one, Row)]),
        has_text="text" in names,
    )


Cells = Mapping[str, Any] | str  # a row's values by column, or what is wrong with the row


def _csv(data: bytes, separator: str) -> tuple[list[str], Iterator[tuple[str, Cells]]]:
    lines = io.StringIO(data.decode("utf-8-sig", "replace").replace("\0", ""), newline="")
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise OSError(str(error)) from None

    def rows() -> Iterator[tuple[str, Cells]]:
        while True:
            place = f"line {reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # a stray quote that swallows the file stops at the field size limit
                yield place, str(error)
                continue
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
                yield place, f"{len(cells)} fields, the header has {len(header)}"
            else:
                yield place, dict(zip(header, cells, strict=False))

    return header, rows()


def _jsonl(data: bytes) -> tuple[list[str], Iterator[tuple[str, Cells]]]:
    parsed: list[tuple[str, Cells]] = []
    names: dict[str, None] = {}
    for number, line in enumerate(data.decode("utf-8-sig", "replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            names |= dict.fromkeys(row)
        parsed.append((f"line {number}", row if isinstance(row, dict) else "no JSON object"))
    return list(names), iter(parsed)


def _parquet(data: bytes) -> tuple[list[str], Iterator[tuple[str, Cells]]]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        fields = [field.name for field in file.schema_arrow if not field.type.num_fields]  # no lists, no structs
        rows: list[Cells] = file.read(columns=fields).to_pylist()
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from None
    return list(file.schema_arrow.names), ((f"row {number}", row) for number, row in enumerate(rows))


def _named_columns(path: Path, found: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Our name -> the table's, for what the table has; matched exactly, else without regard to case."""
    folded = {name.strip().lower(): name for name in reversed(found)}
    twice = next((name for name in found if name and found.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"{path}: the column {twice!r} stands in the header twice")
    names = {}
    for ours in COLUMNS:
        wanted = columns.get(ours, ours)
        name = wanted if wanted in found else folded.get(wanted.strip().lower())
        if name is not None:
            names[ours] = name
        elif ours in columns or ours == "image":
            there = ", ".join(found) or "none"
            raise SourceError(f"{path}: no column {wanted!r} for the {ours} (--columns {ours}=NAME); columns: {there}")
    return names


def _table_row(place: str, cells: Cells, names: Mapping[str, str], root: Path) -> Row | RowError:
    if isinstance(cells, str):
        return RowError(MALFORMED, f"{place}: {cells}")
    values = {ours: _cell(cells.get(name)) for ours, name in names.items()}
    image = values["image"]
    if image is None:
        return RowError("no image path", place, values.get("id"))
    context = (values.get("indication"), values.get("history"))
    return Row(
        id=values.get("id") or image,
        image=root / image,
        view=values.get("view"),
        context=context if any(context) else None,
        text=values.get("text"),
    )


def _cell(value: Any) -> str | None:
    """A cell as stripped text, None where it is blank; 59999901.0 is an id that went through floating point."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = _encodable(str(value)).strip()
    return None if text.lower() in BLANK else text


# ------------------------------------------------------------------------------------------------ helpers
def _encodable(text: str) -> str:
    """With a replacement for what UTF-8 does not have: odd bytes in file names, lone surrogates."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _stamp(image: Path | bytes) -> list[int] | None:
    """Size and time of an image file, None where there is none."""
    try:
        found = os.stat(image)
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns]
