"""What a shard folder holds, counted: splits, views, labels, gaze, study sizes, text lengths.

`Totals` is the part that the manifest keeps; `data_prep.check` counts it again from the samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from cogaze.data.schema import SPLITS
from cogaze.data.shards import ShardSet
from cogaze.observations import OBSERVATIONS

LABEL_KINDS = ("positive", "negative", "uncertain", "blank", "unknown")
_KIND = {1: "positive", 0: "negative", -1: "uncertain", None: "blank"}
TEXTS = ("findings", "impression", "indication", "history")


class Totals:
    """Counts over sample JSONs, as the manifest's `totals`. Labels and views are counted per image."""

    def __init__(self) -> None:
        self.images: Counter[str] = Counter()
        self.gaze_images: Counter[str] = Counter()
        self.readings: Counter[str] = Counter()
        self.studies: dict[str, set[tuple[str, str]]] = {}
        self.patients: dict[str, set[tuple[str, str]]] = {}
        self.views: dict[str, Counter[str]] = {}
        self.labels: dict[str, dict[str, Counter[str]]] = {}

    def add(self, meta: Mapping[str, Any]) -> None:
        """Count one valid sample."""
        split, source = meta["split"], meta["source"]
        self.images[split] += 1
        self.readings[split] += len(meta["readings"])
        self.gaze_images[split] += bool(meta["readings"])
        self.studies.setdefault(split, set()).add((source, meta["study_id"]))
        self.patients.setdefault(split, set()).add((source, meta["patient_id"]))
        self.views.setdefault(split, Counter())[meta["view"]] += 1
        labels = self.labels.setdefault(split, {name: Counter() for name in OBSERVATIONS})
        for name in OBSERVATIONS:
            labels[name][_KIND[meta["labels"][name]] if name in meta["labels"] else "unknown"] += 1

    def merge(self, other: Totals) -> None:
        """Add the counts of another part of the same folder."""
        for mine, theirs in (
            (self.images, other.images),
            (self.gaze_images, other.gaze_images),
            (self.readings, other.readings),
        ):
            mine.update(theirs)
        for split in other.images:
            self.studies.setdefault(split, set()).update(other.studies[split])
            self.patients.setdefault(split, set()).update(other.patients[split])
            self.views.setdefault(split, Counter()).update(other.views[split])
            labels = self.labels.setdefault(split, {name: Counter() for name in OBSERVATIONS})
            for name in OBSERVATIONS:
                labels[name].update(other.labels[split][name])

    def as_dict(self) -> dict[str, Any]:
        """Plain and ordered, for JSON."""
        by_split = {
            split: {
                "images": self.images[split],
                "studies": len(self.studies[split]),
                "patients": len(self.patients[split]),
                "gaze_images": self.gaze_images[split],
                "readings": self.readings[split],
                "views": dict(sorted(self.views[split].items())),
                "labels": {
                    name: {kind: self.labels[split][name][kind] for kind in LABEL_KINDS} for name in OBSERVATIONS
                },
            }
            for split in sorted(self.images, key=SPLITS.index)
        }
        return {
            "images": sum(self.images.values()),
            "studies": len(set().union(*self.studies.values())),
            "patients": len(set().union(*self.patients.values())),
            "gaze_images": sum(self.gaze_images.values()),
            "readings": sum(self.readings.values()),
            "by_split": by_split,
        }


def stats(shards: ShardSet, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Everything `cogaze data stats` shows, as plain JSON values.

    Reads the JSON of every sample and the fixations of those with gaze. Texts are counted once a study (its first
    image), sentences once each; lengths are words between white space. `progress(done, total)` is called as it goes.
    """
    total = sum(shards.size(split) for split in shards.splits)
    done = 0
    report: dict[str, Any] = {"phantom": shards.is_phantom, "digest": shards.digest, "splits": {}}
    totals = Totals()
    for split in shards.splits:
        layout = shards.layout(split)
        first = set((np.cumsum(layout.study_runs) - layout.study_runs).tolist())  # position of each study's first image
        words: dict[str, list[int]] = {name: [] for name in (*TEXTS, "spoken sentence")}
        fixations, seconds = 0, 0.0
        for position in range(shards.size(split)):
            meta = shards.read_meta(split, position)
            totals.add(meta)
            if position in first:
                for name, text in (*meta["report"].items(), *meta["context"].items()):
                    if text is not None:
                        words[name].append(len(text.split()))
            for reading in meta["readings"]:
                words["spoken sentence"] += [len(sentence["text"].split()) for sentence in reading["sentences"]]
            if layout.gaze[position]:
                for rows in shards.read(split, position).gaze.values():
                    fixations += len(rows)
                    seconds += float((rows[:, 3] - rows[:, 2]).sum())
            done += 1
            if progress:
                progress(done, total)
        sizes = Counter(layout.study_runs.tolist())
        report["splits"][split] = {
            "study_sizes": {str(size): sizes[size] for size in sorted(sizes)},
            "words": {name: _lengths(counts) for name, counts in words.items()},
            "fixations": fixations,
            "fixation_seconds": round(seconds, 3),
        }
    counted = totals.as_dict()
    for split, row in counted.pop("by_split").items():
        report["splits"][split] = {**row, **report["splits"][split]}
    return {**counted, **report}


def _lengths(counts: list[int]) -> dict[str, float]:
    if not counts:
        return {"texts": 0, "median": 0.0, "p95": 0.0, "max": 0}
    return {
        "texts": len(counts),
        "median": float(np.median(counts)),
        "p95": round(float(np.percentile(counts, 95)), 1),
        "max": max(counts),
    }


# ------------------------------------------------------------------------------------------------ tables
def tables(report: Mapping[str, Any]) -> list[Table]:
    """The result of `stats` as rich tables: overview, views, labels, study sizes, text lengths."""
    splits = list(report["splits"])
    rows = report["splits"]
    overview = _table("Shards" + (" (phantom data)" if report["phantom"] else ""), ["", *splits, "all"])
    for name in ("images", "studies", "patients", "gaze_images", "readings"):
        overview.add_row(name.replace("_", " "), *(_n(rows[s][name]) for s in splits), _n(report[name]))
    overview.add_row("fixations", *(_n(rows[s]["fixations"]) for s in splits), "")
    overview.add_row("minutes of gaze", *(_n(round(rows[s]["fixation_seconds"] / 60, 1)) for s in splits), "")

    views = _table("Images by view", ["view", *splits])
    for view in sorted({view for s in splits for view in rows[s]["views"]}):
        views.add_row(view, *(_n(rows[s]["views"].get(view, 0)) for s in splits))

    labels = [_table(f"Images by label, {split}", ["observation", *LABEL_KINDS]) for split in splits]
    for table, split in zip(labels, splits, strict=True):
        for name in OBSERVATIONS:
            table.add_row(name, *(_n(rows[split]["labels"][name][kind]) for kind in LABEL_KINDS))

    sizes = _table("Studies by number of images", ["images", *splits])
    for size in sorted({int(size) for s in splits for size in rows[s]["study_sizes"]}):
        sizes.add_row(str(size), *(_n(rows[s]["study_sizes"].get(str(size), 0)) for s in splits))

    words = _table("Text lengths, words", ["text", "split", "texts", "median", "p95", "max"])
    for name in (*TEXTS, "spoken sentence"):
        for i, split in enumerate(splits):
            row = rows[split]["words"][name]
            cells = [_n(row[column]) for column in ("texts", "median", "p95", "max")]
            words.add_row(name if i == 0 else "", split, *cells)
    return [overview, views, *labels, sizes, words]


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        words = column in ("", "view", "observation", "split", "text")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table


def _n(number: float) -> str:
    if not number:
        return "·"
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
