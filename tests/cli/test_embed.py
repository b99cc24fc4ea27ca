"""`cogaze embed`: what it prints, how it ends, two ranks killed and gone on with, signals; no id ever in a log."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cogaze import embed as package
from cogaze.cli.main import run
from tests import forkserver
from tests.model.exported import film, tiny_citizen, write_checkpoint
from tests.model.tiny import tiny_settings

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, a run folder, films whose names nobody may see, and two tables that show them again and again."""
    home = tmp_path_factory.mktemp("home")
    model, settings = tiny_citizen(), tiny_settings()
    settings.data.use_context = False
    model.save_pretrained(home / "exported")
    write_checkpoint(home / "run", model, settings)
    for i in range(7):
        film(home / "films" / f"jane-doe-{i}.png", i)
    (home / "films" / "jane-doe-9.png").write_text("no film")
    rows = [{"path": f"jane-doe-{i % 7}.png", "history": "fever", "id": f"jane-{i}"} for i in range(1200)]
    pd.DataFrame(rows).to_csv(home / "long.csv", index=False)
    pd.DataFrame(rows[:30]).to_csv(home / "table.csv", index=False)
    return home


@pytest.fixture(autouse=True)
def _alone_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "CHUNK", 8)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Any:
    """Everything printed so far; fails where it names a patient."""

    def read() -> tuple[str, str]:
        out, err = capfd.readouterr()
        assert "jane" not in out + err
        return out, err

    return read


def table(home: Path, out: Path, *more: str, name: str = "table.csv") -> list[str]:
    options = ["--root", str(home / "films"), "--columns", "image=path", "--batch-size", "8", "--out", str(out)]
    return ["embed", str(home / "exported"), str(home / name), *options, *more]


def test_a_folder(home: Path, tmp_path: Path, told: Any) -> None:
    out = tmp_path / "films.parquet"
    assert run(["embed", str(home / "exported"), str(home / "films"), "--out", str(out)]) == 0
    printed, _ = told()
    assert f"{out}: 7 images, features of width 12" in printed
    assert f"set aside, with reasons in {out}.quarantine.jsonl: 1" in printed
    assert "1 not an image" in printed
    assert pd.read_parquet(out)["id"].tolist() == [f"jane-doe-{i}.png" for i in range(7)]
    # again, and nothing to do
    assert run(["embed", str(home / "exported"), str(home / "films"), "--out", str(out), "--strict"]) == 1
    printed, error = told()
    assert "1 of 1 chunks were there from before" in printed
    assert "--strict: 1 rows were set aside" in error


def test_json_is_one_object_and_nothing_else(home: Path, tmp_path: Path, told: Any) -> None:
    assert run(table(home, tmp_path / "a.npz", "--json")) == 0
    printed, error = told()
    summary = json.loads(printed)
    assert summary["out"] == str(tmp_path / "a.npz")
    assert (summary["rows"], summary["chunks"], summary["with_context"]) == (30, 4, 30)
    assert "embedding:" not in error


def test_a_run_trained_without_contexts_is_given_none(home: Path, tmp_path: Path, told: Any) -> None:
    arguments = table(home, tmp_path / "a.npz", "--json")
    for model, more, with_context in (("run", [], 0), ("exported", ["--no-context"], 0), ("exported", [], 30)):
        arguments[1] = str(home / model)
        assert run([*arguments, *more, "--overwrite"]) == 0
        assert json.loads(told()[0])["with_context"] == with_context


def test_wrong_use_is_one_line_and_exit_code_2(
    home: Path, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, films, out = str(home / "exported"), str(home / "films"), str(tmp_path / "a.npz")
    for arguments, words in (
        ([model, films, "--out", "a.csv"], "the name decides the format and ends in .parquet or .npz"),
        ([model, str(home / "nowhere"), "--out", out], "no such file or folder"),
        ([model, films, "--out", out, "--split", "test"], "--split belongs to one"),
        ([model, films, "--out", out, "--columns", "image"], "write image=path,view=ViewPosition"),
        ([model, str(home / "table.csv"), "--out", out], "no column 'image' for the image"),
    ):
        assert run(["embed", *arguments]) == 2
        printed, error = told()
        assert printed == ""
        assert words in error
        assert "Traceback" not in error
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["embed", model, films, "--out", out, "--nproc", "2"]) == 2
    assert "leave it out inside torchrun" in told()[1]


def test_what_cannot_be_done_is_one_line_and_exit_code_1(home: Path, tmp_path: Path, told: Any) -> None:
    out = tmp_path / "a.npz"
    out.write_bytes(b"mine")
    for arguments, words in (
        ([str(home / "films"), str(home / "films"), "--out", str(out)], "neither a run folder with checkpoints/"),
        ([str(home / "exported"), str(home / "films"), "--out", str(out)], "a.npz exists and is not of cogaze embed"),
    ):
        assert run(["embed", *arguments]) == 1
        printed, error = told()
        assert printed == ""
        assert words in error
        assert "Traceback" not in error
    assert out.read_bytes() == b"mine"


def test_a_signal_stops_with_exit_code_3_and_the_same_command_goes_on(
    home: Path, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = package.write_chunk

    def signalled(*args: Any, **kwargs: Any) -> None:
        written(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(package, "write_chunk", signalled)
        assert run(table(home, tmp_path / "a.npz")) == 3
    assert f"lies in {tmp_path / 'a.npz'}.partial, the same command goes on" in told()[1]
    assert run(table(home, tmp_path / "a.npz", "--json")) == 0
    assert json.loads(told()[0])["resumed"] == 1


@pytest.mark.slow
def test_two_ranks_killed_and_gone_on_with_by_one(
    home: Path, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` of the whole command after its first chunk; the file is that of an undisturbed process."""
    monkeypatch.setattr(package, "CHUNK", 512)
    assert run(table(home, tmp_path / "whole.npz", name="long.csv")) == 0
    out = tmp_path / "two.npz"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = table(home, out, "--nproc", "2", name="long.csv")
    started = forkserver.Run(forkserver.COGAZE, command, env=environment)
    while not list((tmp_path / "two.npz.partial").glob("chunk-*.npz")) and started.poll() is None:
        time.sleep(0.01)
    started.kill()
    assert started.wait() == -signal.SIGKILL, started.output
    assert "jane" not in started.output
    assert not out.exists()
    told()
    assert run(table(home, out, "--json", name="long.csv")) == 0
    assert 1 <= json.loads(told()[0])["resumed"] <= 2
    with np.load(out) as got, np.load(tmp_path / "whole.npz") as want:
        assert got["id"].tolist() == [f"jane-{i}" for i in range(1200)]
        for name in want.files:
            assert name == "about" or np.array_equal(got[name], want[name]), name
