"""The loader in training: the order of `order.py` at any number of ranks and workers, a quota of gaze, refusals."""

from __future__ import annotations

import pytest
import torch

from cogaze.config import ConfigError, validate
from cogaze.data.loader import (
    train_batches,
    training_order,
)
from cogaze.data.text import shard_texts, train_tokenizer
from tests.data.fakes import FakeShards
from tests.data.loading import assert_equal, content, make_config, run


@pytest.fixture(scope="module")
def shards():
    return FakeShards(studies=30)


@pytest.fixture(scope="module")
def tokenizer(shards):
    return train_tokenizer(shard_texts(shards, "train"), 300)


# ------------------------------------------------------------------------------------------------ training
def test_every_step_is_the_orders_at_any_world_size_and_micro_batch(shards, tokenizer):
    order = training_order(make_config(), shards)
    whole = run(make_config(micro=8), shards, tokenizer)
    for world, micro in [(1, 2), (2, 4), (2, 2), (4, 1)]:
        ranks = [run(make_config(micro=micro), shards, tokenizer, rank, world) for rank in range(world)]
        for step, (epoch, (reference,)) in whole.items():
            assert epoch == step // order.steps_per_epoch
            assert reference.sample_id.tolist() == order.step(step).positions.tolist()
            assert all(len(micros) == 8 // world // micro for _, micros in (r[step] for r in ranks))
            parts = [batch for r in ranks for batch in r[step][1]]
            assert torch.cat([part.sample_id for part in parts]).tolist() == reference.sample_id.tolist()
            assert content(parts) == content([reference])


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (2, 2), (4, 1)])
def test_steps_hold_the_same_samples_for_any_ranks_and_workers(shards, tokenizer, world, workers):
    order = training_order(make_config(), shards)
    ranks = [run(make_config(workers=workers), shards, tokenizer, rank, world, 5, 8) for rank in range(world)]
    for step in (5, 6, 7):
        ids = torch.cat([batch.sample_id for r in ranks for batch in r[step][1]])
        assert ids.tolist() == order.step(step).positions.tolist()


def test_workers_change_nothing(shards, tokenizer):
    inline = run(make_config(), shards, tokenizer, stop=5)
    worked = run(make_config(workers=2), shards, tokenizer, stop=5)
    assert list(inline) == list(worked) == list(range(5))
    for step in inline:
        assert inline[step][0] == worked[step][0]
        for a, b in zip(inline[step][1], worked[step][1], strict=True):
            assert_equal(a, b)


def test_starting_later_gives_the_same_steps(shards, tokenizer):
    order = training_order(make_config(), shards)
    start = order.steps_per_epoch + 2  # in the middle of the second epoch
    whole = run(make_config(), shards, tokenizer, stop=start + 2)
    tail = run(make_config(), shards, tokenizer, start=start, stop=start + 2)
    assert list(tail) == [start, start + 1]
    for step, (epoch, micro) in tail.items():
        assert epoch == whole[step][0] == 1
        for a, b in zip(micro, whole[step][1], strict=True):
            assert_equal(a, b)
    assert run(make_config(), shards, tokenizer, start=4, stop=4) == {}


def test_a_sample_looks_different_in_another_epoch(shards, tokenizer):
    order = training_order(make_config(), shards)
    whole = run(make_config(micro=8), shards, tokenizer, stop=2 * order.steps_per_epoch)
    first, second = (content([m for e, (m,) in whole.values() if e == epoch]) for epoch in (0, 1))
    shared = set(first) & set(second)
    assert len(shared) > 20
    assert all(first[s][0] != second[s][0] for s in shared)  # pixels
    assert all(first[s][1:3] == second[s][1:3] for s in shared)  # study, report


def test_a_run_resumed_at_other_world_sizes_shows_the_same_samples(shards, tokenizer):
    """1 -> 2 -> 4 -> 1 ranks, each with another micro-batch: everything a sample says, and its place."""
    whole = run(make_config(micro=8), shards, tokenizer, stop=12)
    for start, stop, world, micro in [(0, 3, 1, 4), (3, 7, 2, 2), (7, 8, 4, 2), (8, 12, 1, 1)]:
        ranks = [run(make_config(micro=micro), shards, tokenizer, rank, world, start, stop) for rank in range(world)]
        for step in range(start, stop):
            parts = [batch for r in ranks for batch in r[step][1]]
            reference = whole[step][1]
            assert torch.cat([part.sample_id for part in parts]).tolist() == reference[0].sample_id.tolist()
            assert content(parts) == content(reference)


# ------------------------------------------------------------------------------------------------ a quota of gaze
def test_a_quota_fills_its_places_with_gaze_images_on_every_rank(shards, tokenizer):
    settings = {"gaze_per_batch": 4, "context_dropout": 0.0}
    plain, quota = (training_order(make_config(**kind), shards) for kind in ({}, settings))
    images = shards.size("train")
    assert (plain.steps_per_epoch, plain.dropped) == (images // 8, images % 8)
    assert (quota.steps_per_epoch, quota.dropped) == (images // 4, images % 4)
    whole = run(make_config(micro=8, **settings), shards, tokenizer, stop=20)
    for world, micro in [(2, 2), (4, 2)]:
        ranks = [run(make_config(micro=micro, **settings), shards, tokenizer, r, world, 13, 20) for r in range(world)]
        for step in range(13, 20):
            epoch, (reference,) = whole[step]
            assert epoch == step // quota.steps_per_epoch
            parts = [batch for r in ranks for batch in r[step][1]]
            assert torch.cat([part.sample_id for part in parts]).tolist() == reference.sample_id.tolist()
            for part in parts:  # a rank's every second image is from the quota
                assert shards.gaze[part.sample_id[1::2]].all()
    shown = torch.cat([whole[s][1][0].sample_id[::2] for s in range(quota.steps_per_epoch)])
    assert len(set(shown.tolist())) == len(shown) == images - quota.dropped


def test_a_gaze_image_looks_different_each_time_it_comes(shards, tokenizer):
    whole = run(make_config(micro=8, gaze_per_batch=4), shards, tokenizer, stop=10)  # 40 turns of some 20 images
    seen: dict[int, list[bytes]] = {}
    for _, (batch,) in whole.values():
        for image, sample in zip(batch.image, batch.sample_id.tolist(), strict=True):
            seen.setdefault(sample, []).append(image.numpy().tobytes())
    assert max(map(len, seen.values())) > 2
    assert all(len(set(looks)) == len(looks) for looks in seen.values())


def test_a_quota_that_nothing_can_fill_is_a_configuration_error(shards, tokenizer):
    blind = FakeShards(studies=12)
    blind.gaze[:] = False
    with pytest.raises(ConfigError, match=r"data\.gaze_per_batch is 2, but no image of the split 'train' has gaze"):
        training_order(make_config(gaze_per_batch=2), blind)
    with pytest.raises(ConfigError, match=r"data\.gaze_per_batch 8 leaves no place .* 8; give at most 7"):
        validate({"data": {"gaze_per_batch": 8}, "train": {"global_batch": 8, "steps": 1}}, "test")


# ------------------------------------------------------------------------------------------------ segments, refusals
def test_gaze_groups_are_as_the_contract_says(shards, tokenizer):
    seen = 0
    for _, micro in run(make_config(micro=8), shards, tokenizer).values():
        batch = micro[0]
        seen += len(batch.segment_row)
        assert (batch.segment_image.diff() >= 0).all()
        sums = batch.gaze.sum(dim=1)
        assert ((sums - 1).abs().lt(1e-5) | sums.eq(0)).all()
        assert batch.fixations is None
        used = torch.cat([batch.report_row, batch.context_row, batch.segment_row]).unique()
        assert used[used >= 0].tolist() == list(range(len(batch.token_ids)))  # no text that nobody uses
        distinct = {tuple(row.tolist()) for row in batch.token_ids}
        assert len(distinct) == len(batch.token_ids)
        assert batch.token_mask.sum(1).max() == batch.token_ids.shape[1] <= 48
    assert seen > 50


def test_what_does_not_fit_is_refused_before_anything_is_read(shards, tokenizer):
    with pytest.raises(ValueError, match=r"not a multiple of 3 ranks x train.micro_batch 2"):
        run(make_config(), shards, tokenizer, world=3)
    with pytest.raises(ValueError, match="fewer than one global batch of 400"):
        train_batches(make_config(batch=400), shards, tokenizer, rank=0, world=1, start_step=0, total_steps=1)


def test_loading_leaves_the_global_random_numbers_alone(shards, tokenizer):
    state = torch.get_rng_state()
    for workers in (0, 1):
        run(make_config(workers=workers), shards, tokenizer, stop=2)
    assert torch.equal(torch.get_rng_state(), state)
