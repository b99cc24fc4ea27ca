"""Reading the tables of public data sets: csv or csv.gz, as they are found in the wild.

Headers are matched without regard to case and outer blanks; a byte-order mark, CRLF, NUL bytes, embedded newlines and
extra columns (`Unnamed: 0`) do no harm. Values come out as stripped text, so ids keep what they are; `clean_id` takes
back the ".0" that a detour through floating point adds. What is wrong with the table as a whole raises SourceError;
a single bad row goes to the quarantine with file and line, and so do rows that a stray quote runs together.
"""

from __future__ import annotations

import csv
import errno
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, TextIO, TypeVar

from cogaze.columns import no_column
from data_prep.records import Quarantine, SourceError
from data_prep.stray_quotes import holds_rows

T = TypeVar("T")

BLANK = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>"})
MALFORMED = "malformed row"
RUN_TOGETHER = "rows run together by a stray quote"
STRAY_QUOTES = "stray quotes in a row"
UNDECODED = "line with bytes of another encoding"
FOREIGN = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as Python lets them through
LOST = re.compile("\ufffd")
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
    absent from the dict. Rows with too few or too many fields go to the quarantine as "malformed row", and so do those
    with a quote inside a quoted cell, but for the row of one line that has its width all the same. Lines whose bytes
    are none of the encoding are counted there.
    Raises SourceError when the file is empty, unreadable, damaged, or lacks a required column.
    """
    try:
        with open_lines(path, encoding) as lines:
            form: dict[str, Any] = {"skipinitialspace": separator != " ", "delimiter": separator}
            header = next(head := csv.reader(lines, **form), None)
            if not header:
                raise SourceError(f"{path}: the table is empty (no header line)")
            columns = _columns(path, header, required, optional, aliases or {})
            width, spaced = len(header), f"{separator} " in lines.last
            taken = list(columns.items())
            for before, end, cells, fault in _read(lines, head.line_num, form):
                if len(cells) == width and before == end and fault == "":
                    yield before, {name: cells[position].strip() for name, position in taken}
                    continue
                place = f"line {before}" if before == end else f"lines {before} to {end}"
                lost = end - before + 1  # lines: a quote that is opened and not closed takes as many rows
                if fault:
                    told = "; is a quote not closed?" if lost > 1 else ""
                    quarantine.add(source, MALFORMED, path=path, detail=f"{place}: {fault}{told}", count=lost)
                elif len(cells) < width or any(map(str.strip, cells[width:])):
                    detail = f"{place}: {len(cells)} fields, the header has {width}"
                    quarantine.add(source, MALFORMED, path=path, detail=detail)
                elif end > before and holds_rows(cells[:width], separator, spaced):
                    detail = f"{place}: a cell holds what reads as another row; is a quote not closed?"
                    quarantine.add(source, RUN_TOGETHER, path=path, detail=detail, count=lost)
                else:
                    if fault is None:
                        quarantine.add(source, STRAY_QUOTES, path=path, detail=f"{place}; it is kept", kept=True)
                    yield before, {name: cells[position].strip() for name, position in taken}
            lines.report(source, path, quarantine)
    except (
        OSError,
        EOFError,
        zlib.error,
        csv.Error,
        UnicodeError,
    ) as error:  # csv: a header with a field beyond all bounds
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
            detail = f"line {line}; the first row is used"
            quarantine.add(source, "duplicate row", id=name, path=path, detail=detail, kept=True)
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


def open_text(path: Path, encoding: str = "utf-8-sig", errors: str = "replace") -> TextIO:
    """A text file, unpacked where it is gzip by its name or its content; bytes of another encoding become U+FFFD.

    Raises SourceError, with the remedy, for what is no text in this encoding by its first bytes.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    packed = path.suffix == ".gz" or start[:2] == b"\x1f\x8b"
    if packed:
        with gzip.open(path) as unpacked:
            start = unpacked.read(4)
    _refuse_foreign(path, start, encoding)
    if packed:
        return gzip.open(path, "rt", encoding=encoding, errors=errors, newline="")
    return open(path, encoding=encoding, errors=errors, newline="")


@contextmanager
def open_lines(path: Path, encoding: str) -> Iterator[Lines]:
    """The lines of a text file, as open_text opens it."""
    utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf-8-sig", "utf8")
    with open_text(path, encoding, "surrogateescape" if utf8 else "replace") as stream:
        yield Lines(stream, FOREIGN if utf8 else LOST)


def _refuse_foreign(path: Path, start: bytes, encoding: str) -> None:
    """Raises SourceError for a workbook, an archive, parquet, and UTF-16 where it is not asked for."""
    if start.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise SourceError(f"{path}: is a workbook or an archive, not text: export the table as CSV in UTF-8")
    if start == b"PAR1":
        raise SourceError(f"{path}: is parquet, not text: let its name end in .parquet, or say format: parquet")
    utf16 = start.startswith((b"\xff\xfe", b"\xfe\xff")) or start[1:4:2] == b"\0\0" or start[0:4:2] == b"\0\0"
    if utf16 and encoding.lower().replace("_", "-").startswith("utf-8"):
        name = "utf-16" if start[0] > 0xF0 else "utf-16-le" if start[0] else "utf-16-be"
        raise SourceError(f"{path}: is UTF-16: say encoding: {name} in the mapping, or save the table as UTF-8")


class Lines:
    """The lines of an open file without NUL bytes; `last` is the latest.

    Bytes of another encoding become U+FFFD and their lines are counted. In UTF-8 they are told from a U+FFFD that the
    file itself holds (something was lost before), since `open_lines` lets them through as lone surrogates.
    """

    def __init__(self, stream: Iterable[str], foreign: re.Pattern[str]) -> None:
        self.stream, self.foreign = iter(stream), foreign
        self.last = ""
        self.number = self.undecoded = self.first = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.stream)
        self.number += 1
        if "\0" in line:
            line = line.replace("\0", "")
        if not line.isascii() and self.foreign.search(line):
            self.undecoded += 1
            self.first = self.first or self.number
            line = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        self.last = line
        return line

    def report(self, source: str, path: Path, quarantine: Quarantine) -> None:
        """Lines with characters that were lost, as one row; they are kept."""
        if self.undecoded:
            detail = (
                f"{self.undecoded} lines, the first is line {self.first}; if the table was saved by Windows, say "
                "encoding: cp1252 in the mapping, or save it as UTF-8"
            )
            quarantine.add(source, UNDECODED, path=path, detail=detail, count=self.undecoded)


def _columns(
    path: Path, header: list[str], required: Sequence[str], optional: Sequence[str], aliases: Mapping[str, str]
) -> dict[str, int]:
    """Column name -> position in the row, for the columns asked for."""
    found: dict[str, int] = {}
    for position, cell in enumerate(header):
        name = " ".join(cell.lower().split())
        name = aliases.get(name, name).lower()
        if name in found:
            raise SourceError(f"{path}: columns {found[name] + 1} and {position + 1} of the first line have one name")
        if name:
            found[name] = position
    missing = [name for name in required if name.lower() not in found]
    if missing:
        others = "".join(f", {name!r}" for name in missing[1:])
        raise SourceError(f"{path}: {no_column(missing[0], header, others)}")
    return {name: found[name.lower()] for name in (*required, *optional) if name.lower() in found}


def _read(lines: Lines, above: int, form: Mapping[str, Any]) -> Iterator[tuple[int, int, list[str], str | None]]:
    """(first line, last line, cells, what is wrong) of every row that is not blank; `above` lines were read before.

    What is wrong is "" for a sound row, and None for one of a single line with stray quotes: it cannot have run into
    another.
    """
    reader = csv.reader(lines, strict=True, **form)
    while True:
        before = above + reader.line_num + 1
        fault: str | None = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a stray quote that swallows the file stops at the field size limit
            single = above + reader.line_num == before
            alone = _alone(lines.last, form) if single else None
            cells, fault = alone or [], str(error) if alone is None else None
        if fault != "" or any(map(str.strip, cells)):
            yield before, above + reader.line_num, cells, fault


def _alone(line: str, form: Mapping[str, Any]) -> list[str] | None:
    """The cells of one line whose quotes are read as they come; None where the last one is not closed."""
    try:
        cells = next(reader := csv.reader([line, ""], **form))
    except csv.Error:
        return None
    return cells if reader.line_num == 1 else None
