"""The REFLACX 1.0.0 layout: one folder a reading, CRLF line ends, positions in image pixels, a clock that starts with
the audio (so early fixations may have negative times)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.phantom.canvas import Box
from data_prep.phantom.gaze import Reading
from data_prep.phantom.plan import GAZE, Study, View
from data_prep.phantom.tables import csv_text, image_path, write_text

ROOT = "reflacx-xray-localization"
SCREEN = (3840, 2160)
AREA = (660, 3180)  # the image area of the screen, left and right
PHASE_1 = (
    *("Airway wall thickening", "Atelectasis", "Consolidation", "Emphysema", "Enlarged cardiac silhouette"),
    *("Fibrosis", "Fracture", "Groundglass opacity", "Mass", "Nodule", "Pleural effusion", "Pleural thickening"),
    *("Pneumothorax", "Pulmonary edema", "Quality issue", "Support devices", "Wide mediastinum", "Other"),
)
PHASE_2_3 = (
    *("Abnormal mediastinal contour", "Acute fracture", "Atelectasis", "Consolidation"),
    *("Enlarged cardiac silhouette", "Enlarged hilum", "Groundglass opacity", "Hiatal hernia"),
    *("High lung volume / emphysema", "Interstitial lung disease", "Lung nodule or mass", "Pleural abnormality"),
    *("Pneumothorax", "Pulmonary edema", "Support devices", "Other"),
)
BOOLEAN = ("Support devices", "Quality issue")
FIXATION_COLUMNS = (
    *("timestamp_start_fixation", "timestamp_end_fixation", "x_position", "y_position", "pupil_area_normalized"),
    *("angular_resolution_x_pixels_per_degree", "angular_resolution_y_pixels_per_degree"),
    *("window_width", "window_level"),
    *("xmin_shown_from_image", "ymin_shown_from_image", "xmax_shown_from_image", "ymax_shown_from_image"),
    *("xmin_in_screen_coordinates", "ymin_in_screen_coordinates"),
    *("xmax_in_screen_coordinates", "ymax_in_screen_coordinates"),
)
METADATA_COLUMNS = (
    *("id", "split", "eye_tracking_data_discarded", "image", "dicom_id", "subject_id", "image_size_x", "image_size_y"),
)
DISCARDED_EVERY = 90  # one more id, without eye tracking, after this many
TRIALS = 99  # two digits name the image in phases 1 and 2


@dataclass(frozen=True)
class ReadImage:
    """One image with its REFLACX readings (at least one) and what the files about it need."""

    study: Study
    view: View
    boxes: tuple[tuple[Box, ...], ...]
    chest: Box
    readings: tuple[Reading, ...]


def label_of(name: str, kind: str, phase: int) -> str:
    """The phase's column for a CheXbert observation."""
    if name == "Lung Lesion":
        return ("Mass" if kind == "mass" else "Nodule") if phase == 1 else "Lung nodule or mass"
    first = {"Fracture": "Fracture", "Pleural Effusion": "Pleural effusion"}
    later = {"Fracture": "Acute fracture", "Pleural Effusion": "Pleural abnormality"}
    table = {
        "Cardiomegaly": "Enlarged cardiac silhouette",
        "Lung Opacity": "Groundglass opacity",
        "Edema": "Pulmonary edema",
        "Support Devices": "Support devices",
        **(first if phase == 1 else later),
    }
    return table.get(name, name)


def write_reflacx(out: Path, images: Sequence[ReadImage], seed: int, samples: int = 0) -> dict[str, int]:
    """Write metadata, main_data and, for the first `samples` readings, gaze_data. Returns counts."""
    root = out / ROOT
    rows: dict[int, list[list[Any]]] = {1: [], 2: [], 3: []}
    trials = {1: 0, 2: 0}
    number = written = discarded = 0
    for image in images:
        phase = 3
        if len(image.readings) > 1:
            phase = min(trials, key=lambda p: trials[p])
            if trials[phase] >= TRIALS:
                phase = 3  # two digits are used up: keep one reading, as phase 3 has
        if phase < 3:
            trials[phase] += 1
        prefix = f"P{phase}{trials[phase]:02d}R" if phase < 3 else "P300R"
        for reading in image.readings if phase < 3 else image.readings[:1]:
            rng = np.random.default_rng([seed, GAZE, 2**31, number])
            name = f"{prefix}{(number * 611_953 + 104_729) % 999_983:06d}"
            number += 1
            rows[phase].append(_metadata(image, name, phase, rng, False))
            _write_reading(root / "main_data" / name, image, reading, phase, rng)
            if written < samples:
                write_text(root / "gaze_data" / name / "gaze.csv", _samples(image, reading, rng))
            written += 1
        if number % DISCARDED_EVERY == DISCARDED_EVERY - 1:
            rng = np.random.default_rng([seed, GAZE, 2**31, number])
            name = f"P300R{(number * 611_953 + 104_729) % 999_983:06d}"
            number, discarded = number + 1, discarded + 1
            rows[3].append(_metadata(image, name, 3, rng, True))
            _write_places(root / "main_data" / name, image, 3)
    for phase, table in rows.items():
        header = (*METADATA_COLUMNS, *(PHASE_1 if phase == 1 else PHASE_2_3))
        text = csv_text(header, sorted(table, key=lambda row: str(row[0])), "\r\n")
        write_text(root / "main_data" / f"metadata_phase_{phase}.csv", text)
    return {"readings": written, "discarded": discarded, "images": len(images)}


def _metadata(image: ReadImage, name: str, phase: int, rng: np.random.Generator, discarded: bool) -> list[Any]:
    study, view = image.study, image.view
    columns = PHASE_1 if phase == 1 else PHASE_2_3
    cells: dict[str, Any] = {column: False if column in BOOLEAN else 0 for column in columns}
    cells["Other"] = ""
    for finding in study.findings:
        column = label_of(finding.name, finding.kind, phase)
        cells[column] = True if column in BOOLEAN else (int(rng.integers(4, 6)) if finding.sure else 3)
    path = f"physionet.org/files/mimic-cxr/2.0.0/{image_path(study, view, 'dcm')}"
    first = [name, study.patient.split, discarded, path, view.dicom_id, study.patient.subject_id]
    return [*first, view.width, view.height, *cells.values()]


def _screen(view: View, shown: Box) -> tuple[tuple[int, ...], float]:
    """The shown part in image px and where it lies on the screen; screen px per image px."""
    x0, y0 = round(shown[0] * view.width), round(shown[1] * view.height)
    x1, y1 = round(shown[2] * view.width), round(shown[3] * view.height)
    scale = min((AREA[1] - AREA[0]) / (x1 - x0), SCREEN[1] / (y1 - y0))
    left = round((sum(AREA) - (x1 - x0) * scale) / 2)
    top = round((SCREEN[1] - (y1 - y0) * scale) / 2)
    return (x0, y0, x1, y1, left, top, round(left + (x1 - x0) * scale), round(top + (y1 - y0) * scale)), scale


def _display(view: View, reading: Reading, shown: Box) -> tuple[int, tuple[int, ...]]:
    """Image px per degree (it falls as the reader zooms in), and the eight rectangle columns."""
    rectangle, scale = _screen(view, shown)
    return max(1, round(reading.degree * SCREEN[1] / scale)), rectangle


def _write_reading(folder: Path, image: ReadImage, reading: Reading, phase: int, rng: np.random.Generator) -> None:
    view = image.view
    width, level = (round(float(rng.uniform(0.6, 1.0)), 4), round(float(rng.uniform(0.4, 0.55)), 4))
    rows = []
    for fix in reading.fixations:
        if not fix.valid:
            continue  # a blink is no fixation
        degree, rectangle = _display(view, reading, fix.shown)
        pupil = f"{rng.normal(1.0, 0.05):.4f}"
        position = (int(fix.x * view.width), int(fix.y * view.height))
        times = (f"{fix.start:.3f}", f"{fix.end:.3f}")
        rows.append((*times, *position, pupil, degree, degree, width, level, *rectangle))
    write_text(folder / "fixations.csv", csv_text(FIXATION_COLUMNS, rows, "\r\n"))
    words = [(word, f"{start:.3f}", f"{end:.3f}") for word, start, end in reading.words]
    header = ("word", "timestamp_start_word", "timestamp_end_word")
    write_text(folder / "timestamps_transcription.csv", csv_text(header, words, "\r\n"))
    text = " ".join(word for word, _, _ in reading.words).replace(" .", ".").replace(" ,", ",")
    write_text(folder / "transcription.txt", text)
    _write_places(folder, image, phase)


def _write_places(folder: Path, image: ReadImage, phase: int) -> None:
    view = image.view
    labels = [c for c in (PHASE_1 if phase == 1 else PHASE_2_3) if c not in ("Quality issue", "Other")]
    ellipses = []
    for finding, boxes in zip(image.study.findings, image.boxes, strict=True):
        column = label_of(finding.name, finding.kind, phase)
        for box in boxes:
            cells = [name == column for name in labels]
            ellipses.append((*_pixels(view, box), 5 if finding.sure else 3, *cells))
    header = ("xmin", "ymin", "xmax", "ymax", "certainty", *labels)
    write_text(folder / "anomaly_location_ellipses.csv", csv_text(header, ellipses, "\r\n"))
    chest = csv_text(("xmin", "ymin", "xmax", "ymax"), [_pixels(view, image.chest)], "\r\n")
    write_text(folder / "chest_bounding_box.csv", chest)


def _pixels(view: View, box: Box) -> tuple[int, int, int, int]:
    return (
        round(box[0] * view.width),
        round(box[1] * view.height),
        round(box[2] * view.width),
        round(box[3] * view.height),
    )


def _samples(image: ReadImage, reading: Reading, rng: np.random.Generator, rate: float = 100.0) -> str:
    """gaze.csv at a tenth of the true rate; position, pupil and resolution are blank where the eye is lost."""
    view, rows = image.view, []
    for fix in reading.fixations:
        degree, rectangle = _display(view, reading, fix.shown)
        for now in np.arange(fix.start, fix.end, 1 / rate):
            x, y = fix.x * view.width + rng.normal(0, 0.6), fix.y * view.height + rng.normal(0, 0.6)
            eye: tuple[Any, ...] = (int(x), int(y), "1.0000", degree, degree) if fix.valid else ("",) * 5
            rows.append((f"{now:.3f}", *eye, 1.0, 0.5, *rectangle))
    return csv_text(("timestamp_sample", *FIXATION_COLUMNS[2:]), rows, "\r\n")
