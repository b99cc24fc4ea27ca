"""data_prep.mimic_cxr on a tiny hand-written collection: every field, every repair, every row set aside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cogaze.observations import OBSERVATIONS
from data_prep import phantom
from data_prep.records import SourceError
from tests.data_prep import test_egd, test_reflacx
from tests.data_prep.mimic_collection import Collection, labels, read


@pytest.fixture
def collection(tmp_path) -> Collection:
    return Collection(tmp_path / "raw")


@pytest.mark.parametrize("zipped", [False, True])
def test_records_by_hand(collection, zipped):
    collection.image("b", study=50000002, view="LATERAL")
    collection.image("a", study=50000002, view="", meanings="postero-anterior,Erect")
    collection.image("z", patient=10000000.0, study=50000009, view=" pa lld ", split="validate")
    collection.chexpert += [
        labels(50000002, Edema="-1.0", Fracture="1.0"),
        labels(50000009, 10000000, No_Finding="1.0"),
    ]
    # the float-like id must lead to the same folder as the whole one
    shutil.move(collection.root / "mimic-cxr/files/p10/p10000000.0", collection.root / "mimic-cxr/files/p10/p10000000")
    shutil.move(collection.jpg / "files/p10/p10000000.0", collection.jpg / "files/p10/p10000000")
    records, quarantine = read(collection.write(zipped))
    assert quarantine.rows == []
    assert [(r.patient_id, r.study_id, r.image_id, r.split, r.view) for r in records] == [
        ("10000000", "50000009", "z", "validate", "PA LLD"),
        ("10000001", "50000002", "a", "train", "PA"),
        ("10000001", "50000002", "b", "train", "LATERAL"),
    ]
    first = records[1]
    assert (first.source, first.relative_path) == ("mimic_cxr", "files/p10/p10000001/s50000002/a.jpg")
    assert first.path == collection.jpg / first.relative_path
    assert (first.findings, first.impression, first.indication, first.history) == (
        "Clear 50000002.", "Normal.", "M with cough.", None,
    )  # fmt: skip
    assert {name: v for name, v in first.labels.items() if v is not None} == {"Edema": -1, "Fracture": 1}
    assert set(first.labels) == set(OBSERVATIONS)
    assert first.label_source == "chexpert"
    assert first.readings == ()
    assert read(collection.root, labels="negbio")[0][0].labels == {}  # the table has no row: unknown


def test_view_repair(collection):
    cases = {
        ("AP", "x,y"): "AP", ("ll", ","): "LL", ("", ",lateral"): "LATERAL", ("nan", "antero-posterior,Erect"): "AP",
        ("", "CHEST (PA AND LAT),left lateral"): "LL", ("L5 S1", ","): "UNKNOWN", ("", ","): "UNKNOWN",
        ("", ",Postero-Anterior"): "PA", ("", ",right lateral"): "LATERAL", ("", ",left anterior oblique"): "LAO",
        ("", ",right anterior oblique"): "RAO", ("", ",left posterior oblique"): "LPO",
        ("", ",right posterior oblique"): "RPO", ("PA", ",antero-posterior"): "PA",
    }  # fmt: skip
    for i, (view, meanings) in enumerate(cases):
        collection.image(f"i{i:02}", view=view, meanings=meanings)
    records, _ = read(collection.write())
    assert [r.view for r in records] == list(cases.values())


def test_the_size_that_the_table_says_is_width_and_height(collection):
    cases = {"2544": (2544, 3000), "2544.0": (2544, 3000), "": None, "wide": None, "0": None, "-1": None, "1e9": None}
    for i in range(len(cases)):
        collection.image(f"i{i}")
    collection.meta = [f"{line},{cell}" for line, cell in zip(collection.meta, ["Columns", *cases], strict=True)]
    records, quarantine = read(collection.write())
    assert [r.size for r in records] == list(cases.values())
    assert quarantine.rows == []


def test_words_for_the_splits_and_pictures_by_another_name(collection):
    for i, word in enumerate(("train", "validate", "val", "TEST")):
        collection.image(f"i{i}", patient=10000001 + i, study=50000001 + i, split=word)
    smaller = collection.jpg / "files/p10/p10000002/s50000002/i1.jpg"
    smaller.rename(smaller.with_suffix(".png"))
    both = collection.jpg / "files/p10/p10000003/s50000003/i2.jpg"
    shutil.copy(both, both.with_suffix(".png"))
    records, quarantine = read(collection.write())
    assert [(r.split, r.path.suffix) for r in records] == [
        ("train", ".jpg"), ("validate", ".png"), ("validate", ".jpg"), ("test", ".jpg"),
    ]  # fmt: skip
    assert [r.relative_path.rpartition(".")[2] for r in records] == ["jpg", "png", "jpg", "jpg"]
    assert quarantine.rows == []


def test_a_report_that_cannot_be_read_costs_its_study(collection, monkeypatch):
    collection.image("a")
    collection.image("b", study=50000002)
    root, whole = collection.write(), Path.read_bytes

    def fails(path: Path) -> bytes:
        if path.name == "s50000001.txt":
            raise OSError("a bad block")
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    records, quarantine = read(root)
    assert [r.image_id for r in records] == ["b"]
    assert [(row["id"], row["reason"]) for row in quarantine.rows] == [("a", "report cannot be read")]
    assert quarantine.noted["studies without a report"] == 1


def test_radiologist_labels_override(collection):
    collection.image("a", split="test")
    collection.image("b", study=50000002, split="test")
    collection.chexpert += [labels(50000001, Edema="1.0"), labels(50000002, Edema="1.0")]
    header = ["study_id", *(n if n != "Lung Opacity" else "Airspace Opacity" for n in OBSERVATIONS)]
    row = ["50000002", *("1" if n == "Lung Opacity" else "0" for n in OBSERVATIONS)]
    root = collection.write()
    (collection.jpg / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text(f"{','.join(header)}\n{','.join(row)}\n")
    first, second = read(root)[0]
    assert (first.label_source, first.labels["Edema"], first.labels["Lung Opacity"]) == ("chexpert", 1, None)
    assert (second.label_source, second.labels["Edema"], second.labels["Lung Opacity"]) == ("radiologist", 0, 1)


def test_label_tables_by_name(collection, tmp_path):
    collection.image("a")
    collection.image("b", study=50000002)
    collection.chexpert += [labels(50000001, Edema="1.0"), labels(50000002, Edema="1.0")]
    root = collection.write()
    # CheXbert's output: its own order, blank, 1, 0 and -1, and the study ids beside the texts it was given
    names = ["Report Impression", *OBSERVATIONS, "study_id"]
    rows = [["Mass, see text.", *("-1" if n == "Lung Lesion" else "" for n in OBSERVATIONS), "50000001"]]
    table = tmp_path / "labelled_reports.csv"
    table.write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in [names, *rows]))
    first, second = read(root, labels="chexbert", label_table=table)[0]
    assert (first.label_source, first.labels["Lung Lesion"], first.labels["Edema"]) == ("chexbert", -1, None)
    assert (second.label_source, second.labels) == (None, {})
    rows[0][-1] = "s50000001"  # as the report's file is called
    table.write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in [names, *rows]))
    (first, _), quarantine = read(root, labels="chexbert", label_table=table)
    assert first.labels["Lung Lesion"] == -1
    assert quarantine.noted["studies in the chexbert table"] == 1
    first, second = read(root, labels="none")[0]
    assert (first.labels, second.label_source) == ({}, None)
    radiologist = "study_id," + ",".join(OBSERVATIONS) + "\n50000001" + ",0" * 14 + "\n"
    (collection.jpg / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text(radiologist)
    assert read(root)[0][0].label_source == "radiologist"
    assert [(one.labels, one.label_source) for one in read(root, labels="none")[0]] == [({}, None)] * 2
    assert read(root, radiologist=False)[0][0].label_source == "chexpert"
    for message, options in {
        "run CheXbert and name its output": {"labels": "chexbert"},
        "set to none": {"labels": "none", "label_table": table},
        "nowhere.csv does not exist": {"label_table": tmp_path / "nowhere.csv"},
    }.items():
        with pytest.raises(SourceError, match=message):
            read(root, **options)
    table.write_text("Report Impression," + ",".join(OBSERVATIONS) + "\n")  # as CheXbert leaves it
    with pytest.raises(SourceError, match="no column 'study_id'"):
        read(root, labels="chexbert", label_table=table)


def test_dicom_files_instead_of_jpgs(collection, tmp_path):
    jpg = collection.image("a")
    collection.image("b", study=50000002)
    root = collection.write()
    with pytest.raises(SourceError, match="no DICOM files"):
        read(root, pixels="dicom")
    dicom = root / "mimic-cxr" / jpg.relative_to(collection.jpg).with_suffix(".dcm")
    dicom.parent.mkdir()
    dicom.write_bytes(b"not decoded here")
    records, quarantine = read(root, pixels="dicom")
    assert [(r.image_id, r.path, r.relative_path) for r in records] == [
        ("a", dicom, "files/p10/p10000001/s50000001/a.dcm")
    ]
    assert [(row["id"], row["reason"], row["path"]) for row in quarantine.rows] == [
        ("b", "image file missing", "files/p10/p10000001/s50000002/b.dcm")
    ]
    assert [r.path.suffix for r in read(root)[0]] == [".jpg", ".jpg"]
    # pictures elsewhere, without the folder `files`; and the tables laid into the DICOM project
    shutil.copytree(collection.jpg / "files", tmp_path / "small")
    records = read(root, images=tmp_path / "small")[0]
    assert [r.relative_path for r in records] == [f"p10/p10000001/s5000000{i}/{n}.jpg" for i, n in ((1, "a"), (2, "b"))]
    for table in collection.jpg.glob("*.csv"):
        shutil.move(table, root / "mimic-cxr")
    shutil.rmtree(collection.jpg)
    for start in (root, root / "mimic-cxr"):
        assert [r.path for r in read(start, pixels="dicom")[0]] == [dicom]
    with pytest.raises(SourceError, match="images folder"):
        read(root, images=tmp_path / "nowhere")


def test_images_without_text_are_kept_on_request(collection):
    collection.image("a", report=False)
    collection.image("b", study=50000002, report=" FINDINGS: ___\n INDICATION: Cough.\n HISTORY: Asthma.\n")
    collection.chexpert.append(labels(50000001, Edema="1.0"))
    root = collection.write()
    shutil.move(root / "mimic-cxr", root / "hidden")
    with pytest.raises(SourceError, match="no MIMIC-CXR reports"):
        read(root)
    first, second = read(root, without_text=True)[0]
    assert (first.findings, first.impression, first.indication, first.labels["Edema"]) == (None, None, None, 1)
    assert second.indication is None
    shutil.move(root / "hidden", root / "mimic-cxr")
    records, quarantine = read(root, without_text=True)
    assert [(r.findings, r.indication, r.history) for r in records] == [
        (None, None, None), (None, "Cough.", "Asthma."),
    ]  # fmt: skip
    assert quarantine.rows == []


def test_last_paragraph_and_hand_set_studies(collection):
    collection.image("a", report=" INDICATION: Pain.\n \n Lungs are clear.\n")
    collection.image("b", study=50913680, report=" COMPARISON: None.\n \n Rest.\n RECOMMENDATION(S): Mass, do CT.\n")
    collection.image("c", study=58235663, report=" COMPARISON: None.\n \n Rest.\n")
    records, quarantine = read(collection.write())
    assert [(r.findings, r.indication) for r in records] == [("Lungs are clear.", "Pain."), ("Mass, do CT.", None)]
    assert [(row["id"], row["reason"]) for row in quarantine.rows] == [("c", "report without findings and impression")]


def test_what_was_read_is_counted_before_anything_is_set_aside(collection):
    collection.image("a", view=" ap ")
    collection.image("b", view="LL", report=" FINDINGS: Clear.\n")
    collection.image("c", study=50000002, view="", meanings="postero-anterior,", report=" HISTORY: A.\n\n Clear.\n")
    collection.image("d", patient=10000002, study=50000003, view="", split="test", report=False)
    collection.image("e", patient=10000003, study=50000004, view="lao", split="test", report=" COMPARISON: None.\n")
    collection.image("leak", patient=10000002, study=50000005, split="validate")
    collection.chexpert += [labels(50000001), labels(59999999)]
    _, quarantine = read(collection.write())
    assert dict(quarantine.noted) == {
        "images": 6, "studies": 5, "patients": 3, "image files": 4,  # of those not set aside already
        "train images": 3, "train studies": 2, "train patients": 1,
        "train frontal": 2, "train lateral": 1, "train other": 0,
        "validate images": 1, "validate studies": 1, "validate patients": 1,
        "validate frontal": 1, "validate lateral": 0, "validate other": 0,
        "test images": 2, "test studies": 2, "test patients": 2,
        "test frontal": 0, "test lateral": 0, "test other": 2,
        "view AP": 1, "view LL": 1, "view blank": 2, "view LAO": 1, "view PA": 1,
        "studies in the chexpert table": 1,
        "reports with findings only": 1, "reports with last paragraph only": 1, "reports with none of these": 1,
    }  # fmt: skip


def test_files_that_no_table_names_and_files_that_are_not_there(collection):
    for name in "abc":
        collection.image(name)
    collection.image("d", study=50000002).unlink()
    collection.image("unsplit", study=50000003)
    collection.split.pop()
    folder = collection.jpg / "files" / "p10" / "p10000001"
    (folder / "s50000001" / "stray.jpg").write_bytes(b"")
    (folder / "s50000001" / "index.html").write_bytes(b"")
    (folder / "s50000001" / "e.jpg").mkdir()
    (folder / "s50000009").mkdir()
    records, quarantine = read(collection.write())
    assert [record.image_id for record in records] == ["a", "b", "c"]
    assert sorted((row["reason"], row.get("id"), row.get("path")) for row in quarantine.rows) == [
        ("image file missing", "d", "files/p10/p10000001/s50000002/d.jpg"),
        ("image file that no table names", "stray", "files/p10/p10000001/s50000001/stray.jpg"),
        ("image not in the split table", "unsplit", None),
        ("study folder that no table names", None, "files/p10/p10000001/s50000009"),
    ]
    assert (quarantine.noted["images"], quarantine.noted["image files"]) == (4, 3)


def test_ids_as_floats_windows_lines_and_a_mark_of_byte_order(collection):
    collection.image("a")
    collection.chexpert.append(labels(50000001, Edema="1.0"))
    root = collection.write()
    for path in collection.jpg.glob("*.csv"):
        text = path.read_text().replace("50000001", "50000001.0").replace("10000001", "10000001.0")
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    records, quarantine = read(root)
    assert [(r.patient_id, r.study_id, r.labels["Edema"]) for r in records] == [("10000001", "50000001", 1)]
    assert quarantine.rows == []


def test_what_is_set_aside_is_named_image_by_image(collection):
    collection.image("good")
    collection.image("same")
    collection.meta.append(collection.meta[-1])
    collection.image("differs")
    collection.meta.append(collection.meta[-1].replace("PA", "AP"))
    collection.image("two-splits")
    collection.split.append(collection.split[-1].replace("train", "test"))
    collection.image("no-split")
    collection.split.pop()
    collection.image("no-meta")
    collection.meta.pop()
    collection.image("moved")
    collection.split[-1] = "moved,50000077,10000001,train"
    collection.image("leak-a", patient=10000002, study=50000002)
    collection.image("leak-b", patient=10000002, study=50000003, split="test")
    collection.image("shared-a", patient=10000003, study=50000004)
    collection.image("shared-b", patient=10000004, study=50000004)
    collection.image("no-report", study=50000005, report=False)
    collection.image("empty", study=50000006, report=" FINDINGS: ___\n IMPRESSION:")
    collection.image("gone", study=50000007).unlink()
    collection.meta += ["bad-study,10000001,s5,PA,1,,", "short,1000", "bad/../id,10000001,50000001,PA,1,,"]
    collection.image("odd-split", split="dev")
    records, quarantine = read(collection.write())
    assert [r.image_id for r in records] == ["good", "same"]
    assert {(row["id"], row["reason"]) for row in quarantine.rows if "id" in row} == {
        ("same", "duplicate row"),
        ("differs", "contradicting rows for one id"),
        ("two-splits", "image listed twice with another split or study"),
        ("no-split", "image not in the split table"),
        ("no-meta", "image not in the metadata table"),
        ("moved", "metadata and split tables disagree on patient or study"),
        ("leak-a", "patient in two splits"),
        ("leak-b", "patient in two splits"),
        ("shared-a", "study of two patients"),
        ("shared-b", "study of two patients"),
        ("no-report", "study without a report"),
        ("empty", "report without findings and impression"),
        ("gone", "image file missing"),
        ("odd-split", "image not in the split table"),
    }
    assert quarantine.counts()["malformed row"] == 4


def test_gaze_of_both_data_sets_joins_the_image(collection):
    collection.image("img-a")
    collection.image("img-b", study=50000002, report=False)
    root = collection.write()
    gaze = root / "reflacx-xray-localization" / "1.0.0"
    test_reflacx.metadata(
        gaze, 1, *(f"P{i},train,False,x,{d},1,1000,2000," for i, d in enumerate(["img-a", "img-a", "img-b", "else"]))
    )
    for i in range(4):
        test_reflacx.write_reading(gaze, f"P{i}")
    (root / "egd-cxr").mkdir()
    test_egd.write(root / "egd-cxr", ["img-a,x,1,0,0,480,480,"], [test_egd.fixation()], {"img-a": test_egd.SPOKEN})
    records, quarantine = read(root)
    assert [[reading.id for reading in r.readings] for r in records] == [["P0", "P1", "egd-img-a"]]
    unused = [(row["id"], row["detail"]) for row in quarantine.rows if row["reason"] == "reading without its image"]
    assert unused == [
        ("P3", "image else is not among the usable images"),
        ("P2", "image img-b is not among the usable images"),
    ]
    near, far = (read(root, viewing_distance=inches)[0][0].readings[2].fixations[0, 4] for inches in (14.0, 28.0))
    assert far == pytest.approx(2 * near)  # a degree is as wide as its reader sat far away
    assert far == records[0].readings[2].fixations[0, 4]


def test_the_phantom_is_read_back_whole(tmp_path):
    """The phantom writer's own counts and truth (what was said of which image) against what the readers find."""
    totals = phantom.write(tmp_path / "raw", studies=8, seed=3, size=64, gaze_share=0.7)
    records, quarantine = read(tmp_path / "raw")
    assert set(quarantine.counts()) <= {
        "gaze on an image that master_sheet does not name (calibration)",
        "reading discarded by the authors",
        "fixations dropped: not valid (FPOGV)",
        "fixations dropped: off the image",
    }
    readings = [reading for record in records for reading in record.readings]
    assert len(records) == totals["images"]
    assert len({record.study_id for record in records}) == totals["studies"]
    assert len(readings) == totals["reflacx_readings"] + totals["egd_readings"] > 0
    lines = (tmp_path / "raw" / phantom.TRUTH).read_text().splitlines()
    truth = {row["dicom_id"]: row for row in map(json.loads, lines)}
    for record in records:
        told = {tuple(s["text"] for s in reading["sentences"]) for reading in truth[record.image_id]["readings"]}
        assert {tuple(s.text.rstrip(".") for s in reading.sentences) for reading in record.readings} == told
        assert record.findings or record.impression
