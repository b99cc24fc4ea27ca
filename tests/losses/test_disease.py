"""Class weights against Eq. 5 and Cui et al., focal terms against Lin et al., up to logits of +-1e4."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cogaze.losses.disease import class_weights, focal_sum

from . import formulas

LOGITS = ("small", "large", "ties", "+-80", "+-1e4")
GAMMAS = (0.0, 0.5, 2.0, 5.0)


def draw_logits(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    if kind in ("small", "large"):
        return rng.normal(size=shape) * {"small": 1.0, "large": 10.0}[kind]
    return rng.choice({"ties": [0.0, 0.5], "+-80": [80.0, -80.0], "+-1e4": [1e4, -1e4]}[kind], shape)


# ------------------------------------------------------------------------------------------------ focal, Eq. 6
@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 4),
    gamma=st.sampled_from(GAMMAS),
    known=st.sampled_from([0.0, 0.5, 1.0]),
    positives=st.sampled_from([0.0, 0.3, 1.0]),
    kind=st.sampled_from(LOGITS),
)
@example(0, 4, 2.0, 1.0, 0.3, "+-1e4")
@example(0, 4, 0.5, 1.0, 0.3, "+-80")
@example(0, 3, 2.0, 0.0, 0.3, "small")
def test_focal_equals_the_paper(seed: int, rows: int, gamma: float, known: float, positives: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    logits = draw_logits(rng, kind, (rows, 14)).astype(np.float32)
    labels, mask = rng.random((rows, 14)) < positives, rng.random((rows, 14)) < known
    weights = rng.random(14).astype(np.float32) * (rng.random(14) < 0.8)  # some classes without positives
    expected = formulas.focal(logits, labels, mask, weights, gamma)
    for dtype, rel in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        x = torch.tensor(logits, dtype=dtype, requires_grad=True)
        t: Any = torch.from_numpy
        got = focal_sum(x, t(labels).to(dtype), t(mask), t(weights).to(torch.float64), gamma)
        got.backward()
        assert got.dtype == dtype
        assert got.item() == pytest.approx(expected, rel=rel, abs=1e-30)
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        assert (x.grad[~t(mask)] == 0).all()


def test_gamma_zero_is_weighted_cross_entropy() -> None:
    g = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(5, 14, dtype=torch.float64, generator=g) * 4, torch.rand(14, generator=g).double()
    labels, known = (torch.rand(5, 14, generator=g) < 0.4).double(), torch.rand(5, 14, generator=g) < 0.7
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, weight=weights, reduction="none")
    got = focal_sum(logits, labels, known, weights, 0.0)
    assert got.item() == pytest.approx(each[known].sum().item(), rel=1e-12)


def test_focal_by_hand() -> None:
    """At logit ln 3 the true label has 3/4: (1/4)^2 ln(4/3); the false one (3/4)^2 ln 4."""
    logits = torch.tensor([[math.log(3), math.log(3)]], dtype=torch.float64)
    got = focal_sum(logits, torch.tensor([[1.0, 0.0]]), torch.ones(1, 2).bool(), torch.tensor([8.0, 2.0]), 2.0)
    assert got.item() == pytest.approx(8 * math.log(4 / 3) / 16 + 2 * math.log(4) * 9 / 16)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_extreme_logits_are_finite_and_right(gamma: float) -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]], dtype=torch.float32, requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, 0.0, 1.0]])  # two right with certainty, two wrong with certainty
    loss = focal_sum(logits, labels, torch.ones(1, 4, dtype=torch.bool), torch.ones(4), gamma)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)  # -log p = |logit|, (1-p)^gamma = 1
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0, 1.0, -1.0]]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("known", ["some", "none", "all"])
@pytest.mark.parametrize("size", [0.0, 1.0, 20.0])
def test_focal_gradient(gamma: float, known: str, size: float) -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * size
    mask = torch.tensor([[known != "none", True, known == "all", True]]).expand(3, 4) & (known != "none")
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    inputs = [logits.requires_grad_()]
    assert torch.autograd.gradcheck(lambda x: focal_sum(x, torch.eye(3, 4), mask, weights, gamma), inputs)


def test_unknown_labels_do_not_matter() -> None:
    logits, known = torch.randn(2, 14), torch.zeros(2, 14, dtype=torch.bool)
    assert focal_sum(logits, torch.ones(2, 14), known, torch.ones(14), 2.0).item() == 0


# ------------------------------------------------------------------------------------------------ weights, Eq. 5
@settings(max_examples=150)
@given(
    counts=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 300_000)), min_size=1, max_size=14),
    beta=st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.9999, 0.999999]),
    scale=st.booleans(),
    epsilon=st.sampled_from([0.0, 1e-8, 1e-3]),
)
@example([0, 0, 0], 0.9999, True, 0.0)
@example([0, 5], 0.9999, True, 1e-8)
@example([1], 0.0, False, 0.0)
def test_class_weights_equal_the_formula(counts: list[int], beta: float, scale: bool, epsilon: float) -> None:
    expected = formulas.class_weights(counts, beta, scale, epsilon)
    weights = class_weights(torch.tensor(counts), beta, scale, epsilon)
    assert weights.dtype == torch.float64
    assert weights.tolist() == pytest.approx(expected, rel=1e-10, abs=0)


def test_class_weights_hand_worked() -> None:
    """beta 0.5: effective numbers of 1, 2, 3 samples are 1, 1.5, 1.75."""
    for weigh in (class_weights, lambda n, *more: torch.tensor(formulas.class_weights(n.tolist(), *more))):
        weights = weigh(torch.tensor([1, 2, 3, 0]), 0.5, False)
        assert weights.tolist() == pytest.approx([1, 1 / 1.5, 1 / 1.75, 0])
        scaled = weigh(torch.tensor([1, 2, 3, 0]), 0.5, True)
        assert scaled.sum().item() == pytest.approx(4)
        assert (scaled[0] / scaled[1]).item() == pytest.approx(1.5)


def test_released_epsilon_gives_all_weight_to_a_class_without_positives() -> None:
    """(1 - beta) / (0 + 1e-8) = 1e4 beside (1 - 0.9999) / 1 = 1e-4 of a frequent class, before and after scaling."""
    weights = class_weights(torch.tensor([0, 1_000_000]), 0.9999, False, 1e-8)
    assert weights.tolist() == pytest.approx([1e4, 1e-4], rel=1e-6)
    scaled = class_weights(torch.tensor([0, 1_000_000]), 0.9999, True, 1e-8)
    assert scaled.tolist() == pytest.approx([2, 2e-8], rel=1e-6)


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
