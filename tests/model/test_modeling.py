"""What the model must not depend on, what must have a gradient, and what must survive a save."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from cogaze import losses
from cogaze.batch import Batch
from cogaze.config import LossConfig
from cogaze.model import CoGazeModel, CoGazeOutput
from cogaze.model.modeling import limited_scale, unique_contexts

from .tiny import MAX_TOKENS, PATCHES, VOCABULARY, random_batch, tiny_model

CLOSE: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12}


def run(model: CoGazeModel, batch: Batch) -> CoGazeOutput:
    with torch.no_grad():
        return model(**batch.model_inputs())


def loss_of(model: CoGazeModel, batch: Batch) -> torch.Tensor:
    config = LossConfig()
    counts = losses.local_counts(batch, config)
    return losses.total(model(**batch.model_inputs()), batch, counts, config, torch.ones(14)).total


def test_shapes() -> None:
    batch = random_batch(0)
    out = run(tiny_model(), batch)
    segments = len(batch.segment_row)
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "image_features": (4, 12),
        "text_features": (4, 12),
        "image_logits": (4, 14),
        "text_logits": (4, 14),
        "segment_features": (segments, 12),
        "patch_features": (2, PATCHES, 12),
        "logit_scale": (1,),
        "gaze_scale": (1,),
    }
    for features in (out.image_features, out.segment_features, out.patch_features):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones_like(features[..., 0]))
    assert out.text_features.norm(dim=1).tolist() == pytest.approx([1, 0, 1, 1])
    assert out.logit_scale.item() == pytest.approx(1 / 0.07)


def test_view_changes_the_features_and_unknown_is_a_view() -> None:
    model, batch = tiny_model(), random_batch(4)
    unknown = run(model, replace(batch, view=torch.zeros(4, dtype=torch.int64)))
    lateral = run(model, replace(batch, view=torch.full((4,), 3)))
    assert torch.isfinite(unknown.image_features).all()
    assert ((unknown.image_features - lateral.image_features).norm(dim=1) > 1e-6).all()


def test_patch_features_by_hand() -> None:
    """Last hidden state without the CLS token, plus the view's row, RMS-normed, two layers with GELU."""
    vision, batch = tiny_model().vision, random_batch(4)
    with torch.no_grad():
        pixels = (batch.image.double() / 255 - 0.5307) / 0.2583
        tokens = vision.encoder(pixels.repeat(1, 3, 1, 1)).last_hidden_state[:, 1:]
        tokens = tokens + vision.view_embedding.weight[batch.view][:, None]
        tokens = tokens / (tokens.square().mean(-1, keepdim=True) + 1e-12).sqrt() * vision.norm.weight
        first, _, second = vision.projector
        want = second(torch.nn.functional.gelu(first(tokens)))
        torch.testing.assert_close(vision(batch.image, batch.view), want, **CLOSE)


def test_image_is_normalised_on_the_device() -> None:
    """A constant grey g enters the encoder as (g/255 - mean)/std in all three channels; P patches come out."""
    model = tiny_model()
    seen = []
    model.vision.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.full((1, 1, 28, 28), 100, dtype=torch.uint8)
    patches = model.vision(image, torch.zeros(1, dtype=torch.int64))
    assert seen[0].shape == (1, 3, 28, 28)
    assert seen[0].unique().tolist() == pytest.approx([(100 / 255 - 0.5307) / 0.2583])
    assert patches.shape == (1, PATCHES, 12)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"gaze": "none"},
        {"contexts": "none"},
        {"contexts": "all", "reports": "all"},
        {"reports": "none"},
        {"reports": "none", "contexts": "none", "gaze": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("final_norm", [False, True])
def test_every_trained_parameter_has_a_gradient(how: dict[str, str], final_norm: bool) -> None:
    model = tiny_model(perceiver={"final_norm": final_norm}).train()
    batch = random_batch(5, **how)  # type: ignore[arg-type]
    loss_of(model, batch).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, f"{name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), name
    used = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert ("context_latents" in used) == (how.get("contexts") != "none")
    assert ("image_latents" in used) == (how.get("contexts") != "all")
    assert ("log_gaze_scale" in used) == (how.get("gaze") != "none")


@pytest.mark.parametrize("how", [{}, {"contexts": "none", "reports": "none", "gaze": "none"}], ids=["full", "bare"])
def test_the_order_of_module_calls_is_constant(how: dict[str, str]) -> None:
    """ZeRO-3 gathers weights per call: ranks whose calls differ would wait for each other for ever."""
    model, calls = tiny_model(), []
    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    run(model, random_batch(6, **how))  # type: ignore[arg-type]
    seen, calls = list(calls), calls
    calls.clear()
    run(model, random_batch(7))
    assert calls == seen


@pytest.mark.parametrize("trainable", ["none", 1, 2, "all"])
def test_frozen_parts(trainable: str | int) -> None:
    model = tiny_model(vision={"trainable": trainable}).train()
    loss_of(model, random_batch(8)).backward()
    prefix = "vision.encoder."
    parameters = {n.removeprefix(prefix): p for n, p in model.named_parameters() if n.startswith(prefix)}
    trained = {name for name, p in parameters.items() if p.requires_grad}
    with_gradient = {name for name, p in parameters.items() if p.grad is not None}
    assert with_gradient == trained
    heads = {".".join(name.split(".")[:3]) for name in trained if name.startswith("encoder")}
    assert heads == {"none": set(), 1: {"encoder.layer.1"}}.get(trainable, {"encoder.layer.0", "encoder.layer.1"})
    assert ("embeddings.cls_token" in trained) == (trainable == "all")
    assert ("layernorm.weight" in trained) == (trainable != "none")
    assert model.vision.encoder.training == (trainable != "none")
    assert model.vision.projector[0].weight.grad is not None


def test_more_trainable_blocks_than_there_are() -> None:
    with pytest.raises(ValueError, match="asks for 3 blocks, the encoder has 2"):
        tiny_model(vision={"trainable": 3})


def test_scales_are_clamped_and_keep_their_gradient() -> None:
    log = torch.tensor([math.log(1000.0), 0.5], dtype=torch.float64, requires_grad=True)
    scale = limited_scale(log, 100.0)
    scale.sum().backward()
    assert scale.tolist() == pytest.approx([100, math.exp(0.5)])
    assert log.grad is not None
    assert log.grad.tolist() == pytest.approx([100, math.exp(0.5)])
    assert all(p.dim() > 0 for p in tiny_model().parameters())


@pytest.mark.parametrize("trainable", ["none", 1, "all"])
def test_save_and_load_are_bitwise(trainable: str | int, tmp_path: Path) -> None:
    model, batch = tiny_model(seed=3, vision={"trainable": trainable}).float(), random_batch(9)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = CoGazeModel.from_pretrained(tmp_path)
    assert again.config.perceiver == model.config.perceiver
    assert again.config.vision_config.layerscale_value == model.config.vision_config.layerscale_value
    for (name, a), (other, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert (name, a.requires_grad) == (other, b.requires_grad)
        assert torch.equal(a, b)
    for name, value in run(model, batch).items():
        assert torch.equal(value, run(again, batch)[name]), name
    assert type(AutoModel.from_pretrained(tmp_path)) is CoGazeModel
    assert AutoConfig.from_pretrained(tmp_path).perceiver == model.config.perceiver


def test_another_image_size_interpolates_positions() -> None:
    model = tiny_model().float()
    image = torch.randint(0, 256, (1, 1, 42, 42), dtype=torch.uint8)
    features, _, patches = model.image_tensors(image, torch.zeros(1, dtype=torch.int64))
    assert patches.shape == (1, 36, 12)
    assert torch.isfinite(features).all()


def test_evaluation_functions_equal_forward() -> None:
    model, batch = tiny_model(), random_batch(10)
    out = run(model, batch)
    with torch.no_grad():
        texts = model.text_tensors(batch.token_ids, batch.token_mask)
        features, logits, patches = model.image_tensors(
            batch.image, batch.view, batch.token_ids, batch.token_mask, batch.context_row
        )
        alone = model.image_tensors(batch.image, batch.view)
    torch.testing.assert_close(texts[batch.segment_row], out.segment_features, **CLOSE)
    torch.testing.assert_close(features, out.image_features, **CLOSE)
    torch.testing.assert_close(logits, out.image_logits, **CLOSE)
    torch.testing.assert_close(patches[batch.segment_image.unique()], out.patch_features, **CLOSE)
    hidden = run(model, replace(batch, context_row=torch.full((4,), -1)))
    torch.testing.assert_close(alone[0], hidden.image_features, **CLOSE)


def test_same_seed_same_weights() -> None:
    a, b = tiny_model(seed=1), tiny_model(seed=1)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.image_latents, tiny_model(seed=2).image_latents)


def test_a_fresh_model_tells_images_and_texts_apart() -> None:
    """Random weights whose features all point one way would spend their first steps undoing it."""
    model = tiny_model().float()
    g = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8, generator=g)
    ids = torch.randint(1, VOCABULARY, (8, MAX_TOKENS), generator=g)
    with torch.no_grad():
        images, _, _ = model.image_tensors(image, torch.zeros(8, dtype=torch.int64))
        texts = model.text_tensors(ids, ids > 0)
    for features in (images, texts):
        assert (features @ features.T).fill_diagonal_(0).abs().max() < 0.9999


def test_bf16_autocast() -> None:
    """Features leave the model in fp32, near the fp32 ones, and everything trained still has a gradient."""
    model, batch = tiny_model().float(), random_batch(11)
    exact = run(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**batch.model_inputs())
        counts = losses.local_counts(batch, LossConfig())
        terms = losses.total(out, batch, counts, LossConfig(), torch.ones(14))
    terms.total.backward()
    for name in ("image_features", "text_features", "segment_features", "patch_features", "logit_scale"):
        assert out[name].dtype == torch.float32, name
        torch.testing.assert_close(out[name], exact[name], rtol=0.05, atol=0.05)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_unique_contexts() -> None:
    rows, slot = unique_contexts(torch.tensor([7, -1, 2, 7]))
    assert rows.tolist() == [2, 7]
    assert slot.tolist() == [1, 2, 0, 1]
