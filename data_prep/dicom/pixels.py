"""DICOM files as 8-bit grey images.

    bytes -> checked, nothing decoded -> stored values, unused bits cleared -> grey (data_prep/dicom/grey.py)

Two grey mappings, by name in `cogaze data build --dicom-grey`:

- `window` (default): as a workstation shows the image, and as radiologists saw it while their gaze was recorded. The
  first VOI LUT, else the first window (VOI LUT function LINEAR, LINEAR_EXACT or SIGMOID); without a usable one,
  minimum to maximum.
- `minmax-equalized`: as the JPEGs of MIMIC-CXR-JPG were made. Minimum to 0 and maximum to 255, cut to whole numbers,
  inverted where needed, then histogram equalisation by OpenCV's formula. For training beside those JPEGs.

MONOCHROME1 is inverted. Where PhotometricInterpretation is missing, a PresentationLUTShape of INVERSE, or else a
PixelIntensityRelationshipSign of 1 (high values where much X-ray arrived), says that the image has to be inverted.
Padding (PixelPaddingValue to PixelPaddingRangeLimit) takes no part in minimum, maximum and histogram and shows black.
Colour becomes luminance, without a window. Sizes, bits, frames, the length of the data and the size that a compressed
frame states of itself are checked before any decoder runs.

Sources: DICOM PS3.3 C.7.6.3 (image pixel), PS3.5 8.1 and A.4 (encoding), ISO 10918-1 B.2.2, ISO 15444-1 A.5.1 (frames).
"""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import RLELossless

from data_prep.dicom.grey import colour, grey, is_inverted
from data_prep.dicom.header import check_deflated, number, parse, quiet, text
from data_prep.images import GREY_MAPPINGS, GreyMapping, ImageError, check_size

# Only these are parsed for the pixels, so that no name of a patient can end up in an error message.
PIXEL_TAGS = (
    "Modality", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "PixelIntensityRelationshipSign", "RescaleIntercept", "RescaleSlope",
    "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "PixelData",
)  # fmt: skip
# Modalities (PS3.3 C.7.3.1.1.1) that come without pixels, or are met beside radiographs.
MODALITIES = (
    "AU", "CR", "CT", "DOC", "DR", "DX", "ECG", "EPS", "FID", "HD", "KO", "M3D", "MG", "MR", "NM", "OT", "PLAN", "PR",
    "PX", "REG", "RF", "RG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SC", "SEG", "SR", "STAIN",
    "TG", "US", "XA", "XC",
)  # fmt: skip
PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
END = 64  # last bytes of a JPEG frame in which its end has to stand
# What decodes the compressed frames that Pillow does not.
REMEDY = "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg (the extra cogaze[dicom])"


def grey_pixels(data: bytes, mapping: GreyMapping = "window") -> Image.Image:
    """The picture in a DICOM file's bytes as a PIL image of mode L, in full size.

    Raises ImageError: "not an image" (no pixels, as in structured reports), "image unreadable", "image truncated",
    "image too large", "image too small", "image too narrow", "image constant", "DICOM of several frames",
    "no decoder for transfer syntax NAME" with what to install. ValueError for an unknown `mapping`.
    """
    if mapping not in GREY_MAPPINGS:
        raise ValueError(f"the grey mapping {mapping!r} is not one of {', '.join(GREY_MAPPINGS)}")
    with quiet():
        check_deflated(data)
        file = parse(io.BytesIO(data), PIXEL_TAGS)
        inverted = is_inverted(file)
        try:
            _check(file)
            stored = _stored(file)
            return colour(stored, file) if stored.ndim == 3 else grey(stored, file, mapping, inverted)
        except ImageError:
            raise
        except Exception as error:  # decoders and lookup tables raise whatever they like on damaged files
            reason = "image truncated" if "truncated" in str(error).lower() else "image unreadable"
            # Decoders (RuntimeError) speak of their frame; other messages quote elements, which may be anything.
            detail = f"{error}"[:200] if isinstance(error, RuntimeError) else "in the DICOM pixels or lookup tables"
            raise ImageError(reason, f"{type(error).__name__}: {detail}") from None


def _check(data: pydicom.Dataset) -> None:
    """Raises ImageError for what cannot be decoded or must not be; fills in what the decoder insists on."""
    rows, columns = number(data, "Rows", 0), number(data, "Columns", 0)
    if not rows or not columns:
        modality = text(data, "Modality")  # of a damaged file it may be a name, also one in capitals
        kind = modality if modality in MODALITIES else "no modality"
        raise ImageError("not an image", f"a DICOM file without pixels ({kind})")
    frames = number(data, "NumberOfFrames", 1)
    if frames > 1:
        raise ImageError("DICOM of several frames", f"{frames} frames: no radiograph")
    check_size(columns, rows)
    if "PixelData" not in data:
        raise ImageError("image truncated", f"the file ends before its {columns}x{rows} px")
    allocated, samples = number(data, "BitsAllocated", 0), number(data, "SamplesPerPixel", 1)
    stored = number(data, "BitsStored", allocated)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or samples not in (1, 3):
        raise ImageError("image unreadable", f"{allocated} bits allocated, {stored} stored, {samples} samples a pixel")
    if not text(data, "PhotometricInterpretation"):
        data.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "RGB"
    if text(data, "PhotometricInterpretation") not in PHOTOMETRIC:
        raise ImageError("image unreadable", "an unknown photometric interpretation")
    if samples == 3 and "PlanarConfiguration" not in data:
        data.PlanarConfiguration = 0
    data.SamplesPerPixel, data.BitsStored = samples, stored
    data.PixelRepresentation = number(data, "PixelRepresentation", 0)
    expected = rows * columns * samples * allocated // 8
    syntax = data.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax or syntax.is_encapsulated:
        _check_frame(data, expected, (columns, rows))
        return
    if samples == 3 and text(data, "PhotometricInterpretation") == "YBR_FULL_422":
        expected = expected * 2 // 3
    if len(data.PixelData) < expected:
        raise ImageError("image truncated", f"{len(data.PixelData)} of {expected} bytes")


def _check_frame(data: pydicom.Dataset, expected: int, size: tuple[int, int]) -> None:
    """The same for a compressed frame, which should become `expected` bytes of `size` (width, height) px."""
    syntax = data.file_meta.TransferSyntaxUID
    known = syntax.is_transfer_syntax or re.fullmatch(r"[0-9.]{1,64}", syntax)
    reason = f"no decoder for transfer syntax {syntax.name if known else '(damaged)'}"  # or its number for a name
    try:
        available = get_decoder(syntax).is_available
    except (NotImplementedError, ValueError):
        raise ImageError(reason, "convert the file first") from None
    if not available:
        raise ImageError(reason, REMEDY)
    try:
        frame = get_frame(data.PixelData, 0, number_of_frames=1)
    except Exception as error:
        raise ImageError("image truncated", f"{type(error).__name__} in the compressed frame") from None
    if len(frame) > 1.1 * expected + (1 << 16):
        raise ImageError("image too large", f"a compressed frame of {len(frame)} bytes for {expected} bytes of pixels")
    stated = codestream_size(frame)
    if stated is not None and stated != size:
        raise ImageError(
            "image unreadable", f"{size[0]}x{size[1]} px in the header, {stated[0]}x{stated[1]} in the frame"
        )
    # Decoders fill up what is missing of a JPEG and say nothing. Writers may pad the frame, hence not the very end.
    if frame[:2] == b"\xff\xd8" and b"\xff\xd9" not in frame[-END:]:
        raise ImageError("image truncated", "the compressed frame has no end")


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """(width, height) in px that a JPEG, JPEG-LS or JPEG 2000 frame states itself; None for other data.

    A decoder makes room for what the frame says, whatever the DICOM header says.
    """
    if frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 24:  # JPEG 2000: SOC, then SIZ
        x1, y1, x0, y0 = struct.unpack(">4I", frame[8:24])
        return x1 - x0, y1 - y0
    if frame[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:  # SOFn, SOF55
            height, width = struct.unpack(">2H", frame[place + 5 : place + 9])
            return width, height
        else:
            place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return None


def _stored(data: pydicom.Dataset) -> np.ndarray:
    """Stored values (H,W), or RGB (H,W,3), unused bits cleared."""
    syntax = data.file_meta.TransferSyntaxUID
    plain = not syntax.is_encapsulated or syntax == RLELossless  # a JPEG frame holds nothing but the bits used
    values = pixel_array(data, index=0, correct_unused_bits=not plain)
    if values.dtype.kind not in "iu":
        raise ImageError("image unreadable", f"pixels of type {values.dtype}")
    bits = 8 * values.dtype.itemsize
    stored = number(data, "BitsStored", bits)
    if not plain or stored == bits:
        return values
    high = number(data, "HighBit", stored - 1)
    high = high if stored - 1 <= high < bits else stored - 1
    # To the left end and back: what stands above is dropped, the sign extended, what stands below falls off.
    return (values << (bits - 1 - high)) >> (bits - stored)
