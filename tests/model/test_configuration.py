"""From settings to the transformers configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogaze.config import Config
from cogaze.model import CoGazeConfig
from cogaze.model.configuration import initial_std
from cogaze.observations import OBSERVATIONS, VIEWS

from .tiny import PATCHES, tiny_settings


def test_from_settings() -> None:
    settings = tiny_settings(text={"dropout": 0.25}, vision={"trainable": 1, "layerscale": 0.5})
    config = CoGazeConfig.from_settings(settings, vocab_size=40, pad_token_id=3)
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (8, 2, 2)
    assert (vision.image_size, vision.patch_size, vision.layerscale_value) == (28, 7, 0.5)
    assert (text.vocab_size, text.hidden_size, text.intermediate_size, text.pad_token_id) == (40, 8, 16, 3)
    assert (text.hidden_dropout_prob, text.attention_probs_dropout_prob) == (0.25, 0.25)
    assert text.max_position_embeddings == config.max_tokens == 16
    assert (config.width, config.patches, config.views) == (12, PATCHES, list(VIEWS))
    assert config.vision_trainable == 1
    assert config.perceiver == {
        "latents": 3, "depth": 2, "heads": 2, "head_dim": 4, "ff_mult": 2, "final_norm": False,
        "read_cls": False, "mask_padding": True,
    }  # fmt: skip
    assert config.id2label == dict(enumerate(OBSERVATIONS))
    assert config.num_labels == 14


def test_round_trip(tmp_path: Path) -> None:
    config = CoGazeConfig.from_settings(tiny_settings(vision={"trainable": 2}), 40, 0)
    config.save_pretrained(tmp_path)
    again = CoGazeConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.vision_trainable == 2


def test_defaults_are_the_paper_s_sizes() -> None:
    config = CoGazeConfig.from_settings(Config(), 30522, 0)
    assert (config.width, config.image_size, config.patches) == (768, 518, 1369)
    assert config.perceiver["latents"] == 128
    assert config.vision_config.initializer_range == initial_std(768) == 0.02
    assert initial_std(192) == pytest.approx(0.04)


def test_unknown_perceiver_setting() -> None:
    with pytest.raises(ValueError, match=r"no setting \['latent'\]; known: latents, depth"):
        CoGazeConfig(perceiver={"latent": 3})
