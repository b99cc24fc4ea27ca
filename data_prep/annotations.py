"""The annotation files that the authors of CoGaze publish: one JSON, heat maps as JPEGs, and the images of MIMIC-CXR.

    ROOT/*annotation*.json     {"train": [record, ...], "val": [...], "test": [...]}
    GAZE/<image_dir>/          sentence-heatmap-lookup.json {"<key>": "sentence", ..., "full_text": "..."},
                               report_heatmap.jpg, <key>_heatmap.jpg
    IMAGES/                    p10/p10000032/s50414267/<dicom_id>.jpg: the folder `files` of mimic-cxr-jpg

A record is one reading of one image; several records of an image become one image with several readings. What is
carried over: report (`findings`), indication and history, the 14 CheXbert labels (0 blank, 1 positive, 2 negative,
3 uncertain), view and file (`anchor_scan`), and the heat maps, as `Reading.heatmaps`, since there are no fixations.
What belongs to the language model (similar cases, predictions) is not read. Records without facts are left out, as in
the authors' code. Records of the structured-report files (SRRG: `image_paths`, `findings_section`) are read too: an
image a path, the patient told by the path.

Memory: the JSON is read record by record; what stays is what a record holds of it (about 3 kB an image).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cogaze.observations import OBSERVATIONS
from data_prep.json_stream import elements
from data_prep.records import FIXATION_COLUMNS, ImageRecord, Quarantine, Reading, Sentence, SourceError
from data_prep.sections import clean_text
from data_prep.tables import clean_id, is_file

SOURCE = "cogaze_annotations"
WHERE = "get the annotation files from the repository of CoGaze, and the images from MIMIC-CXR-JPG (PhysioNet)"
SPLITS = {"train": "train", "val": "validate", "validate": "validate", "valid": "validate", "test": "test"}
CODES: dict[int, int | None] = {0: None, 1: 1, 2: 0, 3: -1}  # CheXbert's, to those of a shard
LOOKUP = "sentence-heatmap-lookup.json"
REPORT_MAP = "report_heatmap.jpg"
MAX_LOOKUP_BYTES = 4 << 20
MALFORMED = "malformed record"
PATIENT = re.compile(r"(?:^|/)p(?:atient)?(\d{3,})(?=/)")  # p10000032, patient00123
NO_FIXATIONS = np.zeros((0, len(FIXATION_COLUMNS)), np.float32)


def read(
    root: Path,
    quarantine: Quarantine,
    *,
    annotations: Path | None = None,
    images: Path | None = None,
    gaze: Path | None = None,
) -> Iterator[ImageRecord]:
    """The images as records, ordered by patient, study and image id (as text).

    `annotations` names the JSON (default: the one *annotation*.json in `root`), `images` the folder that image paths
    are relative to (default: files or images in `root`), `gaze` the folder with a folder of heat maps for each reading
    (default: gaze in `root`; without it the images have no readings). Set aside with a reason: malformed records,
    those without findings or facts, images that are missing or lie elsewhere, records that contradict each other,
    unusable label vectors (the image stays, its labels are unknown), and readings without their heat maps.
    Raises SourceError at once for what is missing as a whole, and where the JSON breaks off.
    """
    path = annotations or _only_annotation(root)
    images = images or next((root / name for name in ("files", "images") if (root / name).is_dir()), None)
    if images is None or not images.is_dir():
        raise SourceError(
            f"no image folder {images or root / 'files'}: name the one that image paths start from; {WHERE}"
        )
    if gaze is None and (root / "gaze").is_dir():
        gaze = root / "gaze"
    if gaze is not None and not gaze.is_dir():
        raise SourceError(f"the gaze folder {gaze} does not exist")
    if not path.is_file():
        raise SourceError(f"the annotation file {path} does not exist: {WHERE}")
    return _records(path, images, gaze, quarantine)


def _only_annotation(root: Path) -> Path:
    found = sorted(root.glob("*annotation*.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(f"{root} should hold one *annotation*.json, there is: {names}; name the file. {WHERE}")
    return found[0]


def _records(path: Path, images: Path, gaze: Path | None, quarantine: Quarantine) -> Iterator[ImageRecord]:
    found: dict[str, ImageRecord] = {}
    conflicts: set[str] = set()
    for number, (word, item) in enumerate(elements(path)):
        try:
            if word not in SPLITS:
                raise ValueError(f"the list {word[:40]!r} is none of train, val, test")
            if not isinstance(item, dict):
                raise ValueError("not an object")
            several = "image_paths" in item
            records = _structured(item, SPLITS[word]) if several else [_annotated(item, SPLITS[word], quarantine)]
        except ValueError as error:
            quarantine.add(SOURCE, MALFORMED, path=path.name, detail=f"record {number} ({word[:40]}): {error}")
            continue
        for record in records:
            if record.findings is None or item.get("findings_factual_serialization") == []:
                reason = "record without findings" if record.findings is None else "record without facts"
                quarantine.add(SOURCE, reason, id=record.image_id)
                continue
            reading = None if several else _reading(item, record.image_id, gaze, quarantine)
            known = found.get(record.image_id)
            if known is None:
                found[record.image_id] = known = record
            elif _place(known) != _place(record):
                conflicts.add(record.image_id)
            elif (known.findings, known.indication, known.history) != (
                record.findings, record.indication, record.history,
            ) or known.labels != record.labels:  # fmt: skip
                quarantine.add(SOURCE, "records of one image differ in text or labels", id=record.image_id,
                               detail="the first one's are used")  # fmt: skip
            elif reading is None or reading.id in {other.id for other in known.readings}:
                quarantine.add(SOURCE, "duplicate record", id=record.image_id, kept=True)
            if reading is not None and reading.id not in {other.id for other in known.readings}:
                found[record.image_id] = replace(known, readings=(*known.readings, reading))
    for record in sorted(found.values(), key=lambda r: (r.patient_id, r.study_id, r.image_id)):
        places = (images / record.relative_path, images / "files" / record.relative_path)
        file = next((place for place in places if is_file(place)), None)
        if record.image_id in conflicts:
            quarantine.add(SOURCE, "records of one image contradict each other", id=record.image_id)
        elif file is None:
            quarantine.add(SOURCE, "image file missing", id=record.image_id, path=record.relative_path)
        else:
            quarantine.note(f"{record.split} images")
            quarantine.note(f"{record.split} readings", len(record.readings))
            yield replace(record, path=file)


def _place(record: ImageRecord) -> tuple[str, ...]:
    return record.patient_id, record.study_id, record.split, record.relative_path


# ------------------------------------------------------------------------------------------------ a record
def _annotated(item: Mapping[str, Any], split: str, quarantine: Quarantine) -> ImageRecord:
    """One record of the pretraining and generation files, without its reading. Raises ValueError."""
    scan = item.get("anchor_scan")
    if not isinstance(scan, dict):
        raise ValueError("no anchor_scan")
    image_id = _id(item, "id")
    labels: dict[str, int | None] = {}
    if item.get("disease_labels") is not None:
        try:
            labels = labels_of(item["disease_labels"])
        except ValueError as error:
            quarantine.add(SOURCE, "unusable labels", id=image_id, detail=str(error))
    relative = _relative(_first(scan.get("image_path")))
    return ImageRecord(
        source=SOURCE,
        image_id=image_id,
        study_id=_id(item, "study_id"),
        patient_id=_id(item, "subject_id"),
        split=split,
        view=_text(_first(scan.get("view_position"))) or "",
        path=Path(relative),
        relative_path=relative,
        findings=clean_text(_text(item.get("findings"))),
        indication=clean_text(_text(item.get("indication_pure"))),
        history=clean_text(_text(item.get("history_pure"))),
        labels=labels,
        label_source="chexbert" if labels else None,
    )


def _structured(item: Mapping[str, Any], split: str) -> list[ImageRecord]:
    """The images of one record of the structured-report files. Raises ValueError."""
    paths, views = item["image_paths"], item.get("view_positions")
    if not isinstance(paths, list) or not paths:
        raise ValueError("no image_paths")
    if not isinstance(views, list) or len(views) != len(paths):
        views = [None] * len(paths)
    records = []
    for path, view in zip(paths, views, strict=True):
        relative = _relative(path)
        patient = PATIENT.search(relative)
        if patient is None:
            raise ValueError("an image path without a patient's folder")
        # a file name is unique in MIMIC-CXR; CheXpert's (view1_frontal.jpg) need the path
        stem = relative.rpartition(".")[0] or relative
        records.append(
            ImageRecord(
                source=SOURCE,
                image_id=PurePosixPath(stem).name if "mimic" in str(item.get("id")) else stem.replace("/", "-"),
                study_id=_id(item, "id"),
                patient_id=patient.group(1),
                split=split,
                view=_text(view) or "",
                path=Path(relative),
                relative_path=relative,
                findings=clean_text(_text(item.get("findings_section"))),
                history=clean_text(_text(item.get("history_section"))),
            )
        )
    return records


def labels_of(codes: Any) -> dict[str, int | None]:
    """Labels by name from 14 codes in CheXbert's order (0 blank, 1 positive, 2 negative, 3 uncertain).

    Raises ValueError for another length and for anything that is none of the four.
    """
    if not isinstance(codes, list) or len(codes) != len(OBSERVATIONS):
        size = len(codes) if isinstance(codes, list) else type(codes).__name__
        raise ValueError(f"{size} in place of {len(OBSERVATIONS)} codes")
    labels: dict[str, int | None] = {}
    for name, code in zip(OBSERVATIONS, codes, strict=True):
        if isinstance(code, bool) or not isinstance(code, int | float) or code not in CODES:
            raise ValueError(f"{name} is {str(code)[:20]}, not 0, 1, 2 or 3")
        labels[name] = CODES[int(code)]
    return labels


def _id(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{key} is no id")
    try:
        return clean_id(str(value))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _text(value: Any) -> str | None:
    """A text; None for anything else (null, NaN, a number)."""
    return value if isinstance(value, str) else None


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _relative(value: Any) -> str:
    """A path below the images' folder. Raises ValueError for one that leads out of it, and for what is no path."""
    path = PurePosixPath(value.replace("\\", "/")) if isinstance(value, str) else PurePosixPath()
    if not path.parts or "\0" in str(path):
        raise ValueError("no image path")
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError("an image path that leads out of the images' folder")
    return path.as_posix()


# ------------------------------------------------------------------------------------------------ its gaze
def _reading(item: Mapping[str, Any], image_id: str, gaze: Path | None, quarantine: Quarantine) -> Reading | None:
    """The reading of a record, None where it has none or none that can be used (then set aside)."""
    entry = item.get("sentence_gaze_heatmap")
    if entry is None or entry != entry:  # NaN
        return None

    def aside(reason: str, detail: str = "") -> None:
        quarantine.add(SOURCE, reason, id=name or image_id, detail=detail or f"image {image_id}")

    name = entry.get("image_dir") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        name = ""
        aside("reading without a folder name")
        return None
    if gaze is None:
        aside("reading without the folder of heat maps", "name it with --gaze")
        return None
    try:
        sentences, files = _sentences(gaze / name)
    except ValueError as error:
        aside("reading without a usable lookup table", f"{LOOKUP}: {error}")
        return None
    heatmaps = tuple(file if is_file(file) else None for file in files)
    for file, there in zip(files, heatmaps, strict=True):
        if there is None:
            aside("heat map missing", file.name)
    if not any(heatmaps):
        aside("reading without a usable heat map")
        return None
    return Reading(name, "reflacx" if re.fullmatch(r"P\d+R\d+", name) else "unknown", sentences, NO_FIXATIONS, heatmaps)


def _sentences(folder: Path) -> tuple[tuple[Sentence, ...], list[Path]]:
    """(sentences without times, the report's file and theirs) of one reading. Raises ValueError."""
    path = folder / LOOKUP
    try:
        if path.stat().st_size > MAX_LOOKUP_BYTES:
            raise ValueError("larger than any honest one")
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(error.strerror or "cannot be read") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(table, dict):
        raise ValueError("not an object")
    spoken = []
    for key, text in table.items():
        words = clean_text(_text(text))
        if key == "full_text" or words is None:
            continue
        if not re.fullmatch(r"\w[\w.-]*", key):
            raise ValueError("a key that is no part of a file name")
        spoken.append((Sentence(words, 0.0, 0.0), folder / f"{key}_heatmap.jpg"))
    if not spoken:
        raise ValueError("no sentence")
    return tuple(sentence for sentence, _ in spoken), [folder / REPORT_MAP, *(file for _, file in spoken)]
