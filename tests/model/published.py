"""Tiny checkpoints in the layouts of microsoft/rad-dino and CXR-BERT, and what such weights compute, in float64.

The tensors are named by hand as in the published files, and the formulas below read them by these names: neither
transformers' own saving nor its modules take part.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]

DINOV2 = {
    "architectures": ["Dinov2Model"], "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0, "hidden_size": 12, "image_size": 56, "initializer_range": 0.02, "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0, "mlp_ratio": 2, "model_type": "dinov2", "num_attention_heads": 3, "num_channels": 3,
    "num_hidden_layers": 3, "patch_size": 7, "qkv_bias": True, "torch_dtype": "float32", "use_swiglu_ffn": False,
    "transformers_version": "4.37.0",
}  # fmt: skip

BERT = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.25, "classifier_dropout": None,
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.25, "hidden_size": 12,
    "initializer_range": 0.02, "intermediate_size": 20, "layer_norm_eps": 1e-12, "max_position_embeddings": 20,
    "model_type": "bert", "num_attention_heads": 3, "num_hidden_layers": 3, "pad_token_id": 0,
    "position_embedding_type": "absolute", "torch_dtype": "float32", "transformers_version": "4.17.0",
    "type_vocab_size": 2, "use_cache": True, "vocab_size": 30,
}  # fmt: skip

CXR_BERT = BERT | {
    "architectures": ["CXRBertModel"],
    "auto_map": {"AutoConfig": "configuration_cxrbert.CXRBertConfig", "AutoModel": "modeling_cxrbert.CXRBertModel"},
    "model_type": "cxr-bert",
    "projection_size": 8,
}


def draw(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    """Random tensors; gains of norms and layer scales lie around 1, where they would be after training."""
    g = torch.Generator().manual_seed(seed)
    gain = ("norm1.weight", "norm2.weight", "layernorm.weight", "LayerNorm.weight", "lambda1")
    return {name: torch.randn(shape, generator=g) * 0.3 + name.endswith(gain) for name, shape in shapes.items()}


def linear(name: str, width_in: int, width_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width_out, width_in), f"{name}.bias": (width_out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


# ------------------------------------------------------------------------------------------------ layouts
def dinov2_weights(values: dict[str, Any] = DINOV2, seed: int = 5) -> Weights:
    d, p, grid = values["hidden_size"], values["patch_size"], values["image_size"] // values["patch_size"]
    shapes = {
        "embeddings.cls_token": (1, 1, d),
        "embeddings.mask_token": (1, d),
        "embeddings.position_embeddings": (1, 1 + grid**2, d),
        "embeddings.patch_embeddings.projection.weight": (d, 3, p, p),
        "embeddings.patch_embeddings.projection.bias": (d,),
    }
    for i in range(values["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        shapes |= norm(f"{at}.norm1", d) | norm(f"{at}.norm2", d)
        for part in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            shapes |= linear(f"{at}.{part}", d, d)
        shapes |= linear(f"{at}.attention.output.dense", d, d)
        shapes |= {f"{at}.layer_scale1.lambda1": (d,), f"{at}.layer_scale2.lambda1": (d,)}
        hidden = d * values["mlp_ratio"]
        shapes |= linear(f"{at}.mlp.fc1", d, hidden) | linear(f"{at}.mlp.fc2", hidden, d)
    return draw(shapes | norm("layernorm", d), seed)


def bert_weights(values: dict[str, Any] = BERT, seed: int = 6) -> Weights:
    """The encoder alone, without any prefix."""
    d, hidden = values["hidden_size"], values["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (values["vocab_size"], d),
        "embeddings.position_embeddings.weight": (values["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": (values["type_vocab_size"], d),
        **norm("embeddings.LayerNorm", d),
    }
    for i in range(values["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= linear(f"{at}.{part}", d, d)
        shapes |= norm(f"{at}.attention.output.LayerNorm", d) | norm(f"{at}.output.LayerNorm", d)
        shapes |= linear(f"{at}.intermediate.dense", d, hidden) | linear(f"{at}.output.dense", hidden, d)
    return draw(shapes, seed)


def language_model(encoder: Weights, values: dict[str, Any] = BERT) -> Weights:
    """As BertForMaskedLM was saved: the prefix, the vocabulary head, and the buffer of positions of those days."""
    d, words = values["hidden_size"], encoder["embeddings.word_embeddings.weight"]
    head = {
        "cls.predictions.bias": (len(words),),
        **linear("cls.predictions.transform.dense", d, d),
        **norm("cls.predictions.transform.LayerNorm", d),
    }
    tied = {"cls.predictions.decoder.weight": words.clone(), "cls.predictions.decoder.bias": torch.zeros(len(words))}
    positions = {"bert.embeddings.position_ids": torch.arange(values["max_position_embeddings"])[None]}
    return {f"bert.{name}": value for name, value in encoder.items()} | positions | draw(head, 7) | tied


def cxr_bert(encoder: Weights, values: dict[str, Any] = CXR_BERT) -> Weights:
    """As CXR-BERT-specialized: a language model and a projection of its [CLS]."""
    d, p = values["hidden_size"], values["projection_size"]
    head = {
        **linear("cls_projection_head.dense_to_hidden", d, p),
        **norm("cls_projection_head.LayerNorm", p),
        **linear("cls_projection_head.dense_to_output", p, p),
    }
    return language_model(encoder, values) | draw(head, 8)


def old_names(weights: Weights) -> Weights:
    """LayerNorms as the first BERT files called them."""
    renamed = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
    result = {}
    for name, value in weights.items():
        for new, old in renamed.items():
            name = name.removesuffix(new) + old if name.endswith(new) else name
        result[name] = value
    return result


def publish(folder: Path, values: dict[str, Any], weights: Weights, form: str = "safetensors") -> Path:
    """Write a checkpoint folder; form: safetensors, bin, or either with "-sharded" after it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    kind, _, sharded = form.partition("-")
    stem, save = ("model", save_file) if kind == "safetensors" else ("pytorch_model", torch.save)
    if not sharded:
        save(weights, folder / f"{stem}.{kind}")
        return folder
    names = sorted(weights)
    halves = {f"{stem}-0000{i + 1}-of-00002.{kind}": names[i::2] for i in range(2)}
    for file, held in halves.items():
        save({name: weights[name] for name in held}, folder / file)
    index = {
        "metadata": {"total_size": sum(value.nbytes for value in weights.values())},
        "weight_map": {name: file for file, held in halves.items() for name in held},
    }
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    return folder


# ------------------------------------------------------------------------------------------------ formulas
def layer_norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def affine(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def attend(x: Tensor, w: Weights, name: str, heads: int, mask: Tensor | None = None) -> Tensor:
    """Queries, keys and values `name`.query, ...; x (T,D), mask bool (T,) of the tokens that may be read."""
    q, k, v = (affine(x, w, f"{name}.{part}").unflatten(1, (heads, -1)) for part in ("query", "key", "value"))
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.einsum("hij,jhd->ihd", scores.exp() / scores.exp().sum(-1, keepdim=True), v).flatten(1)


def cubic_taps(size_in: int, size_out: int) -> Tensor:
    """(out,in) of cubic convolution (Keys, a = -0.75) at pixel centres, borders repeated."""

    def kernel(x: float) -> float:
        a, x = -0.75, abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    taps = torch.zeros(size_out, size_in, dtype=torch.float64)
    for i in range(size_out):
        centre = (i + 0.5) * size_in / size_out - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            taps[i, min(max(j, 0), size_in - 1)] += kernel(centre - j)
    return taps


def dinov2_tokens(weights: Weights, values: dict[str, Any], image: Tensor) -> Tensor:
    """Tokens (1+P,D) after the final norm, of one image (3,H,H)."""
    w = {name: value.double() for name, value in weights.items()}
    p, d, eps = values["patch_size"], values["hidden_size"], values["layer_norm_eps"]
    patches = F.unfold(image.double()[None], p, stride=p)[0].T  # (P,3*p*p)
    kernel = w["embeddings.patch_embeddings.projection.weight"].flatten(1)
    x = patches @ kernel.T + w["embeddings.patch_embeddings.projection.bias"]
    positions = w["embeddings.position_embeddings"][0]
    old, new = values["image_size"] // p, image.shape[1] // p
    if old != new:
        taps = cubic_taps(old, new)
        grid = torch.einsum("ai,bj,ijd->abd", taps, taps, positions[1:].reshape(old, old, d))
        positions = torch.cat([positions[:1], grid.reshape(-1, d)])
    x = torch.cat([w["embeddings.cls_token"][0], x]) + positions
    for i in range(values["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        read = attend(
            layer_norm(x, w, f"{at}.norm1", eps), w, f"{at}.attention.attention", values["num_attention_heads"]
        )
        x = x + affine(read, w, f"{at}.attention.output.dense") * w[f"{at}.layer_scale1.lambda1"]
        hidden = gelu(affine(layer_norm(x, w, f"{at}.norm2", eps), w, f"{at}.mlp.fc1"))
        x = x + affine(hidden, w, f"{at}.mlp.fc2") * w[f"{at}.layer_scale2.lambda1"]
    return layer_norm(x, w, "layernorm", eps)


def bert_tokens(weights: Weights, values: dict[str, Any], ids: list[int], layers: int, padding: int = 0) -> Tensor:
    """Tokens (T,D) of the encoder (names without prefix) after `layers` layers; the last `padding` ids are not read."""
    w = {name: value.double() for name, value in weights.items()}
    eps = values["layer_norm_eps"]
    mask = torch.arange(len(ids)) < len(ids) - padding
    words, places = w["embeddings.word_embeddings.weight"][ids], w["embeddings.position_embeddings.weight"][: len(ids)]
    x = layer_norm(words + places + w["embeddings.token_type_embeddings.weight"][0], w, "embeddings.LayerNorm", eps)
    for i in range(layers):
        at = f"encoder.layer.{i}"
        read = attend(x, w, f"{at}.attention.self", values["num_attention_heads"], mask)
        dense = affine(read, w, f"{at}.attention.output.dense")
        x = layer_norm(x + dense, w, f"{at}.attention.output.LayerNorm", eps)
        hidden = affine(gelu(affine(x, w, f"{at}.intermediate.dense")), w, f"{at}.output.dense")
        x = layer_norm(x + hidden, w, f"{at}.output.LayerNorm", eps)
    return x
