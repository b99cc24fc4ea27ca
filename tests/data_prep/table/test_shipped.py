"""The mappings that ship: tiny files in the published layouts, and the real collections."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from cogaze.observations import OBSERVATIONS
from data_prep import table
from data_prep.build import build
from data_prep.records import Quarantine
from data_prep.shards.plan import UNSEEN, meta_of
from data_prep.table.mapping_file import load_mapping
from tests.data_prep.dicom.files import ramp
from tests.data_prep.table.export import reasons

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
CHEXPERT_PLUS = (
    ",path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,"
    "section_narrative,section_clinical_history,section_history,section_comparison,section_technique,"
    "section_procedure_comments,section_findings,section_impression,section_end_of_impression,section_summary,"
    "section_accession_number,age,sex,race,ethnicity,interpreter_needed,insurance_type,recent_bmi,deceased,split"
)


def test_chexpert_plus(tmp_path):
    """Tiny files in the published layout; column names as public code reads them."""
    header = CHEXPERT_PLUS.split(",")

    def row(number: int, path: str, **cells) -> dict[str, str]:
        return {**dict.fromkeys(header, ""), "": str(number), "path_to_image": path, **cells}

    one, two = "train/patient00001/study1/view1_frontal.jpg", "train/patient00001/study1/view2_lateral.jpg"
    three = "valid/patient00002/study1/view1_frontal.jpg"
    rows = [
        row(0, one, frontal_lateral="Frontal", ap_pa="AP", deid_patient_id="patient00001", split="train",
            section_findings="Clear.", section_impression="1. Normal.", section_clinical_history="Cough.",
            section_history="Smoker."),
        row(1, two, frontal_lateral="Lateral", deid_patient_id="patient00001", split="train",
            section_impression="Same."),
        row(2, three, frontal_lateral="Frontal", ap_pa="PA", deid_patient_id="patient00002", split="valid"),
    ]  # fmt: skip
    with open(tmp_path / "df_chexpert_plus_240401.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, header)
        writer.writeheader()
        writer.writerows(rows)
    for path in (one, two, three):
        file = tmp_path / "PNG" / Path(path).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    quarantine = Quarantine()
    plain = list(table.read(tmp_path, quarantine, mapping="chexpert_plus"))
    assert [r.labels for r in plain] == [{}, {}]
    (tmp_path / "chexbert_labels").mkdir()
    names = load_mapping("chexpert_plus").labels.columns
    labels = {**dict.fromkeys(names), "Edema": 0.0, "No Finding": 1.0, "Fracture": -1.0, "path_to_image": one}
    (tmp_path / "chexbert_labels" / "impression_fixed.json").write_text(json.dumps(labels) + "\n")
    quarantine = Quarantine()
    first, second = table.read(tmp_path, quarantine, mapping="chexpert_plus")
    assert (first.image_id, first.study_id, first.patient_id) == (
        "patient00001-study1-view1_frontal", "patient00001-study1", "patient00001",
    )  # fmt: skip
    assert (first.findings, first.impression, first.history) == ("Clear.", "1. Normal.", "Cough. Smoker.")
    assert (first.view, second.view, first.split) == ("AP", "LATERAL", second.split)
    assert first.labels == {**dict.fromkeys(names), "Edema": 0, "No Finding": 1, "Fracture": -1}
    assert (first.label_source, second.labels) == ("chexbert", {})
    assert first.path == tmp_path / "PNG/train/patient00001/study1/view1_frontal.png"
    assert reasons(quarantine) == [
        ("patient00002-study1-view1_frontal", "report without findings and impression"),
        ("", "no row of this key in a joined table"),  # of the second image and of the third
    ]
    assert quarantine.rows[1]["count"] == 2


def test_padchest(tmp_path):
    header = "Unnamed: 0,ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,ViewPosition_DICOM,Projection,Report,Labels"
    lines = [
        "0,1_a.png,0,20140101,s1,p1,POSTEROANTERIOR,PA,sin hallazg .,['normal']",
        "1,1_b.png,0,20140101,s1,p1,LATERAL,L,sin hallazg .,['normal']",
        "2,2_a.png,17,20140102,s2,p2,,AP_horizontal,derram pleural .,\"['pleural effusion', 'NSG tube', '']\"",
        "3,3_a.png,17,20140102,s3,p3,,COSTAL,fractur .,['rib fracture']",
        "4,4_a.png,17,20140102,s4,p4,,PA,sin cambi .,['unchanged']",
        "5,5_a.png,17,20140102,s5,p5,,PA,,",
        "6,6_a.png,17,20140102,s6,p6,,PA,sin hallazg .,\"['exclude', 'normal']\"",
    ]
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    (tmp_path / name).write_text("\n".join([header, *lines]) + "\n")
    for path in ("0/1_a.png", "0/1_b.png", "17/2_a.png", "17/3_a.png", "images/4_a.png", "17/5_a.png", "17/6_a.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.fromarray(ramp(0, 4095, 40, 50)).save(tmp_path / path)
    quarantine = Quarantine()
    records = list(table.read(tmp_path, quarantine, mapping="padchest"))
    assert [(r.image_id, r.view, r.study_id, r.patient_id) for r in records] == [
        ("1_a", "PA", "s1", "p1"), ("1_b", "LATERAL", "s1", "p1"), ("2_a", "AP", "s2", "p2"), ("4_a", "PA", "s4", "p4"),
        ("6_a", "PA", "s6", "p6"),
    ]  # fmt: skip
    assert records[0].labels == {name: int(name == "No Finding") for name in OBSERVATIONS}
    assert {name for name, value in records[2].labels.items() if value} == {"Pleural Effusion", "Support Devices"}
    assert (records[2].label_source, records[3].label_source) == ("padchest", None)
    assert records[3].labels == records[4].labels == {}
    assert records[2].findings == "derram pleural."
    assert sorted(reasons(quarantine)) == [
        ("3_a", "left out by a filter of the mapping"),
        ("5_a", "report without findings and impression"),
    ]


def test_nih_with_the_official_lists(tmp_path):
    """test_list.txt is the test, an eighth of the patients of train_val_list.txt validates, and nobody is in two."""
    names = {number: [f"{number:08d}_{image:03d}.png" for image in range(2)] for number in range(1, 401)}
    train, test = (
        [name for number, images in names.items() if (number % 4 == 0) == last for name in images]
        for last in (False, True)
    )
    (tmp_path / "train_val_list.txt").write_text("\n".join(train))
    (tmp_path / "test_list.txt").write_text("\n".join(test) + "\n")
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,View Position\n"
        + "".join(f"{name},Effusion|Mass,{int(name[9:12])},{int(name[:8])},50,PA\n" for name in train + test)
    )
    folder = tmp_path / "images_001" / "images"
    folder.mkdir(parents=True)
    for name in train + test:
        (folder / name).touch()
    quarantine = Quarantine()
    records = list(table.read(tmp_path, quarantine, mapping="nih_chestxray14"))
    assert quarantine.rows == []
    assert [(r.image_id, r.study_id, r.patient_id, r.view) for r in records[:2]] == [
        ("00000001_000", "00000001_000", "00000001", "PA"), ("00000001_001", "00000001_001", "00000001", "PA"),
    ]  # fmt: skip
    assert {r.path.name for r in records if r.split == "test"} == set(test)
    validating = {r.patient_id for r in records if r.split == "validate"}
    assert not validating & {r.patient_id for r in records if r.split == "train"}
    # 300 patients train or validate: 37.5 expected, with a deviation of 5.7
    assert 20 < len(validating) < 55
    # `printf nih_chestxray14/0/10 | sha256sum` begins with 1a, of 1 with cf, of 4 with 08; an eighth is 20
    of = {int(r.patient_id): r.split for r in records}
    assert (of[10], of[1], of[4]) == ("validate", "train", "test")
    assert records[0].labels["Pleural Effusion"] == records[0].labels["Lung Lesion"] == 1
    assert records[0].labels["Pleural Other"] == 0


# ------------------------------------------------------------------------------------------------ real collections
def real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (REAL / name).is_dir(), reason=f"no {REAL / name} (set COGAZE_REAL_DATA)")


def files_of(root: Path, *folders: str) -> set[str]:
    return {p.relative_to(root).as_posix() for folder in folders for p in (root / folder).rglob("*") if p.is_file()}


@real("covid_chestxray")
def test_the_real_covid_collection():
    root, quarantine = REAL / "covid_chestxray", Quarantine()
    records = list(table.read(root, quarantine, mapping="covid_chestxray"))
    assert quarantine.rows == []
    assert {r.relative_path for r in records} == files_of(root, "images_512")
    with open(root / "metadata.csv", newline="", encoding="utf-8") as stream:
        rows = {Path(row["filename"]).stem: row for row in csv.DictReader(stream)}
    assert len(records) == len(rows) == 162
    views = {"PA": "PA", "AP": "AP", "AP Supine": "AP", "": "UNKNOWN", "?": "UNKNOWN"}
    for record in records:
        row = rows[record.image_id]
        assert record.patient_id == row["patientid"]
        assert record.view == views[row["view"]]
        assert record.findings
        assert (record.labels.get("Pneumonia") == 1) == (row["finding"] not in ("todo", "ARDS", "No Finding"))
        assert (record.labels.get("No Finding") == 1) == (row["finding"] == "No Finding")
        assert (not record.labels) == (row["finding"] in ("todo", "ARDS"))


@real("mhh_covid19")
def test_the_real_hannover_collection(tmp_path):
    root, quarantine = REAL / "mhh_covid19", Quarantine()
    records = list(table.read(root, quarantine, mapping="mhh_covid19"))
    assert quarantine.rows == []
    assert {r.relative_path for r in records} == files_of(root, "images")
    assert Counter(r.view for r in records) == {"AP": 144, "PA": 34}
    assert len({r.patient_id for r in records}) == 51
    some = [r for r in records if r.patient_id in {"024e7871", "042f06a9", "04a33bab"}]
    manifest = build(iter(some), tmp_path / "out", quarantine=quarantine, image_size=64)
    assert manifest["totals"]["images"] == len(some) == 5
    assert manifest["quarantined"] == {}


@real("nih_chestxray14")
def test_the_real_nih_sample():
    root, quarantine = REAL / "nih_chestxray14", Quarantine()
    records = list(table.read(root, quarantine, mapping="nih_chestxray14_benchx"))
    copies = {row["path"] for row in quarantine.rows}
    assert quarantine.counts() == {"second file of one image name": 19}
    assert {r.relative_path for r in records} | copies == files_of(root, "images_224", "images_64", "images_full")
    assert not {r.relative_path for r in records} & copies
    with open(root / "Data_Entry_2017_v2020.csv", newline="") as stream:
        rows = {row["Image Index"]: row for row in csv.DictReader(stream)}
    assert len(records) == len(rows) == len({r.study_id for r in records}) == 745
    for split, name in (("train", "train"), ("validate", "val"), ("test", "test")):
        listed = set((root / "benchx_split" / f"{name}.txt").read_text().split())
        assert {r.path.name for r in records if r.split == split} == listed & set(rows)
    for record in records:
        row = rows[record.path.name]
        assert record.study_id == f"{int(row['Patient ID']):08d}_{int(row['Follow-up #']):03d}"
        assert (record.labels["Pleural Effusion"] == 1) == ("Effusion" in row["Finding Labels"].split("|"))
        assert (record.labels.get("No Finding") == 1) == (row["Finding Labels"] == "No Finding")
        assert not set(meta_of(record, UNSEEN)["labels"]) - set(record.labels)
