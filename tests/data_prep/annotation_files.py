"""Files in the layout of the authors' annotation files, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.annotations import read
from data_prep.records import ImageRecord, Quarantine
from tests.hand_made import picture

CODES = [0, 1, 0, 0, 3, 2, 2, 0, 2, 2, 0, 0, 0, 0]
GAZE = {"image_dir": "P300R000001", "transcript_full_text": "mild cardiomegaly . lungs are clear ."}


def annotation(image: str = "a1b2-c3", study: Any = "59999901", patient: Any = "19999901", **changes: Any) -> dict:
    """One record as the authors write it."""
    return {
        "id": image,
        "subject_id": patient,
        "study_id": study,
        "findings": " The lungs are clear. Heart size is ___ enlarged. ",
        "findings_factual_serialization": ["lungs clear", "heart size enlarged"],
        "indication_pure": "cough and fever",
        "history_pure": "",
        "anchor_scan": {"image_path": [f"p19/p{patient}/s{study}/{image}.jpg"], "view_position": ["PA"]},
        "disease_labels": CODES,
        "sentence_gaze_heatmap": None,
        "disease_prediction": ["Cardiomegaly"],
        "similar_case": {"findings": "[CLS] [FINDINGS] Mild cardiomegaly."},
        **changes,
    }


def heatmap(path: Path, x: int, y: int, side: int = 100) -> None:
    """A bright square of a tenth of the side around (x, y) on black."""
    pixels = np.zeros((side, side), np.uint8)
    pixels[y - 5 : y + 5, x - 5 : x + 5] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


class Files:
    """The three folders; `write` puts the JSON down."""

    def __init__(self, root: Path) -> None:
        self.root, self.gaze, self.images = root, root / "gaze", root / "files"
        root.mkdir()
        self.images.mkdir()

    def image(self, item: dict) -> None:
        picture(self.images / item["anchor_scan"]["image_path"][0], 100, 100)

    def reading(self, name: str = "P300R000001", table: Any = None, maps: Any = ("report", "0", "1")) -> None:
        folder = self.gaze / name
        for i, key in enumerate(maps):
            heatmap(folder / f"{key}_heatmap.jpg", 20 + 30 * i, 40)
        table = {"0": "mild cardiomegaly .", "1": "lungs are clear .", "full_text": "both"} if table is None else table
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sentence-heatmap-lookup.json").write_text(table if isinstance(table, str) else json.dumps(table))

    def write(self, *train: Any, **lists: list) -> Path:
        for item in train:
            if isinstance(item, dict) and isinstance(item.get("anchor_scan"), dict):
                self.image(item)
        path = self.root / "cogaze_mimic_cxr_annotation_v0.json"
        path.write_text(json.dumps({"train": list(train), **lists}))
        return self.root


def records(root: Path, **options: Any) -> tuple[list[ImageRecord], Quarantine]:
    quarantine = Quarantine()
    return list(read(root, quarantine, **options)), quarantine


def reasons(quarantine: Quarantine) -> list[tuple[str, str]]:
    return [(row.get("id", ""), row["reason"]) for row in quarantine.rows]
