"""What of DeepSpeed's settings is ours, and what a launcher's file may not ask for. (Steps: `tests.equality`.)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cogaze.config import ConfigError
from cogaze.engine import Engine, deepspeed_settings
from cogaze.model import CoGazeConfig, CoGazeModel
from cogaze.step import evaluate_loss
from tests.model.tiny import VOCABULARY, random_batch, tiny_settings


@pytest.mark.parametrize(
    ("offload", "fits"),
    [
        ({}, True),
        ({"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}, True),
        ({"offload_optimizer": {"device": "none", "ratio": 1.0}}, True),
        ({"offload_optimizer": None}, True),
        ({"offload_optimizer": {"device": "nvme", "nvme_path": "/scratch"}}, False),
        ({"offload_param": {"device": "nvme"}}, False),
        ({"offload_optimizer": {"device": "cpu", "ratio": 0.3}}, False),
    ],
)
def test_offload_to_where_no_checkpoint_reaches_is_refused(
    offload: dict[str, Any], fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 1, **offload}}))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    if fits:
        zero = deepspeed_settings(tiny_settings(), 3, 1)["zero_optimization"]
        assert zero["stage"] == 3  # the one asked for
        assert offload.items() <= zero.items()
    else:
        with pytest.raises(ConfigError, match=rf"the DeepSpeed file's {next(iter(offload))}: all of it may go to cpu"):
            deepspeed_settings(tiny_settings(), 3, 1)


@pytest.mark.parametrize(("precision", "halved"), [("fp32", False), ("bf16", True)])
@pytest.mark.parametrize("deepspeed", [False, True])
def test_evaluation_runs_in_the_precision_of_training(precision: str, halved: bool, deepspeed: bool) -> None:
    """The bare model is evaluated, without what accelerate or DeepSpeed wrap around it in training."""
    config = tiny_settings()
    config.train.precision = precision  # type: ignore[assignment]
    torch.manual_seed(0)
    model = CoGazeModel(CoGazeConfig.from_settings(config, VOCABULARY, 0))
    engine = Engine.__new__(Engine)  # no process group, no wrapper
    engine.config, engine.model, engine.device, engine.twin = config, model, torch.device("cpu"), None
    engine.stage, engine.deepspeed, engine._averaging = (2 if deepspeed else None), deepspeed, False
    seen: list[tuple[bool, torch.dtype]] = []
    model.register_forward_pre_hook(
        lambda *_: seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
    )
    figures = evaluate_loss(engine, [random_batch(0, images=3), random_batch(1, images=3)], torch.ones(14))
    assert seen == [(halved, torch.bfloat16)] * 2
    assert figures["eval_loss"] > 0
    assert model.training  # as it was
