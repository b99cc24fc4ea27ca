"""Heatmap files: patch means and background by hand, and against a second implementation."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cogaze.data.heatmaps import (
    heatmap_patches,
    pool_heatmap,
    remove_background,
)
from tests.data.fakes import encode_image
from tests.data.test_sample import png_bomb

# Files and what the released code made of them; they are no part of this repository.
GOLDENS = Path(os.environ.get("COGAZE_GOLDENS") or Path(__file__).parents[3] / "shared/goldens/released_tiny.pt")
RED, GREEN, BLUE = 0.299 * 255, 0.587 * 255, 0.114 * 255


def blocks(values: list, side: int) -> np.ndarray:
    """A picture of constant squares: values (g,g) or (g,g,3) -> uint8 (g*side, g*side[, 3])."""
    return np.asarray(values, np.uint8).repeat(side, axis=0).repeat(side, axis=1)


def pooled(pixels: np.ndarray, size: int, patch: int, kind: str = "PNG") -> np.ndarray:
    return pool_heatmap(encode_image(pixels, kind), size, patch).numpy()


# ------------------------------------------------------------------------------------------------ the released code
@pytest.mark.skipif(not GOLDENS.is_file(), reason="COGAZE_GOLDENS names no file of the released code's outputs")
def test_the_released_codes_values():
    cases = torch.load(GOLDENS, weights_only=True)["unit"]["heatmap"]
    assert cases
    for case in cases:
        size, patch = case["image_size"], case["patch"]
        means = pool_heatmap(case["file_bytes"], size, patch)
        row = heatmap_patches(case["file_bytes"], size, patch)
        torch.testing.assert_close(means, case["pooled"], rtol=1e-6, atol=0)
        torch.testing.assert_close(torch.from_numpy(row), case["output"], rtol=1e-6, atol=0)
        assert torch.equal(remove_background(case["pooled"]).flatten(), case["output"]), case["name"]
        assert np.count_nonzero(row) == case["nonzero"]


# ------------------------------------------------------------------------------------------------ pooling by hand
def test_patches_are_means_of_luminance():
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]]
    means = pooled(blocks(colours, 10), 20, 10)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, [[RED, GREEN], [BLUE, 255]], rtol=1e-5)  # a float32 sum of 100
    np.testing.assert_allclose(pooled(blocks(colours, 10), 20, 20), [[(RED + GREEN + BLUE + 255) / 4]], rtol=1e-5)
    row = heatmap_patches(encode_image(blocks(colours, 10)), 20, 10)  # four values, the lowest is the background
    assert row.dtype == np.float32
    np.testing.assert_allclose(row, [RED, GREEN, 0, 255], rtol=1e-5)


def test_a_colour_jpeg_is_its_colours_and_a_grey_one_its_levels():
    colours = blocks([[(200, 40, 30), (20, 180, 60)], [(0, 0, 120), (250, 250, 250)]], 32)
    wanted = [[86.7, 118.48], [13.68, 250]]  # e.g. .299 * 200 + .587 * 40 + .114 * 30
    np.testing.assert_allclose(pooled(colours, 64, 32, "JPEG"), wanted, atol=2)
    np.testing.assert_allclose(pooled(blocks([[9, 80], [160, 250]], 8), 16, 8, "JPEG"), [[9, 80], [160, 250]], atol=1)


def test_the_shorter_side_is_scaled_and_the_centre_kept():
    # a ramp of 2 a pixel, halved in size: patches of ten pixels were twenty, with the means 19, 59, 99, 139
    ramp = np.tile(2 * np.arange(80, dtype=np.uint8), (80, 1))
    np.testing.assert_allclose(pooled(ramp, 40, 10)[:, 1:3], [[59, 99]] * 4, rtol=1e-5)
    # what lies beyond the centre square is not looked at: 5 rows above, 6 below (an odd rest), or columns
    centre = blocks([[10, 20], [30, 40]], 10)
    tall = np.concatenate([np.full((5, 20), 255, np.uint8), centre, np.full((6, 20), 255, np.uint8)])
    for pixels in (tall, tall.T):
        expected = [[10, 20], [30, 40]] if pixels is tall else [[10, 30], [20, 40]]
        np.testing.assert_allclose(pooled(pixels, 20, 10), expected, rtol=1e-5)
    # 31 rows scaled by 2/3 are 20.67, of which 20 stay: nothing is cut from 20 columns
    np.testing.assert_allclose(pooled(np.full((31, 30), 77, np.uint8), 20, 10), 77, rtol=1e-5)


def test_a_grey_picture_is_worth_its_colour_twin():
    """The short cut for grey files changes no bit."""
    grey = np.random.default_rng(0).integers(0, 256, (90, 131), dtype=np.uint8)
    twin = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(pooled(grey, 70, 14), pooled(twin, 70, 14))


def test_other_pictures_of_eight_bits():
    colours = blocks([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], 10)
    for picture in (Image.fromarray(colours).convert("RGBA"), Image.fromarray(colours).quantize(4)):
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        np.testing.assert_allclose(pool_heatmap(stream.getvalue(), 20, 10), [[RED, GREEN], [BLUE, 255]], rtol=1e-5)


# ------------------------------------------------------------------------------------------------ background by hand
def framed(grid: int, inner: float, border: float) -> torch.Tensor:
    values = torch.full((grid, grid), float(border))
    values[1:-1, 1:-1] = inner
    return values


def test_the_background_is_what_the_border_shows():
    """10 x 10: a band of one patch, 36 of border against 64 of inner, and the border decides."""
    assert torch.equal(remove_background(framed(10, 50, 20)), framed(10, 50, 0))
    assert torch.equal(remove_background(framed(10, 20, 50)), torch.zeros(10, 10))  # and what is below it goes too
    mixed = framed(10, 50, 20)
    mixed[0, :4], mixed[4, 4:7] = 60.0, 10.0
    wanted = framed(10, 50, 0)
    wanted[0, :4], wanted[4, 4:7] = 60.0, 0.0
    assert torch.equal(remove_background(mixed), wanted)


def test_on_a_small_grid_the_band_is_everything():
    """9 x 9: int(.9) = 0 patches; the 49 inner ones outnumber the 32 of the border."""
    assert torch.equal(remove_background(framed(9, 50, 20)), torch.zeros(9, 9))
    assert torch.equal(remove_background(framed(9, 20, 50)), framed(9, 0, 50))


def test_the_band_grows_with_the_grid():
    """20 x 20: two patches. A ring of 76 outermost patches, one of 68, and 256 inner ones."""
    values = framed(20, 40, 10)
    values[2:-2, 2:-2] = 30.0
    assert remove_background(values)[1, 1] == 40  # 76 of the ring of 10 against 68 in the band
    values[0, :20] = torch.arange(50.0, 70.0)  # 56 left of the 76
    assert remove_background(values).unique().tolist() == [0, *range(50, 70)]  # 40 is the background, and 30 is below


def test_only_the_five_most_frequent_values_can_be_the_background():
    values = torch.arange(1000.0, 1100.0).view(10, 10)
    values[0, :6] = 5.0  # six times, all in the band, but five others occur twelve times
    inner = torch.cat([torch.arange(10.0, 15.0).repeat_interleave(12), torch.arange(2000.0, 2004.0)])
    values[1:-1, 1:-1] = inner.view(8, 8)
    left = remove_background(values)  # none of the five is in the band: the lowest of these equals, 10
    assert (left > 0).sum() == 100 - 6 - 12
    assert left[left > 0].min() == 11
    values[9, 9] = 13.0  # now one of the five is in the band
    assert remove_background(values)[remove_background(values) > 0].min() == 14


def test_ties_erase_as_little_as_possible():
    values = torch.tensor([[4.0, 3.0], [2.0, 1.0]])
    assert remove_background(values).tolist() == [[4, 3], [2, 0]]
    assert remove_background(values.T.flip(1)).tolist() == [[2, 4], [0, 3]]
    band = framed(10, 50, 20)
    band[0, :] = band[:, 0] = 50.0  # 19 of the band are 50 and 17 are 20 ...
    band[9, 1] = 90.0
    band[0, 0] = band[0, 1] = band[0, 2] = 90.0  # ... now 16 and 16, but 50 has the 64 inner ones
    assert remove_background(band).unique().tolist() == [0, 90]
    assert remove_background(torch.full((3, 3), 7.0)).tolist() == [[0] * 3] * 3  # one value: all background
    assert remove_background(torch.zeros(1, 1)).tolist() == [[0]]


# ------------------------------------------------------------------------------------------------ a second method
def background_by_counting(levels: np.ndarray) -> float:
    """The rule again, with Counters over plain lists."""
    grid = len(levels)
    band = int(0.1 * grid)
    edge = [i for i in range(grid) if band == 0 or i < band or i >= grid - band]
    near = Counter(float(levels[i, j]) for i in range(grid) for j in range(grid) if i in edge or j in edge)
    whole = Counter(levels.ravel().tolist())
    candidates = sorted(whole, key=lambda value: (-whole[value], value))[:5]
    return max(candidates, key=lambda value: (near[value], whole[value], -value))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 13), st.integers(1, 4), st.integers(0, 30), st.integers(0, 30), st.integers(1, 6), st.integers(0, 99)
)
def test_against_counting_and_plain_numpy(grid, patch, more_rows, more_columns, colours, seed):
    rng = np.random.default_rng(seed)
    size = grid * patch
    palette = rng.integers(0, 256, (colours, 3), dtype=np.uint8)
    height, width = size + more_rows, size + more_columns
    pixels = palette[rng.integers(0, colours, (height, width)) * rng.integers(0, 2, (height, width))]

    short = min(height, width)
    scaled = (width * size // short, height * size // short)
    planes = [np.asarray(Image.fromarray(pixels[..., c]).resize(scaled, Image.Resampling.BICUBIC)) for c in range(3)]
    top, left = (scaled[1] - size) // 2, (scaled[0] - size) // 2
    grey = sum(w * p.astype(float) for w, p in zip((0.299, 0.587, 0.114), planes, strict=True))
    means = grey[top : top + size, left : left + size].reshape(grid, patch, grid, patch).mean(axis=(1, 3))

    got = pooled(pixels, size, patch)
    np.testing.assert_allclose(got, means, rtol=1e-5, atol=1e-4)
    row = heatmap_patches(encode_image(pixels), size, patch)
    assert np.array_equal(row, np.where(got <= background_by_counting(got), 0, got).ravel())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 25), st.integers(1, 12), st.integers(0, 999))
def test_background_against_counting(grid, levels, seed):
    values = np.random.default_rng(seed).integers(0, levels, (grid, grid)).astype(np.float32) / 7
    wanted = np.where(values <= background_by_counting(values), 0, values)
    assert np.array_equal(remove_background(torch.from_numpy(values)).numpy(), wanted)


# ------------------------------------------------------------------------------------------------ bad files
def saved(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


WHOLE = encode_image(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
BAD = {
    "empty": (b"", "cannot be decoded"),
    "text": (b"a heatmap", "cannot be decoded"),
    "truncated": (WHOLE[: len(WHOLE) // 2], "cannot be decoded"),
    "header": (WHOLE[:20], "cannot be decoded"),
    "another format": (saved(Image.new("L", (20, 20)), "GIF"), "cannot be decoded"),
    "bomb": (png_bomb(), "cannot be decoded"),
    "16 bits": (saved(Image.fromarray(np.full((20, 20), 9000, np.uint16)), "PNG"), "more than 8 bits"),
    "a thread": (encode_image(np.zeros((1, 20_000), np.uint8)), "of 20000 x 1 px is too long"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_bad_files_are_a_plain_error(data, message):
    with pytest.raises(ValueError, match=message) as error:
        heatmap_patches(data, 140, 14)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8), st.booleans())
def test_damage_is_an_error_or_a_picture(changes, png):
    data = bytearray(encode_image(blocks([[1, 90], [200, 30]], 10)) if png else WHOLE)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        row = heatmap_patches(bytes(data), 20, 10)
    except ValueError:
        return
    assert row.shape == (4,)
    assert np.isfinite(row).all()
