"""Learning rate and parameter groups: hand values, and torch's own scheduler as a second method."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st

from cogaze import checkpoint, saving, step
from cogaze.config import OptimConfig, ScheduleConfig
from cogaze.optim import decays, layer_scales, learning_rate, make_optimizer, parameter_groups, plateau_cuts
from tests.model.tiny import random_batch, tiny_model
from tests.saves import TOKENIZER
from tests.switched import launch, make, settings, weights_of


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
    for at in range(30):
        assert learning_rate(at, 100, share, []) == learning_rate(at, 100, steps, [])


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


# ------------------------------------------------------------------------------------------------ layer-wise decay
def test_layer_scales_by_hand() -> None:
    """Three image blocks, two text blocks, x = 0.5."""
    model = tiny_model(vision={"depth": 3}, text={"depth": 2})
    scales = layer_scales(model, 0.5)
    assert scales.keys() == dict(model.named_parameters()).keys()
    expected = {
        "vision.encoder.embeddings.": 0.125, "vision.encoder.encoder.layer.0.": 0.25,
        "vision.encoder.encoder.layer.1.": 0.5, "vision.encoder.encoder.layer.2.": 1.0,
        "text.encoder.embeddings.": 0.25, "text.encoder.encoder.layer.0.": 0.5, "text.encoder.encoder.layer.1.": 1.0,
        "vision.encoder.layernorm.": 1.0, "vision.projector.": 1.0, "text.projector.": 1.0,
        "vision.view_embedding.": 1.0, "perceiver.blocks.0.": 1.0, "image_latents": 1.0, "log_logit_scale": 1.0,
    }  # fmt: skip
    for prefix, scale in expected.items():
        found = {value for name, value in scales.items() if name.startswith(prefix)}
        assert found == {scale}, prefix
    assert set(layer_scales(model, 1.0).values()) == {1.0}


@pytest.mark.parametrize("decay", ["weights", "all"])
def test_groups_of_layers_hold_every_trained_parameter_once(decay: Literal["weights", "all"]) -> None:
    model = tiny_model(vision={"depth": 3, "trainable": 2})
    groups = parameter_groups(model, 0.1, decay, 0.5)
    names = {p: name for name, p in model.named_parameters()}
    placed = [names[p] for group in groups for p in group["params"]]
    assert sorted(placed) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    scales = layer_scales(model, 0.5)
    for group in groups:
        assert {scales[names[p]] for p in group["params"]} == {group["lr_scale"]}
        if decay == "weights":
            assert {0.1 if decays(names[p], p) else 0.0 for p in group["params"]} == {group["weight_decay"]}
    # two blocks of the image encoder train, one block and the embeddings of the text encoder
    assert {group["lr_scale"] for group in groups} == {1.0, 0.5}
    assert all("lr_scale" not in group for group in parameter_groups(model, 0.1, decay))


def test_a_step_is_scaled_and_its_state_is_resumed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain run of one step: AdamW's first update is in proportion to the rate."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    moved, engines = [], []
    for how in ({}, {"layer_decay": 0.5}):
        config = settings({"global_batch": 3, "optim": {**how, "weight_decay": 0.1}})
        engine = make(config)
        before = weights_of(engine.model)
        engine.model.train()
        batch = random_batch(0, images=3)
        step.train_step(engine, [batch], torch.ones(14), lr=0.01, step=0, stop_requested=False)
        moved.append({name: value - before[name] for name, value in engine.model.state_dict().items()})
        engines.append((engine, config))
    scales = layer_scales(engine.model, 0.5)
    for name, value in moved[0].items():
        torch.testing.assert_close(moved[1][name], scales[name] * value, rtol=1e-3, atol=1e-7)

    folder = saving.save(engine, TOKENIZER, checkpoint.TrainerState(step=1), tmp_path, config)
    other = make(config, seed=1)
    checkpoint.resume(other, folder, config, checkpoint.TrainerState())
    for again in (engine, other):
        again.model.train()
        step.train_step(again, [random_batch(1, images=3)], torch.ones(14), lr=0.01, step=1, stop_requested=False)
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in engine.model.state_dict().items())
    assert [group["lr"] for group in other.optimizer.param_groups] == [
        0.01 * group["lr_scale"] for group in other.optimizer.param_groups
    ]
    plain = engines[0][1]
    assert checkpoint.differences(plain, config) == ["optim.layer_decay: None -> 0.5"]
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_layers_learn_alike_under_zero(tmp_path: Path) -> None:
    """Two ranks under ZeRO-2 and -3, whose groups are flattened, against one process."""
    cases: list[dict[str, Any]] = [{"strategy": s, "optim": {"layer_decay": 0.5}} for s in ("zero2", "zero3")]
    found = launch(tmp_path, cases)
    alone = launch(tmp_path, [{"strategy": "ddp", "optim": {"layer_decay": 0.5}}], world=1)[0]
    plain = launch(tmp_path, [{"strategy": "ddp"}], world=1)[0]
    for one in found:
        for name, value in alone["after"][1].items():
            torch.testing.assert_close(one["after"][1][name], value, rtol=1e-4, atol=1e-6)
    assert not torch.equal(alone["after"][1]["text.encoder.embeddings.word_embeddings.weight"],
                           plain["after"][1]["text.encoder.embeddings.word_embeddings.weight"])  # fmt: skip
