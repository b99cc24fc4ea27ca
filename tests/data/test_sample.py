from __future__ import annotations

import dataclasses
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cogaze.config import AugmentConfig, Config
from cogaze.data.sample import (
    SampleError,
    build_sample,
    crop_square,
    decode,
    draws,
    padding_row,
    resolve_labels,
    study_hash,
)
from cogaze.data.text import train_tokenizer
from cogaze.observations import OBSERVATIONS
from tests.data.fakes import WORDS, encode_image, make_config, make_raw

NO_CHANGE = AugmentConfig()
STRONG = AugmentConfig(crop_scale=(0.5, 0.9), crop_shift=1.0, flip=0.5, brightness=0.1, contrast=0.2)
HALF = SimpleNamespace(scale=0.5, shift_x=0.5, shift_y=0.5, flip=0.5, brightness=0.5, contrast=0.5, context=0.5)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)] * 5, 400)


def words(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


# ------------------------------------------------------------------------------------------------ image
def test_an_image_of_the_models_size_is_left_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    image, crop = decode(encode_image(pixels), 28, NO_CHANGE, None)
    assert image.shape == (1, 28, 28)
    assert image.dtype == np.uint8
    assert np.array_equal(image[0], pixels)
    assert (crop.x0, crop.y0, crop.x1, crop.y1, crop.flip) == (0, 0, 1, 1, False)


@pytest.mark.parametrize(("height", "width"), [(28, 41), (37, 28)])
def test_evaluation_shows_the_largest_centre_square(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    image, crop = decode(encode_image(pixels), 28, NO_CHANGE, None)
    top, left = (height - 28) // 2, (width - 28) // 2
    assert np.array_equal(image[0], pixels[top : top + 28, left : left + 28])
    assert (crop.x0, crop.y0) == (left / width, top / height)
    assert (crop.x1, crop.y1) == ((left + 28) / width, (top + 28) / height)


def test_training_without_augmentation_is_evaluation():
    data = encode_image(np.random.default_rng(0).integers(0, 256, (30, 41), dtype=np.uint8))
    plain, crop = decode(data, 14, NO_CHANGE, None)
    drawn, drawn_crop = decode(data, 14, NO_CHANGE, draws(0, 0, 0))
    assert np.array_equal(plain, drawn)
    assert crop == drawn_crop


@given(st.integers(1, 600), st.integers(1, 600), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_crops_are_square_and_inside_the_image(width, height, low, high, shift, position):
    augment = AugmentConfig(crop_scale=(low, high), crop_shift=shift)
    left, top, side = crop_square(width, height, augment, draws(0, 0, position))
    assert 0 <= left <= left + side <= width
    assert 0 <= top <= top + side <= height
    assert max(round(min(low, high) * min(width, height)), 1) <= side <= min(width, height)


def test_crops_by_hand():
    augment = AugmentConfig(crop_scale=(0.4, 0.8), crop_shift=1.0)
    assert crop_square(100, 200, augment, HALF) == (20, 70, 60)  # the middle of every range: the centre
    corner = SimpleNamespace(**{**vars(HALF), "shift_x": 0.0, "shift_y": 0.9999999})
    assert crop_square(100, 200, augment, corner) == (0, 139, 60)
    near = AugmentConfig(crop_scale=(0.4, 0.8), crop_shift=0.5)
    assert crop_square(100, 200, near, corner) == (10, 104, 60)


def test_brightness_and_contrast_by_hand():
    pixels = np.repeat(np.array([[100, 150]], np.uint8), 2, axis=0)  # mean 125
    augment = AugmentConfig(brightness=0.2, contrast=0.4)
    up = SimpleNamespace(**{**vars(HALF), "brightness": 0.75, "contrast": 0.25})  # +0.1 * 255, gain 0.8
    image, _ = decode(encode_image(pixels), 2, augment, up)
    assert image[0].tolist() == [[130, 170]] * 2  # 125 -+ 20, + 25.5, rounded to even
    high = SimpleNamespace(**{**vars(HALF), "brightness": 1.0, "contrast": 1.0})
    image, _ = decode(encode_image(np.array([[0, 255]] * 2, np.uint8)), 2, augment, high)
    assert image[0].tolist() == [[0, 255]] * 2  # clipped, not wrapped


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    y, x = np.mgrid[0:480, 0:600] / 480
    pixels = (128 + 60 * np.sin(7 * x) + 60 * np.cos(5 * y)).astype(np.uint8)
    image, _ = decode(encode_image(pixels, "JPEG"), 28, NO_CHANGE, None)
    square = Image.fromarray(pixels[:, 60:540]).resize((28, 28), Image.Resampling.BICUBIC)
    assert np.abs(image[0].astype(int) - np.asarray(square)).max() <= 3


def test_a_colour_image_becomes_grey():
    image, _ = decode(encode_image(np.full((28, 28, 3), (10, 200, 30), np.uint8)), 28, NO_CHANGE, None)
    assert image.shape == (1, 28, 28)
    assert image[0, 0, 0] == round(0.299 * 10 + 0.587 * 200 + 0.114 * 30)


def test_gaze_moves_with_the_image(tokenizer):
    """A bright spot under a fixation stays under it through every crop, shift and flip."""
    pixels = np.zeros((128, 160), np.uint8)
    pixels[50:60, 90:100] = 255
    fixations = np.array([[95 / 160, 55 / 128, 0, 1, 0.01, 0.01]], np.float32)
    reading = {"id": "r", "reader": "a", "sentences": [{"text": "small effusion", "start": 0.0, "end": 1.0}]}
    raw = make_raw(encode_image(pixels), {0: fixations}, readings=[reading])
    settings = make_config(image_size=112, augment=STRONG.model_dump() | {"brightness": 0, "contrast": 0})
    flipped, patches = set(), set()
    for position in range(30):
        sample = build_sample(raw, position, settings, tokenizer, epoch=1)
        if not sample.segments:
            continue  # the spot is outside this crop
        patch = int(sample.segments[0].gaze.argmax())
        brightness = sample.image[0].reshape(8, 14, 8, 14).sum(axis=(1, 3), dtype=int).ravel()
        near = np.abs(np.array(divmod(patch, 8)) - divmod(int(brightness.argmax()), 8))
        assert near.max() <= 1
        flipped.add(draws(0, 1, position).flip < 0.5)
        patches.add(patch)
    assert flipped == {True, False}
    assert len(patches) > 5


# ------------------------------------------------------------------------------------------------ draws
def test_draws_are_a_function_of_seed_epoch_and_position():
    assert draws(1, 2, 3) == draws(1, 2, 3)
    assert len({draws(*key) for key in [(1, 2, 3), (0, 2, 3), (1, 3, 3), (1, 2, 4), (-1, 2, 3)]}) == 5
    values = np.array([dataclasses.astuple(draws(0, 0, p)) for p in range(400)])
    assert (values >= 0).all()
    assert (values < 1).all()
    assert np.abs(values.mean(axis=0) - 0.5).max() < 5 / np.sqrt(12 * 400)
    assert np.abs(np.corrcoef(values.T) - np.eye(7)).max() < 5 / np.sqrt(400)


def test_evaluation_draws_nothing_and_training_repeats_itself(tokenizer):
    raw = make_raw(encode_image(np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)))
    settings = make_config(augment=STRONG.model_dump(), context_dropout=1.0)
    plain = build_sample(raw, 5, settings, tokenizer, epoch=None)
    assert np.array_equal(plain.image, build_sample(raw, 6, make_config(), tokenizer, epoch=None).image)
    assert plain.context is not None
    first, again, later = (build_sample(raw, 5, settings, tokenizer, epoch=e) for e in (0, 0, 1))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, later.image)
    assert first.context is None


def test_contexts_are_hidden_as_often_as_asked_for(tokenizer):
    def shown(**data):
        settings = make_config(**data)
        return [build_sample(make_raw(), p, settings, tokenizer, epoch=0).context is not None for p in range(200)]

    assert all(shown())
    assert not any(shown(use_context=False))
    some = shown(context_dropout=0.3)
    assert abs(sum(some) / 200 - 0.7) < 5 * np.sqrt(0.21 / 200)
    assert some == [draws(0, 0, p).context >= 0.3 for p in range(200)]
    assert some == shown(context_dropout=0.3, augment=STRONG.model_dump())  # other settings move no draw
    assert build_sample(make_raw(), 0, make_config(use_context=False), tokenizer, epoch=None).context is None


# ------------------------------------------------------------------------------------------------ labels, ids
def test_labels_after_the_policy():
    labels, known = resolve_labels({"Edema": 1, "Fracture": 0, "Pneumonia": -1, "No Finding": None})
    assert labels.dtype == np.float32
    by_name = dict(zip(OBSERVATIONS, zip(labels.tolist(), known.tolist(), strict=True), strict=True))
    assert by_name["Edema"] == (1, True)
    assert by_name["Fracture"] == (0, True)
    assert by_name["Pneumonia"] == (1, True)  # uncertain
    assert by_name["No Finding"] == (0, True)  # not mentioned
    assert by_name["Cardiomegaly"] == (0, False)  # unknown
    assert known.sum() == 4
    with pytest.raises(KeyError):
        resolve_labels({"Edema": 2})


def test_study_hashes_tell_studies_and_sources_apart():
    ids = [("a", "1"), ("a", "2"), ("b", "1"), ("a1", ""), ("", "a1"), ("a", "ü\ud800")]
    hashes = [study_hash(*pair) for pair in ids]
    assert len(set(hashes)) == len(ids)
    assert all(0 <= value < 2**63 for value in hashes)
    assert study_hash("mimic_cxr", "s50000001") == 0x6D59648F8F62086C >> 1  # from sha256sum


def test_report_view_and_context(tokenizer):
    sample = build_sample(make_raw(view="LATERAL"), 7, make_config(), tokenizer, epoch=None)
    assert sample.sample_id == 7
    assert sample.view == 3
    assert words(tokenizer, sample.report) == ["[CLS]", "[FINDINGS]", "small", "left", "effusion"]
    assert words(tokenizer, sample.context) == ["[CLS]", "[INDICATION]", "fracture", "[SEP]", "[HISTORY]"]
    assert sample.study == study_hash("fake", "s1")
    bare = make_raw(report={"findings": None, "impression": None}, context={"indication": None, "history": None})
    sample = build_sample(bare, 0, make_config(), tokenizer, epoch=0)
    assert sample.report is None
    assert sample.context is None
    assert sample.segments == []


# ------------------------------------------------------------------------------------------------ segments
def spoken(*sentences):
    return {
        "id": "r",
        "reader": "a",
        "sentences": [dict(zip(("text", "start", "end"), s, strict=True)) for s in sentences],
    }


LEFT, RIGHT, OUTSIDE = ([x, 0.25, 0, 0, 0, 0] for x in (0.25, 0.75, 1.5))


def looked(*places_and_times) -> np.ndarray:
    rows = np.array([place for place, *_ in places_and_times], np.float32)
    rows[:, 2:4] = [times for _, *times in places_and_times]
    return rows


def test_segments_are_the_sentences_with_gaze_and_then_the_paragraph(tokenizer):
    reading = spoken(("small effusion", 0.0, 2.0), ("clear", 2.0, 3.0), ("rib", 3.0, 5.0), (" ", 3.0, 5.0))
    gaze = looked((LEFT, 0.0, 1.0), (RIGHT, 1.0, 2.0), (RIGHT, 4.0, 6.0))
    raw = make_raw(gaze={0: gaze}, readings=[reading])
    for epoch in (None, 0):
        sample = build_sample(raw, 0, make_config(), tokenizer, epoch)
        texts = [words(tokenizer, segment.ids)[2:] for segment in sample.segments]
        assert texts == [["small", "effusion"], ["rib"], ["small", "effusion", "clear", "rib"]]
        assert [segment.paragraph for segment in sample.segments] == [False, False, True]
        np.testing.assert_allclose(sample.segments[0].gaze, [0.5, 0.5, 0, 0])
        np.testing.assert_allclose(sample.segments[1].gaze, [0, 1, 0, 0])
        np.testing.assert_allclose(sample.segments[2].gaze, [0.25, 0.75, 0, 0])
        if epoch is None:
            assert sample.segments[1].fixations.tolist() == [[0.75, 0.25, 1.0]]  # one second of it was in the sentence
            assert len(sample.segments[2].fixations) == 3
        else:
            assert all(segment.fixations is None for segment in sample.segments)


def test_unseen_sentences_may_be_kept_as_zero_rows(tokenizer):
    """The second sentence has no gaze: a zero row in its place; a reading without any gaze still gives nothing."""
    readings = [spoken(("small effusion", 0.0, 2.0), ("clear", 2.0, 3.0), ("rib", 3.0, 5.0)), spoken(("heart", 0, 1))]
    gaze = {0: looked((LEFT, 0.0, 1.0), (RIGHT, 4.0, 5.0)), 1: looked((OUTSIDE, 0.0, 1.0))}
    sample = build_sample(
        make_raw(gaze=gaze, readings=readings), 0, make_config(unseen_sentences="keep"), tokenizer, None
    )
    got = [(s.reading, words(tokenizer, s.ids)[2:], s.paragraph, s.gaze.tolist()) for s in sample.segments]
    assert got == [
        (0, ["small", "effusion"], False, [1, 0, 0, 0]),
        (0, ["clear"], False, [0, 0, 0, 0]),
        (0, ["rib"], False, [0, 1, 0, 0]),
        (0, ["small", "effusion", "clear", "rib"], True, [0.5, 0.5, 0, 0]),
    ]
    assert sample.segments[1].fixations.shape == (0, 3)


def test_lead_gives_a_sentence_the_look_before_it(tokenizer):
    raw = make_raw(gaze={0: looked((LEFT, 0.0, 1.0), (RIGHT, 1.0, 2.0))}, readings=[spoken(("rib", 1.0, 2.0))])
    without = build_sample(raw, 0, make_config(), tokenizer, None).segments[0].gaze
    lead = build_sample(raw, 0, make_config(lead=1.0), tokenizer, None).segments[0].gaze
    assert without.tolist() == [0, 1, 0, 0]
    assert lead.tolist() == [0.5, 0.5, 0, 0]


def test_readings_keep_their_numbers_and_the_paragraph_is_always_last(tokenizer):
    readings = [
        spoken(("rib", 0.0, 1.0)),  # no gaze stored
        spoken(("small", 0.0, 1.0)),  # looked outside the image
        spoken(),  # said nothing
        spoken(("clear", 0.0, 1.0)),  # nearly always outside: a sentence, but no map for the paragraph
        spoken(("heart", 5.0, 6.0)),  # gaze, but not while speaking: the paragraph alone
    ]
    gaze = {
        1: looked((OUTSIDE, 0.0, 1.0)),
        2: looked((LEFT, 0.0, 1.0)),
        3: looked((LEFT, 0.0, 1.0), (OUTSIDE, 1.0, 99.0)),
        4: looked((LEFT, 0.0, 1.0)),
    }
    sample = build_sample(make_raw(gaze=gaze, readings=readings), 0, make_config(), tokenizer, 0)
    got = [(s.reading, words(tokenizer, s.ids)[2:], s.paragraph, s.gaze.any()) for s in sample.segments]
    assert got == [
        (3, ["clear"], False, True),
        (3, ["clear"], True, False),
        (4, ["heart"], True, True),
    ]


def test_a_padding_row_has_pixels_and_nothing_that_counts(tokenizer):
    gaze = {0: looked((LEFT, 0.0, 1.0))}
    sample = build_sample(make_raw(gaze=gaze, readings=[spoken(("rib", 0.0, 1.0))]), 4, make_config(), tokenizer, None)
    row = padding_row(sample)
    assert (row.sample_id, row.study, row.report, row.context, row.segments) == (-1, -1, None, None, [])
    assert not row.labels_known.any()
    assert row.image is sample.image
    assert sample.labels_known.any()  # the sample itself is as it was


# ------------------------------------------------------------------------------------------------ bad samples
def png_bomb() -> bytes:
    """A PNG that claims 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


GOOD = encode_image(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), "JPEG")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        GOOD[: len(GOOD) // 2],
        GOOD[:20],
        encode_image(np.zeros((9, 9), np.uint8), "GIF"),
        png_bomb(),
    ],
    ids=["empty", "text", "truncated", "header", "another format", "bomb"],
)
def test_a_damaged_image_is_named_by_shard_and_row_alone(tokenizer, data):
    with pytest.raises(SampleError) as error:
        build_sample(make_raw(data, image_id="secret", study_id="secret"), 0, make_config(), tokenizer, None)
    assert str(error.value).startswith("train-000000:3: the image cannot be decoded (")
    assert "secret" not in str(error.value)
    assert "cogaze data check" in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": None},
        {"labels": {"Edema": "secret"}},
        {"report": "secret"},
        {"readings": [{"sentences": [{"text": "secret", "start": None, "end": 1.0}]}]},
        {"readings": 3},
        {"context": ["secret"]},
    ],
)
def test_damaged_json_is_named_without_quoting_it(tokenizer, changes):
    raw = make_raw(gaze={0: looked((LEFT, 0.0, 1.0))}, **changes)
    with pytest.raises(SampleError) as error:
        build_sample(raw, 0, make_config(), tokenizer, 0)
    assert str(error.value).startswith("train-000000:3: not a sample of this schema (")
    assert "secret" not in str(error.value)


def test_any_grid_gives_rows_of_its_patches(tokenizer):
    raw = make_raw(gaze={0: looked((LEFT, 0.0, 1.0))}, readings=[spoken(("rib", 0.0, 1.0))])
    settings = Config.model_validate({"data": {"image_size": 64}, "model": {"vision": {"patch_size": 16}}})
    assert build_sample(raw, 0, settings, tokenizer, None).segments[0].gaze.shape == (16,)
