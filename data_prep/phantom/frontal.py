"""Drawing a frontal film: layers first, which the findings may still change, then one sum of densities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data_prep.phantom.anatomy import SIGN, WALL_X, WALL_Y, FrontalAnatomy
from data_prep.phantom.canvas import Canvas, curve, ellipse, ribbon
from data_prep.phantom.plan import Study, View

RIB_FILL = 78


@dataclass
class Layers:
    """The parts of a film that findings may change before `compose` puts everything together."""

    lung: dict[str, np.ndarray]  # soft masks, float32 (H,W)
    mediastinum: np.ndarray
    vessels: Image.Image
    ribs: Image.Image
    bones: Image.Image
    metal: Image.Image  # devices
    added: np.ndarray  # density of the findings, float32 (H,W)
    broken_clavicle: str  # side of a clavicle that a finding draws itself, or ""
    fill: np.ndarray  # share of the lung's air that a finding has replaced, float32 (H,W)


def draw_layers(canvas: Canvas, a: FrontalAnatomy, rng: np.random.Generator) -> Layers:
    right, left, middle, vessels, ribs = (canvas.layer() for _ in range(5))
    canvas.polygon(right, a.lung["right"], 255)
    canvas.polygon(left, a.lung["left"], 255)
    canvas.polygon(middle, a.mediastinum, 255)
    masks = canvas.blurred(right, left, middle, radius=1.6)
    vessel_tree(canvas, a, rng, vessels)
    for lines in a.posterior.values():
        for line in lines:
            canvas.bone(ribs, line, np.linspace(0.085, 0.065, len(line)), RIB_FILL)
    return Layers(
        lung={"right": masks[0], "left": masks[1]},
        mediastinum=masks[2],
        vessels=vessels,
        ribs=ribs,
        bones=canvas.layer(),
        metal=canvas.layer(),
        added=np.zeros_like(canvas.density),
        broken_clavicle="",
        fill=np.zeros_like(canvas.density),
    )


def vessel_tree(canvas: Canvas, a: FrontalAnatomy, rng: np.random.Generator, image: Image.Image) -> None:
    """Pulmonary vessels: branches that leave each hilum, wander, taper and fork."""
    draw = ImageDraw.Draw(image)
    steps = 6
    for side, sign in SIGN.items():
        x, y = a.hilum[side]
        canvas.polygon(image, ellipse(x, y + 0.02, 0.09, 0.18, 0.2 * sign, 20), 130)
        canvas.polygon(image, ellipse(x + 0.04 * sign, y + 0.12, 0.07, 0.16, 0.3 * sign, 20), 160)
        angles = np.linspace(-1.3, 1.3, 9) + rng.normal(0, 0.14, 9)
        starts, widths = y + rng.normal(0, 0.07, 9), 0.042 * rng.uniform(0.7, 1.2, 9)
        lengths = rng.uniform(0.6, 0.95, 9)
        stack = [(x, *trunk, 0) for trunk in zip(starts, angles, widths, lengths, strict=True)]
        while stack:
            px, py, angle, width, length, depth = stack.pop()
            wander, forks = rng.normal(0, 0.12, steps), rng.uniform(-0.45, 0.45, 2)
            headings = angle + wander.cumsum()
            line = np.empty((steps + 1, 2))
            line[0] = px, py
            line[1:, 0] = px + sign * np.cos(headings).cumsum() * length / steps
            line[1:, 1] = py + np.sin(headings).cumsum() * length / steps
            flat = canvas.flat(line)
            for i in range(0, steps, 2):
                pixels = width * (1 - 0.8 * i / steps) * canvas.unit
                fill = int(min(200, 60 + 45 * pixels / canvas.fine) * min(1.0, pixels))
                draw.line(flat[2 * i : 2 * i + 6], fill=fill, width=max(1, round(0.7 * pixels)))
            for i, fork in ((1, forks[0]), (3, forks[1]))[: 2 - depth]:
                turn = headings[i] + fork + (0.35 if fork > 0 else -0.35)
                stack.append((line[i + 1, 0], line[i + 1, 1], turn, width * 0.55, length * 0.55, depth + 1))


def body_outline(fat: float, base: float) -> np.ndarray:
    half = [
        *[(0.30 + 0.3 * fat, -1.6), (0.32 + 0.3 * fat, -0.75), (0.42 + 0.3 * fat, -0.42), (0.85, -0.27 - 0.1 * fat)],
        *[(1.28 + 0.2 * fat, -0.08), (1.5 + 0.3 * fat, 0.25), (1.52 + 0.5 * fat, 0.7)],
        *[(1.24 + fat, 0.8), (1.14 + fat, 1.2), (1.11 + fat, base)],
        *[(1.14 + 1.2 * fat, base + 0.6), (1.2 + 1.3 * fat, 4.0)],
    ]
    line = curve(half, 5)
    return np.concatenate([line, (line * (-1, 1))[::-1]])


def compose(
    canvas: Canvas, a: FrontalAnatomy, layers: Layers, study: Study, view: View, rng: np.random.Generator
) -> np.ndarray:
    """Put the layers together into canvas.density; returns the soft mask of the body (H,W)."""
    patient, fat = study.patient, study.patient.fat
    body, arms, front = canvas.layer(), canvas.layer(), canvas.layer()
    canvas.polygon(body, body_outline(fat, a.base), 255)
    for side, sign in SIGN.items():
        swing = rng.uniform(0.05, 0.3)
        arm = curve([(1.32, 0.05), (1.5 + fat * 0.5 + swing * 0.4, 0.8), (1.55 + fat * 0.6 + swing, 2.6)]) * (sign, 1)
        canvas.polygon(arms, ribbon(arm, 0.34 + 0.25 * fat), 170)
        canvas.bone(layers.bones, arm, 0.13, 80)
        canvas.polygon(arms, ellipse(sign * 1.28, 0.02, 0.15, 0.15), 235)
        for rib, line in enumerate(a.anterior[side]):
            canvas.bone(front, line, np.linspace(0.075, 0.09, len(line)), 66 - 4 * rib)
        shift = -0.12 if view.position == "AP" else 0.06
        blade = curve([(0.8, 0.1), (1.2, 0.02), (1.16, 0.36), (1.02, 0.86), (0.95, 0.9), (0.9, 0.5), (0.8, 0.1)], 5)
        canvas.polygon(layers.bones, np.add(blade, (shift, 0)) * (sign, 1), 26)
        canvas.stroke(layers.bones, np.add(blade[5:20], (shift, 0)) * (sign, 1), 0.02, 48)
        if side != layers.broken_clavicle:
            canvas.bone(layers.bones, a.clavicle[side], 0.075, 80)
    airway = _airway(canvas, a)
    body_mask, arm_mask = canvas.blurred(body, arms, radius=2.0)
    ribs, fronts, bones, vessels, metal, trachea = canvas.blurred(
        layers.ribs, front, layers.bones, layers.vessels, layers.metal, airway, radius=0.8
    )

    # what varies smoothly, on the coarse grid
    x, y = canvas.x, canvas.y
    thick = np.sqrt(np.clip(1.06 - (x / (1.3 + fat)) ** 2, 0.02, 1))
    soft = (0.42 + 0.34 * fat) * thick + 0.12
    belly = 1 / (1 + np.exp(-(y - a.base + 0.25) / 0.09))
    soft += 0.5 * thick * belly * (0.25 + 0.75 / (1 + np.exp((np.abs(x) - 1.0) / 0.03)))
    spine_x = canvas.along(a.spine[:, 1], a.spine[:, 0])
    disc = 0.5 + 0.5 * np.cos(2 * np.pi * (y + 0.1) / (0.185 * a.base / 1.85))
    soft += (0.20 + 0.07 * disc) * np.exp(-0.5 * ((x - spine_x) / 0.095) ** 4)
    soft += 0.20 * np.exp(-0.5 * ((x - spine_x) / 0.2) ** 2) * np.clip(0.5 - y, 0, 1)
    if patient.sex == "F":
        drop, size = 1.28 + 0.25 * fat, 0.34 + 0.25 * fat
        for sign in (-1, 1):
            inside = np.clip(1 - ((x - sign * 0.56) / size) ** 2 - ((y - drop) / (size * 0.9)) ** 2, 0, 1)
            soft += (0.14 + 0.2 * fat) * np.sqrt(inside)
    gas = rng.uniform(0.0, 1.0, 3)
    size = 0.24 if study.stomach else 0.13
    bubble = canvas.bump(0.38 + 0.16 * gas[0], a.dome["left"] + 0.05 + 0.9 * size + 0.05 * gas[1], size, 0.55 * size)
    soft -= (0.8 if study.stomach else 0.08 + 0.4 * gas[2]) * bubble
    soft -= 0.35 * canvas.bump(rng.uniform(0.2, 0.8), a.base + rng.uniform(0.15, 0.6), 0.14, 0.1) * rng.random()

    air = np.zeros_like(soft)
    wall = np.maximum(canvas.along(WALL_Y * a.base / 1.85, WALL_X), 0.2)
    for sign in SIGN.values():
        # air is deepest in the middle of each lung and thins towards the wall, apex and base
        span = np.clip((sign * x - 0.02) / wall, 0, 1)
        air += (sign * x > 0) * (0.62 + 0.38 * np.sqrt(np.clip(1 - (2 * span - 1) ** 2, 0, 1)))
    depth = 0.50 + {"high": 0.05, "normal": 0.0, "low": -0.02}[study.volume]
    air *= depth * (0.84 + 0.2 * np.clip(y / a.base, 0, 1)) * (0.9 + 0.35 * fat)
    chambers = 0.16 + 0.20 * canvas.bump(0.12, 1.35 * a.base / 1.85, 0.45, 0.5)

    lungs = np.maximum(layers.lung["right"], layers.lung["left"])
    heart = layers.mediastinum
    behind = 1 - 0.62 * heart
    in_lung = 0.4 + 0.6 * lungs
    density = canvas.density
    density += canvas.spread(soft) * body_mask
    density += 0.33 * np.maximum(arm_mask - 0.4 * body_mask, 0)
    density -= canvas.spread(air) * lungs * behind * (1 - layers.fill)
    density += canvas.spread(chambers) * heart * (0.35 + 0.65 * lungs)
    clear = behind * (1 - 0.85 * np.clip(layers.fill, 0, 1))
    density += lungs * (0.18 * vessels * clear + 0.016 * (canvas.texture(rng, 0.05) + canvas.texture(rng, 0.16)))
    density += (0.25 * ribs + 0.20 * fronts) * in_lung * body_mask + 0.36 * bones
    density -= 0.22 * trachea
    density += layers.added
    density += 1.1 * metal
    return np.maximum(body_mask, arm_mask)


def _airway(canvas: Canvas, a: FrontalAnatomy) -> Image.Image:
    image = canvas.layer()
    canvas.stroke(image, curve([tuple(p) for p in a.trachea]), 0.105, 200)
    x, y = a.trachea[-1]
    for side, sign in SIGN.items():
        hx, hy = a.hilum[side]
        canvas.stroke(image, curve([(x, y - 0.02), (x + sign * 0.1, y + 0.12), (hx, hy + 0.02)]), 0.06, 130)
    return image
