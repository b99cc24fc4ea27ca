"""A small split in memory and a model whose every output can be worked out from one image or one text alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from cogaze.config import Config
from cogaze.data.text import shard_texts, train_tokenizer
from cogaze.observations import OBSERVATIONS
from tests.data.fakes import FakeShards, make_config

WIDTH, GRID = 8, 2


class Splits(FakeShards):
    """The same samples as split `test`, and every third of them as `train` and `validate`; labels by study."""

    digest = "0" * 64
    is_phantom = True
    splits = ("train", "validate", "test")

    def __init__(self, studies: int = 12, seed: int = 3) -> None:
        super().__init__(studies, seed=seed)
        for position, raw in enumerate(self.samples):
            bits = np.random.default_rng(int(self.study[position])).random(5)
            raw.meta["labels"] = {
                name: int(bit < 0.5) for name, bit in zip(OBSERVATIONS[:5], bits.tolist(), strict=True)
            }

    def size(self, split: str) -> int:
        return len(self.samples) if split == "test" else len(self.samples) // 3


def settings(**evaluation: Any) -> Config:
    config = make_config()
    config.model.width = WIDTH
    config.eval.batch = 6  # three a rank on two ranks
    config.page.examples = 4
    for key, value in evaluation.items():
        setattr(config.eval, key, value)
    return config


def tokenizer_of(shards: FakeShards) -> PreTrainedTokenizerFast:
    return train_tokenizer(shard_texts(shards, "test"), 200)  # type: ignore[arg-type]


class FakeModel(nn.Module):
    """Features are functions of patch means and token ids, row by row; a context shifts the image's features."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.words = nn.Parameter(torch.randn(400, WIDTH, generator=g))
        self.look = nn.Parameter(torch.randn(4, WIDTH, generator=g))
        self.head = nn.Parameter(torch.randn(WIDTH, 14, generator=g))

    def patches(self, image: Tensor) -> Tensor:
        """(B,1,28,28) -> (B,4,D), normalised."""
        tiles = image.float().view(len(image), GRID, 14, GRID, 14)
        mean, deviation = tiles.mean((2, 4)).flatten(1) / 255, tiles.std((2, 4)).flatten(1) / 255  # (B,4)
        facts = torch.stack([mean, deviation, mean**2, torch.ones_like(mean)], -1)
        return nn.functional.normalize(facts @ self.look, dim=-1)

    def text_tensors(self, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        return nn.functional.normalize((self.words[token_ids] * token_mask[..., None]).sum(1), dim=-1)

    def image_tensors(
        self,
        image: Tensor,
        view: Tensor,
        token_ids: Tensor | None = None,
        token_mask: Tensor | None = None,
        context_row: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        patches = self.patches(image)
        whole = patches.sum(1)
        if token_ids is not None and token_mask is not None and context_row is not None and len(token_ids):
            texts = self.text_tensors(token_ids, token_mask)
            whole = whole + texts[context_row] * (context_row >= 0)[:, None]
        features = nn.functional.normalize(whole, dim=-1)
        return features, features @ self.head, patches

    def forward(self, image: Tensor, view: Tensor, **texts: Tensor) -> SimpleNamespace:
        ids, mask, report = texts["token_ids"], texts["token_mask"], texts["report_row"]
        features, logits, patches = self.image_tensors(image, view, ids, mask, texts["context_row"])
        pooled = torch.cat([self.text_tensors(ids, mask), torch.zeros(1, WIDTH)])
        return SimpleNamespace(
            image_features=features,
            image_logits=logits,
            text_features=pooled[report],
            text_logits=pooled[report] @ self.head,
            segment_features=pooled[texts["segment_row"]],
            patch_features=patches[texts["segment_image"].unique()],
            gaze_scale=torch.tensor([5.0]),
        )
