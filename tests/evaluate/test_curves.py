"""The PNG of the training curves: what is drawn comes from the lines, missing values leave gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cogaze.evaluate.curves import draw_curves

STEPS = [{"step": s, "loss": 5.0 / s, "lr": 1e-3, "grad_norm": None if s == 3 else 1.0 * s} for s in range(1, 9)]
EVALS = [{"event": "eval", "step": s, "eval_loss": 4.0, "zero_shot_auroc": 0.5 + s / 20} for s in (4, 8)]


def panel(path: Path, row: int, column: int) -> np.ndarray:
    """Saturation of one of the 2 x 3 panels: axes and grid are grey, lines are coloured."""
    pixels = np.asarray(Image.open(path).convert("HSV"))[..., 1]
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 3
    return pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]


def test_lines_appear_in_the_panels_that_have_values(tmp_path: Path) -> None:
    path = draw_curves(STEPS + EVALS, tmp_path / "curves.png")
    coloured = [[int((panel(path, r, c) > 60).sum()) for c in range(3)] for r in range(2)]
    assert coloured[0][0] > 100  # loss and eval_loss
    assert coloured[0][1] == 0  # no terms were given
    assert coloured[0][2] > 100  # learning rate
    assert coloured[1][0] > 100  # gradient norm, with a gap
    assert coloured[1][1] > 100  # zero-shot AUROC
    assert coloured[1][2] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


def test_a_run_without_any_line_still_gives_a_picture(tmp_path: Path) -> None:
    assert Image.open(draw_curves([], tmp_path / "curves.png")).size == (1200, 600)
