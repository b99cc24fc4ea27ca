"""DICOM pixel values to 8-bit grey: modality values, window or equalisation, inversion, padding.

    stored values -> modality values -> 0..255 -> bones light -> padding black

The two mappings are described in data_prep/dicom/pixels.py.
Sources: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and window), C.7.5.1.1.2 (padding).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi

from data_prep.dicom.header import number, real, text
from data_prep.images import GreyMapping, ImageError

TABLE_SIZE = 1 << 17  # each value is mapped once where this is enough: a film has 8 million pixels of 65,536 values


def is_inverted(data: pydicom.Dataset) -> bool:
    """Whether grey levels have to be turned for bones to be light (see data_prep/dicom/pixels.py)."""
    photometric = text(data, "PhotometricInterpretation").upper()
    if photometric:
        return photometric == "MONOCHROME1"
    shape = text(data, "PresentationLUTShape").upper()
    if shape in ("INVERSE", "IDENTITY"):
        return shape == "INVERSE"
    return number(data, "PixelIntensityRelationshipSign", -1) == 1


def grey(stored: np.ndarray, data: pydicom.Dataset, mapping: GreyMapping, inverted: bool) -> Image.Image:
    """(H,W) stored values, integers, to a PIL image of mode L. Raises ImageError "image constant"."""
    if text(data, "PhotometricInterpretation") == "PALETTE COLOR":
        return colour(apply_color_lut(stored, data), data)
    stored = stored.astype(np.int32 if stored.dtype.itemsize <= 2 else np.int64)  # differences must not wrap
    padding = _padding(stored, data)
    inside = stored if padding is None else stored[~padding]
    if inside.size == 0:
        raise ImageError("image constant", "nothing but padding")
    low, high = int(stored.min()), int(stored.max())
    if high - low < TABLE_SIZE:
        seen = np.zeros(high - low + 1, bool)
        seen[inside - low] = True
        levels = _eight_bit(np.arange(low, high + 1), seen, data, mapping)[stored - low]
    else:
        seen = np.ones(stored.shape, bool) if padding is None else ~padding
        levels = _eight_bit(stored, seen, data, mapping)
    if inverted:
        levels = 255 - levels
    if mapping == "minmax-equalized":
        levels = equalize(levels, None if padding is None else ~padding)
    if padding is not None:
        levels[padding] = 0
    return Image.fromarray(levels)


def colour(pixels: np.ndarray, data: pydicom.Dataset) -> Image.Image:
    """(H,W,3) unsigned RGB to mode L by luminance."""
    bits = 8 * pixels.dtype.itemsize
    if text(data, "PhotometricInterpretation") != "PALETTE COLOR":
        bits = number(data, "BitsStored", bits)
    if bits != 8:
        pixels = np.rint(pixels * (255.0 / ((1 << bits) - 1)))
    return Image.fromarray(np.clip(pixels[..., :3], 0, 255).astype(np.uint8)).convert("L")


def equalize(levels: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Histogram equalisation of uint8 (H,W) by OpenCV's formula; pixels where `counted` is False are left out of it.

    The darkest level present becomes 0, level v becomes round(255 * (pixels above the darkest up to v) / (all pixels
    above the darkest)); computed in float32 and rounded half to even, as equalizeHist does.
    """
    histogram = np.bincount((levels if counted is None else levels[counted]).ravel(), minlength=256)
    first = int(np.flatnonzero(histogram)[0])
    above = int(histogram.sum() - histogram[first])
    if above == 0:
        return levels.copy()
    sums = np.clip(np.cumsum(histogram) - histogram[first], 0, None)  # 0 up to the darkest level
    table = np.rint(sums.astype(np.float32) * (np.float32(255) / np.float32(above)))
    return np.clip(table, 0, 255).astype(np.uint8)[levels]


def _eight_bit(values: np.ndarray, seen: np.ndarray, data: pydicom.Dataset, mapping: GreyMapping) -> np.ndarray:
    """Stored values to uint8 of the same shape, before inversion; `seen` marks those that the image has."""
    modality = _modality(values, data)
    low, high = modality[seen].min(), modality[seen].max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("image unreadable", "rescaled pixels are not finite")
    if low == high:
        raise ImageError("image constant", "every pixel is the same")
    shares = (modality - low) / (high - low)
    if mapping == "minmax-equalized":
        return np.clip(shares * 255, 0, 255).astype(np.uint8)  # cut, not rounded, as the JPEGs were made
    shown = _voi(modality, data)
    return np.rint(255 * np.clip(shares if shown is None else shown, 0, 1)).astype(np.uint8)


def _modality(values: np.ndarray, data: pydicom.Dataset) -> np.ndarray:
    """Stored to modality values, float64; an absent or blank slope is 1, an intercept 0."""
    if data.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(values, data), np.float64)
    slope, intercept = real(data, "RescaleSlope"), real(data, "RescaleIntercept")
    return values * (1.0 if np.isnan(slope) else slope) + (0.0 if np.isnan(intercept) else intercept)


def _voi(modality: np.ndarray, data: pydicom.Dataset) -> np.ndarray | None:
    """Modality values through the first VOI LUT or window, 0..1; None where the file has none that is usable."""
    if data.get("VOILUTSequence"):
        item = data.VOILUTSequence[0]
        entries = np.frombuffer(item.LUTData, "<u2") if isinstance(item.LUTData, bytes) else np.asarray(item.LUTData)
        # Scaled by the bits that the entries use, since the declared number is often too large.
        full = (1 << max(1, int(entries.max()).bit_length())) - 1
        return np.asarray(apply_voi(np.rint(modality).astype(np.int64), data, index=0) / full)
    centre, width = real(data, "WindowCenter"), real(data, "WindowWidth")
    if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
        return None
    function = text(data, "VOILUTFunction").upper()
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (modality - centre) / width, -700, 700))))
    if function == "LINEAR_EXACT" or width < 1:
        return (modality - centre) / width + 0.5
    start = centre - 0.5 - (width - 1) / 2
    return (modality - start) / (width - 1) if width > 1 else (modality > start).astype(np.float64)


def _padding(stored: np.ndarray, data: pydicom.Dataset) -> np.ndarray | None:
    """(H,W) bool, True where a pixel is padding; None where there is none."""
    first = real(data, "PixelPaddingValue")
    if not np.isfinite(first):
        return None
    last = real(data, "PixelPaddingRangeLimit")
    ends: list[Any] = [first, last if np.isfinite(last) else first]
    if number(data, "PixelRepresentation", 0) == 1:  # written as unsigned now and then
        ends = [end - 65536 if end > 32767 else end for end in ends]
    padding = (stored >= min(ends)) & (stored <= max(ends))
    return padding if padding.any() else None
