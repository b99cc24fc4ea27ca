"""The rows of a mapping's table, with the columns of its joined tables beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from cogaze.columns import no_column
from data_prep.records import Quarantine, SourceError
from data_prep.table.expressions import expand
from data_prep.table.files import Format, Table
from data_prep.table.mapping import Join, TableMapping, names_of

Cells = dict[str, str]  # column, as `plain` gives it -> text
NO_ROW = "no row of this key in a joined table"
CONTRADICTING = "contradicting rows for one id"
PASSED_OVER = "another row of this key is taken"


@cache  # of the few names that a mapping has
def plain(column: str) -> str:
    """A column name as it is compared: without case and with single blanks."""
    return " ".join(column.lower().split())


@dataclass(frozen=True)
class _Joined:
    """A joined table in memory: the expression of its key here, its columns, and their texts by key."""

    name: str
    here: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    refused: frozenset[str]  # keys whose rows contradict each other


class TableRows:
    """The main table and, in memory by their keys, the joined ones.

    Raises SourceError for a table that is missing, for a column that no table has (with the nearest names there are),
    and for one that several tables have, unless a join's `columns` say which is meant.
    """

    def __init__(self, root: Path, plan: TableMapping, quarantine: Quarantine) -> None:
        self.plan = plan
        self.main = self._open(root, plan.table, plan.format, plan.separator, plan.encoding)
        wanted = {plain(name): (key, name) for key, name in plan.column_names()}
        self.wanted = wanted
        said = {plain(name) for join in plan.join for name in join.columns}
        keys = {plain(name) for join in plan.join for name, _ in names_of(join.keys[0])}
        there = {plain(name): name for name in self.main.header}
        self.columns = {name: there[name] for name in wanted if name in there and name not in said}
        givers = dict.fromkeys(self.columns, plan.table)  # column -> the table that gives it
        self.joined: list[_Joined] = []
        known, absent = list(self.main.header), False
        for join in plan.join:
            if join.optional and not (root / join.table).is_file():
                absent = True
                continue
            table = self._open(root, join.table, join.format, join.separator, join.encoding or plan.encoding)
            here, _ = join.keys
            for name, _ in names_of(here):
                if plain(name) not in givers and not absent:
                    raise SourceError(_no_column(self.main.path, "join.key", name, known))
            columns = self._columns_of(join, table, said, givers)
            givers |= dict.fromkeys(columns, join.table)
            self.joined.append(self._read(join, table, columns, quarantine))
            known += table.header
        self.blank: tuple[str, ...] = ()
        for column, (key, name) in wanted.items():
            if column not in givers:
                if not absent or column in keys:
                    raise SourceError(_no_column(self.main.path, key, name, known))
                self.blank += (column,)

    def read(self, quarantine: Quarantine) -> Iterator[tuple[str, Cells]]:
        """("line N", cells) of every row; columns of a joined table are blank where it has no such key.

        At the end, how many rows found none is counted. Raises SourceError where all of them did.
        """
        rows = 0
        missed, seen = [0] * len(self.joined), [""] * len(self.joined)
        named = list(self.columns.items())
        for number, row in self.main.rows(list(self.columns.values()), source=self.plan.source, quarantine=quarantine):
            rows += 1
            cells = {name: row[column] for name, column in named}
            for name in self.blank:
                cells[name] = ""
            for i, table in enumerate(self.joined):
                key = _key(expand(table.here, partial(_cell, cells)))
                found = table.rows.get(key)
                if found is None:
                    missed[i] += key not in table.refused
                    seen[i] = seen[i] or key
                    found = ("",) * len(table.columns)
                cells.update(zip(table.columns, found, strict=True))
            yield f"line {number}", cells
        for table, none, key in zip(self.joined, missed, seen, strict=True):
            if none and none == rows and (table.rows or table.refused):
                other = next(iter((*table.rows, *table.refused)))
                raise SourceError(
                    f"{self.main.path}: of {rows} rows none has its key in {table.name}: keys here are of the form "
                    f"{_form(key)}, there {_form(other)}; join.key may fill up zeros ({{Column|4}}) on either side"
                )
            if none:
                detail = (
                    f"{none} of {rows} rows of {self.plan.table} have no row in {table.name}; its columns are blank"
                )
                source = self.plan.source
                quarantine.add(source, NO_ROW, path=table.name, detail=detail, count=none, kept=True)

    def _open(self, root: Path, name: str, kind: Format | None, separator: str | None, encoding: str) -> Table:
        path = root / name
        if not path.is_file():
            raise SourceError(f"{path}: no such table; the paths of a mapping start from --root")
        return Table(path, kind, separator, encoding)

    def _columns_of(self, join: Join, table: Table, said: set[str], givers: dict[str, str]) -> dict[str, str]:
        """Column -> its name in the header, of those that this table gives."""
        there = {plain(name): name for name in table.header}
        if join.columns:
            for name in join.columns:
                if plain(name) not in there:
                    raise SourceError(_no_column(table.path, "join.columns", name, table.header))
            return {plain(name): there[plain(name)] for name in join.columns if plain(name) in self.wanted}
        here, other = (([plain(name) for name, _ in names_of(side)]) for side in join.keys)
        columns = {name: there[name] for name in self.wanted if name in there and name not in said}
        for name in [name for name in columns if name in givers]:
            if name not in here or name not in other:  # the key itself is the same in both
                raise SourceError(
                    f"{table.path}: the column {self.wanted[name][1]!r}, which {self.wanted[name][0]} of the mapping "
                    f"names, stands in {givers[name]} too; list under `columns` of the join what is taken from this one"
                )
            del columns[name]
        return columns

    def _read(self, join: Join, table: Table, columns: dict[str, str], quarantine: Quarantine) -> _Joined:
        """The table by its key. What is done with several different rows of one key, the join's `several` says."""
        here, other = join.keys
        there = {plain(name): name for name in table.header}
        for name, _ in names_of(other):
            if plain(name) not in there:
                raise SourceError(_no_column(table.path, "join.key", name, table.header))
        found: dict[str, dict[tuple[str, ...], int]] = {}  # key -> texts -> the first line that has them
        keys = {plain(name): there[plain(name)] for name, _ in names_of(other)}
        names = list(dict.fromkeys((*keys.values(), *columns.values())))
        for number, row in table.rows(names, source=self.plan.source, quarantine=quarantine):
            if key := _key(expand(other, partial(_cell, {name: row[column] for name, column in keys.items()}))):
                texts = tuple([row[column] for column in columns.values()])
                lines = found.setdefault(key, {})
                if join.several == "last":
                    lines.pop(texts, None)
                lines.setdefault(texts, number)
        rows = {key: next(iter(several)) for key, several in found.items() if len(several) == 1}
        refused = set[str]()
        for key, several in found.items():
            if len(several) == 1:
                continue
            if join.several == "refuse":
                refused.add(key)
                detail = (
                    f"lines {', '.join(map(str, several.values()))} differ; `several` of the join may say which counts"
                )
                quarantine.add(self.plan.source, CONTRADICTING, id=key, path=join.table, detail=detail)
            elif join.several == "join":
                rows[key] = tuple(map(self._joined_texts, zip(*several, strict=True)))
            else:
                rows[key] = list(several)[0 if join.several == "first" else -1]
                for texts, line in several.items():
                    if texts != rows[key]:
                        detail = f"line {line}; several: {join.several}"
                        quarantine.add(self.plan.source, PASSED_OVER, id=key, path=join.table, detail=detail, kept=True)
        return _Joined(join.table, here, tuple(columns), rows, frozenset(refused))

    def _joined_texts(self, texts: tuple[str, ...]) -> str:
        """Cells of several rows as one, each text once and in order."""
        blank = {word.lower() for word in self.plan.blank}
        return "\n".join(dict.fromkeys(text for text in texts if text.lower() not in blank))


def _cell(cells: Cells, name: str) -> str:
    return cells[plain(name)]


def _key(text: str) -> str:
    """A key of a join: whole numbers without the ".0" of a detour through floating point."""
    text = text.strip()
    return re.sub(r"^(\d+)\.0*$", r"\1", text) if "." in text else text


def _form(key: str) -> str:
    """What a key looks like, without saying it: 9 for a digit, a for a letter."""
    return repr(re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", key))[:40])


def _no_column(path: Path, key: str, column: str, known: list[str]) -> str:
    return f"{path}: {no_column(column, known, f', which {key} of the mapping names')}"
