"""Eye Gaze Data for Chest X-rays 1.0.0 (PhysioNet egd-cxr): one radiologist's gaze and dictation on MIMIC-CXR.

    master_sheet.csv      dicom_id, image_top_pad, image_bottom_pad, image_left_pad, image_right_pad (screen px), ...
    fixations.csv         DICOM_ID, FPOGX, FPOGY (fractions of the screen), FPOGS, FPOGD (s), FPOGV, X_/Y_ORIGINAL, ...
    eye_gaze.csv          the same columns for every sample; read in its place where fixations.csv is missing
    audio_segmentation_transcripts/<dicom_id>/transcript.json (or original_transcript.json)

Gaze and transcript share a clock whose zero is the moment the image appeared. The screen had 1920 x 1080 px and showed
the image between its pads, so a fixation's place in the image is

    x = (1920 FPOGX - left pad) / (1920 - left pad - right pad), and likewise y,

which needs no image size. One degree of visual angle is not in the files; it follows from the screen (Dell S2719DGF,
27 inches at 16:9) and the distance of the reader's eyes from it. The data set's paper says 28 inches; the head was
free, so that is a mean, and `viewing_distance` changes it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.fixations import DROPPED, NOT_SECONDS, Fixation, fixation_array, in_seconds, report_counts
from data_prep.records import Quarantine, Reading, Sentence, SourceError
from data_prep.tables import MALFORMED, clean_id, find_table, keyed, number, require_table, rows
from data_prep.transcripts import Phrase, sentences

SOURCE = "egd"

WHERE = "get EGD 1.0.0 from https://physionet.org/content/egd-cxr/1.0.0/"
SCREEN_PX = (1920, 1080)
SCREEN_DIAGONAL_INCHES = 27.0
VIEWING_DISTANCE = 28.0  # inches
TRANSCRIPTS = ("transcript.json", "original_transcript.json")
PADS = ("image_left_pad", "image_right_pad", "image_top_pad", "image_bottom_pad")
PAD_ALIASES = {name.removesuffix("_pad"): name for name in PADS}  # the older names


class _Shown(NamedTuple):
    """Where the image was on the screen, in px."""

    left: float
    top: float
    width: float
    height: float


def px_per_degree(viewing_distance: float) -> float:
    """Screen px that one degree of visual angle covers in the middle of the screen, from so many inches away.

    2 d tan(0.5 deg) over the size of a pixel; 39.9 px at 28 inches. Raises SourceError unless it is positive.
    """
    if not (math.isfinite(viewing_distance) and viewing_distance > 0):
        raise SourceError(f"a viewing distance of {viewing_distance:g} inches: give a positive number, e.g. 28")
    return 2 * viewing_distance * math.tan(math.radians(0.5)) * math.hypot(*SCREEN_PX) / SCREEN_DIAGONAL_INCHES


def read_gaze(
    root: Path, quarantine: Quarantine, viewing_distance: float = VIEWING_DISTANCE
) -> dict[str, list[Reading]]:
    """dicom_id -> its one reading, as a list (the form that reflacx.read_gaze has).

    Rows with FPOGV = 0 (blinks, lost gaze) and with a negative X_ORIGINAL or Y_ORIGINAL (off the image) are dropped.
    Gaze on an image that master_sheet does not name (calibration) is set aside, once an image; so is a reading without
    usable fixations or timed sentences. What was dropped, mended or read from another file instead is set down once a
    cause, with its number. `viewing_distance` in inches gives the degree of visual angle.
    Raises SourceError when a table is missing or lacks a column.
    """
    counts: Counter[str] = Counter()
    readings = collect(root, quarantine, counts, viewing_distance)
    report_counts(counts, SOURCE, quarantine)
    return readings


def collect(
    root: Path, quarantine: Quarantine, counts: Counter[str], viewing_distance: float = VIEWING_DISTANCE
) -> dict[str, list[Reading]]:
    """As read_gaze, but what is counted is added to `counts` and not yet reported."""
    degree = px_per_degree(viewing_distance)
    sheet = require_table(root, "master_sheet", WHERE)
    shown = keyed(sheet, "dicom_id", PADS, _pack_shown, source=SOURCE, quarantine=quarantine, aliases=PAD_ALIASES)
    table = find_table(root, "fixations") or find_table(root, "eye_gaze")
    if table is None:
        raise SourceError(f"{root} holds neither fixations.csv nor eye_gaze.csv (or .csv.gz): {WHERE}")
    sessions = _sessions(table, shown.rows, degree, quarantine, counts)
    readings: dict[str, list[Reading]] = {}
    for dicom_id in sorted(shown.rows.keys() | sessions.keys()):
        if isinstance(place := shown.rows.get(dicom_id), str):
            quarantine.add(SOURCE, "image without usable pads", id=dicom_id, path=sheet, detail=place)
            continue
        if place is None:
            if dicom_id not in shown.conflicts:
                reason = "gaze on an image that master_sheet does not name (calibration)"
                quarantine.add(SOURCE, reason, id=dicom_id, kept=True)
            continue
        folder = root / "audio_segmentation_transcripts" / dicom_id
        reading = _reading(dicom_id, folder, sessions.get(dicom_id, {}), quarantine, counts)
        if reading is not None:
            readings[dicom_id] = [reading]
    return readings


def _pack_shown(row: dict[str, str]) -> _Shown | str:
    """Where the image was on the screen, or what is wrong with its pads."""
    try:
        left, right, top, bottom = (number(row[name]) for name in PADS)
    except ValueError as error:
        return str(error)
    width, height = SCREEN_PX[0] - left - right, SCREEN_PX[1] - top - bottom
    if not (min(left, right, top, bottom) >= 0 and width > 0 and height > 0):
        return f"pads left {left:g}, right {right:g}, top {top:g}, bottom {bottom:g} px leave no image"
    return _Shown(left, top, width, height)


def _sessions(
    path: Path, shown: dict[str, _Shown | str], degree: float, quarantine: Quarantine, counts: Counter[str]
) -> dict[str, dict[str, list[Fixation]]]:
    """dicom_id -> session -> fixations; an image without a master_sheet row gets an empty dict.

    fixations.csv has one row a fixation, its last sample. In eye_gaze.csv every sample says the fixation it belongs to
    (FPOGID) and the seconds that has lasted so far, so the last valid sample of each is that row. The table is read
    row by row: what stays in memory are the fixations, not the 1.5 million samples.
    """
    samples = path.name.startswith("eye_gaze")
    dropped = "samples dropped: " if samples else DROPPED
    if samples:
        counts["fixations taken from eye_gaze.csv"] += 1
    found: dict[str, dict[str, dict[Any, Fixation]]] = {}
    required = ("DICOM_ID", "FPOGX", "FPOGY", "FPOGS", "FPOGD", "FPOGV", *(("FPOGID",) if samples else ()))
    optional = ("SESSION_ID", "X_ORIGINAL", "Y_ORIGINAL")
    for line, row in rows(path, required, optional=optional, source=SOURCE, quarantine=quarantine):
        try:
            dicom_id = clean_id(row["DICOM_ID"])
            x, y, start, duration, valid = (number(row[name]) for name in required[1:6])
            original = [number(row.get(name, "")) for name in ("X_ORIGINAL", "Y_ORIGINAL")]
        except ValueError as error:
            quarantine.add(SOURCE, MALFORMED, path=path, detail=f"line {line}: {error}")
            continue
        sessions = found.setdefault(dicom_id, {})
        place = shown.get(dicom_id)
        if place is None or isinstance(place, str):
            continue
        fixations = sessions.setdefault(row.get("SESSION_ID", ""), {})
        if valid != 1:
            counts[dropped + "not valid (FPOGV)"] += 1
        elif any(pixel < 0 for pixel in original):  # the sentinel -1 was scaled with the image: -1, -2, -3, ...
            counts[dropped + "off the image"] += 1
        else:
            x, y = (x * SCREEN_PX[0] - place.left) / place.width, (y * SCREEN_PX[1] - place.top) / place.height
            fixation = Fixation(x, y, start, start + duration, degree / place.width, degree / place.height)
            fixations[row["FPOGID"] if samples else line] = fixation
    return {
        dicom_id: {session: list(fixations.values()) for session, fixations in sessions.items()}
        for dicom_id, sessions in found.items()
    }


def _reading(
    dicom_id: str,
    folder: Path,
    sessions: dict[str, list[Fixation]],
    quarantine: Quarantine,
    counts: Counter[str],
) -> Reading | None:
    name = f"egd-{dicom_id}"
    if len(sessions) > 1:  # the clock starts anew with each session, and there is one transcript
        quarantine.add(SOURCE, "several sessions for one transcript", id=name, detail=", ".join(sorted(sessions)))
        return None
    found = next(iter(sessions.values()), [])
    if not in_seconds(found):
        quarantine.add(SOURCE, NOT_SECONDS, id=name)
        return None
    array = fixation_array(found, counts)
    if not len(array):
        quarantine.add(SOURCE, "reading without a usable fixation", id=name)
        return None
    try:
        spoken, untimed, file = _transcript(folder)
    except (OSError, ValueError, RecursionError) as error:
        quarantine.add(SOURCE, "unreadable transcript", id=name, detail=str(error))
        return None
    if untimed:
        detail = f"{untimed} left out of the reading"
        quarantine.add(SOURCE, "sentences without times", id=name, detail=detail, count=untimed)
    if not spoken:
        quarantine.add(SOURCE, "reading without a timed sentence", id=name, path=folder)
        return None
    if file != TRANSCRIPTS[0]:
        counts[f"sentences taken from {file}"] += 1
    return Reading(name, SOURCE, spoken, array)


def _transcript(folder: Path) -> tuple[tuple[Sentence, ...], int, str]:
    """Sentences, how many were left out for want of times, and the file: the first of TRANSCRIPTS with a timed one.

    No sentence and "" when neither file has any. Raises ValueError (also for bad JSON), OSError or RecursionError when
    a file is there that cannot be read and the other one has nothing.
    """
    fault: Exception | None = None
    left_out = 0
    for name in TRANSCRIPTS:
        if not (folder / name).is_file():
            continue
        try:
            content = json.loads((folder / name).read_bytes().decode("utf-8-sig", errors="replace"))
            if not isinstance(content, dict):
                raise ValueError(f"{name} holds no object")
            spoken, untimed = sentences(_phrases(content, name))
        except (OSError, ValueError, RecursionError) as error:
            fault = fault or error
            continue
        if spoken:
            return spoken, untimed, name
        left_out = left_out or untimed
    if fault:
        raise fault
    return (), left_out, ""


def _phrases(content: dict[str, Any], name: str) -> Iterator[Phrase]:
    """Either {"time_stamped_text": [{"phrase", ...}]} or {"sentence_1": [{"word", ...}], ...}; times in seconds."""
    if "time_stamped_text" in content:
        groups = [content["time_stamped_text"]]
    else:
        numbered = [(int(key.rpartition("_")[2]), key) for key in content if key.rpartition("_")[2].isdecimal()]
        groups = [content[key] for _, key in sorted(numbered)]
    for group in groups:
        if not isinstance(group, list):
            raise ValueError(f"{name}: a list of timed phrases was expected")
        for i, item in enumerate(group):
            if not isinstance(item, dict) or not isinstance(text := item.get("phrase", item.get("word")), str):
                raise ValueError(f"{name}: entry {i} has no phrase")
            final = len(groups) > 1 and i == len(group) - 1
            yield Phrase(text, _seconds(item.get("begin_time")), _seconds(item.get("end_time")), final)


def _seconds(value: Any) -> float:
    """A JSON number (or a number as text) as seconds, NaN when absent."""
    return math.nan if value is None else number(str(value))
