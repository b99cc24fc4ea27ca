"""Evaluation batches: every sample once at any number of ranks, in a fixed order, without randomness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogaze.data.sample import build_sample
from cogaze.data.text import shard_texts, train_tokenizer
from tests.data.fakes import FakeShards
from tests.data.loading import assert_equal, content, evaluate, make_config


@pytest.fixture(scope="module")
def shards():
    return FakeShards(studies=30)


@pytest.fixture(scope="module")
def tokenizer(shards):
    return train_tokenizer(shard_texts(shards, "train"), 300)


def test_evaluation_shows_every_sample_once_at_any_world_size(shards, tokenizer):
    size = shards.size("validate")
    alone = content(evaluate(shards, tokenizer))
    alone.pop(-1, None)
    assert sorted(alone) == list(range(size))
    for world in (2, 3):
        ranks = [evaluate(shards, tokenizer, rank, world) for rank in range(world)]
        assert len({len(batches) for batches in ranks}) == 1
        assert len({batch.images for batches in ranks for batch in batches}) == 1
        ids = [s for batches in ranks for batch in batches for s in batch.sample_id.tolist() if s >= 0]
        assert sorted(ids) == list(range(size))
        together = content([batch for batches in ranks for batch in batches])
        together.pop(-1, None)
        assert together == alone


def test_evaluation_has_no_randomness_and_carries_fixations(shards, tokenizer):
    a, b = evaluate(shards, tokenizer), evaluate(shards, tokenizer, workers=1)
    for left, right in zip(a, b, strict=True):
        assert_equal(left, right)
    plain = build_sample(shards.read("validate", 0), 0, make_config(context_dropout=1.0), tokenizer, None)
    assert np.array_equal(a[0].image[0].numpy(), plain.image)
    assert sum(len(batch.fixations) for batch in a) > 100
    for batch in a:
        assert batch.fixations.shape == (len(batch.fixation_segment), 3)
        assert (batch.fixations[:, :2] >= 0).all()
        assert (batch.fixations[:, :2] < 1).all()
        assert (batch.fixation_segment < len(batch.segment_row)).all()


def test_padding_rows_count_for_nothing(shards, tokenizer):
    size = shards.size("validate")
    last = evaluate(shards, tokenizer, batch=size - 1)[-1]
    assert last.sample_id.tolist() == [size - 1] + [-1] * (size - 2)
    pad = last.sample_id < 0
    assert (last.report_row[pad] == -1).all()
    assert (last.context_row[pad] == -1).all()
    assert not last.labels_known[pad].any()
    assert not torch.isin(last.segment_image, pad.nonzero()[:, 0]).any()
    assert (last.study[pad] == -1).all()
    assert last.image[pad].float().std() > 0  # some real image


def test_evaluation_stops_early_when_asked(shards, tokenizer):
    assert [b.sample_id.tolist() for b in evaluate(shards, tokenizer, limit=2)] == [
        list(range(8)),
        list(range(8, 16)),
    ]
