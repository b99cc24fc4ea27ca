"""Settings for small batches, what a rank is given of some steps or of a split, and comparing batches."""

from __future__ import annotations

from dataclasses import fields

import torch

from cogaze.batch import Batch
from cogaze.config import Config
from cogaze.data.loader import (
    eval_batches_of,
    train_batches,
)

AUGMENT = {"crop_scale": [0.6, 1.0], "crop_shift": 1.0, "flip": 0.5, "brightness": 0.1, "contrast": 0.1}


def make_config(batch: int = 8, micro: int = 2, workers: int = 0, **data) -> Config:
    data = {"image_size": 28, "workers": workers, "prefetch": 2, "augment": AUGMENT, "context_dropout": 0.3, **data}
    train = {"global_batch": batch, "micro_batch": micro, "steps": 1}
    return Config.model_validate({"data": data, "train": train, "text": {"max_tokens": 48}})


def run(config, shards, tokenizer, rank=0, world=1, start=0, stop=9):
    """{step: (epoch, micro-batches)}"""
    batches = train_batches(config, shards, tokenizer, rank=rank, world=world, start_step=start, total_steps=stop)
    return {step: (epoch, micro) for step, epoch, micro in batches}


def assert_equal(a: Batch, b: Batch) -> None:
    for field in fields(Batch):
        left, right = getattr(a, field.name), getattr(b, field.name)
        assert (left is None) == (right is None), field.name
        assert left is None or (left.dtype == right.dtype and torch.equal(left, right)), field.name


def texts_of(batch: Batch, rows: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(batch.token_ids[r][batch.token_mask[r]].tolist()) if r >= 0 else () for r in rows.tolist()]


def content(batches: list[Batch]) -> dict[int, tuple]:
    """What each sample of some batches says, wherever it stands: sample id -> everything."""
    got = {}
    for batch in batches:
        reports, contexts = texts_of(batch, batch.report_row), texts_of(batch, batch.context_row)
        transcripts = texts_of(batch, batch.segment_row)
        for row, sample in enumerate(batch.sample_id.tolist()):
            mine = (batch.segment_image == row).nonzero()[:, 0].tolist()
            got[sample] = (
                batch.image[row].numpy().tobytes(),
                int(batch.study[row]),
                reports[row],
                contexts[row],
                [(int(batch.segment_reading[s]), transcripts[s], batch.gaze[s].numpy().tobytes()) for s in mine],
            )
    return got


def evaluate(shards, tokenizer, rank=0, world=1, batch=8, limit=None, workers=0):
    return list(
        eval_batches_of(
            make_config(workers=workers),
            shards,
            tokenizer,
            "validate",
            rank=rank,
            world=world,
            batch=batch,
            max_batches=limit,
        )
    )
