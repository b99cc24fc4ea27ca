"""Saving beside training: what is written is what there was; a full disk is a warning, and training goes on."""

from __future__ import annotations

import errno
import io
import logging
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import AdamW

from cogaze import checkpoint, saving
from cogaze.checkpoint import CheckpointError, TrainerState
from cogaze.saving import Saver
from tests import forkserver
from tests.saves import TOKENIZER, make_engine, moments_of, names, settings, state_of, steps, train

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The program's logger as a test can read it, whatever an earlier test in this process made of it."""
    log = logging.getLogger("cogaze")
    before, log.propagate = log.propagate, True
    yield
    log.propagate = before


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "cogaze"]


# ------------------------------------------------------------------------------------------------ there and back
def test_a_restored_run_goes_on_bitwise(tmp_path: Path) -> None:
    config = settings()
    engine = make_engine()
    folder = saving.save(engine, TOKENIZER, TrainerState(step=2, world_size=4), tmp_path, config)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "model.safetensors", "config.json", "config.yaml", "trainer.json", "files.json", "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json", "optimizer.safetensors",
    }  # fmt: skip
    assert checkpoint.damage(folder) == []
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (folder / name).stat().st_mode == (folder / "trainer.json").stat().st_mode

    other = make_engine(seed=1, steps=0)
    state = checkpoint.resume(other, folder, config, TrainerState(world_size=2))
    assert (state.step, state.world_size) == (2, 2)  # whoever wrote it
    for step in (2, 3):
        train(engine, step)
        train(other, step)
    for name, value in engine.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], value, rtol=0, atol=0)
    ours, theirs = moments_of(engine), moments_of(other)
    assert ours.keys() == theirs.keys()
    assert {key.partition("/")[0] for key in ours} == {"step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_optimizer_state_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    config = settings()
    folder = saving.save(make_engine(), TOKENIZER, TrainerState(step=2), tmp_path, config)
    other = make_engine(seed=1, steps=0)
    other.optimizer = AdamW([other.model.log_gaze_scale])
    with pytest.raises(CheckpointError, match=r"optimizer state of \S+, which this model does not train"):
        checkpoint.resume(other, folder, config, TrainerState())


# ------------------------------------------------------------------------------------------------ beside training
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits until the returned event is set."""
    go = threading.Event()
    write = saving.Snapshot.write

    def slow(self: saving.Snapshot, folder: Path) -> None:
        assert go.wait(30)
        write(self, folder)

    monkeypatch.setattr(saving.Snapshot, "write", slow)
    return go


def test_training_goes_on_while_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, state = make_engine(), TrainerState(step=2)
    saver = Saver(engine, TOKENIZER, tmp_path, settings())
    saver.save(state)
    assert saver.wait() is None
    go = held(monkeypatch)
    weights, state_before = state_of(engine.model), moments_of(engine)
    state.step = 3
    saver.save(state)
    train(engine, 3)
    state.step = 4  # what the loop changes meanwhile is not what is written
    assert steps(tmp_path) == [2]
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoints" / "step-00000002"  # complete or absent
    go.set()
    assert saver.wait() is None
    folder = checkpoint.newest(tmp_path)
    assert folder is not None
    assert folder.name == "step-00000003"
    assert checkpoint.read_state(folder).step == 3
    written = load_file(folder / "model.safetensors")
    assert all(torch.equal(written[name], weights[name]) for name in written)
    assert any(not torch.equal(written[name], value) for name, value in engine.model.state_dict().items())
    other = make_engine(seed=1, steps=0)
    checkpoint.resume(other, folder, settings(), TrainerState())
    assert all(torch.equal(value, state_before[key]) for key, value in moments_of(other).items())


def test_one_write_at_a_time_and_the_time_it_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Saver(make_engine(steps=0), TOKENIZER, tmp_path, settings())
    assert saver.take_stall() is None
    assert saver.wait() is None
    assert saver.take_stall() is None  # nothing was in flight
    go = held(monkeypatch)
    saver.save(TrainerState(step=1))
    assert saver.take_stall() is not None
    threading.Timer(0.3, go.set).start()
    saver.save(TrainerState(step=2))  # waits for the first
    assert steps(tmp_path)[:1] == [1]
    stalled = saver.take_stall()
    assert stalled is not None
    assert 0.25 < stalled < 20
    assert saver.wait() is None
    assert steps(tmp_path) == [1, 2]


# ------------------------------------------------------------------------------------------------ trouble with the disk
def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")


@pytest.mark.parametrize("where", ["os.replace", "os.fsync", "cogaze.saving.make_empty", "cogaze.saving.save_file"])
def test_a_failed_write_is_a_warning_and_the_last_good_one_stays(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine, config = make_engine(), settings(keep_best="eval_loss")
    saver, state = Saver(engine, TOKENIZER, tmp_path, config), TrainerState(step=10)
    saver.save(state, {"metric": "eval_loss", "value": 2.0, "step": 10})
    assert saver.wait() is None
    with monkeypatch.context() as patch:
        patch.setattr(where, no_space)
        state.step = 20
        saver.save(state, {"metric": "eval_loss", "value": 1.0, "step": 20})
        problem = saver.wait()
    target = tmp_path / "checkpoints" / "step-00000020"
    assert problem == (
        f"checkpoint {target} could not be written (there: No space left on device); "
        "the newest one is still step-00000010"
    )
    assert warnings(caplog) == [f"{problem}; training goes on"]
    assert names(tmp_path) == ["best", "latest", "step-00000010"]
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoints" / "step-00000010"
    assert state.best == {"metric": "eval_loss", "value": 2.0, "step": 10}  # the one that there is
    assert saver.wait() is None  # said once
    saver.save(state)
    assert saver.wait() is None
    assert steps(tmp_path) == [10, 20]
    monkeypatch.setattr(where, no_space)
    with pytest.raises(CheckpointError, match="No space left"):
        saving.save(engine, TOKENIZER, TrainerState(step=30), tmp_path, config)


def test_a_failure_while_copying_is_a_warning_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics: Any = SimpleNamespace(offset=no_space)  # metrics.jsonl lies on the same full disk
    saver = Saver(make_engine(), TOKENIZER, tmp_path, settings(), metrics=metrics)
    saver.save(TrainerState(step=1))
    assert "(there: No space left on device); there is none before it" in str(saver.wait())
    assert len(warnings(caplog)) == 1


def test_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in its place")
    saver = Saver(make_engine(), TOKENIZER, tmp_path, settings(), state=TrainerState())
    saver.save(TrainerState(step=1))
    assert "Not a directory" in str(saver.wait())


def limited(folder: str) -> None:
    """Save within limits on the size of a file; what is said about it goes to stdout."""
    logging.basicConfig(stream=(said := io.StringIO()), format="%(message)s")  # stdout is a file too
    run = Path(folder)
    saver = Saver(make_engine(), TOKENIZER, run, settings(keep_last=9))
    saver.save(TrainerState(step=1))
    assert saver.wait() is None
    newest = checkpoint.newest(run)
    assert newest is not None
    largest = max((p.stat().st_size, p.name) for p in newest.rglob("*") if p.is_file())
    weights = (newest / "model.safetensors").stat().st_size
    for step, limit in ((2, largest[0] - 1), (3, weights - 1), (4, 600)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        saver.save(TrainerState(step=step))
        assert saver.wait() is not None
        assert names(run) == ["latest", "step-00000001"], names(run)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    saver.save(TrainerState(step=5))
    assert saver.wait() is None
    found = [(folder.name, checkpoint.damage(folder)) for folder in checkpoint.complete_folders(run)]
    assert found == [("step-00000001", []), ("step-00000005", [])]
    print(said.getvalue(), end="")


def test_a_real_limit_on_file_sizes(tmp_path: Path) -> None:
    """The kernel refuses to write on, half-way through a file (EFBIG; a full disk or quota gives other numbers)."""
    done = forkserver.Run("tests.test_saving:limited", str(tmp_path))
    assert done.wait() == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all("File too large" in line and line.endswith("; training goes on") for line in lines)
