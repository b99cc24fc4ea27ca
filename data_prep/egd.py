"""Eye Gaze Data for Chest X-rays 1.0.0 (PhysioNet egd-cxr): one radiologist's gaze and dictation on MIMIC-CXR.

    master_sheet.csv      dicom_id, image_top_pad, image_bottom_pad, image_left_pad, image_right_pad (screen px), ...
    fixations.csv         DICOM_ID, FPOGX, FPOGY (fractions of the screen), FPOGS, FPOGD (s), FPOGV, X_/Y_ORIGINAL, ...
    audio_segmentation_transcripts/<dicom_id>/transcript.json (or original_transcript.json)

Gaze and transcript share a clock whose zero is the moment the image appeared. The screen had 1920 x 1080 px and showed
the image between its pads, so a fixation's place in the image is

    x = (1920 FPOGX - left pad) / (1920 - left pad - right pad), and likewise y,

which needs no image size. One degree of visual angle is not in the files; it follows from the screen (Dell S2719DGF,
27 inches at 16:9) and a viewing distance of 28 inches, which is an assumption: the reader's head was free.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.fixations import Fixation, fixation_array
from data_prep.records import Quarantine, Reading
from data_prep.tables import MALFORMED, clean_id, keyed, number, require_table, rows
from data_prep.transcripts import Phrase, sentences

SOURCE = "egd"
log = logging.getLogger(__name__)

WHERE = "get EGD 1.0.0 from https://physionet.org/content/egd-cxr/1.0.0/"
SCREEN_PX = (1920, 1080)
SCREEN_DIAGONAL_INCHES = 27.0
VIEWING_DISTANCE_INCHES = 28.0
# 2 d tan(0.5 deg) / (diagonal / diagonal in px) = 39.9 px
PX_PER_DEGREE = (
    2 * VIEWING_DISTANCE_INCHES * math.tan(math.radians(0.5)) * math.hypot(*SCREEN_PX) / SCREEN_DIAGONAL_INCHES
)
PADS = ("image_left_pad", "image_right_pad", "image_top_pad", "image_bottom_pad")
PAD_ALIASES = {name.removesuffix("_pad"): name for name in PADS}  # the older names


class _Shown(NamedTuple):
    """Where the image was on the screen, in px."""

    left: float
    top: float
    width: float
    height: float


def read_gaze(root: Path, quarantine: Quarantine) -> dict[str, list[Reading]]:
    """dicom_id -> its one reading, as a list (the form that reflacx.read_gaze has).

    Rows with FPOGV = 0 (blinks, lost gaze) and with a negative X_ORIGINAL or Y_ORIGINAL (off the image) are dropped.
    Gaze on an image that master_sheet does not name (calibration) is set aside, once an image; so is a reading without
    usable fixations or timed sentences. Raises SourceError when a table is missing or lacks a column.
    """
    shown = keyed(
        require_table(root, "master_sheet", WHERE),
        "dicom_id",
        PADS,
        _pack_shown,
        source=SOURCE,
        quarantine=quarantine,
        aliases=PAD_ALIASES,
    )
    dropped: Counter[str] = Counter()
    sessions = _sessions(require_table(root, "fixations", WHERE), shown.rows, quarantine, dropped)
    readings: dict[str, list[Reading]] = {}
    for dicom_id in sorted(shown.rows.keys() | sessions.keys()):
        if dicom_id not in shown.rows:
            if dicom_id not in shown.conflicts:
                quarantine.add(SOURCE, "gaze on an image that master_sheet does not name (calibration)", id=dicom_id)
            continue
        folder = root / "audio_segmentation_transcripts" / dicom_id
        reading = _reading(dicom_id, folder, sessions.get(dicom_id, {}), quarantine, dropped)
        if reading is not None:
            readings[dicom_id] = [reading]
    log.info("EGD: %d images with gaze; fixations dropped: %s", len(readings), dict(dropped) or "none")
    return readings


def _pack_shown(row: dict[str, str]) -> _Shown:
    left, right, top, bottom = (number(row[name]) for name in PADS)
    width, height = SCREEN_PX[0] - left - right, SCREEN_PX[1] - top - bottom
    if not (min(left, right, top, bottom) >= 0 and width > 0 and height > 0):
        raise ValueError(f"pads left {left:g}, right {right:g}, top {top:g}, bottom {bottom:g} px leave no image")
    return _Shown(left, top, width, height)


def _sessions(
    path: Path, shown: dict[str, _Shown], quarantine: Quarantine, dropped: Counter[str]
) -> dict[str, dict[str, list[Fixation]]]:
    """dicom_id -> session -> fixations; an image without a master_sheet row gets an empty dict."""
    found: dict[str, dict[str, list[Fixation]]] = {}
    required = ("DICOM_ID", "FPOGX", "FPOGY", "FPOGS", "FPOGD", "FPOGV")
    optional = ("SESSION_ID", "X_ORIGINAL", "Y_ORIGINAL")
    for line, row in rows(path, required, optional=optional, source=SOURCE, quarantine=quarantine):
        try:
            dicom_id = clean_id(row["DICOM_ID"])
            x, y, start, duration, valid = (number(row[name]) for name in required[1:])
            original = [number(row.get(name, "")) for name in ("X_ORIGINAL", "Y_ORIGINAL")]
        except ValueError as error:
            quarantine.add(SOURCE, MALFORMED, path=path, detail=f"line {line}: {error}")
            continue
        sessions = found.setdefault(dicom_id, {})
        place = shown.get(dicom_id)
        if place is None:
            continue
        fixations = sessions.setdefault(row.get("SESSION_ID", ""), [])
        if valid != 1:
            dropped["not valid (FPOGV)"] += 1
        elif any(pixel < 0 for pixel in original):  # the sentinel -1 was scaled with the image: -1, -2, -3, ...
            dropped["off the image"] += 1
        else:
            x, y = (x * SCREEN_PX[0] - place.left) / place.width, (y * SCREEN_PX[1] - place.top) / place.height
            sigma_x, sigma_y = PX_PER_DEGREE / place.width, PX_PER_DEGREE / place.height
            fixations.append(Fixation(x, y, start, start + duration, sigma_x, sigma_y))
    return found


def _reading(
    dicom_id: str,
    folder: Path,
    sessions: dict[str, list[Fixation]],
    quarantine: Quarantine,
    dropped: Counter[str],
) -> Reading | None:
    name = f"egd-{dicom_id}"
    if len(sessions) > 1:  # the clock starts anew with each session, and there is one transcript
        quarantine.add(SOURCE, "several sessions for one transcript", id=name, detail=", ".join(sorted(sessions)))
        return None
    array = fixation_array(next(iter(sessions.values()), []), dropped)
    if not len(array):
        quarantine.add(SOURCE, "reading without a usable fixation", id=name)
        return None
    try:
        spoken, untimed = sentences(_transcript(folder))
    except (OSError, ValueError, RecursionError) as error:
        quarantine.add(SOURCE, "unreadable transcript", id=name, detail=str(error))
        return None
    if untimed:
        quarantine.add(SOURCE, "sentences without times", id=name, detail=f"{untimed} left out of the reading")
    if not spoken:
        quarantine.add(SOURCE, "reading without a timed sentence", id=name, path=folder)
        return None
    return Reading(name, SOURCE, spoken, array)


def _transcript(folder: Path) -> list[Phrase]:
    """Timed phrases of transcript.json, else of original_transcript.json; empty when neither has any.

    Raises ValueError (also for bad JSON) when a file is there and has another shape.
    """
    for name in ("transcript.json", "original_transcript.json"):
        path = folder / name
        if not path.is_file():
            continue
        content = json.loads(path.read_bytes().decode("utf-8-sig", errors="replace"))
        if not isinstance(content, dict):
            raise ValueError(f"{name} holds no object")
        if phrases := list(_phrases(content, name)):
            return phrases
    return []


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
