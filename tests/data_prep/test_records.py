"""The quarantine: what a row counts for, and that no row says where the data lie."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from data_prep.records import Quarantine, counts_of


def test_a_row_counts_for_as_many_as_it_stands_for() -> None:
    quarantine = Quarantine()
    quarantine.add("egd", "fixations dropped: off the image", count=67, kept=True)
    quarantine.add("egd", "fixations dropped: off the image", count=2)
    quarantine.add("egd", "malformed row", path="a.csv", detail="line 3")
    assert quarantine.rows == [
        {"source": "egd", "reason": "fixations dropped: off the image", "count": 67, "kept": True},
        {"source": "egd", "reason": "fixations dropped: off the image", "count": 2},
        {"source": "egd", "reason": "malformed row", "path": "a.csv", "detail": "line 3"},
    ]
    assert counts_of(quarantine.rows) == (
        {"fixations dropped: off the image": 2, "malformed row": 1},
        {"fixations dropped: off the image": 67},
    )
    assert quarantine.counts() == {"fixations dropped: off the image": 69, "malformed row": 1}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.booleans())))
def test_nothing_is_counted_twice_or_lost(things: list[tuple[str, int, bool]]) -> None:
    quarantine = Quarantine()
    for reason, number, kept in things:
        quarantine.add("made", reason, count=number, kept=kept)
    lost, noted = counts_of(json.loads(line) for line in quarantine.lines())
    assert sum(lost.values()) == sum(number for _, number, kept in things if not kept)
    assert sum(noted.values()) == sum(number for _, number, kept in things if kept)
    assert quarantine.counts() == lost + noted


def test_paths_start_from_the_root() -> None:
    """Those of another folder begin with its name; of a file in none, which might tell whose it is, the name alone."""
    root, beside = Path("/data/ann/raw"), Path("/data/ann/reflacx/1.0.0")
    quarantine = Quarantine(root, beside, Path("/data/ann/raw/mimic-cxr-jpg"))
    for path in (
        root / "mimic-cxr-jpg" / "split.csv", "files/p10/a.jpg", beside / "main_data" / "x.csv",
        "/home/ann/labels.csv", root,
    ):  # fmt: skip
        quarantine.add("made", "malformed row", path=path)
    assert [row["path"] for row in quarantine.placed()] == [
        "mimic-cxr-jpg/split.csv", "files/p10/a.jpg", "1.0.0/main_data/x.csv", "labels.csv", ".",
    ]  # fmt: skip


def test_details_say_no_root_either() -> None:
    quarantine = Quarantine(Path("/data/ann/raw"), Path("/data/ann/raw/egd"))
    quarantine.add("made", "unreadable", detail="/data/ann/raw/egd/t.csv: no column 'b'; /data/ann/raw holds none")
    (row,) = quarantine.placed()
    assert row["detail"] == "egd/t.csv: no column 'b'; raw holds none"
    quarantine = Quarantine(Path("s"), Path("/mnt/data"))  # words and other folders that begin alike stay
    quarantine.add("made", "unreadable", detail="s/he, cases/open/s/x, /mnt/data2/b, /mnt/data/c, in /mnt/data.")
    (row,) = quarantine.placed()
    assert row["detail"] == "s/he, cases/open/s/x, /mnt/data2/b, data/c, in data."
    quarantine = Quarantine(Path())  # a root that is the folder one works in
    quarantine.add("made", "unreadable", path=Path("a/b.csv"), detail="a.b.")
    (row,) = quarantine.placed()
    assert (row["path"], row["detail"]) == ("a/b.csv", "a.b.")
