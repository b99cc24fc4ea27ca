"""Pretrained encoders: published weights of Dinov2 (RAD-DINO) and BERT (CXR-BERT) as the modules our model has.

    config.json
    model.safetensors | pytorch_model.bin | either in parts, with its index

from a local folder or a hub id. No code that lies beside the weights is ever run: sizes are read from config.json, and
a .bin file goes through torch's weights-only unpickler. Weights of heads that we have no use for are passed over.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from ..config import ConfigError
from .configuration import CoGazeConfig

log = logging.getLogger("cogaze")

VISION_KEY, TEXT_KEY = "model.vision.pretrained", "model.text.pretrained"

# What of a BERT's config.json decides its numbers. CXR-BERT's has a model type and keys of its own beside them.
_BERT_SETTINGS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
)
_UNREADABLE = (
    OSError, ValueError, TypeError, RuntimeError, LookupError, EOFError, pickle.UnpicklingError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip


def load_vision(source: str, config: CoGazeConfig) -> Dinov2Model:
    """The image encoder in fp32. Its position embeddings keep the size they were made for; Dinov2 interpolates them to
    the image's. Raises ConfigError: weights that cannot be had or read, another patch size than `config.patch_size`.
    """
    values = _describe(Dinov2Model, source, VISION_KEY, ("dinov2",))
    with _reading(source, VISION_KEY, Dinov2Model):
        theirs = Dinov2Config.from_dict(values)
    if theirs.patch_size != config.patch_size:
        raise ConfigError(
            f"{VISION_KEY}: {source} has patches of {theirs.patch_size} px, model.vision.patch_size is "
            f"{config.patch_size}; set it to the encoder's"
        )
    return _load(Dinov2Model, source, VISION_KEY, theirs)


def load_text(
    source: str,
    config: CoGazeConfig,
    *,
    layers: int | None = None,
    new_word_embeddings: bool = False,
    base_vocab_size: int | None = None,
) -> BertModel:
    """The text encoder in fp32, without pooler, with at least `config.text_config.vocab_size` word embeddings.

    layers: the first so many; None = all. Dropout and padding id are those of `config.text_config`.
    Tokens beyond the encoder's own vocabulary (role tokens) start from the mean of its rows. With
    `new_word_embeddings` all rows are drawn from N(0, initializer_range²) by torch's generator, the padding row zero.
    base_vocab_size: entries of the tokenizer without added markers, to find out one that is not the encoder's.

    Raises ConfigError: weights that cannot be had or read, too few layers or positions, another vocabulary.
    """
    ours = config.text_config
    values = _describe(BertModel, source, TEXT_KEY, ("bert", "cxr-bert"))
    with _reading(source, TEXT_KEY, BertModel):
        theirs = BertConfig(**{name: values[name] for name in _BERT_SETTINGS if name in values})
    positions = values.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ConfigError(f"{TEXT_KEY}: {source} has positions of the kind {positions}; only absolute ones serve")
    if theirs.max_position_embeddings < config.max_tokens:
        raise ConfigError(
            f"{TEXT_KEY}: {source} reads {theirs.max_position_embeddings} tokens, text.max_tokens is "
            f"{config.max_tokens}; lower it"
        )
    if layers is not None and layers > theirs.num_hidden_layers:
        raise ConfigError(f"model.text.layers asks for {layers} layers, {source} has {theirs.num_hidden_layers}")
    if base_vocab_size is not None and base_vocab_size > theirs.vocab_size and not new_word_embeddings:
        raise ConfigError(
            f"{TEXT_KEY}: the tokenizer has {base_vocab_size} entries and {source} has embeddings for "
            f"{theirs.vocab_size}: they do not belong together. Give the encoder's own tokenizer as text.tokenizer, or "
            "set model.text.word_embeddings=new to learn embeddings for this one"
        )
    if base_vocab_size is not None and base_vocab_size < 0.9 * theirs.vocab_size and not new_word_embeddings:
        log.warning(
            "%s: the tokenizer has %d entries, %s embeddings for %d: is it the encoder's own?",
            TEXT_KEY, base_vocab_size, source, theirs.vocab_size,
        )  # fmt: skip
    theirs.num_hidden_layers = layers or theirs.num_hidden_layers
    theirs.hidden_dropout_prob = ours.hidden_dropout_prob
    theirs.attention_probs_dropout_prob = ours.attention_probs_dropout_prob
    # transformers itself drops "bert." and renames gamma and beta; the first prefix is the released CoGaze weights'
    names = {r"^text_encoder\.": ""}
    bert = _load(BertModel, source, TEXT_KEY, theirs, add_pooling_layer=False, key_mapping=names)
    _fit_vocabulary(bert, ours.vocab_size, ours.pad_token_id, new_word_embeddings)
    return bert


@torch.no_grad()
def _fit_vocabulary(bert: BertModel, size: int, pad_token_id: int, new: bool) -> None:
    """Word embeddings (V,D) for `size` tokens: drawn anew, or the encoder's own and the mean of them for what is added.

    The mean is exact, where transformers' own resizing draws around it.
    """
    own = bert.embeddings.word_embeddings.weight  # (V,D)
    if new:
        rows = torch.empty(size, own.shape[1]).normal_(std=bert.config.initializer_range)
        rows[pad_token_id] = 0
    else:
        added = own.double().mean(0).float().expand(max(size - own.shape[0], 0), -1)
        rows = torch.cat([own, added])
    bert.embeddings.word_embeddings = nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=pad_token_id)
    bert.config.vocab_size, bert.config.pad_token_id = rows.shape[0], pad_token_id


# ------------------------------------------------------------------------------------------------ reading
def _describe(kind: type, source: str, key: str, model_types: tuple[str, ...]) -> dict[str, Any]:
    """The config.json of a folder or hub id, checked to be of one of `model_types` (or of none, as old ones are)."""
    if Path(source).is_file():
        raise ConfigError(f"{key}: {source} is a file; give the folder that holds it and its config.json")
    with _reading(source, key, kind):
        values, _ = PreTrainedConfig.get_config_dict(source)
    found = values.get("model_type") or model_types[0]
    if found not in model_types:
        raise ConfigError(f"{key}: {source} is a model of type {found}, needed is {' or '.join(model_types)}")
    return dict(values)


def _load(kind: Any, source: str, key: str, config: PreTrainedConfig, **kwargs: Any) -> Any:
    """A model of class `kind` and sizes `config` with the weights of `source`, fp32, every one of them from there."""
    with _reading(source, key, kind), _quiet():
        model, report = kind.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    # Dinov2's mask token serves masked-image pretraining alone, and not every file has it.
    missing = sorted(name for name in report["missing_keys"] if not name.endswith("mask_token"))
    if missing:
        raise ConfigError(
            f"{key}: {source} lacks {len(missing)} of the weights of a {kind.__name__}, e.g. {missing[0]}; "
            "is it the encoder meant?"
        )
    if report["mismatched_keys"]:
        name, found, wanted = sorted(report["mismatched_keys"])[0]
        raise ConfigError(
            f"{key}: {source} has {name} of shape {tuple(found)}, its config.json says {tuple(wanted)}; they are not "
            "of one model"
        )
    return model


@contextmanager
def _reading(source: str, key: str, kind: type) -> Iterator[None]:
    """Whatever goes wrong inside, as a ConfigError that says what to do."""
    try:
        yield
    except _UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        if Path(source).exists():
            raise ConfigError(f"{key}: the weights in {source} cannot be read as {kind.__name__}: {reason}") from error
        raise ConfigError(
            f"{key}: {source} is neither a folder here nor to be had from the hub ({reason}). Download it where there "
            f"is a network (`hf download {source} --local-dir DIR`) and give that folder, or null for random weights"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No report of passed-over heads: what matters in it is checked here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
