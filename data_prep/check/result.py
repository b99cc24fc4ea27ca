"""What checking collects: faults, warnings, and the facts of a shard that are compared across shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.stats import Totals

Level = Literal["fast", "standard", "deep"]
LEVELS: tuple[Level, ...] = ("fast", "standard", "deep")
MAX_ALIKE = 500  # warnings of one kind that are kept of a shard; the others are counted


@dataclass
class Findings:
    """Faults and warnings of one shard (`shard` then names it) or of the folder."""

    shard: str = ""
    faults: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)  # warnings by kind
    left_out: Counter[str] = field(default_factory=Counter)  # those of them that were too many of their kind

    def fault(self, text: str, key: str = "", shard: str | None = None) -> None:
        """Something that makes the folder unfit."""
        self.faults.append({"shard": self.shard if shard is None else shard, "key": key, "fault": text})

    def warn(self, kind: str, detail: str = "", key: str = "", shard: str | None = None) -> None:
        """Something to look at; `kind` is a fixed phrase that is counted, `detail` the particulars."""
        self.seen[kind] += 1
        if self.seen[kind] > MAX_ALIKE:
            self.left_out[kind] += 1
            return
        row = {"shard": self.shard if shard is None else shard, "key": key, "warning": kind, "detail": detail}
        self.warnings.append(row)

    def merge(self, other: Findings) -> None:
        """Take over what was found in a shard, without its limit."""
        self.faults += other.faults
        self.warnings += other.warnings
        self.left_out.update(other.left_out)


@dataclass
class ShardFacts:
    """What one shard holds, a row a valid sample. 64-bit hashes stand for ids: in 377,110 images two ids share one
    with a chance of 4 in a billion."""

    findings: Findings
    totals: Totals = field(default_factory=Totals)
    numbers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # of the keys
    images: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    studies: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    patients: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    persons: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))  # patients, spelled one way
    files: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))  # the original image file
    looks: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 2, 4), np.uint64))  # if deep, of alike.py

    @property
    def name(self) -> str:
        return self.findings.shard

    def key(self, row: int) -> str:
        return f"{self.name}-{self.numbers[row]:05d}"


def hash64(*parts: str) -> int:
    """64 bits of some texts together."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def column(values: Sequence[int]) -> NDArray[np.uint64]:
    return np.array(values, dtype=np.uint64)
