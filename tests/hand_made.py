"""Hand-made records and shard folders for tests that need data but no data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from webdataset import TarWriter

from cogaze.data.schema import FIXATION_COLUMNS, pack_gaze
from cogaze.data.shards import ShardSet
from data_prep.build import ShardWriter
from data_prep.records import ImageRecord, Reading, Sentence

IMAGE_SIZE = 32


def picture(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """A grey PNG of noise on a ramp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(40, 200, width)[None, :].repeat(height, 0)  # (height,width)
    noise = np.random.default_rng(seed).normal(0, 12, (height, width))
    Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def reading(number: int = 0) -> Reading:
    """Three fixations (one second each, at x = .2, .5, .8) and two sentences."""
    rows = [[x, 0.4, i, i + 1.0, 0.05, 0.06] for i, x in enumerate((0.2, 0.5, 0.8))]
    sentences = (Sentence(f"heart is large {number}.", 0.0, 1.5), Sentence("<b>no effusion</b>.", 1.5, 3.0))
    assert len(rows[0]) == len(FIXATION_COLUMNS)
    return Reading(f"reading-{number}", "reader-1", sentences, np.array(rows, np.float32))


def record(root: Path, image: str, study: str, patient: str, split: str = "train", **more: Any) -> ImageRecord:
    """One image with its file under `root`; `more` replaces fields of the record."""
    seed = int(hashlib.sha256(image.encode()).hexdigest()[:6], 16)
    values: dict[str, Any] = {
        "source": "made",
        "image_id": image,
        "study_id": study,
        "patient_id": patient,
        "split": split,
        "view": "PA",
        "path": picture(root / f"{image}.png", 48 + seed % 20, 40 + seed % 7, seed),
        "relative_path": f"{image}.png",
        "findings": f"Findings of {study}: lungs are clear.",
        "impression": "Normal.",
        "indication": "cough",
        "labels": {"Cardiomegaly": 1, "Edema": None, "Fracture": -1, "Pneumothorax": 0},
        "label_source": "hand",
    }
    return ImageRecord(**{**values, **more})


def records(root: Path) -> list[ImageRecord]:
    """14 images of 8 studies of 8 patients: train 9 (5 studies), validate 3 (2), test 2 (1); gaze on 4, one twice."""
    rows = [
        record(root, f"image-{study}-{image}", f"study-{study}", f"patient-{study}", split, view=view)
        for study, images, split in (
            (0, 2, "train"),
            (1, 1, "train"),
            (2, 3, "train"),
            (3, 1, "train"),
            (4, 2, "train"),
            (5, 2, "validate"),
            (6, 1, "validate"),
            (7, 2, "test"),
        )
        for image, view in zip(range(images), ("PA", "LATERAL", "AP"), strict=False)
    ]
    with_gaze = {"image-0-0": 1, "image-2-1": 2, "image-5-0": 1, "image-7-1": 1}
    return [
        ImageRecord(**{**row.__dict__, "readings": tuple(reading(i) for i in range(with_gaze.get(row.image_id, 0)))})
        for row in rows
    ]


def rewrite(folder: Path, shard: str, change: Callable[[dict[str, dict[str, bytes]]], None]) -> None:
    """Change the members of one shard ({key: {extension: bytes}}) and make hashes, index and counts fit again.

    So that a check finds the change itself, not that some hash is off. `change` edits in place.
    """
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(e for e in manifest["shards"] if e["name"] == shard)
    shards = ShardSet.open(folder)
    first = sum(e["images"] for e in manifest["shards"] if e["split"] == entry["split"] and e["name"] < shard)
    members: dict[str, dict[str, bytes]] = {}
    for position in range(first, first + entry["images"]):
        sample = shards.read(entry["split"], position)
        members[sample.key] = {"jpg": sample.image, "json": json.dumps(sample.meta).encode()}
        if sample.gaze:
            members[sample.key]["gaze.npz"] = pack_gaze(list(sample.gaze.values()))
    change(members)
    with ShardWriter(folder, shard) as writer:
        kept = []
        for key, parts in members.items():
            writer.write(key, parts)
            with suppress(KeyError, ValueError):
                meta = {"source": "made", "study_id": key, "readings": []}
                meta.update(json.loads(parts["json"]))
            kept.append((key, meta))
        entry.update(writer.finish(kept))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def tar_with(path: Path, names: dict[str, bytes]) -> None:
    """A tar with exactly these member names, whatever they are."""
    with open(path, "wb") as file, TarWriter(file, encoder=False, mtime=0) as writer:
        for name, data in names.items():
            stem, _, extension = name.rpartition(".")
            writer.write({"__key__": stem, extension: data})
