"""The image side up to patch features: Dinov2, view embedding, RMSNorm, projector."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import Dinov2Model

from ..observations import VIEWS
from .configuration import CoGazeConfig


def make_projector(width_in: int, width_out: int) -> nn.Sequential:
    """Two layers with GELU between: D_in -> 2 D_out -> D_out."""
    return nn.Sequential(nn.Linear(width_in, 2 * width_out), nn.GELU(), nn.Linear(2 * width_out, width_out))


def view_rows(views: Sequence[str]) -> list[int]:
    """For each of observations.VIEWS its place in `views`, or that of UNKNOWN."""
    return [views.index(view if view in views else VIEWS[0]) for view in VIEWS]


class VisionTower(nn.Module):
    """uint8 images and their views to projected token features: patches, after CLS where the Perceiver reads it."""

    view_row: Tensor  # int64 (len(VIEWS),), row of the view embedding for each of observations.VIEWS

    def __init__(self, config: CoGazeConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.mean, self.std = config.image_mean, config.image_std
        self.trainable = config.vision_trainable
        self.first_patch = 1 if config.perceiver["read_cls"] else 0  # place of the patches among the tokens
        self.encoder = Dinov2Model(config.vision_config)
        self.view_embedding = nn.Embedding(len(config.views), width)
        self.register_buffer("view_row", torch.tensor(view_rows(config.views)), persistent=False)
        self.norm = nn.RMSNorm(width, eps=1e-12)  # the paper's has no epsilon; this one only keeps 0/0 away
        self.projector = make_projector(width, config.width)

    def freeze(self) -> None:
        """Mark what is trained: all, none, or the last k blocks with the final LayerNorm.

        Raises ValueError when more blocks are asked for than there are.
        """
        if self.trainable not in ("all", "none"):
            blocks = self.encoder.encoder.layer
            last = int(self.trainable)
            if last > len(blocks):
                raise ValueError(f"model.vision.trainable asks for {last} blocks, the encoder has {len(blocks)}")
            self.encoder.requires_grad_(False)
            for module in (*blocks[len(blocks) - last :], self.encoder.layernorm):
                module.requires_grad_(True)
        else:
            self.encoder.requires_grad_(self.trainable == "all")
        if self.encoder.embeddings.mask_token is not None:
            self.encoder.embeddings.mask_token.requires_grad_(False)  # masked-image pretraining's, never used here

    def train(self, mode: bool = True) -> VisionTower:
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.trainable == "none":
            self.encoder.eval()
        return self

    def forward(self, image: Tensor, view: Tensor) -> Tensor:
        """image uint8 (B,1,H,W), view int64 (B,) -> features (B,P,D) of the patches, row-major; CLS before them with
        `read_cls`, (B,1+P,D)."""
        weight = self.encoder.embeddings.patch_embeddings.projection.weight
        pixels = (image.to(weight.dtype) / 255 - self.mean) / self.std  # (B,1,H,W)
        frozen = torch.no_grad() if self.trainable == "none" else contextlib.nullcontext()
        with frozen:
            tokens = self.encoder(pixels.expand(-1, 3, -1, -1)).last_hidden_state  # (B,1+P,D_v)
        tokens = tokens[:, 1 - self.first_patch :]  # (B,P,D_v), or (B,1+P,D_v) with CLS
        tokens = tokens + self.view_embedding(self.view_row[view])[:, None]
        return self.projector(self.norm(tokens))
