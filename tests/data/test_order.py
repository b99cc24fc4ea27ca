from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogaze.data.order import GlobalOrder, SplitLayout, epoch_order, eval_batches, philox, rank_positions


def make_layout(shards: list[list[int]], gaze: Sequence[int] = ()) -> SplitLayout:
    """Shards given as the image counts of their studies; `gaze` are the positions with gaze."""
    runs = np.array([run for shard in shards for run in shard], np.int64)
    flags = np.isin(np.arange(runs.sum()), gaze)
    return SplitLayout(runs, flags, np.array([sum(shard) for shard in shards], np.int64))


layouts = st.builds(
    make_layout,
    st.lists(st.lists(st.integers(1, 4), max_size=8), min_size=1, max_size=6),
    st.lists(st.integers(0, 60), max_size=12),
)
seeds = st.integers(-(2**63), 2**63)
windows = st.none() | st.integers(1, 7)
groups = st.sampled_from(["study", "image"])


def study_of(layout: SplitLayout) -> np.ndarray:
    return np.repeat(np.arange(len(layout.study_runs)), layout.study_runs)


def shard_of(layout: SplitLayout) -> np.ndarray:
    return np.repeat(np.arange(len(layout.shard_images)), layout.shard_images)


# ------------------------------------------------------------------------------------------------ one epoch
@given(layouts, seeds, st.integers(0, 9), windows, groups)
def test_an_epoch_is_a_permutation_and_a_function_of_its_arguments(layout, seed, epoch, window, group_by):
    order = epoch_order(layout, seed, epoch, window, group_by)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(layout.images))
    assert np.array_equal(order, epoch_order(layout, seed, epoch, window, group_by))


@given(layouts, seeds, st.integers(0, 9), windows)
def test_a_study_stays_together_in_its_own_order(layout, seed, epoch, window):
    order = epoch_order(layout, seed, epoch, window, "study")
    studies = study_of(layout)[order]
    new = np.flatnonzero(np.diff(studies, prepend=-1))  # where another study begins
    assert len(new) == len(layout.study_runs)
    assert (np.diff(order)[np.diff(studies) == 0] == 1).all()


@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=8), min_size=1, max_size=7).map(make_layout),
    seeds,
    st.integers(1, 8),
    groups,
)
def test_a_window_holds_whole_shards_and_no_more_of_them_than_asked_for(layout, seed, window, group_by):
    shards = shard_of(layout)[epoch_order(layout, seed, 0, window, group_by)].tolist()
    while shards:
        inside = list(dict.fromkeys(shards))[:window]  # the window's shards are the first to turn up
        size = int(layout.shard_images[inside].sum())
        assert set(shards[:size]) == set(inside)
        shards = shards[size:]


def test_epochs_seeds_and_shard_orders_differ():
    layout = make_layout([[1, 2, 3] * 10] * 8)
    orders = [epoch_order(layout, seed, epoch, 1).tolist() for seed in (0, 1, -1) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    assert len({tuple(dict.fromkeys(shard_of(layout)[order].tolist())) for order in orders}) > 5


def test_windows_are_shuffled_differently():
    layout = make_layout([[1] * 20] * 4)
    order = epoch_order(layout, 0, 0, 1)
    assert len({tuple(window) for window in (order.reshape(4, 20) % 20).tolist()}) == 4


def test_group_by_image_pulls_studies_apart():
    layout = make_layout([[3] * 200])
    neighbours = {
        group: int((np.diff(study_of(layout)[epoch_order(layout, 0, 0, None, group)]) == 0).sum())
        for group in ("study", "image")
    }
    assert neighbours["study"] == 400  # two pairs in each of 200 studies
    assert neighbours["image"] < 10


def test_every_study_comes_first_equally_often():
    layout = make_layout([[1, 2], [1, 1]])
    first = [int(study_of(layout)[epoch_order(layout, 5, epoch)[0]]) for epoch in range(2000)]
    counts = np.bincount(first, minlength=4)
    assert (np.abs(counts - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)).all()  # five standard deviations


def test_the_order_never_changes():
    """A resumed run relies on it: these numbers may not change with our code or with numpy."""
    layout = make_layout([[1, 2], [3], [1, 1]])
    assert epoch_order(layout, 7, 0).tolist() == [7, 6, 0, 1, 2, 3, 4, 5]
    assert epoch_order(layout, 7, 3, 2, "image").tolist() == [2, 6, 0, 1, 7, 3, 5, 4]


def test_streams_of_one_epoch_do_not_overlap():
    words = [philox(3, 4, stream, item).random_raw(50).tolist() for stream in range(4) for item in range(3)]
    assert len({word for run in words for word in run}) == 12 * 50


def test_a_window_below_one_is_refused():
    with pytest.raises(ValueError, match="window of 0"):
        epoch_order(make_layout([[1]]), 0, 0, 0)


@pytest.mark.parametrize(
    ("runs", "gaze", "shards", "fault"),
    [
        ([2, 1], 3, [2], "counts 3 images by study, 2 by shard"),
        ([2, 1], 2, [3], "2 gaze flags"),
        ([2, 2], 4, [1, 3], "crosses a shard"),
        ([2, 0], 2, [2], "empty study"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(runs, gaze, shards, fault):
    with pytest.raises(ValueError, match=fault):
        SplitLayout(np.array(runs), np.zeros(gaze, bool), np.array(shards))


# ------------------------------------------------------------------------------------------------ steps
@settings(max_examples=50)
@given(layouts.filter(lambda layout: layout.images > 0), seeds, st.integers(1, 12), windows, groups, st.data())
def test_steps_are_the_epochs_in_order_and_any_of_them_is_found_directly(layout, seed, batch, window, group_by, data):
    if layout.images < batch:
        with pytest.raises(ValueError, match=rf"{layout.images} images, fewer than one global batch of {batch}"):
            GlobalOrder(layout, seed, batch, window, group_by)
        return
    walked = GlobalOrder(layout, seed, batch, window, group_by)
    steps = [walked.step(s) for s in range(3 * walked.steps_per_epoch)]
    assert (walked.steps_per_epoch, walked.dropped) == (layout.images // batch, layout.images % batch)
    for epoch in range(3):
        whole = epoch_order(layout, seed, epoch, window, group_by)
        mine = np.concatenate([s.positions for s in steps if s.epoch == epoch])
        assert np.array_equal(mine, whole[: len(mine)])
        assert len(whole) - len(mine) == walked.dropped < batch
        assert len(set(mine.tolist())) == len(mine)
    s = data.draw(st.integers(0, len(steps) - 1))
    direct = GlobalOrder(layout, seed, batch, window, group_by).step(s)
    assert (direct.step, direct.epoch) == (s, steps[s].epoch)
    assert np.array_equal(direct.positions, steps[s].positions)


def test_the_images_left_over_change_with_the_epoch():
    order = GlobalOrder(make_layout([[1] * 50]), 0, 8)
    left = [set(range(50)) - {int(p) for i in range(6) for p in order.step(6 * e + i).positions} for e in range(4)]
    assert order.dropped == 2
    assert all(len(missing) == 2 for missing in left)
    assert len(set().union(*left)) > 4


@given(layouts.filter(lambda layout: layout.images >= 12), seeds, st.integers(4, 12), windows)
def test_only_the_study_on_a_border_is_cut_and_into_two_steps_in_a_row(layout, seed, batch, window):
    order = GlobalOrder(layout, seed, batch, window)  # no study has more images than a step has places
    steps = [study_of(layout)[order.step(s).positions] for s in range(order.steps_per_epoch)]
    homes = {}
    for s, studies in enumerate(steps):
        for study in studies.tolist():
            homes.setdefault(study, set()).add(s)
    cut = {study: sorted(at) for study, at in homes.items() if len(at) > 1}
    for study, at in cut.items():
        assert at == [at[0], at[0] + 1]
        assert steps[at[0]][-1] == steps[at[1]][0] == study  # its images stand on both sides of that border
    assert len({at[0] for at in cut.values()}) == len(cut)  # one study a border at most
    left_over = epoch_order(layout, seed, 0, window)[len(steps) * batch :]
    for study, at in homes.items():  # nothing of a study is missing but what the end of the epoch cuts off
        shown = sum((steps[s] == study).sum() for s in at)
        assert shown + (study_of(layout)[left_over] == study).sum() == layout.study_runs[study]
        assert shown == layout.study_runs[study] or max(at) == len(steps) - 1


def test_a_study_larger_than_a_step_goes_on_in_the_next():
    order = GlobalOrder(make_layout([[5]]), 0, 2)
    assert (order.steps_per_epoch, order.dropped) == (2, 1)
    assert [order.step(s).positions.tolist() for s in range(4)] == [[0, 1], [2, 3], [0, 1], [2, 3]]


def test_one_image_is_a_whole_epoch():
    order = GlobalOrder(make_layout([[1]]), 3, 1)
    assert (order.steps_per_epoch, order.dropped) == (1, 0)
    samples = [order.step(s) for s in range(3)]
    assert [(s.epoch, s.positions.tolist(), s.draws.tolist()) for s in samples] == [(e, [0], [e]) for e in range(3)]


def test_shards_without_images_change_nothing():
    empty, none = make_layout([[], [2, 1], [], [3], []]), make_layout([[2, 1], [3]])
    for layout in (empty, none):
        steps = [GlobalOrder(layout, 0, 3, 1).step(s).positions for s in range(2)]
        assert sorted(np.concatenate(steps).tolist()) == list(range(6))


def test_bad_steps_and_batches_are_refused():
    with pytest.raises(ValueError, match="step -1"):
        GlobalOrder(make_layout([[1]]), 0, 1).step(-1)
    with pytest.raises(ValueError, match="batch of 0"):
        GlobalOrder(make_layout([[1]]), 0, 0)


# ------------------------------------------------------------------------------------------------ ranks
@given(st.sampled_from([1, 2, 3, 4, 6]), st.sampled_from([1, 2, 4]), st.integers(1, 3))
def test_ranks_and_micro_batches_in_order_give_the_step_back(world, micro, accumulation):
    positions = np.random.default_rng(0).permutation(world * micro * accumulation)
    parts = [rank_positions(positions, rank, world, micro) for rank in range(world)]
    assert all(len(part) == accumulation for part in parts)
    assert all(piece.shape == (micro,) for part in parts for piece in part)
    assert np.array_equal(np.concatenate([piece for part in parts for piece in part]), positions)


@given(
    layouts.filter(lambda layout: layout.images >= 8),
    seeds,
    windows,
    groups,
    st.sampled_from([None, 1, 3]),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 2, 4, 8]), st.data()), min_size=2, max_size=6),
)
@settings(max_examples=60)
def test_a_run_cut_anywhere_goes_on_with_the_same_images_at_any_world_size(layout, seed, window, group_by, quota, legs):
    """Each leg is a new process: a new order, another number of ranks and another micro-batch."""
    quota = quota if layout.gaze.any() else None
    unbroken = GlobalOrder(layout, seed, 8, window, group_by, quota)
    at = 0
    for length, world, data in legs:
        micro = data.draw(st.sampled_from([m for m in (1, 2, 4, 8) if world * m <= 8]))
        resumed = GlobalOrder(layout, seed, 8, window, group_by, quota)
        for step in range(at, at + length):
            positions = resumed.step(step).positions
            ranks = [rank_positions(positions, rank, world, micro) for rank in range(world)]
            assert np.array_equal(np.concatenate([p for parts in ranks for p in parts]), unbroken.step(step).positions)
        at += length


def test_a_remainder_is_an_error_that_names_what_fits():
    with pytest.raises(ValueError, match=r"160 is not a multiple of 3 ranks x train.micro_batch 40 = 120; .*fit: 120"):
        rank_positions(np.arange(160), 0, 3, 40)
    with pytest.raises(ValueError, match="nearest that fit: 320"):
        rank_positions(np.arange(160), 0, 4, 80)


@given(st.integers(0, 100), st.integers(1, 20), st.integers(1, 8))
def test_evaluation_shows_each_image_once_in_the_same_batches_at_any_world_size(n, batch, world):
    ranks = [eval_batches(n, batch, rank, world) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {-(-n // batch)}
    assert {part.shape for batches in ranks for part in batches} <= {(-(-batch // world),)}
    for number in range(len(ranks[0])):
        together = np.concatenate([batches[number] for batches in ranks])
        expected = list(range(number * batch, min((number + 1) * batch, n)))
        assert together[together >= 0].tolist() == expected
        assert (together[together < 0] == -1).all()


def test_an_evaluation_batch_below_one_is_refused():
    with pytest.raises(ValueError, match="evaluation batch of 0"):
        eval_batches(5, 0, 0, 1)
