"""Class-balanced focal loss against Cui et al. and Lin et al. in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogaze.losses.disease import class_weights, focal_sum


def by_the_paper(logits: np.ndarray, labels: np.ndarray, known: np.ndarray, weights: np.ndarray, gamma: float) -> float:
    loss = 0.0
    for b in range(logits.shape[0]):
        for c in range(logits.shape[1]):
            if known[b, c]:
                sign = 1 if labels[b, c] == 1 else -1
                p_t = 1 / (1 + math.exp(-sign * logits[b, c]))
                q_t = 1 / (1 + math.exp(sign * logits[b, c]))  # 1 - p_t without its rounding
                loss -= weights[c] * q_t**gamma * math.log(p_t)
    return loss


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 5),
    gamma=st.sampled_from([0.0, 0.5, 2.0, 5.0]),
    known=st.sampled_from([0.0, 0.5, 1.0]),
    size=st.sampled_from([1.0, 10.0]),
)
def test_focal_equals_the_paper(seed: int, rows: int, gamma: float, known: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(rows, 14)) * size, (rng.random((rows, 14)) < 0.3).astype(float)
    mask, weights = rng.random((rows, 14)) < known, rng.random(14)
    t = torch.from_numpy
    got = focal_sum(t(logits), t(labels), t(mask), t(weights), gamma).item()
    assert got == pytest.approx(by_the_paper(logits, labels, mask, weights, gamma), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_extreme_logits_are_finite_and_right(gamma: float) -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]], dtype=torch.float32, requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, 0.0, 1.0]])  # two right with certainty, two wrong with certainty
    loss = focal_sum(logits, labels, torch.ones(1, 4, dtype=torch.bool), torch.ones(4), gamma)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)  # -log p = |logit|, (1-p)^gamma = 1
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0, 1.0, -1.0]]


def test_focal_gradient() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels, known = torch.eye(3, 4), torch.tensor([[True, True, False, True]]).expand(3, 4)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: focal_sum(x, labels, known, weights, 2.0), [logits])


def test_unknown_labels_do_not_matter() -> None:
    logits, known = torch.randn(2, 14), torch.zeros(2, 14, dtype=torch.bool)
    assert focal_sum(logits, torch.ones(2, 14), known, torch.ones(14), 2.0).item() == 0


def test_class_weights_hand_worked() -> None:
    """beta 0.5: effective numbers of 1, 2, 3 samples are 1, 1.5, 1.75."""
    weights = class_weights(torch.tensor([1, 2, 3, 0]), 0.5, scale=False)
    assert weights.tolist() == pytest.approx([1, 1 / 1.5, 1 / 1.75, 0])
    scaled = class_weights(torch.tensor([1, 2, 3, 0]), 0.5, scale=True)
    assert scaled.sum().item() == pytest.approx(4)
    assert (scaled[0] / scaled[1]).item() == pytest.approx(1.5)


@given(
    counts=st.lists(st.integers(0, 300_000), min_size=14, max_size=14), beta=st.sampled_from([0.0, 0.9, 0.999, 0.9999])
)
def test_class_weights_properties(counts: list[int], beta: float) -> None:
    weights = class_weights(torch.tensor(counts), beta, scale=True).tolist()
    assert sum(weights) == pytest.approx(14 if any(counts) else 0)
    for n, w in zip(counts, weights, strict=True):
        assert (w == 0) == (n == 0)  # a class without positives does not swallow all weight
    present = sorted((n, w) for n, w in zip(counts, weights, strict=True) if n)
    assert all(a[1] >= b[1] - 1e-12 for a, b in pairwise(present))  # rarer weighs more


def test_class_weights_match_the_printed_formula() -> None:
    counts, beta = [10, 1000, 100_000], 0.9999
    expected = [(1 - beta) / (1 - beta**n) for n in counts]
    assert class_weights(torch.tensor(counts), beta, scale=False).tolist() == pytest.approx(expected, rel=1e-9)
