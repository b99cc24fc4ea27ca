"""`CoGazeModel`: images, their context and all texts of a step to the features and logits the losses need."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration import CoGazeConfig
from .encoding import EncodingMixin
from .perceiver import Perceiver
from .pretrained import load_text, load_vision
from .text import TextTower
from .vision import VisionTower, view_rows

INITIAL_SCALE = 1 / 0.07  # inverse temperature (CLIP)
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


def limited_scale(log_scale: Tensor, limit: float | None) -> Tensor:
    """exp of the log scale, at most `limit`; the gradient passes the limit as if it were not there."""
    if limit is None:
        return torch.exp(log_scale)
    return torch.exp(log_scale + (log_scale.clamp(max=math.log(limit)) - log_scale).detach())


def unit(features: Tensor) -> Tensor:
    """L2-normalised last dimension, at least in fp32; zero rows stay zero."""
    low = features.dtype in (torch.float16, torch.bfloat16)
    return F.normalize(features.float() if low else features, dim=-1)


class CoGazeModel(EncodingMixin, PreTrainedModel):
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
        if config.latents == "shared":
            self.latents = nn.Parameter(torch.empty(sizes["latents"], config.width))  # (M,D)
            self.context_type = nn.Parameter(torch.empty(1, config.width))
            self.image_type = nn.Parameter(torch.empty(1, config.width))
        else:
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
            init.normal_(module.weight, std=self.config.init_std)
        elif isinstance(module, VisionTower):
            init.copy_(module.view_row, torch.tensor(view_rows(self.config.views)))  # no file holds this buffer
        elif isinstance(module, CoGazeModel):
            shared = ("latents", "context_type", "image_type")
            for name in shared if self.config.latents == "shared" else ("context_latents", "image_latents"):
                init.normal_(getattr(module, name), std=self.config.init_std)
            init.constant_(module.log_logit_scale, math.log(INITIAL_SCALE))
            init.constant_(module.log_gaze_scale, math.log(INITIAL_SCALE))
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; afterwards the frozen part is frozen again (loading makes new, trainable parameters)."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.vision.freeze()
        for parameter in model.parameters():  # a mapped file's odd addresses make matrix products round differently
            parameter.data = parameter.data.clone()
        return loaded

    @classmethod
    def from_encoders(
        cls,
        config: CoGazeConfig,
        vision: str | None = None,
        text: str | None = None,
        *,
        text_layers: int | None = None,
        new_word_embeddings: bool = False,
        base_vocab_size: int | None = None,
    ) -> CoGazeModel:
        """A model whose encoders start from pretrained weights: a local folder or a hub id; None = random.

        The sizes of a pretrained encoder come from its own config.json and replace those of `config`; text dropout
        stays as configured, and word embeddings grow to the tokenizer's vocabulary. For the text encoder's first
        layers alone, new word embeddings, and a tokenizer that is not the encoder's, see `pretrained.load_text`.
        The same arguments and state of torch's generator give the same weights. Raises ConfigError when weights cannot
        be had or do not fit.
        """
        config = copy.deepcopy(config)
        encoders: dict[str, PreTrainedModel] = {}
        if vision is not None:
            encoders["vision"] = load_vision(vision, config)
            config.vision_config = encoders["vision"].config
        if text is not None:
            encoders["text"] = load_text(
                text,
                config,
                layers=text_layers,
                new_word_embeddings=new_word_embeddings,
                base_vocab_size=base_vocab_size,
            )
            config.text_config = encoders["text"].config
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
        seen = self.vision(image, view)  # (B,P,D), CLS before them with read_cls
        contexts, slot = unique_contexts(context_row)
        texts = self.text(token_ids, token_mask, contexts, report_row[report_row >= 0])
        latent = self._vision_latent(seen, texts.tokens, texts.mask, slot)  # (B,D)
        patches = seen[:, self.vision.first_patch :]  # (B,P,D)
        report = texts.pooled[report_row]  # (B,D); -1 takes the zero row
        spoken = texts.first if self.config.transcript_pooling == "cls" else texts.pooled
        with_gaze = torch.unique(segment_image)  # (G,)
        return CoGazeOutput(
            image_features=unit(latent),
            text_features=unit(report) * (report_row >= 0)[:, None],
            image_logits=self.image_head(latent),
            text_logits=self.text_head(report),
            segment_features=unit(spoken.index_select(0, segment_row)),
            patch_features=unit(patches.index_select(0, with_gaze)),
            logit_scale=limited_scale(self.log_logit_scale, self.config.scale_limit),
            gaze_scale=limited_scale(self.log_gaze_scale, self.config.scale_limit),
        )

    def start_latents(self) -> tuple[Tensor, Tensor]:
        """What the Perceiver starts from: to read a context, and to read an image that has none; both (M,D)."""
        if self.config.latents == "shared":
            return self.latents + self.context_type, self.latents + self.image_type
        return self.context_latents, self.image_latents

    def _vision_latent(self, seen: Tensor, tokens: Tensor, mask: Tensor, slot: Tensor) -> Tensor:
        """Mean vision latent (B,D) of image tokens (B,P,D) under C contexts: tokens (C,T,D), mask bool (C,T).

        slot (B,): which context an image has, C = none. Eq. 1 of the paper: context latents, or Z_I without one.
        """
        contexts = tokens.shape[0]
        if contexts == 0:  # one dummy row that no image uses: equal module calls, and a gradient for Z_C
            tokens = torch.cat([tokens.new_zeros(1, *tokens.shape[1:]), tokens])
            mask = mask.new_ones(1, tokens.shape[1])
        for_context, for_image = self.start_latents()  # (M,D) each
        readable = mask if self.config.perceiver["mask_padding"] else None
        read = self.perceiver(for_context.expand(tokens.shape[0], -1, -1), tokens, readable)  # (C or 1,M,D)
        starts = torch.cat([read[:contexts], for_image[None].to(read.dtype)]).index_select(0, slot)  # (B,M,D)
        return self.final_norm(self.perceiver(starts, seen)).mean(1)

    # -------------------------------------------------------------------------------------------- evaluation
    def text_tensors(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Normalised features (N,D) of report-like texts: token_ids int64 (N,T), token_mask bool (N,T)."""
        none = torch.empty(0, dtype=torch.int64, device=token_ids.device)
        every = torch.arange(token_ids.shape[0], device=token_ids.device)
        return unit(self.text(token_ids, token_mask, none, every).pooled[:-1])

    def image_tensors(
        self,
        image: Tensor,
        view: Tensor,
        token_ids: Tensor | None = None,
        token_mask: Tensor | None = None,
        context_row: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """image uint8 (B,1,H,W), view (B,), contexts as in Batch (all three or none of them given)
        -> normalised image features (B,D), logits (B,14), normalised patch features (B,P,D)."""
        seen = self.vision(image, view)
        if token_ids is None or token_mask is None or context_row is None:
            token_ids = torch.empty(0, 1, dtype=torch.int64, device=image.device)
            token_mask = torch.empty(0, 1, dtype=torch.bool, device=image.device)
            context_row = torch.full_like(view, -1)
        contexts, slot = unique_contexts(context_row)
        texts = self.text(token_ids, token_mask, contexts, contexts[:0])
        latent = self._vision_latent(seen, texts.tokens, texts.mask, slot)
        return unit(latent), self.image_head(latent), unit(seen[:, self.vision.first_patch :])


def unique_contexts(context_row: Tensor) -> tuple[Tensor, Tensor]:
    """context_row (B,), -1 = none -> distinct rows (C,) ascending, and each image's place in them (B,), C = none."""
    has = context_row >= 0
    rows, inverse = torch.unique(context_row[has], return_inverse=True)
    slot = torch.full_like(context_row, rows.shape[0])
    slot[has] = inverse
    return rows, slot
