"""data_prep.egd on hand-written files in the EGD 1.0.0 layout."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from data_prep import egd
from data_prep.records import Quarantine, Sentence, SourceError

SHEET = "dicom_id,path,study_id,image_top_pad,image_bottom_pad,image_left_pad,image_right_pad,cxr_exam_indication"
FIXATIONS = (
    "SESSION_ID,MEDIA_ID,DICOM_ID,CNT,Time (in secs),TIMETICK(f=10000000),"
    "FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV,X_ORIGINAL,Y_ORIGINAL"
)
SPOKEN = {
    "full_text": "Clear. Big heart",
    "time_stamped_text": [
        {"phrase": "Clear.", "begin_time": 0.5, "end_time": 1.5},
        {"phrase": "Big", "begin_time": 2.0, "end_time": 2.5},
        {"phrase": "heart", "begin_time": 2.5, "end_time": 3.0},
    ],
}


def write(root: Path, sheet: list[str], fixations: list[str], transcripts: dict[str, object], name="transcript.json"):
    root.mkdir(exist_ok=True)
    (root / "master_sheet.csv").write_text("\n".join([SHEET, *sheet]) + "\n")
    (root / "fixations.csv").write_text("\n".join([FIXATIONS, *fixations]) + "\n")
    for dicom_id, content in transcripts.items():
        folder = root / "audio_segmentation_transcripts" / dicom_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def fixation(dicom_id="img-a", x=0.5, y=0.5, start=0.5, seconds=0.25, valid=1, original="10,10", session="S1") -> str:
    return f"{session},0,{dicom_id},1,9.9,123,{x},{y},{start},{seconds},1,{valid},{original}"


def test_one_degree_on_the_screen():
    # 27 inches over hypot(1920, 1080) = 2202.907 px: 81.589 px an inch; one degree at 28 inches is 0.488704 inches
    assert abs(egd.px_per_degree(28.0) - 39.873) < 0.002
    assert abs(egd.px_per_degree(14.0) - 39.873 / 2) < 0.001  # from half as far a degree is half as wide
    for wrong in (0.0, -28.0, math.nan, math.inf):
        with pytest.raises(SourceError, match="viewing distance"):
            egd.px_per_degree(wrong)


def test_values_worked_out_by_hand(tmp_path):
    # The image fills x 480..1440 (960 px) and y 0..1080 of the screen.
    write(
        tmp_path,
        ['img-a,files/p10/a.dcm,50000001,0,0,480,480,"two\nlines"'],
        [
            fixation(x=0.625, y=0.25, start=1.0, seconds=0.5),  # 1200 px: (1200 - 480) / 960 = 0.75
            fixation(x=0.3125, y=0.75, start=0.018, seconds=0.706),  # 600 px: 0.125
            fixation(valid=0),
            fixation(original="-2,300"),
            fixation(seconds=0),
            fixation(x=0.99),  # off the image, without the sentinel
            fixation("calibration", session="S0"),
        ],
        {"img-a": SPOKEN},
    )
    quarantine = Quarantine()
    readings = egd.read_gaze(tmp_path, quarantine)
    assert [(row.get("id"), row["reason"], row.get("detail", "")[:1]) for row in quarantine.rows] == [
        ("calibration", "gaze on an image that master_sheet does not name (calibration)", ""),
        (None, "fixations dropped: no duration", "1"),
        (None, "fixations dropped: not valid (FPOGV)", "1"),
        (None, "fixations dropped: off the image", "2"),
    ]
    (reading,) = readings["img-a"]
    assert (reading.id, reading.reader) == ("egd-img-a", "egd")
    assert reading.sentences == (Sentence("Clear.", 0.5, 1.5), Sentence("Big heart", 2.0, 3.0))
    sigma = 39.8734 / np.array([960, 1080])
    np.testing.assert_allclose(
        reading.fixations,
        [[0.125, 0.75, 0.018, 0.724, *sigma], [0.75, 0.25, 1.0, 1.5, *sigma]],
        rtol=1e-4,
    )


def test_fractions_agree_with_the_pixels_of_the_documented_mapping(tmp_path):
    """Second method: X_ORIGINAL = (px - left) * image width / (1920 - left - right), for a 2000 x 2500 image."""
    rng = np.random.default_rng(0)
    left, right, top, bottom, width, height = 500, 520, 40, 60, 2000, 2500
    screen = rng.uniform([0.3, 0.1], [0.7, 0.9], (20, 2))
    pixels = (screen * (1920, 1080) - (left, top)) * (
        width / (1920 - left - right), height / (1080 - top - bottom)
    )  # fmt: skip
    rows = [
        fixation(x=x, y=y, start=i, original=f"{int(px)},{int(py)}")
        for i, ((x, y), (px, py)) in enumerate(zip(screen, pixels, strict=True))
    ]
    write(tmp_path, [f"img-a,x,1,{top},{bottom},{left},{right},"], rows, {"img-a": SPOKEN})
    (reading,) = egd.read_gaze(tmp_path, Quarantine())["img-a"]
    np.testing.assert_allclose(reading.fixations[:, :2], pixels / (width, height), atol=1e-6)


def test_older_pad_names_full_transcript_and_the_original_transcript(tmp_path):
    write(tmp_path, ["img-a,x,1,0,0,480,480,", "img-b,x,2,0,0,480,480,"], [fixation(), fixation("img-b")], {})
    sheet = tmp_path / "master_sheet.csv"
    sheet.write_text(sheet.read_text().replace("_pad", "").replace("dicom_id", " DICOM_ID"))
    spoken = {"full_transcript": "x", "time_stamped_text": SPOKEN["time_stamped_text"]}
    folder = tmp_path / "audio_segmentation_transcripts"
    for name in ("img-a", "img-b"):
        (folder / name).mkdir(parents=True)
    (folder / "img-a/transcript.json").write_text(json.dumps(spoken))
    word = {"word": "x", "begin_time": 0, "end_time": "1.5"}
    original = {"sentence_10": [word | {"word": "last"}], "sentence_2": [word | {"word": "first"}, word], "note": 3}
    (folder / "img-b/transcript.json").write_text('{"full_text": "", "time_stamped_text": []}')
    (folder / "img-b/original_transcript.json").write_text(json.dumps(original))
    readings = egd.read_gaze(tmp_path, Quarantine())
    assert [s.text for s in readings["img-a"][0].sentences] == ["Clear.", "Big heart"]
    assert readings["img-b"][0].sentences == (Sentence("first x", 0.0, 1.5), Sentence("last", 0.0, 1.5))


@pytest.mark.parametrize(
    ("transcript", "reason"),
    [
        (None, "reading without a timed sentence"),
        ({"full_text": "words", "time_stamped_text": []}, "reading without a timed sentence"),
        ({"time_stamped_text": [{"phrase": ".", "begin_time": 0, "end_time": 1}]}, "reading without a timed sentence"),
        ("{not json", "unreadable transcript"),
        ("[]", "unreadable transcript"),
        ("[" * 100_000, "unreadable transcript"),
        ({"time_stamped_text": [{"begin_time": 0}]}, "unreadable transcript"),
        ({"time_stamped_text": {"phrase": "x"}}, "unreadable transcript"),
        ({"time_stamped_text": [{"phrase": "x", "begin_time": "soon"}]}, "unreadable transcript"),
    ],
)
def test_bad_transcripts_are_named(tmp_path, transcript, reason):
    transcripts = {} if transcript is None else {"img-a": transcript}
    write(tmp_path, ["img-a,x,1,0,0,480,480,"], [fixation()], transcripts)
    quarantine = Quarantine()
    assert egd.read_gaze(tmp_path, quarantine) == {}
    assert [(row["id"], row["reason"]) for row in quarantine.rows] == [("egd-img-a", reason)]


def test_bad_fixations_sheets_and_sessions_are_named(tmp_path):
    write(
        tmp_path,
        ["still,x,1,0,0,480,480,", "two,x,2,0,0,480,480,", "pads,x,3,0,0,960,960,", "bad,x,4,0,0,480,480,"],
        [
            fixation("two"),
            fixation("two", session="S2"),
            fixation("bad", x="left"),
            fixation("bad", x=""),
            fixation("pads"),
        ],
        {"two": SPOKEN, "bad": SPOKEN},
    )
    quarantine = Quarantine()
    assert egd.read_gaze(tmp_path, quarantine) == {}
    assert {row["id"]: row["reason"] for row in quarantine.rows if "id" in row} == {
        "egd-still": "reading without a usable fixation",
        "egd-two": "several sessions for one transcript",
        "egd-bad": "reading without a usable fixation",
        "pads": "image without usable pads",
    }
    details = {row["reason"]: row["detail"] for row in quarantine.rows if "detail" in row}
    assert "leave no image" in details["image without usable pads"]
    assert details["malformed row"] == "line 4: 'left' is not a number"


def test_missing_tables_say_where_to_get_them(tmp_path):
    with pytest.raises(SourceError, match=r"master_sheet\.csv.*physionet"):
        egd.read_gaze(tmp_path, Quarantine())
    (tmp_path / "master_sheet.csv").write_text(SHEET + "\n")
    with pytest.raises(SourceError, match=r"fixations\.csv"):
        egd.read_gaze(tmp_path, Quarantine())


def one_reading(root: Path, fixations: list[str], transcript: object = SPOKEN, **options: float):
    """The reading of one image that fills x 480..1440 of the screen, and the reasons for what was set aside."""
    write(root, ["img-a,x,1,0,0,480,480,"], fixations, {"img-a": transcript})
    quarantine = Quarantine()
    readings = egd.read_gaze(root, quarantine, **options).get("img-a", [None])
    return readings[0], quarantine.counts()


def test_durations_in_milliseconds_are_no_fixations(tmp_path):
    rows = [fixation(start=0.5, seconds=250), fixation(start=1.5, seconds=310), fixation(start=2.5, seconds=0.25)]
    assert one_reading(tmp_path / "a", rows) == (None, {"reading whose durations are not in seconds": 1})
    reading, counts = one_reading(tmp_path / "b", rows[1:])
    np.testing.assert_allclose(reading.fixations[:, 2:4], [[2.5, 2.75]], rtol=1e-6)
    assert counts == {"fixations dropped: longer than 30 s": 1}


def test_the_viewing_distance_widens_the_degree(tmp_path):
    reading, _ = one_reading(tmp_path, [fixation()], viewing_distance=35.0)
    np.testing.assert_allclose(reading.fixations[0, 4:], 39.873 * 35 / 28 / np.array([960, 1080]), rtol=1e-4)


def test_places_off_the_image_and_off_the_screen(tmp_path):
    """Half a degree is 19.94 px; the columns of the original's pixels may be missing, and are then not looked at."""
    places = {0.2397: True, 0.2395: False, -0.01: False, 1.07: False, 0.7603: True, 0.7605: False}
    rows = [fixation(x=x, start=i, original=",") for i, x in enumerate(places)]
    reading, counts = one_reading(tmp_path, rows)
    assert reading.fixations[:, 2].tolist() == [i for i, kept in enumerate(places.values()) if kept]
    assert counts == {"fixations dropped: off the image": 4}
    for path in tmp_path.glob("fixations.csv"):
        path.write_text(path.read_text().replace("X_ORIGINAL", "X_OTHER").replace("Y_ORIGINAL", "Y_OTHER"))
    (again,) = egd.read_gaze(tmp_path, Quarantine())["img-a"]
    np.testing.assert_array_equal(again.fixations, reading.fixations)


@pytest.mark.parametrize("mark", ["-1,-1", "-3,-2", "-1,500", "500,-1"])
def test_the_mark_of_a_look_off_the_image_is_any_negative_pixel(tmp_path, mark):
    reading, counts = one_reading(tmp_path, [fixation(original=mark), fixation(start=3.0, original="0,0")])
    assert reading.fixations[:, 2].tolist() == [3.0]
    assert counts == {"fixations dropped: off the image": 1}


def test_samples_stand_in_where_the_fixations_are_missing(tmp_path):
    """Three samples of fixation 7, the last of them lost; two of fixation 8: the last valid one of each counts."""
    rows = [
        f"S1,0,img-a,{i},{now},123,0.5,0.5,{start},{lasted},{number},{valid},10,10"
        for i, (now, start, lasted, number, valid) in enumerate(
            [(1.0, 0.9, 0.1, 7, 1), (1.2, 0.9, 0.3, 7, 1), (1.3, 0.9, 0.4, 7, 0), (2.0, 1.9, 0.1, 8, 1)]
        )
    ]
    rows += ["S1,0,img-a,4,2.5,123,0.5,0.5,1.9,0.6,8,1,10,10"]
    one_reading(tmp_path, [])
    (tmp_path / "fixations.csv").unlink()
    (tmp_path / "eye_gaze.csv").write_text("\n".join([FIXATIONS, *rows]) + "\n")
    quarantine = Quarantine()
    (reading,) = egd.read_gaze(tmp_path, quarantine)["img-a"]
    np.testing.assert_allclose(reading.fixations[:, 2:4], [[0.9, 1.2], [1.9, 2.5]], rtol=1e-6)
    assert quarantine.counts() == {"fixations taken from eye_gaze.csv": 1, "samples dropped: not valid (FPOGV)": 1}
    reading, counts = one_reading(tmp_path, [fixation(start=5.0)])  # with both, the samples are not looked at
    assert (reading.fixations[:, 2].tolist(), counts) == ([5.0], {})


def phrases(*spoken: tuple[str, float, float]) -> dict[str, object]:
    rows = [{"phrase": text, "begin_time": begin, "end_time": end} for text, begin, end in spoken]
    return {"full_text": "", "time_stamped_text": rows}


@pytest.mark.parametrize(
    ("spoken", "wanted"),
    [
        # single words, the period in the last; no period at the end
        ([("Heart", 1, 2), ("big.", 2, 3), ("Clear", 4, 5)], [("Heart big.", 1, 3), ("Clear", 4, 5)]),
        # grouped words, two periods in one phrase: its ten seconds are shared by characters (6 of 15, 9 of 15)
        ([("Clear. No edema.", 0, 10)], [("Clear.", 0, 4), ("No edema.", 4, 10)]),
        # times out of order: from the earliest to the latest of the sentence, in the order of the text
        ([("no", 5, 6), ("effusion.", 3, 4), ("clear.", 1, 2)], [("no effusion.", 3, 6), ("clear.", 1, 2)]),
        # an end before its begin, a sentence of punctuation
        ([("clear.", 3, 2), (".", 4, 5)], [("clear.", 2, 3)]),
    ],
)
def test_sentences_of_phrases(tmp_path, spoken, wanted):
    reading, counts = one_reading(tmp_path, [fixation()], phrases(*spoken))
    assert reading.sentences == tuple(Sentence(*sentence) for sentence in wanted)
    assert not counts


def test_a_damaged_transcript_gives_way_to_the_original_one(tmp_path):
    original = {"sentence_1": [{"word": "clear", "begin_time": 0, "end_time": 1}]}
    write(tmp_path, [], [], {"img-a": original}, "original_transcript.json")
    for damaged in ("{", {"time_stamped_text": None}, phrases()):
        reading, counts = one_reading(tmp_path, [fixation()], damaged)
        assert reading.sentences == (Sentence("clear", 0.0, 1.0),)
        assert counts == {"sentences taken from original_transcript.json": 1}
