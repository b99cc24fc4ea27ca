"""One film of a study: pixels, the boxes of its findings, and the places sentences may speak of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.phantom.anatomy import frontal_anatomy
from data_prep.phantom.canvas import Box, Canvas
from data_prep.phantom.findings import draw_finding
from data_prep.phantom.frontal import compose, draw_layers
from data_prep.phantom.lateral import draw_lateral
from data_prep.phantom.plan import Study, View


@dataclass(frozen=True)
class Film:
    pixels: np.ndarray  # uint8 (H,W)
    boxes: tuple[tuple[Box, ...], ...]  # per finding of the study; empty where this view does not show it
    regions: dict[str, Box]  # anatomy by name, frontal films only


def draw(study: Study, view: View) -> Film:
    """Draw one view. A pure function of study and view: a finding taken out of the study changes the picture only
    where that finding was drawn."""
    if not view.frontal:
        pixels, boxes = draw_lateral(study, view)
        return Film(pixels, tuple(tuple(b) for b in boxes), {})
    anatomy = frontal_anatomy(study, view)
    canvas = Canvas(view, (0.0, anatomy.base / 2))
    rng = np.random.default_rng(view.seed)
    layers = draw_layers(canvas, anatomy, rng)
    boxes = [draw_finding(canvas, anatomy, layers, finding) for finding in study.findings]
    body = compose(canvas, anatomy, layers, study, view, rng)
    pixels = canvas.develop(view, rng, body)
    regions = {name: canvas.box(points) for name, points in anatomy.regions.items()}
    return Film(pixels, tuple(tuple(b) for b in boxes), regions)
