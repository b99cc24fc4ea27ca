"""A model, films, and the features they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogaze import embed as package
from cogaze.model import CoGazeModel
from tests.model.exported import film, tiny_citizen

from .helpers import FILMS, run


@pytest.fixture(scope="session")
def model() -> CoGazeModel:
    return tiny_citizen()


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 films in two folders, and two files that only look like films."""
    folder = tmp_path_factory.mktemp("films")
    for i in range(FILMS):
        film(folder / ("" if i % 3 else "p10/s50") / f"{i:02}.png", i)
    (folder / "05a.png").write_bytes((folder / "05.png").read_bytes()[:900])
    (folder / "p10" / "page.jpg").write_text("<html>")
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "CHUNK", 4)
    monkeypatch.setattr(package, "CHUNK_WITH_PATCHES", 3)


@pytest.fixture(scope="session")
def whole(model: CoGazeModel, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of films embedded in one go."""
    out = tmp_path_factory.mktemp("whole") / "films.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "CHUNK", 4)
        assert run(model, films, out)["resumed"] == 0
    return out
