"""The lateral film: anatomy, findings and drawing. The patient faces the left of the film (sternum at negative x)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_prep.phantom.anatomy import VOLUME, heart_ratio
from data_prep.phantom.canvas import Box, Canvas, blob, curve, ellipse
from data_prep.phantom.plan import Finding, Study, View

CENTRE_X = 0.06


@dataclass
class LateralAnatomy:
    base: float  # height of the posterior costophrenic angle
    lung: np.ndarray
    heart: np.ndarray
    spine: np.ndarray
    trachea: np.ndarray
    hilum: tuple[float, float]

    def zone(self, zone: str) -> tuple[float, float]:
        thirds = np.linspace(0.15, self.base - 0.35, 4)
        i = ("upper", "mid", "lower").index(zone)
        return float(thirds[i]), float(thirds[i + 1])

    def place(self, rng: np.random.Generator, zone: str, spread: float = 0.6) -> tuple[float, float]:
        low, high = self.zone(zone)
        return rng.uniform(-0.2, 0.4), low + (high - low) * (0.5 + spread * rng.uniform(-0.5, 0.5))


def lateral_anatomy(study: Study, view: View) -> LateralAnatomy:
    k = VOLUME[study.volume] * study.patient.tall
    base = 1.98 * k
    lift = 0.1 if study.raised else 0.0
    lung = np.concatenate(
        [
            curve([(0.12, 0.05), (0.36, 0.14), (0.56, 0.5 * k), (0.66, 1.0 * k), (0.66, 1.5 * k), (0.60, base)]),
            curve(
                [
                    (0.60, base),
                    (0.42, base - 0.28 - lift),
                    (0.05, base - 0.46 - lift),
                    (-0.34, base - 0.42),
                    (-0.64, base - 0.22),
                ]
            ),
            curve(
                [(-0.64, base - 0.22), (-0.66, 1.25 * k), (-0.56, 0.75 * k), (-0.34, 0.36), (-0.1, 0.16), (0.12, 0.05)]
            ),
        ]
    )
    size = (heart_ratio(study, view) / 0.44) ** 0.9
    heart = ellipse(-0.27 + 0.14 * (size - 1), 1.30 * k - 0.08 * (size - 1), 0.34 * size, 0.44 * size, 0.6)
    spine_y = np.linspace(-0.4, base + 1.0, 20)
    spine = np.stack([0.52 + 0.22 * np.sin((spine_y + 0.2) / 2.1 * np.pi * 0.9), spine_y], 1)
    trachea = np.array([(0.02, -0.4), (0.1, 0.25), (0.14, 0.72 * k)])
    return LateralAnatomy(base, lung, heart, spine, trachea, (0.1, 0.86 * k))


@dataclass
class LateralLayers:
    lung: np.ndarray
    heart: np.ndarray
    fill: np.ndarray
    metal: Image.Image


def draw_lateral(study: Study, view: View) -> tuple[np.ndarray, list[list[Box]]]:
    """uint8 (H,W) and, per finding of the study, its boxes (none where a lateral does not show it)."""
    a = lateral_anatomy(study, view)
    canvas = Canvas(view, (CENTRE_X, a.base / 2))
    rng = np.random.default_rng(view.seed)
    lung, heart = canvas.layer(), canvas.layer()
    canvas.polygon(lung, a.lung, 255)
    canvas.polygon(heart, a.heart, 255)
    masks = canvas.blurred(lung, heart, radius=2.2)
    layers = LateralLayers(masks[0], masks[1], np.zeros_like(canvas.density), canvas.layer())
    boxes = []
    for finding in study.findings:
        points = _finding(canvas, a, layers, finding)
        cut = [canvas.box(p, 0.03) for p in points]
        boxes.append([box for box in cut if box[2] - box[0] > 0.01 and box[3] - box[1] > 0.01])
    body = _compose(canvas, a, layers, study, rng)
    return canvas.develop(view, rng, body), boxes


# ------------------------------------------------------------------------------------------------ findings
def _finding(canvas: Canvas, a: LateralAnatomy, layers: LateralLayers, f: Finding) -> list[np.ndarray]:
    rng = np.random.default_rng(f.seed)
    strength = 1.0 if f.sure else 0.6
    if f.name == "Cardiomegaly":
        return [a.heart]
    if f.name == "Pleural Effusion":
        low, high = {"small": (0.44, 0.54), "moderate": (0.72, 0.88), "large": (1.0, 1.25)}[f.grade]
        level = a.base - (low + (high - low) * f.extent)
        xs = np.linspace(-0.1 if f.grade == "small" else -0.7, 0.75, 16)
        ramp = (xs - xs[0]) / (xs[-1] - xs[0])
        top = np.stack([xs, level + 0.3 * (1 - ramp) ** 1.5], 1)
        region = np.concatenate([top, [(0.75, a.base + 0.1), (xs[0], a.base + 0.1)]])
        _fill(layers, (1.05 if f.side == "both" else 0.9) * strength * canvas.mask(region, 3.0))
        return [np.clip(region, [-0.68, 0], [0.7, a.base])]
    if f.name in ("Consolidation", "Lung Opacity"):
        x, y = a.place(rng, f.zone)
        if f.name == "Consolidation":
            size = 0.36 if f.kind == "lobar" else 0.27 + 0.05 * f.extent
            shape = blob(rng, x, y, size, size)
            _fill(layers, 1.1 * strength * canvas.mask(shape, 4.0) * (1 + 0.08 * canvas.texture(rng, 0.06)))
            return [shape]
        patches, centres = canvas.layer(), []
        for _ in range(12):
            px, py = x + rng.uniform(-0.26, 0.26), y + rng.uniform(-0.22, 0.22)
            shade = int(rng.uniform(190, 255))
            canvas.polygon(patches, blob(rng, px, py, rng.uniform(0.06, 0.095), rng.uniform(0.06, 0.095)), shade)
            centres.append((px, py))
        _fill(layers, 0.95 * strength * canvas.blurred(patches, radius=2.6)[0])
        points = np.array(centres)
        return [np.array([points.min(0) - 0.06, points.max(0) + 0.06])]
    if f.name == "Lung Lesion":
        if f.kind == "multiple":
            zones = ("upper", "mid", "lower", "mid", "lower")
            spots = [(*a.place(rng, zone, 1.0), rng.uniform(0.1, 0.135)) for zone in zones]
        else:
            low, high = (0.115, 0.135) if f.kind == "nodule" else (0.185, 0.25)
            spots = [(*a.place(rng, f.zone), low + (high - low) * f.extent)]
        shapes = [blob(rng, x, y, radius, radius, 0.1) for x, y, radius in spots]
        image = canvas.layer()
        for shape in shapes:
            canvas.polygon(image, shape, 255)
        _fill(layers, 1.25 * canvas.blurred(image, radius=1.4)[0])
        return shapes
    if f.name == "Edema":
        grade = {"mild": 0.5, "moderate": 0.7, "severe": 0.9}[f.grade] + 0.08 * f.extent
        x, y = a.hilum
        haze = canvas.spread(canvas.bump(x, y + 0.12, 0.36, 0.4))
        _fill(layers, grade * haze * (1 + 0.2 * canvas.texture(rng, 0.1)))
        return [np.array([(x - 0.52, y - 0.45), (x + 0.52, y + 0.72)])]
    if f.name == "Atelectasis":
        bands, ends = canvas.layer(), []
        for i in range(3):
            y = a.base - 0.56 - 0.12 * i
            line = curve([(-0.05, y), (0.2, y + rng.uniform(-0.04, 0.06)), (0.48, y + rng.uniform(-0.05, 0.1))])
            canvas.stroke(bands, line, rng.uniform(0.045, 0.06), 255)
            ends.append(line)
        _fill(layers, 0.9 * strength * canvas.blurred(bands, radius=1.2)[0])
        return [np.concatenate(ends)]
    if f.name == "Support Devices":
        return _device(canvas, a, layers, f)
    if f.name == "Fracture" and f.kind == "ribs":
        # the broken ribs cross the lung behind the heart, drawn as coarsely as on the frontal film
        callus, marks = canvas.layer(), []
        for i in range(3):
            x, y = rng.uniform(0.32, 0.4), a.base - (0.72 if f.zone == "lower" else 1.05) + 0.2 * i
            for end in ((x - 0.06, y + 0.07), (x + 0.06, y - 0.07)):
                canvas.polygon(callus, ellipse(*end, 0.075, 0.045, -0.5), 255)
                marks.append(end)
        _fill(layers, 1.1 * canvas.blurred(callus, radius=1.2)[0])
        points = np.array(marks)
        return [np.array([points.min(0) - 0.07, points.max(0) + 0.07])]
    return []  # a pneumothorax and a broken clavicle do not show on the lateral


def _fill(layers: LateralLayers, amount: np.ndarray) -> None:
    np.maximum(layers.fill, amount, out=layers.fill)


def _device(canvas: Canvas, a: LateralAnatomy, layers: LateralLayers, f: Finding) -> list[np.ndarray]:
    image = layers.metal
    low = float(a.heart[:, 1].max()) - 0.12
    if f.kind in ("pacemaker", "port"):
        can = ellipse(-0.66, 0.42, 0.07 if f.kind == "port" else 0.06, 0.08 if f.kind == "port" else 0.15, -0.5)
        canvas.polygon(image, can, 230)
        tip = (-0.3, low) if f.kind == "pacemaker" else (-0.02, 0.8)
        line = curve([(-0.66, 0.36), (-0.4, 0.1), (-0.08, 0.35), (-0.02, 0.7), tip])
        canvas.stroke(image, line, 0.026, 225)
        return [np.concatenate([can, line])]
    width, lines = (
        0.03,
        {
            "jugular line": [(-0.02, -0.5), (-0.04, 0.1), (-0.02, 0.8)],
            "picc": [(-0.3, 0.02), (-0.1, 0.2), (-0.02, 0.5), (-0.02, 1.0)],
            "endotracheal tube": [
                (0.0, -0.5),
                tuple(a.trachea[1]),
                (float(a.trachea[2][0]), float(a.trachea[2][1]) - 0.2),
            ],
            "enteric tube": [(0.12, -0.5), (0.24, 0.4), (0.26, 1.0), (0.16, a.base - 0.3), (-0.1, a.base + 0.1)],
            "sternal wires": [(-0.44, 0.3), (-0.66, 0.7), (-0.74, 1.1)],
            "chest tube": [(0.3, 1.5), (0.1, 1.1), (-0.05, 0.6), (0.1, 0.3)],
        },
    )
    line = curve(lines[f.kind], 12)
    if f.kind == "sternal wires":
        for x, y in line[2::4]:
            canvas.polygon(image, ellipse(x, y, 0.04, 0.025), 225)
        return [line]
    canvas.stroke(image, line, 0.045 if f.kind in ("endotracheal tube", "chest tube") else width, 210)
    return [line]


# ------------------------------------------------------------------------------------------------ the film
def _compose(
    canvas: Canvas, a: LateralAnatomy, layers: LateralLayers, study: Study, rng: np.random.Generator
) -> np.ndarray:
    fat, k = study.patient.fat, a.base / 1.98
    chest = 0.12 + 0.3 * fat + (0.14 if study.patient.sex == "F" else 0.0)
    front = curve(
        [
            *[(-0.25, -1.4), (-0.22, -0.5), (-0.36, -0.15), (-0.62 - fat * 0.3, 0.35), (-0.76 - fat * 0.3, 0.8)],
            *[(-0.78 - chest, 1.3), (-0.76 - chest * 0.8, 1.6), (-0.80 - fat * 0.5, 2.0), (-0.85 - fat, 3.6)],
        ]
    )
    back = curve(
        [
            *[(0.4, -1.4), (0.52, -0.5), (0.78 + fat * 0.3, -0.1), (0.95 + fat * 0.4, 0.5), (1.0 + fat * 0.4, 1.1)],
            *[(0.92 + fat * 0.4, 1.8), (0.84 + fat * 0.5, 2.4), (0.9 + fat * 0.5, 3.6)],
        ]
    )
    body, arms, ribs, bones, airway, vessels = (canvas.layer() for _ in range(6))
    canvas.polygon(body, np.concatenate([front, back[::-1]]), 255)
    raise_ = rng.uniform(-0.15, 0.1)
    canvas.polygon(arms, np.array([(0.5, -0.35), (0.45, 0.12), (-1.9, -0.35 + raise_), (-1.9, -0.85 + raise_)]), 220)
    # vertebral bodies, the sternum, ribs of both sides
    for y in np.arange(-0.3, a.base + 0.9, 0.19):
        x = float(np.interp(y, a.spine[:, 1], a.spine[:, 0])) + 0.02
        vertebra = np.add([(-0.085, -0.075), (0.085, -0.075), (0.085, 0.075), (-0.085, 0.075)], (x, y))
        canvas.polygon(bones, vertebra, 95)
        canvas.stroke(bones, np.concatenate([vertebra, vertebra[:1]]), 0.012, 150)
        canvas.stroke(bones, curve([(x + 0.1, y), (x + 0.2, y + 0.12), (x + 0.24, y + 0.2)]), 0.05, 70)
    canvas.bone(bones, curve([(-0.42, 0.25), (-0.66, 0.7 * k), (-0.72, 1.15 * k)]), 0.055, 60)
    for rib in range(9):
        y = (0.05 + 0.2 * rib) * k
        for shift in (0.0, 0.055):
            line = curve([(0.66, y + shift), (0.3, y + 0.12 + shift), (-0.15, y + 0.42 + shift), (-0.6, y + 0.62)])
            canvas.bone(ribs, line, 0.055, 42)
    canvas.stroke(airway, curve([tuple(p) for p in a.trachea]), 0.11, 220)
    hx, hy = a.hilum
    canvas.polygon(vessels, ellipse(hx - 0.04, hy + 0.05, 0.13, 0.15), 150)
    for angle in np.concatenate([rng.uniform(0.2, 2.9, 10), rng.uniform(3.3, 6.1, 6)]):
        headings = angle + rng.normal(0, 0.12, 5).cumsum()
        length = rng.uniform(0.4, 0.75) / 5
        line = np.stack([hx + np.cos(headings).cumsum() * length, hy + np.sin(headings).cumsum() * length], 1)
        canvas.stroke(vessels, line[:3], 0.03, 130)
        canvas.stroke(vessels, line[2:], 0.016, 110)
    arch = curve(
        [(-0.12, 0.95 * k), (-0.06, 0.55 * k), (0.14, 0.42 * k), (0.34, 0.58 * k), (0.42, 1.0 * k), (0.44, a.base)]
    )
    canvas.stroke(vessels, arch, 0.17 + 0.06 * study.patient.aorta, 90)
    body_mask, arm_mask = canvas.blurred(body, arms, radius=2.4)
    ribs_, bones_, airway_, vessels_, metal = canvas.blurred(ribs, bones, airway, vessels, layers.metal, radius=1.0)

    x, y = canvas.x, canvas.y
    thick = np.sqrt(np.clip(1.1 - ((x - 0.1) / (0.98 + 0.5 * fat)) ** 2, 0.03, 1))
    soft = (0.55 + 0.3 * fat) * thick + 0.12
    soft += 0.5 * thick / (1 + np.exp(-(y - a.base + 0.4) / 0.1))
    soft += 0.55 / (1 + np.exp((y - 0.12) / 0.1)) * np.exp(-0.5 * ((x - 0.25) / 0.55) ** 2)  # the shoulders
    gas, size = rng.uniform(0, 1, 2), 0.26 if study.stomach else 0.16
    bubble = canvas.bump(-0.28 + 0.26 * gas[0], a.base - 0.3 + 0.5 * size, size, 0.45 * size)
    soft -= (0.8 if study.stomach else 0.1 + 0.35 * gas[1]) * bubble
    air = 0.62 * (0.75 + 0.25 * np.clip(y / a.base, 0, 1)) * (0.9 + 0.3 * fat)
    # the retrosternal and the retrocardiac spaces are the clearest
    air *= 0.86 + 0.22 * canvas.bump(-0.4, 0.65 * k, 0.2, 0.3) + 0.25 * canvas.bump(0.35, 1.5 * k, 0.25, 0.35)
    lungs, clear = layers.lung, 1 - np.minimum(layers.fill, 1.3)
    density = canvas.density
    density += canvas.spread(soft) * body_mask + 0.55 * np.maximum(arm_mask - 0.5 * body_mask, 0)
    density -= canvas.spread(air) * lungs * (1 - 0.62 * layers.heart) * clear
    density += lungs * (0.28 * vessels_ * clear + 0.016 * (canvas.texture(rng, 0.05) + canvas.texture(rng, 0.16)))
    density += 0.26 * ribs_ * lungs + 0.34 * bones_ - 0.2 * airway_ + 1.1 * metal
    return np.maximum(body_mask, arm_mask)
