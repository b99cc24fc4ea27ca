"""The command as a whole: help, version, and what every kind of ending becomes."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cogaze import __version__
from cogaze.cli import main
from cogaze.cli.errors import Failure, UsageError
from cogaze.config import ConfigError
from data_prep.records import SourceError
from launch.environment import LauncherError

VERBS = ("demo", "doctor", "data", "train", "evaluate", "page", "embed", "export", "import-weights", "bench")


def ending(monkeypatch, capsys, error: BaseException) -> tuple[int, str]:
    """Exit code and stderr of a command that ends with `error`."""

    def command(**_: object) -> None:
        raise error

    monkeypatch.setattr(main, "app", command)
    code = main.run([])
    return code, capsys.readouterr().err


def test_help_names_every_verb_and_shows_examples(capsys):
    assert main.run(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert f"  {verb} " in text
    assert "data.shards=[shards/mimic]" in text
    assert "Exit codes: 0 done" in " ".join(text.split())


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(capsys, verb):
    assert main.run([verb, "-h"]) == 0
    assert f"Usage: cogaze {verb}" in capsys.readouterr().out


def test_no_arguments_show_the_help(capsys):
    assert main.run([]) == 2
    captured = capsys.readouterr()
    assert "Usage: cogaze" in captured.out + captured.err


def test_version(capsys):
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"cogaze {__version__}\n"


@pytest.mark.parametrize("arguments", [["fly"], ["train"], ["data", "build", "--nonsense"]])
def test_wrong_usage_is_2(capsys, arguments):
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert "Usage: cogaze" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        "data build --source table --root . --out URL", "data build --source table --root URL --out x",
        "data phantom --out URL", "data merge URL", "data stats x --out URL", "data show x --out URL",
        "data gaze x --out URL", "data submit --parts 2 -- --source table --root . --out URL",
        "data submit --parts 2 --logs URL -- --source table --root . --out x", "demo --out URL",
        "embed m films --out URL", "export run --out URL", "import-weights w --out URL", "evaluate all run --out URL",
        "evaluate reports x.csv --out URL", "evaluate reports x.csv --per-report URL",
        "train CONFIG run.dir=URL", "train CONFIG run.dir=x data.cache_dir=URL",
    ],
)  # fmt: skip
def test_a_url_where_something_is_written(arguments, capsys, tmp_path, monkeypatch):
    """An error that says what is read from URLs; no folder with the name `s3:`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    config = str(Path(__file__).parents[2] / "configs" / "demo.yaml")
    words = arguments.replace("URL", "s3://bucket/x").replace("--root .", "--root here").split()
    assert main.run([config if word == "CONFIG" else word for word in words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "shards are read from URLs" in said
    assert "s3://bucket/x" in said
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Failure("the check found 3 faults"), 1),
        (UsageError("no such source"), 2),
        (ConfigError("unknown key optim.lrr; did you mean optim.lr?"), 2),
        (LauncherError("RANK=4 is outside 0..3"), 2),
        (SourceError("raw/mimic: no metadata table"), 1),
    ],
)
def test_known_errors_are_one_message(monkeypatch, capsys, error, code):
    assert ending(monkeypatch, capsys, error) == (code, f"cogaze: {error}\n")


def test_a_file_that_cannot_be_opened_is_one_message(monkeypatch, capsys):
    error = OSError(errno.ENOSPC, "No space left on device", "runs/one/metrics.jsonl")
    assert ending(monkeypatch, capsys, error) == (1, "cogaze: runs/one/metrics.jsonl: No space left on device\n")


@pytest.mark.parametrize("error", [ValueError("shapes differ"), OSError("socket"), KeyError("x")])
def test_anything_else_keeps_its_traceback(monkeypatch, capsys, error):
    code, text = ending(monkeypatch, capsys, error)
    assert code == 1
    assert text.startswith("Traceback (most recent call last):")
    assert text.splitlines()[-1].startswith("cogaze: this should not happen")


def test_traceback_on_request(monkeypatch, capsys):
    monkeypatch.setenv("COGAZE_TRACEBACK", "1")
    code, text = ending(monkeypatch, capsys, Failure("the check found 3 faults"))
    assert code == 1
    assert text.startswith("Traceback")
    assert text.endswith("cogaze: the check found 3 faults\n")


def test_several_ranks_say_which_one_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ending(monkeypatch, capsys, Failure("no shards"))[1] == "cogaze (rank 1): no shards\n"


@pytest.mark.parametrize(("error", "code"), [(typer.Exit(3), 3), (KeyboardInterrupt(), 130)])
def test_other_endings(error, code):
    inner = typer.Typer()

    @inner.command()
    def command() -> None:
        raise error

    outer, main.app = main.app, inner
    try:
        assert main.run([]) == code
    finally:
        main.app = outer


def test_exit_code_reaches_the_shell():
    bad = subprocess.run(
        [sys.executable, "-m", "cogaze", "train", "no-such.yaml"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr == "cogaze: no-such.yaml: no such configuration file\n"
