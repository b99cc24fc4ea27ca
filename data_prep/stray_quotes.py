"""Rows of a CSV that a stray quote has run together.

    7,a.png,"Lungs clear, nodule of 3"" apart      <- the quote is never closed, so the cell goes on
    8,b.png,Old nodule of 3"                       <- ... to here: one row, with the words about two patients

Such a row has the right number of cells. A report may well have several lines, and a line of it may hold commas; it is
no row unless it is as wide as the table, and its first id is made like that of the row it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LINE_END = re.compile(r"\r\n?|\n")
LONGEST_ID = 200  # characters


def holds_rows(cells: Sequence[str], separator: str, spaced: bool) -> bool:
    """Whether a cell of several lines in this row, which is as wide as the table, seems to hold other rows.

    `spaced`: the table is written with blanks after its separators, as prose is. Inside of such a cell no quotes are
    left but doubled ones (a strict reader refuses all else), so that its lines can be cut at every separator.
    """
    if len(cells) < 2:
        return False
    return any(
        separator in cell and ("\n" in cell or "\r" in cell) and _lines_are_rows(cells, place, separator, spaced)
        for place, cell in enumerate(cells)
    )


def _lines_are_rows(cells: Sequence[str], place: int, separator: str, spaced: bool) -> bool:
    lines = LINE_END.split(cells[place])
    # The row's own id: before the long cell, and so in the row's first line, else behind it in the last line.
    known = next((i for i in (*range(place), *range(place + 1, len(cells))) if _is_id(cells[i])), None)
    if known is None:
        return False
    own = 0 if known < place else len(lines) - 1
    for number, line in enumerate(lines):
        if number == own:
            continue
        before = cells[:place] if number == 0 else ()
        after = cells[place + 1 :] if number == len(lines) - 1 else ()
        if len(before) + line.count(separator) + 1 + len(after) != len(cells):
            continue
        parts = line.split(separator)
        prose = not spaced and len(parts) > 1 and all(part.startswith(" ") for part in parts[1:])
        if not prose and _alike([*before, *parts, *after][known].strip(), cells[known].strip()):
            return True
    return False


def _is_id(text: str) -> bool:
    return bool(text.strip()) and len(text) <= LONGEST_ID and not re.search(r"\s", text.strip())


def _alike(text: str, model: str) -> bool:
    """Whether two words have the same marks in the same order and both or neither a digit; of two whole numbers, `text`
    has at least half the digits ("3,5 cm" is no row of eight-digit ids)."""
    if not _is_id(text) or re.sub(r"\w", "", text) != re.sub(r"\w", "", model):
        return False
    if text.isdigit() and model.isdigit():
        return 2 * len(text) >= len(model)
    return any(map(str.isdigit, text)) == any(map(str.isdigit, model))
