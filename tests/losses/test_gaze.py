"""The gaze loss against Eq. 7-8 written row by row and column by column in float64 numpy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogaze.losses.gaze import count_groups, gaze_sum, jensen_shannon, top_maps


def top_map(row: np.ndarray, rho: float) -> np.ndarray:
    """One map: of its n non-zero patches the max(1, floor(rho n)) strongest, earlier ones first, renormalised."""
    nonzero = [j for j in range(len(row)) if row[j] > 0]
    kept = np.zeros(len(row))
    if nonzero:
        k = max(1, math.floor(Fraction(str(rho)) * len(nonzero)))
        for j in sorted(nonzero, key=lambda j: (-row[j], j))[:k]:
            kept[j] = row[j]
        kept /= kept.sum()
    return kept


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def js(p: np.ndarray, q: np.ndarray) -> float:
    m = (p + q) / 2
    return 0.5 * sum(a * math.log(a / b) for a, b in zip(p, m, strict=True) if a > 0) + 0.5 * sum(
        a * math.log(a / b) for a, b in zip(q, m, strict=True) if a > 0
    )


def by_the_paper(
    segments: np.ndarray,
    patches: np.ndarray,
    scale: float,
    gaze: np.ndarray,
    image: np.ndarray,
    reading: np.ndarray,
    rho: float,
    lam: float,
) -> tuple[float, int]:
    """Sum over groups, and the number of groups that count."""
    order = sorted(set(image.tolist()))
    loss, groups = 0.0, 0
    for i, r in sorted(set(zip(image.tolist(), reading.tolist(), strict=True))):
        rows = [s for s in range(len(image)) if image[s] == i and reading[s] == r]
        similarity = scale * segments[rows] @ patches[order.index(i)].T  # (n,P)
        target = np.stack([top_map(gaze[s], rho) for s in rows])
        of_rows = [js(target[n], softmax(similarity[n])) for n in range(len(rows)) if target[n].sum() > 0]
        of_columns = [
            js(target[:, j] / target[:, j].sum(), softmax(similarity[:, j]))
            for j in range(target.shape[1])
            if target[:, j].sum() > 0
        ]
        if of_rows:
            groups += 1
            loss += lam * sum(of_rows) / len(of_rows) + (1 - lam) * sum(of_columns) / len(of_columns)
    return loss, groups


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


LAYOUTS: dict[str, list[tuple[int, int]]] = {
    "none": [],
    "one segment": [(3, 0)],
    "one group": [(0, 0)] * 4,
    "ragged": [(0, 0), (2, 0), (2, 0), (2, 0), (5, 0), (5, 0)],
    "several readings": [(1, 0), (1, 0), (1, 2), (1, 2), (1, 2), (4, 0), (4, 1)],
    "readings interleaved": [(1, 1), (1, 0), (1, 1), (1, 0), (2, 0)],
}


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    layout=st.sampled_from(sorted(LAYOUTS)),
    maps=st.sampled_from(["dense", "sparse", "ties", "some zero", "all zero", "one patch"]),
    rho=st.sampled_from([0.001, 0.1, 0.25, 0.29, 0.7, 1.0]),
    lam=st.sampled_from([0.0, 0.2, 0.8, 1.0]),
    scale=st.sampled_from([1.0, 1 / 0.07, 100.0]),
    grid=st.sampled_from([1, 5, 100]),
)
def test_equals_the_paper(seed: int, layout: str, maps: str, rho: float, lam: float, scale: float, grid: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.array([i for i, _ in LAYOUTS[layout]], dtype=np.int64)
    reading = np.array([r for _, r in LAYOUTS[layout]], dtype=np.int64)
    count, images = len(image), len(set(image.tolist()))
    gaze = rng.random((count, grid))
    if maps == "sparse":
        gaze[rng.random(gaze.shape) < 0.7] = 0
    elif maps == "ties":
        gaze = rng.integers(0, 3, gaze.shape) / 2
    elif maps == "some zero":
        gaze[rng.random(count) < 0.5] = 0
    elif maps == "all zero":
        gaze[:] = 0
    elif maps == "one patch":
        gaze = (np.arange(grid) == rng.integers(0, grid, (count, 1))).astype(float)
    gaze = gaze / np.maximum(gaze.sum(1, keepdims=True), 1e-300)
    segments, patches = unit(rng.normal(size=(count, 4))), unit(rng.normal(size=(images, grid, 4)))
    expected, groups = by_the_paper(segments, patches, scale, gaze, image, reading, rho, lam)
    t = torch.from_numpy
    got = gaze_sum(
        t(segments), t(patches), torch.tensor([scale], dtype=torch.float64), t(gaze), t(image), t(reading), rho, lam
    )
    assert got.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert count_groups(t(gaze), t(image), t(reading)).item() == groups


def test_hand_worked() -> None:
    """Two segments, two patches, orthogonal features: at scale ln 3 each softmax is (3/4, 1/4); a map is one patch."""
    eye = torch.eye(2, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.int64)
    loss = gaze_sum(eye, eye[None], torch.tensor([math.log(3.0)]), eye, zero, zero, 0.25, 0.8)
    # JS((1,0), (3/4,1/4)): m = (7/8, 1/8)
    one = 0.5 * math.log(8 / 7) + 0.5 * (0.75 * math.log(6 / 7) + 0.25 * math.log(2))
    assert loss.item() == pytest.approx(one)
    swapped = gaze_sum(eye, eye[None], torch.tensor([0.0]), eye.flip(1), zero, zero, 0.25, 0.8)
    # scale 0: every softmax is (1/2, 1/2)
    half = 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert swapped.item() == pytest.approx(half)


def test_lambda_weighs_transcript_to_patch() -> None:
    """One segment alone: its column softmax is 1 everywhere, so only the row direction, weighted lambda, is left."""
    g = torch.Generator().manual_seed(0)
    segment, patches = torch.randn(1, 3, generator=g).double(), torch.randn(1, 6, 3, generator=g).double()
    zero = torch.zeros(1, dtype=torch.int64)
    gaze = torch.tensor([[0.0, 0.5, 0.5, 0.0, 0.0, 0.0]], dtype=torch.float64)
    values = [
        gaze_sum(segment, patches, torch.ones(1).double(), gaze, zero, zero, 1.0, lam).item() for lam in (0, 0.8, 1)
    ]
    assert values[0] == pytest.approx(0, abs=1e-15)
    assert values[1] == pytest.approx(0.8 * values[2])
    assert values[2] > 0.01


def test_top_maps_break_ties_by_place() -> None:
    gaze = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2, 0.0], [0.0, 0.1, 0.3, 0.3, 0.3, 0.0]])
    # 5 and 4 non-zero patches: k = 2 and 2 at rho 0.5
    assert top_maps(gaze, 0.5).tolist() == [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0]]


def test_jensen_shannon_bounds_and_extremes() -> None:
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    scores = torch.tensor([[-5e3, 5e3], [5e3, -5e3], [0.0, 0.0]], requires_grad=True)
    value = jensen_shannon(p, torch.log_softmax(scores, 1), dim=1)
    assert value.tolist() == pytest.approx([math.log(2), 0, 0], abs=1e-6)
    value.sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_gradient() -> None:
    g = torch.Generator().manual_seed(3)
    image, reading = torch.tensor([0, 0, 0, 4, 4]), torch.tensor([0, 0, 1, 0, 0])
    gaze = torch.rand(5, 6, dtype=torch.float64, generator=g)
    gaze[:, ::2] = 0
    gaze[1] = 0
    inputs = [
        torch.randn(*shape, dtype=torch.float64, generator=g).requires_grad_() for shape in ((5, 3), (2, 6, 3), (1,))
    ]
    assert torch.autograd.gradcheck(lambda s, x, t: gaze_sum(s, x, t, gaze, image, reading, 0.7, 0.8), inputs)


def test_no_gaze_is_zero_with_a_gradient() -> None:
    none = torch.empty(0, dtype=torch.int64)
    segments = torch.empty(0, 4, requires_grad=True)
    patches, scale = torch.empty(0, 9, 4, requires_grad=True), torch.ones(1, requires_grad=True)
    loss = gaze_sum(segments, patches, scale, torch.empty(0, 9), none, none, 0.25, 0.8)
    loss.backward()
    assert loss.item() == 0
    assert all(x.grad is not None and x.grad.abs().sum() == 0 for x in (segments, patches, scale))
