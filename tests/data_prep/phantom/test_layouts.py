"""The written files against the documented layouts of the four data sets."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cogaze.observations import OBSERVATIONS
from data_prep.phantom import egd_files, reflacx_files

Row = dict[str, str]


def table(path: Path) -> list[Row]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def columns(path: Path) -> list[str]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return next(csv.reader(io.StringIO(data.decode(), newline="")))


# ------------------------------------------------------------------------------------------------ MIMIC-CXR
def test_mimic_ids_paths_and_sizes(raw: Path) -> None:
    jpg = raw / "mimic-cxr-jpg"
    metadata = table(jpg / "mimic-cxr-2.0.0-metadata.csv.gz")
    names = (jpg / "IMAGE_FILENAMES").read_text().splitlines()
    assert len(metadata) == len(names) == len(set(names))
    for row in metadata:
        subject, study = row["subject_id"], row["study_id"]
        assert re.fullmatch(r"1\d{7}", subject)
        assert re.fullmatch(r"5\d{7}", study)
        assert re.fullmatch(r"([0-9a-f]{8}-){4}[0-9a-f]{8}", row["dicom_id"])
        name = f"files/p{subject[:2]}/p{subject}/s{study}/{row['dicom_id']}.jpg"
        assert name in names
        with Image.open(jpg / name) as image:
            assert image.mode == "L"
            assert image.size == (int(row["Columns"]), int(row["Rows"]))
        assert row["ViewPosition"] in ("PA", "AP", "LATERAL", "LL", "")
        assert re.fullmatch(r"2\d{7}", row["StudyDate"])
        assert re.fullmatch(r"\d{1,6}\.\d{3}", row["StudyTime"])
        report = raw / "mimic-cxr" / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}.txt"
        assert "FINAL REPORT" in report.read_text()
    assert columns(jpg / "mimic-cxr-2.0.0-metadata.csv.gz")[:7] == [
        *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns"),
    ]


def test_mimic_dates_keep_a_patients_order(raw: Path, truth: list[dict[str, Any]]) -> None:
    dates = {row["study_id"]: row["StudyDate"] for row in table(raw / "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz")}
    by_patient: dict[int, list[str]] = {}
    for line in truth:
        by_patient.setdefault(line["subject_id"], []).append(dates[str(line["study_id"])])
    assert any(len(set(days)) > 1 for days in by_patient.values())
    assert all(days == sorted(days) for days in by_patient.values())


def test_mimic_splits(raw: Path) -> None:
    rows = table(raw / "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz")
    assert {row["split"] for row in rows} == {"train", "validate", "test"}
    by_patient: dict[str, set[str]] = {}
    for row in rows:
        by_patient.setdefault(row["subject_id"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_patient.values())


def test_mimic_label_tables(raw: Path, truth: list[dict[str, Any]]) -> None:
    jpg = raw / "mimic-cxr-jpg"
    header = ["subject_id", "study_id", *sorted(OBSERVATIONS)]
    present = {str(line["study_id"]): line["findings"] for line in truth}
    for name in ("chexpert", "negbio"):
        path = jpg / f"mimic-cxr-2.0.0-{name}.csv.gz"
        assert columns(path) == header
        rows = table(path)
        assert {row["study_id"] for row in rows} == set(present)
        assert {value for row in rows for value in list(row.values())[2:]} <= {"1.0", "0.0", "-1.0", ""}
        assert {row["No Finding"] for row in rows} == {"1.0", ""}
        for row in rows:
            for finding in present[row["study_id"]]:
                # negbio may take a hedge for certain
                allowed = {"1.0"} if finding["sure"] else {"-1.0"} if name == "chexpert" else {"-1.0", "1.0"}
                assert row[finding["name"]] in allowed
    test = jpg / "mimic-cxr-2.1.0-test-set-labeled.csv"
    assert set(columns(test)) == {"study_id", *OBSERVATIONS} - {"Lung Opacity"} | {"Airspace Opacity"}


def test_mimic_record_lists(raw: Path) -> None:
    records = table(raw / "mimic-cxr/cxr-record-list.csv.gz")
    assert list(records[0]) == ["subject_id", "study_id", "dicom_id", "path"]
    assert all(row["path"].endswith(f"{row['dicom_id']}.dcm") for row in records)
    reports = table(raw / "mimic-cxr/cxr-study-list.csv.gz")
    assert list(reports[0]) == ["subject_id", "study_id", "path"]
    assert all((raw / "mimic-cxr" / row["path"]).is_file() for row in reports)


def test_truth_boxes_are_inside(truth: list[dict[str, Any]]) -> None:
    seen: Counter[str] = Counter()
    for line in truth:
        for finding in line["findings"]:
            frontal = line["view"] in ("PA", "AP")
            assert finding["boxes"] or not frontal
            seen[finding["name"]] += 1
            for x0, y0, x1, y1 in finding["boxes"]:
                assert 0 <= x0 < x1 <= 1
                assert 0 <= y0 < y1 <= 1
    assert len(seen) >= 8


# ------------------------------------------------------------------------------------------------ REFLACX
@pytest.fixture(scope="module")
def reflacx(raw: Path) -> tuple[Path, list[Row]]:
    root = raw / "reflacx-xray-localization"
    return root, [row for phase in (1, 2, 3) for row in table(root / f"main_data/metadata_phase_{phase}.csv")]


def test_reflacx_metadata(raw: Path, reflacx: tuple[Path, list[Row]], truth: list[dict[str, Any]]) -> None:
    root, rows = reflacx
    split = {line["dicom_id"]: line["split"] for line in truth}
    for phase, labels in ((1, reflacx_files.PHASE_1), (2, reflacx_files.PHASE_2_3), (3, reflacx_files.PHASE_2_3)):
        path = root / f"main_data/metadata_phase_{phase}.csv"
        assert columns(path) == [*reflacx_files.METADATA_COLUMNS, *labels]
        for row in table(path):
            assert re.fullmatch(r"P300R\d{6}" if phase == 3 else rf"P{phase}\d\dR\d{{6}}", row["id"])
            assert row["split"] == split[row["dicom_id"]]
            assert row["image"].startswith("physionet.org/files/mimic-cxr/2.0.0/files/p1")
            local = row["image"].removeprefix("physionet.org/files/mimic-cxr/2.0.0/").replace(".dcm", ".jpg")
            with Image.open(raw / "mimic-cxr-jpg" / local) as image:
                assert image.size == (int(row["image_size_x"]), int(row["image_size_y"]))
            assert row["Support devices"] in ("True", "False")
            assert row["Pneumothorax"] in "012345"
    assert len({row["id"] for row in rows}) == len(rows)
    shared = Counter(row["id"][:4] for row in rows if row["id"][1] in "12")
    assert shared
    assert set(shared.values()) <= {2, 3}
    images = {prefix: {row["dicom_id"] for row in rows if row["id"].startswith(prefix)} for prefix in shared}
    assert all(len(ids) == 1 for ids in images.values())


def test_reflacx_reading_files(reflacx: tuple[Path, list[Row]]) -> None:
    root, rows = reflacx
    discarded = 0
    for row in rows:
        folder = root / "main_data" / row["id"]
        assert columns(folder / "chest_bounding_box.csv") == ["xmin", "ymin", "xmax", "ymax"]
        assert columns(folder / "anomaly_location_ellipses.csv")[:5] == ["xmin", "ymin", "xmax", "ymax", "certainty"]
        if row["eye_tracking_data_discarded"] == "True":
            discarded += 1
            left = {path.name for path in folder.iterdir()}
            assert left == {"anomaly_location_ellipses.csv", "chest_bounding_box.csv"}
            continue
        for name in ("fixations.csv", "timestamps_transcription.csv"):
            content = (folder / name).read_bytes()
            assert content.count(b"\r\n") == content.count(b"\n") > 1
        assert columns(folder / "fixations.csv") == list(reflacx_files.FIXATION_COLUMNS)
        width = int(row["image_size_x"])
        for fix in table(folder / "fixations.csv"):
            assert re.fullmatch(r"-?\d+\.\d{3}", fix["timestamp_start_fixation"])
            assert float(fix["timestamp_end_fixation"]) > float(fix["timestamp_start_fixation"])
            shown = int(fix["xmax_shown_from_image"]) - int(fix["xmin_shown_from_image"])
            assert 0 < shown <= width
            # a degree is 4 to 6 % of a square image's width, less when the reader has zoomed in or it is landscape
            assert 0.02 * width < int(fix["angular_resolution_x_pixels_per_degree"]) < 0.09 * width
            assert int(fix["xmin_in_screen_coordinates"]) >= 660
            assert int(fix["xmax_in_screen_coordinates"]) <= 3180
        words = [word["word"] for word in table(folder / "timestamps_transcription.csv")]
        assert words[-1] == "."
        spoken = " ".join(words).replace(" .", ".").replace(" ,", ",")
        assert (folder / "transcription.txt").read_text() == spoken
    assert discarded == sum(row["eye_tracking_data_discarded"] == "True" for row in rows)
    samples = next(root.glob("gaze_data/*/gaze.csv"))
    assert columns(samples)[:3] == ["timestamp_sample", "x_position", "y_position"]


# ------------------------------------------------------------------------------------------------ EGD
def test_egd_tables(raw: Path) -> None:
    root = raw / "egd-cxr"
    assert len(egd_files.MASTER_COLUMNS) == 59
    master = table(root / "master_sheet.csv")
    assert columns(root / "master_sheet.csv") == list(egd_files.MASTER_COLUMNS)
    assert any("\n" in row["cxr_exam_indication"] for row in master)
    known = {row["dicom_id"] for row in master}
    for row in master:
        assert row["path"].endswith(f"/{row['dicom_id']}.dcm")
        assert re.fullmatch(r"\d0 - \d0", row["anchor_age"])
        assert sum(int(row[name]) for name in ("Normal", "CHF", "pneumonia")) == 1
        assert row["pneumothorax__chx"] in ("1", "0", "-1", "")
    fixations = table(root / "fixations.csv")
    assert columns(root / "fixations.csv") == list(egd_files.GAZE_COLUMNS)
    strangers = {row["DICOM_ID"] for row in fixations} - known
    assert len(strangers) == 1  # the calibration picture
    assert {row["FPOGV"] for row in fixations} == {"0", "1"}
    negative = [int(row["X_ORIGINAL"]) for row in fixations if int(row["X_ORIGINAL"]) < 0]
    assert negative
    assert min(negative) >= -3
    for row in fixations[:300]:
        assert float(row["Time (in secs)"]) == pytest.approx(float(row["FPOGS"]) + float(row["FPOGD"]), abs=1e-4)
    boxes = table(root / "bounding_boxes.csv")
    assert columns(root / "bounding_boxes.csv") == ["dicom_id", "bbox_name", "x1", "x2", "y1", "y2"]
    assert set(Counter(row["dicom_id"] for row in boxes).values()) == {17}
    assert all(float(row["x1"]) < float(row["x2"]) and float(row["y1"]) < float(row["y2"]) for row in boxes)
    assert len(table(root / "eye_gaze.csv")) > len(fixations) / len(known)


def test_egd_transcripts(raw: Path) -> None:
    grouped = 0
    for path in (raw / "egd-cxr/audio_segmentation_transcripts").glob("*/transcript.json"):
        transcript = json.loads(path.read_text())
        assert set(transcript) == {"full_text", "time_stamped_text"}
        phrases = transcript["time_stamped_text"]
        assert phrases[-1]["phrase"].endswith(".")
        joined = " ".join(phrase["phrase"] for phrase in phrases)
        assert joined.lower() == transcript["full_text"].lower()
        grouped += any(" " in phrase["phrase"] for phrase in phrases)
        times = [time for phrase in phrases for time in (phrase["begin_time"], phrase["end_time"])]
        assert times == sorted(times)
    assert grouped > 0
