"""What another process reads of shards; a module of its own, because a spawned process imports it whole."""

from __future__ import annotations

import hashlib
import multiprocessing

from cogaze.data.schema import canonical_json
from cogaze.data.shards import ShardSet


def contents(shards: ShardSet) -> list[str]:
    """A hash of everything that each sample of the train split holds, read from the last one to the first."""
    found = []
    for position in reversed(range(shards.size("train"))):
        sample = shards.read("train", position)
        sha = hashlib.sha256(sample.image)
        for part in (sample.key, sample.shard, sample.index, sample.meta, shards.read_meta("train", position)):
            sha.update(canonical_json(part))
        for number, rows in sorted(sample.gaze.items()):
            sha.update(f"{number} {rows.dtype} {rows.shape}".encode() + rows.tobytes())
        found.append(sha.hexdigest())
    return found


def read_in_child(shards: ShardSet, queue: multiprocessing.Queue) -> None:
    queue.put([contents(shards) for _ in range(20)])
