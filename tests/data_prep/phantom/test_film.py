"""The drawings: a finding changes the picture where its box says, and hardly anywhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_prep.phantom.film import Film, draw
from data_prep.phantom.plan import DEVICES, DRAWN, Study, View, make_study

SIZE = 160


def studies_with(name: str, frontal: bool, count: int, kind: str | None = None) -> list[tuple[Study, View]]:
    """Studies whose only finding is `name`, each with one view of the wanted sort."""
    found: list[tuple[Study, View]] = []
    number = 0
    while len(found) < count:
        study = make_study(11, number, number, SIZE)
        number += 1
        views = [view for view in study.views if view.frontal == frontal]
        kinds = {finding.kind for finding in study.findings}
        if study.present == {name} and views and (kind is None or kinds == {kind}):
            found.append((study, views[0]))
    return found


def inside(film: Film, boxes: list[tuple[float, float, float, float]]) -> np.ndarray:
    height, width = film.pixels.shape
    mask = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        mask[int(y0 * height) : int(np.ceil(y1 * height)), int(x0 * width) : int(np.ceil(x1 * width))] = True
    return mask


def changed(study: Study, view: View, name: str) -> tuple[float, float]:
    """Share of the grey-value change that lies in the finding's boxes, and the mean change inside them (0..255)."""
    film, plain = draw(study, view), draw(study.without(name), view)
    difference = np.abs(film.pixels.astype(float) - plain.pixels.astype(float))
    boxes = [box for places in film.boxes for box in places]
    assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in boxes)
    mask = inside(film, boxes)
    assert mask.mean() < 0.6
    return float(difference[mask].sum() / difference.sum()), float(difference[mask].mean())


@pytest.mark.parametrize("name", list(DRAWN))
def test_a_finding_changes_a_frontal_film_in_its_box(name: str) -> None:
    shares, means = zip(*(changed(study, view, name) for study, view in studies_with(name, True, 5)), strict=True)
    # atelectasis also raises the diaphragm below its box, a pneumothorax makes the lung behind its line denser
    assert min(shares) > {"Atelectasis": 0.3, "Pneumothorax": 0.6}.get(name, 0.8), shares
    assert np.median(means) > 8, means


@pytest.mark.parametrize("name", ["Pleural Effusion", "Cardiomegaly", "Consolidation", "Lung Lesion", "Edema"])
def test_a_finding_changes_a_lateral_film_in_its_box(name: str) -> None:
    shares, means = zip(*(changed(study, view, name) for study, view in studies_with(name, False, 3)), strict=True)
    assert min(shares) > 0.8, shares
    assert np.median(means) > 5, means


@pytest.mark.parametrize("kind", DEVICES)
def test_every_device_is_bright_in_its_box(kind: str) -> None:
    study, view = studies_with("Support Devices", True, 1, kind)[0]
    film, plain = draw(study, view), draw(study.without("Support Devices"), view)
    gain = film.pixels.astype(int) - plain.pixels
    assert gain[inside(film, list(film.boxes[0]))].max() > 30
    assert gain.min() > -3


def test_a_pneumothorax_does_not_show_on_the_lateral() -> None:
    study, view = studies_with("Pneumothorax", False, 1)[0]
    film = draw(study, view)
    assert film.boxes == ((),)
    assert np.array_equal(film.pixels, draw(study.without("Pneumothorax"), view).pixels)


def test_the_picture_looks_like_a_chest() -> None:
    """Lungs dark, heart and belly bright, air around the patient black; sides where they belong."""
    study = make_study(2, 0, 0, SIZE)
    view = next(v for n in range(99) for v in make_study(2, n, n, SIZE).views if v.position == "PA")
    film = draw(replace(study, findings=()), view)
    grey = {name: film.pixels[inside(film, [box])].mean() for name, box in film.regions.items()}
    assert grey["right mid lung zone"] < 0.75 * grey["cardiac silhouette"]
    assert grey["left mid lung zone"] < 0.75 * grey["mediastinum"]
    below = film.pixels[int(film.regions["right diaphragm"][3] * film.pixels.shape[0]) + 5 :, view.width // 3].mean()
    assert below > 1.5 * grey["right upper lung zone"]
    assert film.regions["right lung"][2] < film.regions["left lung"][2]
    assert film.pixels.std() > 25


def test_the_side_of_a_finding_is_the_side_of_its_box() -> None:
    """The patient's right is the left half of the film."""
    for study, view in studies_with("Pleural Effusion", True, 6):
        finding, film = study.findings[0], draw(study, view)
        middle = np.mean([film.regions["spine"][0], film.regions["spine"][2]])
        centres = [(box[0] + box[2]) / 2 for box in film.boxes[0]]
        if finding.side == "right":
            assert max(centres) < middle
        elif finding.side == "left":
            assert min(centres) > middle
        else:
            assert min(centres) < middle < max(centres)


def test_shift_and_zoom_move_the_boxes() -> None:
    study, view = studies_with("Lung Lesion", True, 1)[0]
    there = draw(study, view).boxes[0][0]
    moved = draw(study, replace(view, shift_x=view.shift_x + 0.05)).boxes[0][0]
    step = 0.05 * min(view.width, view.height) / view.width
    assert np.subtract(moved, there)[[0, 2]] == pytest.approx([step, step], abs=1e-9)
    assert np.subtract(moved, there)[[1, 3]] == pytest.approx([0, 0], abs=1e-9)
    larger = draw(study, replace(view, zoom=view.zoom * 1.1)).boxes[0][0]
    assert larger[2] - larger[0] == pytest.approx(1.1 * (there[2] - there[0]), rel=1e-6)


def test_drawing_is_repeatable() -> None:
    study = make_study(4, 1, 1, SIZE)
    assert np.array_equal(draw(study, study.views[0]).pixels, draw(study, study.views[0]).pixels)
    height, width = draw(study, study.views[0]).pixels.shape
    assert (width, height) == (study.views[0].width, study.views[0].height)
    assert min(width, height) == SIZE


def test_a_very_large_heart_leaves_room_for_an_opacity() -> None:
    study = make_study(1, 1244, 965, SIZE)  # cardiomegaly reaches the chest wall where the opacity is to be drawn
    assert {"Cardiomegaly", "Lung Opacity"} <= {finding.name for finding in study.findings}
    for view in study.views:
        assert draw(study, view).boxes
