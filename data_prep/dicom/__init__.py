"""DICOM files: what a header says, and the pixels as 8-bit grey."""

from data_prep.dicom.header import Header, read_header
from data_prep.dicom.pixels import grey_pixels

__all__ = ["Header", "grey_pixels", "read_header"]
