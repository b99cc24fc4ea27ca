"""data_prep.table.expressions: names filled in, as by substitution written out."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.table.expressions import expand
from data_prep.table.mapping import FILTERS, NAME
from data_prep.table.reader import _stem

CELLS = {"a": "x/y.dcm.png", "b c": "42.0", "n": "", "d": "7"}


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("b c", "42.0"),
        (" b c ", "42.0"),
        ("{b c|8}", "00000042"),
        ("{n|8}", ""),
        ("i-{d}/{a|stem}", "i-7/y.dcm"),
        ("{a|name}{a|bare}", "y.dcm.pngx/y.dcm"),
        ("{}{d}", "{}7"),
        ("{d", "{d"),
    ],
)
def test_by_hand(expression, text):
    assert expand(expression, CELLS.__getitem__) == text


@given(st.lists(st.sampled_from(["{a}", "{a|stem}", "{b c|3}", "{d|12}", "{n}", "-", "{", "}", "|", "/"]), max_size=6))
def test_as_one_substitution(pieces):
    """The same text by `re.sub` over the expression, name by name."""
    expression = "{" + "".join(pieces)

    def one(match: re.Match[str]) -> str:
        text, through = CELLS.get(match[1].strip(), "?"), match[2]
        if through and through.isdigit():
            return re.sub(r"\.0*$", "", text).zfill(int(through)) if text else ""
        return FILTERS[through](text) if through else text

    assert expand(expression, lambda name: CELLS.get(name, "?")) == NAME.sub(one, expression)


@given(st.text("a. é", min_size=1).filter(lambda name: PurePosixPath(name).name == name))
def test_stems_are_those_of_paths(name):
    assert _stem(name) == PurePosixPath(name).stem
