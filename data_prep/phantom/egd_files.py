"""The EGD 1.0.0 layout: one master sheet, one table of fixations in fractions of a 1920x1080 screen, one transcript a
film. The image is fitted to the screen; what is left over are the pads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.phantom.canvas import Box
from data_prep.phantom.gaze import Fixation, Reading
from data_prep.phantom.mimic_files import LABEL_COLUMNS
from data_prep.phantom.plan import GAZE, Study, View
from data_prep.phantom.tables import csv_text, image_path, write_text

ROOT = "egd-cxr"
SCREEN = (1920, 1080)
CALIBRATION = "calibration"  # an extra DICOM_ID of the gaze tables that the master sheet does not know
FINDING_COLUMNS = (
    *("consolidation", "enlarged_cardiac_silhouette", "linear__patchy_atelectasis", "lobar__segmental_collapse"),
    "not_otherwise_specified_opacity___pleural__parenchymal_opacity__",
    *("pleural_effusion_or_thickening", "pulmonary_edema__hazy_opacity", "normal_anatomically"),
    *("elevated_hemidiaphragm", "hyperaeration", "vascular_redistribution"),
)
MASTER_COLUMNS = (
    *("dicom_id", "path", "study_id", "patient_id", "stay_id", "gender", "anchor_age"),
    *("image_top_pad", "image_bottom_pad", "image_left_pad", "image_right_pad"),
    *(name for i in range(1, 10) for name in (f"dx{i}", f"dx{i}_icd")),
    *("normal_reports", "Normal", "CHF", "pneumonia", *FINDING_COLUMNS),
    *(f"{name.lower().replace(' ', '_')}__chx" for name in LABEL_COLUMNS),
    "cxr_exam_indication",
)
GAZE_COLUMNS = (
    *("SESSION_ID", "MEDIA_ID", "DICOM_ID", "CNT", "Time (in secs)", "TIMETICK(f=10000000)"),
    *("FPOGX", "FPOGY", "FPOGS", "FPOGD", "FPOGID", "FPOGV", "BPOGX", "BPOGY", "BPOGV"),
    *("LPCX", "LPCY", "LPD", "LPS", "LPV", "RPCX", "RPCY", "RPD", "RPS", "RPV"),
    *("BKID", "BKDUR", "BKPMIN", "LPMM", "LPMMV", "RPMM", "RPMMV", "SACCADE_MAG", "SACCADE_DIR", "VID_FRAME"),
    *("X_ORIGINAL", "Y_ORIGINAL"),
)
ANATOMIES = (
    *(
        "cardiac silhouette",
        "left clavicle",
        "left costophrenic angle",
        "left hilar structures",
        "left lower lung zone",
    ),
    *("left lung", "left mid lung zone", "left upper lung zone", "mediastinum", "right clavicle"),
    *("right costophrenic angle", "right hilar structures", "right lower lung zone", "right lung"),
    *("right mid lung zone", "right upper lung zone", "trachea"),
)
CASES_PER_SESSION = 30


@dataclass(frozen=True)
class DictatedImage:
    """One film with its EGD reading and what the files about it need."""

    study: Study
    view: View
    labels: dict[str, int]
    regions: dict[str, Box]
    reading: Reading


def pads(view: View) -> tuple[int, int, int, int]:
    """Top, bottom, left, right pad in screen px. Odd sides of the image are made even first, as the source does."""
    width, height = view.width + view.width % 2, view.height + view.height % 2
    scale = min(SCREEN[0] / width, SCREEN[1] / height)
    x, y = round((SCREEN[0] - width * scale) / 2), round((SCREEN[1] - height * scale) / 2)
    return y, y, x, x


def write_egd(out: Path, films: Sequence[DictatedImage], seed: int, samples: int = 0) -> dict[str, int]:
    """Write the folder; `samples` readings also get rows in eye_gaze.csv. Returns counts."""
    root = out / ROOT
    master, fixations, gaze, boxes = [], [], [], []
    for case, film in enumerate(films):
        rng = np.random.default_rng([seed, GAZE, 2**30, film.study.number])
        session, media = case // CASES_PER_SESSION + 1, case % CASES_PER_SESSION + 1
        if media == 1:
            fixations += _calibration(session, rng)
        master.append(_master(film, rng))
        fixations += _rows(film, session, media, rng, None)
        if case < samples:
            gaze += _rows(film, session, media, rng, 60.0)
        view = film.view
        for name in ANATOMIES:
            x0, y0, x1, y1 = film.regions[name]
            corners = (x0 * view.width, x1 * view.width, y0 * view.height, y1 * view.height)
            boxes.append((view.dicom_id, name, *(f"{value:.2f}" for value in corners)))
        folder = root / "audio_segmentation_transcripts" / view.dicom_id
        write_text(folder / "transcript.json", json.dumps(_transcript(film.reading, rng), indent=1))
    write_text(root / "master_sheet.csv", csv_text(MASTER_COLUMNS, master))
    write_text(root / "fixations.csv", csv_text(GAZE_COLUMNS, fixations))
    write_text(root / "bounding_boxes.csv", csv_text(("dicom_id", "bbox_name", "x1", "x2", "y1", "y2"), boxes))
    if samples:
        write_text(root / "eye_gaze.csv", csv_text(GAZE_COLUMNS, gaze))
    return {"readings": len(films)}


def _master(film: DictatedImage, rng: np.random.Generator) -> list[Any]:
    study, view, present = film.study, film.view, film.study.present
    decade = min(max(study.patient.decade, 20), 70)
    heart_failure = int(bool(present & {"Edema", "Cardiomegaly", "Pleural Effusion"}))
    pneumonia = int(not heart_failure and bool(present & {"Consolidation", "Lung Opacity"}))
    normal = int(not heart_failure and not pneumonia)
    found = {
        "consolidation": "Consolidation" in present,
        "enlarged_cardiac_silhouette": "Cardiomegaly" in present,
        "linear__patchy_atelectasis": "Atelectasis" in present,
        "not_otherwise_specified_opacity___pleural__parenchymal_opacity__": "Lung Opacity" in present,
        "pleural_effusion_or_thickening": "Pleural Effusion" in present,
        "pulmonary_edema__hazy_opacity": "Edema" in present,
        "normal_anatomically": not present,
        "elevated_hemidiaphragm": bool(study.raised),
        "hyperaeration": study.volume == "high",
    }
    diagnosis = ("heart failure", "I509") if heart_failure else ("pneumonia", "J189") if pneumonia else ("", "")
    dx = [*diagnosis, *[""] * 16]
    # free text of the order, with its line breaks
    indication = "\n".join(
        [study.indication or "___", str(rng.choice(["REASON FOR EXAM: ___", "No contraindications"]))]
    )
    return [
        *(view.dicom_id, image_path(study, view, "dcm"), study.study_id, study.patient.subject_id),
        *(30_000_000 + (study.study_id * 7919) % 9_999_991, study.patient.sex, f"{decade} - {decade + 10}"),
        *pads(view),
        *dx,
        *(normal, normal, heart_failure, pneumonia),
        *(int(found.get(name, False)) for name in FINDING_COLUMNS),
        *(film.labels.get(name, "") for name in LABEL_COLUMNS),
        indication,
    ]


def screen_to_image(view: View, fx: float, fy: float) -> tuple[int, int]:
    """FPOG fractions -> original pixels, as the source's mapping script does it: -1 where the gaze is off the image,
    then scaled with the rest, so that the mark becomes a small negative number (on a small image it stays -1)."""
    top, bottom, left, right = pads(view)
    x, y = fx * SCREEN[0], fy * SCREEN[1]
    inside = left < x < SCREEN[0] - right and top < y < SCREEN[1] - bottom
    scale_x, scale_y = view.width / (SCREEN[0] - left - right), view.height / (SCREEN[1] - top - bottom)
    if not inside:
        return min(-1, int(-scale_x)), min(-1, int(-scale_y))
    return int((x - left) * scale_x), int((y - top) * scale_y)


def image_to_screen(view: View, x: float, y: float) -> tuple[float, float]:
    top, bottom, left, right = pads(view)
    return (
        (left + x * (SCREEN[0] - left - right)) / SCREEN[0],
        (top + y * (SCREEN[1] - top - bottom)) / SCREEN[1],
    )


def _rows(film: DictatedImage, session: int, media: int, rng: np.random.Generator, rate: float | None) -> list[Any]:
    """Rows of fixations.csv (one a fixation: its last sample), or of eye_gaze.csv at the given rate."""
    rows, blinks, before = [], 0, (0.5, 0.5)
    for number, fix in enumerate(film.reading.fixations):
        fx, fy = image_to_screen(film.view, fix.x, fix.y) if fix.valid else before
        blinks += not fix.valid
        x, y = screen_to_image(film.view, fx, fy)
        jump = np.hypot((fx - before[0]) * SCREEN[0], (fy - before[1]) * SCREEN[1])
        turn = np.degrees(np.arctan2(before[1] - fy, fx - before[0])) % 360
        times = [fix.end] if rate is None else list(np.arange(fix.start + 1 / rate, fix.end, 1 / rate))
        for now in times:
            place = (session, media, film.view.dicom_id)
            rows.append(_row(place, number + 1, float(now), fix, (fx, fy), (x, y), (jump, turn), blinks, rng))
        before = (fx, fy)
    return rows


def _row(
    place: tuple[int, int, str],
    number: int,
    now: float,
    fix: Fixation,
    fraction: tuple[float, float],
    pixel: tuple[int, int],
    saccade: tuple[float, float],
    blinks: int,
    rng: np.random.Generator,
) -> list[Any]:
    session, media, dicom = place
    valid = int(fix.valid)
    pupil = rng.normal(15, 0.8)
    fpog = [f"{fraction[0]:.5f}", f"{fraction[1]:.5f}", f"{fix.start:.5f}", f"{now - fix.start:.5f}", number, valid]
    eye = [
        f"{rng.uniform(0.3, 0.6):.5f}",
        f"{rng.uniform(0.4, 0.6):.5f}",
        f"{pupil:.5f}",
        f"{rng.normal(1, 0.02):.5f}",
        valid,
    ]
    blink = [0 if valid else blinks, f"{0 if valid else now - fix.start:.5f}", min(blinks, 20)]
    size = [f"{pupil / 4500:.5f}", valid]
    return [
        *(f"session_{session:03d}", media - 1, dicom, round(now * 60), f"{now:.5f}", int(now * 1e7) + 10**11),
        *fpog,
        *(fpog[0], fpog[1], valid),
        *eye,
        *eye,
        *blink,
        *size,
        *size,
        *(f"{saccade[0]:.5f}", f"{saccade[1]:.5f}", 0),
        *pixel,
    ]


def _calibration(session: int, rng: np.random.Generator) -> list[Any]:
    """The first picture of a session is a calibration target: rows whose DICOM_ID has no film."""
    rows = []
    for number, (fx, fy) in enumerate(((0.5, 0.5), (0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))):
        fix = Fixation(fx, fy, number * 1.0, number + 0.8, (0, 0, 1, 1), True)
        pixel = (int(fx * SCREEN[0]), int(fy * SCREEN[1]))
        rows.append(_row((session, 0, CALIBRATION), number + 1, fix.end, fix, (fx, fy), pixel, (0, 0), 0, rng))
    return rows


def _transcript(reading: Reading, rng: np.random.Generator) -> dict[str, Any]:
    """Phrases are single words, or (a third of the films) groups of words as the speech engine returned them; a
    phrase with a period ends the sentence."""
    grouped = rng.random() < 0.33
    phrases: list[dict[str, Any]] = []
    group: list[tuple[str, float, float]] = []
    for word, start, end in reading.words:
        if word in (".", ",") and group:
            group[-1] = (group[-1][0] + word, group[-1][1], end)
        elif word in (".", ",") and phrases:
            phrases[-1]["phrase"] += word
            phrases[-1]["end_time"] = end
            continue
        else:
            group.append((word, start, end))
        if word == "." or not grouped or len(group) >= 4:
            text = " ".join(part for part, _, _ in group)
            phrases.append({"phrase": text, "begin_time": group[0][1], "end_time": group[-1][2]})
            group = []
    full = ". ".join(f"{s.text[:1].upper()}{s.text[1:]}" for s in reading.spoken) + "."
    return {"full_text": full, "time_stamped_text": phrases}
