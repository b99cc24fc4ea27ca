"""What the gaze readers do with fixations: drop what is not a look at the image, mend what can be mended, count both,
and give what is left the records' form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.records import Quarantine

# A look this far beside the shown image still counts as one at its edge, in degrees of visual angle (REFLACX authors).
EDGE_DEGREES = 0.5
# Overlaps up to this many seconds are rounding: cut, not counted.
ROUNDING = 0.0015
# No fixation lasts longer, in seconds: they take a third of a second, seldom more than two or three. These numbers in
# milliseconds are ten times beyond it, so that it tells the units apart too.
LONGEST = 30.0
NOT_SECONDS = "reading whose durations are not in seconds"

DROPPED, MENDED = "fixations dropped: ", "fixations mended: "


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


def fixation_array(fixations: Iterable[Fixation], counts: Counter[str]) -> np.ndarray:
    """float32 (F,6) as records.FIXATION_COLUMNS, ordered by start and free of overlap; F may be 0.

    Dropped: lost position (NaN), no duration (end <= start), no angular resolution, off the shown image by more than
    EDGE_DEGREES (a look at a button or beside the screen), repeated rows, rows longer than LONGEST. Mended: a
    resolution that is not a number, not positive or wider than the image becomes the reading's median; of two fixations
    that overlap in time the earlier ends where the later begins (one pair of eyes looks at one place), and is dropped
    if nothing is left of it. Each is counted in `counts` by its reason.
    """
    rows = list(fixations)
    median_x, median_y = (
        float(np.median(good)) if (good := [s for s in sigmas if _usable(s)]) else math.nan
        for sigmas in ([f.sigma_x for f in rows], [f.sigma_y for f in rows])
    )
    kept: dict[tuple[float, ...], None] = {}
    for f in rows:
        mended = not (_usable(f.sigma_x) and _usable(f.sigma_y))
        sigma_x = f.sigma_x if _usable(f.sigma_x) else median_x
        sigma_y = f.sigma_y if _usable(f.sigma_y) else median_y
        row = (f.x, f.y, f.start, f.end, sigma_x, sigma_y)
        x0, y0, x1, y1 = (
            edge if math.isfinite(edge) else whole for edge, whole in zip(f.shown, (0, 0, 1, 1), strict=True)
        )
        margin_x, margin_y = EDGE_DEGREES * sigma_x, EDGE_DEGREES * sigma_y
        if not (math.isfinite(f.x) and math.isfinite(f.y)):
            counts[DROPPED + "lost position"] += 1
        elif not (math.isfinite(f.start) and math.isfinite(f.end) and f.end > f.start):
            counts[DROPPED + "no duration"] += 1
        elif f.end - f.start > LONGEST:
            counts[DROPPED + f"longer than {LONGEST:g} s"] += 1
        elif not (_usable(sigma_x) and _usable(sigma_y)):
            counts[DROPPED + "no angular resolution"] += 1
        elif not (x0 - margin_x <= f.x <= x1 + margin_x and y0 - margin_y <= f.y <= y1 + margin_y):
            counts[DROPPED + "off the image"] += 1
        elif row in kept:
            counts[DROPPED + "repeated"] += 1
        else:
            kept[row] = None
            if mended:
                counts[MENDED + "angular resolution"] += 1
    ordered = _without_overlap(sorted(kept, key=lambda row: (row[2], row[3])), counts)
    return np.array(ordered, dtype=np.float32).reshape(-1, 6)  # (F,6)


def in_seconds(fixations: Sequence[Fixation]) -> bool:
    """False where more than half of the fixations that have a duration last longer than LONGEST: not seconds then."""
    lengths = [f.end - f.start for f in fixations if f.end - f.start > 0]
    return 2 * sum(length > LONGEST for length in lengths) <= len(lengths)


def report_counts(counts: Counter[str], source: str, quarantine: Quarantine) -> None:
    """One row for each cause with how often it occurred, so that nothing is dropped or mended in silence.

    The readings are kept; one that has no fixation left is set aside by its reader.
    """
    for reason, number in sorted(counts.items()):
        quarantine.add(source, reason, detail=f"{number} in all readings together", count=number, kept=True)


def _without_overlap(rows: list[tuple[float, ...]], counts: Counter[str]) -> list[tuple[float, ...]]:
    """Rows ordered by start, each cut where the next one begins.

    Both trackers (EyeLink for REFLACX, Gazepoint for EGD) give one fixation after the other: the next begins when the
    eyes have left. A fixation with another one inside is therefore wrong about its end, and a return to its place would
    have a row of its own. What it claims after the other's end is left out, and counted in milliseconds.
    """
    result = []
    claimed, reached, kept = 0.0, -math.inf, 0.0  # seconds: of all rows together, their latest end, of the result
    for i, (x, y, start, end, *sigmas) in enumerate(rows):
        claimed += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
        begins = rows[i + 1][2] if i + 1 < len(rows) else math.inf
        if begins <= start:
            counts[DROPPED + "overlapped by another"] += 1
            continue
        if end - begins > ROUNDING:
            counts[MENDED + "overlap cut"] += 1
        kept += min(end, begins) - start
        result.append((x, y, start, min(end, begins), *sigmas))
    if claimed - kept > ROUNDING:
        counts[MENDED + "milliseconds after another one inside left out"] += round(1000 * (claimed - kept))
    return result


def _usable(sigma: float) -> bool:
    return math.isfinite(sigma) and 0.0 < sigma <= 1.0
