"""DICOM headers: parsing without a word to the log, and the few fields that readers use.

Header text can name the patient, so nothing of it enters a warning, a log line or an error message.
Sources: DICOM PS3.10 (file format), PS3.3 C.8.11.5 (view position and view code).
"""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from data_prep.images import ImageError, is_dicom, looks_like

MAX_INFLATED = 1 << 30  # bytes; a deflated file may claim any size
DEFLATED = str(DeflatedExplicitVRLittleEndian).encode()
HEADER_TAGS = (
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "PatientID", "Modality",
    "BodyPartExamined", "ViewPosition", "ViewCodeSequence", "Laterality", "ImageLaterality", "Rows", "Columns",
    "PhotometricInterpretation", "NumberOfFrames", "BitsStored", "StudyDate",
)  # fmt: skip
# Code meanings of View Code Sequence (SNOMED and its predecessor) -> a name of observations.VIEWS, most telling first.
VIEW_WORDS = (
    ("left lateral decubitus", "AP LLD"), ("right lateral decubitus", "AP RLD"), ("cross-table", "XTABLE LATERAL"),
    ("swimmer", "SWIMMERS"), ("left lateral", "LL"), ("postero-anterior", "PA"), ("posteroanterior", "PA"),
    ("posterior-anterior", "PA"), ("antero-posterior", "AP"), ("anteroposterior", "AP"), ("anterior-posterior", "AP"),
    ("left anterior oblique", "LAO"), ("right anterior oblique", "RAO"), ("left posterior oblique", "LPO"),
    ("right posterior oblique", "RPO"), ("lateral", "LATERAL"),
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What a reader may want of a DICOM header; text is stripped, "" where absent, sizes are px (0 where absent)."""

    image_id: str  # SOP Instance UID
    study_id: str  # Study Instance UID
    series_id: str
    accession: str
    patient_id: str
    study_date: str
    modality: str  # CR, DX, ...
    body_part: str
    view: str  # ViewPosition in capitals, else from the view code; a name of observations.VIEWS or what the file says
    laterality: str
    rows: int
    columns: int
    frames: int
    photometric: str
    bits_stored: int


def read_header(path: Path) -> Header:
    """The header of the DICOM file at `path`; its pixels are not read. Raises ImageError as grey_pixels does."""
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 12)
            if not is_dicom(start):
                raise ImageError("not a DICOM file", looks_like(start))
            file.seek(0)
            if DEFLATED in start:
                check_deflated(file.read(MAX_INFLATED))
                file.seek(0)
            with quiet():
                return _header(parse(file, HEADER_TAGS))
    except FileNotFoundError:
        raise ImageError("image file missing") from None
    except OSError as error:
        raise ImageError("image unreadable", str(error.strerror or error)) from None


def parse(file: Any, tags: tuple[str, ...]) -> pydicom.Dataset:
    """The named elements. `force` takes files without a preamble; their encoding is guessed by pydicom."""
    try:
        data = pydicom.dcmread(file, force=True, specific_tags=list(tags), stop_before_pixels="PixelData" not in tags)
    except Exception as error:
        raise ImageError("image unreadable", f"{type(error).__name__} in the DICOM header") from None
    if not hasattr(data, "file_meta"):
        data.file_meta = pydicom.dataset.FileMetaDataset()
    if not data.file_meta.get("TransferSyntaxUID"):
        implicit, little = data.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return data


def _header(data: pydicom.Dataset) -> Header:
    laterality = text(data, "ImageLaterality") or text(data, "Laterality")
    return Header(
        image_id=text(data, "SOPInstanceUID"),
        study_id=text(data, "StudyInstanceUID"),
        series_id=text(data, "SeriesInstanceUID"),
        accession=text(data, "AccessionNumber"),
        patient_id=text(data, "PatientID"),
        study_date=text(data, "StudyDate"),
        modality=text(data, "Modality"),
        body_part=text(data, "BodyPartExamined"),
        view=_view(data),
        laterality=laterality,
        rows=number(data, "Rows", 0),
        columns=number(data, "Columns", 0),
        frames=number(data, "NumberOfFrames", 1),
        photometric=text(data, "PhotometricInterpretation"),
        bits_stored=number(data, "BitsStored", 0),
    )


def _view(data: pydicom.Dataset) -> str:
    view = " ".join(text(data, "ViewPosition").upper().split())
    if view:
        return view
    try:
        meaning = text(data.ViewCodeSequence[0], "CodeMeaning").lower()
    except Exception:  # no sequence, an empty one, or a damaged one
        return ""
    return next((name for words, name in VIEW_WORDS if words in meaning), "")


def text(data: pydicom.Dataset, name: str) -> str:
    """An element as stripped text, the first of several values; "" where absent or damaged."""
    try:
        value = data.get(name)
    except Exception:  # pydicom converts on access, and raises whatever it likes
        return ""
    if isinstance(value, (list, pydicom.multival.MultiValue)):
        value = value[0] if value else None
    return "" if value is None else str(value).replace("\0", "").strip()


def number(data: pydicom.Dataset, name: str, default: int) -> int:
    try:
        return int(text(data, name) or default)
    except ValueError:
        return default


def real(data: pydicom.Dataset, name: str) -> float:
    """The first value as a float; NaN where absent, blank or damaged."""
    try:
        return float(text(data, name) or "nan")
    except ValueError:
        return float("nan")


@contextmanager
def quiet() -> Iterator[None]:
    """No warning, and nothing from pydicom's logger: both quote header values."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def check_deflated(data: bytes) -> None:
    """Raises ImageError where the data set is deflated and inflates to more than MAX_INFLATED bytes.

    Inflates in steps and stops there; pydicom would inflate whatever comes.
    """
    place = data.find(b"\x02\x00\x10\x00UI", 0, 1 << 12)  # Transfer Syntax UID, in the file meta information
    if place < 0 or data[place + 8 : place + 8 + len(DEFLATED)] != DEFLATED:
        return
    if data[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise ImageError("image unreadable", "deflated, but without the length of its meta information")
    piece = data[144 + int.from_bytes(data[140:144], "little") :]
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while piece and not inflater.eof:
            size += len(inflater.decompress(piece, 1 << 24))
            if size > MAX_INFLATED:
                raise ImageError("image too large", f"inflates to more than {MAX_INFLATED} bytes")
            piece = inflater.unconsumed_tail
    except zlib.error as error:
        raise ImageError("image unreadable", f"deflated data: {error}") from None
