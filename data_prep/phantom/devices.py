"""Lines, tubes and boxes on a frontal film."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_prep.phantom.anatomy import SIGN, FrontalAnatomy
from data_prep.phantom.canvas import Canvas, curve, ellipse
from data_prep.phantom.plan import Finding

PIECE = 0.5  # a line is boxed piece by piece, each about this long


@dataclass(frozen=True)
class Part:
    """A stroke of the given width and brightness, or (width 0) a solid."""

    points: np.ndarray
    width: float
    fill: int


def device_parts(a: FrontalAnatomy, f: Finding, rng: np.random.Generator) -> list[Part]:
    """The parts of one device where this patient's anatomy puts them."""
    sign, k = SIGN.get(f.side, 1.0), a.base / 1.85
    cava = (-0.13, 0.75 * k)
    shift = rng.uniform(-0.03, 0.03)
    if f.kind == "pacemaker":
        x, y = sign * (0.66 + shift), 0.24 + shift
        left, right = float(a.heart[:, 0].min()), float(a.heart[:, 0].max())
        parts = [Part(ellipse(x, y, 0.15, 0.13, rng.uniform(-0.3, 0.3)), 0, 235)]
        for tip in ((left * 0.6, 1.25 * k), (right * 0.72, 1.6 * k)):
            via = [(sign * 0.36, 0.02), (0.2 * sign, 0.2), cava, ((cava[0] + tip[0]) / 2, 1.2 * k)]
            parts.append(Part(curve([(x, y - 0.1), *via, tip]), 0.026, 225))
        return parts
    if f.kind == "port":
        x, y = sign * (0.6 + shift), 0.5 + shift
        via = [(sign * 0.42, 0.1), (sign * 0.2, 0.02), (0.05 * sign - 0.05, 0.4 * k)]
        return [Part(ellipse(x, y, 0.085, 0.085), 0, 215), Part(curve([(x, y), *via, cava]), 0.028, 235)]
    if f.kind == "jugular line":
        via = [(sign * 0.34, -0.62), (sign * 0.2, -0.3), (sign * 0.13, 0.05), (cava[0] * 0.9, 0.45 * k)]
        return [Part(curve([*via, cava]), 0.028, 235)]
    if f.kind == "picc":
        via = [(sign * 1.5, 0.9), (sign * 1.22, 0.3), (sign * 0.85, 0.08), (sign * 0.3, 0.12), (cava[0], 0.42 * k)]
        return [Part(curve([*via, (cava[0], 0.95 * k)]), 0.028, 235)]
    if f.kind == "endotracheal tube":
        tip = a.trachea[2] - (0, 0.2)
        line = curve([tuple(a.trachea[0]), tuple(a.trachea[1]), tuple(tip)])
        return [Part(line, 0.05, 150), Part(line + np.array((0.016, 0)), 0.018, 235)]
    if f.kind == "enteric tube":
        via = [(0.05, -0.8), (0.04, 0.2), (0.05, 0.9 * k), (0.1, a.base - 0.2), (0.3, a.base + 0.12)]
        return [Part(curve([*via, (0.52, a.base + 0.2)]), 0.036, 190)]
    if f.kind == "sternal wires":
        loops = [ellipse(shift, y, 0.07, 0.035, rng.uniform(-0.2, 0.2)) for y in np.linspace(0.3 * k, 1.25 * k, 6)]
        return [Part(np.concatenate([loop, loop[:1]]), 0.022, 235) for loop in loops]
    # a chest tube enters low on the wall and runs up to the apex
    line = curve([(sign * 1.3, 1.5 * k), (sign * 0.98, 1.3 * k), (sign * 0.8, 0.85 * k), (sign * 0.58, 0.36 * k)])
    return [Part(line, 0.055, 150), Part(line, 0.02, 240)]


def draw_device(
    canvas: Canvas, image: Image.Image, a: FrontalAnatomy, f: Finding, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw a device into the layer of metal; the points of its boxes: solids whole, lines piece by piece."""
    boxes = []
    for part in device_parts(a, f, rng):
        if part.width:
            canvas.stroke(image, part.points, part.width, part.fill)
        else:
            canvas.polygon(image, part.points, part.fill)
        boxes += [part.points] if not part.width else pieces(part.points)
    return boxes


def pieces(line: np.ndarray) -> list[np.ndarray]:
    """A line cut into stretches of about PIECE, which share their end points."""
    length = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    count = max(1, round(length[-1] / PIECE))
    cuts = np.searchsorted(length, np.linspace(0, length[-1], count + 1)[1:-1])
    ends = [0, *(int(c) for c in cuts), len(line) - 1]
    return [line[i : j + 1] for i, j in itertools.pairwise(ends) if j > i]
