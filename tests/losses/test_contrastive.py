"""The contrastive loss against Eq. 2-4 written out in float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogaze.losses.contrastive import contrastive_sum


def by_the_paper(image: np.ndarray, text: np.ndarray, scale: float, key: np.ndarray, has: np.ndarray) -> float:
    """Sum over rows; an image without a report is neither row nor column."""
    image, text, key = image[has], text[has], key[has]
    loss = 0.0
    for i in range(len(key)):
        p = np.array([key[j] == key[i] for j in range(len(key))], dtype=float)
        p /= p.sum()
        for a, b in ((image, text), (text, image)):
            s = np.array([scale * (a[i] @ b[j]) for j in range(len(key))])
            log_q = s - s.max() - np.log(np.exp(s - s.max()).sum())
            loss -= 0.5 * (p * log_q).sum()
    return loss


def unit_rows(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    x = rng.normal(size=(rows, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 9),
    studies=st.sampled_from(["one", "distinct", "mixed"]),
    reports=st.sampled_from(["all", "some", "none"]),
    positives=st.sampled_from(["study", "self"]),
    scale=st.sampled_from([1.0, 1 / 0.07, 100.0]),
)
def test_equals_the_paper(seed: int, rows: int, studies: str, reports: str, positives: str, scale: float) -> None:
    rng = np.random.default_rng(seed)
    image, text = unit_rows(rng, rows, 5), unit_rows(rng, rows, 5)
    # ids that differ only in their last bits: equality must be tested on integers
    study = {"one": np.zeros(rows, int), "distinct": np.arange(rows), "mixed": rng.integers(0, 3, rows)}[
        studies
    ] + 2**62
    has = {"all": np.ones(rows, bool), "none": np.zeros(rows, bool), "some": rng.random(rows) < 0.6}[reports]
    got = contrastive_sum(
        torch.from_numpy(image),
        torch.from_numpy(text),
        torch.tensor([scale], dtype=torch.float64),
        torch.from_numpy(study),
        torch.from_numpy(has),
        positives,  # type: ignore[arg-type]
    )
    key = study if positives == "study" else np.arange(rows)
    assert got.item() == pytest.approx(by_the_paper(image, text, scale, key, has), rel=1e-12, abs=1e-12)


def test_hand_worked() -> None:
    """Two orthogonal pairs at scale ln 3: q = 3/4 for the own text, 1/4 for the other; loss a row = -ln(3/4)."""
    eye = torch.eye(2, dtype=torch.float64)
    scale = torch.tensor([np.log(3.0)])
    both = torch.tensor([True, True])
    loss = contrastive_sum(eye, eye, scale, torch.tensor([5, 6]), both)
    assert loss.item() == pytest.approx(2 * np.log(4 / 3))
    shared = contrastive_sum(eye, eye, scale, torch.tensor([5, 5]), both)  # both texts are positives, half each
    assert shared.item() == pytest.approx(-np.log(3 / 4) - np.log(1 / 4))


def test_gradient() -> None:
    g = torch.Generator().manual_seed(1)
    image, text = torch.randn(2, 5, 3, dtype=torch.float64, generator=g)
    scale = torch.tensor([2.0], dtype=torch.float64)
    study, has = torch.tensor([1, 1, 2, 3, 3]), torch.tensor([True, True, True, False, True])
    inputs = [x.requires_grad_() for x in (image, text, scale)]
    assert torch.autograd.gradcheck(lambda i, t, s: contrastive_sum(i, t, s, study, has), inputs)


def test_no_report_is_zero_with_a_gradient() -> None:
    image, text = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    scale = torch.ones(1, requires_grad=True)
    loss = contrastive_sum(image, text, scale, torch.arange(3), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    for x in (image, text, scale):
        assert x.grad is not None
        assert x.grad.abs().sum() == 0
