"""Signals in a real process, and what a run says and does about ranks, memory and numbers that fail it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cogaze import step
from cogaze.cli import main
from cogaze.config import Config, load
from cogaze.data.loader import LoaderError, training_order
from cogaze.data.shards import ShardSet
from cogaze.evaluate import suite
from cogaze.faults import RunFault, StopRequest, explained, explained_command, explained_evaluation
from cogaze.privacy import hashed, place, salt_of
from tests import forkserver
from tests.model.tiny import random_batch
from tests.phantoms import TINY, phantom_shards

ROOT = Path(__file__).resolve().parents[1]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_the_first_signal_only_asks(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert signal.getsignal(number) is before


def test_the_second_signal_leaves_at_once() -> None:
    program = (
        "import os, signal, time\n"
        "from cogaze.faults import StopRequest\n"
        "with StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here after its echo', flush=True)\n"
        "    time.sleep(2.1)\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    time.sleep(5)\n"
        "    print('too far', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "still here after its echo\n"
    assert done.returncode == 128 + signal.SIGUSR1


# ------------------------------------------------------------------------------------------------ what a fault says
def settings(*more: str) -> Config:
    return load(ROOT / "configs/demo.yaml", ["run.dir=x", "data.shards=[y]", *TINY, *more])


def test_a_lack_of_memory_is_told_with_the_numbers_that_matter() -> None:
    batch = random_batch(0, images=3, gaze="all")
    texts, tokens = batch.token_ids.shape
    with pytest.raises(RunFault) as told, explained(settings("train.micro_batch=4"), [batch]):
        torch.empty(1 << 50)  # the allocator's own words, whatever they are in this release
    text = str(told.value)
    assert "a micro-batch of 4 images of 56 px" in text
    assert f"{texts} texts of up to {tokens} tokens and {batch.gaze.shape[0]} gaze segments, in fp32" in text
    assert "Try train.micro_batch=2 (the global batch" in text
    assert "GiB were held" in text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), MemoryError()])
def test_every_kind_of_memory_error_is_known(error: Exception) -> None:
    with pytest.raises(RunFault, match="out of memory"), explained(settings(), [random_batch(0, images=2)]):
        raise error


def test_another_error_passes_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as told, explained(settings(), []):
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert type(told.value) is RuntimeError


def test_remedies_that_are_in_force_are_not_proposed() -> None:
    config = settings("train.micro_batch=1", "train.checkpointing=true", "train.precision=bf16", "text.max_tokens=64")
    with pytest.raises(RunFault) as told, explained(config, [random_batch(0, images=2)]):
        raise MemoryError
    remedies = str(told.value).partition("Try ")[2]
    assert remedies.startswith("train.strategy=zero2")
    assert "checkpointing" not in remedies


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), MemoryError()])
def test_an_evaluation_without_memory_is_told_its_own_numbers_and_remedies(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RunFault) as told, explained_evaluation(settings("eval.batch=20", "eval.max_batches=null")):
        raise error
    text = str(told.value)
    assert text.startswith("out of memory: an evaluation batch of 20 images, 7 a rank, of 56 px with texts of up to 64")
    assert "in fp32; at most" in text
    assert "Try eval.batch=10 (of the figures, eval_loss" in text
    assert "more ranks, which share eval.batch; or eval.max_batches" in text
    assert not any(name in text for name in ("micro_batch", "checkpointing", "zero", "--dry-run"))  # of no help here
    assert "The newest checkpoint is untouched; start again" in text
    assert text.endswith(f"({str(error) or 'MemoryError'})")


def test_remedies_that_cannot_help_an_evaluation_are_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image a rank already, few batches already; ZeRO-3 alone holds a copy of the weights to evaluate on."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = settings("eval.batch=2", "eval.max_batches=3", "train.strategy=zero3")
    with pytest.raises(RunFault) as told, explained_evaluation(config):
        raise MemoryError
    assert (
        str(told.value).partition("Try ")[2].startswith("more ranks, which share eval.batch; or train.strategy=zero2")
    )
    with pytest.raises(RunFault) as told, explained_command(config, 30):
        raise MemoryError
    assert str(told.value).partition("Try ")[2].startswith("more ranks")


@pytest.mark.parametrize("world", ["1", "2"])
def test_a_rank_that_is_gone_in_an_evaluation_is_told_with_its_own_limit(
    monkeypatch: pytest.MonkeyPatch, world: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    gone = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")
    for around, said in (
        (explained_evaluation(settings("train.timeout_minutes=7")), "for 7 minutes (train.timeout_minutes): look for"),
        (explained_command(settings(), 30), "for 30 minutes: look for its own message. ([gloo]"),
    ):
        with pytest.raises(RuntimeError) as told, around:
            raise gone
        if world == "1":  # alone, it is some other connection
            assert told.value is gone
        else:
            assert said in str(told.value)


def test_what_has_been_explained_is_not_explained_again() -> None:
    told = LoaderError("a process that reads the data has died, most likely out of memory")
    with pytest.raises(LoaderError) as passed, explained_evaluation(settings()):
        raise told
    assert passed.value is told


# ------------------------------------------------------------------------------------------------ whole runs
def arguments(run: Path, *more: str) -> list[str]:
    shards = f"data.shards=[{phantom_shards()}]"
    return ["configs/demo.yaml", f"run.dir={run}", shards, "tracking.mlflow=false", *TINY, *more]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def starved_twice(settings: list[str]) -> int:
    """Train twice, without memory for the losses of an evaluation and then for its other figures: 10 code + code."""

    def nothing_left(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    kept, step.evaluate_loss = step.evaluate_loss, nothing_left  # type: ignore[assignment]
    first = main.run(["train", *settings])
    step.evaluate_loss, suite.evaluate_all = kept, nothing_left  # type: ignore[assignment]
    return 10 * first + main.run(["train", *settings])


def test_a_training_whose_evaluation_lacks_memory_ends_with_the_remedy(tmp_path: Path) -> None:
    """First in the losses, then, gone on from the step before, in the zero-shot and retrieval figures."""
    given = arguments(tmp_path / "run", "train.steps=3", "train.save_every=1", "eval.every=2")
    done = forkserver.Run("tests.test_faults:starved_twice", given, env=ENV)
    assert done.wait() == 11, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("cogaze: ")]
    assert len(said) == 2
    for line in said:
        assert line.startswith("cogaze: out of memory: an evaluation batch of 8 images of 56 px")
        assert "Try eval.batch=4" in line
        assert line.endswith("start again to go on from it. (CUDA out of memory. Tried to allocate 2.00 GiB)")
    assert "resumed step-00000001 at step 1 of 3" in done.stdout
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [1, 2]  # no evaluation line
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("step-*")] == ["step-00000001"]


@pytest.mark.slow
def test_a_run_of_steps_that_are_not_finite_ends_saved_and_names_the_samples(tmp_path: Path) -> None:
    """A learning rate beyond reason: the first step is taken, the weights it makes give nothing finite any more."""
    run = tmp_path / "run"
    wild = ("optim.lr=1e37", "optim.schedule.name=constant", "optim.schedule.warmup=0", "optim.clip_norm=null")
    given = arguments(run, *wild, "train.steps=20", "train.max_skipped=3", "train.save_every=100", "eval.every=100")
    done = forkserver.Run(forkserver.COGAZE, ["train", *given, "--nproc", "2"], env=ENV)
    assert done.wait() == 1, done.stderr[-3000:]
    assert "3 steps in a row had a non-finite loss or gradient" in done.stderr
    rows = rows_of(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert "skipped" not in rows[0]
    state = json.loads((run / "checkpoints/step-00000004/trainer.json").read_text())
    assert (state["skipped_steps"], state["skipped_in_row"]) == (3, 3)

    config = load(run / "config.yaml")
    shards = ShardSet.open(config.data.shards)
    order = training_order(config, shards)
    for row in rows[1:]:
        assert row["skipped"] == "non-finite loss on rank 0, 1"
        assert row["loss"] is None
        whole = [place(shards, "train", int(p)) for p in order.step(row["step"] - 1).positions]
        assert [where for where, _ in row["skipped_samples"]] == whole
        ids = {shards.read_meta("train", int(p))["image_id"] for p in order.step(row["step"] - 1).positions}
        assert not any(name in json.dumps(row) for name in ids)
        assert [h for _, h in row["skipped_samples"]] == [
            hashed(shards.read_meta("train", int(p))["image_id"], salt_of(shards))
            for p in order.step(row["step"] - 1).positions
        ]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_a_rank_that_hangs_ends_the_others_within_the_timeout(tmp_path: Path, strategy: str) -> None:
    """kill -STOP: alive, its sockets open, and silent."""
    run = tmp_path / "run"
    limits = ("train.timeout_minutes=2", "train.step_timeout_minutes=0.1", f"train.strategy={strategy}")
    given = arguments(run, *limits, "train.steps=100000", "train.save_every=100000", "eval.every=100000")
    process = forkserver.Run(forkserver.COGAZE, ["train", *given, "--nproc", "2"], env=ENV)
    try:
        deadline = time.monotonic() + 240
        while not (run / "metrics.jsonl").is_file() or len(rows_of(run)) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.output[-3000:]
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGSTOP)
        assert process.wait(120) == 1
    finally:
        process.kill()
    said = process.output
    assert "pg timeout     2 minutes (gloo) until the first step is done" in said
    assert "pg timeout     0.1 minutes (gloo) from here on" in said
    assert "another rank has died, or has not answered for 0.1 minutes" in said
