"""Reading the tables of public data sets: csv or csv.gz, as they are found in the wild.

Headers are matched without regard to case and outer blanks; a byte-order mark, CRLF, NUL bytes, embedded newlines and
extra columns (`Unnamed: 0`) do no harm. Values come out as stripped text, so ids keep what they are; `clean_id` takes
back the ".0" that a detour through floating point adds. What is wrong with the table as a whole raises SourceError;
a single bad row goes to the quarantine with file and line.
"""

from __future__ import annotations

import csv
import errno
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Generic, NamedTuple, TextIO, TypeVar

from data_prep.records import Quarantine, SourceError

T = TypeVar("T")

BLANK = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>"})
MALFORMED = "malformed row"
MAX_ID_BYTES = 200  # of UTF-8; the name of a file may have 255


def find_table(folder: Path, stem: str) -> Path | None:
    """`folder/stem.csv` or `folder/stem.csv.gz`, the unpacked one first; None when neither is a file."""
    for name in (f"{stem}.csv", f"{stem}.csv.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def require_table(folder: Path, stem: str, remedy: str) -> Path:
    """As find_table, but raises SourceError with what was looked for and the remedy."""
    path = find_table(folder, stem)
    if path is None:
        raise SourceError(f"{folder} holds neither {stem}.csv nor {stem}.csv.gz: {remedy}")
    return path


def rows(
    path: Path,
    required: Sequence[str],
    *,
    source: str,
    quarantine: Quarantine,
    optional: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    separator: str = ",",
    encoding: str = "utf-8-sig",
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of one table as (line number, {column: stripped text}), the named columns only.

    `aliases` maps another spelling of a header (lower case) to the column it stands for. Absent optional columns are
    absent from the dict. Rows with too few or too many fields go to the quarantine as "malformed row".
    Raises SourceError when the file is empty, unreadable, damaged, or lacks a required column.
    """
    try:
        with open_text(path, encoding) as stream:
            lines = (line.replace("\0", "") for line in stream)
            reader = csv.reader(lines, skipinitialspace=separator != " ", delimiter=separator)
            header = next(reader, None)
            if not header:
                raise SourceError(f"{path}: the table is empty (no header line)")
            columns = _columns(path, header, required, optional, aliases or {})
            yield from _body(reader, len(header), columns, path, source, quarantine)
    except (OSError, EOFError, zlib.error, csv.Error) as error:  # csv: a header with a field beyond all bounds
        raise SourceError(f"{path}: cannot be read to its end ({error}); fetch the file again") from error


class Keyed(NamedTuple, Generic[T]):
    """A table by key: `rows` the usable ones, `conflicts` the keys whose rows contradict each other (set aside)."""

    rows: dict[str, T]
    conflicts: set[str]


def keyed(
    path: Path,
    key: str,
    required: Sequence[str],
    pack: Callable[[dict[str, str]], T],
    *,
    source: str,
    quarantine: Quarantine,
    optional: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    conflict: str = "contradicting rows for one id",
) -> Keyed[T]:
    """Reads a table that should have one row a key; `pack` turns a row into what is kept.

    A repeated identical row is set aside as "duplicate row" and the first one stays. Rows of one key that differ are
    all set aside under the reason `conflict`. A row for which `pack` raises ValueError is a malformed row.
    """
    kept: dict[str, T] = {}
    conflicts: set[str] = set()
    for line, row in rows(
        path, (key, *required), source=source, quarantine=quarantine, optional=optional, aliases=aliases
    ):
        try:
            row[key] = name = clean_id(row[key])
            value = pack(row)
        except ValueError as error:
            quarantine.add(source, MALFORMED, path=path, detail=f"line {line}: {error}")
            continue
        if name in conflicts:
            continue
        if name not in kept:
            kept[name] = value
        elif kept[name] == value:
            quarantine.add(source, "duplicate row", id=name, path=path, detail=f"line {line}; the first row is used")
        else:
            del kept[name]
            conflicts.add(name)
            quarantine.add(source, conflict, id=name, path=path, detail=f"line {line} and an earlier one")
    return Keyed(kept, conflicts)


def is_file(path: Path) -> bool:
    """Whether there is such a file, for a path from a cell: a name longer than any file system takes is none."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def clean_id(text: str) -> str:
    """An id as a clean string: "59999901.0" and " 59999901 " give "59999901".

    Raises ValueError for a blank id and for one that could not be part of a file name (it may become one).
    """
    name = text.strip().strip("'\"").strip()
    whole = re.fullmatch(r"(\d+)\.0*", name)
    if whole:
        name = whole.group(1)
    if name.lower() in BLANK:
        raise ValueError("the id is blank")
    if not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > MAX_ID_BYTES:
        raise ValueError(f"{name[:40]!r} is not an id")
    return name


def number(text: str) -> float:
    """A cell as a float, NaN when blank ("", "nan", "NA", ...); raises ValueError for other text."""
    if text.strip().lower() in BLANK:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a number") from None


def truth(text: str) -> bool:
    """A cell as a bool: True/False in any case, 1/0, yes/no; blank is False. Raises ValueError otherwise."""
    word = text.strip().lower()
    if word in {"true", "1", "1.0", "yes"}:
        return True
    if word in {"false", "0", "0.0", "no"} or word in BLANK:
        return False
    raise ValueError(f"{text[:40]!r} is neither true nor false")


def open_text(path: Path, encoding: str = "utf-8-sig") -> TextIO:
    """A text file, packed where its name ends in .gz; bytes that are none of the encoding become U+FFFD."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, errors="replace", newline="")
    return open(path, encoding=encoding, errors="replace", newline="")


def _columns(
    path: Path, header: list[str], required: Sequence[str], optional: Sequence[str], aliases: Mapping[str, str]
) -> dict[str, int]:
    """Column name -> position in the row, for the columns asked for."""
    found: dict[str, int] = {}
    for position, cell in enumerate(header):
        name = " ".join(cell.lower().split())
        name = aliases.get(name, name).lower()
        if name in found:
            raise SourceError(f"{path}: the column {cell.strip()!r} stands in the header twice")
        if name:
            found[name] = position
    missing = [name for name in required if name.lower() not in found]
    if missing:
        names = ", ".join(repr(name) for name in missing)
        near = [word for name in missing for word in get_close_matches(name.lower(), list(found), 1, cutoff=0.6)]
        hint = f" (did you mean {', '.join(repr(word) for word in near)}?)" if near else ""
        there = ", ".join(cell.strip() for cell in header)
        raise SourceError(f"{path}: no column {names}{hint}; the header has {there}")
    return {name: found[name.lower()] for name in (*required, *optional) if name.lower() in found}


def _body(
    reader: Iterator[list[str]],
    width: int,
    columns: dict[str, int],
    path: Path,
    source: str,
    quarantine: Quarantine,
) -> Iterator[tuple[int, dict[str, str]]]:
    while True:
        before = reader.line_num + 1  # type: ignore[attr-defined]
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a stray quote that swallows the file stops at the field size limit
            end = reader.line_num  # type: ignore[attr-defined]
            quarantine.add(source, MALFORMED, path=path, detail=f"lines {before} to {end}: {error}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < width or any(cell.strip() for cell in cells[width:]):
            detail = f"line {before}: {len(cells)} fields, the header has {width}"
            quarantine.add(source, MALFORMED, path=path, detail=detail)
            continue
        yield before, {name: cells[position].strip() for name, position in columns.items()}
