"""`cogaze data`: the chain on phantom data, and every mistake of the user as one clear message."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cogaze.cli.main import run
from cogaze.data.text import train_tokenizer
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
        assert "id" in row or "path" in row or "detail" in row


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
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert "already holds a finished build" in refused(FAILED, *arguments, "--images-per-shard", 50)
    assert call(*arguments).exit_code == 0  # the same again: nothing to do
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    result = call(*arguments, "--overwrite")
    assert result.exit_code == 0
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert "1 image truncated" in " ".join(result.stdout.split())
    assert "14 studies" in result.stdout or "13 studies" in result.stdout
    assert "optional parts found: reports, reflacx, egd" in result.stderr
    assert "building: " in result.stderr  # plain lines where there is no terminal


def test_parts_and_merge(raw: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("build", "--source", "mimic-cxr", "--root", raw, "--out", out, "--image-size", 64, "--jobs", 1)
    first = call(*arguments, "--part", "1/2")
    assert (first.exit_code, first.stdout.endswith(f"when all parts are done: cogaze data merge {out}\n")) == (0, True)
    assert "shards are missing" in refused(FAILED, "merge", out)
    assert call(*arguments, "--part", "2/2").exit_code == 0
    merged = call("merge", out)
    assert (merged.exit_code, "14 studies" in merged.stdout) == (0, True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in shards.iterdir()
    }
    assert "is finished already" in refused(FAILED, "merge", out)


def test_submit(raw: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is queued, run here one after another, makes the same shards (tests/launch has the real queues)."""
    queued: list[Any] = []

    def submit_array(*arguments: Any, **more: Any) -> tuple[str, str]:
        queued.extend((*arguments, more))
        return "41", "42"

    monkeypatch.setattr("launch.array.submit_array", submit_array)
    build = ("--", "--source", "mimic-cxr", "--root", raw, "--out", tmp_path / "out", "--image-size", 64)
    options = ("--cpus", 1, "--memory", 9, "--hours", 1.5, "--slurm", "partition=p=1", "--slurm", "mail-type=END")
    result = call("submit", "--parts", 2, *options, *build)
    logs = tmp_path / "out-jobs"
    assert result.stdout == f"{tmp_path / 'out'}: array job 41 builds 2 parts, job 42 merges; logs in {logs}\n"
    parts, then, folder, more = queued
    assert (folder, more["cluster"], more["slurm"]) == (logs, "slurm", {"partition": "p=1", "mail_type": "END"})
    assert (more["parameters"]["timeout_min"], more["parameters"]["mem_gb"]) == (90, 9)
    for command in (*parts, then):
        assert command[:4] == [sys.executable, "-m", "cogaze", "data"]
        assert call(*command[4:]).exit_code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in shards.iterdir()
    }


def test_submit_mistakes(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would fail in every job is refused before anything is queued."""
    out = ("--source", "mimic-cxr", "--root", raw, "--out", tmp_path / "out")
    assert "--overwrite cannot be given" in refused(USAGE, "submit", "--parts", 2, "--", *out, "--overwrite")
    assert "no such folder" in refused(USAGE, "submit", "--parts", 2, "--", *out, "--root", tmp_path / "none")
    assert "write name=value" in refused(USAGE, "submit", "--parts", 2, "--slurm", "partition", "--", *out)
    for wrong in (("--parts", 2, "--", *out, "--format", "bmp"), ("--parts", 0, "--", *out), ("--parts", 2)):
        assert call("submit", *wrong).exit_code == USAGE
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "srun" in refused(FAILED, "submit", "--parts", 2, "--", *out)
    assert not (tmp_path / "out").exists()


def test_hashed_ids(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("build", "--source", "mimic-cxr", "--root", raw, "--out", tmp_path / "out", "--image-size", 32,
                 "--jobs", 1, "--hash-ids")  # fmt: skip
    monkeypatch.delenv("COGAZE_SALT", raising=False)
    assert "--hash-ids needs a secret salt" in refused(FAILED, *arguments)
    (tmp_path / "salt").write_text("0123456789abcdef")
    assert call(*arguments, "--salt-file", tmp_path / "salt").exit_code == 0
    names = {path.stem for path in raw.rglob("*.jpg")} | {path.stem for path in raw.rglob("s*.txt")}
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert len(names) > 30
    assert [name for name in names if name.encode() in written] == []


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
    assert (clean.exit_code, clean.stdout) == (0, f"{made}: 14 images of 8 studies in 3 shards, no fault, no warning\n")
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


def test_check_levels_and_warnings(tmp_path: Path) -> None:
    made = [record(tmp_path, "i", "s", "p", findings="___"), record(tmp_path, "j", "t", "q", split="test")]
    build(made, tmp_path / "out", image_size=IMAGE_SIZE)
    for level, warnings in ((), 1), (("--deep",), 1), (("--fast",), 0):
        report = json.loads(call("check", tmp_path / "out", "--json", *level, "--jobs", 1).stdout)
        assert (report["ok"], len(report["warnings"])) == (True, warnings)
    ending = call("check", tmp_path / "out", "--jobs", 1)
    assert ending.exit_code == 0  # warnings do not fail
    assert ending.stdout.splitlines() == [
        "warning  text: without a letter: 1",
        "           train-000000-00000: findings, 3 characters",
        f"{tmp_path / 'out'}: 2 images of 2 studies in 2 shards, no fault, 1 warning",
    ]
    assert call("check", tmp_path / "out", "--strict", "--jobs", 1).exit_code == FAILED
    assert call("check", tmp_path / "out", "--strict", "--fast").exit_code == 0
    assert "give one of them" in refused(USAGE, "check", tmp_path / "out", "--fast", "--deep")


def test_stats_page(shards: Path, tmp_path: Path) -> None:
    result = call("stats", shards, "--out", tmp_path / "stats.html")
    assert result.exit_code == 0
    assert "stats.html: " in result.stdout
    assert "Which come together" in (tmp_path / "stats.html").read_text()
    train_tokenizer(["the lungs are clear and the heart is not large"] * 3, 200).save_pretrained(tmp_path / "words")
    arguments = ("--tokenizer", tmp_path / "words", "--max-tokens", 9, "--pixels", 0)
    result = call("stats", shards, "--out", tmp_path / "stats.html", *arguments, "--json")
    assert json.loads(result.stdout)["splits"]["train"]["tokens"]["report"]["median"] > 9
    page = (tmp_path / "stats.html").read_text()
    assert "limit 9" in page
    assert "No pixels were looked at." in page
    assert "no tokenizer in" in refused(FAILED, "stats", shards, "--tokenizer", tmp_path / "nothing")


def test_show_options(shards: Path, tmp_path: Path) -> None:
    result = call("show", shards, "--out", tmp_path / "s.html", "--blur", "--no-text", "--lead", 1.5, "--gaze-only")
    assert result.exit_code == 0
    page = (tmp_path / "s.html").read_text()
    for words in ("Images are blurred.", "text is not shown", "or up to 1.5 s before"):
        assert words in page


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

    assert message("--source", "elsewhere").startswith("unknown --source 'elsewhere'; known: ")
    assert message("--source", "iu-xray", "--egd", raw) == "--source iu-xray takes no --egd"
    assert message("--source", "iu-xray", "--reports", raw) == "--source iu-xray takes no --reports"
    for part in ("0/2", "3/2", "2", "1/0", "a/b", "-1/2"):
        assert message("--source", "mimic-cxr", "--part", part) == (
            f"--part {part}: write i/n with i from 1 to n, e.g. 3/8"
        )
    assert "--strict belongs to `cogaze data merge`" in message("--source", "mimic-cxr", "--part", "1/2", "--strict")
    assert message("--source", "mimic-cxr", "--salt-file", raw / "PHANTOM.json") == "--salt-file is for --hash-ids"
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


@pytest.mark.parametrize("command", ["phantom", "build", "submit", "merge", "check", "stats", "show"])
def test_help_has_examples(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"cogaze data {command} " in result.stdout
