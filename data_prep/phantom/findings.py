"""The findings on a frontal film. Each function draws one finding and returns body points for each of its boxes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from PIL import ImageChops

from data_prep.phantom.anatomy import SIGN, FrontalAnatomy
from data_prep.phantom.canvas import Box, Canvas, blob, curve, ellipse
from data_prep.phantom.devices import draw_device
from data_prep.phantom.frontal import Layers
from data_prep.phantom.plan import Finding

Points = np.ndarray
Drawer = Callable[[Canvas, FrontalAnatomy, Layers, Finding, np.random.Generator], list[Points]]
FAINT = 0.6  # a hedged finding has this share of the usual density


def draw_finding(canvas: Canvas, a: FrontalAnatomy, layers: Layers, finding: Finding) -> list[Box]:
    """Draw one finding; its boxes as fractions of the film."""
    rng = np.random.default_rng(finding.seed)
    boxes = [canvas.box(points, 0.03) for points in DRAWERS[finding.name](canvas, a, layers, finding, rng)]
    return [box for box in boxes if box[2] - box[0] > 0.01 and box[3] - box[1] > 0.01]  # the rest is off the film


def _strength(finding: Finding) -> float:
    return 1.0 if finding.sure else FAINT


def _fill(layers: Layers, amount: np.ndarray) -> None:
    """Replace air: where findings overlap the denser one counts, not the sum."""
    np.maximum(layers.fill, amount, out=layers.fill)


def _sides(finding: Finding) -> tuple[str, ...]:
    return ("right", "left") if finding.side == "both" else (finding.side,)


def pleural_effusion(
    canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator
) -> list[Points]:
    """Fluid from the costophrenic angle up, its upper edge rising towards the wall (the meniscus)."""
    boxes = []
    low, high = {"small": (0.38, 0.50), "moderate": (0.64, 0.82), "large": (1.0, 1.27)}[f.grade]
    for side in _sides(f):
        sign = SIGN[side]
        level = a.base - (low + (high - low) * f.extent) + rng.uniform(-0.03, 0.03)
        inner = 0.3 if f.grade == "small" else 0.05
        rise = 0.16 if f.grade == "small" else 0.26
        xs = np.linspace(inner, 1.05, 16)
        ramp = (xs - inner) / (1.05 - inner)
        top = level + rise * (1 - ramp**2.5) + 0.05 * ramp * (1 - ramp)
        region = np.concatenate([np.stack([xs, top], 1), [(1.05, a.base + 0.1), (inner, a.base + 0.1)]]) * (sign, 1)
        mask = canvas.mask(region, 3.0) * layers.lung[side]
        _fill(layers, (1.1 if f.sure else 0.75) * mask)
        shown = region[(np.abs(region[:, 0]) <= 1.0)]
        boxes.append(np.clip(shown, [-1, 0], [1, a.base + 0.02]))
    return boxes


def cardiomegaly(
    canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator
) -> list[Points]:
    """The outline is already larger (anatomy.heart_ratio); nothing to add."""
    return [a.heart_box]


def consolidation(
    canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator
) -> list[Points]:
    """Dense filling of air spaces with dark air bronchograms; the lobar kind fills the zone and ends at a fissure."""
    low, high = a.zone(f.zone)
    sign = SIGN[f.side]
    if f.kind == "lobar":
        inner, outer = 0.5 * a.inner(f.side, (low + high) / 2), float(a.wall((low + high) / 2)) + 0.04
        xs = np.linspace(inner, outer, 10)
        fissure = high + 0.06 * np.sin(np.linspace(0, 2, 10) + rng.uniform(0, 1))
        ceiling = low - 0.02 + 0.10 * rng.uniform(-1, 1) * (xs - inner)
        shape = np.concatenate([np.stack([xs, ceiling], 1), np.stack([xs, fissure], 1)[::-1]]) * (sign, 1)
        blur = 2.5
    else:
        x, y = a.place(rng, f.side, f.zone)
        size = 0.28 + 0.08 * f.extent
        shape = blob(rng, x, y, size, size * rng.uniform(0.8, 1.1))
        blur = 5.0
    mask = canvas.mask(shape, blur) * layers.lung[f.side]
    patchy = 1 + 0.08 * canvas.texture(rng, 0.06)
    _fill(layers, (1.25 if f.kind == "lobar" else 1.2) * _strength(f) * mask * patchy)
    bronchi = canvas.layer()
    centre = shape.mean(0)
    start = np.array(a.hilum[f.side])
    for offset in rng.uniform(-0.25, 0.25, 3):
        tip = centre + (centre - start) * 0.35 + (0, offset)
        canvas.stroke(
            bronchi, curve([tuple(start), tuple((start + tip) / 2 + (0, offset / 3)), tuple(tip)]), 0.022, 230
        )
    layers.added -= 0.16 * canvas.blurred(bronchi, radius=0.8)[0] * mask
    return [shape]


def lung_opacity(
    canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator
) -> list[Points]:
    """Many small ill-defined patches in one zone, fainter than a consolidation."""
    low, high = a.zone(f.zone)
    sign = SIGN[f.side]
    inner = a.inner(f.side, (low + high) / 2) * 0.9
    outer = max(float(a.wall((low + high) / 2)) - 0.06, inner + 0.1)  # a very large heart leaves a narrow strip
    patches, centres = canvas.layer(), []
    for _ in range(14 + int(6 * f.extent)):
        x, y = sign * rng.uniform(inner, outer), rng.uniform(low - 0.05, high + 0.05)
        canvas.polygon(
            patches, blob(rng, x, y, rng.uniform(0.06, 0.095), rng.uniform(0.06, 0.095)), int(rng.uniform(190, 255))
        )
        centres.append((x, y))
    mask = canvas.blurred(patches, radius=2.6)[0] * layers.lung[f.side]
    _fill(layers, 1.0 * _strength(f) * mask)
    points = np.array(centres)
    return [np.array([points.min(0) - 0.06, points.max(0) + 0.06])]


def pneumothorax(
    canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator
) -> list[Points]:
    """Black, vessel-free space between the wall and a thin white line; the lung behind the line is a little denser."""
    low, high = {"small": (0.20, 0.26), "moderate": (0.32, 0.42), "large": (0.52, 0.64)}[f.grade]
    gap = low + (high - low) * f.extent
    sign = SIGN[f.side]
    outline = a.lung[f.side]
    hilum = np.add(a.hilum[f.side], (0, 0.25))
    height = np.clip(outline[:, 1] / a.base, 0, 1)
    reach = {"small": 0.9, "moderate": 0.65, "large": 0.35}[f.grade]  # how much less the lung retracts at the base
    shrink = 1 - gap * (1 - reach * height**1.5)
    beside = sign * outline[:, 0] > 0.16
    inner = np.where(beside[:, None], hilum + (outline - hilum) * shrink[:, None], outline)
    space, lung_edge, keep = canvas.layer(), canvas.layer(), canvas.layer()
    canvas.polygon(space, outline, 255)
    canvas.polygon(space, inner, 0)
    visible = beside & (shrink < 0.96)
    canvas.stroke(lung_edge, inner[visible], 0.022, 255)
    canvas.polygon(keep, inner, 255)
    air, edge, rest = canvas.blurred(space, lung_edge, keep, radius=0.9)
    # vessels end at the pleural line
    layers.vessels.paste(ImageChops.subtract(layers.vessels, space))
    layers.added += (-0.17 * air + 0.20 * edge + 0.07 * rest) * layers.lung[f.side] * (1 - 0.6 * layers.mediastinum)
    # the crescent is boxed in bands of height, so that no box covers much of the lung behind it
    apart = np.hypot(*(outline - inner).T) > 0.06
    rim = np.concatenate([outline[apart], inner[apart]])
    cuts = np.linspace(rim[:, 1].min(), rim[:, 1].max(), 4)
    bands = [(rim[:, 1] >= low - 0.05) & (rim[:, 1] <= high + 0.05) for low, high in itertools.pairwise(cuts)]
    return [rim[band] for band in bands if band.sum() > 2]


def lung_lesion(
    canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator
) -> list[Points]:
    """Round dense spots: one nodule, one mass, or several nodules in both lungs."""
    image, shapes, spots = canvas.layer(), [], []
    if f.kind == "multiple":
        cells = [(side, zone) for side in SIGN for zone in ("upper", "mid", "lower")]
        order = [cells[i] for i in rng.permutation(len(cells))]
        spots = [
            (*a.place(rng, side, zone, 0.9), rng.uniform(0.1, 0.135)) for side, zone in order[: 5 + int(2 * f.extent)]
        ]
    else:
        low, high = (0.115, 0.135) if f.kind == "nodule" else (0.185, 0.25)
        spots = [(*a.place(rng, f.side, f.zone, spread=0.8), low + (high - low) * f.extent)]
    for x, y, radius in spots:
        shapes.append(blob(rng, x, y, radius, radius, 0.1))
        canvas.polygon(image, shapes[-1], 255)
    mask = canvas.blurred(image, radius=1.4)[0]
    layers.added += 0.66 * mask * np.maximum(layers.lung["right"], layers.lung["left"])
    return shapes


def fracture(canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator) -> list[Points]:
    """Broken bones drawn coarsely on purpose: a gap, displaced ends and a bulge of callus."""
    callus, marks = canvas.layer(), []
    if f.kind == "clavicle":
        layers.broken_clavicle = f.side  # it is drawn here, in two pieces
        breaks = [(a.clavicle[f.side], 0.5)]
        image, width, fill, kept = layers.bones, 0.075, 80, 99
    else:
        first = {"mid": 4, "lower": 6}[f.zone] + int(rng.integers(2))
        where = rng.uniform(0.66, 0.74)
        ribs = a.posterior[f.side][first : first + 3]
        breaks = [(rib, where + 0.03 * i) for i, rib in enumerate(ribs)]
        image, width, fill, kept = layers.ribs, 0.09, 150, 6
    for line, where in breaks:
        middle, gap = int(where * (len(line) - 1)), max(1, len(line) // 16)
        canvas.stroke(image, line[middle - 3 : middle + 4], width + 0.02, 0)  # takes the whole bone away there
        step = 0.075 * (1 if rng.random() < 0.7 else -1)
        left, right = line[: middle - gap + 1].copy(), line[middle + gap :].copy()
        left[:, 1] -= step * np.clip(np.linspace(-2, 1, len(left)), 0, 1)
        right[:, 1] += step * np.clip(np.linspace(1, -2, len(right)), 0, 1)
        for piece in (left[-kept:], right[:kept]):
            canvas.bone(image, piece, width, fill)
        for end, next_to in ((left[-1], left[-3]), (right[0], right[2])):
            lean = np.arctan2(*(end - next_to)[::-1])
            canvas.polygon(callus, ellipse(end[0], end[1], 0.075, 0.045, lean), 255)
        marks += [left[-1], right[0]]
    layers.added += 0.42 * canvas.blurred(callus, radius=1.2)[0]
    points = np.array(marks)
    return [np.array([points.min(0) - 0.09, points.max(0) + 0.09])]


def edema(canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator) -> list[Points]:
    """Hazy perihilar wings on both sides, thick vessels and short horizontal lines at the bases."""
    grade = {"mild": 0.58, "moderate": 0.8, "severe": 1.02}[f.grade] + 0.08 * f.extent
    haze = np.zeros_like(canvas.x)
    boxes = []
    lines = canvas.layer()
    for side, sign in SIGN.items():
        x, y = a.hilum[side]
        haze += canvas.bump(x + 0.2 * sign, y + 0.12, 0.27, 0.38)
        for _ in range(9):
            lx, ly = sign * rng.uniform(0.74, 0.9), rng.uniform(a.base - 0.6, a.base - 0.18)
            canvas.stroke(lines, np.array([(lx, ly), (lx + sign * 0.1, ly)]), 0.014, 200)
        boxes.append(np.array([(x - 0.1 * sign, y - 0.36), (x + 0.58 * sign, y + 0.62)]))
    lungs = np.maximum(layers.lung["right"], layers.lung["left"]) * (1 - 0.6 * layers.mediastinum)
    _fill(layers, grade * canvas.spread(haze) * (1 + 0.2 * canvas.texture(rng, 0.1)))
    layers.added += 0.14 * canvas.blurred(lines, radius=0.7)[0] * lungs
    return boxes


def atelectasis(
    canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator
) -> list[Points]:
    """Plate-like bands above a raised diaphragm."""
    boxes = []
    bands = canvas.layer()
    for side in _sides(f):
        sign, ends = SIGN[side], []
        for i in range(3):
            y = a.dome[side] - 0.10 - 0.13 * i + rng.uniform(-0.02, 0.02)
            x0, x1 = rng.uniform(0.3, 0.42), rng.uniform(0.78, 0.9)
            tilt = rng.uniform(-0.06, 0.08)
            line = curve([(x0, y), ((x0 + x1) / 2, y + tilt), (x1, y + 1.5 * tilt)]) * (sign, 1)
            canvas.stroke(bands, line, rng.uniform(0.045, 0.06), 255)
            ends.append(line)
        boxes.append(np.concatenate(ends))
    mask = canvas.blurred(bands, radius=1.2)[0] * np.maximum(layers.lung["right"], layers.lung["left"])
    layers.added += 0.42 * _strength(f) * mask
    return boxes


def support_device(
    canvas: Canvas, a: FrontalAnatomy, layers: Layers, f: Finding, rng: np.random.Generator
) -> list[Points]:
    """Lines, tubes and boxes of metal or radio-opaque plastic."""
    return draw_device(canvas, layers.metal, a, f, rng)


DRAWERS: dict[str, Drawer] = {
    "Pleural Effusion": pleural_effusion,
    "Cardiomegaly": cardiomegaly,
    "Consolidation": consolidation,
    "Lung Opacity": lung_opacity,
    "Pneumothorax": pneumothorax,
    "Lung Lesion": lung_lesion,
    "Fracture": fracture,
    "Support Devices": support_device,
    "Edema": edema,
    "Atelectasis": atelectasis,
}
