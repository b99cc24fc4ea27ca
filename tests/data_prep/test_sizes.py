"""data_prep.sizes: smaller copies keep their gaze, cropped ones lose it, and both are told."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cogaze.data.schema import GAZE_MEMBER, pack_gaze, unpack_gaze
from data_prep.build import build
from data_prep.records import Quarantine, Reading, Sentence
from data_prep.sizes import MISPLACED, OTHER_SHAPE, OTHER_SIZE, hold_to
from tests.hand_made import picture, reading, record


@pytest.mark.parametrize(
    ("stated", "told", "kept"),
    [
        (None, None, 2),
        ((60, 40), None, 2),
        ((3000, 2000), OTHER_SIZE, 2),
        ((3010, 2000), OTHER_SIZE, 2),  # 0.3 % off: sizes are whole px
        ((3000, 2100), OTHER_SHAPE, 0),  # 5 %: padded, cropped
        ((40, 60), OTHER_SHAPE, 0),  # turned
    ],
)
def test_gaze_stays_where_the_shape_is_the_same(tmp_path, stated, told, kept):
    path = picture(tmp_path / "in" / "x.png", 60, 40)
    one = record(tmp_path / "in", "a", "s", "p", path=path, readings=(reading(0), reading(1)), size=stated)
    other = record(tmp_path / "in", "b", "t", "q")
    quarantine = Quarantine()
    manifest = build([one, other], tmp_path / "out", quarantine=quarantine, image_size=32)
    assert manifest["quarantined"] == ({} if kept else {MISPLACED: 2})
    assert manifest["noted"] == ({told: 1} if told else {})  # the image itself is kept
    assert manifest["totals"]["images"] == 2
    assert manifest["totals"]["by_split"]["train"]["gaze_images"] == bool(kept)
    rows = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows if row["reason"] == MISPLACED) == (
        [] if kept else ["reading-0", "reading-1"]
    )


def test_readings_with_heat_maps_stay_for_their_pictures_are_looked_at_themselves():
    fixations = [reading(0).fixations, np.zeros((0, 6), np.float32), reading(1).fixations]
    readings = [{"id": name} for name in ("first", "mapped", "third")]
    meta = {"image_id": "a", "readings": readings}
    members = {GAZE_MEMBER: pack_gaze(fixations), "txt": b"x"}
    found, rest, maps, told = hold_to((40, 60), (60, 40), meta, members, [(), ("whole.jpg",), ()])
    assert found["readings"] == [{"id": "mapped"}]
    assert [rows.shape for rows in unpack_gaze(rest[GAZE_MEMBER]).values()] == [(0, 6)]
    assert (maps, rest["txt"]) == ([("whole.jpg",)], b"x")
    assert [(name, reason) for name, reason, _ in told] == [
        ("a", OTHER_SHAPE),
        ("first", MISPLACED),
        ("third", MISPLACED),
    ]
    assert len(meta["readings"]) == 3  # the caller's is not changed


def test_the_annotation_source_s_heat_maps_are_no_reason_to_fail(tmp_path):
    """A reading without fixations and without usable pictures goes by itself, whatever the shape."""
    path = picture(tmp_path / "in" / "x.png", 60, 40)
    drawn = Reading("r", "x", (Sentence("a.", 0, 0),), np.zeros((0, 6), np.float32), (tmp_path / "no.jpg", None))
    one = replace(record(tmp_path / "in", "a", "s", "p", path=path), readings=(drawn,), size=(40, 60))
    manifest = build([one], tmp_path / "out", quarantine=Quarantine(), image_size=32)
    assert manifest["quarantined"] == {"heat map missing": 1, "reading without a usable heat map": 1}
    assert manifest["noted"] == {OTHER_SHAPE: 1}
