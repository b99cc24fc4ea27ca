"""The gaze loss against Eq. 7-8 and its released variants, and what holds for each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cogaze.config import GazeConfig
from cogaze.losses.gaze import count_groups, gaze_sum, jensen_shannon, top_maps

from . import formulas

# (image, reading) of every segment
LAYOUTS: dict[str, list[tuple[int, int]]] = {
    "none": [],
    "one segment": [(3, 0)],
    "one group": [(0, 0)] * 4,
    "ragged": [(0, 0), (2, 0), (2, 0), (2, 0), (5, 0), (5, 0)],
    "several readings": [(1, 0), (1, 0), (1, 2), (1, 2), (1, 2), (4, 0), (4, 1)],
    "readings interleaved": [(1, 1), (1, 0), (1, 1), (1, 0), (2, 0)],
    "long": [(0, i // 5) for i in range(13)] + [(1, 0)],  # k > 1 in a column of remasked maps
}
MAPS = ("dense", "sparse", "ties", "some zero", "all zero", "one patch", "same patch", "grey levels")
VARIANTS = [
    {"groups": groups, "transposed": transposed, "epsilon": epsilon}
    for groups in ("reading", "image")
    for transposed in ("same_map", "remasked")
    for epsilon in (0.0, 1e-8)
]
HALF = 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))  # JS((1,0), (1/2,1/2))
RELEASED = {"transcript_to_patch": 0.2, "groups": "image", "transposed": "remasked", "epsilon": 1e-8}


@dataclass
class Case:
    segments: np.ndarray  # (S,4)
    patches: np.ndarray  # (G,P,4)
    maps: np.ndarray  # (S,P) float32
    image: np.ndarray  # (S,)
    reading: np.ndarray  # (S,)

    def tensors(self, dtype: torch.dtype, scale: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What carries a gradient, and what does not."""
        features = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in (self.segments, self.patches, [scale])]
        return features, [torch.from_numpy(x) for x in (self.maps, self.image, self.reading)]


def draw(seed: int, layout: str, maps: str, grid: int) -> Case:
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
    elif maps == "same patch":
        gaze = np.tile((np.arange(grid) == grid // 2).astype(float), (count, 1))
    if maps == "grey levels":  # of a rendered map, which is not a distribution
        gaze = rng.integers(0, 256, gaze.shape) * (rng.random(gaze.shape) < 0.6)
    else:
        gaze = gaze / np.maximum(gaze.sum(1, keepdims=True), 1e-300)
    segments, patches = unit(rng.normal(size=(count, 4))), unit(rng.normal(size=(images, grid, 4)))
    return Case(segments, patches, gaze.astype(np.float32), image, reading)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1 that fp32 holds exactly, so that both precisions are given the same numbers."""
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32).astype(np.float64)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    layout=st.sampled_from(sorted(LAYOUTS)),
    maps=st.sampled_from(MAPS),
    rho=st.sampled_from([0.001, 0.1, 0.25, 0.29, 0.7, 1.0]),
    weight=st.sampled_from([0.0, 0.2, 0.8, 1.0]),
    scale=st.sampled_from([0.0, 1.0, 80.0, 100.0, 1e4]),
    grid=st.sampled_from([1, 5, 49]),
    variant=st.sampled_from(VARIANTS),
)
@example(0, "several readings", "dense", 0.001, 0.8, 1.0, 49, VARIANTS[0])  # k = 1
@example(0, "several readings", "some zero", 1.0, 0.8, 14.0, 49, VARIANTS[0])
@example(0, "long", "dense", 0.25, 0.2, 14.0, 5, RELEASED)
@example(0, "long", "ties", 0.25, 0.2, 14.0, 5, RELEASED)
@example(0, "ragged", "all zero", 0.25, 0.2, 14.0, 5, RELEASED)
@example(0, "one segment", "dense", 0.25, 0.8, 1e4, 5, VARIANTS[0])
def test_equals_the_paper(
    seed: int, layout: str, maps: str, rho: float, weight: float, scale: float, grid: int, variant: dict[str, Any]
) -> None:
    case = draw(seed, layout, maps, grid)
    config = GazeConfig(**({"rho": rho, "transcript_to_patch": weight} | variant))
    settings = config.model_dump(exclude={"weight"})
    expected, groups = formulas.gaze(
        case.segments, case.patches, scale, case.maps.astype(float), case.image, case.reading, **settings
    )
    # scores of size s carry a rounding error of s x 1e-16 (1e-7) into a loss that may itself be 0
    for dtype, rel, absolute in ((torch.float64, 1e-10, 1e-13), (torch.float32, 1e-5, 2e-7)):
        features, rest = case.tensors(dtype, scale)
        got = gaze_sum(*features, *rest, config)
        got.backward()
        assert got.dtype == dtype
        assert got.item() == pytest.approx(expected, rel=rel, abs=absolute * (1 + scale) * max(groups, 1))
        assert all(x.grad is not None and torch.isfinite(x.grad).all() for x in features)
        assert count_groups(*rest, config.groups).item() == groups


# ------------------------------------------------------------------------------------------------ by hand
def test_hand_worked() -> None:
    """Two segments, two patches, orthogonal features: at scale ln 3 each softmax is (3/4, 1/4); a map is one patch."""
    eye = torch.eye(2, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.int64)
    # JS((1,0), (3/4,1/4)): m = (7/8, 1/8)
    one = 0.5 * math.log(8 / 7) + 0.5 * (0.75 * math.log(6 / 7) + 0.25 * math.log(2))
    # scale 0: every softmax is (1/2, 1/2)
    for variant in VARIANTS:
        config = GazeConfig(**variant)
        loss = gaze_sum(eye, eye[None], torch.tensor([math.log(3.0)]), eye, zero, zero, config)
        assert loss.item() == pytest.approx(one)
        swapped = gaze_sum(eye, eye[None], torch.tensor([0.0]), eye.flip(1), zero, zero, config)
        assert swapped.item() == pytest.approx(HALF)
    assert formulas.jensen_shannon(np.array([1.0, 0]), np.array([0.75, 0.25])) == pytest.approx(one)
    assert formulas.jensen_shannon(np.array([1.0, 0]), np.array([0.5, 0.5])) == pytest.approx(HALF)


def test_lambda_weighs_transcript_to_patch() -> None:
    """One segment alone: its column softmax is 1 everywhere, so only the row direction, weighted lambda, is left."""
    g = torch.Generator().manual_seed(0)
    segment, patches = torch.randn(1, 3, generator=g).double(), torch.randn(1, 6, 3, generator=g).double()
    zero = torch.zeros(1, dtype=torch.int64)
    gaze = torch.tensor([[0.0, 0.5, 0.5, 0.0, 0.0, 0.0]], dtype=torch.float64)
    values = [
        gaze_sum(segment, patches, torch.ones(1).double(), gaze, zero, zero, GazeConfig(rho=1, transcript_to_patch=w))
        for w in (0.0, 0.8, 1.0)
    ]
    assert values[0].item() == pytest.approx(0, abs=1e-15)
    assert values[1].item() == pytest.approx(0.8 * values[2].item())
    assert values[2].item() > 0.01


def loss_of_columns(maps: list[list[float]], readings: list[int], **variant: Any) -> tuple[float, int]:
    """Of segments of one image at scale 0: every patch is spoken of by all segments alike."""
    gaze = torch.tensor(maps, dtype=torch.float64)
    segments, patches = torch.zeros(len(maps), 1).double(), torch.zeros(1, gaze.shape[1], 1).double()
    image, reading = torch.zeros(len(maps), dtype=torch.int64), torch.tensor(readings)
    config = GazeConfig(transcript_to_patch=0, **variant)
    loss = gaze_sum(segments, patches, torch.zeros(1).double(), gaze, image, reading, config)
    return loss.item(), int(count_groups(gaze, image, reading, config.groups))


def test_transposed_maps_by_hand() -> None:
    """Both segments keep patch 0 alone at rho 1/2, so its column is (1/2, 1/2) and patch 1 has none: no loss. Masked
    anew, each column keeps its stronger segment: patch 0 the second, patch 1 the first. At rho 1 there is no mask."""
    maps = [[0.6, 0.4], [0.7, 0.3]]
    assert loss_of_columns(maps, [0, 0], rho=0.5)[0] == pytest.approx(0, abs=1e-15)
    assert loss_of_columns(maps, [0, 0], rho=0.5, transposed="remasked")[0] == pytest.approx(HALF)
    columns = ([6 / 13, 7 / 13], [4 / 7, 3 / 7])
    mean = sum(formulas.jensen_shannon(np.array(c), np.array([0.5, 0.5])) for c in columns) / 2
    for transposed in ("same_map", "remasked"):
        assert loss_of_columns(maps, [0, 0], rho=1, transposed=transposed)[0] == pytest.approx(mean)


def test_groups_by_hand() -> None:
    """Two readings of one image, a segment each. By reading a segment has no rival; by image there are two."""
    eye = [[1.0, 0.0], [0.0, 1.0]]
    assert loss_of_columns(eye, [0, 1]) == (pytest.approx(0, abs=1e-15), 2)
    assert loss_of_columns(eye, [0, 1], groups="image") == (pytest.approx(HALF), 1)
    assert loss_of_columns([*eye, [0.0, 0.0]], [0, 0, 1]) == (pytest.approx(HALF), 1)  # a reading without a map


def test_epsilon_by_hand() -> None:
    """Half is a large epsilon. A map keeps what is above it, over its sum plus epsilon; m and the logarithms grow."""
    kept = top_maps(torch.tensor([[0.5, 0.6, 0.9, 0.0], [0.5, 0.5, 0.5, 0.5]]).double(), 1.0, 0.5)
    assert kept[0].tolist() == pytest.approx([0, 0.6 / 2, 0.9 / 2, 0])
    p, q = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.5, 0.5]).double()
    # m = (5/4, 3/4)
    wanted = (math.log(1.5 / 1.25) + 0.5 * math.log(1 / 1.25) + 0.5 * math.log(1 / 0.75)) / 2
    assert jensen_shannon(p, q.log(), 0, 0.5).item() == pytest.approx(wanted)
    assert formulas.jensen_shannon(p.numpy(), q.numpy(), 0.5) == pytest.approx(wanted)


# ------------------------------------------------------------------------------------------------ its parts
@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    grid=st.sampled_from([1, 5, 100]),
    maps=st.sampled_from(MAPS),
    rho=st.sampled_from([0.001, 0.07, 0.25, 0.29, 0.57, 1.0]),
    epsilon=st.sampled_from([0.0, 1e-8, 1e-2]),
)
def test_top_maps_equal_the_formula(seed: int, grid: int, maps: str, rho: float, epsilon: float) -> None:
    gaze = draw(seed, "one group", maps, grid).maps.astype(float)
    got = top_maps(torch.from_numpy(gaze), rho, epsilon)
    for row, of_row in zip(gaze, got.tolist(), strict=True):
        assert of_row == pytest.approx(formulas.top_map(row, rho, epsilon).tolist(), rel=1e-12, abs=0)


def test_top_maps_break_ties_by_place() -> None:
    gaze = torch.tensor([[0.2, 0.2, 0.2, 0.2, 0.2, 0.0], [0.0, 0.1, 0.3, 0.3, 0.3, 0.0]])
    # 5 and 4 non-zero patches: k = 2 and 2 at rho 0.5
    wanted = [[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0]]
    assert top_maps(gaze, 0.5).tolist() == wanted
    assert [formulas.top_map(row, 0.5).tolist() for row in gaze.numpy()] == wanted


def test_jensen_shannon_bounds_and_extremes() -> None:
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    for epsilon in (0.0, 1e-8):
        scores = torch.tensor([[-5e3, 5e3], [5e3, -5e3], [0.0, 0.0]], requires_grad=True)
        value = jensen_shannon(p, torch.log_softmax(scores, 1), 1, epsilon)
        assert value.tolist() == pytest.approx([math.log(2), 0, 0], abs=1e-6)
        value.sum().backward()
        assert scores.grad is not None
        assert torch.isfinite(scores.grad).all()


# ------------------------------------------------------------------------------------------------ gradients
@pytest.mark.parametrize("variant", [*VARIANTS, RELEASED], ids=lambda v: "-".join(str(x) for x in v.values()))
@pytest.mark.parametrize(
    ("layout", "maps", "rho"),
    [
        ("several readings", "sparse", 0.7),
        ("readings interleaved", "some zero", 0.001),
        ("one segment", "dense", 1.0),
        ("ragged", "ties", 0.25),
        ("one group", "all zero", 0.25),
    ],
)
def test_gradient(layout: str, maps: str, rho: float, variant: dict[str, Any]) -> None:
    case = draw(3, layout, maps, 5)
    features, rest = case.tensors(torch.float64, 2.0)
    config = GazeConfig(**({"rho": rho} | variant))
    assert torch.autograd.gradcheck(lambda s, x, t: gaze_sum(s, x, t, *rest, config), features)


@pytest.mark.parametrize("config", [GazeConfig(), GazeConfig(**RELEASED)], ids=["default", "released"])
def test_no_gaze_is_zero_with_a_gradient(config: GazeConfig) -> None:
    none = torch.empty(0, dtype=torch.int64)
    segments = torch.empty(0, 4, requires_grad=True)
    patches, scale = torch.empty(0, 9, 4, requires_grad=True), torch.ones(1, requires_grad=True)
    loss = gaze_sum(segments, patches, scale, torch.empty(0, 9), none, none, config)
    loss.backward()
    assert loss.item() == 0
    assert count_groups(torch.empty(0, 9), none, none, config.groups).item() == 0
    assert all(x.grad is not None and x.grad.abs().sum() == 0 for x in (segments, patches, scale))
