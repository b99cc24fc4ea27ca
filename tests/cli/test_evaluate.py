"""`cogaze evaluate` and `cogaze page`: what they print, where they write, how they end; alone and under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cogaze import checkpoint
from cogaze.cli.main import run
from cogaze.config import dump
from cogaze.data import loader
from cogaze.data.shards import ShardSet
from tests.evaluate.fakes import FakeModel, Splits, settings, tokenizer_of

REPOSITORY = Path(__file__).parents[2]


def stand_in(monkeypatch: Any, shards: Splits) -> None:
    """Checkpoint and shards that need no files."""
    config = settings()
    config.data.shards = ["as-trained"]
    asked: list[list[str]] = []
    monkeypatch.setattr(
        checkpoint, "load_for_evaluation", lambda path, untrained: (FakeModel(), config, tokenizer_of(shards))
    )
    monkeypatch.setattr(checkpoint, "newest", lambda path: path / "checkpoints" / "step-00000007")
    monkeypatch.setattr(checkpoint, "read_state", lambda path: SimpleNamespace(step=7))
    monkeypatch.setattr(ShardSet, "open", classmethod(lambda cls, folders, data: asked.append(list(folders)) or shards))
    shards.asked = asked  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    stand_in(monkeypatch, Splits())
    (tmp_path / "run" / "checkpoints" / "step-00000007").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(dump(settings()))
    return tmp_path / "run"


def test_all_writes_every_file_and_prints_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "all", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "zero_shot_auroc" in printed
    assert "Enlarged" in printed
    assert "not evaluated: " in printed
    assert {path.name for path in (folder / "eval").iterdir()} >= {"all.json", "gaze.json", "gaze_examples.npz"}
    assert json.loads((folder / "eval" / "all.json").read_text())["step"] == 7


@pytest.mark.parametrize("task", ["zero-shot", "retrieval", "labels", "gaze"])
def test_one_task_as_json(folder: Path, capsys: pytest.CaptureFixture[str], task: str) -> None:
    assert run(["evaluate", task, str(folder), "--data", "other", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    name = task.replace("-", "_")
    assert set(printed) == {name, "headline"}
    assert printed[name] == json.loads((folder / "eval" / f"{name}.json").read_text())


def test_data_replaces_the_shards_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    shards = Splits()
    stand_in(monkeypatch, shards)
    assert run(["evaluate", "retrieval", str(folder)]) == 0
    assert run(["evaluate", "retrieval", str(folder), "--data", "a", "--data", "b"]) == 0
    assert shards.asked == [["as-trained"], ["a", "b"]]  # type: ignore[attr-defined]


def test_other_splits_and_hidden_context_do_not_overwrite_the_test_results(folder: Path, tmp_path: Path) -> None:
    assert run(["evaluate", "zero-shot", str(folder), "--split", "validate"]) == 0
    assert run(["evaluate", "zero-shot", str(folder), "--no-context"]) == 0
    assert run(["evaluate", "zero-shot", str(folder), "--out", str(tmp_path / "mine")]) == 0
    assert not (folder / "eval" / "zero_shot.json").exists()
    assert json.loads((folder / "eval" / "validate" / "zero_shot.json").read_text())["split"] == "validate"
    hidden = json.loads((folder / "eval" / "test-no-context" / "zero_shot.json").read_text())
    assert list(hidden["variants"]) == ["no_context"]
    assert (tmp_path / "mine" / "zero_shot.json").is_file()


def test_wrong_use_is_one_line_and_exit_code_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "all", str(folder / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert run(["evaluate", "all", str(folder), "--split", "holdout"]) == 2
    assert "train, validate, test" in capsys.readouterr().err
    assert run(["page", str(folder / "checkpoints")]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_a_diverged_model_fails_with_a_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, shards = FakeModel(), Splits()
    model.head.data.fill_(float("nan"))
    loaded = (model, settings(), tokenizer_of(shards))
    monkeypatch.setattr(checkpoint, "load_for_evaluation", lambda path, untrained: loaded)
    assert run(["evaluate", "labels", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "diverged" in error
    assert "Traceback" not in error


def test_the_batch_size_changes_no_figure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plain = loader.eval_batches_of

    def listening(*given: Any, batch: int, **more: Any) -> Any:
        asked.append(batch)
        return plain(*given, batch=batch, **more)

    monkeypatch.setattr(loader, "eval_batches_of", listening)
    headlines = []
    for size in ([], ["--batch-size", "5"]):
        assert run(["evaluate", "all", str(folder), *size]) == 0
        headlines.append(json.loads((folder / "eval" / "all.json").read_text())["headline"])
    assert asked == [6, 6, 5, 5]  # the split and the one that thresholds are tuned on
    assert headlines[0].keys() == headlines[1].keys()
    for name, value in headlines[0].items():
        assert headlines[1][name] == (None if value is None else pytest.approx(value, abs=1e-5)), name


def test_a_lack_of_memory_is_one_message_with_the_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_left(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(FakeModel, "image_tensors", nothing_left)
    assert run(["evaluate", "zero-shot", str(folder), "--batch-size", "10"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cogaze: out of memory: an evaluation batch of 10 images of 28 px")
    assert "Try --batch-size 5 (the figures stay the same); or more ranks" in error
    assert "Tried to allocate 2.00 GiB" in error
    assert "Traceback" not in error
    monkeypatch.setenv("COGAZE_TRACEBACK", "1")
    assert run(["evaluate", "zero-shot", str(folder)]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_page_after_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "all", str(folder)]) == 0
    capsys.readouterr()
    assert run(["page", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "page" / "index.html")
    assert (folder / "page" / "index.html").stat().st_size > 20_000


def test_two_ranks_write_once_what_one_process_writes(folder: Path, tmp_path: Path) -> None:
    """Under torchrun rank 0 alone prints and writes, and the counts are those of one process."""
    assert run(["evaluate", "all", str(folder)]) == 0
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        import torch
        from _pytest.monkeypatch import MonkeyPatch
        from cogaze.cli.main import run
        from tests.cli.test_evaluate import Splits, stand_in
        torch.set_num_threads(1)
        stand_in(MonkeyPatch(), Splits())
        sys.exit(run(["evaluate", "all", {str(folder)!r}, "--json", "--out", {str(tmp_path / "two")!r}]))
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = json.loads(done.stdout)  # one object: one rank spoke
    one = json.loads((folder / "eval" / "all.json").read_text())
    two = json.loads((tmp_path / "two" / "all.json").read_text())
    assert printed["headline"] == two["headline"]
    assert {key: one[key] for key in ("images", "studies", "split", "step")} == {
        key: two[key] for key in ("images", "studies", "split", "step")
    }
    for name, value in one["headline"].items():
        assert two["headline"][name] == (None if value is None else pytest.approx(value, abs=1e-5)), name
