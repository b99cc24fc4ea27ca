"""Pictures stored in place of fixations: as the released code treats files, and as exact maps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogaze.config import AugmentConfig
from cogaze.data.gaze import Crop, patch_maps
from cogaze.data.heatmaps import (
    heatmap_patches,
    stored_maps,
    stored_patch_maps,
)
from cogaze.data.sample import build_sample, crop_square
from cogaze.data.text import train_tokenizer
from tests.data.fakes import encode_image, make_config, make_raw


def blobs(height: int, width: int, centres: list[tuple[float, float]], background: int = 0) -> np.ndarray:
    """Gaussians of a tenth of the height around (x, y) in fractions, peak 255: uint8 (len(centres),height,width)."""
    y, x = np.mgrid[:height, :width] + 0.5
    rows = [
        np.exp(-(((x / width - cx) * width) ** 2 + (y - cy * height) ** 2) / (0.02 * height**2)) for cx, cy in centres
    ]
    return np.rint(background + (255 - background) * np.stack(rows)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (28, 41), (35, 28)])
def test_stored_pictures_are_treated_as_the_released_code_treats_files(height, width):
    """In evaluation, where the stored size is the model's: bit for bit what the file of the same picture gives."""
    pictures = np.random.default_rng(3).integers(0, 30, (4, height, width)).astype(np.uint8) // 10 * 40
    left, top, side = crop_square(width, height, AugmentConfig(), None)
    crop = Crop(left / width, top / height, (left + side) / width, (top + side) / height)
    for size, patch in ((28, 14), (28, 4)):
        rows = stored_maps(pictures, crop, size, patch)
        for row, picture in zip(rows, pictures, strict=True):
            np.testing.assert_array_equal(row, heatmap_patches(encode_image(picture), size, patch))
        assert np.any(rows, axis=1).sum() > 2


def test_area_means_by_hand():
    # 3 x 3 pixels on 2 x 2 patches: a patch has one whole pixel, two halves and a quarter, 2.25 in all
    picture = np.array([[[90, 0, 0], [0, 0, 0], [0, 0, 45]]], np.uint8)
    np.testing.assert_allclose(stored_patch_maps(picture, Crop(), 2), [[2 / 3, 0, 0, 1 / 3]], atol=1e-7)
    picture[0, 1, 1] = 90
    # top left (90 + 90 / 4) / 2.25 = 50, top right and bottom left 10, bottom right 30; the lowest frequent level, 10,
    # is the background
    np.testing.assert_allclose(stored_patch_maps(picture, Crop(), 2), [[2 / 3, 0, 0, 1 / 3]], atol=1e-7)
    flipped = stored_patch_maps(picture, Crop(flip=True), 2)
    np.testing.assert_allclose(flipped, [[0, 2 / 3, 1 / 3, 0]], atol=1e-7)


@given(
    st.floats(0.25, 0.75), st.floats(0.25, 0.75), st.floats(0, 0.2), st.floats(0, 0.2), st.booleans(),
    st.integers(0, 100),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_stored_picture_gives_the_map_of_the_fixation_it_was_drawn_from(x, y, left, top, flip, background):
    """The second method: the same Gaussian integrated in closed form, on whatever crop and over whatever background."""
    crop = Crop(left, top, left + 0.8, top + 0.8, flip)
    width, height = 150, 120
    fixation = np.array([[x, y, 0.0, 1.0, 0.1 * height / width, 0.1]], np.float32)
    exact = patch_maps(fixation, np.ones((1, 1)), crop, 6)
    stored = stored_patch_maps(blobs(height, width, [(x, y)], background), crop, 6)
    np.testing.assert_allclose(stored, exact, atol=0.02)  # 8 bits, and tails that the background hides
    assert stored.sum() == pytest.approx(1, abs=1e-6)


def test_a_flip_mirrors_the_picture_and_its_crop():
    pictures = blobs(40, 56, [(0.3, 0.4), (0.6, 0.7)])
    crop = Crop(8 / 56, 4 / 40, 36 / 56, 32 / 40, flip=True)
    mirrored = Crop(1 - crop.x1, crop.y0, 1 - crop.x0, crop.y1)
    there = np.ascontiguousarray(pictures[:, :, ::-1])
    np.testing.assert_array_equal(stored_maps(pictures, crop, 28, 4), stored_maps(there, mirrored, 28, 4))
    exact = stored_patch_maps(pictures, crop, 7)
    np.testing.assert_allclose(exact, stored_patch_maps(there, mirrored, 7), atol=1e-6)
    assert not np.allclose(exact, stored_patch_maps(pictures, dataclasses.replace(crop, flip=False), 7), atol=1e-3)


def test_pictures_without_anything_to_say_give_no_map():
    nothing = np.zeros((1, 28, 40), np.uint8)
    single = nothing.copy()
    single[0, 3, 7] = 1
    corner = blobs(40, 40, [(0.05, 0.05)])
    away = Crop(0.4, 0.4, 1.0, 1.0)
    for maps in (lambda p, c: stored_maps(p, c, 28, 7), lambda p, c: stored_patch_maps(p, c, 4)):
        assert not maps(nothing, Crop()).any()
        assert not maps(nothing + 77, Crop()).any()
        assert np.count_nonzero(maps(single, Crop())) == 1
        assert maps(corner, Crop()).any()
        assert not maps(corner, away).any()
        assert maps(nothing[:0], Crop()).shape == (0, 16)
    grey = blobs(40, 40, [(0.3, 0.3)], background=60)
    assert np.count_nonzero(stored_patch_maps(grey, Crop(), 4)) < 16  # a grey background is none of the gaze


@pytest.mark.parametrize("kind", ["exact", "rendered"])
def test_readings_with_pictures_give_segments(kind):
    config = make_config(gaze_maps=kind, augment={"crop_scale": [1.0, 1.0], "crop_shift": 0.0})
    tokenizer = train_tokenizer(["heart large no effusion lungs clear"], 100)
    texts = ["heart large", " ", "no effusion", "lungs clear"]
    sentences = [{"text": text, "start": 0.0, "end": 0.0} for text in texts]
    pictures = np.concatenate([blobs(28, 28, [(0.5, 0.5), (0.2, 0.2), (0.9, 0.9), (0.8, 0.2)]), np.zeros((1, 28, 28))])
    raw = make_raw(
        gaze={0: np.zeros((0, 6), np.float32)}, readings=[{"id": "a", "reader": "r", "sentences": sentences}]
    )
    assert build_sample(raw, 0, config, tokenizer, None).segments == []
    raw = dataclasses.replace(raw, maps={0: pictures.astype(np.uint8)})
    segments = build_sample(raw, 0, config, tokenizer, None).segments
    # "lungs clear" has no map and hence no segment; the blank sentence's picture is nobody's
    assert [segment.paragraph for segment in segments] == [False, False, True]
    assert [int(segment.gaze.argmax()) for segment in segments] == [0, 1, segments[2].gaze.argmax()]
    whole = stored_maps(pictures[:1].astype(np.uint8), Crop(), 28, 14) if kind == "rendered" else None
    if whole is not None:
        np.testing.assert_array_equal(segments[2].gaze, whole[0])
    assert [segment.fixations.shape for segment in segments] == [(0, 3)] * 3
    assert build_sample(raw, 0, config, tokenizer, 1).segments[0].fixations is None
    keep = make_config(gaze_maps=kind, unseen_sentences="keep")
    assert len(build_sample(raw, 0, keep, tokenizer, None).segments) == 4
