"""Hybrid-positive contrastive loss (Eq. 2-4): own rows against the columns of all ranks, in both directions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import dist


def contrastive_sum(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    study: Tensor,
    has_report: Tensor,
    positives: Literal["study", "self"] = "study",
) -> Tensor:
    """Sum over this rank's rows of half the image->text and half the text->image soft-label cross-entropy.

    image_features, text_features (b,D) normalised; logit_scale (1,); study int64 (b,); has_report bool (b,): an image
    without a report is neither row nor column. b is the same on every rank. P_ij = 1[study_i = study_j] / row count
    over the global batch, or the identity with `positives="self"`. Returns a scalar; 0, still part of the graph,
    where there are no rows. All ranks call it: it holds two collectives forward and one backward.
    """
    rows = image_features.shape[0]
    here = torch.arange(rows, device=study.device) + dist.rank() * rows  # place in the global batch
    key = study if positives == "study" else here
    identity = dist.gather(torch.stack([key, has_report.to(key.dtype)], dim=1))  # int64 (W*b,2): no gradient, exact
    both = dist.gather_with_gradient(torch.cat([image_features, text_features], dim=1))  # (W*b,2D), one collective
    columns = identity[:, 1].nonzero().flatten()  # (C,)
    all_images, all_texts = both.index_select(0, columns).chunk(2, dim=1)  # (C,D) each
    own = has_report.nonzero().flatten()  # (R,)
    target = (key[own, None] == identity[columns, 0]).to(image_features.dtype)  # (R,C)
    target = target / target.sum(1, keepdim=True)
    image_to_text = logit_scale * image_features.index_select(0, own) @ all_texts.T  # (R,C)
    text_to_image = logit_scale * text_features.index_select(0, own) @ all_images.T
    return (_cross_entropy_sum(image_to_text, target) + _cross_entropy_sum(text_to_image, target)) / 2


def _cross_entropy_sum(logits: Tensor, target: Tensor) -> Tensor:
    """Sum over rows of -sum_j target_ij log softmax(logits)_ij; both (R,C), target rows sum to 1."""
    if logits.shape[1] == 0:  # no report on any rank: no rows either, and logsumexp refuses an empty row
        return logits.sum()
    return (torch.logsumexp(logits, dim=1) - (target * logits).sum(1)).sum()
