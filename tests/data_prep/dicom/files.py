"""DICOM files made in memory, and the grey they become."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from data_prep.dicom import grey_pixels
from data_prep.images import ImageError

ABSENT = object()


def ramp(low: int = 0, high: int = 4095, height: int = 20, width: int = 30, dtype: type = np.uint16) -> np.ndarray:
    """(height,width) whole numbers from `low` (top left) to `high` (bottom right)."""
    return np.linspace(low, high, height * width).round().astype(dtype).reshape(height, width)


def dataset(pixels: np.ndarray, **tags) -> Dataset:
    """A computed radiograph with these stored values; `tags` by keyword, ABSENT removes one."""
    data = Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.SOPInstanceUID, data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3.3", "1.2.3.1", "1.2.3.2"
    data.PatientName, data.PatientID, data.Modality, data.ViewPosition = "Doe^Jane", " p7 ", "CR", "PA"
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = tags.pop("BitsStored", 12 if pixels.dtype.itemsize == 2 else data.BitsAllocated)
    data.HighBit = tags.pop("HighBit", data.BitsStored - 1)
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        if value is ABSENT:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    return data


def write(data: Dataset, syntax: str = ExplicitVRLittleEndian, preamble: bool = True) -> bytes:
    if preamble:
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    encapsulated = pydicom.uid.UID(syntax).is_encapsulated
    data["PixelData"].VR = "OB" if encapsulated or data.BitsAllocated == 8 else "OW"
    data["PixelData"].is_undefined_length = encapsulated
    stream = io.BytesIO()
    kind = {} if preamble else {"implicit_vr": syntax == ImplicitVRLittleEndian, "little_endian": True}
    pydicom.dcmwrite(stream, data, enforce_file_format=preamble, **kind)
    return stream.getvalue()


def grey(pixels: np.ndarray, mapping: str = "window", **tags) -> np.ndarray:
    return np.asarray(grey_pixels(write(dataset(pixels, **tags)), mapping))


def rint(shares: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(shares, 0, 1))


def refused(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        grey_pixels(data)
    return caught.value
