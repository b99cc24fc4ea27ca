"""What both gaze readers do with fixations: drop what is not a look at the image, and give it the records' form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# A look this far beside the shown image still counts as one at its edge, in degrees of visual angle (REFLACX authors).
EDGE_DEGREES = 0.5


class Fixation(NamedTuple):
    """One fixation; x, y and one degree (sigma) as fractions of image width and height, times in seconds.

    `shown` is the rectangle of the image that was on the screen (x0, y0, x1, y1), in the same fractions.
    """

    x: float
    y: float
    start: float
    end: float
    sigma_x: float
    sigma_y: float
    shown: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def fixation_array(fixations: Iterable[Fixation], dropped: Counter[str]) -> np.ndarray:
    """float32 (F,6) as records.FIXATION_COLUMNS, ordered by start; F may be 0.

    Dropped, and counted in `dropped` by cause: lost position (NaN), no duration (end <= start), no angular resolution,
    off the shown image by more than EDGE_DEGREES (a look at a button or beside the screen), repeated rows.
    A resolution that is not a number, not positive or wider than the image is replaced by the reading's median.
    """
    rows = list(fixations)
    median_x, median_y = (
        float(np.median(good)) if (good := [s for s in sigmas if _usable(s)]) else math.nan
        for sigmas in ([f.sigma_x for f in rows], [f.sigma_y for f in rows])
    )
    kept: dict[tuple[float, ...], None] = {}
    for f in rows:
        sigma_x = f.sigma_x if _usable(f.sigma_x) else median_x
        sigma_y = f.sigma_y if _usable(f.sigma_y) else median_y
        row = (f.x, f.y, f.start, f.end, sigma_x, sigma_y)
        x0, y0, x1, y1 = (
            edge if math.isfinite(edge) else whole for edge, whole in zip(f.shown, (0, 0, 1, 1), strict=True)
        )
        margin_x, margin_y = EDGE_DEGREES * sigma_x, EDGE_DEGREES * sigma_y
        if not (math.isfinite(f.x) and math.isfinite(f.y)):
            dropped["lost position"] += 1
        elif not (math.isfinite(f.start) and math.isfinite(f.end) and f.end > f.start):
            dropped["no duration"] += 1
        elif not (_usable(sigma_x) and _usable(sigma_y)):
            dropped["no angular resolution"] += 1
        elif not (x0 - margin_x <= f.x <= x1 + margin_x and y0 - margin_y <= f.y <= y1 + margin_y):
            dropped["off the image"] += 1
        elif row in kept:
            dropped["repeated"] += 1
        else:
            kept[row] = None
    array = np.array(list(kept), dtype=np.float32).reshape(-1, 6)  # (F,6)
    return array[np.argsort(array[:, 2], kind="stable")]


def _usable(sigma: float) -> bool:
    return math.isfinite(sigma) and 0.0 < sigma <= 1.0
