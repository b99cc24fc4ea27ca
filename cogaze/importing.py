"""The authors' published weights as a folder of ours: rename, check every tensor, say what was left out and why.

    mimic_pretrain_best_model.pt (trained parameters)  +  RAD-DINO  +  GPT-2's tokenizer
        --->  OUT/config.json model.safetensors tokenizer.json ... config.yaml import.json   (and decoder/)

The file is opened with torch's weights-only reader (or as safetensors): no code in it can run.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Model, GPT2LMHeadModel

from .checkpoint import fingerprint
from .config import Config, dump
from .data.text import load_tokenizer
from .export.folder import write_model
from .model import CoGazeConfig, CoGazeModel
from .model.pretrained import load_vision
from .model.released import RELEASED_VIEWS, Translation, decoder_config, released_config, translate

HOLDERS = ("state_dict", "model_state_dict", "model")  # keys under which a checkpoint file may hold its tensors


class WeightsError(ValueError):
    """Weights that cannot be carried over; the message names the file, the tensors and what to do."""


def import_weights(
    file: Path,
    out: Path,
    config: Config,
    *,
    vision: str | None = None,
    tokenizer: str | None = None,
    views: Mapping[str, int] = RELEASED_VIEWS,
) -> dict[str, Any]:
    """Write the model of a released file into the new folder `out`; returns what `import.json` holds.

    config: settings to keep beside the weights (configs/released.yaml). vision: RAD-DINO, for a file without the
    frozen encoder; tokenizer: GPT-2's; None = what `config` names. Raises WeightsError: not a file of tensors, names or
    shapes that do not fit, `out` is there already; ConfigError, TokenizerError: an encoder or tokenizer not to be had.
    """
    if out.exists():
        raise WeightsError(f"{out} is there already; give a new folder")
    found = translate(read_tensors(file))
    if not found.weights:
        raise WeightsError(f"{file}: none of its {len(found.unused)} tensors has a name of the released CoGaze model")
    words = load_tokenizer(tokenizer or config.text.tokenizer or "", config.text.role_tokens, config.text.spaces)
    encoder = None
    if not any(name.startswith("vision.encoder.") for name in found.weights):
        source = vision or config.model.vision.pretrained or ""
        encoder = load_vision(source, CoGazeConfig.from_settings(config, len(words), words.pad_token_id))
        found.weights |= {f"vision.encoder.{name}": value for name, value in encoder.state_dict().items()}
    sizes = released_config(
        found.weights,
        views,
        vision=None if encoder is None else encoder.config,
        pad_token_id=words.pad_token_id,
        max_tokens=config.text.max_tokens,
    )
    rows = found.weights["text.encoder.embeddings.word_embeddings.weight"].shape[0]
    if rows != len(words):
        raise WeightsError(
            f"{file} has word embeddings for {rows} tokens and the tokenizer has {len(words)}; give the one it was "
            "trained with as --tokenizer (GPT-2's with the released markers has 50,265)"
        )
    model = _fill(CoGazeModel(sizes).eval(), found, file)
    report = _report(file, found, encoder)

    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        write_model(model, words, aside)
        if found.decoder:
            _write_decoder(found.decoder, aside / "decoder", file)
        (aside / "config.yaml").write_text(dump(config), encoding="utf-8")
        (aside / "import.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        aside.chmod(0o755)
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return report


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .pt, .bin or .safetensors file by name, without code in the file being run.

    A state_dict under one of HOLDERS is found, and a prefix that all names share with nothing before the released
    names (`module.`) is dropped. Raises WeightsError.
    """
    try:
        if file.suffix == ".safetensors":
            tree: Any = load_file(file)
        else:
            tree = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{file}: no such file") from None
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} holds more than tensors and was not opened, since that could run code in it: "
            f"{str(error).splitlines()[0]:.200}"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise WeightsError(f"{file} cannot be read as weights: {str(error).splitlines()[0]:.200}") from None
    while isinstance(tree, Mapping) and (holder := next((key for key in HOLDERS if key in tree), None)):
        tree = tree[holder]
    tensors = {k: v for k, v in tree.items() if isinstance(v, Tensor)} if isinstance(tree, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{file}: there are no named tensors in it")
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _fill(model: CoGazeModel, found: Translation, file: Path) -> CoGazeModel:
    own = model.state_dict()
    wrong = [
        f"{name} is {tuple(value.shape)}, {tuple(own[name].shape)} is wanted"
        for name, value in found.weights.items()
        if name in own and value.shape != own[name].shape
    ]
    missing, odd = sorted(own.keys() - found.weights.keys()), sorted(found.weights.keys() - own.keys())
    for names, what in ((missing, "are missing"), (wrong, "have another shape"), (odd, "have no place in the model")):
        if names:
            raise WeightsError(f"{file}: {len(names)} tensors {what}: {'; '.join(names[:5])}")
    model.load_state_dict(found.weights)
    return model


def _report(file: Path, found: Translation, encoder: Dinov2Model | None) -> dict[str, Any]:
    frozen = set() if encoder is None else {f"vision.encoder.{name}" for name in encoder.state_dict()}
    mapped = [name for name in found.weights if name not in frozen]
    return {
        "file": file.name,
        "sha256": fingerprint(file)["sha256"],
        "mapped": len(mapped),
        "mapped_parameters": sum(found.weights[name].numel() for name in mapped),
        "encoder_tensors": len(frozen),
        "decoder_tensors": len(found.decoder),
        "unused_parameters": found.unused_parameters,
        "unused": dict(sorted(found.unused.items())),
        "unused_by_reason": dict(Counter(found.unused.values()).most_common()),
    }


def _write_decoder(tensors: dict[str, Tensor], folder: Path, file: Path) -> None:
    """The report model's GPT-2 as a transformers folder of its own."""
    decoder = GPT2LMHeadModel(decoder_config(tensors))
    result = decoder.load_state_dict(tensors, strict=False)
    missing = [name for name in result.missing_keys if name != "lm_head.weight"]  # tied to the embeddings
    odd = [name for name in result.unexpected_keys if not name.endswith((".attn.bias", ".attn.masked_bias"))]
    if missing or odd:
        raise WeightsError(f"{file}: its GPT-2 decoder lacks {missing[:3]} and has {odd[:3]} too many")
    decoder.save_pretrained(folder)
