"""Configuration: YAML files that extend one another, validated by the typed models below.

    base.yaml  <-  extends:  <-  your.yaml  <-  section.key=value on the command line

Every key exists here, with its type, its default and what it does; an unknown key is an error that names the
nearest right one. `load` resolves the chain, `dump` writes the resolved configuration back as YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, in which file, and what would be right."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


# ------------------------------------------------------------------------------------------------ run
class RunConfig(Section):
    dir: Path | None = Field(None, description="the run folder; needed to train")
    name: str = Field("cogaze", description="experiment name in MLflow")
    seed: int = 0
    nproc: Count | None = Field(None, description="number of ranks asked for; training stops if it differs")
    threads: Count | None = Field(None, description="CPU threads a rank; null leaves torch's choice")
    deterministic: bool = Field(False, description="bitwise resume at the same world size (DDP: fixed buckets)")


# ------------------------------------------------------------------------------------------------ data
class AugmentConfig(Section):
    """Training-time augmentation; gaze moves with the image because maps are computed after it."""

    crop_scale: tuple[Fraction, Fraction] = Field(
        (1.0, 1.0), description="side of the square crop as a fraction of the largest centre crop, drawn uniformly"
    )
    crop_shift: Fraction = Field(0.0, description="how far the crop may leave the centre, 1 = up to the image border")
    flip: Fraction = Field(0.0, description="probability of a left-right flip; sides in the text are not changed")
    brightness: Fraction = Field(0.0, description="uniform additive jitter, fraction of full scale")
    contrast: Fraction = Field(0.0, description="uniform multiplicative jitter around the mean")


class DataConfig(Section):
    shards: list[str] = Field(default_factory=list, description="shard folders written by `cogaze data build`")
    train_split: str = "train"
    eval_split: str = "validate"
    image_size: Count = Field(518, description="side of the square the model sees, px; a multiple of the patch size")
    group_by: Literal["study", "image"] = "study"
    shuffle_window: Count | None = Field(None, description="shards shuffled together; null = all")
    workers: Annotated[int, Field(ge=0)] = 4
    prefetch: Count = Field(4, description="micro-batches each worker prepares ahead")
    report_sections: list[Literal["findings", "impression"]] = Field(
        ["findings", "impression"], description="the first one present is the report"
    )
    context_dropout: Fraction = Field(0.0, description="share of training samples whose context is hidden")
    use_context: bool = Field(True, description="false hides every context, in training and evaluation")
    lead: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="seconds before a sentence starts whose fixations still count for it"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)


class TextConfig(Section):
    tokenizer: str | None = Field(
        None, description="folder or hub id; null trains a WordPiece vocabulary from the shards' train split"
    )
    vocab_size: Count = Field(8000, description="size of a vocabulary trained here")
    max_tokens: Count = Field(300, description="longer texts are cut (CoGaze uses 300)")
    buckets: Count = Field(2, description="length buckets a step's texts are split into: as many text-encoder calls")


# ------------------------------------------------------------------------------------------------ model
class VisionConfig(Section):
    pretrained: str | None = Field(None, description="Dinov2 folder or hub id, e.g. microsoft/rad-dino; null = random")
    trainable: Literal["all", "none"] | Count = Field("all", description="all, none (frozen) or the last k blocks")
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_ratio: Count = 4
    patch_size: Count = 14
    layerscale: Positive = 1.0
    mean: Fraction = Field(0.5307, description="grey level subtracted (RAD-DINO)")
    std: Positive = Field(0.2583, description="grey level divided by (RAD-DINO)")


class TextEncoderConfig(Section):
    pretrained: str | None = Field(None, description="BERT folder or hub id; null = random weights")
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_ratio: Count = 4
    dropout: Fraction = 0.0


class PerceiverConfig(Section):
    latents: Count = 128
    depth: Count = 3
    heads: Count = 8
    head_dim: Count = 64
    ff_mult: Count = 4
    final_norm: bool = Field(False, description="LayerNorm on the vision latents before their mean")


class ModelConfig(Section):
    width: Count = Field(768, description="D, the width of projected features and latents")
    vision: VisionConfig = Field(default_factory=VisionConfig)
    text: TextEncoderConfig = Field(default_factory=TextEncoderConfig)
    perceiver: PerceiverConfig = Field(default_factory=PerceiverConfig)


# ------------------------------------------------------------------------------------------------ losses
class ContrastiveConfig(Section):
    weight: Annotated[float, Field(ge=0)] = 1.0
    positives: Literal["study", "self"] = "study"


class DiseaseConfig(Section):
    weight: Annotated[float, Field(ge=0)] = 1.0
    beta: Annotated[float, Field(ge=0, lt=1)] = Field(0.9999, description="effective-number beta (Cui et al. 2019)")
    gamma: Annotated[float, Field(ge=0)] = Field(2.0, description="focal exponent")
    scale_weights: bool = Field(True, description="class weights scaled to sum 14; false = Eq. 5 as printed")


class GazeConfig(Section):
    weight: Annotated[float, Field(ge=0)] = 1.0
    transcript_to_patch: Fraction = Field(0.8, description="lambda of Eq. 8; the rest goes to patch-to-transcript")
    rho: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="share of a map's non-zero patches kept")


class LossConfig(Section):
    contrastive: ContrastiveConfig = Field(default_factory=ContrastiveConfig)
    disease: DiseaseConfig = Field(default_factory=DiseaseConfig)
    gaze: GazeConfig = Field(default_factory=GazeConfig)


# ------------------------------------------------------------------------------------------------ optimisation
class ScheduleConfig(Section):
    name: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0)] = Field(0.0, description="below 1: share of all steps, else steps")
    min_ratio: Fraction = Field(0.0, description="cosine and plateau: lowest learning rate over the peak")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="plateau: multiplier")
    patience: Annotated[int, Field(ge=0)] = Field(2, description="plateau: evaluations without improvement")


class OptimConfig(Section):
    lr: Positive = 5e-5
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Positive | None = 1.0
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)


# ------------------------------------------------------------------------------------------------ training, evaluation
class TrainConfig(Section):
    global_batch: Count = Field(160, description="images an optimizer step, over all ranks and micro-batches")
    micro_batch: Count = Field(80, description="images a rank holds at once; accumulation is derived")
    steps: Count | None = Field(None, description="optimizer steps; exactly one of steps and epochs")
    epochs: Positive | None = None
    strategy: Literal["auto", "ddp", "zero1", "zero2"] = Field(
        "auto", description="auto follows the launcher (an accelerate config may ask for DeepSpeed), else ddp"
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: Count = 10
    save_every: Count = 500
    keep_last: Count = 2
    resume: Literal["auto", "never", "must"] = Field("auto", description="auto continues the run folder's newest")
    timeout_minutes: Positive = Field(30.0, description="process-group timeout: a dead rank ends the others")

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of train.steps and train.epochs")
        return self


class EvalConfig(Section):
    every: Count = Field(500, description="optimizer steps between evaluations")
    batch: Count = Field(64, description="images a fixed-order evaluation batch, over all ranks")
    max_batches: Count | None = Field(None, description="null = the whole split")
    prompts: str | None = Field(None, description="prompt YAML; null = the packaged one")


class TrackingConfig(Section):
    mlflow: bool = True
    uri: str | None = Field(None, description="null: MLFLOW_TRACKING_URI, else sqlite in the run folder")


class PageConfig(Section):
    show_text: bool | None = Field(None, description="report text on the page; null = for phantom data alone")
    examples: Count = 12


class Config(Section):
    run: RunConfig = Field(default_factory=RunConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    text: TextConfig = Field(default_factory=TextConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=lambda: TrainConfig(epochs=10))
    eval: EvalConfig = Field(default_factory=EvalConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    page: PageConfig = Field(default_factory=PageConfig)

    @model_validator(mode="after")
    def _sizes(self) -> Config:
        patch = self.model.vision.patch_size
        if self.data.image_size % patch:
            near = round(self.data.image_size / patch) * patch or patch
            raise ValueError(
                f"data.image_size {self.data.image_size} is not a multiple of the patch size {patch}; try {near}"
            )
        return self

    @property
    def grid(self) -> int:
        """Patches along one side of the model's input."""
        return self.data.image_size // self.model.vision.patch_size


# ------------------------------------------------------------------------------------------------ reading and writing
def load(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file with its `extends` chain, apply `section.key=value` overrides, validate.

    Raises ConfigError: missing file, a circular chain, bad YAML, an unknown key (with the nearest right one), a value
    of the wrong type or out of range.
    """
    path = Path(path)
    tree = _read_chain(path, ())
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"override {text!r} is not of the form section.key=value")
        try:
            parsed = yaml.safe_load(value) if value.strip() else None
        except yaml.YAMLError as error:
            raise ConfigError(f"override {text!r}: the value is not YAML ({error})") from None
        tree = _merge(tree, _nest(key.strip().split("."), parsed))
    return validate(tree, str(path))


def validate(tree: dict[str, Any], origin: str) -> Config:
    """A typed Config of a plain mapping; `origin` names it in errors."""
    problems = list(_unknown_keys(tree, Config, ""))
    if problems:
        raise ConfigError("\n".join(f"{origin}: {p}" for p in problems))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in e['loc']) or 'config'}: {_plain(e)}" for e in error.errors()]
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from None


def dump(config: Config) -> str:
    """The resolved configuration as YAML, readable by `load`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _plain(error: Any) -> str:
    shown = error.get("input")
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{message} (got {shown!r})" if isinstance(shown, (str, int, float, bool)) else message


def _read_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    here = path.resolve()
    if here in seen:
        raise ConfigError(f"{path}: `extends` goes round in a circle: {' -> '.join(str(p) for p in (*seen, here))}")
    try:
        tree = yaml.safe_load(here.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of sections, not {type(tree).__name__}")
    parents = tree.pop("extends", None) or []
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: `extends` takes a file name or a list of file names, not {parents!r}")
    merged: dict[str, Any] = {}
    for parent in parents:
        merged = _merge(merged, _read_chain(here.parent / parent, (*seen, here)))
    return _merge(merged, tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` wins; mappings merge key by key, everything else (lists too) is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else _nest(keys[1:], value)}


def _unknown_keys(tree: dict[str, Any], model: type[BaseModel], prefix: str) -> Iterable[str]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in model.model_fields:
            near = difflib.get_close_matches(str(key), list(model.model_fields), 1, cutoff=0.5)
            elsewhere = [p for p in _all_keys(Config, "") if p.split(".")[-1] == key]
            hint = f"did you mean {prefix}{near[0]}?" if near else ""
            hint = f"did you mean {elsewhere[0]}?" if elsewhere and not near else hint
            yield f"unknown key {name}; {hint or 'known: ' + ', '.join(model.model_fields)}"
            continue
        inner = model.model_fields[key].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if isinstance(value, dict):
                yield from _unknown_keys(value, inner, f"{name}.")
            else:
                yield f"{name} is a section with keys {', '.join(inner.model_fields)}, not a {type(value).__name__}"


def _all_keys(model: type[BaseModel], prefix: str) -> Iterable[str]:
    for key, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _all_keys(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
