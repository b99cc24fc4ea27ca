"""The rows of a mapping's table, with the columns of its joined tables beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from data_prep.records import Quarantine, SourceError
from data_prep.table.files import Format, Table
from data_prep.table.mapping import Join, TableMapping

Cells = dict[str, str]  # column, as `plain` gives it -> text


def plain(column: str) -> str:
    """A column name as it is compared: without case and with single blanks."""
    return " ".join(column.lower().split())


class TableRows:
    """The main table and, in memory by their keys, the joined ones.

    Raises SourceError for a table that is missing and a column that no table has (with the nearest names there are).
    """

    def __init__(self, root: Path, plan: TableMapping, quarantine: Quarantine) -> None:
        self.plan = plan
        self.main = self._open(root, plan.table, plan.format, plan.separator)
        there = {plain(name): name for name in self.main.header}
        keys = {plain(here) for join in plan.join for here in join.key}
        wanted = {plain(name): (key, name) for key, name in plan.column_names()}
        self.columns = {name: there[name] for name in wanted if name in there}
        missing = {name: place for name, place in wanted.items() if name not in there}
        self.joined: list[tuple[str, tuple[str, ...], dict[str, Cells]]] = []  # key here, columns, their rows
        known, absent = list(self.main.header), False
        for join in plan.join:
            if join.optional and not (root / join.table).is_file():
                absent = True
                continue
            header, columns, rows = self._join(root, join, missing, quarantine)
            self.joined.append((plain(next(iter(join.key))), columns, rows))
            known += header
            missing = {name: place for name, place in missing.items() if name not in columns}
        self.blank: tuple[str, ...] = ()
        if absent:
            self.blank = tuple(name for name in missing if name not in keys)
        for name, (key, column) in missing.items():
            if name not in self.blank:
                raise SourceError(_no_column(self.main.path, key, column, known))

    def read(self, quarantine: Quarantine) -> Iterator[tuple[str, Cells]]:
        """("line N", cells) of every row; columns of a joined table are blank where it has no such key."""
        for number, row in self.main.rows(list(self.columns.values()), source=self.plan.source, quarantine=quarantine):
            cells = dict.fromkeys(self.blank, "") | {name: row[column] for name, column in self.columns.items()}
            for here, columns, rows in self.joined:
                found = rows.get(_key(cells[here]), {})
                cells |= {name: found.get(name, "") for name in columns}
            yield f"line {number}", cells

    def _open(self, root: Path, name: str, kind: Format | None, separator: str | None) -> Table:
        path = root / name
        if not path.is_file():
            raise SourceError(f"{path}: no such table; the paths of a mapping start from --root")
        return Table(path, kind, separator, self.plan.encoding)

    def _join(
        self, root: Path, join: Join, missing: dict[str, tuple[str, str]], quarantine: Quarantine
    ) -> tuple[list[str], tuple[str, ...], dict[str, Cells]]:
        """(header, columns taken, key -> cells). Contradicting rows of one key are all set aside."""
        table = self._open(root, join.table, join.format, join.separator)
        there = {plain(name): name for name in table.header}
        other = plain(next(iter(join.key.values())))
        if other not in there:
            raise SourceError(_no_column(table.path, "join.key", other, table.header))
        columns = {name: there[name] for name in missing if name in there}
        kept: dict[str, Cells] = {}
        conflicts: set[str] = set()
        source = self.plan.source
        for number, row in table.rows([there[other], *columns.values()], source=source, quarantine=quarantine):
            key, cells = _key(row[there[other]]), {name: row[column] for name, column in columns.items()}
            if key and key not in conflicts and kept.setdefault(key, cells) != cells:
                del kept[key]
                conflicts.add(key)
                detail = f"line {number} and an earlier one"
                quarantine.add(source, "contradicting rows for one id", id=key, path=join.table, detail=detail)
        return table.header, tuple(columns), kept


def _key(text: str) -> str:
    """A key of a join: whole numbers without the ".0" of a detour through floating point."""
    return re.sub(r"^(\d+)\.0*$", r"\1", text.strip())


def _no_column(path: Path, key: str, column: str, known: list[str]) -> str:
    names = {plain(name): name for name in known}
    close = get_close_matches(plain(column), list(names), 3, cutoff=0.5)
    near = [names[name] for name in close or [name for name in names if plain(column) in name]]
    hint = f"did you mean {' or '.join(repr(name) for name in near)}?" if near else f"there are {', '.join(known)}"
    return f"{path}: no column {column!r}, which {key} of the mapping names; {hint}"
