"""REFLACX 1.0.0 (PhysioNet reflacx-xray-localization): five radiologists' gaze and timed dictation on MIMIC-CXR.

    main_data/metadata_phase_{1,2,3}.csv   id, eye_tracking_data_discarded, dicom_id, image_size_x, image_size_y, ...
    main_data/<id>/fixations.csv           image pixels, seconds, pixels per degree, the part of the image on screen
    main_data/<id>/timestamps_transcription.csv   word, timestamp_start_word, timestamp_end_word; "." is a row

All times are seconds from the start of the audio recording, so early fixations may be negative. One image may have
readings of up to five radiologists; who read is not published, hence `reader` is "reflacx" and readings differ by id.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.fixations import Fixation, fixation_array
from data_prep.records import Quarantine, Reading, SourceError
from data_prep.tables import MALFORMED, clean_id, find_table, keyed, number, rows, truth
from data_prep.transcripts import Phrase, sentences

SOURCE = "reflacx"
log = logging.getLogger(__name__)

WHERE = "get REFLACX 1.0.0 from https://physionet.org/content/reflacx-xray-localization/1.0.0/ (main_data is enough)"
TIMES = ("timestamp_start_fixation", "timestamp_end_fixation")
POSITION = ("x_position", "y_position")
RESOLUTION = ("angular_resolution_x_pixels_per_degree", "angular_resolution_y_pixels_per_degree")
SHOWN = ("xmin_shown_from_image", "ymin_shown_from_image", "xmax_shown_from_image", "ymax_shown_from_image")


class _Meta(NamedTuple):
    dicom_id: str
    discarded: bool
    width: float  # px of the DICOM image
    height: float


def read_gaze(root: Path, quarantine: Quarantine) -> dict[str, list[Reading]]:
    """dicom_id -> the readings of that image, ordered by id.

    `root` is the folder that holds main_data, or main_data itself. Fixations become fractions of the image, and one
    degree of visual angle (pixels per degree over image size) becomes sigma. What cannot be used is set aside by
    reading: discarded by the authors, missing or unreadable file, nothing left, no timed sentence.
    Raises SourceError when no metadata_phase table is found or one lacks a column.
    """
    main = root / "main_data" if (root / "main_data").is_dir() else root
    readings: dict[str, list[Reading]] = {}
    dropped: Counter[str] = Counter()
    for name, meta in sorted(_metadata(main, quarantine).items()):
        reading = _reading(main / name, name, meta, quarantine, dropped)
        if reading is not None:
            readings.setdefault(meta.dicom_id, []).append(reading)
    log.info("REFLACX: %d images with gaze; fixations dropped: %s", len(readings), dict(dropped) or "none")
    return readings


def _metadata(main: Path, quarantine: Quarantine) -> dict[str, _Meta]:
    def pack(row: dict[str, str]) -> _Meta:
        width, height = number(row["image_size_x"]), number(row["image_size_y"])
        return _Meta(clean_id(row["dicom_id"]), truth(row["eye_tracking_data_discarded"]), width, height)

    tables = [path for phase in (1, 2, 3) if (path := find_table(main, f"metadata_phase_{phase}"))]
    if not tables:
        raise SourceError(f"{main} holds no metadata_phase_1.csv, _2 or _3 (or .csv.gz): {WHERE}")
    found: dict[str, _Meta] = {}
    for path in tables:
        columns = ("eye_tracking_data_discarded", "dicom_id", "image_size_x", "image_size_y")
        for name, meta in keyed(path, "id", columns, pack, source=SOURCE, quarantine=quarantine).rows.items():
            if name in found:
                quarantine.add(SOURCE, "duplicate row", id=name, path=path, detail="the earlier phase's row is used")
            else:
                found[name] = meta
    return found


def _reading(folder: Path, name: str, meta: _Meta, quarantine: Quarantine, dropped: Counter[str]) -> Reading | None:
    if meta.discarded:
        quarantine.add(SOURCE, "reading discarded by the authors", id=name)
        return None
    if not (meta.width > 0 and meta.height > 0 and math.isfinite(meta.width * meta.height)):
        quarantine.add(SOURCE, "reading without image size", id=name, detail=f"{meta.width} x {meta.height}")
        return None
    fixations = find_table(folder, "fixations")
    words = find_table(folder, "timestamps_transcription") or find_table(folder, "timestamps_transcriptions")
    if fixations is None or words is None:
        missing = "fixations.csv" if fixations is None else "timestamps_transcription.csv"
        quarantine.add(SOURCE, f"reading without {missing}", id=name, path=folder)
        return None
    try:
        array = fixation_array(_fixations(fixations, meta, quarantine), dropped)
        spoken, untimed = sentences(_words(words, quarantine))
    except SourceError as error:
        quarantine.add(SOURCE, "unreadable gaze table", id=name, detail=str(error))
        return None
    if untimed:
        quarantine.add(SOURCE, "sentences without times", id=name, detail=f"{untimed} left out of the reading")
    if not len(array):
        quarantine.add(SOURCE, "reading without a usable fixation", id=name, path=fixations)
        return None
    if not spoken:
        quarantine.add(SOURCE, "reading without a timed sentence", id=name, path=words)
        return None
    return Reading(name, SOURCE, spoken, array)


def _fixations(path: Path, meta: _Meta, quarantine: Quarantine) -> Iterator[Fixation]:
    width, height = meta.width, meta.height
    required = (*TIMES, *POSITION, *RESOLUTION)
    for line, row in rows(path, required, optional=SHOWN, source=SOURCE, quarantine=quarantine):
        try:
            start, end, x, y, degree_x, degree_y = (number(row[name]) for name in required)
            x0, y0, x1, y1 = (number(row.get(name, "")) for name in SHOWN)
        except ValueError as error:
            quarantine.add(SOURCE, MALFORMED, path=path, detail=f"line {line}: {error}")
            continue
        shown = (x0 / width, y0 / height, x1 / width, y1 / height)
        yield Fixation(x / width, y / height, start, end, degree_x / width, degree_y / height, shown)


def _words(path: Path, quarantine: Quarantine) -> Iterator[Phrase]:
    columns = ("word", "timestamp_start_word", "timestamp_end_word")
    for line, row in rows(path, columns, source=SOURCE, quarantine=quarantine):
        try:
            yield Phrase(row["word"], number(row["timestamp_start_word"]), number(row["timestamp_end_word"]))
        except ValueError as error:
            quarantine.add(SOURCE, MALFORMED, path=path, detail=f"line {line}: {error}")
