"""Every setting: its section, type, default, and what it does. `cogaze.config` reads files of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .observations import VIEWS

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


def _here(value: object) -> object:
    """Of a setting that is a folder to write into, before it is a Path and has lost a slash."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(value)):
        raise ValueError("only shards are read from URLs; name a folder on this machine")
    return value


LocalFolder = BeforeValidator(_here)


# ------------------------------------------------------------------------------------------------ run
class RunConfig(Section):
    dir: Annotated[Path | None, LocalFolder] = Field(None, description="the run folder; needed to train")
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
    gaze_per_batch: Count | None = Field(
        None,
        description="places of every global batch that gaze images fill in turn; that each image comes once an epoch "
        "then holds of the other places alone. null: no quota",
    )
    workers: Annotated[int, Field(ge=0)] = 4
    prefetch: Count = Field(4, description="micro-batches each worker prepares ahead")
    cache_dir: Annotated[str | None, LocalFolder] = Field(
        None,
        description="where the tars of shards behind a URL are kept, on a disk of the node; may name variables of the "
        "environment ($SLURM_TMPDIR/cogaze). null: the user's cache folder",
    )
    cache_gb: Positive = Field(100.0, description="the most that all of them may take up, GB a node")
    retries: Annotated[int, Field(ge=0)] = Field(5, description="of a failed request for a part of a remote file")
    report_sections: list[Literal["findings", "impression"]] = Field(
        ["findings", "impression"], description="the first one present is the report"
    )
    context_dropout: Fraction = Field(0.0, description="share of training samples whose context is hidden")
    use_context: bool = Field(True, description="false hides every context, in training and evaluation")
    lead: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="seconds before a sentence starts whose fixations still count for it"
    )
    gaze_maps: Literal["exact", "reflacx", "rendered", "egma", "gazex"] = Field(
        "exact",
        description="exact: integrals of the fixations' Gaussians; rendered: grey levels of a drawn 8-bit heatmap "
        "after the released code's background rule; reflacx, egma, gazex: as in those works (docs/gaze.md)",
    )
    gaze_rate: Annotated[float, Field(gt=0.0)] = Field(
        1000.0, description="samples of the eye tracker a second, Hz; of use to gaze_maps: gazex"
    )
    unseen_sentences: Literal["drop", "keep"] = Field(
        "drop", description="sentences with an empty map: left out, or kept to compete for patches (zero rows)"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)


class TextConfig(Section):
    tokenizer: str | None = Field(
        None, description="folder or hub id; null trains a WordPiece vocabulary from the shards' train split"
    )
    vocab_size: Count = Field(8000, description="size of a vocabulary trained here")
    max_tokens: Count = Field(300, description="longer texts are cut (CoGaze uses 300)")
    buckets: Literal["roles"] | Count = Field(
        2,
        description="length buckets a step's texts are split into, as many text-encoder calls; roles: contexts, "
        "reports and transcripts in one call each, padded to its longest text",
    )
    role_tokens: list[str] = Field(
        ["[FINDINGS]", "[TRANSCRIPT]", "[INDICATION]", "[HISTORY]"],
        description="the order in which they join a vocabulary; more than these four stay unused",
    )
    spaces: bool = Field(
        False, description="blanks between markers and words are tokens (matters to byte-level vocabularies, GPT-2's)"
    )

    @field_validator("role_tokens")
    @classmethod
    def _all_roles(cls, value: list[str]) -> list[str]:
        missing = [role for role in ("[FINDINGS]", "[TRANSCRIPT]", "[INDICATION]", "[HISTORY]") if role not in value]
        if missing or len(set(value)) < len(value):
            raise ValueError(f"name each role token once; missing: {', '.join(missing) or 'none'}")
        return value


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
    layers: Count | None = Field(None, description="of a pretrained encoder, the first k layers; null = all")
    word_embeddings: Literal["pretrained", "new"] = Field(
        "pretrained", description="new: random rows, for a tokenizer that is not the pretrained encoder's own"
    )
    report_pooling: Literal["mean", "padded_mean"] = Field(
        "mean", description="of a report's token features: over its tokens, or over the padding of its call as well"
    )
    transcript_pooling: Literal["mean", "cls"] = Field("mean", description="of a spoken sentence's token features")
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
    read_cls: bool = Field(False, description="the image's CLS token is read beside the patches")
    mask_padding: bool = Field(True, description="padding of contexts is not read")


class ModelConfig(Section):
    width: Count = Field(768, description="D, the width of projected features and latents")
    views: list[str] = Field(
        list(VIEWS), description="views with an embedding of their own; all others share that of UNKNOWN"
    )
    latents: Literal["separate", "shared"] = Field(
        "separate", description="Z_C and Z_I of their own, or one set plus a type vector each"
    )
    init_std: Positive = Field(0.02, description="of fresh latents, type vectors and view embeddings")
    scale_limit: Positive | None = Field(100.0, description="both inverse temperatures stay below; null = no limit")
    vision: VisionConfig = Field(default_factory=VisionConfig)
    text: TextEncoderConfig = Field(default_factory=TextEncoderConfig)
    perceiver: PerceiverConfig = Field(default_factory=PerceiverConfig)

    @field_validator("views")
    @classmethod
    def _known_views(cls, value: list[str]) -> list[str]:
        odd = [view for view in value if view not in VIEWS]
        if odd or "UNKNOWN" not in value or len(set(value)) < len(value):
            raise ValueError(f"takes UNKNOWN and names of {', '.join(VIEWS[1:])}, each once; odd: {odd or 'none'}")
        return value


# ------------------------------------------------------------------------------------------------ losses
class ContrastiveConfig(Section):
    weight: Annotated[float, Field(ge=0)] = 1.0
    positives: Literal["study", "self"] = "study"
    chunk: Count = Field(512, description="rows of the similarity matrix held at once; decides memory, not results")


class DiseaseConfig(Section):
    weight: Annotated[float, Field(ge=0)] = 1.0
    beta: Annotated[float, Field(ge=0, lt=1)] = Field(0.9999, description="effective-number beta (Cui et al. 2019)")
    gamma: Annotated[float, Field(ge=0)] = Field(2.0, description="focal exponent; 0 = weighted BCE")
    epsilon: Annotated[float, Field(ge=0)] = Field(
        0.0, description="added to 1 - beta^n; at 0 a class without positives weighs nothing"
    )
    scale_weights: bool = Field(True, description="class weights scaled to sum 14; false = Eq. 5 as printed")


class GazeConfig(Section):
    weight: Annotated[float, Field(ge=0)] = 1.0
    transcript_to_patch: Fraction = Field(0.8, description="lambda of Eq. 8; the rest goes to patch-to-transcript")
    rho: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="share of a map's non-zero patches kept")
    groups: Literal["reading", "image"] = Field(
        "reading", description="segments that compete for a patch: of one reading, or of all readings of the image"
    )
    transposed: Literal["same_map", "remasked"] = Field(
        "same_map", description="patch-to-transcript target: columns of the top-rho map, or top-rho of each full column"
    )
    epsilon: Annotated[float, Field(ge=0)] = Field(0.0, description="added to sums and inside logarithms")


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
    decay: Literal["weights", "all"] = Field(
        "weights", description="weights: not norms, biases, latents and scales; all: everything"
    )
    clip_norm: Positive | None = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="learning rate of an encoder's blocks: the deepest has all of it, each one before it times this, "
        "embeddings the least; what is no encoder has all of it. null: all alike",
    )
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)


# ------------------------------------------------------------------------------------------------ training, evaluation
class TrainConfig(Section):
    global_batch: Count = Field(160, description="images an optimizer step, over all ranks and micro-batches")
    micro_batch: Count = Field(80, description="images a rank holds at once; accumulation is derived")
    steps: Count | None = Field(None, description="optimizer steps; exactly one of steps and epochs")
    epochs: Positive | None = None
    strategy: Literal["auto", "ddp", "zero0", "zero1", "zero2", "zero3"] = Field(
        "auto", description="auto follows the launcher (an accelerate config may ask for DeepSpeed), else ddp"
    )
    accumulation: Literal["cached", "plain"] = Field(
        "cached", description="cached: all negatives of the global batch, in two passes; plain: those of a micro-batch"
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    matmul: Literal["highest", "high", "medium"] = Field(
        "highest", description="fp32 products on a GPU: torch.set_float32_matmul_precision"
    )
    compile: bool = Field(
        False, description="torch.compile of encoder and Perceiver blocks; the first steps take a minute or two"
    )
    checkpointing: bool = Field(
        False, description="encoder and Perceiver blocks keep their inputs alone and are computed again in the backward"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="decay of a moving average of the trained weights: min(ema, (1+t)/(10+t)) at the t-th step; saved, "
        "and evaluated beside them as ema_... (evaluations take twice as long). null: none",
    )
    log_every: Count = 10
    save_every: Count = 500
    keep_last: Count = 2
    keep_every: Count | None = Field(None, description="checkpoints of every k-th step are saved and kept for good")
    keep_best: str | None = Field(
        None, description="name in the evaluation lines: the best checkpoint by it is kept, named in checkpoints/best"
    )
    resume: Literal["auto", "never", "must"] = Field("auto", description="auto continues the run folder's newest")
    timeout_minutes: Positive = Field(
        30.0, description="process-group timeout while a run starts, evaluates or saves: a dead rank ends the others"
    )
    step_timeout_minutes: Positive = Field(10.0, description="the same between steps, once the first is done")
    max_skipped: Count = Field(
        10, description="steps in a row with a non-finite loss or gradient, all left out, that end a run, saved"
    )

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
        quota, batch = self.data.gaze_per_batch or 0, self.train.global_batch
        if quota >= batch:
            raise ValueError(
                f"data.gaze_per_batch {quota} leaves no place for the other images in train.global_batch {batch}; "
                f"give at most {batch - 1}, or null"
            )
        padded = self.model.text.report_pooling == "padded_mean" or not self.model.perceiver.mask_padding
        if padded and self.text.buckets != "roles":
            raise ValueError(
                "model.text.report_pooling: padded_mean and model.perceiver.mask_padding: false read padding, whose "
                "length only text.buckets: roles defines"
            )
        return self

    @property
    def grid(self) -> int:
        """Patches along one side of the model's input."""
        return self.data.image_size // self.model.vision.patch_size
