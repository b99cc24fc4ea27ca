"""`data.gaze_maps`: what a sample and a batch have of the drawn maps."""

from __future__ import annotations

import numpy as np
import pytest

from cogaze.data.gaze import Crop, patch_maps, segment_weights
from cogaze.data.heatmaps import (
    rendered_maps,
)
from cogaze.data.loader import eval_batches_of, train_batches
from cogaze.data.sample import build_sample
from cogaze.data.text import shard_texts, train_tokenizer
from tests.data.fakes import FakeShards, encode_image, make_config, make_raw
from tests.data.test_gaze import fix


def reading_of(gaze: np.ndarray, sentences: list[tuple[str, float, float]], shape=(140, 140)):
    spoken = [{"text": text, "start": start, "end": end} for text, start, end in sentences]
    image = encode_image(np.zeros(shape, np.uint8))
    return make_raw(image, {0: gaze}, readings=[{"id": "r", "reader": "a", "sentences": spoken}])


@pytest.fixture(scope="module")
def shards():
    return FakeShards(studies=10, pixels=150)


@pytest.fixture(scope="module")
def tokenizer(shards):
    return train_tokenizer(shard_texts(shards, "train"), 300)


def test_a_sample_has_the_maps_that_the_setting_names(tokenizer):
    gaze = np.concatenate([fix(0.2, 0.3, 0.1, 0.1, 0.0, 1.0), fix(0.7, 0.6, 0.1, 0.1, 1.0, 3.0)])
    raw = reading_of(gaze, [("rib", 0.0, 1.5), ("clear", 2.0, 3.0)], (140, 180))
    config = make_config(image_size=140, gaze_maps="rendered", lead=0.25)
    sample = build_sample(raw, 0, config, tokenizer, None)
    crop = Crop(20 / 180, 0.0, 160 / 180, 1.0)
    weights = np.array([[1.0, 0.5], [0.0, 1.0], [1.0, 2.0]])  # two sentences and the paragraph, by hand
    wanted = rendered_maps(gaze, weights, crop, 140, 14)
    assert [segment.paragraph for segment in sample.segments] == [False, False, True]
    assert np.array_equal([segment.gaze for segment in sample.segments], wanted)
    assert min(row.max() for row in wanted) > 100
    exact = build_sample(raw, 0, make_config(image_size=140, lead=0.25), tokenizer, None)
    assert np.array_equal([s.gaze for s in exact.segments], patch_maps(gaze, weights, crop, 10))


def test_a_sentence_whose_picture_is_all_background_is_left_out(tokenizer):
    """Two by two patches with the same level each: one value, which is the background."""
    gaze = np.concatenate([fix(0.5, 0.5, 0.0, 0.0, 0.0, 1.0), fix(0.75, 0.75, 0.0, 0.0, 1.0, 3.0)])
    raw = reading_of(gaze, [("rib", 0.0, 1.0), ("clear", 1.0, 3.0)])
    exact = build_sample(raw, 0, make_config(), tokenizer, None).segments
    assert [segment.gaze.tolist() for segment in exact[:2]] == [[0.25] * 4, [0, 0, 0, 1]]
    drawn = build_sample(raw, 0, make_config(gaze_maps="rendered"), tokenizer, None).segments
    assert [segment.paragraph for segment in drawn] == [False, True]
    # Both points lie where four pixels meet: four of level 255 in a patch of 196; in the paragraph each patch has one
    # more of 127.5, rounded to 128, and is background where it has nothing else.
    levels = [[0, 0, 0, 4 * 255 / 196], [0, 0, 0, (4 * 255 + 128) / 196]]
    np.testing.assert_allclose([segment.gaze for segment in drawn], levels, rtol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "rendered"])
def test_the_setting_reaches_the_batch(shards, tokenizer, kind):
    config = make_config(image_size=140, gaze_maps=kind)
    batches = list(eval_batches_of(config, shards, tokenizer, "train", rank=0, world=1, batch=4))
    steps = train_batches(config, shards, tokenizer, rank=0, world=1, start_step=0, total_steps=3)
    batches += [batch for *_, micro in steps for batch in micro]
    assert sum(len(batch.gaze) for batch in batches) > 40
    crop = Crop(2 / 155, 0.0, 152 / 155, 1.0)
    for batch in batches:  # every row again, from the raw samples
        expected = [np.zeros((0, 100), np.float32)]
        for position in batch.sample_id[batch.sample_id >= 0].tolist():
            raw = shards.read("train", position)
            for number, reading in enumerate(raw.meta["readings"]):
                windows = [(s["start"], s["end"]) for s in reading["sentences"]] + [(-np.inf, np.inf)]
                weights = np.stack([segment_weights(raw.gaze[number], *window) for window in windows])
                if kind == "rendered":
                    rows = rendered_maps(raw.gaze[number], weights, crop, 140, 14)
                else:
                    rows = patch_maps(raw.gaze[number], weights, crop, 10)
                expected.append(rows[rows.any(axis=1)])
        assert np.array_equal(batch.gaze.numpy(), np.concatenate(expected))
        sums = batch.gaze.sum(dim=1)
        assert ((sums > 200) if kind == "rendered" else (sums - 1).abs() < 1e-5).all()


def test_gaze_turns_with_the_image(tokenizer):
    """In training every crop and flip of the drawn map is the exact one's."""
    raw = reading_of(fix(0.3, 0.4, 0.05, 0.05), [("rib", 0.0, 1.0)])
    augment = {"flip": 0.5, "crop_scale": [0.6, 0.9], "crop_shift": 1.0}
    places = set()
    for position in range(12):
        both = [
            build_sample(raw, position, make_config(image_size=140, gaze_maps=kind, augment=augment), tokenizer, 0)
            for kind in ("exact", "rendered")
        ]
        if both[0].segments:
            exact, drawn = (sample.segments[0].gaze for sample in both)
            assert exact.argmax() == drawn.argmax()
            assert np.corrcoef(exact, drawn)[0, 1] > 0.999
            places.add(int(exact.argmax()))
    assert len(places) > 4
