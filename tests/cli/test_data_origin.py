"""`cogaze data build`: what is drawn and what is real, how the data were made, what counts for --strict."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from cogaze.cli.data import build, origin
from cogaze.observations import OBSERVATIONS
from data_prep.sources import SOURCES
from tests.cli.test_data import FAILED, USAGE, Ending, call, refused
from tests.data_prep.annotation_files import Files, annotation
from tests.hand_made import picture

SMALL = ("--image-size", 32, "--jobs", 1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom with gaze of both kinds, off the image and on calibration pictures too."""
    root = tmp_path_factory.mktemp("origin") / "raw"
    options = ("--studies", 14, "--seed", 3, "--size", 64, "--gaze-share", 0.7, "--jobs", 1)
    assert call("phantom", "--out", root, *options).exit_code == 0
    return root


@pytest.fixture
def raw(drawn: Path, tmp_path: Path) -> Path:
    shutil.copytree(drawn, tmp_path / "raw")
    return tmp_path / "raw"


def made(root: Path, out: Path, *options: object, source: str = "mimic-cxr") -> tuple[dict[str, Any], Ending]:
    """The manifest of a build that must succeed, and what was said."""
    ending = call("build", "--source", source, "--root", root, "--out", out, *SMALL, *options)
    assert ending.exit_code == 0, ending
    return json.loads((out / "manifest.json").read_text()), ending


def indiana(root: Path) -> Path:
    """A collection of one study in the layout of the Indiana University's."""
    picture(root / "images_normalized" / "1_IM-0001-4001.dcm.png", 60, 40)
    (root / "indiana_reports.csv").write_text(
        "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
        "1,normal,normal,Xray,Cough,None,The words of a real report.,Normal.\n"
    )
    (root / "indiana_projections.csv").write_text("uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n")
    return root


# ------------------------------------------------------------------------------------------------ drawn or real
def test_a_phantom_is_one_from_its_root_and_from_its_data_set(raw: Path, tmp_path: Path) -> None:
    for number, root in enumerate((raw, raw / "mimic-cxr-jpg")):
        manifest, ending = made(root, tmp_path / f"{number}")
        assert manifest["phantom"] is True
        assert "PHANTOM.json" not in ending.stderr


def test_real_data_in_the_folder_of_a_phantom_are_real(raw: Path, tmp_path: Path) -> None:
    """Their text stands on no page that nobody asked to show it."""
    manifest, _ = made(indiana(raw / "iu"), tmp_path / "out", source="iu-xray")
    assert manifest["phantom"] is False
    sheet = tmp_path / "sheet.html"
    for options, shown in (((), False), (("--text",), True)):
        assert call("show", tmp_path / "out", "--out", sheet, *options).exit_code == 0
        assert ("The words of a real report" in sheet.read_text()) == shown
    shutil.copy(raw / "PHANTOM.json", raw / "iu")  # whatever lies there: nobody draws this layout
    assert made(raw / "iu", tmp_path / "marked", source="iu-xray")[0]["phantom"] is False


def test_no_other_source_has_phantoms(raw: Path) -> None:
    found = {"mimic-cxr-jpg": raw / "mimic-cxr-jpg"}
    assert [source for source in SOURCES if origin.is_phantom(source, found)] == ["mimic-cxr"]


def test_a_mimic_collection_in_or_in_place_of_a_phantom_is_real(raw: Path, tmp_path: Path) -> None:
    for name in ("mimic-cxr-jpg", "mimic-cxr"):
        shutil.copytree(raw / name, raw / "real" / name)
    manifest, ending = made(raw / "real", tmp_path / "inside")
    assert (manifest["phantom"], "PHANTOM.json" in ending.stderr) == (False, False)
    reports = raw / "real" / "mimic-cxr"
    manifest, ending = made(raw, tmp_path / "reports", "--reports", reports)
    assert manifest["phantom"] is False
    report = max((raw / "mimic-cxr").rglob("s*.txt"))
    report.write_text("FINAL REPORT\n FINDINGS: The words of a real report.\n")
    manifest, ending = made(raw, tmp_path / "changed")
    assert manifest["phantom"] is False
    told = ending.stderr.replace("\n", " ")
    assert "does not know a file in mimic-cxr: taken for real data" in told
    assert report.stem not in told
    assert report.parent.name not in told  # the patient


# ------------------------------------------------------------------------------------------------ lost or noted
def test_a_clean_phantom_is_strictly_clean(raw: Path, tmp_path: Path) -> None:
    """Dropped fixations, calibration pictures and discarded readings are told by number, and are no loss."""
    manifest, ending = made(raw, tmp_path / "out", "--strict")
    rows = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert manifest["quarantined"] == {}
    assert all(row["kept"] for row in rows)
    (off,) = [row for row in rows if row["reason"] == "fixations dropped: off the image" and row["source"] == "egd"]
    number = int(off["detail"].split()[0])
    assert off["count"] == number > 1
    total = sum(row.get("count", 1) for row in rows)
    assert sum(manifest["noted"].values()) == total > len(rows)
    lines = [" ".join(line.split()) for line in ending.stdout.splitlines()]
    assert f"noted there, with nothing missing for it: {total:,}" in lines
    assert f"{manifest['noted'][off['reason']]:,} {off['reason']}" in lines
    assert not [line for line in lines if line.startswith("set aside")]
    (tmp_path / "salt").write_text("0123456789abcdef")
    hashed, _ = made(raw, tmp_path / "hashed", "--strict", "--hash-ids", "--salt-file", tmp_path / "salt")
    assert (hashed["noted"], hashed["quarantined"]) == (manifest["noted"], {})
    assert json.loads(call("check", tmp_path / "hashed", "--json", "--jobs", 1).stdout)["faults"] == []


def test_a_loss_is_told_apart_and_fails_strict(raw: Path, tmp_path: Path) -> None:
    image = max((raw / "mimic-cxr-jpg").rglob("*.jpg"))
    whole = image.read_bytes()
    image.write_bytes(whole[:300])
    arguments = ("build", "--source", "mimic-cxr", "--root", raw, "--out", tmp_path / "out", *SMALL)
    assert "--strict: 1 things were set aside" in refused(FAILED, *arguments, "--strict")
    ending = call(*arguments)
    lines = [" ".join(line.split()) for line in ending.stdout.splitlines()]
    place = lines.index(f"set aside, with reasons in {tmp_path / 'out' / 'quarantine.jsonl'}: 1")
    assert lines[place + 1] == "1 image truncated"
    assert lines[place + 2].startswith("noted there")
    image.write_bytes(whole)
    ending = call(*arguments)
    assert ending.exit_code == 0
    assert "1 image files changed since they were built, 1 of them set aside then and usable now (" in ending.stdout
    assert "--overwrite builds anew" in ending.stdout
    part = call(*arguments, "--part", "1/1")
    assert "1 image files changed" in part.stdout
    clean = call(*arguments, "--overwrite", "--strict")
    assert (clean.exit_code, "changed" in clean.stdout) == (0, False)
    image.write_bytes(whole + b"\0")
    message = refused(FAILED, *arguments, "--strict")
    assert message == "--strict: 1 image files changed since they were built; --overwrite builds anew"


def test_a_missing_image_is_a_new_one_when_it_turns_up(raw: Path, tmp_path: Path) -> None:
    """Nothing was planned for it: it makes a new shard, unless a shard has images of its study."""
    studies: dict[Path, list[Path]] = {}
    for image in sorted((raw / "mimic-cxr-jpg").rglob("*.jpg")):
        studies.setdefault(image.parent, []).append(image)
    alone = next(images[0] for images in studies.values() if len(images) == 1)
    beside = next(images[0] for images in studies.values() if len(images) > 1)
    for image in (alone, beside):
        image.rename(image.with_suffix(".away"))
    before, _ = made(raw, tmp_path / "out")
    assert before["quarantined"]["image file missing"] == 2
    for image in (alone, beside):
        image.with_suffix(".away").rename(image)
    after, ending = made(raw, tmp_path / "out")
    assert after["totals"]["images"] == before["totals"]["images"] + 1
    assert len(after["shards"]) == len(before["shards"]) + 1
    assert after["quarantined"] == {"new image of a study that is in a shard already": 1}
    assert "changed" not in ending.stdout


def test_the_quarantine_does_not_say_where_the_data_lay(drawn: Path, tmp_path: Path) -> None:
    """The same data below another root give the same folder."""
    told = []
    for name in ("here", "somewhere/else"):
        root = tmp_path / name / "raw"
        shutil.copytree(drawn, root)
        for table in ("egd-cxr/master_sheet.csv", "mimic-cxr-jpg/mimic-cxr-2.1.0-test-set-labeled.csv"):
            (root / table).write_text((root / table).read_text() + "odd\n")
        reading = min((root / "reflacx-xray-localization" / "main_data").glob("P*"))
        (reading / "timestamps_transcription.csv").write_text("word\n")
        made(root, tmp_path / name / "out")
        told.append({path.name: path.read_bytes() for path in (tmp_path / name / "out").iterdir()})
    assert told[0] == told[1]
    text = told[0]["quarantine.jsonl"].decode()
    assert str(tmp_path) not in text
    paths = {row.get("path") for row in map(json.loads, text.splitlines())}
    assert {"egd-cxr/master_sheet.csv", "mimic-cxr-jpg/mimic-cxr-2.1.0-test-set-labeled.csv"} <= paths
    assert "timestamps_transcription.csv" in text


# ------------------------------------------------------------------------------------------------ how they were made
def test_the_manifest_says_how(raw: Path, tmp_path: Path) -> None:
    table = tmp_path / "elsewhere" / "mine.csv"
    table.parent.mkdir()
    study = max(raw.rglob("s*.txt")).stem
    table.write_text("study_id," + ",".join(OBSERVATIONS) + f"\n{study}" + ",1" * 14 + "\n")
    manifest, _ = made(
        raw, tmp_path / "out", "--labels", "chexbert", "--label-table", table, "--viewing-distance", 30,
        "--reports", raw / "mimic-cxr", "--fill-labels", "rules",
    )  # fmt: skip
    assert manifest["build"]["options"] == {
        "labels": "chexbert", "radiologist": True, "pixels": "jpg", "without_text": False, "viewing_distance": 30.0,
        "fill_labels": "rules",
    }  # fmt: skip
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    assert manifest["build"]["paths"] == {
        "reports": "mimic-cxr", "label_table": {"name": "mine.csv", "sha256": digest},
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(manifest)
    (tmp_path / "salt").write_text("0123456789abcdef")
    hashed, _ = made(
        raw, tmp_path / "hashed", "--labels", "chexbert", "--label-table", table, "--reports", raw / "mimic-cxr",
        "--hash-ids", "--salt-file", tmp_path / "salt",
    )  # fmt: skip
    assert hashed["build"]["paths"] == {"label_table": {"sha256": digest}}


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ((), ("--labels", "negbio"), "labels chexpert, now negbio"),
        ((), ("--no-radiologist",), "radiologist True, now False"),
        (("--without-text",), (), "without_text True, now False"),
        ((), ("--viewing-distance", 30), "viewing_distance 28.0, now 30.0"),
        (("--labels", "none"), ("--labels", "none", "--fill-labels", "rules"), "fill_labels None, now rules"),
    ],
)
def test_other_options_are_refused(raw: Path, tmp_path: Path, then: Any, now: Any, message: str) -> None:
    made(raw, tmp_path / "out", *then)
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    arguments = ("build", "--source", "mimic-cxr", "--root", raw, "--out", tmp_path / "out", *SMALL)
    assert f"({message}); --overwrite replaces it" in refused(FAILED, *arguments, *now)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert call(*arguments, *then).exit_code == 0
    manifest = json.loads(before)
    del manifest["build"]["options"], manifest["build"]["paths"]  # as an older build left it: nothing to hold it to
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    assert call(*arguments, *then).exit_code == 0
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_another_mapping_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "raw" / "images" / f"{name}.png", 60, 40)
    (tmp_path / "raw" / "t.csv").write_text("file,study,mrn,report\na.png,1,1,Clear.\nb.png,2,2,Clear.\n")
    text = (
        "source: clinic\ntable: t.csv\nimage: {path: 'images/{file}'}\nids: {study: study, patient: mrn}\n"
        "split: {shares: {train: 1.0}}\ntext: {report: report}\n"
    )
    mapping = tmp_path / "clinic.yaml"
    mapping.write_text(text)
    options = ("--mapping", mapping)
    manifest, _ = made(tmp_path / "raw", tmp_path / "out", *options, source="table")
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert manifest["build"]["options"]["mapping"] == {"name": "clinic.yaml", "sha256": digest}
    mapping.write_text(text + "# another\n")
    arguments = ("build", "--source", "table", "--root", tmp_path / "raw", "--out", tmp_path / "out", *SMALL, *options)
    assert "other settings (mapping clinic.yaml (" in refused(FAILED, *arguments)
    (tmp_path / "raw" / "conf").mkdir()
    renamed = tmp_path / "raw" / "conf" / "m.yaml"
    renamed.write_text(text)
    assert call(*arguments[:-1], renamed).exit_code == 0  # the same, wherever it lies and whatever it is called
    assert call(*arguments, "--overwrite").exit_code == 0


def test_no_labels_are_none(raw: Path, tmp_path: Path) -> None:
    """Not even a radiologist's; what is filled in is filled in everywhere."""
    named, _ = made(raw, tmp_path / "named")
    assert named["read"]["studies in the radiologist table"] > 0
    manifest, _ = made(raw, tmp_path / "none", "--labels", "none")
    for split in manifest["totals"]["by_split"].values():
        assert {counts["unknown"] for counts in split["labels"].values()} == {split["images"]}
    manifest, _ = made(raw, tmp_path / "rules", "--labels", "none", "--fill-labels", "rules")
    for split in manifest["totals"]["by_split"].values():
        assert {counts["unknown"] for counts in split["labels"].values()} != {split["images"]}


# ------------------------------------------------------------------------------------------------ options
def test_help_names_every_source() -> None:
    (option,) = get_type_hints(build.command, include_extras=True)["source"].__metadata__
    assert re.split(", | or ", option.help) == list(SOURCES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "png", "--quality", 90), "--quality is for --format jpg"),
        (("--fill-labels", "rules", "--chexbert-tokenizer", "x"), "--chexbert-tokenizer is for --fill-labels chexbert"),
        (("--chexbert-tokenizer", "x"), "--chexbert-tokenizer is for --fill-labels chexbert"),
        (("--labels", "none", "--radiologist"), "--labels none leaves no labels: not those of --radiologist either"),
    ],
)
def test_options_that_would_do_nothing(raw: Path, tmp_path: Path, options: Any, message: str) -> None:
    arguments = ("build", "--source", "mimic-cxr", "--root", raw, "--out", tmp_path / "out", *SMALL)
    assert refused(USAGE, *arguments, *options) == message
    assert not (tmp_path / "out").exists()


def test_a_viewing_distance_without_egd(raw: Path, tmp_path: Path) -> None:
    shutil.rmtree(raw / "egd-cxr")
    arguments = ("build", "--source", "mimic-cxr", "--root", raw, "--out", tmp_path / "out", *SMALL)
    message = "--viewing-distance is for EGD, which is not there"
    assert refused(USAGE, *arguments, "--viewing-distance", 30) == message
    assert call(*arguments).exit_code == 0


def test_an_annotation_given_twice_is_counted(tmp_path: Path) -> None:
    """Also where both name the same reading."""
    files = Files(tmp_path / "raw")
    files.reading()
    same = annotation(sentence_gaze_heatmap={"image_dir": "P300R000001"})
    root = files.write(same, same, same)
    manifest, _ = made(root, tmp_path / "out", "--strict", source="cogaze-annotations")
    assert (manifest["noted"], manifest["quarantined"]) == ({"duplicate record": 2}, {})
