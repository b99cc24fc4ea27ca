"""`stats.html`: a shard folder on one self-contained page. No text of a report and no identifier stands on it."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogaze import __version__, pages
from cogaze.observations import OBSERVATIONS
from data_prep.stats.charts import histogram, levels
from data_prep.stats.gather import SPOKEN, TEXTS, Gathered, Reader, SplitFacts, grey_moments
from data_prep.stats.spread import Spread
from data_prep.stats.totals import LABEL_KINDS

PART_NAMES = {
    "findings": "findings",
    "impression": "impression",
    "report": "findings or impression",
    "indication": "indication",
    "history": "history",
    "context": "indication or history",
    "labels": "a known label",
    "gaze": "gaze",
}
NORMAL_MEAN, NORMAL_STD = 0.5307, 0.2583  # defaults of model.vision.mean and .std


class StatsError(ValueError):
    """The page cannot be written."""


def make_room(out: Path) -> None:
    """The page's folder, before hours of counting. Raises StatsError where a page cannot be written there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _aside(out).touch()
        _aside(out).unlink()
    except OSError as error:
        raise StatsError(f"{out}: {error.strerror}") from None


def write_page(found: Gathered, out: Path, token_limit: int | None = None) -> None:
    """Write the page. Raises StatsError where that fails."""
    html = render(build_view(found, token_limit))
    make_room(out)
    try:
        _aside(out).write_text(html, encoding="utf-8", errors="replace")
        os.replace(_aside(out), out)
    except OSError as error:
        raise StatsError(f"{out}: {error.strerror}") from None


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def render(view: dict[str, Any]) -> str:
    """The page of a view as `build_view` makes it; every string in it is escaped."""
    environment = pages.environment("data_prep.stats")
    environment.filters["n"] = lambda number: f"{number:,}" if isinstance(number, int) else f"{number:,.1f}"
    environment.filters["percent"] = percent
    return environment.get_template("page.html").render(**view)


def percent(share: float) -> str:
    """A share for reading: never 0 % or 100 % unless it is exactly that."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.1:
        return "< 0.1 %"
    return f"{min(value, 99.9):.1f} %" if value > 99 or value < 10 else f"{value:.0f} %"


def build_view(found: Gathered, token_limit: int | None) -> dict[str, Any]:
    """Everything the template shows, as plain values and charts."""
    report, splits = found.as_report(), found.splits
    manifest = found.shards.manifests[0]
    names = list(splits)
    fixation_seconds = sum(facts.seconds for facts in splits.values())
    return {
        "title": ", ".join(folder.resolve().name for folder in found.shards.folders),
        "version": __version__,
        "written": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "report": report,
        "phantom": found.shards.is_phantom,
        "sources": sorted({source for m in found.shards.manifests for source in m.get("source") or []}),
        "image_size": manifest["image_size"],
        "image_format": manifest["image_format"],
        "digest": found.shards.digest,
        "splits": names,
        "overview": overview(report, names),
        "gaze_minutes": fixation_seconds / 60,
        "quarantine": _bars(found.quarantined.most_common()),
        "set_aside": sum(found.quarantined.values()),
        "noted": _bars(found.noted.most_common()),
        "views": _views(report, names),
        "labels": _labels(report, names),
        "kinds": LABEL_KINDS,
        "sources_of_labels": {split: _bars(facts.label_sources.most_common()) for split, facts in splits.items()},
        "observations": OBSERVATIONS,
        "together": together(splits),
        "manifest_train": _training(found),
        "missing": missing(report, names),
        "part_names": PART_NAMES,
        "readers": _readers(found.named_readers()),
        "grey": _grey(splits),
        "normal": (NORMAL_MEAN, NORMAL_STD),
        "token_limit": token_limit,
        "sentences": sum(facts.sentences_timed for facts in splits.values()),
        "sentences_seen": sum(facts.sentences_seen for facts in splits.values()),
        "fixations": sum(facts.fixations for facts in splits.values()),
        "outside": sum(facts.outside for facts in splits.values()),
        "charts": _charts(splits, token_limit),
    }


# ------------------------------------------------------------------------------------------------ parts of the view
def overview(report: dict[str, Any], names: list[str]) -> list[tuple[str, list[Any], Any]]:
    """Rows (what, a value a split, the value of all)."""
    rows = report["splits"]
    shown = [
        (name.replace("_", " "), [rows[split][name] for split in names], report[name])
        for name in ("images", "studies", "patients", "gaze_images", "readings")
    ]
    fixations = [rows[split]["fixations"] for split in names]
    minutes = [rows[split]["fixation_seconds"] / 60 for split in names]
    per_patient = [rows[split]["images"] / max(rows[split]["patients"], 1) for split in names]
    return [
        *shown,
        ("fixations", fixations, sum(fixations)),
        ("minutes of fixations", minutes, sum(minutes)),
        ("images a patient", per_patient, report["images"] / max(report["patients"], 1)),
    ]


def together(splits: dict[str, SplitFacts]) -> list[dict[str, Any]]:
    """Rows of the 14 x 14 map: {name, positives, cells: [(images with both, share of the row's positives)]}."""
    counts = sum(facts.together for facts in splits.values())
    rows = []
    for i, name in enumerate(OBSERVATIONS):
        positives = int(counts[i, i])  # type: ignore[index]
        both = [int(number) for number in counts[i]]  # type: ignore[index]
        rows.append(
            {"name": name, "positives": positives, "cells": [(b, b / positives if positives else 0.0) for b in both]}
        )
    return rows


def missing(report: dict[str, Any], names: list[str]) -> list[tuple[str, list[tuple[int, float]]]]:
    """Rows (part, a (images with it, share) a split)."""
    return [
        (
            part,
            [
                (
                    report["splits"][s]["images_with"][part],
                    report["splits"][s]["images_with"][part] / max(report["splits"][s]["images"], 1),
                )
                for s in names
            ],
        )
        for part in PART_NAMES
    ]


def _views(report: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    total: dict[str, list[int]] = {}
    for i, split in enumerate(names):
        for view, number in report["splits"][split]["views"].items():
            total.setdefault(view, [0] * len(names))[i] = number
    most = max((sum(row) for row in total.values()), default=1)
    ordered = sorted(total.items(), key=lambda item: (-sum(item[1]), item[0]))
    return [
        {"name": name, "total": sum(row), "share": sum(row) / report["images"], "parts": [(n, n / most) for n in row]}
        for name, row in ordered
    ]


def _labels(report: dict[str, Any], names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Per split a row an observation: {name, kinds: [(kind, images, share)]}, those of most positives first."""
    first = report["splits"][names[0]]["labels"] if names else {}
    order = sorted(OBSERVATIONS, key=lambda name: -first[name]["positive"])
    return {
        split: [
            {
                "name": name,
                "kinds": [
                    (kind, report["splits"][split]["labels"][name][kind],
                     report["splits"][split]["labels"][name][kind] / max(report["splits"][split]["images"], 1))
                    for kind in LABEL_KINDS
                ],
            }
            for name in order
        ]
        for split in names
    }  # fmt: skip


def _training(found: Gathered) -> dict[str, Any] | None:
    """The positives that training reads from the manifest, and whether the samples have as many."""
    if "train" not in found.splits:
        return None
    counts = found.shards.label_counts("train")
    counted = found.totals.as_dict()["by_split"]["train"]["labels"]
    rows = [(name, counts[name]["positive"], counts[name]["uncertain"]) for name in OBSERVATIONS]
    return {"rows": rows, "agrees": all(counts[name] == counted[name] for name in OBSERVATIONS)}


def _readers(readers: list[tuple[str, Reader]]) -> list[dict[str, Any]]:
    most = max((facts.readings for _, facts in readers), default=1)
    return [
        {"name": name, "share": facts.readings / most, "minutes": facts.seconds / 60, **vars(facts)}
        for name, facts in readers
    ]


def _grey(splits: dict[str, SplitFacts]) -> dict[str, Any]:
    counts = sum(facts.grey for facts in splits.values())
    mean, deviation = grey_moments(counts)  # type: ignore[arg-type]
    return {"images": sum(facts.grey_images for facts in splits.values()), "mean": mean, "std": deviation}


def _bars(pairs: list[tuple[str, int]]) -> list[tuple[str, int, float]]:
    most = max((number for _, number in pairs), default=1)
    return [(name, number, number / most) for name, number in pairs]


def _charts(splits: dict[str, SplitFacts], token_limit: int | None) -> dict[str, list[Any]]:
    def by_split(name: str) -> dict[str, Any]:
        return {split: getattr(facts, name) for split, facts in splits.items()}

    texts = [
        histogram(name.capitalize(), {split: facts.words[name] for split, facts in splits.items()}, "words", whole=True)
        for name in (*TEXTS, SPOKEN)
    ]
    roles = {"report": "Report", "context": "Context", "transcript": "Spoken sentence"}
    tokens = [
        histogram(
            title,
            {split: facts.tokens[role] for split, facts in splits.items() if role in facts.tokens},
            "tokens",
            whole=True,
            limit=token_limit,
            limit_name=f"limit {token_limit}",
            note="tokens, with the markers of its prompt",
        )
        for role, title in roles.items()
    ]
    gaze = [
        histogram("Length of a reading", by_split("reading_seconds"), "s", note="seconds, first to last fixation"),
        histogram("Fixations of a reading", by_split("reading_fixations"), "fixations", whole=True),
        histogram("Sentences of a reading", by_split("reading_sentences"), "sentences", whole=True),
        histogram("Length of a fixation", by_split("fixation_ms"), "ms", note="milliseconds"),
    ]
    images = [
        levels("Grey levels", by_split("grey"), "share of the pixels, stored images, 0 to 255"),
        histogram("Short side", by_split("short_side"), "px", note="px, before it was shrunk"),
        histogram("Shape", by_split("shape"), "width / height", note="width over height"),
        histogram("Stored image", by_split("stored_kb"), "kB", note="kB, sampled"),
    ]
    studies = [_study_sizes(splits)]
    return {
        name: [chart for chart in charts if chart]
        for name, charts in {
            "texts": texts,
            "tokens": tokens,
            "gaze": gaze,
            "images": images,
            "studies": studies,
        }.items()
    }


def _study_sizes(splits: dict[str, SplitFacts]) -> Any:
    spreads = {}
    for split, facts in splits.items():
        spreads[split] = Spread()
        spreads[split].counts.update({float(size): number for size, number in facts.study_sizes.items()})
    return histogram("Images of a study", spreads, "images", whole=True)
