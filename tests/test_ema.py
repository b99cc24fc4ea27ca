"""The moving average of the weights: its formula on every layout, saved and opened, evaluated, exported."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogaze import checkpoint
from cogaze.checkpoint import CheckpointError, TrainerState
from cogaze.ema import decay_at
from tests.model.exported import tiny_citizen, write_checkpoint
from tests.switched import launch, make, settings, train, weights_of
from tests.test_train import COGAZE, ENV, ROOT, arguments, cogaze, metrics

DECAY = 0.25  # above d_1 = 2/11 and equal to d_2 = 3/12: the growing decay matters in the first of two steps


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Engines of one process, which accelerate's state and the environment forget afterwards."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def by_hand(after: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """float64, of the weights at the start and after three steps of which the second was not taken."""
    start, first, same, last = ({name: value.double() for name, value in weights.items()} for weights in after)
    assert all(torch.equal(first[name], same[name]) for name in first)
    early = {name: 2 / 11 * start[name] + 9 / 11 * first[name] for name in start}
    return {name: 0.25 * early[name] + 0.75 * last[name] for name in start}


def assert_is(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), wanted[name].double(), rtol=1e-5, atol=1e-6)


def test_the_decay_grows_to_its_limit() -> None:
    assert decay_at(1, 0.999) == 2 / 11
    assert decay_at(2, 0.999) == 3 / 12
    assert decay_at(8989, 0.999) < 0.999
    assert decay_at(8990, 0.999) == 0.999  # 8991 / 9000
    assert decay_at(10**6, 0.999) == 0.999
    assert decay_at(1, 0.1) == 0.1


# ------------------------------------------------------------------------------------------------ one process
def test_it_is_what_the_formula_says_and_leaves_training_alone(one_process: None) -> None:
    plain, config = settings({}), settings({"ema": DECAY, "model": {"vision": {"trainable": 1}}})
    made = make(config)
    assert made.average is not None
    frozen = {name for name, p in made.model.named_parameters() if not p.requires_grad}
    assert made.average.held.keys() == {name for name, _ in made.model.named_parameters()} - frozen
    for name, value in made.average.held.items():  # before the first step: the weights
        assert torch.equal(value, made.model.state_dict()[name])
    done = train(made, config)
    assert [row["taken"] for row in done["rows"]] == [True, False, True]
    assert made.average.taken == 2
    wanted = by_hand(done["after"])
    assert_is(made.average.held, wanted)
    before = weights_of(made.whole())
    with made.averaged():
        assert_is(weights_of(made.whole()), {**before, **wanted})
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    with pytest.raises(KeyError), made.averaged():
        raise KeyError  # an evaluation that fails
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert make(plain).average is None


def test_a_step_with_infinite_gradients_does_not_move_it(one_process: None) -> None:
    made = make(settings({"ema": DECAY}))
    assert made.average is not None
    for parameter in made.parameters:
        parameter.grad = torch.full_like(parameter, math.inf)
    assert not math.isfinite(made.update(0.1))
    assert made.average.taken == 0
    for parameter in made.parameters:
        parameter.grad = torch.ones_like(parameter)
    assert math.isfinite(made.update(0.1))
    assert made.average.taken == 1


def test_a_file_that_does_not_fit_is_refused(one_process: None, tmp_path: Path) -> None:
    average = make(settings({"ema": DECAY})).average
    assert average is not None
    before = {name: value.clone() for name, value in average.held.items()}
    good = {name: torch.ones_like(value) for name, value in before.items()}
    without = {name: value for name, value in good.items() if name != "image_head.bias"}
    for tensors, said in (
        (without, "image_head.bias has the shape None, the model (14,)"),
        (good | {"other": torch.ones(2)}, "other has the shape (2,), the model None"),
        (good | {"image_head.bias": torch.ones(3)}, "image_head.bias has the shape (3,), the model (14,)"),
    ):
        save_file(tensors, tmp_path / "ema.safetensors")
        with pytest.raises(CheckpointError) as raised:
            average.load(tmp_path / "ema.safetensors", taken=3)
        assert said in str(raised.value)
    with pytest.raises(CheckpointError, match="this checkpoint has no averaged weights"):
        average.load(tmp_path / "none.safetensors", taken=3)
    assert average.taken == 0
    assert all(torch.equal(value, before[name]) for name, value in average.held.items())


def test_it_is_neither_switched_on_nor_changed_on_the_way() -> None:
    none, some, other = (settings({} if decay is None else {"ema": decay}) for decay in (None, 0.9, 0.99))
    assert checkpoint.differences(none, some) == ["train.ema: None -> 0.9"]
    assert checkpoint.differences(some, other) == ["train.ema: 0.9 -> 0.99"]
    faster = settings({"ema": 0.9, "compile": True, "checkpointing": True})
    assert checkpoint.differences(some, faster) == []


def test_averaged_weights_are_asked_for_where_there_are_none(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, tiny_citizen(), settings({}))
    with pytest.raises(CheckpointError, match=r"has no averaged weights: its run had no train\.ema"):
        checkpoint.load_for_evaluation(folder, averaged=True)
    checkpoint.load_for_evaluation(folder)


# ------------------------------------------------------------------------------------------------ two ranks
@pytest.mark.slow
@pytest.mark.parametrize("strategies", [["ddp"], ["zero0", "zero1", "zero2", "zero3"]], ids=["ddp", "zero"])
def test_two_ranks_have_the_same_average_and_one_opens_it(
    one_process: None, tmp_path: Path, strategies: list[str]
) -> None:
    cases: list[dict[str, Any]] = [{"strategy": strategy, "ema": DECAY} for strategy in strategies]
    for case, found in zip(cases, launch(tmp_path, cases), strict=True):
        wanted = by_hand(found["after"])
        written = load_file(found["file"])
        assert_is(written, wanted)
        assert_is(found["seen"], wanted)
        assert found["untouched"]
        assert found["taken"] == 2
        assert all(torch.equal(written[name], value) for name, value in found["opened"].items()), case
        assert all(torch.equal(written[name], found["seen"][name]) for name in written), case
        alone = make(settings({"ema": DECAY}), seed=2)
        checkpoint.resume(alone, Path(found["file"]).parent, settings({"ema": DECAY}), TrainerState())
        assert alone.average is not None
        assert alone.average.taken == 2
        assert all(torch.equal(written[name], value) for name, value in alone.average.held.items())


# ------------------------------------------------------------------------------------------------ a whole run
@pytest.mark.slow
def test_a_run_evaluates_resumes_and_exports_it(tmp_path: Path) -> None:
    run, broken = tmp_path / "run", tmp_path / "broken"
    how = ("train.ema=0.9", "train.save_every=3", "train.keep_last=3", "eval.every=3", "train.keep_best=ema_eval_loss")
    done = cogaze(arguments(run, 6, *how))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    evaluations = [row for row in metrics(run) if row.get("event") == "eval"]
    assert [row["step"] for row in evaluations] == [3, 6]
    for row in evaluations:
        names = {name for name in row if not name.startswith("ema_")} - {"event", "step"}
        assert {name for name in row if name.startswith("ema_")} == {f"ema_{name}" for name in names}
        assert row["ema_eval_loss"] != row["eval_loss"]
        assert row["ema_eval_loss"] == pytest.approx(row["eval_loss"], rel=0.5)
    best = min(evaluations, key=lambda row: row["ema_eval_loss"])
    assert (run / "checkpoints" / "best").read_text() == f"step-{best['step']:08d}\n"

    shutil.copytree(run, broken)
    shutil.rmtree(broken / "checkpoints" / "step-00000006")
    (broken / "checkpoints" / "latest").write_text("step-00000003\n")
    done = cogaze(arguments(broken, 6, *how))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "resumed step-00000003" in done.stdout
    files = [folder / "checkpoints" / "step-00000006" / "ema.safetensors" for folder in (run, broken)]
    assert files[0].read_bytes() == files[1].read_bytes()
    again = [row for row in metrics(broken) if row.get("event") == "eval"]
    assert again[1]["ema_eval_loss"] == evaluations[1]["ema_eval_loss"]

    exported = subprocess.run(
        [*COGAZE, "export", str(run), "--out", str(tmp_path / "out"), "--ema", "--json"],
        cwd=ROOT, env=ENV, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    assert any("the run's are of its last weights" in note for note in json.loads(exported.stdout)["notes"])
    model, _, _ = checkpoint.load_for_evaluation(tmp_path / "out")
    out, average = model.state_dict(), load_file(files[0])
    assert all(torch.equal(out[name], value) for name, value in average.items())
    last = load_file(run / "checkpoints" / "step-00000006" / "model.safetensors")
    assert not torch.equal(out["image_head.weight"], last["image_head.weight"])
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "these weights are the moving average over the steps, decay 0.9." in card
