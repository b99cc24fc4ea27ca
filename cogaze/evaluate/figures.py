"""Pictures for the page: line charts as inline SVG that follow the page's colours, images and heat maps as data URIs.

Charts carry their own numbers (for the pointer read-out and for screen readers), and nothing is fetched from anywhere.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.floating]

WIDTH, HEIGHT = 420, 230  # of a chart, user units
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 26
MAX_POINTS = 400
PIXELS = 288  # side of a picture


@dataclass(frozen=True)
class Series:
    """One line: name, x and y (n,); `tone` is its colour (0..5 in the page's palette), `dots` marks single values."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    tone: int = 0
    dots: bool = False
    smooth: bool = False


def line_chart(title: str, series: Sequence[Series], y_from: float | None = None, digits: int = 3) -> Markup:
    """An SVG figure of lines over optimizer steps; empty Markup when no series has a finite value.

    A `smooth` series is drawn as its exponential mean over the raw values in a pale tone. Long series are thinned to
    MAX_POINTS by averaging neighbours.
    """
    lines = [(s, *_thinned(s.x, s.y)) for s in series]
    lines = [(s, x, y) for s, x, y in lines if len(x)]
    if not lines:
        return Markup()
    raw = [y for _, _, y in lines]
    low = min(float(y.min()) for y in raw) if y_from is None else y_from
    high = max(float(np.quantile(y, 0.995)) for y in raw)
    x_high = max(float(x[-1]) for _, x, _ in lines)
    y_ticks = _ticks(low, high if high > low else low + max(abs(low), 1.0) * 0.1)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    x_ticks = [t for t in _ticks(0.0, max(x_high, 1.0)) if t <= max(x_high, 1.0)]

    def at_x(value: Floats | float) -> Floats:
        return LEFT + np.asarray(value) / max(x_high, 1.0) * (WIDTH - LEFT - RIGHT)

    def at_y(value: Floats | float) -> Floats:
        part = (np.clip(value, low, high) - low) / (high - low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    body = []
    for tick in y_ticks:
        level = float(at_y(tick))
        body.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        body.append(f'<text class="tick" x="{LEFT - 6}" y="{level + 3.5:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in x_ticks:
        place = float(at_x(tick))
        body.append(f'<text class="tick" x="{place:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_short(tick)}</text>')
    shown = []
    for s, x, y in lines:
        drawn = _smoothed(y) if s.smooth else y
        if s.smooth:
            body.append(f'<path class="line raw tone{s.tone}" d="{_path(at_x(x), at_y(y))}"/>')
        body.append(f'<path class="line tone{s.tone}" d="{_path(at_x(x), at_y(drawn))}"/>')
        if s.dots:
            pairs = zip(at_x(x).tolist(), at_y(drawn).tolist(), strict=True)
            body += [f'<circle class="dot tone{s.tone}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in pairs]
        values = {"name": s.name, "tone": s.tone, "x": _rounded(x), "y": [round(float(v), 6) for v in drawn]}
        shown.append(values)
    summary = "; ".join(f"{v['name']} from {v['y'][0]:.{digits}g} to {v['y'][-1]:.{digits}g}" for v in shown)  # type: ignore[index]
    frame = {"x": [0, x_high], "left": LEFT, "right": WIDTH - RIGHT, "series": shown}
    legend = "".join(
        f'<span class="key tone{v["tone"]}">{escape(v["name"])}<b class="num">{_value(v["y"][-1])}</b></span>'  # type: ignore[index]
        for v in shown
    )
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} over steps: {escape(summary)}"'
        f' data-chart="{escape(json.dumps(frame))}">{"".join(body)}'
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg><div class="legend">{legend}</div></figure>'
    )


def radiograph(pixels: NDArray[np.uint8]) -> str:
    """A grey image (H,W) as a JPEG data URI of PIXELS at most."""
    image = Image.fromarray(pixels, "L")
    if max(image.size) > PIXELS:
        image = image.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return data_uri(stream.getvalue(), "image/jpeg")


def heat(patches: Floats, grid: int) -> str:
    """A patch map (P,) as a transparent PNG data URI: colour and opacity grow with the share of the map's own peak.

    Interpolated between patch centres; nothing at all for an empty map.
    """
    peak = float(patches.max())
    share = np.asarray(patches, np.float32).reshape(grid, grid) / (peak if peak > 0 else 1.0)
    fine = Image.fromarray(share, "F").resize((PIXELS // 2, PIXELS // 2), Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(fine), 0.0, 1.0)
    colour = (colormaps["inferno"](0.25 + 0.7 * values) * 255).astype(np.uint8)  # (h,w,4)
    colour[..., 3] = (np.clip(values * 1.5, 0, 1) ** 0.8 * 235).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colour, "RGBA").save(stream, "PNG", optimize=True)
    return data_uri(stream.getvalue(), "image/png")


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


# ------------------------------------------------------------------------------------------------ chart arithmetic
def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[Floats, Floats]:
    """Finite points only, neighbours averaged down to MAX_POINTS."""
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    keep = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[keep], ys[keep]
    if len(xs) <= MAX_POINTS:
        return xs, ys
    parts = np.array_split(np.arange(len(xs)), MAX_POINTS)
    return np.array([xs[p].mean() for p in parts]), np.array([ys[p].mean() for p in parts])


def _smoothed(y: Floats) -> Floats:
    """Exponential mean over about a fortieth of the points, without the usual start-up bias."""
    keep = 1 - 1 / max(len(y) / 40, 1)
    total, weight, out = 0.0, 0.0, np.empty(len(y))
    for i, value in enumerate(y.tolist()):
        total, weight = keep * total + value, keep * weight + 1
        out[i] = total / weight
    return out


def _ticks(low: float, high: float) -> list[float]:
    return [float(t) for t in MaxNLocator(nbins=5, min_n_ticks=3).tick_values(low, high)]


def _path(x: Floats, y: Floats) -> str:
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in zip(x.tolist(), y.tolist(), strict=True))


def _rounded(x: Floats) -> list[int]:
    return [round(float(v)) for v in x]


def _short(value: float) -> str:
    if value and abs(value) < 1e-2:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}" if abs(value) < 10 else f"{value:.4g}"


def _value(value: float) -> str:
    return f"{value:.2e}".replace("e-0", "e-") if value and abs(value) < 1e-2 else f"{value:.4g}"
