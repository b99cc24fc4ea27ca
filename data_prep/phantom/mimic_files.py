"""Tables of MIMIC-CXR-JPG 2.1.0 and MIMIC-CXR 2.0.0, with the quirks of the released files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from cogaze.observations import OBSERVATIONS
from data_prep.phantom.plan import TABLES, Study
from data_prep.phantom.report import examination
from data_prep.phantom.tables import csv_text, image_path, patient_folder, study_folder, write_gzip, write_text

JPG, DICOM = "mimic-cxr-jpg", "mimic-cxr"
LABEL_COLUMNS = tuple(sorted(OBSERVATIONS))  # alphabetical, as in the released tables
METADATA_COLUMNS = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)
VIEW_CODES = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "LL": "left lateral"}
BLANK_VIEW = 0.03  # share of images whose ViewPosition is empty
# the one table a radiologist labelled names two columns its own way and has an order of its own
TEST_COLUMNS = tuple("Airspace Opacity" if name == "Lung Opacity" else name for name in OBSERVATIONS)


def metadata_rows(study: Study, visit: int, seed: int) -> list[list[Any]]:
    """One row an image. `visit` counts the patient's studies: dates are shifted per patient, but keep their order."""
    rng = np.random.default_rng([seed, TABLES, study.number])
    first = int(np.random.default_rng([seed, TABLES, 2**31, study.patient.number]).integers(25_000))
    day = date(2110, 1, 1) + timedelta(days=first + 200 * visit + int(rng.integers(150)))
    rows: list[list[Any]] = []
    for view in study.views:
        # HHMMSS.fraction read as a number: leading zeros are gone
        clock = int(rng.integers(24)) * 10000 + int(rng.integers(60)) * 100 + int(rng.integers(60))
        time = f"{clock}.{int(rng.integers(1000)):03d}"
        procedure, code = examination(study), VIEW_CODES[view.position]
        orientation = str(rng.choice(["Erect", "Erect", "Recumbent", ""]))
        if rng.random() < 0.02:  # a missing sequence was skipped when the lists were built: columns move up
            procedure, code, orientation = code, orientation, ""
        position = "" if rng.random() < BLANK_VIEW else view.position
        step = examination(study) if rng.random() < 0.85 else ""
        row = (view.dicom_id, study.patient.subject_id, study.study_id, step, position, view.height, view.width)
        rows.append([*row, day.strftime("%Y%m%d"), time, procedure, code, orientation])
    return rows


def label_cells(labels: dict[str, int]) -> list[str]:
    return ["" if name not in labels else f"{labels[name]:.1f}" for name in LABEL_COLUMNS]


def negbio_labels(study: Study, labels: dict[str, int], seed: int) -> dict[str, int]:
    """A second labeller of the same text: now and then it misses a hedge or a negation."""
    rng = np.random.default_rng([seed, TABLES, 2**30, study.number])
    kept = {}
    for name, value in labels.items():
        slip = rng.random() < 0.03
        if not (slip and value == 0):
            kept[name] = 1 if slip and value == -1 else value
    return kept


def write_tables(out: Path, studies: Sequence[Study], labels: Sequence[dict[str, int]], seed: int) -> None:
    """Everything of the two MIMIC-CXR folders but the images and the reports themselves."""
    jpg, dicom = out / JPG, out / DICOM
    images = [(study, view) for study in studies for view in study.views]
    visits: Counter[int] = Counter()
    metadata = []
    for study in studies:
        metadata += metadata_rows(study, visits[study.patient.number], seed)
        visits[study.patient.number] += 1
    splits = [(v.dicom_id, s.study_id, s.patient.subject_id, s.patient.split) for s, v in images]
    chexpert = [
        [s.patient.subject_id, s.study_id, *label_cells(label)] for s, label in zip(studies, labels, strict=True)
    ]
    negbio = [
        [s.patient.subject_id, s.study_id, *label_cells(negbio_labels(s, label, seed))]
        for s, label in zip(studies, labels, strict=True)
    ]
    label_header = ("subject_id", "study_id", *LABEL_COLUMNS)
    write_gzip(jpg / "mimic-cxr-2.0.0-metadata.csv.gz", csv_text(METADATA_COLUMNS, sorted(metadata)))
    split_header = ("dicom_id", "study_id", "subject_id", "split")
    write_gzip(jpg / "mimic-cxr-2.0.0-split.csv.gz", csv_text(split_header, sorted(splits)))
    write_gzip(jpg / "mimic-cxr-2.0.0-chexpert.csv.gz", csv_text(label_header, sorted(chexpert)))
    write_gzip(jpg / "mimic-cxr-2.0.0-negbio.csv.gz", csv_text(label_header, sorted(negbio)))
    # the radiologist labelled about every second test study
    test = [
        [s.study_id, *("" if name not in label else f"{label[name]:.1f}" for name in OBSERVATIONS)]
        for s, label in zip(studies, labels, strict=True)
        if s.patient.split == "test" and s.study_id % 2 == 0
    ]
    write_text(jpg / "mimic-cxr-2.1.0-test-set-labeled.csv", csv_text(("study_id", *TEST_COLUMNS), sorted(test)))
    names = sorted(image_path(s, v, "jpg") for s, v in images)
    write_text(jpg / "IMAGE_FILENAMES", "".join(f"{name}\n" for name in names))
    records = sorted((s.patient.subject_id, s.study_id, v.dicom_id, image_path(s, v, "dcm")) for s, v in images)
    write_gzip(dicom / "cxr-record-list.csv.gz", csv_text(("subject_id", "study_id", "dicom_id", "path"), records))
    reports = sorted((s.patient.subject_id, s.study_id, f"{study_folder(s)}.txt") for s in studies)
    write_gzip(dicom / "cxr-study-list.csv.gz", csv_text(("subject_id", "study_id", "path"), reports))


def report_path(study: Study) -> str:
    """The .txt lies beside the study folders."""
    return f"{patient_folder(study)}/s{study.study_id}.txt"
