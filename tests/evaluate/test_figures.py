"""Charts and pictures: what they carry, and that they survive odd input."""

from __future__ import annotations

import base64
import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from cogaze.evaluate.figures import MAX_POINTS, PIXELS, Series, heat, line_chart, radiograph


def frame(svg: str) -> dict:
    found = re.search(r'data-chart="([^"]*)"', svg)
    assert found
    return json.loads(html.unescape(found.group(1)))


def decoded(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_chart_carries_its_numbers_and_escapes_its_title() -> None:
    svg = line_chart("a < b", [Series("x & y", [1, 2, 3], [0.5, 0.25, 0.125])])
    assert "a &lt; b" in svg
    assert "<b>" not in svg.split("<svg")[0]
    assert frame(svg)["series"][0]["y"] == [0.5, 0.25, 0.125]
    assert frame(svg)["x"] == [0, 3.0]


def test_empty_and_unusable_series_give_no_chart() -> None:
    assert line_chart("nothing", []) == ""
    assert line_chart("nothing", [Series("a", [], [])]) == ""
    assert line_chart("nothing", [Series("a", [1, 2], [float("nan"), float("inf")])]) == ""


@pytest.mark.parametrize("y", [[3.0], [3.0, 3.0], [0.0, 0.0], [-1.0, -1.0], [1e-5, 2e-5], [1e6, 2e6]])
def test_flat_single_tiny_and_huge_values_can_be_drawn(y: list[float]) -> None:
    svg = line_chart("flat", [Series("a", list(range(len(y))), y, dots=True)], y_from=None)
    assert "nan" not in svg
    assert "inf" not in svg.replace("information", "")


def test_long_series_are_thinned_and_smoothing_keeps_a_constant() -> None:
    svg = line_chart("long", [Series("a", list(range(5000)), [2.0] * 5000, smooth=True)])
    series = frame(svg)["series"][0]
    assert len(series["x"]) == MAX_POINTS
    assert set(series["y"]) == {2.0}
    assert svg.count("<path") == 2


def test_heat_is_opaque_at_the_peak_and_clear_where_nothing_is() -> None:
    patches = np.zeros(16)
    patches[5] = 1.0  # row 1, column 1 of 4
    pixels = np.asarray(decoded(heat(patches, 4)).convert("RGBA"))
    side = pixels.shape[0]
    assert pixels[side * 3 // 8, side * 3 // 8, 3] > 200
    assert pixels[-1, -1, 3] == 0
    assert np.asarray(decoded(heat(np.zeros(16), 4)))[..., 3].max() == 0


def test_radiograph_is_small() -> None:
    assert decoded(radiograph(np.zeros((600, 600), np.uint8))).size == (PIXELS, PIXELS)
    assert decoded(radiograph(np.zeros((28, 28), np.uint8))).size == (28, 28)
