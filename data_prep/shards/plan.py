"""Records to a plan of shards: everything that can be decided before an image is opened.

    records -> valid (schema) -> spooled to disk -> consistent (no leak, no doubles) -> plan (which image is which key)

The plan rests on hashes of ids, so it depends neither on the order in which a reader yields nor on what decodes later.
A grown source leaves the shards that are there as they are: new studies get new shards behind them.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from cogaze.data.schema import FIXATION_COLUMNS, GAZE_MEMBER, SPLITS, canonical_json, pack_gaze, validate_meta
from cogaze.observations import OBSERVATIONS, VIEWS, view_index
from data_prep.heatmap_files import content_digest
from data_prep.records import ImageRecord, Quarantine, Reading
from data_prep.shards.spool import Spool, Spooled

# Stands for the image file in a sample's JSON while the file has not been opened.
UNSEEN: Mapping[str, Any] = {"width": 1, "height": 1, "sha256": "0" * 64}
LATE = "new image of a study that is in a shard already"
LEAK = "patient in two splits"
LEAK_OF_SPELLINGS = "patient in two splits, under ids that differ in zeros"


class PlanError(ValueError):
    """The shards that are there do not fit what the source says now; the message says why and what to do."""


@dataclass(frozen=True)
class ShardPlan:
    """One tar to be: image `rows[i]` of the spool gets the key `{name}-{i:05d}`."""

    name: str
    split: str
    rows: array[int]
    records_sha256: str  # over all that the reader said about these images, in order

    def digest(self, settings: Mapping[str, Any]) -> str:
        """Hexadecimal sha256 of everything but the image files that the shard's bytes depend on."""
        return hashlib.sha256(canonical_json([self.name, self.records_sha256, dict(settings)])).hexdigest()


# ------------------------------------------------------------------------------------------------ records
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
        "original": {**original, **_stated(record, original), "path": record.relative_path},
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


def as_json(meta: Mapping[str, Any]) -> bytes:
    """A sample's JSON as it stands in the tar."""
    return json.dumps(meta, ensure_ascii=False).encode()


def _stated(record: ImageRecord, original: Mapping[str, Any]) -> dict[str, int]:
    """While the file has not been opened, the size that the source's tables say: the build compares the two."""
    if original is not UNSEEN or record.size is None or min(record.size) < 1:
        return {}
    return {"width": record.size[0], "height": record.size[1]}


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
            detail = "; ".join(faults[:3])
            quarantine.add(
                record.source, "invalid record", id=record.image_id, path=record.relative_path, detail=detail
            )
        else:
            yield record


def _reading_fault(reading: Reading) -> str | None:
    rows = reading.fixations
    if rows.ndim != 2 or rows.shape[1] != len(FIXATION_COLUMNS) or not np.issubdtype(rows.dtype, np.floating):
        return f"fixations are {rows.dtype} {rows.shape}, not float32 (F,6)"
    if reading.heatmaps and len(reading.heatmaps) != len(reading.sentences) + 1:
        return f"{len(reading.heatmaps)} heat maps for {len(reading.sentences)} sentences and the report"
    if not len(rows):
        return None if reading.heatmaps else "no fixation"
    if not np.isfinite(rows).all():
        return "NaN or infinite fixations"
    if (rows[:, 3] < rows[:, 2]).any() or (rows[:, 4:] <= 0).any():
        return "a fixation that ends before it starts, or a visual angle that is not positive"
    return None


# ------------------------------------------------------------------------------------------------ to the spool
def spool_records(records: Iterable[ImageRecord], spool: Spool, quarantine: Quarantine) -> None:
    """Keep every usable record on disk; what is unusable by itself is set aside.

    Heat maps are gaze, so their pictures count in a record's digest, by content; the image files do not.
    """
    for record in valid(records, quarantine):
        meta = meta_of(record, UNSEEN)
        digest = hashlib.sha256(canonical_json(meta))
        for reading in record.readings:
            digest.update(np.ascontiguousarray(reading.fixations, dtype="<f4").tobytes())
            if reading.heatmaps:
                digest.update(canonical_json([path and content_digest(path) for path in reading.heatmaps]))
        members = {GAZE_MEMBER: pack_gaze([r.fixations for r in record.readings])} if record.readings else {}
        spool.add(
            split=SPLITS.index(record.split),
            study=_hash(record.source, record.patient_id, record.study_id),
            identity=_hash(record.source, record.image_id),
            digest=digest.digest()[:16],
            ids=(record.source, record.patient_id, record.study_id, record.image_id),
            relative_path=record.relative_path,
            body=Spooled(
                record.path,
                as_json(meta),
                members,
                tuple(reading.heatmaps for reading in record.readings),
            ),
        )
    spool.index()


def _hash(*names: str) -> bytes:
    return hashlib.sha256(canonical_json(names)).digest()[:8]


def set_contradictions_aside(spool: Spool) -> None:
    """Mark the images that contradict each other.

    Set aside: every image of a patient who stands in two splits (training on it would leak into the test; "0042" and
    "42" are one patient), every image of a study with two patients, and all but the first of several records with one
    image id.
    """
    spool.execute(
        "CREATE TABLE leak AS SELECT source, one_spelling(patient_id) AS person, group_concat(DISTINCT split) AS "
        "splits, min(patient_id) < max(patient_id) AS spellings FROM image "
        "GROUP BY source, person HAVING min(split) < max(split)"
    )
    spool.execute("CREATE INDEX leak_person ON leak (source, person)")
    spool.execute(
        "UPDATE image SET (aside, detail) = (SELECT CASE WHEN spellings THEN ? ELSE ? END, splits FROM leak "
        "WHERE leak.source=image.source AND person=one_spelling(patient_id)) "
        "WHERE (source, one_spelling(patient_id)) IN (SELECT source, person FROM leak)",
        (LEAK_OF_SPELLINGS, LEAK),
    )
    spool.execute(
        "CREATE TABLE shared AS SELECT source, study_id FROM image GROUP BY source, study_id "
        "HAVING min(patient_id) < max(patient_id)"
    )
    spool.execute(
        "UPDATE image SET aside='study of two patients' "
        "WHERE aside IS NULL AND (source, study_id) IN (SELECT source, study_id FROM shared)"
    )
    spool.execute(
        "UPDATE image SET aside='image listed twice' WHERE aside IS NULL AND seq NOT IN "
        "(SELECT min(seq) FROM image WHERE aside IS NULL GROUP BY source, image_id)"
    )


def report_aside(spool: Spool, quarantine: Quarantine) -> None:
    """Hand the marked images to the quarantine, in the order in which they were read."""
    marked = "SELECT source, image_id, relative_path, aside, detail FROM image WHERE aside IS NOT NULL ORDER BY seq"
    for source, image, path, reason, splits in spool.execute(marked):
        names = sorted(SPLITS[int(number)] for number in (splits or "").split(",") if number)
        quarantine.add(source, reason, id=image, path=path, detail=", ".join(names))


# ------------------------------------------------------------------------------------------------ the plan
def plan(spool: Spool, images_per_shard: int, earlier: Iterable[tuple[str, list[str]]] = ()) -> list[ShardPlan]:
    """Split by split, studies in the order of a hash of (source, patient, study), filled into shards one after another.

    A study is never cut: a shard closes before the study that would not fit (a study larger than a shard gets its own).

    `earlier` are the shards of a finished build, (name, `image_digests` of it) each. They stay what they are, studies
    that are in none of them get new shards behind the last, and a new image of a study that is in one is marked as set
    aside: its study must stay together. Raises PlanError when an image of theirs is gone or is described otherwise.
    """
    spool.many(
        "INSERT INTO earlier VALUES (?,?,?,?,?)",
        (
            (name, place, *(bytes.fromhex(part) for part in digests.split()))
            for name, images in earlier
            for place, digests in enumerate(images)
        ),
    )
    _refuse_what_changed(spool)
    spool.execute(
        "UPDATE image SET aside=? WHERE aside IS NULL AND study IN (SELECT study FROM earlier) "
        "AND identity NOT IN (SELECT identity FROM earlier)",
        (LATE,),
    )
    shards = [_shard(name, rows) for name, rows in groupby(spool.execute(_KEPT), key=lambda row: row[0])]
    numbers = dict.fromkeys(SPLITS, 0)
    for shard in shards:
        numbers[shard.split] = max(numbers[shard.split], 1 + int(shard.name.rpartition("-")[2]))
    for place, rows in groupby(spool.execute(_NEW), key=lambda row: row[0]):
        split = SPLITS[place]
        filling: list[Any] = []
        for _, study in groupby(rows, key=lambda row: row[3:]):
            images = list(study)
            if filling and len(filling) + len(images) > images_per_shard:
                shards.append(_shard(f"{split}-{numbers[split]:06d}", filling))
                numbers[split], filling = numbers[split] + 1, []
            filling += images
        shards.append(_shard(f"{split}-{numbers[split]:06d}", filling))
    return sorted(shards, key=lambda shard: (SPLITS.index(shard.split), shard.name))


_KEPT = (
    "SELECT shard, seq, image.digest FROM earlier JOIN image USING (identity) WHERE aside IS NULL ORDER BY shard, place"
)
_NEW = (
    "SELECT split, seq, digest, study, source, patient_id, study_id FROM image WHERE aside IS NULL "
    "AND identity NOT IN (SELECT identity FROM earlier) "
    "ORDER BY split, study, source, patient_id, study_id, image_id"
)


def _shard(name: str, rows: Iterable[tuple[Any, ...]]) -> ShardPlan:
    """A shard of rows whose second and third column are the image's number in the spool and its digest."""
    numbers, digest = array("q"), hashlib.sha256()
    for row in rows:
        numbers.append(row[1])
        digest.update(row[2])
    return ShardPlan(name, name.rpartition("-")[0], numbers, digest.hexdigest())


def _refuse_what_changed(spool: Spool) -> None:
    joined = "FROM earlier LEFT JOIN image ON image.identity=earlier.identity AND aside IS NULL"
    gone = spool.number(f"SELECT count(*) {joined} WHERE seq IS NULL")
    if gone:
        reasons = spool.execute(
            "SELECT aside, count(*) FROM earlier JOIN image USING (identity) WHERE aside IS NOT NULL AND identity NOT "
            "IN (SELECT identity FROM image WHERE aside IS NULL) GROUP BY aside ORDER BY aside"
        )
        why = ", ".join(f"{number} now set aside: {reason}" for reason, number in reasons)
        raise PlanError(
            f"{gone} images of the finished build are not in the source any more{f' ({why})' if why else ''}. "
            "Is it the same source (and the same salt)? --overwrite builds anew"
        )
    changed = spool.number(f"SELECT count(*) {joined} WHERE image.digest<>earlier.digest")
    if changed:
        raise PlanError(
            f"{changed} images of the finished build are described otherwise now (texts, labels, gaze, ids or split): "
            "the source has changed, or this version of cogaze reads it otherwise (CHANGELOG.md). Their shards would "
            "be out of date: train on them as they are, or --overwrite builds anew"
        )


def image_digests(spool: Spool, shard: ShardPlan) -> list[str]:
    """What identifies the images of a shard in a later build: per image the digests of id, study and content, hex."""
    wanted = "SELECT identity, study, digest FROM image WHERE seq=?"
    rows = (next(spool.execute(wanted, (seq,))) for seq in shard.rows)
    return [" ".join(part.hex() for part in row) for row in rows]


def source_digests(spool: Spool, parts: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Per source how many images are planned and the sha256 of all that the reader said about them, in any order."""
    rows = spool.execute("SELECT source, digest FROM image WHERE aside IS NULL ORDER BY source, digest")
    found = []
    for name, group in groupby(rows, key=lambda row: row[0]):
        images, digest = 0, hashlib.sha256()
        for row in group:
            images += 1
            digest.update(row[1])
        found.append({"name": name, "images": images, "records_sha256": digest.hexdigest(), "parts": dict(parts)})
    return found
