"""The contact sheet: the right images, heat where the eyes were, and no text where none is allowed."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogaze.data.gaze import Crop, patch_map
from cogaze.data.shards import ShardError, ShardSet
from data_prep.build import build
from data_prep.show import HEAT_GRID, SIDE, ShowError, card, contact_sheet, overlay, pick
from tests.hand_made import IMAGE_SIZE, reading, record, records


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("show")
    made = records(root / "raw")
    build(made, root / "real", image_size=IMAGE_SIZE)
    build(made, root / "phantom", image_size=IMAGE_SIZE, phantom=True)
    return {name: root / name for name in ("real", "phantom")}


def pictures(page: str) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page)
    ]


def test_html_is_one_file_with_every_panel(folders: dict[str, Path], tmp_path: Path) -> None:
    keys = contact_sheet(ShardSet.open(folders["phantom"]), tmp_path / "new" / "sheet.html", n=100)
    page = (tmp_path / "new" / "sheet.html").read_text()
    assert len(keys) == 9
    assert all(key in page for key in keys)
    assert not re.findall(r'(?:src|href)="(?!data:)|url\(|@import', page)  # nothing is fetched
    # 9 images; three readings, each with all its fixations and two sentences
    assert len(pictures(page)) == 9 + 3 * 3
    assert all(max(picture.size) == SIDE for picture in pictures(page))
    assert "heart is large 1." in page
    assert "Findings of study-0: lungs are clear." in page
    assert "&lt;b&gt;no effusion&lt;/b&gt;." in page  # text never becomes markup
    assert "<b>" not in page
    assert "Cardiomegaly, Fracture?" in page


@pytest.mark.parametrize(
    ("name", "show_text", "shown"),
    [("real", None, False), ("real", True, True), ("phantom", None, True), ("phantom", False, False)],
)
def test_text_only_where_allowed(
    folders: dict[str, Path], tmp_path: Path, name: str, show_text: bool | None, shown: bool
) -> None:
    contact_sheet(ShardSet.open(folders[name]), tmp_path / "sheet.html", n=100, show_text=show_text)
    page = (tmp_path / "sheet.html").read_text()
    for text in ("heart is large", "effusion", "lungs are clear", "cough", "Normal."):
        assert (text in page) == shown
    assert "patient-" not in page  # ids of the source never stand on a sheet
    assert "image-" not in page
    assert len(pictures(page)) == 18


def test_png(folders: dict[str, Path], tmp_path: Path) -> None:
    for n in (1, 6):
        keys = contact_sheet(ShardSet.open(folders["phantom"]), tmp_path / "sheet.png", split="train", n=n)
        assert len(keys) == n
        with Image.open(tmp_path / "sheet.png") as image:
            assert image.size[0] == round(3.4 * min(n, 4) * 110)


def test_formulas_in_text_are_text(tmp_path: Path) -> None:
    """A dollar sign must not start matplotlib's mathematics, nor braces the template's."""
    made = [record(tmp_path, "i", "s", "p", findings=r"costs $\frac{ and {{ 7 * 7 }} $ more")]
    build(made, tmp_path / "out", image_size=IMAGE_SIZE, phantom=True)
    contact_sheet(ShardSet.open(tmp_path / "out"), tmp_path / "sheet.png", n=1)
    contact_sheet(ShardSet.open(tmp_path / "out"), tmp_path / "sheet.html", n=1)
    assert r"costs $\frac{ and {{ 7 * 7 }} $ more" in (tmp_path / "sheet.html").read_text()


def test_pick(folders: dict[str, Path]) -> None:
    shards = ShardSet.open(folders["real"])
    gaze = shards.layout("train").gaze  # 2 of 9
    assert pick(shards, "train", 100, False, 0) == list(range(9))
    for seed in range(5):
        four = pick(shards, "train", 4, False, seed)
        assert len(set(four)) == 4
        assert four == sorted(four)
        assert gaze[four].sum() == 2
        assert gaze[pick(shards, "train", 1, True, seed)].all()
        assert pick(shards, "train", 4, False, seed) == four
    assert len({tuple(pick(shards, "train", 4, False, seed)) for seed in range(8)}) > 1
    assert pick(shards, "train", 100, True, 0) == np.flatnonzero(gaze).tolist()


def test_refusals(folders: dict[str, Path], tmp_path: Path) -> None:
    shards = ShardSet.open(folders["real"])
    with pytest.raises(ShowError, match=r"\.html or \.png"):
        contact_sheet(shards, tmp_path / "sheet.gif")
    with pytest.raises(ShardError, match="no split 'val'"):
        contact_sheet(shards, tmp_path / "sheet.png", split="val")
    with pytest.raises(ShowError, match="at least 1"):
        contact_sheet(shards, tmp_path / "sheet.png", n=0)
    (tmp_path / "file").touch()
    with pytest.raises(ShowError, match=r"File exists|Not a directory"):
        contact_sheet(shards, tmp_path / "file" / "sheet.html", n=1)
    build([record(tmp_path, "i", "s", "p")], tmp_path / "blind", image_size=IMAGE_SIZE)
    with pytest.raises(ShowError, match="no image of split train has gaze"):
        contact_sheet(ShardSet.open(tmp_path / "blind"), tmp_path / "sheet.png", gaze_only=True)


# ------------------------------------------------------------------------------------------------ heat
def test_heat_is_brightest_where_the_eye_was() -> None:
    grey = np.full((100, 160), 100, np.uint8)
    rows = np.array([[0.75, 0.25, 0, 2, 0.05, 0.05]], np.float32)
    heat = patch_map(rows, np.array([2.0]), Crop(), HEAT_GRID)
    picture = overlay(grey, heat).astype(int)
    assert picture.shape == (100, 160, 3)
    change = np.abs(picture - 100).sum(axis=2)
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert abs(row - 25) <= 2
    assert abs(column - 120) <= 2
    assert (picture[60:, :60] == 100).all()  # far away nothing changes
    np.testing.assert_array_equal(overlay(grey, np.zeros(HEAT_GRID**2, np.float32))[..., 1], grey)


def test_each_sentence_has_its_own_map(tmp_path: Path) -> None:
    """Sentence 1 is spoken while the eye is at the left, sentence 2 at the right."""
    made = [record(tmp_path, "i", "s", "p", readings=(reading(),))]
    build(made, tmp_path / "out", image_size=IMAGE_SIZE)
    panels = card(ShardSet.open(tmp_path / "out").read("train", 0), texts=False).panels
    assert [panel.caption for panel in panels] == [
        "image", "reading 1: 3.0 s of fixations", "0.0 to 1.5 s", "1.5 to 3.0 s"
    ]  # fmt: skip
    assert [panel.text for panel in panels] == [""] * 4
    plain = panels[0].pixels.astype(int)
    left, right = (np.abs(panel.pixels.astype(int) - plain).sum(axis=(0, 2)) for panel in panels[2:])  # (w,) each
    middle = plain.shape[1] // 2
    assert left[:middle].sum() > 2 * left[middle:].sum()
    assert right[middle:].sum() > 2 * right[:middle].sum()
