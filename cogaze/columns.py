"""What is said of a table that lacks a column, without showing what its first line holds.

The first line may be no header: of a table without one it is a patient's row, of a table in another encoding anything.
Messages go to terminals and logs, so they name only what is close to the name that was asked for, and nothing at all
where the first line does not look like names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

CLOSE = 0.6  # of difflib
LONGER = 12  # characters by which a name that holds the wanted word may be longer than it
LONGEST_NAME = 60  # characters
SEPARATORS = (";", "\t", "|", ",")
# What stands in rows and not in names: numbers, dates, file names, sentences, what cannot be printed.
ROW = re.compile(
    r"[\d.,+-]+|.*\d[-./]\d+[-./]\d.*|.*\.(png|jpe?g|tiff?|dcm|bmp|gz)|(\S+\s+){6,}\S+", re.IGNORECASE | re.DOTALL
)


def no_column(wanted: str, header: Sequence[str], asked_by: str = "") -> str:
    """ "no column 'mnr'; did you mean 'MRN'?", else how many columns there are and what may be wrong.

    `asked_by` stands behind the wanted name: " (--id)".
    """
    said = f"no column {wanted!r}{asked_by}"
    there = [cell for cell in header if cell.strip()]
    cells = f"{len(there)} cell{'' if len(there) == 1 else 's'}"
    if len(there) == 1 and (separator := next((mark for mark in SEPARATORS if mark in there[0]), "")):
        return (
            f"{said}: the columns seem to be parted by {separator!r} "
            f"(separator: {separator!r} in a mapping; else save the table with commas)"
        )
    if near := near_names(wanted, header):
        return f"{said}; did you mean {' or '.join(map(repr, near))}?"
    if looks_like_a_row(header):
        return (
            f"{said}: the first line ({cells}) does not look like names of columns; put a line with their names on top"
        )
    return f"{said}, and none of the {cells} of the first line is spelled like it"


def near_names(wanted: str, header: Sequence[str]) -> list[str]:
    """Up to three names of the header that are spelled much like the wanted one, or hold it as a word."""
    if looks_like_a_row(header):
        return []
    names = {_plain(cell): " ".join(cell.split()) for cell in header if cell.strip()}
    word = _plain(wanted)
    close = get_close_matches(word, list(names), 3, cutoff=CLOSE) or [
        name for name in names if len(name) <= len(word) + LONGER and word in re.split(r"[\W_]+", name)
    ]
    return [names[name] for name in close[:3]]


def looks_like_a_row(header: Sequence[str]) -> bool:
    """Whether a first line holds what names of columns do not: a number, a date, a file name, a sentence."""
    return any(
        len(cell) > LONGEST_NAME or ROW.fullmatch(cell) or not " ".join(cell.split()).isprintable() or "\ufffd" in cell
        for cell in map(str.strip, header)
        if cell
    )


def _plain(name: str) -> str:
    return " ".join(name.lower().split())
