"""The text side: BERT over length buckets, projector, masked mean."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertModel

from .configuration import CoGazeConfig
from .vision import make_projector


class EncodedTexts(NamedTuple):
    """Features of N texts, and the tokens of K of them."""

    pooled: Tensor  # (N+1,D) mean over tokens; the last row, also row -1, is zero: "no text"
    first: Tensor  # (N,D) the [CLS] token
    tokens: Tensor  # (K,T_K,D) projected token features of the texts asked for
    mask: Tensor  # bool (K,T_K)


class TextTower(nn.Module):
    """Token ids to projected token features and their means, in a fixed number of encoder calls."""

    def __init__(self, config: CoGazeConfig):
        super().__init__()
        self.buckets = config.text_buckets
        self.padded_mean = config.report_pooling == "padded_mean"
        self.pad_token_id = config.pad_token_id
        self.encoder = BertModel(config.text_config, add_pooling_layer=False)
        self.projector = make_projector(config.text_config.hidden_size, config.width)

    def forward(self, token_ids: Tensor, token_mask: Tensor, keep: Tensor, reports: Tensor) -> EncodedTexts:
        """token_ids int64 (N,T), token_mask bool (N,T); keep int64 (K,): ascending rows whose tokens are wanted;
        reports int64: rows that are reports.

        The texts are divided into runs, one encoder call each, cropped to the run's longest text: `buckets` runs of
        texts of like length, or (roles) the kept rows, the reports and the rest. A run without texts encodes one
        dummy token whose features go nowhere: the encoder is called equally often on every rank, and its parameters
        always get a gradient (zero).
        """
        if token_ids.shape[1] > self.encoder.config.max_position_embeddings:
            raise ValueError(
                f"a text of {token_ids.shape[1]} tokens is longer than the text encoder's "
                f"{self.encoder.config.max_position_embeddings} positions; lower text.max_tokens"
            )
        texts = token_ids.shape[0]
        positions = torch.arange(1, token_ids.shape[1] + 1, device=token_ids.device)  # (T,)
        lengths = (token_mask * positions).amax(1) if texts else positions.new_zeros(0)  # (N,)
        if self.buckets == "roles":
            order, cuts = by_role(texts, keep, reports)
        else:
            order = torch.argsort(lengths, stable=True)
            cuts = cut_points(lengths[order].tolist(), int(self.buckets))
        longest = lengths[order].tolist()
        wanted = torch.isin(order, keep)  # (N,)
        whole = torch.zeros(texts, dtype=torch.bool, device=order.device)  # (N,), mean over padding too
        if self.padded_mean:
            whole[reports] = True
        kept_length = max(lengths[keep].tolist(), default=1)

        pooled, first_token, tokens = [], [], []
        for first, end in pairwise(cuts):
            rows = order[first:end]  # (n,)
            if first == end:
                ids = token_ids.new_full((1, 1), self.pad_token_id)
                mask = torch.ones_like(ids, dtype=torch.bool)
            else:
                length = max(longest[first:end])
                ids, mask = token_ids[rows, :length], token_mask[rows, :length]
            hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (n,t,D_t)
            features = self.projector(hidden)  # (n,t,D)
            counted = mask if first == end else mask | whole[rows][:, None]
            pooled.append(masked_mean(features, counted)[: end - first])
            first_token.append(features[: end - first, 0])
            kept = features.index_select(0, wanted[first:end].nonzero().flatten())[:, :kept_length]
            tokens.append(F.pad(kept, (0, 0, 0, kept_length - kept.shape[1])))

        back = order.argsort()
        means = torch.cat(pooled).index_select(0, back)  # (N,D)
        return EncodedTexts(
            pooled=torch.cat([means, means.new_zeros(1, means.shape[1])]),
            first=torch.cat(first_token).index_select(0, back),
            tokens=torch.cat(tokens).index_select(0, order[wanted].argsort()),
            mask=token_mask[keep, :kept_length],
        )


def by_role(texts: int, contexts: Tensor, reports: Tensor) -> tuple[Tensor, list[int]]:
    """Rows 0..N-1 with the contexts first, then the reports, then the others (N,), and where they begin and end."""
    role = torch.full((texts,), 2, device=contexts.device)
    role[reports] = 1
    role[contexts] = 0
    sizes = torch.bincount(role, minlength=3).tolist()
    return torch.argsort(role, stable=True), [0, sizes[0], sizes[0] + sizes[1], texts]


def cut_points(lengths: Sequence[int], buckets: int) -> list[int]:
    """Where to cut texts of ascending `lengths` into runs so that the fewest padded tokens are encoded.

    Returns `buckets` + 1 positions from 0 to N; run k is [cut k, cut k+1), possibly empty. Dynamic programming over
    sum_k (run size x its longest text); the first of equally good cuts is taken.
    """
    texts = len(lengths)
    start, end = np.arange(texts + 1)[:, None], np.arange(texts + 1)[None]
    longest = np.concatenate([[0], np.asarray(lengths, dtype=np.int64)])
    price = np.where(start <= end, (end - start) * longest[None], np.iinfo(np.int64).max // 4)  # (N+1,N+1) of run [i,j)
    best = price[0]  # (N+1,) cheapest way to encode the first j texts in one run
    choices = []
    for _ in range(buckets - 1):
        ways = best[:, None] + price  # (N+1,N+1)
        choices.append(ways.argmin(0))
        best = ways.min(0)
    cuts = [texts]
    for choice in reversed(choices):
        cuts.append(int(choice[cuts[-1]]))
    return [0, *reversed(cuts)]


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens, at least in fp32: features (n,t,D), mask bool (n,t) -> (n,D)."""
    total = (features * mask[:, :, None]).sum(1, dtype=torch.promote_types(features.dtype, torch.float32))  # (n,D)
    return total / mask.sum(1, keepdim=True).clamp(min=1)
