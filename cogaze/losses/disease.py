"""Class-balanced focal loss on the 14 observations (Eq. 5-6; Cui et al. 2019, Lin et al. 2017)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(positive_counts: Tensor, beta: float, scale: bool, epsilon: float = 0.0) -> Tensor:
    """Weight of each class from its number of positive training images n_c: (1 - beta) / (1 - beta^n_c + epsilon).

    positive_counts (C,) -> float64 (C,). A class without positives gets 0, unless `epsilon` is positive: with the
    released code's 1e-8 it gets 1e4, and after scaling nearly all the weight. `scale`: weights are scaled to sum C as
    in Cui et al.; unscaled they are near 1e-4 at beta = 0.9999 and the term vanishes beside the others.
    """
    counts = positive_counts.to(torch.float64)
    log_beta = math.log(beta) if beta > 0 else -1e300  # beta^n: 0 for n > 0, 1 for n = 0
    missing = -torch.expm1(counts * log_beta) + epsilon  # 1 - beta^n, what is not yet covered
    weights = torch.where(missing > 0, (1 - beta) / torch.where(missing > 0, missing, 1.0), 0.0)
    if not scale:
        return weights
    total = weights.sum()
    return weights * (len(weights) / torch.where(total > 0, total, 1.0))


def focal_sum(logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Sum over known elements of w_c (1 - p_t)^gamma (-log p_t), p_t the probability given to the true label; with
    gamma 0 weighted binary cross-entropy.

    logits (b,C), labels (b,C) in {0,1}, known bool (b,C), weights (C,). Stable at any logit.
    """
    signed = torch.where(labels > 0.5, logits, -logits)  # logit of the true label
    focal = -torch.exp(gamma * F.logsigmoid(-signed)) * F.logsigmoid(signed)  # (b,C)
    return (focal * weights.to(logits.dtype) * known).sum()
