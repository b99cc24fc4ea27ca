"""`page/index.html`: what a run learned, on one self-contained page that opens anywhere, offline.

    metrics.jsonl, config.yaml, eval/*  +  a few images of the shards  ->  view (a plain dict)  ->  page.html (jinja2)

Everything is inlined and a content policy forbids any request. Report and transcript text is shown for phantom data,
or when `page.show_text` says so; without it the labels stand in its place. Sources' identifiers are never shown.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogaze import __version__, pages
from cogaze.config import Config, dump, load
from cogaze.evaluate import EvaluationError, suite
from cogaze.evaluate.figures import Series, line_chart
from cogaze.observations import OBSERVATIONS

Row = dict[str, Any]

GAZE_ROWS = (
    ("model", "The model", "its map for the sentence, on the image the sentence is about"),
    ("shuffled_sentences", "Other sentence", "the model's maps, with the sentences of the reading shuffled"),
    ("shuffled_images", "Other image", "the same sentence, on the image of another study"),
    ("center_bias", "Centre bias", "the mean map of the training split, the same for every image"),
    ("uniform", "Uniform", "the same weight everywhere"),
)
GAZE_COLUMNS = (
    ("js", "JS", "Jensen-Shannon divergence to the radiologist's map, in nats; lower is better", 0.0, math.log(2)),
    ("nss", "NSS", "mean z-score of the map where was looked; 0 is chance, higher is better", 0.0, 3.0),
    ("cc", "CC", "correlation with the radiologist's map; higher is better", 0.0, 1.0),
    ("auc_judd", "AUC", "AUC-Judd: fixated against other patches; 0.5 is chance", 0.5, 1.0),
)


def write_page(
    run: Path, *, shards: Sequence[Path] | None = None, show_text: bool | None = None
) -> tuple[Path, list[str]]:
    """Write RUN/page/index.html; returns its path and notes about what could not be shown.

    `shards` replaces `data.shards` of the run's configuration (for a run that moved), `show_text` its `page.show_text`.
    Raises ConfigError or EvaluationError for a run folder that cannot be read; missing parts only leave gaps.
    """
    config = load(run / "config.yaml")
    if shards:
        config.data.shards = [str(path) for path in shards]
    if show_text is not None:
        config.page.show_text = show_text
    view, notes = build_view(run, config)
    path = run / "page" / "index.html"
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(".index.html.partial")
    aside.write_text(render(view), encoding="utf-8")
    os.replace(aside, path)
    return path, notes


def render(view: dict[str, Any]) -> str:
    """The page of a view as `build_view` makes it; every string in it is escaped."""
    environment = pages.environment("cogaze.evaluate")
    environment.filters["figure"] = _figure
    environment.filters["share"] = _share
    environment.filters["roc_place"] = lambda auroc: _share(_roc_place(auroc))
    environment.filters["roc_width"] = lambda auroc: _share(abs(_roc_place(auroc) - _roc_place(0.5)))
    return environment.get_template("page.html").render(**view)


def build_view(run: Path, config: Config) -> tuple[dict[str, Any], list[str]]:
    """Everything the template shows, and notes about what is missing."""
    notes: list[str] = []
    metrics, broken = read_metrics(run / "metrics.jsonl")
    if broken:
        notes.append(f"metrics.jsonl: {broken} lines could not be read and are left out")
    results = suite.read_results(run / "eval")
    if not results:
        notes.append(f"not evaluated yet: run `cogaze evaluate all {run}` and write the page again")
    first: Row = next((results[task] for task in suite.TASKS if task in results), {})
    phantom = bool(first) and all(results[task].get("phantom") for task in suite.TASKS if task in results)
    show_text = phantom if config.page.show_text is None else config.page.show_text
    gaze_cards, retrieval_cards = _cards(results, config, show_text, notes)
    steps = [row for row in metrics if row.get("event") != "eval"]
    view = {
        "name": config.run.name if config.run.name != "cogaze" else run.resolve().name,
        "version": __version__,
        "written": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "phantom": phantom,
        "show_text": show_text,
        "about": first,
        "grid": config.grid,
        "step": first.get("step") or (steps[-1]["step"] if steps else None),
        "samples_seen": steps[-1].get("samples_seen") if steps else None,
        "head": results.get("headline", {}),
        "tiles": tiles(results.get("headline", {})),
        "charts": charts(metrics, config.train.global_batch),
        "gaze": results.get("gaze"),
        "gaze_table": gaze_table(results.get("gaze", {})),
        "gaze_columns": GAZE_COLUMNS,
        "gaze_cards": gaze_cards,
        "zero_shot": results.get("zero_shot"),
        "zero_shot_rows": observation_rows(results.get("zero_shot", {}).get("variants", {})),
        "labels": results.get("labels"),
        "label_rows": observation_rows(results.get("labels", {}).get("heads", {})),
        "retrieval": results.get("retrieval"),
        "retrieval_rows": retrieval_rows(results.get("retrieval", {})),
        "retrieval_cards": retrieval_cards,
        "config": _public_yaml(config),
        "notes": notes,
    }
    return view, notes


# ------------------------------------------------------------------------------------------------ parts of the view
def read_metrics(path: Path) -> tuple[list[Row], int]:
    """The lines of metrics.jsonl that are JSON objects with a step, and the number of those that are not."""
    rows, broken = [], 0
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error})") from None
    for line in filter(str.strip, lines):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        else:
            broken += 1
    return rows, broken


def charts(metrics: list[Row], global_batch: int) -> list[Any]:
    """SVG charts over the steps, those that have something to show."""
    train = [row for row in metrics if row.get("event") != "eval"]
    tested = [row for row in metrics if row.get("event") == "eval"]

    def line(rows: list[Row], key: str, name: str, tone: int, scale: float = 1.0, **kind: Any) -> Series:
        points = [(row["step"], row[key] * scale) for row in rows if isinstance(row.get(key), (int, float))]
        return Series(name, [x for x, _ in points], [y for _, y in points], tone, **kind)

    waits = [
        {"step": row["step"], "wait": 100 * row["data_wait"] * row["samples_per_s"] / global_batch}
        for row in train
        if isinstance(row.get("data_wait"), (int, float)) and isinstance(row.get("samples_per_s"), (int, float))
    ]
    plots = [
        line_chart(
            "Loss",
            [
                line(train, "loss", "training", 0, smooth=True),
                line(tested, "eval_loss", "validation", 1, dots=True),
            ],
        ),
        line_chart(
            "Terms of the training loss",
            [
                line(train, "loss_contrastive", "contrastive", 0, smooth=True),
                line(train, "loss_disease", "disease", 1, smooth=True),
                line(train, "loss_gaze", "gaze", 2, smooth=True),
            ],
            y_from=0.0,
        ),
        line_chart(
            "Zero-shot AUROC on validation",
            [
                line(tested, "zero_shot_auroc", "with context", 0, dots=True),
                line(tested, "zero_shot_auroc_no_context", "without", 1, dots=True),
            ],
        ),
        line_chart(
            "Retrieval on validation",
            [
                line(tested, "retrieval_hit_at_10", "Hit@10", 0, dots=True),
                line(tested, "retrieval_p_at_1", "P@1", 2, dots=True),
            ],
            y_from=0.0,
        ),
        line_chart("Gaze on validation: NSS", [line(tested, "gaze_nss", "NSS", 2, dots=True)]),
        line_chart(
            "Inverse temperatures",
            [line(train, "logit_scale", "image–text", 0), line(train, "gaze_scale", "gaze", 2)],
        ),
        line_chart("Learning rate", [line(train, "lr", "rate", 0)], y_from=0.0),
        line_chart("Gradient norm", [line(train, "grad_norm", "norm", 0, smooth=True)], y_from=0.0),
        line_chart("Samples per second", [line(train, "samples_per_s", "samples/s", 0, smooth=True)], y_from=0.0),
        line_chart("Waiting for data, % of a step", [line(waits, "wait", "wait", 1, smooth=True)], y_from=0.0),
    ]
    return [plot for plot in plots if plot]


def tiles(head: Row) -> list[Row]:
    """Headline tiles {label, value, note, fill, marks: [(place, name)]}; fill and places are shares of the track."""

    def on(low: float, high: float, value: float | None) -> float | None:
        return None if value is None else min(max((value - low) / (high - low), 0.0), 1.0)

    def tile(label: str, key: str, low: float, high: float, note: str, marks: dict[str, str]) -> Row:
        places = [(on(low, high, head.get(name)), text, head.get(name)) for name, text in marks.items()]
        return {
            "label": label,
            "value": head.get(key),
            "note": note,
            "fill": on(low, high, head.get(key)),
            "marks": [(place, text, value) for place, text, value in places if place is not None],
        }

    times = _ratio(head.get("retrieval_p_at_1"), head.get("retrieval_chance"))
    pool = head.get("retrieval_pool")
    of_pool = f"image → own report of {pool:,}" if pool else "image → own report"
    blind = {"zero_shot_auroc_blind": "blind"}
    shown = [
        tile("Zero-shot AUROC", "zero_shot_auroc", 0.5, 1.0, "mean over the observations", blind),
        tile("… without context", "zero_shot_auroc_no_context", 0.5, 1.0, "indication and history hidden", {}),
        tile("Retrieval, P@1", "retrieval_p_at_1", 0.0, 1.0, f"{of_pool}{times}", {"retrieval_chance": "chance"}),
        tile("Retrieval, Hit@10", "retrieval_hit_at_10", 0.0, 1.0, of_pool, {"retrieval_hit_at_10_chance": "chance"}),
        tile("Gaze, NSS", "gaze_nss", 0.0, 3.0, "higher is better", {"gaze_nss_center_bias": "centre bias"}),
        tile("Gaze, JS", "gaze_js", 0.0, math.log(2), "lower is better", {"gaze_js_center_bias": "centre bias"}),
    ]
    return [entry for entry in shown if entry["value"] is not None]


def gaze_table(gaze: Row) -> list[Row]:
    """Rows {name, note, model, cells: [(value, share of the track)]} of model, controls and baselines."""
    rows = []
    for key, name, note in GAZE_ROWS:
        table = gaze.get(key)
        if not table or "skipped" in table:
            continue
        cells = []
        for metric, _, _, low, high in GAZE_COLUMNS:
            value = table.get(metric)
            share = None if value is None else min(max((value - low) / (high - low), 0.0), 1.0)
            cells.append((value, share))
        rows.append({"key": key, "name": name, "note": note, "model": key == "model", "cells": cells})
    return rows


def observation_rows(tables: dict[str, Row]) -> list[Row]:
    """One row per evaluated observation, best first: {name, positives, negatives, prevalence, by: {table: its row}}."""
    first: Row = next(iter(tables.values()), {})
    rows = []
    for name in OBSERVATIONS:
        by = {key: table["per_observation"][name] for key, table in tables.items() if name in table["per_observation"]}
        own = first.get("per_observation", {}).get(name)
        if own:
            known = own["positives"] + own["negatives"]
            counts = {"positives": own["positives"], "negatives": own["negatives"]}
            rows.append({"name": name, **counts, "prevalence": own["positives"] / known, "by": by})
    return sorted(rows, key=lambda row: -next(iter(row["by"].values()))["auroc"])


def retrieval_rows(retrieval: Row) -> list[Row]:
    """Rows {direction, protocol, variant, metrics} of everything that was evaluated."""
    protocols = {"by_study": "own study", "by_text": "same words", "by_label": "same labels"}
    shown = {"context": "with context", "no_context": "without context", "blind": "blind"}
    rows = []
    for direction, arrow in (("image_to_text", "image → report"), ("text_to_image", "report → image")):
        for protocol, name in protocols.items():
            for variant, tables in retrieval.get("variants", {}).items():
                table = tables.get(protocol, {}).get(direction)
                if table:
                    rows.append({"direction": arrow, "protocol": name, "variant": shown[variant], **table})
    return rows


# ------------------------------------------------------------------------------------------------ helpers
def _cards(results: Row, config: Config, show_text: bool, notes: list[str]) -> tuple[list[Row], list[Row]]:
    """Example cards; none (and a note) when the shards are not at hand or are others than were evaluated.

    Each task was evaluated by itself and may be of other shards or another split than the rest.
    """
    arrays, found = results.get("gaze_examples"), results.get("retrieval", {}).get("examples", [])
    if not found and not (arrays and len(arrays["sample_id"])):
        return [], []
    from cogaze.data.shards import ShardError, ShardSet
    from cogaze.evaluate import examples

    gaze, texts = list[Row](), list[Row]()
    try:
        shards = ShardSet.open(config.data.shards, config.data)
        of_these = {task for task in ("gaze", "retrieval") if results.get(task, {}).get("manifest") == shards.digest}
        if arrays and "gaze" in of_these:
            gaze = examples.gaze_cards(arrays, shards, results["gaze"]["split"], config, show_text)
        if found and "retrieval" in of_these:
            texts = examples.retrieval_cards(found, shards, results["retrieval"]["split"], config, show_text)
        others = [task for task, asked in (("gaze", arrays), ("retrieval", found)) if asked and task not in of_these]
        if others:
            notes.append(
                f"no examples of {' and '.join(others)}: the shards are not those that were evaluated "
                "(--data points at the right ones)"
            )
        return gaze, texts
    except (ShardError, OSError) as error:
        notes.append(f"no examples: {error}")
        return [], []


def _public_yaml(config: Config) -> str:
    """The configuration without the tracking address, which may carry a password."""
    return re.sub(r"(?m)^(  uri:).*$", r"\1 (not shown)", dump(config)) if config.tracking.uri else dump(config)


def _ratio(value: float | None, chance: float | None) -> str:
    if value is None or not chance:
        return ""
    return f", {value / chance:.{0 if value >= 10 * chance else 1}f} × chance"


def _figure(value: float | int | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"


def _roc_place(auroc: float) -> float:
    """Place of an AUROC on its track, which runs from 0.3 to 1."""
    return min(max((auroc - 0.3) / 0.7, 0.0), 1.0)


def _share(value: float | None) -> str:
    """A share of a track as a CSS percentage."""
    return f"{100 * (value or 0.0):.1f}%"
