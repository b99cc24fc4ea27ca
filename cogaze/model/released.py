"""The authors' weights under their names, and what each of them is called here.

The file of the released pretraining (`mimic_pretrain_best_model.pt`) is a state_dict of the trained parameters; that of
their DistilGPT2 report model holds the same and a GPT-2 decoder. `translate` renames; nothing is dropped without a
reason. Of the released 225,786,231 parameters 855,897 never enter a loss: the language-model head of CXR-BERT, its
projection head, and latents that are replaced in every call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor
from transformers import BertConfig, Dinov2Config, GPT2Config

from ..config import ConfigError
from ..observations import VIEWS
from .configuration import CoGazeConfig

# Their row of the view embedding, by the name in their table of views. The five are those that the count of released
# parameters implies.
RELEASED_VIEWS: dict[str, int] = {"AP": 0, "PA": 1, "LATERAL": 2, "LL": 3, "unknown": 4}

# (theirs, ours), tried in order on the whole name; the first that fits renames.
_NAMES: tuple[tuple[str, str], ...] = (
    (r"shared_latent", "latents"),
    (r"latent_type_embed\.context", "context_type"),
    (r"latent_type_embed\.image", "image_type"),
    (r"logit_scale", "log_logit_scale"),
    (r"logit_scale_gaze", "log_gaze_scale"),
    (r"image_projector\.add_pos_embed\.pos_embed", "vision.view_embedding.weight"),
    (r"image_projector\.add_pos_embed\.pos_norm\.(.+)", r"vision.norm.\1"),
    (r"image_projector\.projector\.(.+)", r"vision.projector.\1"),
    (r"text_projector\.layers\.(.+)", r"text.projector.\1"),
    (r"vision_classifier\.classifier\.(.+)", r"image_head.\1"),
    (r"report_classifier\.classifier\.(.+)", r"text_head.\1"),
    # image encoder: transformers 5 renamed the four projections of an attention
    (r"image_encoder\.(.+)\.attention\.attention\.(query|key|value)\.(.+)", r"vision.encoder.\1.attention.\2.\3"),
    (r"image_encoder\.(.+)\.attention\.output\.dense\.(.+)", r"vision.encoder.\1.attention.o_proj.\2"),
    (r"image_encoder\.(.+)", r"vision.encoder.\1"),
    (r"text_encoder\.bert\.(.+)", r"text.encoder.\1"),
    # Perceiver: a layer holds cross-attention, its feed-forward, and a list of (self-attention, feed-forward)
    (r"perceiver\.layers\.(\d+)\.0\.norm_context\.(.+)", r"perceiver.blocks.\1.norm_data.\2"),
    (r"perceiver\.layers\.(\d+)\.0\.norm\.(.+)", r"perceiver.blocks.\1.norm_latents.\2"),
    (r"perceiver\.layers\.(\d+)\.0\.fn\.(.+)", r"perceiver.blocks.\1.cross.\2"),
    (r"perceiver\.layers\.(\d+)\.1\.(.+)", r"perceiver.blocks.\1.cross_ff.\2"),
    (r"perceiver\.layers\.(\d+)\.2\.0\.0\.norm\.(.+)", r"perceiver.blocks.\1.norm_self.\2"),
    (r"perceiver\.layers\.(\d+)\.2\.0\.0\.fn\.(.+)", r"perceiver.blocks.\1.self_attention.\2"),
    (r"perceiver\.layers\.(\d+)\.2\.0\.1\.(.+)", r"perceiver.blocks.\1.self_ff.\2"),
)
_PARTS: tuple[tuple[str, str], ...] = (
    (".attention.query.", ".attention.q_proj."),
    (".attention.key.", ".attention.k_proj."),
    (".attention.value.", ".attention.v_proj."),
)
_PERCEIVER_PARTS: tuple[tuple[str, str], ...] = (
    (".to_q.", ".to_query."),
    (".to_kv.", ".to_key_value."),
    (".to_out.", ".out."),
    (".fn.net.0.", ".up."),
    (".fn.net.2.", ".down."),
)
# (theirs, why it is not carried over)
_UNUSED: tuple[tuple[str, str], ...] = (
    (r"text_encoder\.cls\.predictions\..+", "language-model head: its vocabulary logits enter no loss"),
    (r"text_encoder\.cls_projection_head\..+", "projection head of CXR-BERT: never called"),
    (r"text_encoder\.bert\.pooler\..+", "pooler: never called"),
    (r"perceiver\.latents", "latents that are replaced in every call"),
    (r"multi_label_loss\.class_weights", "class weights of the loss, computed from the data"),
    (r".+\.position_ids", "counts 0, 1, 2, ..."),
)
# the decoder's weight is the word embedding once more, its bias `cls.predictions.bias`; the others are buffers
_NO_PARAMETERS = (".predictions.decoder.weight", ".predictions.decoder.bias", ".position_ids", ".class_weights")


@dataclass
class Translation:
    """Released tensors under our names."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    decoder: dict[str, Tensor] = field(default_factory=dict)  # GPT2LMHeadModel's own names
    unused: dict[str, str] = field(default_factory=dict)  # their name -> why
    unused_parameters: int = 0  # trained ones among them: tied copies, counters and loss weights are none


def translate(state: Mapping[str, Tensor]) -> Translation:
    """Rename a released state_dict. Names that are not known become `unused` with that as the reason.

    Scales become vectors of one element, the view embedding (V,1,D) becomes (V,D); all values stay as they are. A
    GPT-2 decoder is recognised by its `transformer.wte.weight`, whatever stands before it.
    """
    result = Translation()
    roots = [name.removesuffix("transformer.wte.weight") for name in state if name.endswith("transformer.wte.weight")]
    for theirs, value in state.items():
        root = next((root for root in roots if theirs.startswith((f"{root}transformer.", f"{root}lm_head."))), None)
        reason = next((why for pattern, why in _UNUSED if re.fullmatch(pattern, theirs)), None)
        ours = None if root is not None or reason is not None else _our_name(theirs)
        if root is not None:
            result.decoder[theirs.removeprefix(root)] = value
        elif ours is None:
            result.unused[theirs] = reason or "no part of this model has that name"
            result.unused_parameters += 0 if theirs.endswith(_NO_PARAMETERS) else value.numel()
        else:
            result.weights[ours] = _our_shape(ours, value)
    return result


def _our_name(theirs: str) -> str | None:
    for pattern, name in _NAMES:
        match = re.fullmatch(pattern, theirs)
        if match:
            ours = match.expand(name)
            for old, new in _PERCEIVER_PARTS if ours.startswith("perceiver.") else _PARTS:
                ours = ours.replace(old, new)
            return ours
    return None


def _our_shape(name: str, value: Tensor) -> Tensor:
    if name in ("log_logit_scale", "log_gaze_scale"):
        return value.reshape(1)
    return value.squeeze(1) if name == "vision.view_embedding.weight" and value.dim() == 3 else value


def released_config(
    weights: Mapping[str, Tensor],
    views: Mapping[str, int] = RELEASED_VIEWS,
    *,
    vision: Dinov2Config | None = None,
    text: BertConfig | None = None,
    pad_token_id: int,
    max_tokens: int = 300,
) -> CoGazeConfig:
    """The configuration of a model that holds `weights` (of `translate`), with all released peculiarities.

    vision, text: configurations of the two encoders; None = read off the tensors' shapes, with the published head
    width of 64. views: their table of views, name -> row. Raises ConfigError where a part is missing or the rows of
    the view embedding are not those of `views`.
    """
    needed = (
        "latents",
        "vision.view_embedding.weight",
        "perceiver.blocks.0.cross.to_query.weight",
        "image_head.weight",
    )
    for name in (*needed, "text.encoder.embeddings.word_embeddings.weight", "perceiver.blocks.0.cross_ff.down.weight"):
        if name not in weights:
            raise ConfigError(f"there is no tensor for {name} in the file: not the weights of a released CoGaze model")
    latents, width = weights["latents"].shape
    inner = weights["perceiver.blocks.0.cross.to_query.weight"].shape[0]
    mult = weights["perceiver.blocks.0.cross_ff.down.weight"].shape[1] // width
    named = view_names(views, weights["vision.view_embedding.weight"].shape[0])
    vision = vision or _vision_config(weights)
    text = text or _text_config(weights)
    text.pad_token_id = pad_token_id
    return CoGazeConfig(
        width=width,
        image_size=cast(int, vision.image_size),
        patch_size=cast(int, vision.patch_size),
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        vision_trainable="none",
        perceiver={
            "latents": latents,
            "depth": _count(weights, r"perceiver\.blocks\.(\d+)\."),
            "heads": max(inner // 64, 1),
            "head_dim": min(64, inner),
            "ff_mult": mult,
            "final_norm": False,
            "read_cls": True,
            "mask_padding": False,
        },
        views=named,
        latents="shared",
        init_std=1.0,
        scale_limit=None,
        report_pooling="padded_mean",
        transcript_pooling="cls",
        text_buckets="roles",
        max_tokens=min(max_tokens, text.max_position_embeddings),
        pad_token_id=pad_token_id,
    )


def view_names(views: Mapping[str, int], rows: int) -> list[str]:
    """Our view names in the order of their rows. Raises ConfigError: other rows than 0..rows-1, an unknown name."""
    if sorted(views.values()) != list(range(rows)):
        raise ConfigError(
            f"the view embedding has {rows} rows, the table of views names rows {sorted(views.values())}; give the "
            "authors' table (JSON, name -> row) with --views"
        )
    names = [" ".join(name.upper().split()) for name in sorted(views, key=lambda name: views[name])]
    odd = [name for name in names if name not in VIEWS]
    if odd or VIEWS[0] not in names:
        raise ConfigError(f"the table of views needs {VIEWS[0]} and names out of {', '.join(VIEWS[1:])}; odd: {odd}")
    return names


def _vision_config(weights: Mapping[str, Tensor]) -> Dinov2Config:
    position, patch = "vision.encoder.embeddings.position_embeddings", "vision.encoder.embeddings.patch_embeddings"
    if position not in weights:
        raise ConfigError(
            "the file holds the trained parameters only; give the frozen image encoder with --vision (a folder or hub "
            "id of RAD-DINO, microsoft/rad-dino)"
        )
    kernel = weights[f"{patch}.projection.weight"]  # (D_v,3,p,p)
    grid = math.isqrt(weights[position].shape[1] - 1)
    return Dinov2Config(
        hidden_size=kernel.shape[0],
        num_hidden_layers=_count(weights, r"vision\.encoder\.encoder\.layer\.(\d+)\."),
        num_attention_heads=max(kernel.shape[0] // 64, 1),
        mlp_ratio=weights["vision.encoder.encoder.layer.0.mlp.fc1.weight"].shape[0] // kernel.shape[0],
        image_size=grid * kernel.shape[2],
        patch_size=kernel.shape[2],
        use_mask_token="vision.encoder.embeddings.mask_token" in weights,
    )


def _text_config(weights: Mapping[str, Tensor]) -> BertConfig:
    root = "text.encoder.embeddings"
    vocabulary, width = weights[f"{root}.word_embeddings.weight"].shape
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=_count(weights, r"text\.encoder\.encoder\.layer\.(\d+)\."),
        num_attention_heads=max(width // 64, 1),
        intermediate_size=weights["text.encoder.encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=weights[f"{root}.position_embeddings.weight"].shape[0],
        type_vocab_size=weights[f"{root}.token_type_embeddings.weight"].shape[0],
    )


def decoder_config(decoder: Mapping[str, Tensor]) -> GPT2Config:
    """The GPT-2 of a released report model, read off its tensors; cross-attention where it has some."""
    vocabulary, width = decoder["transformer.wte.weight"].shape
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=decoder["transformer.wpe.weight"].shape[0],
        n_embd=width,
        n_layer=_count(decoder, r"transformer\.h\.(\d+)\."),
        n_head=max(width // 64, 1),
        add_cross_attention=any(".crossattention." in name for name in decoder),
    )


def _count(weights: Mapping[str, Any], pattern: str) -> int:
    """How many layers the names number."""
    found = [int(match[1]) for name in weights if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1
