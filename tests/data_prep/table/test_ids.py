"""data_prep.table.ids: different ids stay different."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.table.ids import MERGED, Ids
from data_prep.table.images import Aside
from tests.data_prep.table.export import export, read


def test_ids_that_clean_to_one_are_set_aside_after_the_first(tmp_path):
    root = export(
        tmp_path,
        "file,study,mrn\na.png,A/1,x 1\nb.png,A+1,y\nc.png,s3,x/1\nd.png,A/1,x 1\n",
    )
    records, quarantine = read(root)
    assert [(r.image_id, r.study_id, r.patient_id) for r in records] == [("a", "A-1", "x-1"), ("d", "A-1", "x-1")]
    assert [(row["id"], row["reason"], row["detail"].split(":")[0]) for row in quarantine.rows] == [
        ("b", MERGED, "study id A-1"),
        ("c", MERGED, "patient id x-1"),
    ]


def test_images_too(tmp_path):
    root = export(tmp_path, "file,study,mrn\na 1.png,1,1\na+1.png,2,2\na 1.png,1,1\n", files="")
    for name in ("a 1.png", "a+1.png"):
        (root / "images" / name).touch()
    records, quarantine = read(root)
    assert [(r.image_id, r.relative_path) for r in records] == [("a-1", "images/a 1.png")]
    assert quarantine.counts() == {MERGED: 1, "duplicate row": 1}


def test_one_id_in_many_spellings():
    ids = Ids("study")
    assert {ids.clean(text) for text in ("42", " 42 ", "42.0", "42.", "'42'", '"42.00"')} == {"42"}
    with pytest.raises(Aside):
        ids.clean("#42")
    assert Ids("study").clean("#42") == "42"
    with pytest.raises(ValueError, match="study id: the id is blank"):
        ids.clean("nan")


@given(st.lists(st.text("aA1 /-.#é\ufffd", min_size=1, max_size=4), max_size=8))
def test_no_two_ids_become_one(texts):
    """An id without odd characters stays as it is, and whatever is not refused has one origin."""
    ids, origins = Ids("patient"), dict[str, set[str]]()
    for text in texts:
        try:
            name = ids.clean(text)
        except (Aside, ValueError):
            continue
        if text.strip(".-") == text and text.replace("-", "").replace(".", "").isalnum() and "." not in text:
            assert name == text
        plain = text.strip()
        digits, dot, zeros = plain.partition(".")
        origins.setdefault(name, set()).add(digits if dot and digits.isdigit() and not zeros.strip("0") else plain)
    assert all(len(found) == 1 for found in origins.values())


@given(st.one_of(st.text("aA1z", max_size=5), st.sampled_from(["nan", "None", "x" * 200, "x" * 201, "٣", "42"])))
def test_the_quick_way_is_the_long_one(text):
    try:
        long_way = Ids("study")._cleaned(text)[0]
    except ValueError as error:
        long_way = str(error)
    try:
        quick = Ids("study").clean(text)
    except ValueError as error:
        quick = str(error)
    assert quick == long_way
