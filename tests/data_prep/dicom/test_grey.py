"""Grey values worked by hand or by pydicom's own functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi, apply_windowing, pixel_array
from pydicom.sequence import Sequence

from data_prep.dicom import grey_pixels
from data_prep.dicom.grey import equalize
from tests.data_prep.dicom.files import ABSENT, dataset, grey, ramp, refused, rint, write


def test_window_linear_by_hand_and_by_pydicom():
    """PS3.3 C.11.2.1.2.1: centre 2048, width 4096 is the identity on 12 bits; 1000 and 201 end at 899.5 and 1099.5."""
    pixels = ramp()
    np.testing.assert_array_equal(grey(pixels, WindowCenter=2048, WindowWidth=4096), rint(pixels / 4095))
    found = grey(pixels, WindowCenter=1000, WindowWidth=201)
    assert (found[pixels <= 899] == 0).all()
    assert (found[pixels >= 1100] == 255).all()
    inside = (pixels > 899) & (pixels < 1100)
    np.testing.assert_array_equal(found[inside], np.rint(255 * (pixels[inside] - 899.5) / 200))
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        tags = {"WindowCenter": 1500, "WindowWidth": 700, "VOILUTFunction": function}
        reference = apply_windowing(pixels, dataset(pixels, **tags)) / 4095
        assert np.abs(grey(pixels, **tags) - 255 * reference).max() <= 0.5 + 1e-9


def test_the_first_of_several_windows_counts_and_a_useless_one_does_not():
    pixels = ramp(100, 4000)
    several = grey(pixels, WindowCenter=[1000, 3000], WindowWidth=[200, 50])
    np.testing.assert_array_equal(several, grey(pixels, WindowCenter=1000, WindowWidth=200))
    stretched = rint((pixels - 100.0) / 3900)
    np.testing.assert_array_equal(grey(pixels), stretched)  # no window: minimum to maximum
    for width in (0, -5, "", "nan"):
        np.testing.assert_array_equal(grey(pixels, WindowCenter=1000, WindowWidth=width), stretched)
    # of width 1: a threshold at centre - 0.5
    np.testing.assert_array_equal(grey(pixels, WindowCenter=1000, WindowWidth=1), np.where(pixels > 999.5, 255, 0))


def test_a_lut_goes_before_the_window_and_is_scaled_by_the_bits_it_uses():
    """A table that squares: 4,096 entries from 0 to 1023 (10 bits), declared as 16 bits. 10 bits are the scale."""
    entries = [i * i // 16392 for i in range(4096)]
    assert (entries[-1], entries[2048]) == (1023, 255)  # 4095 * 4095 // 16392, 2048 * 2048 // 16392
    pixels = ramp()
    for kind, values in (("OW", np.array(entries, "<u2").tobytes()), ("US", entries)):
        item = Dataset()
        item.LUTDescriptor = [4096, 0, 16]
        item.add_new("LUTData", kind, values)
        found = grey(pixels, VOILUTSequence=Sequence([item]), WindowCenter=10, WindowWidth=20)
        np.testing.assert_array_equal(found, rint((pixels.astype(int) ** 2 // 16392) / 1023))
    reference = apply_voi(pixels, dataset(pixels, VOILUTSequence=Sequence([item])))
    np.testing.assert_array_equal(found, rint(reference / 1023))


def test_rescale_slope_and_intercept():
    """Modality = 2 * stored - 1000; the window is in modality values. A negative slope turns the image."""
    pixels = ramp(0, 2000)
    found = grey(pixels, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1000, WindowWidth=1001)
    np.testing.assert_array_equal(found, rint((2.0 * pixels - 1000 - 499.5) / 1000))
    turned = grey(pixels, RescaleSlope=-1, RescaleIntercept=0)
    np.testing.assert_array_equal(turned, rint((2000.0 - pixels) / 2000))
    # blank counts as absent, an intercept alone as slope 1
    np.testing.assert_array_equal(grey(pixels, RescaleSlope="", RescaleIntercept=""), grey(pixels))
    lifted = grey(pixels, RescaleIntercept=100, WindowCenter=1000, WindowWidth=1001)
    np.testing.assert_array_equal(lifted, rint((pixels + 100 - 499.5) / 1000))
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [2001, 0, 16], "US"
    item.add_new("LUTData", "US", [3 * i for i in range(2001)])
    found = grey(pixels, ModalityLUTSequence=Sequence([item]), WindowCenter=3001, WindowWidth=2001)
    np.testing.assert_array_equal(found, rint((3.0 * pixels - 2000.5) / 2000))


@pytest.mark.parametrize(
    ("tags", "inverted"),
    [
        ({}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PixelIntensityRelationshipSign": -1}, True),
        ({"PhotometricInterpretation": "MONOCHROME2", "PixelIntensityRelationshipSign": 1}, False),
        ({"PhotometricInterpretation": ABSENT}, False),
        ({"PhotometricInterpretation": ""}, False),
        ({"PhotometricInterpretation": ABSENT, "PixelIntensityRelationshipSign": 1}, True),
        ({"PhotometricInterpretation": ABSENT, "PixelIntensityRelationshipSign": -1}, False),
        ({"PhotometricInterpretation": ABSENT, "PresentationLUTShape": "INVERSE"}, True),
        (
            {
                "PhotometricInterpretation": ABSENT,
                "PresentationLUTShape": "IDENTITY",
                "PixelIntensityRelationshipSign": 1,
            },
            False,
        ),
    ],
)
@pytest.mark.parametrize("mapping", ["window", "minmax-equalized"])
def test_bones_are_light(tags, inverted, mapping):
    pixels = ramp(0, 4000)
    found = grey(pixels, mapping, **tags)
    rising = found[0, 0] < found[-1, -1]
    assert rising != inverted
    if mapping == "window":
        upright = rint(pixels / 4000)
        np.testing.assert_array_equal(found, 255 - upright if inverted else upright)


def test_unused_bits_are_cleared_wherever_the_used_ones_stand():
    pixels = ramp(0, 4095)
    expected = rint(pixels / 4095)
    noise = np.random.default_rng(0).integers(0, 16, pixels.shape).astype(np.uint16)
    np.testing.assert_array_equal(grey(pixels | (noise << 12)), expected)  # an overlay in the upper four bits
    np.testing.assert_array_equal(grey((pixels << 4) | noise, HighBit=15), expected)  # values at the left end
    np.testing.assert_array_equal(grey((pixels << 2) | (noise << 14) | (noise >> 2), HighBit=13), expected)
    signed = ramp(-2048, 2047, dtype=np.int16)
    cut = (signed.astype(np.uint16) & 0x0FFF).view(np.int16)  # the sign stands in bit 11 alone
    np.testing.assert_array_equal(grey(cut), rint((signed + 2048.0) / 4095))
    assert grey(ramp(0, 255, dtype=np.uint8)).max() == 255
    wide = ramp(0, 2**31, dtype=np.uint32)
    np.testing.assert_array_equal(grey(wide, BitsStored=32), rint(wide / 2**31))


def test_padding_counts_for_nothing_and_shows_black():
    pixels = ramp(1000, 3000)
    pixels[:3] = 4095
    inner = pixels[3:]
    for mapping, tags in (("window", {}), ("minmax-equalized", {"PhotometricInterpretation": "MONOCHROME1"})):
        found = grey(pixels, mapping, PixelPaddingValue=4095, **tags)
        assert (found[:3] == 0).all()
        np.testing.assert_array_equal(found[3:], grey(inner, mapping, **tags))
    pixels[0] = 4000
    found = grey(pixels, PixelPaddingValue=4095, PixelPaddingRangeLimit=4000)
    assert (found[:3] == 0).all()
    np.testing.assert_array_equal(found[3:], grey(inner))
    # no pixel has the value: nothing changes
    np.testing.assert_array_equal(grey(inner, PixelPaddingValue=17), grey(inner))
    signed = ramp(-1000, 1000, dtype=np.int16)
    signed[:3] = -2048
    np.testing.assert_array_equal(grey(signed, PixelPaddingValue=-2048)[3:], grey(signed[3:]))
    assert (grey(signed, PixelPaddingValue=-2048)[:3] == 0).all()
    error = refused(write(dataset(np.full((20, 30), 7, np.uint16), PixelPaddingValue=7)))
    assert (error.reason, error.detail) == ("image constant", "nothing but padding")


def opencv_equalized(levels: np.ndarray) -> np.ndarray:
    """equalizeHist, pixel by pixel: written from its documentation, in plain Python."""
    flat = [int(v) for v in levels.ravel()]
    darkest = min(flat)
    total = len(flat) - flat.count(darkest)
    table = {}
    for value in sorted(set(flat)):
        upto = sum(darkest < other <= value for other in flat)
        table[value] = round(float(np.float32(upto) * (np.float32(255) / np.float32(total)))) if total else value
    return np.array([table[v] for v in flat]).reshape(levels.shape)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=16, max_size=16))
def test_equalize_by_a_second_method(values):
    levels = np.array(values, np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(equalize(levels), opencv_equalized(levels))


def test_equalize_by_hand():
    """Two of 10 (the darkest), one of 20, three of 200: 0, round(255 / 4) = 64, 255."""
    np.testing.assert_array_equal(equalize(np.array([[10, 10, 20], [200, 200, 200]], np.uint8)),
                                  [[0, 0, 64], [255, 255, 255]])  # fmt: skip


def test_minmax_equalized_is_cut_then_turned_then_equalised():
    """As the JPEGs of MIMIC-CXR-JPG: the window and the order of the values' rescaling do not matter."""
    pixels = ramp(100, 3000) ** 2 // 3000
    cut = ((pixels - float(pixels.min())) / (pixels.max() - float(pixels.min())) * 255).astype(np.uint8)
    np.testing.assert_array_equal(grey(pixels, "minmax-equalized", WindowCenter=50, WindowWidth=10),
                                  opencv_equalized(cut))  # fmt: skip
    tags = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": -7}
    np.testing.assert_array_equal(grey(pixels, "minmax-equalized", **tags), opencv_equalized(255 - cut))
    with pytest.raises(ValueError, match="'linear' is not one of window, minmax-equalized"):
        grey(pixels, "linear")


def test_colour_becomes_luminance_without_a_window():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(grey(pixels, WindowCenter=10, WindowWidth=5), expected)
    np.testing.assert_array_equal(grey(pixels, PhotometricInterpretation=ABSENT, PlanarConfiguration=ABSENT), expected)
    deep = (pixels.astype(np.uint16) * 257).astype(np.uint16)  # 0..255 to 0..65535
    np.testing.assert_array_equal(grey(deep, BitsStored=16), expected)
    for name in ("examples_ybr_color.dcm", "examples_palette.dcm", "SC_rgb_jpeg_gdcm.dcm"):
        path = Path(get_testdata_file(name, download=False))
        data = pydicom.dcmread(path)
        if int(data.get("NumberOfFrames", 1)) > 1:
            continue
        rgb = pixel_array(data)
        if data.PhotometricInterpretation == "PALETTE COLOR":
            rgb = (pydicom.pixels.apply_color_lut(rgb, data) / 257).round().astype(np.uint8)
        found = np.asarray(grey_pixels(path.read_bytes())).astype(int)
        assert np.abs(found - rgb @ [0.299, 0.587, 0.114]).max() <= 1.5


def test_the_full_range_of_every_type_does_not_wrap():
    """Between low and high values of a type lie more than it can hold as a difference."""
    for kind in (np.uint8, np.int16, np.uint16, np.uint32, np.int32):
        for share in (1.0, 0.625):  # of the range; all of it would come out right after wrapping twice
            low, high = (int(edge * share) for edge in (np.iinfo(kind).min, np.iinfo(kind).max))
            pixels = np.linspace(low, high, 600).round().clip(low, high).astype(kind).reshape(20, 30)
            shares = (pixels.astype(np.float64) - low) / (float(high) - low)
            np.testing.assert_array_equal(grey(pixels, BitsStored=8 * pixels.dtype.itemsize), rint(shares))
