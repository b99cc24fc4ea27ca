"""Starting from pretrained encoders: local folders in the published layouts, and clear words when they do not fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, Dinov2Config, Dinov2Model

from cogaze.config import ConfigError
from cogaze.model import CoGazeConfig, CoGazeModel

from .tiny import random_batch, tiny_settings


@pytest.fixture
def dinov2(tmp_path: Path) -> Path:
    """As microsoft/rad-dino: a Dinov2Model with a mask token, made for another image size than we train at."""
    torch.manual_seed(5)
    config = Dinov2Config(
        hidden_size=12, num_hidden_layers=3, num_attention_heads=3, mlp_ratio=2, image_size=56, patch_size=7
    )
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    return tmp_path / "dinov2"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """As CXR-BERT: saved with a language-modelling head, named as another model type, with code of its own."""
    torch.manual_seed(6)
    config = BertConfig(
        vocab_size=30, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=20, hidden_dropout_prob=0.25,
    )  # fmt: skip
    folder = tmp_path / "bert"
    BertForMaskedLM(config).save_pretrained(folder)
    described = json.loads((folder / "config.json").read_text())
    described |= {
        "model_type": "cxr-bert",
        "architectures": ["CXRBertModel"],
        "auto_map": {"AutoConfig": "configuration.Config", "AutoModel": "modeling.Model"},
    }
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "configuration.py").write_text("raise SystemExit('remote code was run')")
    (folder / "modeling.py").write_text("raise SystemExit('remote code was run')")
    return folder


def make(vision: Path | str | None = None, text: Path | str | None = None, patch_size: int = 7) -> CoGazeModel:
    config = CoGazeConfig.from_settings(tiny_settings(vision={"patch_size": patch_size}), 40, 0)
    return CoGazeModel.from_encoders(config, str(vision) if vision else None, str(text) if text else None)


def test_weights_arrive(dinov2: Path, bert: Path, tmp_path: Path) -> None:
    model = make(dinov2, bert)
    for name, value in Dinov2Model.from_pretrained(dinov2).state_dict().items():
        assert torch.equal(model.vision.encoder.state_dict()[name], value), name
    published = load_file(dinov2 / "model.safetensors")
    assert torch.equal(model.vision.encoder.embeddings.position_embeddings, published["embeddings.position_embeddings"])
    ours = model.text.encoder.state_dict()
    for name, value in load_file(bert / "model.safetensors").items():
        if name.startswith("bert."):
            assert torch.equal(ours[name.removeprefix("bert.")][: len(value)], value), name
    assert ours["embeddings.word_embeddings.weight"].shape == (40, 12)  # grown by the role tokens
    assert model.config.text_config.vocab_size == 40
    assert model.config.text_config.hidden_dropout_prob == 0.0
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["vision.encoder.embeddings.mask_token"]
    model.eval()(**random_batch(0).model_inputs())
    model.save_pretrained(tmp_path / "saved")
    again = CoGazeModel.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert [name for name, p in again.named_parameters() if not p.requires_grad] == frozen


def test_random_where_nothing_is_given() -> None:
    assert make().config.vision_config.hidden_size == 8


def test_bin_files_are_read_without_running_their_code(dinov2: Path, tmp_path: Path) -> None:
    weights = load_file(dinov2 / "model.safetensors")
    (dinov2 / "model.safetensors").unlink()
    torch.save(weights, dinov2 / "pytorch_model.bin")
    model = make(dinov2)
    assert torch.equal(model.vision.encoder.layernorm.weight, weights["layernorm.weight"])

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "pwned",)

    with (dinov2 / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"layernorm.weight": Evil()}, file, protocol=2)
    with pytest.raises(ConfigError, match=r"model\.vision\.pretrained: the weights in .* cannot be read"):
        make(dinov2)
    assert not (tmp_path / "pwned").exists()


def test_missing_weights_offline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a folder here nor .*hf download microsoft/rad-dino"):
        make("microsoft/rad-dino")
    with pytest.raises(ConfigError, match=r"model\.text\.pretrained: the weights in .* cannot be read as BertModel"):
        make(text=tmp_path)


def test_damaged_file(dinov2: Path) -> None:
    file = dinov2 / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ConfigError, match="cannot be read as Dinov2Model"):
        make(dinov2)


def test_another_architecture(dinov2: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.text\.pretrained: .*(lacks|cannot be read)"):
        make(text=dinov2)


def test_sizes_that_do_not_fit(dinov2: Path, bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"patches of 7 px, model\.vision\.patch_size is 14"):
        make(dinov2, patch_size=14)
    config = CoGazeConfig.from_settings(tiny_settings(), 40, 0)
    config.max_tokens = 21
    with pytest.raises(ConfigError, match=r"reads 20 tokens, text\.max_tokens is 21"):
        CoGazeModel.from_encoders(config, text=str(bert))
