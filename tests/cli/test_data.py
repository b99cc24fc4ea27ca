"""`cogaze data`: the chain on phantom data, and every mistake of the user as one clear message."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from cogaze.cli.main import run
from data_prep.build import build
from tests.hand_made import IMAGE_SIZE, record, records

FAILED, USAGE = 1, 2


@dataclass
class Ending:
    exit_code: int
    stdout: str
    stderr: str


def call(*arguments: object) -> Ending:
    """Run `cogaze data ...` in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = run(["data", *(str(argument) for argument in arguments)])
    return Ending(code, stdout.getvalue(), stderr.getvalue())


def refused(code: int, *arguments: object) -> str:
    """The message of a command that must end with this exit code: the last line of stderr, without a traceback."""
    ending = call(*arguments)
    assert ending.exit_code == code, ending
    assert "Traceback" not in ending.stderr
    return ending.stderr.splitlines()[-1].removeprefix("cogaze: ")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "raw"
    result = call("phantom", "--out", root, "--studies", 14, "--seed", 3, "--size", 96, "--jobs", 1)
    assert result.exit_code == 0, result
    return root


@pytest.fixture(scope="module")
def shards(raw: Path) -> Path:
    out = raw.parent / "shards"
    result = call("build", "--source", "mimic-cxr", "--root", raw, "--out", out, "--image-size", 64, "--jobs", 1)
    assert result.exit_code == 0, result
    return out


@pytest.fixture
def made(tmp_path: Path) -> Path:
    build(records(tmp_path / "raw"), tmp_path / "made", image_size=IMAGE_SIZE)
    return tmp_path / "made"


# ------------------------------------------------------------------------------------------------ the chain
def test_phantom_to_shards(raw: Path, shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    assert (manifest["totals"]["studies"], manifest["phantom"], manifest["image_size"]) == (14, True, 64)
    assert manifest["totals"]["gaze_images"] > 0
    assert manifest["sources"][0]["parts"] == {"reports": True, "reflacx": True, "egd": True}
    report = json.loads(call("check", shards, "--json", "--jobs", 1).stdout)
    assert (report["ok"], report["faults"]) == (True, [])
    assert (report["images"], report["studies"]) == (manifest["totals"]["images"], 14)
    for line in (shards / "quarantine.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["source"]
        assert row["reason"]
        assert "id" in row or "path" in row


def test_build_tells_what_it_did(raw: Path, tmp_path: Path) -> None:
    (raw.parent / "cut").mkdir()
    shutil.copytree(raw, tmp_path / "raw")
    image = next((tmp_path / "raw").rglob("*.jpg"))
    image.write_bytes(image.read_bytes()[:500])
    arguments = ("build", "--source", "mimic-cxr", "--root", tmp_path / "raw", "--out", tmp_path / "out",
                 "--image-size", 32, "--format", "png", "--jobs", 1)  # fmt: skip
    message = refused(FAILED, *arguments, "--strict")
    assert "things were set aside; see" in message
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert "already holds a finished build" in refused(FAILED, *arguments)
    result = call(*arguments, "--overwrite")
    assert result.exit_code == 0
    assert "1 image truncated" in " ".join(result.stdout.split())
    assert "14 studies" in result.stdout or "13 studies" in result.stdout
    assert "optional parts found: reports, reflacx, egd" in result.stderr
    assert "building: " in result.stderr  # plain lines where there is no terminal


def test_stats(shards: Path) -> None:
    result = call("stats", shards)
    assert result.exit_code == 0
    assert "Shards (phantom data)" in result.stdout
    assert "Pleural Effusion" in result.stdout
    report = json.loads(call("stats", shards, "--json").stdout)
    assert report["studies"] == 14
    assert set(report["splits"]) <= {"train", "validate", "test"}


def test_show(shards: Path, made: Path, tmp_path: Path) -> None:
    for name in ("sheet.html", "sheet.png"):
        result = call("show", shards, "--out", tmp_path / name, "-n", 3, "--gaze-only")
        assert result.exit_code == 0, result
        assert (tmp_path / name).stat().st_size > 5000
    for option, shown in (((), False), (("--text",), True), (("--no-text",), False)):
        call("show", made, "--out", tmp_path / "made.html", *option)
        assert ("lungs are clear" in (tmp_path / "made.html").read_text()) == shown


def test_check_lists_faults(made: Path) -> None:
    clean = call("check", made, "--jobs", 1)
    assert (clean.exit_code, clean.stdout) == (0, f"{made}: 14 images of 8 studies in 3 shards, no fault\n")
    data = bytearray((made / "train-000000.tar").read_bytes())
    data[700] ^= 255
    (made / "train-000000.tar").write_bytes(bytes(data))
    result = call("check", made, "--jobs", 1)
    assert result.exit_code == 1
    assert "train-000000: the tar's sha256 is not the manifest's" in result.stdout
    assert " fault" in result.stdout.splitlines()[-1]
    result = call("check", made, "--json", "--jobs", 1)
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"]) == (1, False)
    assert set(report["faults"][0]) == {"shard", "key", "fault"}
    result = call("check", made / "nothing")
    assert (result.exit_code, "no such folder" in result.stdout) == (1, True)


# ------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize("source", ["mimic-cxr", "iu-xray", "iu_xray"])
def test_build_of_nothing(tmp_path: Path, source: str) -> None:
    arguments = ("build", "--source", source, "--out", tmp_path / "out", "--root")
    assert "no such folder" in refused(USAGE, *arguments, tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(USAGE, *arguments, tmp_path / "empty")
    (tmp_path / "file").touch()
    assert "is not a folder" in refused(USAGE, *arguments, tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    assert str(tmp_path / "other") in refused(FAILED, *arguments, tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_build_usage(tmp_path: Path, raw: Path) -> None:
    def message(*arguments: object) -> str:
        return refused(USAGE, "build", "--root", raw, "--out", tmp_path / "out", *arguments)

    assert message("--source", "padchest") == "unknown --source 'padchest'; known: iu-xray, mimic-cxr"
    assert message("--source", "iu-xray", "--egd", raw) == "--source iu-xray takes no --egd"
    assert message("--source", "mimic-cxr", "--images", raw) == "--source mimic-cxr takes no --images"
    build_mimic: tuple[object, ...] = ("build", "--source", "mimic-cxr", "--root", raw, "--out", tmp_path / "out")
    assert "out of range" in refused(FAILED, *build_mimic, "--image-size", 2)
    assert "does not exist" in refused(FAILED, *build_mimic, "--egd", tmp_path / "nowhere")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert "holds other files (thesis.tex)" in refused(FAILED, *build_mimic)
    assert call(*build_mimic, "--format", "bmp").exit_code == 2
    assert call("build").exit_code == 2


def test_phantom_mistakes(raw: Path, tmp_path: Path) -> None:
    assert "not empty" in refused(FAILED, "phantom", "--out", raw, "--studies", 1)
    for wrong in (("--studies", 0), ("--seed", -1), ("--gaze-share", 2)):
        assert call("phantom", "--out", tmp_path / "new", *wrong).exit_code == 2
    assert not (tmp_path / "new").exists()


def test_show_and_stats_mistakes(made: Path, tmp_path: Path) -> None:
    assert "there are: train, validate, test" in refused(FAILED, "show", made, "--split", "val")
    assert ".html or .png" in refused(FAILED, "show", made, "--out", tmp_path / "a.pdf")
    assert "no such folder" in refused(FAILED, "show", tmp_path / "none")
    assert "has no manifest.json" in refused(FAILED, "stats", tmp_path)
    assert "has no manifest.json" in refused(FAILED, "stats", tmp_path, "--json")
    build([record(tmp_path / "r", "i", "s", "p")], tmp_path / "blind", image_size=IMAGE_SIZE)
    assert "no image of split train has gaze" in refused(FAILED, "show", tmp_path / "blind", "--gaze-only")


@pytest.mark.parametrize("command", ["phantom", "build", "check", "stats", "show"])
def test_help_has_examples(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"cogaze data {command} " in result.stdout
