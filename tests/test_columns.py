"""cogaze.columns: what is said of a missing column, and what is never shown."""

from __future__ import annotations

import pytest

from cogaze.columns import looks_like_a_row, near_names, no_column

NAMES = ["Accession No", "patient_mrn", "Image", "Report\nText", ""]


@pytest.mark.parametrize(
    ("wanted", "near"),
    [
        ("accession", ["Accession No"]),
        ("mrn", ["patient_mrn"]),  # as a word
        ("IMAGES", ["Image"]),
        ("report text", ["Report Text"]),
        ("rep", []),  # in "Report", but no word of it
        ("zzz", []),
    ],
)
def test_near_names(wanted: str, near: list[str]) -> None:
    assert near_names(wanted, NAMES) == near


@pytest.mark.parametrize(
    "first_line",
    [
        ["A1", "John Smith 1950-01-01", "a.png", "Large effusion in Mr Smith"],
        ["Smith", "a.png"],
        ["Smith", "42"],
        ["Smith", "3.5"],
        ["Smith", "x" * 61],
        ["Smith", "No large effusion is seen on the left"],
        ["Smith", "\x1f\x8b\x08\x00"],
        ["Smith", "Erg\ufffd"],
    ],
)
def test_no_cell_of_a_row_is_shown(first_line: list[str]) -> None:
    assert looks_like_a_row(first_line)
    for wanted in ("smith", "effusion", "Image", "png"):
        said = no_column(wanted, first_line)
        assert said.startswith(f"no column {wanted!r}: the first line (")
        assert not any(cell in said for cell in first_line)


def test_what_is_said_instead() -> None:
    assert no_column("mnr", ["MRN", "b"], " (--id)") == "no column 'mnr' (--id); did you mean 'MRN'?"
    assert no_column("x", ["Anna", "b", ""]) == (
        "no column 'x', and none of the 2 cells of the first line is spelled like it"
    )
    assert "parted by ';' (separator: ';'" in no_column("mrn", ["mrn;image"])
    assert "parted by '\\t'" in no_column("mrn", ["image\tmrn"])
