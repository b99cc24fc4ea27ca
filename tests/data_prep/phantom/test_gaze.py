"""Readings: the eye dwells where the sentence speaks of, in that very film."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.phantom.canvas import Box
from data_prep.phantom.egd_files import SCREEN, image_to_screen, pads, screen_to_image
from data_prep.phantom.film import Film, draw
from data_prep.phantom.gaze import Reading, make_reading, readings_of
from data_prep.phantom.plan import Study, View, make_study


@pytest.fixture(scope="module")
def read() -> list[tuple[Study, View, Film, Reading]]:
    made = []
    for number in range(60):
        study = make_study(21, number, number, 96)
        view = study.views[0]
        film = draw(study, view)
        system = "reflacx" if number % 3 else "egd"
        made.append((study, view, film, make_reading(study, film, system, 1, np.random.default_rng(number))))
    return made


def dwell(
    reading: Reading, start: float, end: float, boxes: tuple[Box, ...], margin: float = 0.02
) -> tuple[float, float]:
    """Seconds of fixation that overlap [start, end]: inside any of the boxes, and in all."""
    total = hit = 0.0
    for fix in reading.fixations:
        seconds = max(0.0, min(fix.end, end) - max(fix.start, start))
        if not fix.valid or not seconds:
            continue
        total += seconds
        if any(x0 - margin <= fix.x <= x1 + margin and y0 - margin <= fix.y <= y1 + margin for x0, y0, x1, y1 in boxes):
            hit += seconds
    return hit, total


def test_the_eye_dwells_on_what_is_said(read: list[tuple[Study, View, Film, Reading]]) -> None:
    during = np.zeros(2)
    other = np.zeros(2)
    area = []
    for _, _, _, reading in read:
        for i, (spoken, (start, end)) in enumerate(zip(reading.spoken, reading.spans, strict=True)):
            if spoken.finding < 0:
                continue
            during += dwell(reading, start, end, spoken.boxes)
            area.append(sum((x1 - x0 + 0.04) * (y1 - y0 + 0.04) for x0, y0, x1, y1 in spoken.boxes))
            for j, span in enumerate(reading.spans):
                if j != i:
                    other += dwell(reading, *span, spoken.boxes)
    assert during[0] / during[1] > 0.65
    assert other[0] / other[1] < 0.5 * during[0] / during[1]
    assert during[0] / during[1] > 3 * np.mean(area)


def test_the_eye_is_ahead_of_the_voice(read: list[tuple[Study, View, Film, Reading]]) -> None:
    """Just before a finding's sentence starts its box already holds the gaze; just before it ends it does so less."""
    early, late = np.zeros(2), np.zeros(2)
    for _, _, _, reading in read:
        for spoken, (start, end) in zip(reading.spoken, reading.spans, strict=True):
            if spoken.finding >= 0:
                early += dwell(reading, start - 0.15, start, spoken.boxes)
                late += dwell(reading, end - 0.1, end, spoken.boxes)
    assert early[0] / early[1] > late[0] / late[1]


def test_places_depend_on_the_film(read: list[tuple[Study, View, Film, Reading]]) -> None:
    """The same words in another film are looked at elsewhere: the other film's boxes catch much less."""
    own, swapped = np.zeros(2), np.zeros(2)
    for k, (study, _, _, reading) in enumerate(read):
        for spoken, span in zip(reading.spoken, reading.spans, strict=True):
            if spoken.finding < 0:
                continue
            name = study.findings[spoken.finding].name
            for study2, _, film2, _ in read[k + 1 :]:
                same = [i for i, f in enumerate(study2.findings) if f.name == name]
                if same:
                    own += dwell(reading, *span, spoken.boxes)
                    swapped += dwell(reading, *span, film2.boxes[same[0]])
                    break
    assert swapped[0] / swapped[1] < 0.7 * own[0] / own[1]


def test_times_words_and_noise(read: list[tuple[Study, View, Film, Reading]]) -> None:
    negative = blinks = outside = total = zoomed = 0
    for study, _, film, reading in read:
        assert len(reading.spoken) >= 3
        assert {s.finding for s in reading.spoken} - {-1} == set(range(len(study.findings)))
        ends = [word for word, _, _ in reading.words if word == "."]
        assert len(ends) == len(reading.spoken) == len(reading.spans)
        times = [t for _, start, end in reading.words for t in (start, end)]
        assert times == sorted(times)
        starts = [fix.start for fix in reading.fixations]
        assert starts == sorted(starts)
        assert all(a.end <= b.start for a, b in zip(reading.fixations[:-1], reading.fixations[1:], strict=True))
        assert all(0.05 < fix.end - fix.start < 1.5 for fix in reading.fixations)
        negative += starts[0] < 0
        assert reading.system == "reflacx" or starts[0] >= 0
        blinks += sum(not fix.valid for fix in reading.fixations)
        outside += sum(fix.valid and not 0 <= fix.x <= 1 for fix in reading.fixations)
        zoomed += any(fix.shown != (0, 0, 1, 1) for fix in reading.fixations)
        total += len(reading.fixations)
        assert 0.04 <= reading.degree <= 0.06
        assert all(len(s.boxes) > 0 for s in reading.spoken)
        assert film.regions
    assert negative > 5
    assert blinks > 20
    assert 0.001 < outside / total < 0.03
    assert zoomed > 0


def test_share_of_read_films_and_systems() -> None:
    systems: list[tuple[str, ...]] = []
    study = make_study(1, 0, 0, 96)
    film = draw(study, study.views[0])
    for number in range(250):
        other = Study(**{**study.__dict__, "number": number})
        systems.append(tuple(r.system for r in readings_of(other, film, 0, 1, 0.6)))
    some = [s for s in systems if s]
    assert len(some) / 250 == pytest.approx(0.6, abs=0.1)
    assert sum("reflacx" in s for s in some) / len(some) == pytest.approx(0.68, abs=0.1)
    assert any(s.count("reflacx") >= 2 for s in some)
    assert any({"reflacx", "egd"} <= set(s) for s in some)
    assert readings_of(study, film, 0, 1, 0.0) == []


@pytest.mark.parametrize("sides", [(320, 371), (371, 320), (96, 96), (2544, 3056)])
def test_screen_and_image_agree(sides: tuple[int, int]) -> None:
    view = make_study(1, 0, 0, 96).views[0]
    view = View(**{**view.__dict__, "width": sides[0], "height": sides[1]})
    top, bottom, left, right = pads(view)
    assert (top, left) == (bottom, right)
    assert min(top, left) == 0
    for x, y in ((0.1, 0.2), (0.5, 0.5), (0.93, 0.87)):
        px, py = screen_to_image(view, *image_to_screen(view, x, y))
        assert abs(px - x * view.width) <= 1
        assert abs(py - y * view.height) <= 1
    off = image_to_screen(view, -0.1, 0.5)
    assert screen_to_image(view, *off)[0] in (-1, -2, -3)
    # the whole image fills the screen in one direction
    assert image_to_screen(view, 1.0, 1.0) == pytest.approx((1 - right / SCREEN[0], 1 - bottom / SCREEN[1]))
