"""data_prep.annotations: a file made here in the layout of the authors' annotation files, and everything odd in one."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cogaze.observations import OBSERVATIONS
from data_prep.annotations import labels_of
from data_prep.records import SourceError
from tests.data_prep.annotation_files import CODES, GAZE, Files, annotation, reasons, records
from tests.hand_made import picture


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "raw")


def test_a_record_by_hand(files):
    item = annotation(study=59999901.0, patient=19999901, history_pure="  ___ asthma")
    item["anchor_scan"]["image_path"] = ["p19/p19999901/s59999901/a1b2-c3.jpg"]
    files.image(item)
    found, quarantine = records(files.write(val=[item]))
    assert quarantine.rows == []
    (record,) = found
    assert (record.source, record.image_id, record.study_id, record.patient_id, record.split, record.view) == (
        "cogaze_annotations", "a1b2-c3", "59999901", "19999901", "validate", "PA",
    )  # fmt: skip
    assert record.path == files.images / "p19/p19999901/s59999901/a1b2-c3.jpg"
    assert record.findings == "The lungs are clear. Heart size is enlarged."
    assert (record.impression, record.indication, record.history) == (None, "cough and fever", "asthma")
    expected = {"Cardiomegaly": 1, "Edema": -1, "Consolidation": 0, "Pneumonia": 0, "Pneumothorax": 0,
                "Pleural Effusion": 0}  # fmt: skip
    assert record.labels == {name: expected.get(name) for name in OBSERVATIONS}
    assert (record.label_source, record.readings) == ("chexbert", ())
    assert dict(quarantine.noted) == {"validate images": 1, "validate readings": 0}


def test_order_and_the_words_for_the_splits(files):
    items = [
        annotation(image, study=f"5000000{study}", patient=f"1999990{patient}", sentence_gaze_heatmap=float("nan"))
        for image, study, patient in (("a", 3, 2), ("b", 2, 2), ("c", 9, 1), ("b2", 2, 2))
    ]
    for item in items:
        files.image(item)
    root = files.write(items[0], validate=items[1:2], valid=items[2:3], test=items[3:])
    found, quarantine = records(root)
    assert quarantine.rows == []  # NaN in place of gaze is none
    assert [(r.image_id, r.split) for r in found] == [
        ("c", "validate"), ("b", "validate"), ("b2", "test"), ("a", "train"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (CODES[:13], "13 in place of 14"),
        ([*CODES, 0], "15 in place of 14"),
        ([4, *CODES[1:]], "Enlarged Cardiomediastinum is 4"),
        ([-1, *CODES[1:]], "is -1"),
        ([float("nan"), *CODES[1:]], "is nan"),
        ([True, *CODES[1:]], "is True"),
        (["1", *CODES[1:]], "is 1"),
        ([0.5, *CODES[1:]], "is 0.5"),
        ("01", "str in place"),
        (7, "int in place"),
    ],
)
def test_unusable_labels_leave_the_image_unlabelled(files, codes, message):
    found, quarantine = records(files.write(annotation(disease_labels=codes)))
    assert (found[0].labels, found[0].label_source) == ({}, None)
    assert reasons(quarantine) == [("a1b2-c3", "unusable labels")]
    assert message in quarantine.rows[0]["detail"]


def test_codes():
    assert labels_of([float(code) for code in CODES]) == labels_of(CODES)
    assert list(labels_of(CODES)) == list(OBSERVATIONS)


def test_records_that_are_set_aside(files):
    good = annotation("good", study="50000001")
    bad = [
        "text", None, {}, annotation("x", anchor_scan=None), annotation("../x"), annotation(""), annotation(True),
        annotation("x", study=None), annotation("x", patient=float("nan")),
    ]  # fmt: skip
    paths = ["/etc/passwd", "../../secret.jpg", "p10/../../x.jpg", "C:\\x.jpg", "..\\x.jpg", "", None, 5, "a\0b"]
    bad += [annotation("x", anchor_scan={"image_path": [path], "view_position": ["PA"]}) for path in paths]
    root = files.write(good, dev=[annotation("odd-split")])
    content = json.loads((root / "cogaze_mimic_cxr_annotation_v0.json").read_text())
    content["train"] += [
        *bad,
        annotation("no-text", study="50000002", findings=None),
        annotation("nan-text", study="50000003", findings=float("nan")),
        annotation("blank", study="50000004", findings=" ___ ."),
        annotation("no-facts", study="50000005", findings_factual_serialization=[]),
        annotation("gone", study="50000006"),
        annotation("good", study="50000001", findings="Another text."),
        annotation("good", study="50000001", disease_labels=[1, *CODES[1:]]),
        annotation("good", study="50000001"),
        annotation("twice", study="50000007"),
        annotation("twice", study="50000008"),
    ]
    (root / "cogaze_mimic_cxr_annotation_v0.json").write_text(json.dumps(content))
    found, quarantine = records(root)
    assert [(r.image_id, r.findings) for r in found] == [("good", "The lungs are clear. Heart size is enlarged.")]
    assert quarantine.counts()["malformed record"] == len(bad) + 1
    assert [row for row in reasons(quarantine) if row[1] != "malformed record"] == [
        ("no-text", "record without findings"),
        ("nan-text", "record without findings"),
        ("blank", "record without findings"),
        ("no-facts", "record without facts"),
        ("good", "records of one image differ in text or labels"),
        ("good", "records of one image differ in text or labels"),
        ("good", "duplicate record"),
        ("gone", "image file missing"),
        ("twice", "records of one image contradict each other"),
    ]


def test_structured_reports(files):
    paths = ["p10/p10000032/s50414267/one.jpg", "p10/p10000032/s50414267/two.jpg"]
    item = {
        "id": "mimic-50414267", "image_paths": paths, "view_positions": ["PA", "LATERAL"], "history_section": None,
        "findings_section": "Pleura:- No effusion.- No pneumothorax.Cardiovascular:- Normal.",
    }  # fmt: skip
    stanford = {**item, "id": "patient00123-study1", "image_paths": ["patient00123/study1/view1_frontal.jpg"]}
    nobody = {**item, "id": "mimic-5", "image_paths": ["elsewhere/x.jpg"]}
    for path in [*paths, *stanford["image_paths"]]:
        picture(files.images / path, 30, 30)
    found, quarantine = records(
        files.write(item, {**stanford, "history_section": "Pain."}, nobody, {"image_paths": []})
    )
    assert [(r.image_id, r.study_id, r.patient_id, r.view, r.history) for r in found] == [
        ("patient00123-study1-view1_frontal", "patient00123-study1", "00123", "", "Pain."),
        ("one", "mimic-50414267", "10000032", "PA", None),
        ("two", "mimic-50414267", "10000032", "LATERAL", None),
    ]
    assert found[1].findings == item["findings_section"]
    assert quarantine.counts() == {"malformed record": 2}


def test_what_is_missing_as_a_whole(files, tmp_path):
    with pytest.raises(SourceError, match="there is: none"):
        records(files.root)
    root = files.write(annotation())
    (root / "second_annotation.json").write_text("{}")
    with pytest.raises(SourceError, match=r"second_annotation\.json; name the file"):
        records(root)
    assert records(root, annotations=root / "second_annotation.json")[0] == []
    named = root / "cogaze_mimic_cxr_annotation_v0.json"
    for options, message in (
        ({"annotations": root / "nowhere.json"}, "does not exist"),
        ({"annotations": named, "gaze": root / "nowhere"}, "gaze folder"),
        ({"annotations": named, "images": root / "nowhere"}, "no image folder"),
    ):
        with pytest.raises(SourceError, match=message):
            records(root, **options)
    assert len(records(root, annotations=named, images=files.images)[0]) == 1
    assert len(records(root, annotations=named, images=root)[0]) == 1  # the folder above `files` will do
    named.write_text(named.read_text()[:-40])
    with pytest.raises(SourceError, match="interrupted download"):
        records(root, annotations=named)


KEYS = [key for key in annotation() if key != "id"] + ["image_paths", "view_positions"]
ODD = st.one_of(
    st.sampled_from([None, True, 0, -7, 1.5, float("nan"), float("inf"), "", " ", "../x", "a\0b", "\ud800", "x" * 300]),
    st.sampled_from(
        [[], {}, [[]], [None], {"image_dir": "../gaze"}, GAZE, {"image_path": []}, ["p10/p10000032/x.jpg"]]
    ),
    st.lists(st.integers(-1, 4), min_size=13, max_size=15),
    st.text(max_size=8),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=4), max_size=5))
def test_any_records_end_in_a_record_or_in_the_quarantine(files, items):
    """Whatever stands in the fields: each image is there or set aside by name, and nothing of a field is told."""
    files.reading()
    root = files.write()
    listed = [annotation(f"i{n}", study=f"5000000{n}") for n in range(len(items))]
    for item, changes in zip(listed, items, strict=True):
        path = files.images / item["anchor_scan"]["image_path"][0]
        if not path.is_file():
            files.image(item)
        item.update(changes)
    (root / "cogaze_mimic_cxr_annotation_v0.json").write_text(json.dumps({"train": listed}))
    found, quarantine = records(root)
    assert list(quarantine.lines()) == sorted(quarantine.lines())  # each can be written
    told = {row.get("id") for row in quarantine.rows} | {record.image_id for record in found}
    malformed = {row["detail"].partition(" (")[0] for row in quarantine.rows if row["reason"] == "malformed record"}
    for n, item in enumerate(listed):
        assert f"i{n}" in told or f"record {n}" in malformed or "image_paths" in item
    for record in found:
        assert record.findings
        assert record.path.is_relative_to(files.images)
        assert record.path.is_file()
        assert all(len(reading.heatmaps) == 1 + len(reading.sentences) for reading in record.readings)
    assert not any("Heart size" in str(row) for row in quarantine.rows)
