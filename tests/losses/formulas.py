"""The losses as CoGaze prints them (Eq. 2-8), each written once, in loops over numbers, without the package's code.

float64 numpy, except where float64 would cancel: there Python's `decimal` carries 60 digits. Sums, not means: the
package divides by global counts. `epsilon` is the authors' released code's; 0 is the paper.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

DIGITS = 60


# ------------------------------------------------------------------------------------------------ contrastive, Eq. 2-4
def contrastive(image: np.ndarray, text: np.ndarray, scale: float, key: np.ndarray, has_report: np.ndarray) -> float:
    """b times Eq. 4 over the b images that have a report: image, text (B,D), scale = 1 / tau_1, has_report (B,).

    key (B,): the study of Eq. 3; the row number for self positives alone.
    """
    image, text, key = image[has_report], text[has_report], key[has_report]
    b, loss = len(key), 0.0
    for i in range(b):
        same = [int(key[i]) == int(key[j]) for j in range(b)]
        image_to_report = log_softmax([scale * float(image[i] @ text[j]) for j in range(b)])  # Eq. 2
        report_to_image = log_softmax([scale * float(text[i] @ image[j]) for j in range(b)])
        for j in range(b):
            if same[j]:
                p = 1 / sum(same)  # Eq. 3
                loss -= (p * image_to_report[j] + p * report_to_image[j]) / 2
    return loss


def log_softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    return [s - top - math.log(sum(math.exp(t - top) for t in scores)) for s in scores]


# ------------------------------------------------------------------------------------------------ disease, Eq. 5-6
def class_weights(counts: list[int], beta: float, scale: bool, epsilon: float = 0.0) -> list[float]:
    """(1 - beta) / (1 - beta^n + epsilon), the reciprocal of Cui et al.'s effective number; scaled to sum C.

    Without epsilon a class that has no positives weighs 0 (the printed formula divides by zero).
    """
    with localcontext() as context:
        context.prec = DIGITS
        weights = []
        for n in counts:
            missing = 1 - (Decimal(beta) ** n if n else 1) + Decimal(epsilon)
            weights.append((1 - Decimal(beta)) / missing if missing else Decimal(0))
        if scale and sum(weights):
            weights = [len(counts) * w / sum(weights) for w in weights]
        return [float(w) for w in weights]


def focal(logits: np.ndarray, labels: np.ndarray, known: np.ndarray, weights: np.ndarray, gamma: float) -> float:
    """Sum over known elements (B,C) of w (1 - p_t)^gamma (-ln p_t); gamma 0 is the binary cross-entropy."""
    loss = 0.0
    with localcontext() as context:
        context.prec = DIGITS
        for b, c in np.ndindex(*logits.shape):
            if known[b, c]:
                z = Decimal(float(logits[b, c] if labels[b, c] == 1 else -logits[b, c]))  # logit of the true label
                p_t, miss = 1 / (1 + (-z).exp()), 1 / (1 + z.exp())  # miss = 1 - p_t
                power = miss ** Decimal(gamma) if gamma else Decimal(1)
                loss += float(Decimal(float(weights[c])) * power * -p_t.ln())
    return loss


# ------------------------------------------------------------------------------------------------ gaze, Eq. 7-8
def top_map(row: np.ndarray, rho: float, epsilon: float = 0.0) -> np.ndarray:
    """Of a map's n elements above epsilon the max(1, floor(rho n)) strongest, earlier ones first, over their sum.

    All zero where that sum is not above epsilon.
    """
    nonzero = [j for j in range(len(row)) if row[j] > epsilon]
    k = max(1, math.floor(Fraction(str(rho)) * len(nonzero)))
    kept = np.zeros(len(row))
    for j in sorted(nonzero, key=lambda j: (-row[j], j))[:k]:
        kept[j] = row[j]
    total = float(kept.sum())
    return kept / (total + epsilon) if total > epsilon else np.zeros(len(row))


def jensen_shannon(p: np.ndarray, q: np.ndarray, epsilon: float = 0.0) -> float:
    """Half of KL(p, m) + KL(q, m) with m = (p + q) / 2, natural logarithm, 0 ln 0 = 0; epsilon as in the released code:
    m = (p + q) / 2 + epsilon, and added to p and q inside their logarithms."""
    value = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        m = (a + b) / 2 + epsilon
        for x in (a, b):
            if x > 1e-300:  # half of the smallest float is 0
                value += x * (math.log(x + epsilon) - math.log(m)) / 2
    return value


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.array([math.exp(x) for x in log_softmax(scores.tolist())])


def gaze(
    segments: np.ndarray,
    patches: np.ndarray,
    scale: float,
    maps: np.ndarray,
    image: np.ndarray,
    reading: np.ndarray,
    rho: float = 0.25,
    transcript_to_patch: float = 0.8,
    groups: str = "reading",
    transposed: str = "same_map",
    epsilon: float = 0.0,
) -> tuple[float, int]:
    """(sum of Eq. 8 over the groups that have a map, how many these are).

    segments (S,D), patches (G,P,D) of the distinct images ascending, scale = 1 / tau_2, maps (S,P), image and reading
    (S,). A group is a reading of an image, or an image. Both directions are means over targets that are not zero.
    transposed: each patch's column of the top-rho maps over its sum (`same_map`), or the top-rho of each patch's column
    of the full maps over the group's segments (`remasked`, the released code).
    """
    names = [(int(i), int(r) if groups == "reading" else 0) for i, r in zip(image, reading, strict=True)]
    order = sorted(set(image.tolist()))
    loss, counted = 0.0, 0
    for name in sorted(set(names)):
        rows = [s for s in range(len(names)) if names[s] == name]
        scores = scale * segments[rows] @ patches[order.index(name[0])].T  # Eq. 7, (n,P)
        target = np.stack([top_map(maps[s], rho, epsilon) for s in rows])  # (n,P)
        if transposed == "remasked":
            turned = np.stack([top_map(column, rho, epsilon) for column in maps[rows].T])  # (P,n)
        else:
            turned = np.stack([c / (c.sum() + epsilon) if c.sum() > epsilon else 0 * c for c in target.T])
        forward = [jensen_shannon(t, softmax(s), epsilon) for t, s in zip(target, scores, strict=True) if t.any()]
        back = [jensen_shannon(t, softmax(s), epsilon) for t, s in zip(turned, scores.T, strict=True) if t.any()]
        if forward:
            counted += 1
            loss += transcript_to_patch * math.fsum(forward) / len(forward)
            loss += (1 - transcript_to_patch) * math.fsum(back) / max(len(back), 1)
    return loss, counted
