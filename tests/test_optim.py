"""Learning rate and parameter groups: hand values, and torch's own scheduler as a second method."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cogaze.config import OptimConfig, ScheduleConfig
from cogaze.optim import learning_rate, make_optimizer, parameter_groups, plateau_cuts


def optim(**schedule: object) -> OptimConfig:
    return OptimConfig(lr=1.0, schedule=ScheduleConfig(**schedule))


def test_cosine_by_hand() -> None:
    config = optim(name="cosine", warmup=4, min_ratio=0.1)
    # warm-up of 4 steps: 1/5, 2/5, 3/5, 4/5 of the peak, then the peak itself
    assert [learning_rate(s, 104, config, []) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert learning_rate(54, 104, config, []) == pytest.approx(0.1 + 0.9 * 0.5)  # half way down
    assert learning_rate(104, 104, config, []) == pytest.approx(0.1)


def test_warmup_as_a_share_of_all_steps() -> None:
    share, steps = optim(name="constant", warmup=0.1), optim(name="constant", warmup=10)
    for step in range(30):
        assert learning_rate(step, 100, share, []) == learning_rate(step, 100, steps, [])


def test_a_run_without_warmup_starts_at_the_peak() -> None:
    assert learning_rate(0, 10, optim(name="cosine"), []) == 1.0


@given(
    st.lists(st.floats(0.1, 10.0) | st.sampled_from([1.0, 0.99999, 0.9, math.nan]), max_size=25),
    st.integers(0, 4),
)
def test_plateau_is_torchs_rule(losses: list[float], patience: int) -> None:
    schedule = ScheduleConfig(name="plateau", factor=0.5, patience=patience)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, eps=0.0)
    for loss in losses:
        reference.step(loss)
    assert 0.5 ** plateau_cuts(losses, schedule) == optimizer.param_groups[0]["lr"]


def test_plateau_never_falls_below_the_floor() -> None:
    config = optim(name="plateau", factor=0.1, patience=0, min_ratio=0.05)
    assert learning_rate(5, 10, config, [1.0, 2.0]) == pytest.approx(0.1)
    assert learning_rate(5, 10, config, [1.0, 2.0, 2.0, 2.0]) == 0.05


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.norm = torch.nn.LayerNorm(2)
        self.image_latents = torch.nn.Parameter(torch.zeros(4, 2))
        self.logit_scale = torch.nn.Parameter(torch.zeros(1))
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)


def test_weight_decay_spares_norms_biases_latents_and_scales() -> None:
    model = Small()
    with_decay, without = parameter_groups(model, 0.3)
    assert with_decay["params"] == [model.linear.weight]
    assert with_decay["weight_decay"] == 0.3
    spared = {id(p) for p in without["params"]}  # type: ignore[attr-defined]
    expected = (model.linear.bias, model.norm.weight, model.norm.bias, model.image_latents, model.logit_scale)
    assert spared == {id(p) for p in expected}
    assert without["weight_decay"] == 0.0


def test_adamw_step_by_hand() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    optimizer = make_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5, eps=1e-12))
    model.weight.grad = torch.full((1, 1), 3.0)
    optimizer.step()
    # first AdamW step: decay 2 * (1 - 0.1 * 0.5) = 1.9, then lr * sign(gradient)
    assert model.weight.item() == pytest.approx(1.9 - 0.1, abs=1e-6)


def test_decay_of_everything_is_one_group() -> None:
    model = torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 3), "norm": torch.nn.LayerNorm(3)})
    model.register_parameter("latents", torch.nn.Parameter(torch.zeros(4, 2)))
    model.register_parameter("image_type", torch.nn.Parameter(torch.zeros(1, 2)))
    model["linear"].bias.requires_grad_(False)
    (everything,) = parameter_groups(model, 0.1, "all")
    assert everything["weight_decay"] == 0.1
    assert {id(p) for p in everything["params"]} == {id(p) for p in model.parameters() if p.requires_grad}  # type: ignore[attr-defined]
    decayed, spared = parameter_groups(model, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 2)]  # type: ignore[attr-defined]
    assert len(spared["params"]) == 4  # type: ignore[arg-type]
    # a step without gradient moves what decays, and by lr * decay
    weight = torch.nn.Parameter(torch.ones(1))
    holder = torch.nn.ParameterDict({"bias": weight})
    optimizer = make_optimizer(holder, OptimConfig(lr=0.5, weight_decay=0.1, decay="all"))
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(0.95)
