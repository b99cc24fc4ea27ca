"""The mark of a drawn collection: it speaks for the files that were drawn, where they were drawn, and for no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_prep.mimic_layout import discover
from data_prep.phantom.mark import MARK, home_of, stranger


@pytest.fixture
def copy(raw: Path, tmp_path: Path) -> Path:
    """A phantom's text and tables, without its pictures."""
    shutil.copytree(raw, tmp_path / "raw", ignore=shutil.ignore_patterns("*.jpg"))
    return tmp_path / "raw"


def foreign(root: Path) -> str:
    found = discover(root)
    home = home_of(found["mimic-cxr-jpg"])
    return "no mark" if home is None else stranger(home, found.values())


def test_the_mark_lists_every_telling_file(raw: Path) -> None:
    files = json.loads((raw / MARK).read_text())["files"]
    names = {path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file()}
    silent = {name for name in names if name.endswith((".jpg", "IMAGE_FILENAMES"))} | {MARK, "truth.jsonl"}
    assert set(files) == names - silent
    assert len([name for name in files if name.startswith("mimic-cxr/") and name.endswith(".txt")]) == 60


def test_it_speaks_for_the_root_and_for_the_data_set_in_it(copy: Path) -> None:
    for root in (copy, copy / "mimic-cxr-jpg", copy / "mimic-cxr-jpg" / ".." / "mimic-cxr-jpg"):
        assert foreign(root) == ""
    shutil.rmtree(copy / "egd-cxr")  # what is gone is not read
    next((copy / "mimic-cxr").rglob("s*.txt")).unlink()
    assert foreign(copy) == ""


def test_it_speaks_for_no_folder_further_down(copy: Path) -> None:
    """A real collection that somebody has put into the folder of a phantom."""
    for name in ("mimic-cxr-jpg", "mimic-cxr"):
        shutil.copytree(copy / name, copy / "real" / name)
    assert home_of(copy / "real" / "mimic-cxr-jpg") is None
    assert foreign(copy / "real") == "no mark"
    (copy / "mimic-cxr-jpg").rename(copy / "jpg")
    assert home_of(copy / "jpg") is None  # not as the writer calls it


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv", "dicom_id,subject_id,study_id\n"),  # goes before the .csv.gz
        ("mimic-cxr/files/p10/p10000032/s50414267.txt", "FINDINGS: Somebody's.\n"),
        ("egd-cxr/audio_segmentation_transcripts/x/transcript.json", "{}"),
        ("reflacx-xray-localization/main_data/metadata_phase_1.csv", "id\n"),
    ],
)
def test_it_does_not_speak_for_another_file(copy: Path, name: str, text: str) -> None:
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_text(text)
    assert foreign(copy) == name


def test_a_changed_report_is_another_file(copy: Path) -> None:
    report = max((copy / "mimic-cxr").rglob("s*.txt"))
    report.write_text(report.read_text() + " ")
    assert foreign(copy) == report.relative_to(copy).as_posix()


def test_a_folder_elsewhere_is_not_spoken_for(copy: Path, tmp_path: Path) -> None:
    (copy / "mimic-cxr").rename(tmp_path / "reports")
    assert stranger(copy, [copy / "mimic-cxr-jpg", tmp_path / "reports"]) == "reports"
    (copy / "mimic-cxr").symlink_to(tmp_path / "reports")
    assert foreign(copy) == "reports"


@pytest.mark.parametrize("mark", ["", "{", "[]", "{}", '{"files": {}}', '{"files": ["mimic-cxr"]}'])
def test_a_mark_that_lists_nothing_speaks_for_nothing(copy: Path, mark: str) -> None:
    (copy / MARK).write_text(mark)
    assert foreign(copy) == MARK
