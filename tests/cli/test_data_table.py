"""`cogaze data build` of tables and folders of DICOM, by a mapping, and labels for what has none."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel, BertTokenizerFast

from cogaze.observations import OBSERVATIONS
from tests.cli.test_data import FAILED, USAGE, call, refused
from tests.cli.test_data_mimic import built
from tests.data_prep.dicom.files import dataset, ramp, write
from tests.hand_made import picture

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "dicom_samples"
ROWS = """file,study,mrn,proj,report,edema
a.png,s1,0042,p.a.,"FINDINGS: Small left effusion. No edema.

IMPRESSION: Effusion.",
b.png,s1,0042,lateral,"FINDINGS: Small left effusion. No edema.

IMPRESSION: Effusion.",
c.png,s2,0043,p.a.,FINDINGS: Severe edema.,0
d.png,s3,0044,p.a.,,
gone.png,s4,0045,p.a.,FINDINGS: Clear.,
cut.png,s5,0046,p.a.,FINDINGS: Clear.,1
a.png,s1
"""
MAPPING: dict[str, Any] = {
    "source": "st_elsewhere",
    "table": "studies.csv",
    "image": {"path": "images/{file}"},
    "ids": {"study": "study", "patient": "{mrn|8}"},
    "split": {"shares": {"train": 1.0}},
    "view": {"column": "proj", "words": {"p.a.": "PA"}},
    "text": {"report": "report", "required": False},
    "labels": {"source": "radiologist", "columns": {"Edema": "edema"}},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "export"
    for name in ("a", "b", "c", "d", "cut"):
        path = picture(root / "images" / f"{name}.png", 48, 40)
    path.write_bytes(path.read_bytes()[:200])
    (root / "studies.csv").write_text(ROWS)
    (root / "export.yaml").write_text(yaml.safe_dump(MAPPING))
    return root


def source(root: Path, mapping: object = None) -> tuple[object, ...]:
    return ("--source", "table", "--root", root, "--mapping", mapping or root / "export.yaml")


def test_a_table_by_its_mapping(root, tmp_path):
    metas, manifest = built(tmp_path / "out", *source(root))
    assert set(metas) == {"a", "b", "c", "d"}
    a = metas["a"]
    assert (a["source"], a["study_id"], a["patient_id"], a["view"]) == ("st_elsewhere", "s1", "00000042", "PA")
    assert a["report"] == {"findings": "Small left effusion. No edema.", "impression": "Effusion."}
    assert (a["labels"], a["label_source"]) == ({}, None)
    assert (metas["b"]["view"], metas["b"]["study_id"]) == ("LATERAL", "s1")
    assert (metas["c"]["labels"], metas["c"]["label_source"]) == ({"Edema": 0}, "radiologist")
    assert metas["d"]["report"] == {"findings": None, "impression": None}
    assert (a["original"]["width"], a["original"]["height"], a["original"]["path"]) == (48, 40, "images/a.png")
    assert (manifest["source"], manifest["totals"]["studies"]) == (["st_elsewhere"], 3)
    aside = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert {(row.get("id", ""), row["reason"]) for row in aside} == {
        ("gone", "image file missing"), ("cut", "image truncated"), ("", "malformed row"),
    }  # fmt: skip
    assert call("check", tmp_path / "out", "--jobs", 1).exit_code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgae": {}}, "unknown key imgae; did you mean image?"),
        ({"labels": {"columns": {"Oedema": "edema"}}}, "'Oedema' is not an observation; did you mean Edema?"),
        ({"ids": {"patient": "mrm"}}, "no column 'mrm', which ids.patient of the mapping names; did you mean 'mrn'?"),
        ({"table": "study.csv"}, "study.csv: no such table"),
    ],
)
def test_a_bad_mapping_is_one_message(root, tmp_path, change, message):
    (root / "bad.yaml").write_text(yaml.safe_dump({**MAPPING, **change}))
    said = refused(FAILED, "build", *source(root, root / "bad.yaml"), "--out", tmp_path / "out")
    assert message in said
    assert not (tmp_path / "out").exists()


def test_mistakes_around_the_mapping(root, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "needs --mapping FILE" in refused(FAILED, "build", "--source", "table", "--root", root, *out)
    assert "shipped ones are chexpert_plus" in refused(FAILED, "build", *source(root, "chexpert-plus"), *out)
    assert "no such table" in refused(FAILED, "build", *source(root, "padchest"), *out)  # a shipped one, not its files
    message = refused(USAGE, "build", "--source", "iu-xray", "--root", root, "--mapping", "padchest", *out)
    assert message == "--source iu-xray takes no --mapping"
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ labels
def test_labels_by_rules_where_there_are_none(root, tmp_path):
    metas, manifest = built(tmp_path / "out", *source(root), "--fill-labels", "rules")
    sources = {name: meta["label_source"] for name, meta in metas.items()}
    assert sources == {"a": "rules", "b": "rules", "c": "radiologist", "d": None}
    said = {name: value for name, value in metas["a"]["labels"].items() if value is not None}
    assert said == {"Pleural Effusion": 1, "Edema": 0}
    assert set(metas["a"]["labels"]) == set(OBSERVATIONS)
    assert metas["b"]["labels"] == metas["a"]["labels"]  # of one study, from one text
    assert (metas["c"]["labels"], metas["d"]["labels"]) == ({"Edema": 0}, {})  # what was given stays; no text, nothing
    counts = manifest["totals"]["by_split"]["train"]["labels"]
    assert counts["Edema"] == {"positive": 0, "negative": 3, "uncertain": 0, "blank": 0, "unknown": 1}
    assert counts["Pleural Effusion"] == {"positive": 2, "negative": 0, "uncertain": 0, "blank": 0, "unknown": 2}
    assert json.loads(call("stats", tmp_path / "out", "--json").stdout)["splits"]["train"]["label_sources"] == {
        "none": 1, "radiologist": 1, "rules": 2,
    }  # fmt: skip


def test_labels_by_chexbert(root, tmp_path):
    """Weights whose heads say the same of any text: Edema positive, Fracture negative, Pneumonia uncertain."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "edema"]
    config = BertConfig(vocab_size=len(words), hidden_size=64, num_hidden_layers=1, num_attention_heads=1,
                        intermediate_size=8, max_position_embeddings=64)  # fmt: skip
    state = {f"module.bert.{name}": value for name, value in BertModel(config).state_dict().items()}
    for head, name in enumerate(OBSERVATIONS):
        classes = 2 if name == "No Finding" else 4
        state[f"module.linear_heads.{head}.weight"] = torch.zeros(classes, 64)
        code = {"Edema": 1, "Fracture": 2, "Pneumonia": 3}.get(name, 0)
        state[f"module.linear_heads.{head}.bias"] = torch.eye(4)[code][:classes]
    torch.save({"model_state_dict": state}, tmp_path / "chexbert.pth")
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "words")
    fill = ("--fill-labels", "chexbert", "--chexbert", tmp_path / "chexbert.pth", "--chexbert-tokenizer")
    metas, _ = built(tmp_path / "out", *source(root), *fill, tmp_path / "words")
    assert {name: meta["label_source"] for name, meta in metas.items()} == {
        "a": "chexbert", "b": "chexbert", "c": "radiologist", "d": None,
    }  # fmt: skip
    said = {name: value for name, value in metas["a"]["labels"].items() if value is not None}
    assert said == {"Edema": 1, "Fracture": 0, "Pneumonia": -1}
    build = ("build", *source(root), "--out", tmp_path / "no")
    assert "--chexbert chexbert.pth" in refused(FAILED, *build, "--fill-labels", "chexbert")
    for option in ("--chexbert", "--chexbert-tokenizer"):
        for fill in ((), ("--fill-labels", "rules")):
            message = refused(USAGE, *build, *fill, option, tmp_path / "chexbert.pth")
            assert message == f"{option} is for --fill-labels chexbert"
    assert not (tmp_path / "no").exists()


# ------------------------------------------------------------------------------------------------ DICOM without a table
def without_a_table(folder: Path) -> Path:
    """The mapping that docs/table.md gives for such a folder, as it stands there but with everybody in one split."""
    page = (Path(__file__).parents[2] / "docs" / "table.md").read_text(encoding="utf-8")
    found = re.search(r"A folder of DICOM files without any table:\n\n```yaml\n(.*?)```", page, re.S)
    assert found is not None
    mapping = {**yaml.safe_load(found[1]), "split": {"shares": {"train": 1.0}}}
    (folder / "archive.yaml").write_text(yaml.safe_dump(mapping))
    return folder / "archive.yaml"


def test_dicom_files_need_no_table(tmp_path):
    root = tmp_path / "archive"
    for number, (patient, view, tags) in enumerate(
        (("p7", "PA", {}), ("p7", "LL", {}), ("p8", "AP", {"PhotometricInterpretation": "MONOCHROME1"}), ("", "PA", {}))
    ):
        path = root / f"{number % 2}" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        study = f"1.2.3.{patient[-1:] or 0}"
        film = dataset(ramp(height=40, width=60), PatientID=patient, ViewPosition=view, StudyInstanceUID=study,
                       SOPInstanceUID=f"1.2.9.{number}", **tags)  # fmt: skip
        path.write_bytes(write(film))
    (root / "0" / "page.dcm").write_text("<html>login</html>")
    (root / "2").mkdir()
    shutil.copy(root / "0" / "0.dcm", root / "2" / "copy.dcm")
    metas, manifest = built(tmp_path / "out", *source(root, without_a_table(tmp_path)))
    assert {name: (m["study_id"], m["patient_id"], m["view"], m["original"]["path"]) for name, m in metas.items()} == {
        "1.2.9.0": ("1.2.3.7", "p7", "PA", "0/0.dcm"),
        "1.2.9.1": ("1.2.3.7", "p7", "LL", "1/1.dcm"),
        "1.2.9.2": ("1.2.3.8", "p8", "AP", "0/2.dcm"),
    }
    assert manifest["quarantined"] == {
        "malformed row": 1,  # without a patient
        "not a DICOM file": 1,
        "second file of one image id": 1,
    }
    assert call("check", tmp_path / "out", "--jobs", 1).exit_code == 0


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real DICOM samples are not at {REAL} (set COGAZE_REAL_DATA)")
def test_real_dicom_files_need_no_table(tmp_path):
    """A film, and a copy of it under the same SOP instance with another photometric interpretation: one image."""
    metas, manifest = built(tmp_path / "out", *source(REAL, without_a_table(tmp_path)))
    ((name, meta),) = metas.items()
    assert name == Path(meta["original"]["path"]).stem == "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819"
    assert (meta["view"], meta["patient_id"]) == ("PA", "16d7f894-55d7-4d95-8957-d18987f0e981")
    assert (meta["original"]["width"], meta["original"]["height"]) == (1024, 1024)
    (aside,) = (json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    assert (aside["reason"], aside["id"], aside["path"]) == ("second file of one image id", name, "Fake_MONOHR1.dcm")
    assert manifest["totals"]["images"] == 1
