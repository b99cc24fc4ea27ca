"""Checkpoints: a folder written aside and renamed into place, complete or absent.

    RUN/checkpoints/step-00000500/   model.safetensors config.json   weights as `CoGazeModel.from_pretrained` reads them
                                     config.yaml tokenizer/          so the folder serves without its run
                                     state/                          optimizer state, or ZeRO's partitions
                                     trainer.json                    step, evaluation history, metrics offset, ...
                                     files.json                      sha256 and size of every file above
    RUN/checkpoints/latest           name of the newest folder

The order of data and the generators are functions of (seed, step), so a step number restores both.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from . import dist
from .config import Config, dump, load

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from .engine import Engine
    from .model import CoGazeModel

SCHEMA_VERSION = 1

# What may differ between the run that wrote a checkpoint and the one that resumes it.
_FREE_SECTIONS = ("tracking", "page", "eval")
_FREE_KEYS = {
    "run": ("dir", "name", "nproc", "threads"),
    "data": ("workers", "prefetch", "shards"),  # the shards are compared by content, through the manifest digest
    "train": ("micro_batch", "log_every", "save_every", "keep_last", "resume", "timeout_minutes"),
}


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or does not fit; the message says what would fit."""


@dataclass
class TrainerState:
    """What the loop knows besides weights and optimizer."""

    step: int = 0  # optimizer steps done
    epoch: int = 0
    samples_seen: int = 0
    skipped_steps: int = 0
    eval_history: list[dict[str, float]] = field(default_factory=list)
    metrics_offset: int = 0  # bytes of metrics.jsonl that belong to the steps done
    tracking_run: str | None = None
    manifest_digest: str = ""
    world_size: int = 1
    seconds: float = 0.0  # training time on the clock that pauses for evaluation and saving
    schema_version: int = SCHEMA_VERSION


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


# ------------------------------------------------------------------------------------------------ writing
def save(engine: Engine, tokenizer: PreTrainedTokenizerFast, state: TrainerState, run: Path, config: Config) -> Path:
    """Write the checkpoint of `state.step`; called by all ranks, returns its folder on all of them."""
    final = run / "checkpoints" / folder_name(state.step)
    aside = final.with_name(f".{final.name}.partial")
    if dist.rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "state").mkdir(parents=True)
    dist.barrier()
    engine.save_state(aside / "state")
    if dist.rank() == 0:
        weights = engine.model.state_dict()
        trained = {name for name, p in engine.model.named_parameters() if p.requires_grad}
        buffers = {name for name, _ in engine.model.named_buffers()}
        kept = {name: w.contiguous() for name, w in weights.items() if name in trained | buffers}
        save_file(kept, aside / "model.safetensors", metadata={"format": "pt"})
        engine.model.config.save_pretrained(aside)
        tokenizer.save_pretrained(aside / "tokenizer")
        (aside / "config.yaml").write_text(dump(config), encoding="utf-8")
        (aside / "trainer.json").write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    dist.barrier()  # every rank's part is on disk
    if dist.rank() == 0:
        listing = {str(p.relative_to(aside)): fingerprint(p) for p in sorted(aside.rglob("*")) if p.is_file()}
        (aside / "files.json").write_text(json.dumps(listing, indent=1), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        _write_latest(run, final.name)
        _forget_old(run, config.train.keep_last)
    dist.barrier()
    return final


def fingerprint(path: Path) -> dict[str, Any]:
    """sha256 and size of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}


def _write_latest(run: Path, name: str) -> None:
    aside = run / "checkpoints" / ".latest.partial"
    aside.write_text(name + "\n", encoding="utf-8")
    os.replace(aside, run / "checkpoints" / "latest")


def _forget_old(run: Path, keep: int) -> None:
    for old in _complete_folders(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ finding
def _complete_folders(run: Path) -> list[Path]:
    """Checkpoint folders in place, oldest first (a partial one has a leading dot and is never listed)."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "files.json").is_file())


def newest(run: Path, report: Any = print) -> Path | None:
    """The newest sound checkpoint of a run: the one `latest` names, else the newest whose files are all as written.

    A damaged one is passed over, and said so through `report`. Called on one rank; the choice is broadcast.
    """
    folders = _complete_folders(run)
    try:
        named = run / "checkpoints" / (run / "checkpoints" / "latest").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        named = None
    ordered = sorted(folders, key=lambda p: (p == named, p.name), reverse=True)
    for folder in ordered:
        faults = damage(folder)
        if not faults:
            return folder
        report(f"checkpoint {folder.name} is damaged ({faults[0]}); trying the one before it")
    if folders:
        raise CheckpointError(f"{run / 'checkpoints'}: no checkpoint is intact; train.resume=never starts anew")
    return None


def damage(folder: Path) -> list[str]:
    """What is wrong with a checkpoint's files against its files.json; empty when sound."""
    try:
        listing = json.loads((folder / "files.json").read_text(encoding="utf-8"))
        return [
            f"{name} is missing" if not (folder / name).is_file() else f"{name} differs from what was written"
            for name, wanted in listing.items()
            if not (folder / name).is_file() or fingerprint(folder / name) != wanted
        ]
    except (OSError, ValueError, AttributeError) as error:
        return [f"files.json cannot be read: {error}"]


# ------------------------------------------------------------------------------------------------ resuming
def read_state(folder: Path) -> TrainerState:
    """The trainer.json of a checkpoint. Raises CheckpointError for another schema version or a damaged file."""
    try:
        tree = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
        version = tree.get("schema_version")
        if version != SCHEMA_VERSION:
            raise CheckpointError(f"{folder}: checkpoint schema {version}, this code reads {SCHEMA_VERSION}")
        return TrainerState(**tree)
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder}: trainer.json cannot be read ({error})") from None


def resume(engine: Engine, folder: Path, config: Config, manifest_digest: str) -> TrainerState:
    """Weights, optimizer and trainer state from a checkpoint; called by all ranks.

    Raises CheckpointError when configuration, data or (under ZeRO) the world size do not fit.
    """
    state = read_state(folder)
    differing = differences(load(folder / "config.yaml"), config)
    if differing:
        raise CheckpointError(
            f"{folder} was written with another configuration: {'; '.join(differing)}. Restore these values, or start "
            "anew with another run.dir or train.resume=never"
        )
    if state.manifest_digest != manifest_digest:
        raise CheckpointError(
            f"{folder} was trained on other shards (manifest {state.manifest_digest[:12]}, now "
            f"{manifest_digest[:12]}); point data.shards at the same build"
        )
    if engine.deepspeed and state.world_size != dist.world():
        raise CheckpointError(
            f"{folder} was written by {state.world_size} ranks under ZeRO and opens at that number only; now "
            f"{dist.world()}"
        )
    load_weights(engine.model, folder)
    engine.load_state(folder / "state")
    return state


def differences(written: Config, now: Config) -> list[str]:
    """Settings that differ and may not, as `section.key: old -> new`."""
    old, new = _fixed(written), _fixed(now)
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]


def _fixed(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, values in config.model_dump(mode="json").items():
        if section in _FREE_SECTIONS:
            continue
        for key, value in values.items():
            if key not in _FREE_KEYS.get(section, ()):
                flat[f"{section}.{key}"] = value
    return flat


def load_weights(model: Any, folder: Path) -> None:
    """Copy model.safetensors into `model`. Parameters that are frozen may be absent: they come from their source.

    Raises CheckpointError naming the first tensor that is missing, unknown or of another shape.
    """
    weights = load_file(folder / "model.safetensors")
    own = dict(model.state_dict())
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    missing = sorted(own.keys() - weights.keys() - frozen)
    unknown = sorted(weights.keys() - own.keys())
    shapes = [name for name in weights.keys() & own.keys() if weights[name].shape != own[name].shape]
    for names, what in ((missing, "missing"), (unknown, "unknown to this model"), (shapes, "of another shape")):
        if names:
            raise CheckpointError(f"{folder}: {len(names)} tensors are {what}, first {names[0]}")
    model.load_state_dict(weights, strict=False)


def is_exported(path: Path) -> bool:
    """Whether `path` is a folder with all weights and the settings, as `cogaze export` writes it."""
    return all((path / name).is_file() for name in ("config.json", "config.yaml", "model.safetensors"))


def load_for_evaluation(
    path: Path | str, *, untrained: bool = False
) -> tuple[CoGazeModel, Config, PreTrainedTokenizerFast]:
    """Model in eval mode, resolved configuration and tokenizer, of a checkpoint folder, a run folder (its newest), or a
    folder with all weights that `cogaze export` or `cogaze import-weights` wrote.

    `untrained`: the same model with the weights its run started from, for a figure to compare with.
    Raises CheckpointError when there is none.
    """
    import torch

    from .data.text import load_tokenizer
    from .model import CoGazeConfig, CoGazeModel

    path = Path(path)
    folder: Path | None = path if (path / "trainer.json").is_file() else None
    if folder is None and path.is_dir():
        folder = newest(path)
    if folder is None and is_exported(path):
        if untrained:
            raise CheckpointError(f"{path}: an exported folder does not say from which weights its training started")
        whole = CoGazeModel.from_pretrained(path)
        return whole.eval(), load(path / "config.yaml"), load_tokenizer(str(path))
    if folder is None:
        raise CheckpointError(f"{path}: neither a checkpoint folder nor a run folder with checkpoints/")
    config = load(folder / "config.yaml")
    model_config = CoGazeConfig.from_pretrained(folder)
    vision = config.model.vision.pretrained if untrained or config.model.vision.trainable != "all" else None
    torch.manual_seed(config.run.seed)  # as training does
    text = config.model.text
    model = CoGazeModel.from_encoders(
        model_config,
        vision,
        text.pretrained if untrained else None,
        text_layers=text.layers,
        new_word_embeddings=text.word_embeddings == "new",
    )
    if not untrained:
        load_weights(model, folder)
    return model.eval(), config, load_tokenizer(str(folder / "tokenizer"))
