"""Samples to a Batch: every tensor by hand, and the shapes of what is absent."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from cogaze.batch import Batch
from cogaze.data.loader import (
    collate,
)
from cogaze.data.sample import Sample, Segment


def make_sample(number: int, report=None, context=None, segments=()) -> Sample:
    image = np.full((1, 28, 28), number, np.uint8)
    labels = np.full(14, number % 2, np.float32)
    return Sample(number, image, number, 100 + number, labels, labels > 0, report, context, list(segments))


def make_segment(reading: int, ids: list[int], patch: int, seconds: float = 1.0) -> Segment:
    looked = np.array([[0.1, 0.2, seconds], [0.3, 0.4, seconds]], np.float32)
    return Segment(reading, ids, np.eye(4, dtype=np.float32)[patch], False, looked)


def test_a_batch_by_hand():
    samples = [
        make_sample(5, report=[2, 5, 9, 9], context=[2, 7]),
        make_sample(6, context=[2, 7]),
        make_sample(7, report=[2, 5, 9, 9], segments=[make_segment(0, [2, 6, 8], 1), make_segment(2, [2, 7], 3)]),
        make_sample(8, report=[2, 5], segments=[make_segment(0, [2, 6, 8], 0, 2.0)]),
    ]
    batch = collate(samples, evaluation=True, patches=4, pad_token_id=3)
    assert batch.image.shape == (4, 1, 28, 28)
    assert batch.image.dtype == torch.uint8
    assert batch.image[:, 0, 0, 0].tolist() == [5, 6, 7, 8]
    assert batch.view.tolist() == [5, 6, 7, 8]
    assert batch.study.tolist() == [105, 106, 107, 108]
    assert batch.sample_id.tolist() == [5, 6, 7, 8]
    assert batch.labels[:, 0].tolist() == [1, 0, 1, 0]
    assert batch.labels_known[:, 13].tolist() == [True, False, True, False]
    # each text once, in the order of its first appearance, padded with the tokenizer's own id
    assert batch.token_ids.tolist() == [[2, 5, 9, 9], [2, 7, 3, 3], [2, 6, 8, 3], [2, 5, 3, 3]]
    assert batch.token_mask.sum(1).tolist() == [4, 2, 3, 2]
    assert batch.report_row.tolist() == [0, -1, 0, 3]
    assert batch.context_row.tolist() == [1, 1, -1, -1]
    assert batch.segment_row.tolist() == [2, 1, 2]
    assert batch.segment_image.tolist() == [2, 2, 3]
    assert batch.segment_reading.tolist() == [0, 2, 0]
    assert batch.gaze.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    assert batch.fixation_segment.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.fixations[:, 2].tolist() == [1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("evaluation", [False, True])
def test_a_batch_without_text_and_gaze_keeps_its_shapes(evaluation):
    batch = collate([make_sample(1), make_sample(2)], evaluation, patches=9, pad_token_id=0)
    assert batch.token_ids.shape == batch.token_mask.shape == (0, 1)
    assert batch.gaze.shape == (0, 9)
    assert batch.segment_row.shape == batch.segment_image.shape == batch.segment_reading.shape == (0,)
    assert batch.report_row.tolist() == batch.context_row.tolist() == [-1, -1]
    assert (batch.fixations is not None) == evaluation
    if evaluation:
        assert batch.fixations.shape == (0, 3)
        assert batch.fixation_segment.shape == (0,)
    kinds = {
        torch.uint8: {"image"},
        torch.float32: {"labels", "gaze", "fixations"},
        torch.bool: {"labels_known", "token_mask"},
    }
    for field in fields(Batch):
        value = getattr(batch, field.name)
        if value is not None:
            expected = next((kind for kind, names in kinds.items() if field.name in names), torch.int64)
            assert value.dtype == expected, field.name
