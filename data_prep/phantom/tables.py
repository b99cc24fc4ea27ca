"""Small helpers of the file writers: tables with fixed bytes, and the paths MIMIC-CXR uses."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_prep.phantom.plan import Study, View


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]], newline: str = "\n") -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator=newline)
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_gzip(path: Path, text: str) -> None:
    """gzip without a time stamp and a file name, so that equal text gives equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as file:
        file.write(text.encode())


def patient_folder(study: Study) -> str:
    subject = str(study.patient.subject_id)
    return f"files/p{subject[:2]}/p{subject}"


def study_folder(study: Study) -> str:
    return f"{patient_folder(study)}/s{study.study_id}"


def image_path(study: Study, view: View, ending: str) -> str:
    return f"{study_folder(study)}/{view.dicom_id}.{ending}"
