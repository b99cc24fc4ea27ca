"""Records to a plan of shards: everything that can be decided before an image is opened.

    records -> valid (schema) -> consistent (no leak, no doubles) -> plan (which image is which key of which tar)

The plan rests on hashes of ids, so it depends neither on the order in which a reader yields nor on what decodes later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from cogaze.data.schema import FIXATION_COLUMNS, SPLITS, canonical_json, validate_meta
from cogaze.observations import OBSERVATIONS, VIEWS, view_index
from data_prep.records import ImageRecord, Quarantine, Reading

# Stands for the image file in a sample's JSON while the file has not been opened.
UNSEEN: Mapping[str, Any] = {"width": 1, "height": 1, "sha256": "0" * 64}


@dataclass(frozen=True)
class ShardPlan:
    """One tar to be: record i gets the key `{name}-{i:05d}`."""

    name: str
    split: str
    records: tuple[ImageRecord, ...]


def meta_of(record: ImageRecord, original: Mapping[str, Any]) -> dict[str, Any]:
    """The sample JSON (cogaze.data.schema.Meta) of a record; `original` tells of the decoded file."""
    return {
        "image_id": record.image_id,
        "study_id": record.study_id,
        "patient_id": record.patient_id,
        "split": record.split,
        "view": VIEWS[view_index(record.view)],
        "report": {"findings": _text(record.findings), "impression": _text(record.impression)},
        "context": {"indication": _text(record.indication), "history": _text(record.history)},
        "labels": {
            **{name: record.labels[name] for name in OBSERVATIONS if name in record.labels},
            **{
                name: value for name, value in record.labels.items() if name not in OBSERVATIONS
            },  # for the check to see
        },
        "label_source": record.label_source,
        "original": {**original, "path": record.relative_path},
        "readings": [
            {
                "id": reading.id,
                "reader": reading.reader,
                "sentences": [
                    {"text": sentence.text, "start": float(sentence.start), "end": float(sentence.end)}
                    for sentence in reading.sentences
                ],
            }
            for reading in record.readings
        ],
        "source": record.source,
    }


def _text(text: str | None) -> str | None:
    return text if text is not None and text.strip() else None


def valid(records: Iterable[ImageRecord], quarantine: Quarantine) -> Iterator[ImageRecord]:
    """The records whose JSON fits the schema, less the readings whose fixations are unusable; the rest is set aside."""
    for record in records:
        readings = []
        for reading in record.readings:
            fault = _reading_fault(reading)
            if fault:
                quarantine.add(record.source, "unusable gaze reading", id=reading.id, detail=fault)
            else:
                readings.append(reading)
        if len(readings) != len(record.readings):
            record = replace(record, readings=tuple(readings))
        faults = validate_meta(meta_of(record, UNSEEN))
        if faults:
            set_aside(record, "invalid record", "; ".join(faults[:3]), quarantine)
        else:
            yield record


def _reading_fault(reading: Reading) -> str | None:
    rows = reading.fixations
    if rows.ndim != 2 or rows.shape[1] != len(FIXATION_COLUMNS) or not np.issubdtype(rows.dtype, np.floating):
        return f"fixations are {rows.dtype} {rows.shape}, not float32 (F,6)"
    if not len(rows):
        return "no fixation"
    if not np.isfinite(rows).all():
        return "NaN or infinite fixations"
    if (rows[:, 3] < rows[:, 2]).any() or (rows[:, 4:] <= 0).any():
        return "a fixation that ends before it starts, or a visual angle that is not positive"
    return None


def consistent(records: Iterable[ImageRecord], quarantine: Quarantine) -> list[ImageRecord]:
    """The records that do not contradict each other.

    Set aside: every image of a patient who stands in two splits (training on it would leak into the test), every image
    of a study with two patients, and all but the first of several records with one image id.
    """
    kept = list(records)
    splits: dict[tuple[str, str], set[str]] = {}
    patients: dict[tuple[str, str], set[str]] = {}
    for record in kept:
        splits.setdefault((record.source, record.patient_id), set()).add(record.split)
        patients.setdefault((record.source, record.study_id), set()).add(record.patient_id)
    seen: set[tuple[str, str]] = set()
    result = []
    for record in kept:
        where = splits[record.source, record.patient_id]
        if len(where) > 1:
            set_aside(record, "patient in two splits", ", ".join(sorted(where)), quarantine)
        elif len(patients[record.source, record.study_id]) > 1:
            set_aside(record, "study of two patients", "", quarantine)
        elif (record.source, record.image_id) in seen:
            set_aside(record, "image listed twice", "", quarantine)
        else:
            seen.add((record.source, record.image_id))
            result.append(record)
    return result


def set_aside(record: ImageRecord, reason: str, detail: str, quarantine: Quarantine) -> None:
    """Set one image aside, by the id and path that its source gives it."""
    quarantine.add(record.source, reason, id=record.image_id, path=record.relative_path, detail=detail)


def plan(records: Sequence[ImageRecord], images_per_shard: int) -> list[ShardPlan]:
    """Split by split, studies in the order of a hash of (source, patient, study), filled into shards one after another.

    A study is never cut: a shard closes before the study that would not fit (a study larger than a shard gets its own).
    """

    def study(record: ImageRecord) -> bytes:
        return hashlib.sha256(canonical_json([record.source, record.patient_id, record.study_id])).digest()

    ordered = sorted(((SPLITS.index(r.split), study(r), r.image_id, r) for r in records), key=lambda row: row[:3])
    shards: list[ShardPlan] = []
    for place, rows in groupby(ordered, key=lambda row: row[0]):
        split = SPLITS[place]
        number, shard = 0, list[ImageRecord]()
        for _, group in groupby(rows, key=lambda row: row[1]):
            images = [row[3] for row in group]
            if shard and len(shard) + len(images) > images_per_shard:
                shards.append(ShardPlan(f"{split}-{number:06d}", split, tuple(shard)))
                number, shard = number + 1, []
            shard += images
        shards.append(ShardPlan(f"{split}-{number:06d}", split, tuple(shard)))
    return shards


def source_digests(shards: Sequence[ShardPlan], parts: dict[str, bool]) -> list[dict[str, Any]]:
    """Per source how many images were planned and the sha256 of all that the reader said about them, in plan order."""
    digests: dict[str, Any] = {}
    images: Counter[str] = Counter()
    for record in (record for shard in shards for record in shard.records):
        digest = digests.setdefault(record.source, hashlib.sha256())
        digest.update(canonical_json(meta_of(record, UNSEEN)))
        for reading in record.readings:
            digest.update(np.ascontiguousarray(reading.fixations, dtype="<f4").tobytes())
        images[record.source] += 1
    return [
        {"name": name, "images": images[name], "records_sha256": digests[name].hexdigest(), "parts": parts}
        for name in sorted(digests)
    ]
