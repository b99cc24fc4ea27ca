"""Class-balanced focal loss on the 14 observations (Eq. 5-6; Cui et al. 2019, Lin et al. 2017)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(positive_counts: Tensor, beta: float, scale: bool) -> Tensor:
    """Weight of each class from its number of positive training images n_c: (1 - beta) / (1 - beta^n_c).

    positive_counts (C,) -> float64 (C,). A class without positives gets 0. `scale`: weights are scaled to sum C as in
    Cui et al.; unscaled they are near 1e-4 at beta = 0.9999 and the term vanishes beside the others.
    """
    counts = positive_counts.to(torch.float64)
    log_beta = math.log(beta) if beta > 0 else -math.inf
    effective = -torch.expm1(counts.clamp(min=1) * log_beta) / (1 - beta)  # effective number of samples
    weights = torch.where(counts > 0, 1 / effective, 0.0)
    if not scale:
        return weights
    total = weights.sum()
    return weights * (len(weights) / torch.where(total > 0, total, 1.0))


def focal_sum(logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Sum over known elements of w_c (1 - p_t)^gamma (-log p_t), p_t the probability given to the true label.

    logits (b,C), labels (b,C) in {0,1}, known bool (b,C), weights (C,). Stable at any logit.
    """
    signed = torch.where(labels > 0.5, logits, -logits)  # logit of the true label
    focal = -torch.exp(gamma * F.logsigmoid(-signed)) * F.logsigmoid(signed)  # (b,C)
    return (focal * weights.to(logits.dtype) * known).sum()
