"""`CoGazeModel`: images, their context and all texts of a step to the features and logits the losses need."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import BertModel, Dinov2Model, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..config import ConfigError
from .configuration import CoGazeConfig
from .perceiver import Perceiver
from .text import TextTower
from .vision import VisionTower

INITIAL_SCALE = 1 / 0.07  # inverse temperature (CLIP)
MAX_SCALE = 100.0
_SET = cast(Tensor, None)  # a ModelOutput wants defaults; forward sets every field


@dataclass
class CoGazeOutput(ModelOutput):
    """What one forward returns. Features are L2-normalised; logits are not passed through a sigmoid."""

    image_features: Tensor = _SET  # (B,D)
    text_features: Tensor = _SET  # (B,D), rows of images without a report are zero
    image_logits: Tensor = _SET  # (B,14)
    text_logits: Tensor = _SET  # (B,14), meaningless in rows without a report
    segment_features: Tensor = _SET  # (S,D)
    patch_features: Tensor = _SET  # (G,P,D), images with gaze = unique(segment_image) ascending
    logit_scale: Tensor = _SET  # (1,), inverse temperature of the contrastive loss
    gaze_scale: Tensor = _SET  # (1,), inverse temperature of the gaze loss


def clamped_scale(log_scale: Tensor) -> Tensor:
    """exp of the log scale clamped at ln 100; the gradient passes the clamp as if it were not there."""
    return torch.exp(log_scale + (log_scale.clamp(max=math.log(MAX_SCALE)) - log_scale).detach())


def unit(features: Tensor) -> Tensor:
    """L2-normalised last dimension, at least in fp32; zero rows stay zero."""
    low = features.dtype in (torch.float16, torch.bfloat16)
    return F.normalize(features.float() if low else features, dim=-1)


class CoGazeModel(PreTrainedModel):
    """The model of DESIGN: image encoder and context through one Perceiver, text encoder, two heads."""

    config_class = CoGazeConfig
    config: CoGazeConfig
    base_model_prefix = "cogaze"
    main_input_name = "image"
    input_modalities = ["image", "text"]  # noqa: RUF012
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    def __init__(self, config: CoGazeConfig):
        super().__init__(config)
        sizes = config.perceiver
        labels = cast(int, config.num_labels)
        self.vision = VisionTower(config)
        self.text = TextTower(config)
        self.context_latents = nn.Parameter(torch.empty(sizes["latents"], config.width))  # Z_C (M,D)
        self.image_latents = nn.Parameter(torch.empty(sizes["latents"], config.width))  # Z_I (M,D)
        self.perceiver = Perceiver(config.width, sizes["depth"], sizes["heads"], sizes["head_dim"], sizes["ff_mult"])
        self.final_norm = nn.LayerNorm(config.width, eps=1e-5) if sizes["final_norm"] else nn.Identity()
        self.image_head = nn.Linear(config.width, labels)
        self.text_head = nn.Linear(config.width, labels)
        self.log_logit_scale = nn.Parameter(torch.empty(1))  # never 0-dim: DeepSpeed and FSDP2 refuse that
        self.log_gaze_scale = nn.Parameter(torch.empty(1))
        self.post_init()
        self.vision.freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Ours; the two encoders bring their own (transformers calls each sub-model's)."""
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.02)
        elif isinstance(module, CoGazeModel):
            init.normal_(module.context_latents, std=0.02)
            init.normal_(module.image_latents, std=0.02)
            init.constant_(module.log_logit_scale, math.log(INITIAL_SCALE))
            init.constant_(module.log_gaze_scale, math.log(INITIAL_SCALE))
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; afterwards the frozen part is frozen again (loading makes new, trainable parameters)."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).vision.freeze()
        return loaded

    @classmethod
    def from_encoders(cls, config: CoGazeConfig, vision: str | None = None, text: str | None = None) -> CoGazeModel:
        """A model whose encoders start from pretrained weights: a local folder or a hub id; None = random.

        The sizes of a pretrained encoder come from its own config.json and replace those of `config`; text dropout
        stays as configured, and word embeddings grow to the tokenizer's vocabulary. Raises ConfigError when weights
        cannot be had or do not fit.
        """
        config = copy.deepcopy(config)
        encoders: dict[str, PreTrainedModel] = {}
        if vision is not None:
            encoders["vision"] = load_encoder(Dinov2Model, vision, "model.vision.pretrained")
            config.vision_config = encoders["vision"].config
            if config.vision_config.patch_size != config.patch_size:
                raise ConfigError(
                    f"model.vision.pretrained: {vision} has patches of {config.vision_config.patch_size} px, "
                    f"model.vision.patch_size is {config.patch_size}; set it to the encoder's"
                )
        if text is not None:
            ours = config.text_config
            bert = load_encoder(BertModel, text, "model.text.pretrained", add_pooling_layer=False)
            if bert.config.max_position_embeddings < config.max_tokens:
                raise ConfigError(
                    f"model.text.pretrained: {text} reads {bert.config.max_position_embeddings} tokens, "
                    f"text.max_tokens is {config.max_tokens}; lower it"
                )
            if bert.config.vocab_size < ours.vocab_size:  # role tokens were added to its tokenizer
                bert.resize_token_embeddings(ours.vocab_size, mean_resizing=False)
            bert.config.hidden_dropout_prob = ours.hidden_dropout_prob
            bert.config.attention_probs_dropout_prob = ours.attention_probs_dropout_prob
            bert.config.pad_token_id = ours.pad_token_id
            encoders["text"], config.text_config = bert, bert.config
        model = cls(config)
        for name, encoder in encoders.items():
            getattr(model, name).encoder.load_state_dict(encoder.state_dict())
        return model

    # -------------------------------------------------------------------------------------------- forward
    def forward(
        self,
        image: Tensor,
        view: Tensor,
        token_ids: Tensor,
        token_mask: Tensor,
        report_row: Tensor,
        context_row: Tensor,
        segment_row: Tensor,
        segment_image: Tensor,
    ) -> CoGazeOutput:
        """Shapes and meaning as in `cogaze.batch.Batch`.

        The number and order of module calls do not depend on the data, and every trained parameter is part of the
        graph of the outputs, whatever is absent from the batch.
        """
        patches = self.vision(image, view)  # (B,P,D)
        contexts, slot = unique_contexts(context_row)
        texts = self.text(token_ids, token_mask, contexts)
        latent = self._vision_latent(patches, texts.tokens, texts.mask, slot)  # (B,D)
        report = texts.pooled[report_row]  # (B,D); -1 takes the zero row
        with_gaze = torch.unique(segment_image)  # (G,)
        return CoGazeOutput(
            image_features=unit(latent),
            text_features=unit(report) * (report_row >= 0)[:, None],
            image_logits=self.image_head(latent),
            text_logits=self.text_head(report),
            segment_features=unit(texts.pooled.index_select(0, segment_row)),
            patch_features=unit(patches.index_select(0, with_gaze)),
            logit_scale=clamped_scale(self.log_logit_scale),
            gaze_scale=clamped_scale(self.log_gaze_scale),
        )

    def _vision_latent(self, patches: Tensor, tokens: Tensor, mask: Tensor, slot: Tensor) -> Tensor:
        """Mean vision latent (B,D) of patches (B,P,D) under C contexts: tokens (C,T,D), mask bool (C,T).

        slot (B,): which context an image has, C = none. Eq. 1 of the paper: context latents, or Z_I without one.
        """
        contexts = tokens.shape[0]
        if contexts == 0:  # one dummy row that no image uses: equal module calls, and a gradient for Z_C
            tokens = torch.cat([tokens.new_zeros(1, *tokens.shape[1:]), tokens])
            mask = mask.new_ones(1, tokens.shape[1])
        read = self.perceiver(self.context_latents.expand(tokens.shape[0], -1, -1), tokens, mask)  # (C or 1,M,D)
        starts = torch.cat([read[:contexts], self.image_latents[None].to(read.dtype)]).index_select(0, slot)  # (B,M,D)
        return self.final_norm(self.perceiver(starts, patches)).mean(1)

    # -------------------------------------------------------------------------------------------- evaluation
    def encode_texts(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Normalised features (N,D) of token_ids int64 (N,T), token_mask bool (N,T)."""
        none = torch.empty(0, dtype=torch.int64, device=token_ids.device)
        return unit(self.text(token_ids, token_mask, none).pooled[:-1])

    def encode_images(
        self,
        image: Tensor,
        view: Tensor,
        token_ids: Tensor | None = None,
        token_mask: Tensor | None = None,
        context_row: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """image uint8 (B,1,H,W), view (B,), contexts as in Batch (all three or none of them given)
        -> normalised image features (B,D), logits (B,14), normalised patch features (B,P,D)."""
        patches = self.vision(image, view)
        if token_ids is None or token_mask is None or context_row is None:
            token_ids = torch.empty(0, 1, dtype=torch.int64, device=image.device)
            token_mask = torch.empty(0, 1, dtype=torch.bool, device=image.device)
            context_row = torch.full_like(view, -1)
        contexts, slot = unique_contexts(context_row)
        texts = self.text(token_ids, token_mask, contexts)
        latent = self._vision_latent(patches, texts.tokens, texts.mask, slot)
        return unit(latent), self.image_head(latent), unit(patches)


def unique_contexts(context_row: Tensor) -> tuple[Tensor, Tensor]:
    """context_row (B,), -1 = none -> distinct rows (C,) ascending, and each image's place in them (B,), C = none."""
    has = context_row >= 0
    rows, inverse = torch.unique(context_row[has], return_inverse=True)
    slot = torch.full_like(context_row, rows.shape[0])
    slot[has] = inverse
    return rows, slot


def load_encoder(kind: type[PreTrainedModel], source: str, key: str, **kwargs: Any) -> PreTrainedModel:
    """A pretrained encoder in fp32 from a local folder or a hub id; `key` names the setting in errors.

    Weights are read from safetensors, or from a .bin file with torch's weights-only unpickler (no code in the file is
    run); a folder's own Python code is never used. Raises ConfigError: nothing there and no network, a damaged file,
    weights of another architecture.
    """
    try:
        loaded: Any = kind.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **kwargs)
    except (OSError, ValueError, RuntimeError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        if Path(source).exists():
            raise ConfigError(f"{key}: the weights in {source} cannot be read as {kind.__name__}: {reason}") from error
        raise ConfigError(
            f"{key}: {source} is neither a folder here nor to be had from the hub ({reason}). Download it where there "
            f"is a network (`hf download {source} --local-dir DIR`) and give that folder, or null for random weights"
        ) from error
    model, report = loaded
    missing = [name for name in report["missing_keys"] if not name.endswith("mask_token")]
    if missing:
        raise ConfigError(
            f"{key}: {source} lacks {len(missing)} of the weights of a {kind.__name__}, e.g. {sorted(missing)[0]}; "
            "is it the encoder meant?"
        )
    return model
