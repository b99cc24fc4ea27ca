"""What saving needs: a tokenizer, settings, a tiny model with its optimizer, and a look at what was left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from cogaze import checkpoint, moments
from cogaze.config import Config, validate
from cogaze.data.text import train_tokenizer
from cogaze.model import CoGazeModel
from tests.model.tiny import tiny_model, tiny_settings

TOKENIZER = train_tokenizer(["the heart is large", "no effusion"], 60)


def settings(**train: Any) -> Config:
    tree = tiny_settings().model_dump(mode="json")
    tree["train"] |= train
    return validate(tree, "test")


def make_engine(seed: int = 0, steps: int = 2, **model: Any) -> Any:
    """A tiny model and its optimizer after some steps on made-up gradients; before any, saving takes a moment."""
    module = tiny_model(seed, **model)
    module.vision.freeze()
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices, rest = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    optimizer = AdamW([{"params": matrices}, {"params": rest, "weight_decay": 0.0}], lr=0.01)
    engine = SimpleNamespace(
        model=module,
        stage=None,
        device=torch.device("cpu"),
        optimizer=optimizer,
        whole=lambda: module,
        adopt=lambda: None,
        average=None,
    )
    for step in range(steps):
        train(engine, step)
    return engine


def train(engine: Any, step: int) -> None:
    g = torch.Generator().manual_seed(step)
    for parameter in engine.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
    engine.optimizer.step()


def state_of(model: CoGazeModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moments_of(engine: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in moments.whole_state(engine)}


def names(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").iterdir())


def steps(run: Path) -> list[int]:
    return [checkpoint.step_of(folder) for folder in checkpoint.complete_folders(run)]
