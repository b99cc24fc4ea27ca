"""Who sees which image when: pure integer arithmetic on what the manifests say, no files and no state.

    shards shuffled by (seed, epoch)  ->  studies shuffled inside windows of shards  ->  one order of the epoch
    global step s  ->  images [oB, (o+1)B) of epoch s // steps_per_epoch, o = s % steps_per_epoch
    rank r of W  ->  its contiguous B/W of these, cut in micro-batches

The samples of a global step depend on neither the number of ranks nor the number of workers, and any step is found
without walking through the ones before it: so resuming is arithmetic, at any world size.

With a quota of Q gaze images a batch (`data.gaze_per_batch`) the order above fills B - Q places of every step, and the
steps of an epoch follow from these; the other Q take the gaze images in turn:

    gaze place j of step s  ->  number n = sQ + j  ->  image n % G of the permutation of cycle n // G, G gaze images

Gaze images then come in gaze places and in ordinary ones, so "each image once an epoch" holds of the ordinary places
alone. A study's other images do not come along. The gaze places lie evenly spread over the batch (`gaze_places`), so
ranks and micro-batches share them to within one.

The orders come from raw Philox words and a stable sort, not from `Generator.permutation`: numpy promises to keep the
former over its versions, and a run may be resumed with another numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
GroupBy = Literal["study", "image"]

# The streams of random numbers that hang on (seed, epoch); one number each, so that none overlaps another.
STREAM_SHARDS, STREAM_WINDOW, STREAM_AUGMENT, STREAM_GAZE = 0, 1, 2, 3
_WORD = (1 << 64) - 1


class OrderError(ValueError):
    """A layout or batch that gives no order; the message says which number is wrong and what would do."""


@dataclass(frozen=True)
class SplitLayout:
    """What the order needs to know of a split, in manifest order (shard by shard, key by key).

    Raises OrderError where the arrays contradict each other.
    """

    study_runs: Int64  # (R,), images of each run of one study; a run never crosses a shard
    gaze: NDArray[np.bool_]  # (images,), True where the image has gaze
    shard_images: Int64  # (shards,), images of each shard

    def __post_init__(self) -> None:
        runs, images = int(self.study_runs.sum()), int(self.shard_images.sum())
        if not runs == images == len(self.gaze):
            raise OrderError(
                f"the layout counts {runs} images by study, {images} by shard and {len(self.gaze)} gaze flags; "
                "run `cogaze data check` on the shard folder"
            )
        if (self.study_runs < 1).any() or (self.shard_images < 0).any():
            raise OrderError("the layout holds an empty study or a negative count; run `cogaze data check`")
        if not np.isin(np.cumsum(self.shard_images), np.append(np.cumsum(self.study_runs), 0)).all():
            raise OrderError("a run of one study crosses a shard in the layout; run `cogaze data check`")

    @property
    def images(self) -> int:
        return len(self.gaze)


def philox(seed: int, epoch: int, stream: int, item: int = 0) -> np.random.Philox:
    """Counter-based generator of (seed, epoch, stream, item): equal arguments, equal numbers; others never overlap.

    Each (stream, item) owns 2^128 consecutive counter values, so no two of them can run into one another.
    """
    counter = np.array([0, 0, item, stream], dtype=np.uint64)
    return np.random.Philox(counter=counter, key=np.array([seed & _WORD, epoch & _WORD], dtype=np.uint64))


def epoch_order(
    layout: SplitLayout, seed: int, epoch: int, window: int | None = None, group_by: GroupBy = "study"
) -> Int64:
    """Order of one epoch: int64 (images,), a permutation of the split's positions.

    Shards are shuffled; then, inside each window of `window` consecutive shuffled shards (None = all of them), studies
    are shuffled, each keeping its images together and in their order. `group_by="image"` shuffles single images instead
    (the paper's plain shuffle). The result depends on the arguments alone.
    """
    if window is not None and window < 1:
        raise OrderError(f"shuffle window of {window} shards; give at least 1, or null for all")
    lengths = layout.study_runs if group_by == "study" else np.ones(layout.images, np.int64)  # (R,)
    starts = np.cumsum(lengths) - lengths  # (R,), first position of each run
    ends = np.searchsorted(starts, np.cumsum(layout.shard_images))  # (shards,), runs before the end of each shard
    begins = np.append(0, ends[:-1])  # (shards,)

    shards = _shuffle(philox(seed, epoch, STREAM_SHARDS), len(layout.shard_images))
    size = window or max(len(shards), 1)
    pieces = []
    for number, first in enumerate(range(0, len(shards), size)):
        chosen = shards[first : first + size]
        runs = _ranges(begins[chosen], ends[chosen] - begins[chosen])
        pieces.append(runs[_shuffle(philox(seed, epoch, STREAM_WINDOW, number), len(runs))])
    order = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)  # (R,), runs in the order of the epoch
    return _ranges(starts[order], lengths[order])


@dataclass(frozen=True)
class StepSamples:
    """The images of one optimizer step over all ranks."""

    step: int
    epoch: int
    positions: Int64  # (B,)
    # (B,), the number that an image's augmentation is drawn by: the epoch, in gaze places -1 - cycle, so that an image
    # which comes several times an epoch looks different each time
    draws: Int64


class GlobalOrder:
    """The images of every optimizer step of a run.

    The last images of an epoch, too few for a step, are dropped; as each epoch has its own order, they are different
    ones every time. Raises OrderError where the split cannot fill one step, and for a quota that leaves no ordinary
    place or finds no gaze image.
    """

    def __init__(
        self,
        layout: SplitLayout,
        seed: int,
        global_batch: int,
        window: int | None = None,
        group_by: GroupBy = "study",
        gaze_per_batch: int | None = None,
    ) -> None:
        if global_batch < 1:
            raise OrderError(f"global batch of {global_batch}; give at least 1")
        quota = gaze_per_batch or 0
        if not 0 <= quota < global_batch:
            raise OrderError(f"{quota} gaze places in a global batch of {global_batch}; give 1 to {global_batch - 1}")
        if quota and not layout.gaze.any():
            raise OrderError(f"{quota} gaze places in a batch, but the training split has no image with gaze")
        if layout.images < global_batch - quota:
            places = f", {global_batch - quota} of its places open to all images" if quota else ""
            raise OrderError(
                f"the training split has {layout.images} images, fewer than one global batch of {global_batch}"
                f"{places}; lower train.global_batch (and train.micro_batch) or build more shards"
            )
        self.layout, self.seed, self.global_batch = layout, seed, global_batch
        self.window, self.group_by, self.quota = window, group_by, quota
        self.ordinary = global_batch - quota  # places of a step that the epoch's order fills
        self.steps_per_epoch, self.dropped = divmod(layout.images, self.ordinary)  # dropped: images left out per epoch
        self._places = gaze_places(global_batch, quota)  # (B,)
        self._gaze_images = np.flatnonzero(layout.gaze).astype(np.int64)  # (G,), positions
        # the last epoch's order and the last cycle's, kept
        self._epoch, self._cycle = -1, -1
        self._order: Int64 = np.zeros(0, np.int64)
        self._turns: Int64 = np.zeros(0, np.int64)

    def step(self, step: int) -> StepSamples:
        """Images of global step `step` (from 0). Constant time inside the epoch asked for last, one shuffle else."""
        if step < 0:
            raise OrderError(f"step {step} is before the start of the run")
        epoch, offset = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = epoch_order(self.layout, self.seed, epoch, self.window, self.group_by)
            self._epoch = epoch
        first = offset * self.ordinary
        positions = np.empty(self.global_batch, np.int64)
        draws = np.full(self.global_batch, epoch, np.int64)
        positions[~self._places] = self._order[first : first + self.ordinary]
        if self.quota:
            cycles, places = np.divmod(np.arange(step * self.quota, (step + 1) * self.quota), len(self._gaze_images))
            in_turn = [self._of_cycle(c)[places[cycles == c]] for c in range(int(cycles[0]), int(cycles[-1]) + 1)]
            positions[self._places] = np.concatenate(in_turn)
            draws[self._places] = -1 - cycles
        return StepSamples(step, epoch, positions, draws)

    def _of_cycle(self, cycle: int) -> Int64:
        """The gaze images in the order of one cycle, int64 (G,): a function of (seed, cycle)."""
        if cycle != self._cycle:
            bits = philox(self.seed, cycle, STREAM_GAZE)
            self._turns = self._gaze_images[_shuffle(bits, len(self._gaze_images))]
            self._cycle = cycle
        return self._turns


def gaze_places(global_batch: int, quota: int) -> NDArray[np.bool_]:
    """Which of a batch's places are gaze places, bool (B,), `quota` of them True.

    Place p is one where (p+1) * quota // B is more than p * quota // B, so that any k consecutive places hold
    k * quota / B of them, rounded down or up: every rank and every micro-batch gets its part, at any world size.
    """
    return np.diff(np.arange(global_batch + 1) * quota // global_batch) > 0


def rank_positions(positions: Int64, rank: int, world: int, micro_batch: int) -> list[Int64]:
    """A rank's contiguous share of a step, (B,) -> [(micro_batch,), ...]; ranks and micro-batches in order give B back.

    Raises OrderError where B is no multiple of world * micro_batch.
    """
    at_once = world * micro_batch
    if len(positions) % at_once or not len(positions):
        raise OrderError(
            f"train.global_batch {len(positions)} is not a multiple of {world} ranks x train.micro_batch {micro_batch} "
            f"= {at_once}; nearest that fit: {max(len(positions) // at_once, 1) * at_once} or a smaller micro_batch"
        )
    share = positions.reshape(world, -1)[rank]  # (B/W,)
    return list(share.reshape(-1, micro_batch))


def eval_batches(n: int, batch: int, rank: int, world: int) -> list[Int64]:
    """A rank's part of every fixed-order evaluation batch: [int64 (ceil(batch / world),), ...], -1 = padding row.

    Global batch k holds positions [k * batch, (k + 1) * batch) whatever the number of ranks; over the ranks each
    position below n comes exactly once. All ranks get equally many batches of equal shape, so collectives match.
    """
    if batch < 1:
        raise OrderError(f"evaluation batch of {batch}; give at least 1")
    share = -(-batch // world)
    grid = np.full((-(-n // batch), world * share), -1, np.int64)  # (batches, padded global batch)
    real = np.arange(len(grid) * batch, dtype=np.int64).reshape(-1, batch)
    grid[:, :batch] = np.where(real < n, real, -1)
    return list(grid[:, rank * share : (rank + 1) * share])


def _shuffle(bits: np.random.Philox, n: int) -> Int64:
    """A permutation of 0..n-1, int64 (n,), from n raw words; the stable sort decides the (2^-64) ties."""
    return np.argsort(np.asarray(bits.random_raw(n)), kind="stable").astype(np.int64)


def _ranges(starts: Int64, lengths: Int64) -> Int64:
    """Concatenation of start..start+length-1 over all rows, int64 (sum of lengths,)."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)
