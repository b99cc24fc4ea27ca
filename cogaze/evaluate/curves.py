"""The training curves as one PNG, for the tracking server and for a quick look without the page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Panels: title, keys of step lines, keys of evaluation lines.
_PANELS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("loss", ("loss",), ("eval_loss",)),
    ("terms", ("loss_contrastive", "loss_disease", "loss_gaze"), ()),
    ("learning rate", ("lr",), ()),
    ("gradient norm before clipping", ("grad_norm",), ()),
    ("zero-shot AUROC", (), ("zero_shot_auroc", "zero_shot_auroc_no_context")),
    ("retrieval, gaze", (), ("retrieval_p_at_1", "retrieval_hit_at_10", "gaze_js")),
)


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw lines of metrics.jsonl (as `meters.read_metrics` gives them) into `path`, whole or not at all."""
    from matplotlib.figure import Figure  # no pyplot: it keeps global state and looks for a display

    steps = [row for row in rows if row.get("event") is None]
    evals = [row for row in rows if row.get("event") == "eval"]
    figure = Figure(figsize=(12, 6), layout="constrained")
    for axes, (title, of_steps, of_evals) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        for lines, names, style in ((steps, of_steps, "-"), (evals, of_evals, "o-")):
            for name in names:
                points = [(row["step"], row[name]) for row in lines if row.get(name) is not None]
                if points:
                    axes.plot(*zip(*points, strict=True), style, label=name, linewidth=1, markersize=3)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7)
    aside = path.with_name(f".{path.name}.partial")
    figure.savefig(aside, format="png", dpi=100)
    os.replace(aside, path)
    return path
