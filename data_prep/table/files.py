"""One table of any of four kinds, as a header and rows of stripped text: CSV, TSV, JSON lines, parquet.

CSV and TSV go through data_prep.tables (byte-order marks, CRLF, embedded newlines, `Unnamed:` columns, rows of another
width). Cells of the other two become text: null and NaN "", whole floats without ".0", lists joined by "|".
"""

from __future__ import annotations

import csv
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.records import Quarantine, SourceError
from data_prep.tables import MALFORMED, open_lines, rows

Format = Literal["csv", "tsv", "jsonl", "parquet"]
LIST_SEPARATOR = "|"
HEAD = 1000  # lines of JSON whose keys make the header: a row may leave out what it has not
BATCH = 4096  # rows of parquet held at once


class Table:
    """A table at `path`; `kind` by its name where None. Raises SourceError where it cannot be read."""

    def __init__(
        self, path: Path, kind: Format | None = None, separator: str | None = None, encoding: str = "utf-8-sig"
    ) -> None:
        self.path, self.encoding = path, encoding
        self.kind: Format = kind or kind_of(path)
        self.separator = separator or ("\t" if self.kind == "tsv" else ",")
        try:
            self.header = self._header()
        except (OSError, EOFError, zlib.error, csv.Error, pa.ArrowException, UnicodeError) as error:
            raise SourceError(f"{path}: cannot be read ({error}); fetch the file again") from None
        if not self.header:
            raise SourceError(f"{path}: the table is empty (no header)")

    def rows(
        self, columns: Sequence[str], *, source: str, quarantine: Quarantine
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """(line or row number, {column: text}) of the named columns, which are in the header in this spelling."""
        if self.kind in ("csv", "tsv"):
            yield from rows(
                self.path,
                columns,
                source=source,
                quarantine=quarantine,
                separator=self.separator,
                encoding=self.encoding,
            )
            return
        try:
            yield from self._json_rows(columns, source, quarantine) if self.kind == "jsonl" else self._parquet(columns)
        except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeError) as error:
            raise SourceError(f"{self.path}: cannot be read to its end ({error}); fetch the file again") from None

    def _header(self) -> list[str]:
        if self.kind == "parquet":
            return [str(name) for name in pq.ParquetFile(self.path).schema_arrow.names]
        if self.kind == "jsonl":
            names: dict[str, None] = {}
            with open_lines(self.path, self.encoding) as lines:
                for _, row in islice(_parsed(lines), HEAD):
                    if isinstance(row, dict):
                        names |= dict.fromkeys(row)
            return list(names)
        with open_lines(self.path, self.encoding) as lines:
            first = next(csv.reader(lines, skipinitialspace=True, delimiter=self.separator), [])
        return [" ".join(cell.split()) for cell in first if cell.strip()]

    def _json_rows(
        self, columns: Sequence[str], source: str, quarantine: Quarantine
    ) -> Iterator[tuple[int, dict[str, str]]]:
        with open_lines(self.path, self.encoding) as lines:
            for number, row in _parsed(lines):
                if isinstance(row, dict):
                    yield number, {name: cell_text(row.get(name)) for name in columns}
                else:
                    why = "is not JSON" if isinstance(row, Exception) else f"is a {type(row).__name__}, not an object"
                    quarantine.add(source, MALFORMED, path=self.path, detail=f"line {number} {why}")
            lines.report(source, self.path, quarantine)

    def _parquet(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
        number = 0
        for batch in pq.ParquetFile(self.path).iter_batches(BATCH, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield number, {name: cell_text(row[name]) for name in columns}


def _parsed(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """(line number, parsed) of the lines that are not blank; a line that is no JSON gives its error."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, error


def kind_of(path: Path) -> Format:
    """By the name, .gz aside: .tsv, .tab -> tsv, .jsonl, .ndjson -> jsonl, .parquet, .pq -> parquet, all else csv."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    kinds: Mapping[str, Format] = {
        ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    }  # fmt: skip
    return kinds.get(suffix, "csv")


def cell_text(value: Any) -> str:
    """A cell of JSON or parquet as the text that a CSV would hold."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, (list, tuple)):
        return LIST_SEPARATOR.join(cell_text(part) for part in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value).replace("\0", "").strip()
