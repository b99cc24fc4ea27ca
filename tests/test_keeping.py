"""Which checkpoints stay, which is the best, and what a killed process left."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogaze import checkpoint, keeping
from cogaze.checkpoint import TrainerState
from cogaze.saving import Saver
from tests.saves import TOKENIZER, make_engine, names, settings, steps


def test_the_last_every_third_and_the_best_are_kept(tmp_path: Path) -> None:
    config = settings(keep_last=2, keep_every=30, keep_best="zero_shot_auroc")
    saver, state = Saver(make_engine(steps=0), TOKENIZER, tmp_path, config), TrainerState()
    figures = {10: 0.5, 20: 0.8, 40: 0.7, 50: float("nan"), 60: None, 70: 0.8}
    kept = {}
    for state.step in range(10, 80, 10):
        best = keeping.better(config.train.keep_best, {"zero_shot_auroc": figures.get(state.step)}, state)
        assert (best is not None) == (state.step in (10, 20))
        saver.save(state, best)
        assert saver.wait() is None
        kept[state.step] = steps(tmp_path)
    assert kept == {
        10: [10], 20: [10, 20], 30: [20, 30], 40: [20, 30, 40], 50: [20, 30, 40, 50], 60: [20, 30, 50, 60],
        70: [20, 30, 60, 70],
    }  # fmt: skip
    assert (tmp_path / "checkpoints" / "best").read_text() == "step-00000020\n"
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.read_state(newest).best == {"metric": "zero_shot_auroc", "value": 0.8, "step": 20}
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize(
    ("metric", "was", "now", "improves"),
    [
        ("eval_loss", 1.0, 0.9, True),
        ("eval_loss", 1.0, 1.0, False),
        ("eval_loss_gaze", 1.0, 1.1, False),
        ("gaze_js", 0.5, 0.4, True),
        ("gaze_nss", 0.5, 0.4, False),
        ("zero_shot_auroc", 0.5, 0.6, True),
        ("zero_shot_auroc", 0.5, 0.5, False),
        ("zero_shot_auroc", None, 0.1, True),
        ("zero_shot_auroc", None, float("inf"), False),
        (None, None, 0.1, False),
    ],
)
def test_which_evaluation_is_the_best(metric: str | None, was: float | None, now: float, improves: bool) -> None:
    best = None if was is None else {"metric": metric, "value": was, "step": 1}
    found = keeping.better(metric, {str(metric): now}, TrainerState(step=5, best=best))
    assert found == ({"metric": metric, "value": now, "step": 5} if improves else None)


def test_folders_ahead_are_not_touched_until_training_gets_there(tmp_path: Path) -> None:
    """After `train.resume=never`, or when a damaged checkpoint sent training back."""
    saver = Saver(make_engine(steps=0), TOKENIZER, tmp_path, settings(keep_last=2))
    for step in (500, 600, 10, 20, 600):
        saver.save(TrainerState(step=step))
        assert saver.wait() is None
        assert (tmp_path / "checkpoints" / "latest").read_text() == f"step-{step:08d}\n"
        if step == 20:
            assert steps(tmp_path) == [10, 20, 500, 600]
    assert steps(tmp_path) == [500, 600]


def test_what_a_killed_process_left_is_put_in_order(tmp_path: Path) -> None:
    config = settings(keep_best="eval_loss")
    saver = Saver(make_engine(steps=0), TOKENIZER, tmp_path, config)
    best = {"metric": "eval_loss", "value": 1.0, "step": 10}
    saver.save(TrainerState(step=10), best)
    saver.save(TrainerState(step=20, best=best), {"metric": "eval_loss", "value": 0.5, "step": 20})
    assert saver.wait() is None
    folder = tmp_path / "checkpoints"
    (folder / ".step-00000030.partial" / "tokenizer").mkdir(parents=True)
    (folder / ".step-00000005.old").mkdir()
    (folder / ".latest.partial").write_text("step-0")
    state = checkpoint.read_state(folder / "step-00000010")  # 20 turned out to be damaged: training goes on from 10
    Saver(make_engine(steps=0), TOKENIZER, tmp_path, config, state=state)
    assert names(tmp_path) == ["best", "latest", "step-00000010", "step-00000020"]
    assert (folder / "best").read_text() == "step-00000010\n"
    assert state.best == best
    Saver(make_engine(steps=0), TOKENIZER, tmp_path, config, state=TrainerState())  # none is the best yet
    assert not (folder / "best").exists()
