"""Names of the authors' weights, and the sizes of the published models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig

from cogaze.config import ConfigError, load
from cogaze.model import CoGazeConfig, CoGazeModel
from cogaze.model.released import RELEASED_VIEWS, released_config, translate, view_names
from tests.parity.reference import Released

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("name", "total", "trained"),
    [
        ("released", 225_786_231 - 855_897, 139_205_751 - 855_897),
        ("paper", 224_930_334 + 96_768, 138_349_854 + 96_768),  # two sets of latents for one and two type vectors
    ],
)
def test_parameters_at_full_size(name: str, total: int, trained: int) -> None:
    """The published counts less what never enters a loss; on the meta device, with the published encoders' sizes."""
    settings = load(CONFIGS / f"{name}.yaml")
    vocabulary = 50257 + 3 + len(settings.text.role_tokens)  # GPT-2's, [PAD] [SEP] [CLS], roles
    config = CoGazeConfig.from_settings(settings, vocabulary, 50257)
    config.text_config = BertConfig(vocab_size=vocabulary, num_hidden_layers=settings.model.text.layers or 12)
    with torch.device("meta"):
        model = CoGazeModel(config)
    counted = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert sum(size for size, _ in counted) == total
    assert sum(size for size, grad in counted if grad) == trained


def test_every_released_tensor_has_a_place_or_a_reason() -> None:
    params = Released(0).params
    found = translate(params)
    assert len(found.weights) + len(found.unused) == len(params)
    assert sorted(found.unused) == [
        "perceiver.latents",
        "text_encoder.cls.predictions.transform.dense.bias",
        "text_encoder.cls.predictions.transform.dense.weight",
        "text_encoder.cls_projection_head.dense_to_hidden.bias",
        "text_encoder.cls_projection_head.dense_to_hidden.weight",
    ]
    assert not any("no part" in why for why in found.unused.values())
    assert found.unused_parameters == 5 * 16 + (16 * 16 + 16) + (8 * 16 + 8)
    own = CoGazeModel(released_config(found.weights, pad_token_id=40)).state_dict()
    assert {name: tuple(value.shape) for name, value in found.weights.items()} == {
        name: tuple(value.shape) for name, value in own.items()
    }


def test_values_move_with_their_names() -> None:
    params = Released(0).params
    weights = translate(params).weights
    layer = "encoder.layer"
    pairs = {
        "perceiver.blocks.1.self_attention.to_key_value.weight": "perceiver.layers.1.2.0.0.fn.to_kv.weight",
        "perceiver.blocks.0.norm_data.bias": "perceiver.layers.0.0.norm_context.bias",
        "perceiver.blocks.1.cross_ff.down.weight": "perceiver.layers.1.1.fn.net.2.weight",
        "perceiver.blocks.0.self_ff.up.bias": "perceiver.layers.0.2.0.1.fn.net.0.bias",
        f"vision.encoder.{layer}.1.attention.v_proj.bias": f"image_encoder.{layer}.1.attention.attention.value.bias",
        f"text.encoder.{layer}.0.attention.self.value.bias": f"text_encoder.bert.{layer}.0.attention.self.value.bias",
        "text_head.bias": "report_classifier.classifier.bias",
    }
    for ours, theirs in pairs.items():
        assert weights[ours] is params[theirs]
    assert weights["log_gaze_scale"].shape == (1,)
    assert weights["vision.view_embedding.weight"].shape == (5, 16)


def test_unknown_names_and_tied_copies() -> None:
    odd = translate({
        "text_encoder.cls.predictions.decoder.weight": torch.zeros(9, 2),
        "multi_label_loss.class_weights": torch.zeros(14),
        "something.else": torch.zeros(3),
    })  # fmt: skip
    assert odd.unused["something.else"] == "no part of this model has that name"
    assert odd.unused_parameters == 3  # the other two are a tied copy and a constant of the loss
    assert not odd.weights


def test_a_decoder_is_recognised_behind_any_prefix() -> None:
    found = translate({
        "text_decoder.transformer.wte.weight": torch.zeros(4, 2),
        "text_decoder.lm_head.weight": torch.zeros(4, 2),
        "shared_latent": torch.zeros(3, 2),
    })  # fmt: skip
    assert sorted(found.decoder) == ["lm_head.weight", "transformer.wte.weight"]
    assert list(found.weights) == ["latents"]


def test_view_tables() -> None:
    assert view_names(RELEASED_VIEWS, 5) == ["AP", "PA", "LATERAL", "LL", "UNKNOWN"]
    assert view_names({"unknown": 0, "ap  axial": 1}, 2) == ["UNKNOWN", "AP AXIAL"]
    with pytest.raises(ConfigError, match=r"has 6 rows, the table of views names rows \[0, 1, 2, 3, 4\]"):
        view_names(RELEASED_VIEWS, 6)
    with pytest.raises(ConfigError, match=r"odd: \['OBLIQUE'\]"):
        view_names({"unknown": 0, "oblique": 1}, 2)


def test_a_part_that_is_missing_is_named() -> None:
    weights: dict[str, Any] = translate(Released(0).params).weights
    for name, words in (
        ("latents", "no tensor for latents"),
        ("vision.encoder.embeddings.position_embeddings", "--vision"),
    ):
        with pytest.raises(ConfigError, match=words):
            released_config({k: v for k, v in weights.items() if k != name}, pad_token_id=40)
