"""One pass over a shard folder that counts what a person wants to know before training on it.

The JSON of every sample is read, the fixations of those with gaze, and the pixels of an even sample. Memory holds
counts, and the ids of studies and patients for as long as it runs.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogaze.data.gaze import segment_weights
from cogaze.data.shards import RawSample, ShardSet
from cogaze.observations import OBSERVATIONS
from data_prep.stats.spread import Spread
from data_prep.stats.totals import Totals

TEXTS = ("findings", "impression", "indication", "history")
PARTS = ("findings", "impression", "report", "indication", "history", "context", "labels", "gaze")
SPOKEN = "spoken sentence"
PIXEL_SAMPLES = 2000  # images whose pixels are looked at, over all splits

# A text and the number of tokens it becomes, by role: "report", "context", "transcript".
CountTokens = Callable[[str, Mapping[str, Any]], int]


@dataclass
class Reader:
    """What one reader, or one collection of readers that were not told apart, has looked at."""

    readings: int = 0
    fixations: int = 0
    drawn: int = 0  # readings that came as heat maps
    seconds: float = 0.0  # of fixations


@dataclass
class SplitFacts:
    """The counts of one split."""

    study_sizes: Counter[int] = field(default_factory=Counter)
    words: dict[str, Spread] = field(default_factory=lambda: {name: Spread() for name in (*TEXTS, SPOKEN)})
    tokens: dict[str, Spread] = field(default_factory=dict)  # by role
    parts: Counter[str] = field(default_factory=Counter)  # images that have each of PARTS
    label_sources: Counter[str] = field(default_factory=Counter)
    together: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(OBSERVATIONS),) * 2, np.int64))
    short_side: Spread = field(default_factory=lambda: Spread(step=10, most=10_000))  # px, of the original
    shape: Spread = field(default_factory=lambda: Spread(step=0.01, most=4))  # width over height
    stored_kb: Spread = field(default_factory=Spread)  # of the pixel sample
    grey: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))  # pixels of the sample by level
    grey_images: int = 0
    reading_seconds: Spread = field(default_factory=lambda: Spread(most=1200))
    reading_fixations: Spread = field(default_factory=lambda: Spread(most=5000))
    reading_sentences: Spread = field(default_factory=lambda: Spread(most=200))
    fixation_ms: Spread = field(default_factory=lambda: Spread(step=10, most=5000))
    fixations: int = 0
    outside: int = 0  # fixations whose centre is not on the image
    seconds: float = 0.0
    sentences_timed: int = 0  # of readings with fixations; those of heat maps have no times
    sentences_seen: int = 0  # of these, with at least one fixation while they were spoken


@dataclass
class Gathered:
    """All counts of a shard folder; `as_report` makes plain JSON of them."""

    shards: ShardSet
    totals: Totals = field(default_factory=Totals)
    splits: dict[str, SplitFacts] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)

    @property
    def quarantined(self) -> Counter[str]:
        """Things set aside when the shards were built, by reason."""
        return self._told("quarantined")

    @property
    def noted(self) -> Counter[str]:
        """What was noted then with nothing missing for it, by reason."""
        return self._told("noted")

    def _told(self, name: str) -> Counter[str]:
        reasons: Counter[str] = Counter()
        for manifest in self.shards.manifests:
            reasons.update(manifest.get(name) or {})
        return reasons

    def named_readers(self) -> list[tuple[str, Reader]]:
        """Readers, most readings first; a name that may be a person's is replaced by a number."""
        ordered = sorted(self.readers.items(), key=lambda item: (-item[1].readings, item[0]))
        return [
            (name if name in COLLECTIONS else f"reader {number}", facts)
            for number, (name, facts) in enumerate(ordered, start=1)
        ]

    def as_report(self) -> dict[str, Any]:
        """Everything as JSON values; no id and no text."""
        report = self.totals.as_dict()
        by_split = report.pop("by_split")
        splits = {split: {**by_split.get(split, {}), **_plain(facts)} for split, facts in self.splits.items()}
        return {
            **report,
            "phantom": self.shards.is_phantom,
            "digest": self.shards.digest,
            "splits": splits,
            "readers": {
                name: {**vars(facts), "seconds": round(facts.seconds, 3)} for name, facts in self.named_readers()
            },
            "quarantined": dict(sorted(self.quarantined.items())),
            "noted": dict(sorted(self.noted.items())),
            "manifest_labels": {split: self.shards.label_counts(split) for split in self.shards.splits},
        }


COLLECTIONS = frozenset({"reflacx", "egd"})  # readers that stand for a data set


def gather(
    shards: ShardSet,
    progress: Callable[[int, int], None] | None = None,
    count_tokens: CountTokens | None = None,
    pixel_samples: int = PIXEL_SAMPLES,
) -> Gathered:
    """Count a folder. Texts are counted once a study (its first image), sentences once each; `progress(done, total)`.

    `count_tokens(role, meta)` gives the tokens of a sample's report or context (0: it has none), or of a sentence.
    """
    total = sum(shards.size(split) for split in shards.splits)
    every = max(total // pixel_samples, 1) if pixel_samples else 2 * total + 2  # beyond the last one
    found, done = Gathered(shards), 0
    for split in shards.splits:
        layout, facts = shards.layout(split), found.splits.setdefault(split, SplitFacts())
        facts.study_sizes.update(layout.study_runs.tolist())
        first = set((np.cumsum(layout.study_runs) - layout.study_runs).tolist())  # position of each study's first image
        for position in range(shards.size(split)):
            looked_at = done % every == every // 2
            raw = shards.read(split, position) if looked_at or layout.gaze[position] else None
            meta = raw.meta if raw else shards.read_meta(split, position)
            found.totals.add(meta)
            _count_meta(meta, facts, position in first, count_tokens)
            if raw and meta["readings"]:
                _count_gaze(raw, facts, found.readers)
            if raw and looked_at:
                _count_pixels(raw, facts)
            done += 1
            if progress:
                progress(done, total)
    return found


def stats(shards: ShardSet, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """`gather` as plain JSON values."""
    return gather(shards, progress).as_report()


def _count_meta(
    meta: Mapping[str, Any], facts: SplitFacts, first_of_study: bool, count_tokens: CountTokens | None
) -> None:
    texts = {**meta["report"], **meta["context"]}
    there = {name: texts[name] is not None for name in TEXTS}
    there["report"] = there["findings"] or there["impression"]
    there["context"] = there["indication"] or there["history"]
    there["labels"] = bool(meta["labels"])
    there["gaze"] = bool(meta["readings"])
    facts.parts.update(name for name in PARTS if there[name])
    positive = np.array([meta["labels"].get(name) == 1 for name in OBSERVATIONS], np.int64)  # (14,)
    facts.together += np.outer(positive, positive)
    facts.label_sources[meta["label_source"] or ("not said" if meta["labels"] else "none")] += 1
    original = meta["original"]
    facts.short_side.add([min(original["width"], original["height"])])
    facts.shape.add([original["width"] / original["height"]])
    if first_of_study:
        for name in TEXTS:
            if texts[name] is not None:
                facts.words[name].add([len(texts[name].split())])
    for reading in meta["readings"]:
        facts.words[SPOKEN].add(len(sentence["text"].split()) for sentence in reading["sentences"])
        facts.reading_sentences.add([len(reading["sentences"])])
    if count_tokens:
        _count_tokens(meta, facts, first_of_study, count_tokens)


def _count_tokens(meta: Mapping[str, Any], facts: SplitFacts, first_of_study: bool, count_tokens: CountTokens) -> None:
    for role in ("report", "context") if first_of_study else ():
        tokens = count_tokens(role, meta)
        if tokens:
            facts.tokens.setdefault(role, Spread()).add([tokens])
    sentences = [sentence for reading in meta["readings"] for sentence in reading["sentences"]]
    if sentences:
        facts.tokens.setdefault("transcript", Spread()).add(count_tokens("transcript", one) for one in sentences)


def _count_gaze(raw: RawSample, facts: SplitFacts, readers: dict[str, Reader]) -> None:
    for number, reading in enumerate(raw.meta["readings"]):
        reader = readers.setdefault(reading["reader"], Reader())
        reader.readings += 1
        rows = raw.gaze[number]  # (F,6)
        if not len(rows):  # heat maps in place of fixations
            reader.drawn += 1
            continue
        seconds = (rows[:, 3] - rows[:, 2]).astype(np.float64)  # (F,)
        reader.fixations += len(rows)
        reader.seconds += float(seconds.sum())
        facts.fixations += len(rows)
        facts.seconds += float(seconds.sum())
        facts.outside += int((np.abs(rows[:, :2] - 0.5) > 0.5).any(axis=1).sum())
        facts.fixation_ms.add((seconds * 1000).tolist())
        facts.reading_fixations.add([len(rows)])
        facts.reading_seconds.add([float(rows[:, 3].max() - rows[:, 2].min())])
        facts.sentences_timed += len(reading["sentences"])
        facts.sentences_seen += sum(
            bool(segment_weights(rows, one["start"], one["end"]).any()) for one in reading["sentences"]
        )


def _count_pixels(raw: RawSample, facts: SplitFacts) -> None:
    with Image.open(io.BytesIO(raw.image)) as image:
        facts.grey += np.asarray(image.convert("L").histogram(), np.int64)
    facts.grey_images += 1
    facts.stored_kb.add([len(raw.image) / 1000])


def _plain(facts: SplitFacts) -> dict[str, Any]:
    mean, deviation = grey_moments(facts.grey)
    return {
        "study_sizes": {str(size): facts.study_sizes[size] for size in sorted(facts.study_sizes)},
        "words": {name: spread.summary() for name, spread in facts.words.items()},
        "tokens": {name: spread.summary() for name, spread in facts.tokens.items()},
        "images_with": {name: facts.parts[name] for name in PARTS},
        "label_sources": dict(sorted(facts.label_sources.items())),
        "positive_together": facts.together.tolist(),
        "original_short_side": facts.short_side.summary(),
        "original_shape": facts.shape.summary(),
        "stored_kb": facts.stored_kb.summary(),
        "grey": {"images": facts.grey_images, "mean": mean, "std": deviation},
        "reading_seconds": facts.reading_seconds.summary(),
        "reading_fixations": facts.reading_fixations.summary(),
        "reading_sentences": facts.reading_sentences.summary(),
        "fixation_ms": facts.fixation_ms.summary(),
        "fixations": facts.fixations,
        "fixations_outside": facts.outside,
        "fixation_seconds": round(facts.seconds, 3),
        "sentences_timed": facts.sentences_timed,
        "sentences_seen": facts.sentences_seen,
    }


def grey_moments(counts: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of grey levels (256,) as shares of white; None where no image was looked at."""
    if not counts.sum():
        return None, None
    levels = np.arange(256) / 255.0
    mean = float((levels * counts).sum() / counts.sum())
    return round(mean, 4), round(float(np.sqrt(((levels - mean) ** 2 * counts).sum() / counts.sum())), 4)
