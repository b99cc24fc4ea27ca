"""The expressions of a mapping, filled in row by row: a column name, or a text with names in braces."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from data_prep.table.mapping import FILTERS, NAME

Lookup = Callable[[str], str]  # a name of an expression -> its text


def expand(expression: str, lookup: Lookup) -> str:
    """An expression of the mapping as text; {name|8} fills a number up to eight digits with leading zeros."""
    start, parts = _parsed(expression)
    if not parts:
        return start
    text = start
    for name, through, behind in parts:
        found = lookup(name)
        if through:
            found = _filled(found, int(through)) if through.isdigit() else FILTERS[through](found)
        text += found + behind
    return text


def _filled(text: str, digits: int) -> str:
    return re.sub(r"\.0*$", "", text).zfill(digits) if text else ""


@cache  # of the few expressions that a mapping has
def _parsed(expression: str) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    """(text before the first name, ((name, filter or "", text behind it), ...))."""
    if "{" not in expression:
        return "", ((expression.strip(), "", ""),)
    start, *pieces = NAME.split(expression)  # text, name, filter, text, name, filter, text ...
    parts = zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True)
    return start, tuple((name.strip(), through or "", behind) for name, through, behind in parts)
