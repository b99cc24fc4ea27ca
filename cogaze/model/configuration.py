"""`CoGazeConfig`: everything `CoGazeModel` is built from, as a transformers configuration (config.json)."""

from __future__ import annotations

import math
from typing import Any

from transformers import BertConfig, Dinov2Config, PreTrainedConfig

from ..config import Config
from ..observations import OBSERVATIONS, VIEWS

PERCEIVER_DEFAULTS: dict[str, Any] = {
    "latents": 128,
    "depth": 3,
    "heads": 8,
    "head_dim": 64,
    "ff_mult": 4,
    "final_norm": False,
    "read_cls": False,  # the image's CLS token is one more thing to read
    "mask_padding": True,  # padding of contexts is not read
}


class CoGazeConfig(PreTrainedConfig):
    """Sizes of the two encoders, the Perceiver and the heads, and how an image is normalised.

    `vision_config` and `text_config` may be given as dicts; they become `Dinov2Config` and `BertConfig`.
    `vision_config.image_size` is the size its position embeddings were made for; `image_size` is what this model is
    given (they differ after loading a pretrained encoder, and Dinov2 interpolates).
    """

    model_type = "cogaze"
    sub_configs_defaults = {"vision_config": Dinov2Config, "text_config": BertConfig}  # type: ignore[dict-item]  # noqa: RUF012

    width: int = 768  # D
    image_size: int = 518  # px, side of the square input
    patch_size: int = 14  # px
    vision_config: Any = None  # Dinov2Config
    text_config: Any = None  # BertConfig
    vision_trainable: str | int = "all"  # all | none | the last k blocks
    perceiver: Any = None  # dict, keys of PERCEIVER_DEFAULTS
    views: Any = None  # names out of observations.VIEWS with an embedding of their own; None = all of them
    latents: str = "separate"  # separate: Z_C and Z_I | shared: one set plus a type vector each
    init_std: float = 0.02  # of fresh latents, type vectors and view embeddings
    scale_limit: float | None = 100.0  # of both inverse temperatures
    report_pooling: str = "mean"  # mean | padded_mean
    transcript_pooling: str = "mean"  # mean | cls
    text_buckets: int | str = 2  # text-encoder calls a forward, by length | roles
    max_tokens: int = 300  # longer texts are cut by the tokenizer helpers
    pad_token_id: int = 0
    image_mean: float = 0.5307  # of grey levels in 0..1 (RAD-DINO)
    image_std: float = 0.2583

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = set(self.perceiver or {}) - set(PERCEIVER_DEFAULTS)
        if unknown:
            raise ValueError(f"perceiver has no setting {sorted(unknown)}; known: {', '.join(PERCEIVER_DEFAULTS)}")
        self.perceiver = PERCEIVER_DEFAULTS | (self.perceiver or {})
        self.views = list(VIEWS) if self.views is None else list(self.views)
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(enumerate(OBSERVATIONS))
            self.label2id = {name: index for index, name in enumerate(OBSERVATIONS)}
        super().__post_init__(**kwargs)

    @property
    def patches(self) -> int:
        """P, the number of patches of an input image."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_settings(cls, config: Config, vocab_size: int, pad_token_id: int) -> CoGazeConfig:
        """The model of a training configuration, for a tokenizer with `vocab_size` entries."""
        vision, text = config.model.vision, config.model.text
        return cls(
            width=config.model.width,
            image_size=config.data.image_size,
            patch_size=vision.patch_size,
            vision_config=Dinov2Config(
                hidden_size=vision.width,
                num_hidden_layers=vision.depth,
                num_attention_heads=vision.heads,
                mlp_ratio=vision.mlp_ratio,
                image_size=config.data.image_size,
                patch_size=vision.patch_size,
                layerscale_value=vision.layerscale,
                initializer_range=initial_std(vision.width),
                use_mask_token=vision.pretrained is not None,  # masked-image pretraining's; nothing here trains it
            ).to_dict(),
            text_config=BertConfig(
                vocab_size=vocab_size,
                hidden_size=text.width,
                num_hidden_layers=text.depth,
                num_attention_heads=text.heads,
                intermediate_size=text.width * text.mlp_ratio,
                hidden_dropout_prob=text.dropout,
                attention_probs_dropout_prob=text.dropout,
                max_position_embeddings=config.text.max_tokens,
                type_vocab_size=1,  # roles are tokens, not segments
                initializer_range=initial_std(text.width),
                pad_token_id=pad_token_id,
            ).to_dict(),
            vision_trainable=vision.trainable,
            perceiver=config.model.perceiver.model_dump(),
            views=config.model.views,
            latents=config.model.latents,
            init_std=config.model.init_std,
            scale_limit=config.model.scale_limit,
            report_pooling=text.report_pooling,
            transcript_pooling=text.transcript_pooling,
            text_buckets=config.text.buckets,
            max_tokens=config.text.max_tokens,
            pad_token_id=pad_token_id,
            image_mean=vision.mean,
            image_std=vision.std,
        )


def initial_std(width: int) -> float:
    """Standard deviation of fresh encoder weights: the usual 0.02 at width 768, growing as 1/sqrt(width) below it."""
    return round(0.02 * math.sqrt(768 / width), 6)
