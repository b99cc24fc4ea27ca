"""The quota of gaze images: which places, which images in turn, what it leaves of the ordinary order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogaze.data.order import GlobalOrder, SplitLayout, epoch_order, gaze_places, rank_positions
from tests.data.test_order import groups, make_layout, seeds, windows

batches = st.integers(2, 24).flatmap(lambda batch: st.tuples(st.just(batch), st.integers(1, batch - 1)))


def with_gaze(shards: list[list[int]], every: int) -> SplitLayout:
    return make_layout(shards, range(0, sum(map(sum, shards)), every))


layouts = st.builds(
    with_gaze,
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=8), min_size=1, max_size=5),
    st.integers(1, 7),
).filter(lambda layout: layout.images >= 24)


# ------------------------------------------------------------------------------------------------ which places
def test_places_by_hand():
    assert np.flatnonzero(gaze_places(8, 2)).tolist() == [3, 7]
    assert np.flatnonzero(gaze_places(8, 3)).tolist() == [2, 5, 7]
    assert np.flatnonzero(gaze_places(5, 4)).tolist() == [1, 2, 3, 4]
    assert not gaze_places(7, 0).any()


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.data())
def test_every_rank_and_micro_batch_gets_its_part_to_within_one(world, micro, accumulation, data):
    batch = world * micro * accumulation
    quota = data.draw(st.integers(0, batch))
    places = gaze_places(batch, quota)
    assert places.sum() == quota
    ranks = [rank_positions(places, rank, world, micro) for rank in range(world)]
    of_ranks = [int(np.sum(parts)) for parts in ranks]
    of_micro_batches = [int(part.sum()) for parts in ranks for part in parts]
    assert set(of_ranks) <= {quota // world, -(-quota // world)}  # rounded down, rounded up
    assert set(of_micro_batches) <= {quota * micro // batch, -(-quota * micro // batch)}


# ------------------------------------------------------------------------------------------------ which images
def test_steps_by_hand():
    """Twelve images, 1, 4 and 9 with gaze; 5 places of which 2 are gaze places: 3 images of the order a step."""
    layout = make_layout([[1] * 12], (1, 4, 9))
    order = GlobalOrder(layout, 0, 5, gaze_per_batch=2)
    assert (order.steps_per_epoch, order.dropped) == (4, 0)
    steps = [order.step(s) for s in range(12)]
    assert [s.epoch for s in steps] == [0] * 4 + [1] * 4 + [2] * 4
    for epoch in range(3):
        ordinary = [s.positions[[0, 1, 3]] for s in steps if s.epoch == epoch]
        assert np.concatenate(ordinary).tolist() == epoch_order(layout, 0, epoch).tolist()
        assert all(s.draws[[0, 1, 3]].tolist() == [epoch] * 3 for s in steps if s.epoch == epoch)
    taken = np.concatenate([s.positions[[2, 4]] for s in steps]).reshape(8, 3)  # 24 turns: eight cycles of three
    assert all(sorted(cycle) == [1, 4, 9] for cycle in taken.tolist())
    assert len({tuple(cycle) for cycle in taken.tolist()}) > 2  # each cycle has its own permutation
    assert np.concatenate([s.draws[[2, 4]] for s in steps]).tolist() == [-1 - n // 3 for n in range(24)]


@settings(max_examples=60)
@given(layouts, batches, seeds, windows, groups)
def test_the_ordinary_places_are_the_epochs_and_the_gaze_places_the_cycles(layout, sizes, seed, window, group_by):
    batch, quota = sizes
    order = GlobalOrder(layout, seed, batch, window, group_by, quota)
    ordinary = batch - quota
    assert (order.steps_per_epoch, order.dropped) == (layout.images // ordinary, layout.images % ordinary)
    steps = [order.step(s) for s in range(2 * order.steps_per_epoch)]
    places = gaze_places(batch, quota)
    for epoch in (0, 1):
        shown = np.concatenate([s.positions[~places] for s in steps if s.epoch == epoch])
        assert shown.tolist() == epoch_order(layout, seed, epoch, window, group_by)[: len(shown)].tolist()
    turns = np.concatenate([s.positions[places] for s in steps])
    draws = np.concatenate([s.draws[places] for s in steps])
    images = np.flatnonzero(layout.gaze)
    for cycle in range(len(turns) // len(images)):
        own = slice(cycle * len(images), (cycle + 1) * len(images))
        assert sorted(turns[own].tolist()) == images.tolist()
        assert set(draws[own].tolist()) == {-1 - cycle}
    rest = turns[len(turns) // len(images) * len(images) :].tolist()  # a cycle begun: nobody twice
    assert len(set(rest)) == len(rest)
    assert set(rest) <= set(images.tolist())
    # an image that comes twice in a step or an epoch is drawn anew each time
    pairs = [pair for s in steps for pair in zip(s.positions.tolist(), s.draws.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs)


@settings(max_examples=60)
@given(layouts, batches, seeds, windows, groups, st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_any_step_is_found_directly(layout, sizes, seed, window, group_by, asked):
    """In whatever order steps are asked for, each is what a fresh process finds."""
    batch, quota = sizes
    order = GlobalOrder(layout, seed, batch, window, group_by, quota)
    for step in [*asked, asked[0]]:
        fresh = GlobalOrder(layout, seed, batch, window, group_by, quota).step(step)
        here = order.step(step)
        assert (here.step, here.epoch) == (fresh.step, fresh.epoch)
        assert np.array_equal(here.positions, fresh.positions)
        assert np.array_equal(here.draws, fresh.draws)


def test_far_into_a_run_without_walking_there():
    """Step 10^12 takes its images from cycle 8 * 10^12 // 3 on: two shuffles of three, no walk."""
    order = GlobalOrder(make_layout([[1] * 40], (3, 5, 8)), 0, 16, gaze_per_batch=8)
    far = order.step(10**12)
    assert far.draws[gaze_places(16, 8)].tolist() == [-1 - (8 * 10**12 + j) // 3 for j in range(8)]


def test_cycles_depend_on_the_seed_and_not_on_the_window():
    layout = make_layout([[1] * 30] * 2, range(0, 60, 3))
    places = gaze_places(20, 10)
    turns = [
        GlobalOrder(layout, seed, 20, window, "study", 10).step(0).positions[places].tolist()
        for seed, window in ((0, None), (0, 1), (1, None))
    ]
    assert turns[0] == turns[1] != turns[2]


def test_one_gaze_image_fills_every_gaze_place():
    order = GlobalOrder(make_layout([[2, 2]], [2]), 0, 4, gaze_per_batch=3)
    assert order.steps_per_epoch == 4
    for step in range(8):
        assert order.step(step).positions[gaze_places(4, 3)].tolist() == [2, 2, 2]
        assert order.step(step).draws[gaze_places(4, 3)].tolist() == [-1 - 3 * step - j for j in range(3)]


def test_without_a_quota_nothing_changes():
    layout = make_layout([[3, 1, 2]], [0, 4])
    for quota in (None, 0):
        steps = [GlobalOrder(layout, 0, 2, gaze_per_batch=quota).step(s) for s in range(3)]
        assert np.concatenate([s.positions for s in steps]).tolist() == epoch_order(layout, 0, 0).tolist()
        assert all(s.draws.tolist() == [0, 0] for s in steps)


def test_the_turns_never_change():
    """A resumed run relies on it: these numbers may not change with our code or with numpy."""
    order = GlobalOrder(make_layout([[1] * 10], range(0, 10, 2)), 7, 4, gaze_per_batch=2)
    assert [order.step(s).positions.tolist() for s in (0, 1, 7)] == [[2, 4, 5, 0], [7, 6, 8, 8], [1, 8, 8, 6]]


def test_quotas_that_cannot_be_are_refused():
    layout = make_layout([[1] * 6], [0])
    with pytest.raises(ValueError, match="8 gaze places in a global batch of 8; give 1 to 7"):
        GlobalOrder(layout, 0, 8, gaze_per_batch=8)
    with pytest.raises(ValueError, match="-1 gaze places"):
        GlobalOrder(layout, 0, 8, gaze_per_batch=-1)
    with pytest.raises(ValueError, match="no image with gaze"):
        GlobalOrder(make_layout([[1] * 6]), 0, 4, gaze_per_batch=1)
    with pytest.raises(ValueError, match="6 images, fewer than one global batch of 8, 7 of its places open to all"):
        GlobalOrder(layout, 0, 8, gaze_per_batch=1)
    assert GlobalOrder(layout, 0, 8, gaze_per_batch=2).steps_per_epoch == 1
