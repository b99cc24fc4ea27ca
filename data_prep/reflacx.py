"""REFLACX 1.0.0 (PhysioNet reflacx-xray-localization): five radiologists' gaze and timed dictation on MIMIC-CXR.

    main_data/metadata_phase_{1,2,3}.csv   id, eye_tracking_data_discarded, dicom_id, image_size_x, image_size_y, ...
    main_data/<id>/fixations.csv           image pixels, seconds, pixels per degree, the part of the image on screen
    main_data/<id>/timestamps_transcription.csv   word, timestamp_start_word, timestamp_end_word; "." is a row
    gaze_data/<id>/gaze.csv                samples at 1000 Hz; read where fixations.csv is missing

All times are seconds from the start of the audio recording, so early fixations may be negative. One image may have
readings of up to five radiologists; who read is not published, hence `reader` is "reflacx" and readings differ by id.

Which fixations are looks at the image follows the authors' example filter: those inside the part of the image that was
on the screen, and those less than half a degree beside it, unless they are less than 50 screen px from the buttons.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.fixations import DROPPED, NOT_SECONDS, Fixation, fixation_array, in_seconds, report_counts
from data_prep.records import Quarantine, Reading, SourceError
from data_prep.samples import Box, Look, fixations_of
from data_prep.tables import MALFORMED, clean_id, find_table, keyed, number, rows, truth
from data_prep.transcripts import Phrase, sentences

SOURCE = "reflacx"
WHERE = "get REFLACX 1.0.0 from https://physionet.org/content/reflacx-xray-localization/1.0.0/ (main_data is enough)"
TIMES = ("timestamp_start_fixation", "timestamp_end_fixation")
SAMPLE_TIME = "timestamp_sample"  # of gaze.csv
POSITION = ("x_position", "y_position")
RESOLUTION = ("angular_resolution_x_pixels_per_degree", "angular_resolution_y_pixels_per_degree")
SHOWN = ("xmin_shown_from_image", "ymin_shown_from_image", "xmax_shown_from_image", "ymax_shown_from_image")
ON_SCREEN = (
    *("xmin_in_screen_coordinates", "ymin_in_screen_coordinates"),
    *("xmax_in_screen_coordinates", "ymax_in_screen_coordinates"),
)
BUTTONS = (10.0, 933.0, 650.0, 1122.0)  # where the buttons stood on the screen: x0, y0, x1, y1 in px
BUTTONS_MARGIN = 50.0  # screen px


class _Meta(NamedTuple):
    dicom_id: str
    discarded: bool
    width: float  # px of the DICOM image
    height: float


def read_gaze(root: Path, quarantine: Quarantine) -> dict[str, list[Reading]]:
    """dicom_id -> the readings of that image, ordered by id.

    `root` is the folder that holds main_data, or main_data itself. Fixations become fractions of the image, and one
    degree of visual angle (pixels per degree over image size) becomes sigma. What cannot be used is set aside by
    reading: discarded by the authors, missing or unreadable file, nothing left, no timed sentence. What was dropped or
    mended among the fixations is set down once a cause, with its number.
    Raises SourceError when no metadata table is found or one lacks a column.
    """
    counts: Counter[str] = Counter()
    readings = collect(root, quarantine, counts)
    report_counts(counts, SOURCE, quarantine)
    return readings


def collect(root: Path, quarantine: Quarantine, counts: Counter[str]) -> dict[str, list[Reading]]:
    """As read_gaze, but what was dropped or mended is added to `counts` and not yet reported.

    Instead of metadata_phase_1 to _3 the folder may have one table `metadata` of all phases, in main_data or beside
    it (MIMIC-Eye).
    """
    main = root / "main_data" if (root / "main_data").is_dir() else root
    readings: dict[str, list[Reading]] = {}
    for name, meta in sorted(_metadata(root, main, quarantine).items()):
        reading = _reading(main / name, name, meta, quarantine, counts)
        if reading is not None:
            readings.setdefault(meta.dicom_id, []).append(reading)
    return readings


def _metadata(root: Path, main: Path, quarantine: Quarantine) -> dict[str, _Meta]:
    def pack(row: dict[str, str]) -> _Meta:
        width, height = number(row["image_size_x"]), number(row["image_size_y"])
        return _Meta(clean_id(row["dicom_id"]), truth(row["eye_tracking_data_discarded"]), width, height)

    tables = [path for phase in (1, 2, 3) if (path := find_table(main, f"metadata_phase_{phase}"))]
    if not tables:
        tables = [path for folder in (main, root) if (path := find_table(folder, "metadata"))][:1]
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


def _reading(folder: Path, name: str, meta: _Meta, quarantine: Quarantine, counts: Counter[str]) -> Reading | None:
    if meta.discarded:
        quarantine.add(SOURCE, "reading discarded by the authors", id=name, kept=True)
        return None
    if not (meta.width > 0 and meta.height > 0 and math.isfinite(meta.width * meta.height)):
        quarantine.add(SOURCE, "reading without image size", id=name, detail=f"{meta.width} x {meta.height}")
        return None
    fixations, samples = find_table(folder, "fixations"), None
    if fixations is None:
        samples = find_table(folder.parent.parent / "gaze_data" / name, "gaze")
    words = find_table(folder, "timestamps_transcription") or find_table(folder, "timestamps_transcriptions")
    table = fixations or samples
    if table is None or words is None:
        missing = "fixations.csv" if table is None else "timestamps_transcription.csv"
        quarantine.add(SOURCE, f"reading without {missing}", id=name, path=folder)
        return None
    try:
        looks = fixations_of(_looks(table, quarantine)) if samples else _looks(table, quarantine)
        found = list(_fixations(looks, meta, counts))
        spoken, untimed = sentences(_words(words, quarantine))
    except SourceError as error:
        quarantine.add(SOURCE, "unreadable gaze table", id=name, detail=str(error))
        return None
    if not in_seconds(found):
        quarantine.add(SOURCE, NOT_SECONDS, id=name, path=table)
        return None
    array = fixation_array(found, counts)
    if untimed:
        detail = f"{untimed} left out of the reading"
        quarantine.add(SOURCE, "sentences without times", id=name, detail=detail, count=untimed)
    if not len(array):
        quarantine.add(SOURCE, "reading without a usable fixation", id=name, path=table)
        return None
    if not spoken:
        quarantine.add(SOURCE, "reading without a timed sentence", id=name, path=words)
        return None
    if samples:
        counts["fixations taken from gaze.csv"] += 1
    return Reading(name, SOURCE, spoken, array)


def _looks(path: Path, quarantine: Quarantine) -> Iterator[Look]:
    """The rows of fixations.csv, or the samples of gaze.csv, which have one time each."""
    times = (SAMPLE_TIME, SAMPLE_TIME) if path.name.startswith("gaze") else TIMES
    required = (*dict.fromkeys(times), *POSITION, *RESOLUTION)
    for line, row in rows(path, required, optional=(*SHOWN, *ON_SCREEN), source=SOURCE, quarantine=quarantine):
        try:
            start, end, x, y, degree_x, degree_y = (number(row[name]) for name in (*times, *POSITION, *RESOLUTION))
            yield Look(start, end, x, y, degree_x, degree_y, _box(row, SHOWN), _box(row, ON_SCREEN))
        except ValueError as error:
            quarantine.add(SOURCE, MALFORMED, path=path, detail=f"line {line}: {error}")


def _fixations(looks: Iterable[Look], meta: _Meta, counts: Counter[str]) -> Iterator[Fixation]:
    """Fixations in fractions of the image; those at the buttons are dropped and counted."""
    width, height = meta.width, meta.height
    for look in looks:
        if _at_buttons(look.x, look.y, look.shown, look.screen):
            counts[DROPPED + "at the buttons"] += 1
            continue
        x0, y0, x1, y1 = look.shown
        part = (x0 / width, y0 / height, x1 / width, y1 / height)
        degree_x, degree_y = look.degree_x / width, look.degree_y / height
        yield Fixation(look.x / width, look.y / height, look.start, look.end, degree_x, degree_y, part)


def _box(row: dict[str, str], columns: tuple[str, ...]) -> Box:
    """Four cells of a row as x0, y0, x1, y1; NaN where blank or no column. Raises ValueError for other text."""
    x0, y0, x1, y1 = (number(row.get(name, "")) for name in columns)
    return x0, y0, x1, y1


def _at_buttons(x: float, y: float, shown: Box, screen: Box) -> bool:
    """Whether a point (image px) beside the shown part of the image is on the screen within reach of the buttons.

    `shown` in image px and `screen` in screen px are the same rectangle; without them (NaN, or empty) it is False.
    """
    x0, y0, x1, y1 = shown
    if x0 <= x <= x1 and y0 <= y <= y1:
        return False
    if not (x1 > x0 and y1 > y0 and all(map(math.isfinite, (x, y, *screen)))):
        return False
    left, top, right, bottom = screen
    at_x = left + (x - x0) * (right - left) / (x1 - x0)
    at_y = top + (y - y0) * (bottom - top) / (y1 - y0)
    beside = max(BUTTONS[0] - at_x, 0.0, at_x - BUTTONS[2])
    above = max(BUTTONS[1] - at_y, 0.0, at_y - BUTTONS[3])
    return math.hypot(beside, above) <= BUTTONS_MARGIN


def _words(path: Path, quarantine: Quarantine) -> Iterator[Phrase]:
    columns = ("word", "timestamp_start_word", "timestamp_end_word")
    for line, row in rows(path, columns, source=SOURCE, quarantine=quarantine):
        try:
            yield Phrase(row["word"], number(row["timestamp_start_word"]), number(row["timestamp_end_word"]))
        except ValueError as error:
            quarantine.add(SOURCE, MALFORMED, path=path, detail=f"line {line}: {error}")
