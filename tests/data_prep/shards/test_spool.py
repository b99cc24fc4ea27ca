"""The spool gives back what was put in, leaves no file, and a scratch file that cannot be written is a message."""

from __future__ import annotations

import os
import sqlite3
from array import array
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep import build as build_module
from data_prep.build import BuildError, build
from data_prep.shards.spool import Spool, Spooled
from tests.hand_made import IMAGE_SIZE, records


def add(spool: Spool, number: int, body: Spooled) -> None:
    spool.add(
        split=0, study=b"s", identity=bytes([number]), digest=b"d", ids=("made", "p", "s", f"i{number}"),
        relative_path="r", body=body,
    )  # fmt: skip


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_goes_in_comes_out(on_disk: bool, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"/raw/\xff\xfe caf\xc3\xa9.png"))  # a file name that is no text
    bodies = [
        Spooled(odd, '{"t": "é\u2028\\u0000"}'.encode(), {"gaze.npz": b"\0\1" * 900, "a": b""}),
        Spooled(Path("b"), b"{}", {}, ((Path("m/0.jpg"), None), ())),
        Spooled(Path("c"), b"x" * 100_000, {}),
    ]
    with Spool(tmp_path if on_disk else None) as spool:
        for number, body in enumerate(bodies):
            add(spool, number, body)
        spool.index()
        assert list(spool.read(array("q", [3, 1, 2, 1]))) == [bodies[2], bodies[0], bodies[1], bodies[0]]
        assert spool.count == spool.number("SELECT count(*) FROM image") == 3
        assert list(tmp_path.iterdir()) == []  # no name: nothing is left by a process that is killed


def test_a_scratch_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> SimpleNamespace:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(build_module, "Spool", full)
    with pytest.raises(BuildError, match=r"out/\.work: the scratch file .*\(database or disk is full\)"):
        build(records(tmp_path / "raw"), tmp_path / "out", image_size=IMAGE_SIZE)
    assert not (tmp_path / "out").exists()
