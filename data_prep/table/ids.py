"""Ids from cells as ids of samples: characters that do not belong into one become "-", and no two ids become one."""

from __future__ import annotations

import re

from data_prep.table.images import Aside
from data_prep.tables import BLANK, MAX_ID_BYTES, clean_id

MERGED = "two ids of the table become one"


class Ids:
    """The ids of one kind: "image", "study" or "patient". Remembers what each came from."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.written: dict[str, str] = {}  # id -> how the table has it

    def clean(self, text: str) -> str:
        """The id of a cell. Raises ValueError for a blank one, Aside where another one was cleaned to the same before.

        "42.0", " 42 " and "'42'" are one id, as everywhere (data_prep.tables.clean_id); "A/1" and "A 1" are two.
        """
        if self.written.get(text) == text:  # seen before, and as it is
            return text
        if text.isascii() and text.isalnum() and len(text) <= MAX_ID_BYTES and text.lower() not in BLANK:
            name = raw = text  # the usual case, in a tenth of the time
        else:
            name, raw = self._cleaned(text)
        if self.written.setdefault(name, raw) != raw:
            raise Aside(MERGED, f"{self.kind} id {name}: another spelling of it came first")
        return name

    def _cleaned(self, text: str) -> tuple[str, str]:
        """The id of a cell, and what it stands for: of two cells with one id and two of these, one is refused."""
        raw = text.strip().strip("'\"").strip()
        try:
            name = clean_id(re.sub(r"[^\w.-]+", "-", raw).strip("-."))
        except ValueError as error:
            raise ValueError(f"{self.kind} id: {error}") from None
        raw = re.sub(r"^(\d+)\.0*$", r"\1", raw)
        return name, name if raw == name else raw
