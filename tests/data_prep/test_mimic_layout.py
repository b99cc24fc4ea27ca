"""Where the parts of a MIMIC-CXR download lie, and what is said where they do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_prep import mimic_cxr
from data_prep.records import Quarantine, SourceError
from data_prep.sources import SOURCES
from tests.data_prep.mimic_collection import Collection, read


def test_discovery(tmp_path):
    collection = Collection(tmp_path / "raw")
    collection.image("a")
    root = collection.write()
    here = {"mimic-cxr-jpg": collection.jpg, "reports": root / "mimic-cxr"}
    assert mimic_cxr.discover(root) == here
    assert mimic_cxr.discover(collection.jpg) == here  # siblings of the folder itself
    versioned = tmp_path / "mirror" / "physionet.org" / "files"
    shutil.copytree(collection.jpg, versioned / "mimic-cxr-jpg" / "2.0.0")
    shutil.copytree(collection.jpg, versioned / "mimic-cxr-jpg" / "2.1.0")
    shutil.copytree(root / "mimic-cxr", versioned / "mimic-cxr" / "2.1.0")
    there = {"mimic-cxr-jpg": versioned / "mimic-cxr-jpg/2.1.0", "reports": versioned / "mimic-cxr/2.1.0"}
    for start in (tmp_path / "mirror", versioned, versioned / "mimic-cxr-jpg", versioned / "mimic-cxr-jpg/2.1.0"):
        assert mimic_cxr.discover(start) == there
    assert len(read(tmp_path / "mirror")[0]) == 1
    assert len(read(collection.jpg, reports=versioned / "mimic-cxr")[0]) == 1
    shutil.copytree(root / "mimic-cxr/files", tmp_path / "merged/files")
    shutil.copytree(collection.jpg, tmp_path / "merged", dirs_exist_ok=True)
    assert len(read(tmp_path / "merged")[0]) == 1  # reports unpacked into the JPG folder


def test_what_is_missing_as_a_whole_is_a_source_error_at_once(tmp_path):
    collection = Collection(tmp_path / "raw")

    def message(root: Path, **options) -> str:
        with pytest.raises(SourceError) as caught:
            SOURCES["mimic-cxr"](root, Quarantine(), **options)
        return str(caught.value)

    assert "is not a folder" in message(tmp_path / "nowhere")
    assert "physionet.org/content/mimic-cxr-jpg" in message(tmp_path)
    collection.image("a", report=False)
    root = collection.write()
    assert "mimic-cxr-reports.zip" in message(root)
    collection.image("b")
    assert "reflacx folder" in message(root, reflacx=tmp_path / "nowhere")
    (collection.jpg / "mimic-cxr-2.0.0-chexpert.csv").unlink()
    assert "mimic-cxr-2.0.0-chexpert.csv" in message(root)
    (collection.jpg / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id\n")
    assert "no column 'split'" in message(root)
