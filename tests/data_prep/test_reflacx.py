"""data_prep.reflacx on hand-written folders in the REFLACX 1.0.0 layout (CRLF, as the authors write them)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep import reflacx
from data_prep.records import Quarantine, Sentence, SourceError

META = "id,split,eye_tracking_data_discarded,image,dicom_id,subject_id,image_size_x,image_size_y,Other"
FIXATIONS = (
    "timestamp_start_fixation,timestamp_end_fixation,x_position,y_position,pupil_area_normalized,"
    "angular_resolution_x_pixels_per_degree,angular_resolution_y_pixels_per_degree,window_width,window_level,"
    "xmin_shown_from_image,ymin_shown_from_image,xmax_shown_from_image,ymax_shown_from_image,"
    "xmin_in_screen_coordinates,ymin_in_screen_coordinates,xmax_in_screen_coordinates,ymax_in_screen_coordinates"
)
SHOWN = "1,0.5,0,0,1000,2000,660,0,3180,2160"
WORDS = "word,timestamp_start_word,timestamp_end_word"


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def write_reading(root: Path, name: str, fixations: list[str] | None = None, words: list[str] | None = None) -> None:
    write(root / "main_data" / name / "fixations.csv", FIXATIONS, *(fixations or [f"0.0,1.0,500,500,1,40,40,{SHOWN}"]))
    write(
        root / "main_data" / name / "timestamps_transcription.csv", WORDS, *(words or ["clear,0.5,1.0", ".,1.0,1.25"])
    )


def metadata(root: Path, phase: int, *rows: str) -> None:
    write(root / "main_data" / f"metadata_phase_{phase}.csv", META, *rows)


def test_values_worked_out_by_hand(tmp_path):
    metadata(tmp_path, 1, "P101R000001,train,False,files/x.dcm,img-a,19999901,1000,2000,a|b")
    write_reading(
        tmp_path,
        "P101R000001",
        [
            f"1.0,1.5,250,500,0.9,40,80,{SHOWN}",
            f"-0.75,-0.25,1000,2000,0.9,40,80,{SHOWN}",  # before the recording; at the far corner
            f"2.0,2.5,,,,,,{SHOWN}",  # a blink
            f"3.0,3.0,500,500,0.9,40,80,{SHOWN}",
            f"4.0,5.0,500,500,0.9,0,80,{SHOWN}",  # no resolution: the median, 40
            f"6.0,7.0,500,-41,0.9,40,80,{SHOWN}",  # 41 px above the image, half a degree is 40
        ],
        ["mild,0.5,0.8", "edema,0.9,1.4", ".,1.4,1.5", '",",2.0,2.0', "lungs,2.0,2.5", "clear,2.5,3.0"],
    )
    quarantine = Quarantine()
    readings = reflacx.read_gaze(tmp_path, quarantine)
    assert quarantine.counts() == {  # each with its number in the detail
        "fixations dropped: lost position": 1,
        "fixations dropped: no duration": 1,
        "fixations dropped: off the image": 1,
        "fixations mended: angular resolution": 1,
    }
    assert list(readings) == ["img-a"]
    (reading,) = readings["img-a"]
    assert (reading.id, reading.reader) == ("P101R000001", "reflacx")
    assert reading.sentences == (Sentence("mild edema.", 0.5, 1.5), Sentence("lungs clear", 2.0, 3.0))
    np.testing.assert_allclose(
        reading.fixations,
        [[1.0, 1.0, -0.75, -0.25, 0.04, 0.04], [0.25, 0.25, 1.0, 1.5, 0.04, 0.04], [0.5, 0.25, 4.0, 5.0, 0.04, 0.04]],
        rtol=1e-6,
    )


def test_several_readers_of_one_image_and_phases(tmp_path):
    metadata(tmp_path, 1, *(f"P102R00000{i},train,False,x,img-b,1,1000,2000," for i in (3, 1, 2)))
    metadata(tmp_path, 3, "P300R000009,test,False,x,img-b,1,1000,2000,", "P300R000010,test,False,x,img-c,1,1000,2000,")
    for name in ("P102R000001", "P102R000002", "P102R000003", "P300R000009", "P300R000010"):
        write_reading(tmp_path, name)
    readings = reflacx.read_gaze(tmp_path / "main_data", Quarantine())  # main_data itself will do
    assert [r.id for r in readings["img-b"]] == ["P102R000001", "P102R000002", "P102R000003", "P300R000009"]
    assert [r.id for r in readings["img-c"]] == ["P300R000010"]


def test_what_cannot_be_used_is_named(tmp_path):
    metadata(
        tmp_path,
        2,
        "R1,train,True,x,img,1,1000,2000,",
        "R2,train,False,x,img,1,1000,2000,",
        "R3,train,False,x,img,1,,2000,",
        "R4,train,False,x,img,1,1000,2000,",
        "R5,train,False,x,img,1,1000,2000,",
        "R6,train,False,x,img,1,1000,2000,",
        "R7,train,perhaps,x,img,1,1000,2000,",
        "../R8,train,False,x,img,1,1000,2000,",
    )
    write_reading(tmp_path, "R4", [f",,,,,,,{SHOWN}", f"a,1.0,500,500,1,40,40,{SHOWN}"])
    write_reading(tmp_path, "R5", words=[".,1,2", "word,,"])
    write_reading(tmp_path, "R6")
    (tmp_path / "main_data/R6/fixations.csv").write_bytes(b"")
    quarantine = Quarantine()
    assert reflacx.read_gaze(tmp_path, quarantine) == {}
    reasons = {row.get("id"): row["reason"] for row in quarantine.rows if "id" in row}
    assert reasons == {
        "R1": "reading discarded by the authors",
        "R2": "reading without fixations.csv",
        "R3": "reading without image size",
        "R4": "reading without a usable fixation",
        "R5": "reading without a timed sentence",
        "R6": "unreadable gaze table",
    }
    malformed = [row["detail"] for row in quarantine.rows if row["reason"] == "malformed row"]
    assert malformed == [
        "line 8: 'perhaps' is neither true nor false",
        "line 9: '../R8' is not an id",
        "line 3: 'a' is not a number",
    ]


def test_missing_metadata_says_where_to_get_it(tmp_path):
    with pytest.raises(SourceError, match=r"metadata_phase_1.*physionet"):
        reflacx.read_gaze(tmp_path, Quarantine())


def one_reading(root: Path, fixations: list[str], words: list[str] | None = None, size: str = "1000,2000"):
    """The reading of one image with these rows, and the reasons for what was set aside."""
    metadata(root, 3, f"P300R000001,train,False,x,img,1,{size},")
    write_reading(root, "P300R000001", fixations, words)
    quarantine = Quarantine()
    readings = reflacx.read_gaze(root, quarantine).get("img", [None])
    return readings[0], quarantine.counts()


def test_durations_in_milliseconds_are_no_fixations(tmp_path):
    """One row of 1e9 s is dropped; where most are too long, the reading's times are in other units."""
    rows = [f"{start},{end},500,500,1,40,40,{SHOWN}" for start, end in [(0, 300), (320, 600), (610, 610.2)]]
    assert one_reading(tmp_path / "a", rows) == (None, {"reading whose durations are not in seconds": 1})
    reading, counts = one_reading(tmp_path / "b", [rows[2], f"1,1e9,500,500,1,40,40,{SHOWN}"])
    np.testing.assert_allclose(reading.fixations[:, 2:4], [[610, 610.2]], rtol=1e-6)
    assert counts == {"fixations dropped: longer than 30 s": 1}


def test_a_look_at_the_buttons_beside_the_image_is_none_at_the_image(tmp_path):
    """The image stands at 660 to 3180 of the screen: 1000 px shown as 2520, 2000 as 2160, so 1 px of y is 1.08.

    20 px left of the image are 50.4 on the screen, at x = 609.6: inside the buttons' 10..650. Half a degree is 25 px.
    """
    row = "{},{},{},{},1,50,50," + SHOWN
    at_buttons = row.format(0.0, 0.5, -20, 950)  # y = 1026 on the screen
    above = row.format(1.0, 1.5, -20, 500)  # y = 540: 393 px above them
    in_reach = row.format(2.0, 2.5, -20, 818)  # y = 883.44, less than 50 px above
    out_of_reach = row.format(3.0, 3.5, -20, 816)  # y = 881.28, 51.7 px above
    inside = row.format(4.0, 4.5, 1, 950)  # on the image nothing is a button
    reading, counts = one_reading(tmp_path, [at_buttons, above, in_reach, out_of_reach, inside])
    assert reading.fixations[:, 2].tolist() == [1.0, 3.0, 4.0]
    assert counts == {"fixations dropped: at the buttons": 2}
    # without the columns that say where the image stood, the half degree alone decides
    folder = tmp_path / "main_data/P300R000001"
    for path in folder.glob("fixations.csv"):
        path.write_text(path.read_text().replace("in_screen", "elsewhere"))
    (again,) = reflacx.read_gaze(tmp_path, Quarantine())["img"]
    assert len(again.fixations) == 5


def test_the_part_shown_decides_what_is_beside_it(tmp_path):
    zoomed = "1,0.5,400,800,900,1900,660,0,3180,2160"
    rows = [f"{i},{i}.5,{x},{y},1,40,40,{zoomed}" for i, (x, y) in enumerate([(650, 1000), (390, 1000), (100, 100)])]
    reading, counts = one_reading(tmp_path, rows)
    # 10 px beside the part is within half a degree (20 px), though near no button: it stands at the top of the screen
    np.testing.assert_allclose(reading.fixations[:, :2], [[0.65, 0.5], [0.39, 0.5]], rtol=1e-6)
    assert counts == {"fixations dropped: off the image": 1}


@pytest.mark.parametrize("bad", ["", "0", "-40", "nan", "1000000"])
def test_an_odd_resolution_is_the_readings_median(tmp_path, bad):
    rows = [f"{i},{i}.5,500,500,1,{degree},40,{SHOWN}" for i, degree in enumerate(["30", bad, "50"])]
    reading, counts = one_reading(tmp_path, rows)
    np.testing.assert_allclose(reading.fixations[:, 4], [0.03, 0.04, 0.05], rtol=1e-6)
    np.testing.assert_allclose(reading.fixations[:, 5], 0.02, rtol=1e-6)
    assert counts == {"fixations mended: angular resolution": 1}


@pytest.mark.parametrize(
    "rows",
    [
        [f"{i},{i}.5,,,,,,{SHOWN}" for i in range(3)],  # blinks from first to last
        [f"{i},{i}.5,500,500,1,0,0,{SHOWN}" for i in range(3)],  # no resolution anywhere
        ["," * 16],
        [f"1,1,500,500,1,40,40,{SHOWN}", f"3,2,500,500,1,40,40,{SHOWN}"],
    ],
)
def test_a_reading_of_nothing_but_lost_rows_is_named(tmp_path, rows):
    reading, counts = one_reading(tmp_path, rows)
    assert reading is None
    assert counts["reading without a usable fixation"] == 1


def test_a_table_with_its_header_alone(tmp_path):
    reading, counts = one_reading(tmp_path, [" "])
    assert reading is None
    assert counts == {"reading without a usable fixation": 1}
    write_reading(tmp_path, "P300R000001", words=[" "])
    quarantine = Quarantine()
    assert reflacx.read_gaze(tmp_path, quarantine) == {}
    assert quarantine.counts() == {"reading without a timed sentence": 1}


def test_sentences_of_the_clock_that_starts_with_the_recording(tmp_path):
    """Looks before the recording, after the last word and while nothing is said are kept: the paragraph uses them."""
    rows = [f"{start},{end},500,500,1,40,40,{SHOWN}" for start, end in ((-2.5, -2.0), (0.25, 0.75), (9.0, 9.5))]
    words = [
        "lungs,1.0,1.5",
        "clear,1.5,2.0",
        ".,2.0,2.25",
        ".,2.25,2.5",
        "/,2.5,2.5",
        "no,6.0,6.25",
        "effusion,5.5,6.0",
    ]
    reading, _ = one_reading(tmp_path, rows, words)
    assert reading.fixations[:, 2].tolist() == [-2.5, 0.25, 9.0]
    # a sentence of only punctuation is none; words out of order span from the earliest to the latest
    assert reading.sentences == (Sentence("lungs clear.", 1.0, 2.25), Sentence("/ no effusion", 2.5, 6.25))


def test_one_table_of_all_phases_beside_main_data(tmp_path):
    write(tmp_path / "metadata.csv", f",{META}", "0,P101R000001,train,False,x,img,1,1000,2000,")
    write_reading(tmp_path, "P101R000001")
    assert list(reflacx.read_gaze(tmp_path, Quarantine())) == ["img"]
