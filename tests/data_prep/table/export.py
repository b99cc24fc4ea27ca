"""A small export on disk, read by a mapping."""

from __future__ import annotations

from pathlib import Path

import yaml

from data_prep import table
from data_prep.records import ImageRecord, Quarantine

BASE = {
    "source": "clinic",
    "table": "t.csv",
    "image": {"path": "images/{file}"},
    "ids": {"study": "study", "patient": "mrn"},
    "split": {"shares": {"train": 1.0}},
}


def export(root: Path, rows: str, files: str = "a.png b.png c.png d.png", name: str = "t.csv") -> Path:
    """A table and empty image files."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / name).write_text(rows)
    for file in files.split():
        (root / "images" / file).write_bytes(b"not decoded here")
    return root


def read(root: Path, **changes) -> tuple[list[ImageRecord], Quarantine]:
    spec = {name: value for name, value in {**BASE, **changes}.items() if value is not None}
    (root / "m.yaml").write_text(yaml.safe_dump(spec))
    quarantine = Quarantine()
    return list(table.read(root, quarantine, mapping=root / "m.yaml")), quarantine


def reasons(quarantine: Quarantine) -> list[tuple[str, str]]:
    return [(row.get("id", ""), row["reason"]) for row in quarantine.rows]
