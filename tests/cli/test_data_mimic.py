"""`cogaze data build` on small hand-made collections: every option of the MIMIC-CXR readers reaches its reader."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogaze.data.shards import ShardSet
from tests.cli.test_data import USAGE, call, refused
from tests.data_prep.annotation_files import GAZE, Files, annotation
from tests.data_prep.dicom.files import dataset, ramp, write
from tests.data_prep.mimic_collection import Collection, labels
from tests.hand_made import picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two studies with a radiologist's table; the second has no report."""
    collection = Collection(tmp_path / "raw")
    picture(collection.image("a"), 40, 40)
    picture(collection.image("b", study=50000002, report=False), 40, 40)
    collection.chexpert += [labels(50000001, Edema="1.0"), labels(50000002, Edema="1.0")]
    columns = collection.chexpert[0].removeprefix("subject_id,")
    table = f"{columns}\n50000001{',0' * 14}\n"
    root = collection.write()
    (collection.jpg / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text(table)
    (tmp_path / "chexbert.csv").write_text(table.replace(",0", ",-1"))
    return root


def built(out: Path, *arguments: object) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """(image id -> sample JSON, manifest) of a build."""
    ending = call("build", "--out", out, "--image-size", 32, "--jobs", 1, *arguments)
    assert ending.exit_code == 0, ending
    shards = ShardSet.open([out])
    metas = [shards.read_meta("train", i) for i in range(shards.size("train"))]
    return {meta["image_id"]: meta for meta in metas}, json.loads((out / "manifest.json").read_text())


def test_options_of_mimic_cxr(root, tmp_path):
    source = ("--source", "mimic-cxr", "--root", root)
    metas, manifest = built(tmp_path / "plain", *source)
    assert {name: (m["label_source"], m["labels"]["Edema"]) for name, m in metas.items()} == {"a": ("radiologist", 0)}
    assert (manifest["read"]["images"], manifest["read"]["studies without a report"]) == (2, 1)
    metas, _ = built(tmp_path / "more", *source, "--no-radiologist", "--without-text")
    assert {name: (m["label_source"], m["labels"]["Edema"]) for name, m in metas.items()} == {
        "a": ("chexpert", 1), "b": ("chexpert", 1),
    }  # fmt: skip
    assert metas["b"]["report"] == {"findings": None, "impression": None}
    table = ("--labels", "chexbert", "--label-table", tmp_path / "chexbert.csv", "--no-radiologist")
    metas, _ = built(tmp_path / "own", *source, *table)
    assert (metas["a"]["label_source"], metas["a"]["labels"]["Edema"]) == ("chexbert", -1)
    shutil.copytree(root / "mimic-cxr-jpg" / "files", tmp_path / "copies")
    metas, _ = built(tmp_path / "copied", *source, "--labels", "none", "--images", tmp_path / "copies")
    assert metas["a"]["original"]["path"] == "p10/p10000001/s50000001/a.jpg"
    assert "no DICOM files" in refused(1, "build", *source, "--out", tmp_path / "no", "--pixels", "dicom")
    message = refused(USAGE, "build", *source, "--out", tmp_path / "no", "--gaze", root)
    assert message == "--source mimic-cxr takes no --gaze"


def test_dicom_files(root, tmp_path):
    film = root / "mimic-cxr" / "files" / "p10" / "p10000001" / "s50000001" / "a.dcm"
    film.parent.mkdir()
    film.write_bytes(write(dataset(ramp(height=40, width=60), PhotometricInterpretation="MONOCHROME1")))
    out = tmp_path / "out"
    metas, _ = built(out, "--source", "mimic-cxr", "--root", root, "--pixels", "dicom", "--format", "png")
    original = metas["a"]["original"]
    assert (original["width"], original["height"], original["path"]) == (
        60, 40, "files/p10/p10000001/s50000001/a.dcm",
    )  # fmt: skip
    with Image.open(io.BytesIO(ShardSet.open([out]).read("train", 0).image)) as image:
        grey = np.asarray(image)
    assert grey.shape == (32, 48)
    assert grey[0].min() > 240 > 20 > grey[-1].max()  # the ramp rises from top to bottom, and is inverted


def test_the_annotation_files(tmp_path):
    files = Files(tmp_path / "raw")
    files.reading()
    files.write(annotation(sentence_gaze_heatmap=GAZE))
    source = ("--source", "cogaze-annotations", "--root", files.root)
    metas, _ = built(tmp_path / "plain", *source)
    assert [reading["id"] for reading in metas["a1b2-c3"]["readings"]] == ["P300R000001"]
    assert list(ShardSet.open([tmp_path / "plain"]).read("train", 0).maps) == [0]
    named = ("--annotations", next(files.root.glob("*.json")), "--images", files.images, "--gaze", files.gaze)
    again, _ = built(tmp_path / "named", *source, *named)
    assert again == metas
    assert call("check", tmp_path / "plain").exit_code == 0
