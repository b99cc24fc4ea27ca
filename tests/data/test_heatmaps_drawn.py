"""Heatmaps drawn from fixations: Gaussians at their pixels, and the exact maps in grey levels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cogaze.data.gaze import Crop, patch_maps
from cogaze.data.heatmaps import (
    draw_heatmaps,
    heatmap_patches,
    rendered_maps,
)
from tests.data.fakes import encode_image
from tests.data.test_gaze import CROPS, fix, random_fixations


def saved(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def test_points_drawn_by_hand():
    """40 px in 10 x 10 patches of 16 pixels: a pixel of grey level v is a patch of v / 16."""
    both = np.concatenate([fix(5.5 / 40, 9.5 / 40), fix(30.5 / 40, 21.5 / 40)])
    weights = np.array([[3.0, 1.0], [1.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
    pictures = draw_heatmaps(both, weights, Crop(), 40)
    assert pictures[0].dtype == np.uint8
    assert [(p[9, 5], p[21, 30], np.count_nonzero(p)) for p in pictures] == [
        (255, 85, 2),
        (255, 0, 1),
        (128, 255, 2),  # 127.5 goes to the even level
        (0, 0, 0),
    ]
    rows = rendered_maps(both, weights, Crop(), 40, 4)
    assert rows.dtype == np.float32
    assert rows.shape == (4, 100)
    for row, (first, second) in zip(rows, [(255, 85), (255, 0), (128, 255), (0, 0)], strict=True):
        wanted = np.zeros((10, 10))
        wanted[2, 1], wanted[5, 7] = first / 16, second / 16
        np.testing.assert_allclose(row.reshape(10, 10), wanted, rtol=1e-6)


@pytest.mark.parametrize("crop", CROPS)
def test_a_picture_is_the_gaussians_at_its_pixels(crop):
    fixations, weights = random_fixations(4)
    size = 140
    along = (np.arange(size) + 0.5) / size
    x = crop.x0 + (1 - along if crop.flip else along) * (crop.x1 - crop.x0)
    y = crop.y0 + along * (crop.y1 - crop.y0)
    density = np.zeros((size, size))
    for (cx, cy, _, _, sx, sy), weight in zip(fixations.astype(float), weights, strict=True):
        gx, gy = np.exp(-0.5 * ((x - cx) / sx) ** 2) / sx, np.exp(-0.5 * ((y - cy) / sy) ** 2) / sy
        density += weight * gy[:, None] * gx
    (picture,) = draw_heatmaps(fixations, weights[None], crop, size)
    assert picture.max() == 255
    difference = picture - 255 * density / density.max()
    assert np.abs(difference).max() < 0.6  # half a level of rounding, and a pixel's mean for its centre


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_drawn_maps_are_the_exact_ones_in_grey_levels(crop, seed):
    fixations, weights = random_fixations(seed, 12)
    rows = np.stack([weights, np.where(np.arange(12) < 4, weights, 0), np.eye(12)[5]])
    exact = patch_maps(fixations, rows, crop, 20)
    drawn = rendered_maps(fixations, rows, crop, 280, 14)
    for one, other, picture in zip(exact, drawn, draw_heatmaps(fixations, rows, crop, 280), strict=True):
        assert one.argmax() == other.argmax()
        assert 200 < other.max() <= 255  # a patch of 14 px is small beside a Gaussian
        level = one * other.max() / one.max()  # the exact map in grey levels; 0 where it is below one level
        clear, faint = (one > 0) & (other > 0), one == 0
        assert clear.sum() > 20
        np.testing.assert_allclose(other[clear], level[clear], atol=0.2)  # 196 pixels, each rounded by up to a half
        assert np.corrcoef(one[clear], other[clear])[0, 1] > 0.9999
        assert other[faint].max(initial=0) < 1.1
        assert level[other == 0].max(initial=0) <= other[other > 0].min() + 0.2  # only the weakest are background
        assert np.array_equal(other, heatmap_patches(encode_image(picture), 280, 14))  # as a file it is the same


def test_no_picture_where_there_is_no_map():
    inside, outside = fix(0.25, 0.25), fix(0.75, 0.25)
    both, half = np.concatenate([inside, outside]), Crop(0, 0, 0.5, 1)
    rows = rendered_maps(both, np.array([[0.049, 0.951], [0.051, 0.949], [0, 0], [np.nan, 1]]), half, 40, 4)
    assert rows.any(axis=1).tolist() == [False, True, False, False]
    lost = np.concatenate([fix(np.nan, 0.25), fix(0.1, 0.1, np.inf, 0.1)])
    assert not rendered_maps(lost, np.ones((1, 2)), Crop(), 40, 4).any()
    assert rendered_maps(both, np.zeros((0, 2)), Crop(), 40, 4).shape == (0, 100)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.booleans(), st.floats(0.01, 100))
def test_pictures_turn_with_the_flip_and_do_not_depend_on_the_unit_of_time(seed, flip, factor):
    fixations, weights = random_fixations(seed, 5)
    (one,) = draw_heatmaps(fixations, weights[None], Crop(0.1, 0.0, 0.9, 0.8, flip), 56)
    (other,) = draw_heatmaps(fixations, weights[None] * factor, Crop(0.1, 0.0, 0.9, 0.8, not flip), 56)
    assert one.max() == other.max() == 255
    assert np.abs(one[:, ::-1].astype(int) - other).max() <= 1  # a level may be rounded either way
    row = rendered_maps(fixations, weights[None], Crop(0.1, 0.0, 0.9, 0.8, flip), 56, 4)[0]
    assert row.min() == 0
    assert row.max() <= 255
    turned = Image.fromarray(np.ascontiguousarray(one[:, ::-1]))
    again = heatmap_patches(saved(turned, "PNG"), 56, 4).reshape(14, 14)[:, ::-1]
    np.testing.assert_allclose(again.ravel(), row, rtol=1e-6)
