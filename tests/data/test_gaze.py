from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cogaze.data.gaze import Crop, fixations_inside, patch_map, patch_maps, segment_weights

FLOOR = 1 / 255


def fix(x: float, y: float, sigma_x: float = 0.0, sigma_y: float = 0.0, start: float = 0.0, end: float = 1.0):
    return np.array([[x, y, start, end, sigma_x, sigma_y]], np.float32)


def random_fixations(seed: int, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    fixations = np.stack(
        [
            rng.uniform(0.1, 0.9, count),
            rng.uniform(0.1, 0.9, count),
            np.zeros(count),
            np.ones(count),
            rng.uniform(0.05, 0.15, count),
            rng.uniform(0.05, 0.15, count),
        ],
        axis=1,
    )
    return fixations.astype(np.float32), rng.uniform(0.1, 2.0, count)


CROPS = [Crop(), Crop(0.125, 0.2, 0.875, 0.9), Crop(0.3, 0.0, 0.7, 1.0, flip=True), Crop(0.0, 0.1, 1.0, 0.6, True)]


def finished(mass: np.ndarray) -> np.ndarray:
    """Raw mass (grid,grid) as a map: low patches cut, the rest summing to 1."""
    kept = np.where(mass >= FLOOR * mass.max(), mass, 0.0)
    return (kept / kept.sum()).ravel()


# ------------------------------------------------------------------------------------------------ against brute force
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_map_is_the_integral_of_the_gaussians(crop, seed):
    """The density, added up on a fine lattice of points of the stored image."""
    fixations, weights = random_fixations(seed)
    grid, fine = 5, 200  # points along a patch
    along = (np.arange(grid * fine) + 0.5) / (grid * fine)
    x = crop.x0 + (1 - along if crop.flip else along) * (crop.x1 - crop.x0)
    y = crop.y0 + along * (crop.y1 - crop.y0)
    density = np.zeros((grid * fine, grid * fine))
    for (cx, cy, _, _, sx, sy), weight in zip(fixations.astype(float), weights, strict=True):
        gx = np.exp(-0.5 * ((x - cx) / sx) ** 2) / sx
        gy = np.exp(-0.5 * ((y - cy) / sy) ** 2) / sy
        density += weight * gy[:, None] * gx
    mass = density.reshape(grid, fine, grid, fine).sum(axis=(1, 3))
    np.testing.assert_allclose(patch_map(fixations, weights, crop, grid), finished(mass), atol=2e-6)


@pytest.mark.parametrize("crop", CROPS)
def test_the_map_is_what_sampling_the_gaussians_gives(crop):
    fixations, weights = random_fixations(3)
    rng = np.random.default_rng(0)
    which = rng.choice(len(weights), 500_000, p=weights / weights.sum())
    x, y = (fixations[which, axis] + fixations[which, axis + 4] * rng.standard_normal(len(which)) for axis in (0, 1))
    u, v = (x - crop.x0) / (crop.x1 - crop.x0), (y - crop.y0) / (crop.y1 - crop.y0)
    drawn = np.histogram2d(v, 1 - u if crop.flip else u, bins=4, range=[[0, 1], [0, 1]])[0]
    np.testing.assert_allclose(patch_map(fixations, weights, crop, 4), finished(drawn), atol=3e-3)


# ------------------------------------------------------------------------------------------------ by hand
def test_one_standard_deviation_around_the_middle():
    """Columns [0,.5) and [.5,1) with the mean one sigma from the middle: 84.13 % against 15.73 % (to 3 sigma)."""
    phi = {-3: 0.0013498980, -1: 0.1586552539, 1: 0.8413447461}  # a printed table
    left, right = phi[1] - phi[-3], 0.9986501020 + 0.0013498980 - phi[1]
    got = patch_map(fix(0.375, 0.25, 0.125, 0.0), np.ones(1), Crop(), 2)
    np.testing.assert_allclose(got, [left / (left + right), right / (left + right), 0, 0], atol=1e-6)


def test_points_fall_into_their_patch_and_edges_share():
    one = np.ones(1)
    assert patch_map(fix(0.6, 0.1), one, Crop(), 4).tolist() == [0, 0, 1, 0] + [0] * 12
    assert patch_map(fix(0.5, 0.25), one, Crop(), 2).tolist() == [0.5, 0.5, 0, 0]
    assert patch_map(fix(0.5, 0.5), one, Crop(), 2).tolist() == [0.25] * 4
    assert patch_map(fix(0.6, 0.1), one, Crop(flip=True), 4).tolist() == [0, 1, 0, 0] + [0] * 12
    # x .6 is .8 of the crop [.2, .7], y .55 is .375 of [.4, .8]
    assert patch_map(fix(0.6, 0.55), one, Crop(0.2, 0.4, 0.7, 0.8), 4).tolist() == [0] * 7 + [1] + [0] * 8


def test_seconds_are_weights():
    fixations = np.concatenate([fix(0.25, 0.25), fix(0.75, 0.75)])
    assert patch_map(fixations, np.array([1.0, 3.0]), Crop(), 2).tolist() == [0.25, 0, 0, 0.75]
    assert patch_map(fixations, np.array([0.0, 3.0]), Crop(), 2).tolist() == [0, 0, 0, 1]
    assert patch_map(fixations, np.array([0.0, 0.0]), Crop(), 2).tolist() == [0, 0, 0, 0]


def test_patches_under_a_255th_of_the_peak_are_empty():
    fixations = np.concatenate([fix(0.25, 0.25), fix(0.75, 0.75)])
    assert patch_map(fixations, np.array([1.0, 1 / 256]), Crop(), 2).tolist() == [1, 0, 0, 0]
    kept = patch_map(fixations, np.array([1.0, 1 / 254]), Crop(), 2)
    np.testing.assert_allclose(kept, [254 / 255, 0, 0, 1 / 255], rtol=1e-6)


def test_under_five_percent_inside_the_crop_is_no_map():
    inside, outside = fix(0.25, 0.25), fix(0.75, 0.25)
    fixations, crop = np.concatenate([inside, outside]), Crop(0, 0, 0.5, 1)
    assert patch_map(fixations, np.array([0.049, 0.951]), crop, 2).tolist() == [0, 0, 0, 0]
    assert patch_map(fixations, np.array([0.051, 0.949]), crop, 2).tolist() == [0.5, 0.5, 0, 0]
    # what lies outside the stored image counts as outside too: 4.01 % of a Gaussian lies beyond 1.75 sigma
    assert not patch_map(fix(-0.175, 0.5, 0.1, 0.0), np.ones(1), Crop(), 2).any()
    assert patch_map(fix(-0.15, 0.5, 0.1, 0.0), np.ones(1), Crop(), 2).any()  # 6.7 % beyond 1.5 sigma


def test_rows_that_are_not_numbers_do_not_count():
    fixations = np.concatenate([fix(np.nan, 0.25), fix(0.75, 0.75), fix(0.1, 0.1, np.inf, 0.1)])
    assert patch_map(fixations, np.array([5.0, 1.0, 5.0]), Crop(), 2).tolist() == [0, 0, 0, 1]
    assert patch_map(fixations, np.array([np.nan, 1.0, 0.0]), Crop(), 2).tolist() == [0, 0, 0, 1]
    assert patch_map(np.zeros((0, 6), np.float32), np.zeros(0), Crop(), 2).tolist() == [0, 0, 0, 0]


def test_a_narrow_crop_widens_the_spread():
    fixations, weights = random_fixations(5)
    crop = Crop(0.2, 0.3, 0.6, 0.9)
    moved = fixations.astype(np.float64)
    moved[:, 0], moved[:, 4] = (moved[:, 0] - 0.2) / 0.4, moved[:, 4] / 0.4
    moved[:, 1], moved[:, 5] = (moved[:, 1] - 0.3) / 0.6, moved[:, 5] / 0.6
    np.testing.assert_allclose(patch_map(fixations, weights, crop, 6), patch_map(moved, weights, Crop(), 6), atol=1e-7)


# ------------------------------------------------------------------------------------------------ properties
coordinates = st.floats(-0.5, 1.5, width=32)
many = hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.just(6)), elements=coordinates)


@settings(max_examples=60)
@given(many, st.integers(1, 9), st.floats(0.01, 100), st.booleans())
def test_a_map_sums_to_one_or_is_empty_and_flips_with_the_image(fixations, grid, factor, flip):
    weights = np.abs(fixations[:, 2].astype(np.float64))
    crop = Crop(0.1, 0.0, 0.9, 0.8, flip)
    row = patch_map(fixations, weights, crop, grid)
    assert row.dtype == np.float32
    assert row.shape == (grid * grid,)
    assert (row >= 0).all()
    assert row.sum() == pytest.approx(1, abs=1e-5) or not row.any()
    mirrored = patch_map(fixations, weights * factor, Crop(0.1, 0.0, 0.9, 0.8, not flip), grid)
    difference = np.abs(mirrored.reshape(grid, grid)[:, ::-1].ravel() - row)
    assert difference.max() <= 1.01 * FLOOR  # a patch at the floor itself may fall either way
    assert mirrored.any() == row.any()


def test_several_segments_are_their_maps_one_by_one():
    fixations, weights = random_fixations(2, 12)
    rows = np.stack([weights, np.where(np.arange(12) < 5, weights, 0), np.zeros(12)])
    together = patch_maps(fixations, rows, CROPS[1], 7)
    np.testing.assert_allclose(together, [patch_map(fixations, row, CROPS[1], 7) for row in rows], atol=1e-7)
    assert not together[2].any()


# ------------------------------------------------------------------------------------------------ time
def test_seconds_inside_a_sentence():
    times = [(0.0, 1.0), (0.5, 2.5), (2.0, 3.0), (3.0, 4.0), (-2.0, 9.0), (1.5, 1.5), (2.5, np.nan)]
    fixations = np.array([[0.5, 0.5, start, end, 0.1, 0.1] for start, end in times], np.float32)
    assert segment_weights(fixations, 1.0, 3.0).tolist() == [0, 1.5, 1, 0, 2, 0, 0]
    assert segment_weights(fixations, 1.0, 3.0, lead=0.75).tolist() == [0.75, 2, 1, 0, 2.75, 0, 0]
    assert segment_weights(fixations, -np.inf, np.inf).tolist() == [1, 2, 1, 1, 11, 0, 0]


def test_fixations_for_evaluation_are_those_seen_in_the_crop():
    fixations = np.concatenate([fix(0.5, 0.5), fix(0.2, 0.5), fix(0.9, 0.5), fix(0.7, 0.25), fix(0.5, np.nan)])
    weights = np.array([2.0, 1.0, 1.0, 0.0, 1.0])
    got = fixations_inside(fixations, weights, Crop(0.25, 0.0, 0.75, 1.0, flip=True))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[0.5, 0.5, 2.0]])
    got = fixations_inside(fixations, weights, Crop(0.1, 0.0, 0.6, 0.6, flip=True))
    np.testing.assert_allclose(got, [[0.2, 0.5 / 0.6, 2.0], [0.8, 0.5 / 0.6, 1.0]], rtol=1e-6)
