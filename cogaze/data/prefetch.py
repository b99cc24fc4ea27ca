"""Remote shards fetched before their turn: which ones an order needs next, and a thread that brings them here.

An epoch's order goes through windows of shards; while one window is shown, the next is fetched, as far as the cache has
room for both. All ranks of a node do so: a shard that another process is fetching is passed over, so they share the
work. Nothing depends on it: a shard that is not here when it is read is fetched then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np

from cogaze.config import ConfigError
from cogaze.data.index import Shard
from cogaze.data.order import GlobalOrder, Int64, epoch_order
from cogaze.data.schema import ShardError

log = logging.getLogger(__name__)


def check_cache(shards: Sequence[Shard], window: int | None, quota: int | None) -> None:
    """Raise ConfigError where some of a split's shards lie behind a URL and this order would not get them cheaply."""
    limits = [shard.remote.cache.limit for shard in shards if shard.remote]
    if not limits:
        return
    if window is None:
        raise ConfigError(
            "shards behind a URL need data.shuffle_window: without a window every step takes images from all shards; "
            "set e.g. data.shuffle_window=16, and data.cache_gb to twice the size of as many shards"
        )
    sizes = sorted((shard.entry["bytes"] for shard in shards if shard.remote), reverse=True)
    held, what = sum(sizes[:window]), f"the {min(window, len(sizes))} largest shards of a window"
    if quota:
        held, what = sum(sizes), "all shards, which data.gaze_per_batch takes gaze images from at any time,"
    if held > limits[0]:
        raise ConfigError(
            f"{what} have {held / 1e9:.2f} GB, data.cache_gb is {limits[0] / 1e9:.2f}: the same shards would be "
            "fetched over and over; raise data.cache_gb or lower data.shuffle_window"
        )


class Prefetcher:
    """Fetches, in a thread of this process, what a training order needs next."""

    def __init__(self, shards: Sequence[Shard], order: GlobalOrder) -> None:
        self.shards, self.order = shards, order
        self._ends = np.cumsum([shard.images for shard in shards])  # (shards,), position after each shard's last
        self._uses: dict[int, tuple[Int64, Int64]] = {}  # epoch -> first and last place of each shard, (shards,) each
        self._step = 0
        self._moved, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def at(self, step: int) -> None:
        """Training has come to this step."""
        self._step = step
        self._moved.set()
        if not self._thread.is_alive() and not self._over.is_set():
            self._thread.start()

    def close(self) -> None:
        """End after the shard under way; what is left of it when the process ends is gone on with next time."""
        self._over.set()
        self._moved.set()

    def wanted(self, step: int) -> list[Shard]:
        """Shards that step `step` and those after it take images from, by first use, as many as the cache holds."""
        epoch, offset = divmod(step, self.order.steps_per_epoch)
        found: list[Shard] = []
        seen: set[int] = set()
        room = min((shard.remote.cache.limit for shard in self.shards if shard.remote), default=0)
        for number, place in ((epoch, offset * self.order.ordinary), (epoch + 1, 0)):
            first, last = self._used(number)
            for i in np.argsort(first, kind="stable").tolist():
                shard = self.shards[i]
                if last[i] < place or not shard.remote or i in seen:
                    continue
                seen.add(i)
                room -= shard.entry["bytes"]
                if room < 0:
                    return found
                found.append(shard)
        return found

    def _used(self, epoch: int) -> tuple[Int64, Int64]:
        if epoch not in self._uses:
            order = self.order
            positions = epoch_order(order.layout, order.seed, epoch, order.window, order.group_by)
            shard_of = np.searchsorted(self._ends, positions, side="right")
            first = np.full(len(self.shards), -1, np.int64)
            last = first.copy()
            numbers, place = np.unique(shard_of, return_index=True)
            first[numbers] = place
            numbers, place = np.unique(shard_of[::-1], return_index=True)
            last[numbers] = len(shard_of) - 1 - place
            self._uses = {e: uses for e, uses in self._uses.items() if e == epoch - 1} | {epoch: (first, last)}
        return self._uses[epoch]

    def _work(self) -> None:
        while not self._over.is_set():
            self._moved.wait()
            self._moved.clear()
            wanted = self.wanted(self._step)
            for shard in [shard for shard in wanted if not _is_here(shard)]:  # all are looked at before one is fetched
                assert shard.remote
                entry = shard.entry
                if self._over.is_set():
                    break
                try:
                    if shard.remote.fetch(f"{shard.name}.tar", entry["bytes"], entry["sha256"], wait=False):
                        self._moved.set()  # look again, for training has gone on meanwhile
                        break
                except ShardError as error:
                    log.warning("not fetched ahead: %s", error)  # whoever reads it tries again, and says so


def _is_here(shard: Shard) -> bool:
    """Whether a remote shard's tar is in the cache, which then counts as a use of it: others go first."""
    assert shard.remote
    try:
        with shard.remote.cache.held(shard.entry["sha256"], shard.entry["bytes"]) as file:
            return file is not None
    except ShardError:  # no cache; fetching says so
        return False
