"""AdamW's parameter groups, and the learning rate as a pure function of the step and the evaluation history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from .config import OptimConfig, ScheduleConfig


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay applies: not to biases, norms and scales (at most one dimension), latents and tokens."""
    return parameter.ndim > 1 and not name.endswith(("latents", "_type", "cls_token"))


def parameter_groups(
    model: nn.Module, weight_decay: float, decay: Literal["weights", "all"] = "weights"
) -> list[dict[str, object]]:
    """AdamW groups over the trained parameters, with and without decay, each in the order of the module; with
    `decay="all"` one group of all of them."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if decay == "all":
        return [{"params": [p for _, p in trained], "weight_decay": weight_decay}]
    return [
        {"params": [p for name, p in trained if decays(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in trained if not decays(name, p)], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """torch's fused AdamW over `parameter_groups`: one kernel a step, on a CPU too."""
    groups = parameter_groups(model, config.weight_decay, config.decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def learning_rate(step: int, total_steps: int, config: OptimConfig, eval_losses: Sequence[float]) -> float:
    """The rate of optimizer step `step` (0-based), from nothing but its arguments, so that resume needs no state."""
    schedule = config.schedule
    warmup = schedule.warmup * total_steps if schedule.warmup < 1 else schedule.warmup
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if schedule.name == "constant":
        return config.lr
    if schedule.name == "plateau":
        return config.lr * max(schedule.factor ** plateau_cuts(eval_losses, schedule), schedule.min_ratio)
    done = (step - warmup) / max(total_steps - warmup, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return config.lr * (schedule.min_ratio + (1 - schedule.min_ratio) * cosine)


def plateau_cuts(eval_losses: Sequence[float], schedule: ScheduleConfig) -> int:
    """How often the rate has been cut after these evaluations: the rule of torch's ReduceLROnPlateau (mode min,
    relative threshold 1e-4): more than `patience` evaluations in a row without improvement cut it and start anew."""
    best, bad, cuts = math.inf, 0, 0
    for loss in eval_losses:
        if loss < best * (1 - 1e-4):
            best, bad = loss, 0
        else:
            bad += 1
        if bad > schedule.patience:
            cuts, bad = cuts + 1, 0
    return cuts
