"""The drawing board: body coordinates -> pixels, soft masks, layers, and the film curve at the end.

Body coordinates are right-handed for the reader of the film: origin at the level of the lung apices in the midline,
x to the right of the film (the patient's left), y downwards, one unit = half the width of the thorax. Density is
additive, as path lengths through tissue are; the film curve makes grey values of it once, at the end.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_prep.phantom.plan import View

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as fractions of the image
COARSE = 4  # smooth fields are computed on a grid this many times coarser than the film


def curve(points: list[tuple[float, float]], per_segment: int = 6) -> np.ndarray:
    """Catmull-Rom curve through the points, open; float64 (n,2)."""
    p = np.asarray(points, dtype=np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, per_segment, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None, :] for i in range(4))
    body = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.concatenate([body.reshape(-1, 2), p[-2:-1]])


def ribbon(line: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Outline of a band of the given full width along a line: (2n,2)."""
    tangent = np.gradient(line, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
    half = np.broadcast_to(np.asarray(width) / 2, len(line))[:, None]
    return np.concatenate([line + normal * half, (line - normal * half)[::-1]])


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, n: int = 32) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    ex, ey = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack([x + ex * math.cos(turn) - ey * math.sin(turn), y + ex * math.sin(turn) + ey * math.cos(turn)], 1)


def blob(rng: np.random.Generator, x: float, y: float, rx: float, ry: float, rough: float = 0.18) -> np.ndarray:
    """An irregular ellipse: its radius wobbles with a few low harmonics."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.ones_like(angle)
    for harmonic in range(2, 6):
        radius += rough / harmonic * 2 * rng.uniform(-1, 1) * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    return np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)], 1)


class Canvas:
    """One film being drawn. `density` is float32 (H,W); layers and masks are 8-bit images of the same size."""

    def __init__(self, view: View, middle: tuple[float, float]) -> None:
        """`middle`: the body point that stands in the middle of an unshifted film."""
        self.width, self.height = view.width, view.height
        side = min(self.width, self.height)
        self.unit = (0.40 if view.frontal else 0.44) * side * view.zoom  # px per body unit
        self.fine = side / 320.0  # blur radii below are meant for 320 px
        cos, sin = math.cos(view.tilt) * self.unit, math.sin(view.tilt) * self.unit
        self.matrix = np.array([[cos, -sin], [sin, cos]])
        target = np.array([self.width / 2 + view.shift_x * side, self.height / 2 + view.shift_y * side])
        self.offset = target - self.matrix @ np.asarray(middle)
        rows, columns = -(-self.height // COARSE), -(-self.width // COARSE)
        centre = (np.mgrid[0:rows, 0:columns] + 0.5) * COARSE
        body = np.linalg.solve(self.matrix, np.stack([centre[1].ravel(), centre[0].ravel()]) - self.offset[:, None])
        # body coordinates of the coarse grid's cells
        self.x, self.y = (row.reshape(rows, columns).astype(np.float32) for row in body)
        self.density = np.zeros((self.height, self.width), np.float32)

    # -------------------------------------------------------------------------------- coordinates
    def px(self, points: np.ndarray) -> np.ndarray:
        """Body points (n,2) -> pixels (n,2)."""
        return np.asarray(points) @ self.matrix.T + self.offset

    def box(self, points: np.ndarray, margin: float = 0.0) -> Box:
        """The upright box around body points, as fractions of the film, cut at its borders."""
        p = self.px(points)
        low = (p.min(0) - margin * self.unit) / (self.width, self.height)
        high = (p.max(0) + margin * self.unit) / (self.width, self.height)
        (x0, y0), (x1, y1) = np.clip(low, 0, 1), np.clip(high, 0, 1)
        return float(x0), float(y0), float(x1), float(y1)

    # -------------------------------------------------------------------------------- drawing
    def layer(self) -> Image.Image:
        return Image.new("L", (self.width, self.height))

    def flat(self, points: np.ndarray) -> list[float]:
        return self.px(points).ravel().tolist()

    def polygon(self, image: Image.Image, points: np.ndarray, fill: int) -> None:
        ImageDraw.Draw(image).polygon(self.flat(points), fill=fill)

    def stroke(self, image: Image.Image, line: np.ndarray, width: float, fill: int) -> None:
        """A line of the given width in body units; below one pixel it gets fainter instead of thinner."""
        pixels = width * self.unit
        joint = "curve" if pixels > 3 else None
        fill = int(fill * min(1.0, pixels))
        ImageDraw.Draw(image).line(self.flat(line), fill=fill, width=max(1, round(pixels)), joint=joint)

    def bone(self, image: Image.Image, line: np.ndarray, width: np.ndarray | float, fill: int) -> None:
        """A tubular bone: a band with brighter cortex along both edges."""
        flat = self.flat(ribbon(line, width))
        draw = ImageDraw.Draw(image)
        draw.polygon(flat, fill=fill)
        half = len(flat) // 2
        edge, pixels = min(255, int(fill * 1.75)), max(1, round(0.006 * self.unit))
        draw.line(flat[:half], fill=edge, width=pixels)
        draw.line(flat[half:], fill=edge, width=pixels)

    def blurred(self, *images: Image.Image, radius: float) -> list[np.ndarray]:
        """8-bit layers softened; float32 (H,W) in 0..1 each. `radius`: standard deviation in px of a 320 px film."""
        # one box pass of the same variance: an edge of a few pixels needs no more, and it takes a third of the time
        box = ImageFilter.BoxBlur((math.sqrt(12 * (radius * self.fine) ** 2 + 1) - 1) / 2)
        return [np.asarray(image.filter(box)).astype(np.float32) * np.float32(1 / 255) for image in images]

    def mask(self, points: np.ndarray, radius: float) -> np.ndarray:
        image = self.layer()
        self.polygon(image, points, 255)
        return self.blurred(image, radius=radius)[0]

    def spread(self, field: np.ndarray) -> np.ndarray:
        """A coarse field -> the film's grid, float32 (H,W)."""
        image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
        grown = image.resize((image.width * COARSE, image.height * COARSE), Image.Resampling.BILINEAR)
        return np.asarray(grown)[: self.height, : self.width]

    def texture(self, rng: np.random.Generator, cell: float) -> np.ndarray:
        """Smooth noise of about unit variance with the given grain in body units, float32 (H,W)."""
        step = max(2.0, cell * self.unit)
        shape = (int(self.height / step) + 3, int(self.width / step) + 3)
        image = Image.fromarray(rng.standard_normal(shape, dtype=np.float32) * np.float32(1.5))
        region = (0.5, 0.5, 0.5 + self.width / step, 0.5 + self.height / step)
        return np.asarray(image.resize((self.width, self.height), Image.Resampling.BICUBIC, box=region))

    def bump(self, x: float, y: float, rx: float, ry: float) -> np.ndarray:
        """A Gaussian on the coarse grid."""
        return np.exp(-0.5 * (((self.x - x) / rx) ** 2 + ((self.y - y) / ry) ** 2))

    def along(self, ys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """A value given at heights `ys`, for every coarse cell."""
        return np.interp(self.y, ys, values).astype(np.float32)

    # -------------------------------------------------------------------------------- film
    def develop(self, view: View, rng: np.random.Generator, body: np.ndarray) -> np.ndarray:
        """Density -> uint8 film: scatter, saturation, exposure, quantum noise, collimation. Uses no statistics of the
        picture itself, so a finding changes the grey values only where it is drawn."""
        film = 1.0 - np.exp(-1.55 * view.exposure * np.maximum(self.density, 0))
        film = (film - 0.06) * 1.1
        np.clip(film, 0, 1, out=film)
        film **= np.float32(view.contrast)
        grain = rng.standard_normal(film.shape, dtype=np.float32)
        film += np.float32(0.6 * view.noise) * grain * (0.35 + body)
        if view.collimation:
            film *= self._collimator(view, rng)
        self._marker(film, view, rng)
        return (np.clip(film, 0, 1) * 255).astype(np.uint8)

    def _collimator(self, view: View, rng: np.random.Generator) -> np.ndarray:
        """Blades: a dark frame, a little askew, wider on some sides."""
        margin = rng.uniform(0.0, 0.055, 4) * view.collimation
        image = self.layer()
        skew = rng.uniform(-0.012, 0.012)
        w, h = self.width, self.height
        corners = [
            (margin[0] * w, (margin[1] + skew) * h),
            ((1 - margin[2]) * w, (margin[1] - skew) * h),
            ((1 - margin[2]) * w, (1 - margin[3] - skew) * h),
            (margin[0] * w, (1 - margin[3] + skew) * h),
        ]
        ImageDraw.Draw(image).polygon(corners, fill=255)
        return 0.06 + 0.94 * self.blurred(image, radius=0.8)[0]

    def _marker(self, film: np.ndarray, view: View, rng: np.random.Generator) -> None:
        """The lead letter: L on the patient's left of a frontal film (the right of the picture)."""
        size = max(5, round(0.035 * min(self.width, self.height)))
        x = int(self.width * (rng.uniform(0.87, 0.92) if view.frontal else rng.uniform(0.05, 0.12)))
        y = int(self.height * rng.uniform(0.05, 0.1))
        image = Image.new("L", (size + 4, size + 4))
        corner = [2, 2, 2, size, 0.65 * size, size]
        ImageDraw.Draw(image).line(corner, fill=int(rng.uniform(190, 250)), width=max(1, round(size / 6)))
        letter = np.asarray(image.filter(ImageFilter.BoxBlur(0.4))).astype(np.float32) / 255
        window = film[y : y + size + 4, x : x + size + 4]
        np.maximum(window, letter[: window.shape[0], : window.shape[1]], out=window)
