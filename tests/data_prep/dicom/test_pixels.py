"""DICOM files: every encoding, every refusal, and real ones."""

from __future__ import annotations

import io
import math
import os
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

from data_prep.dicom import grey_pixels, read_header
from data_prep.dicom import header as header_module
from data_prep.dicom import pixels as pixels_module
from data_prep.dicom.pixels import codestream_size
from data_prep.images import ImageError, load_grey
from tests.data_prep.dicom.files import dataset, grey, ramp, refused, rint, write
from tests.data_prep.dicom.jpeg_lossless import lossless_jpeg

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "dicom_samples"


def test_every_uncompressed_encoding_gives_the_same_picture():
    pixels = ramp()
    expected = rint(pixels / 4095)
    plain = write(dataset(pixels))
    for data in (
        plain,
        write(dataset(pixels), ImplicitVRLittleEndian),
        write(dataset(pixels), ImplicitVRLittleEndian, preamble=False),
        write(dataset(pixels), ExplicitVRLittleEndian, preamble=False),
    ):
        np.testing.assert_array_equal(np.asarray(grey_pixels(data)), expected)
    big = dataset(pixels)
    big.PixelData = pixels.byteswap().tobytes()
    np.testing.assert_array_equal(np.asarray(grey_pixels(write(big, ExplicitVRBigEndian))), expected)


def test_compressed_frames():
    pixels = ramp(height=64, width=80)
    expected = rint(pixels / 4095)
    for syntax in (RLELossless, JPEG2000Lossless):
        data = dataset(pixels)
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.compress(syntax, generate_instance_uid=False)
        np.testing.assert_array_equal(np.asarray(grey_pixels(write(data, syntax))), expected)
    eight = ramp(0, 255, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(eight).save(stream, "JPEG", quality=95)
    data = dataset(eight)
    data.PixelData = encapsulate([stream.getvalue()])
    found = np.asarray(grey_pixels(write(data, JPEGBaseline8Bit))).astype(int)
    assert np.abs(found - eight).max() <= 4


@pytest.mark.parametrize(
    "name", ["MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm"]
)
def test_lossless_samples_equal_the_uncompressed_one(name):
    """pydicom's own samples of one image in several encodings."""
    found, plain = (
        np.asarray(grey_pixels(Path(get_testdata_file(file, download=False)).read_bytes()))
        for file in (name, "MR_small.dcm")
    )
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG2000.dcm",
                                  "image_dfl.dcm", "ExplVR_BigEnd.dcm", "693_J2KI.dcm"])  # fmt: skip
def test_other_samples_are_read(name):
    data = Path(get_testdata_file(name, download=False)).read_bytes()
    header = pydicom.dcmread(io.BytesIO(data), force=True)
    if name == "JPGExtended.dcm":  # 12 bits: beyond Pillow
        pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
    image = grey_pixels(data)
    assert image.size == (header.Columns, header.Rows)
    assert image.getextrema()[1] > image.getextrema()[0]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg_gives_every_value_back(bits):
    """As modalities send it. The frame is written here, pixel by pixel; noise makes every size of difference occur."""
    pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
    pixels = np.random.default_rng(bits).integers(0, 1 << bits, (24, 37)).astype(np.uint8 if bits == 8 else np.uint16)
    pixels[10:] = ramp(0, (1 << bits) - 1, 14, 37)  # and smooth ones
    data = dataset(pixels, BitsStored=bits, PhotometricInterpretation="MONOCHROME1")
    frame = lossless_jpeg(pixels, bits)
    assert codestream_size(frame) == (37, 24)
    data.PixelData = encapsulate([frame])
    for syntax in (JPEGLosslessSV1, JPEGLossless):  # predictor 1 by name, and any predictor
        found = np.asarray(grey_pixels(write(data, syntax)))
        np.testing.assert_array_equal(found, 255 - rint((pixels - float(pixels.min())) / float(np.ptp(pixels))))


def test_no_decoder_says_what_to_install(monkeypatch):
    data = dataset(ramp())
    data.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    lossless = write(data, JPEGLosslessSV1)

    class Missing:
        is_available = False

    monkeypatch.setattr(pixels_module, "get_decoder", lambda syntax: Missing)
    error = refused(lossless)
    assert error.reason.startswith("no decoder for transfer syntax JPEG Lossless, Non-Hierarchical, First-Order")
    assert "pip install pylibjpeg" in error.detail
    monkeypatch.undo()
    data = dataset(ramp())
    data.PixelData = encapsulate([b"\0\0\1\xb3"])
    error = refused(write(data, "1.2.840.10008.1.2.4.100"))
    assert error.reason == "no decoder for transfer syntax MPEG2 Main Profile / Main Level"
    data = dataset(ramp())
    data.PixelData = encapsulate([b"\0\0\1\xb3"])
    data = write(data, JPEGBaseline8Bit).replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.9.99")
    assert refused(data).reason == "no decoder for transfer syntax 1.2.840.10008.1.2.9.99"


def test_load_grey_knows_a_dicom_file_by_its_content(tmp_path):
    pixels = ramp(height=40, width=60)
    for name in ("a.dcm", "b.jpg", "c"):
        (tmp_path / name).write_bytes(write(dataset(pixels)))
        loaded = load_grey(tmp_path / name, 40)
        assert (loaded.width, loaded.height, loaded.image.size) == (60, 40, (60, 40))
        np.testing.assert_array_equal(np.asarray(loaded.image), rint(pixels / 4095))
    Image.fromarray(ramp(0, 255, 40, 60, np.uint8)).save(tmp_path / "d.png")
    (tmp_path / "d.png").rename(tmp_path / "d.dcm")
    assert load_grey(tmp_path / "d.dcm", 40).image.size == (60, 40)
    equalized = load_grey(tmp_path / "a.dcm", 20, "minmax-equalized").image
    assert equalized.size == (30, 20)
    (tmp_path / "a.dcm").write_bytes(write(dataset(pixels, WindowCenter=100_000, WindowWidth=2)))
    with pytest.raises(ImageError, match="image constant"):  # a window beside every value
        load_grey(tmp_path / "a.dcm", 40)


# ------------------------------------------------------------------------------------------------ refusals
def test_what_is_no_radiograph_is_refused():
    pixels = ramp()
    error = refused(write(dataset(np.concatenate([pixels, pixels]), NumberOfFrames=2, Rows=20)))
    assert (error.reason, error.detail) == ("DICOM of several frames", "2 frames: no radiograph")
    assert grey(pixels, NumberOfFrames="").shape == grey(pixels, NumberOfFrames=1).shape == (20, 30)
    report = dataset(pixels, Modality="SR")
    del report.Rows, report.Columns
    error = refused(write(report))
    assert (error.reason, error.detail) == ("not an image", "a DICOM file without pixels (SR)")
    report.Modality = "SMITH"  # of a damaged file
    assert refused(write(report)).detail == "a DICOM file without pixels (no modality)"
    assert refused(write(dataset(np.full((20, 30), 9, np.uint16)))).reason == "image constant"
    assert refused(write(dataset(pixels, RescaleSlope=0, RescaleIntercept=1))).reason == "image constant"
    assert refused(write(dataset(ramp(height=8)))).reason == "image too small"
    assert refused(write(dataset(ramp(height=20, width=200)))).reason == "image too narrow"
    assert refused(write(dataset(pixels, BitsAllocated=1, BitsStored=1))).reason == "image unreadable"
    assert refused(write(dataset(pixels, SamplesPerPixel=4))).reason == "image unreadable"
    assert refused(write(dataset(pixels, BitsStored=17))).reason == "image unreadable"


def test_hostile_sizes_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(pixels_module, "pixel_array", lambda *_, **__: pytest.fail("decoded"))
    pixels = ramp()
    assert refused(write(dataset(pixels, Rows=60_000, Columns=60_000))).reason == "image too large"
    assert refused(write(dataset(pixels, Rows=9000, Columns=9000))).reason == "image truncated"
    # a frame that claims another size than the header: JPEG, JPEG 2000
    for frame, syntax in (
        (b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0" + bytes(40), JPEGBaseline8Bit),
        (b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">4I", 60_000, 60_000, 0, 0) + bytes(40), JPEG2000Lossless),
    ):
        data = dataset(ramp(0, 255, dtype=np.uint8))
        data.PixelData = encapsulate([frame])
        error = refused(write(data, syntax))
        assert error.reason == "image unreadable"
        assert "30x20 px in the header" in error.detail
    data = dataset(pixels)
    data.PixelData = encapsulate([bytes(200_000)])
    assert refused(write(data, RLELossless)).reason == "image too large"


def test_codestream_sizes_are_those_of_real_encoders():
    image = Image.fromarray(ramp(0, 255, 40, 50, np.uint8))
    for kind, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG2000", {"no_jp2": True})):
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        assert codestream_size(stream.getvalue()) == (50, 40)
    sample = pydicom.dcmread(get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False))
    frame = pydicom.encaps.get_frame(sample.PixelData, 0, number_of_frames=1)
    assert codestream_size(frame) == (sample.Columns, sample.Rows)
    assert [codestream_size(data) for data in (b"", b"\xff\xd8", b"GIF89a", b"\xff\xd8\xff\xda" + bytes(9))] == [
        None
    ] * 4


def test_a_deflated_file_is_inflated_within_limits(monkeypatch):
    whole = write(dataset(ramp(height=200, width=300)), pydicom.uid.DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(np.asarray(grey_pixels(whole)), grey(ramp(height=200, width=300)))
    monkeypatch.setattr(header_module, "MAX_INFLATED", 50_000)
    assert refused(whole).reason == "image too large"
    monkeypatch.undo()
    assert refused(whole[: len(whole) - 300]).reason in ("image unreadable", "image truncated")


def test_truncated_anywhere_is_never_a_picture():
    whole = write(dataset(ramp(height=40, width=60)))
    for share in (0.1, 0.3, 0.6, 0.9, 0.99):
        assert refused(whole[: int(len(whole) * share)]).reason in ("image truncated", "not an image"), share
    data = dataset(ramp(height=40, width=60))
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    packed = write(data, JPEG2000Lossless)
    for share in (0.4, 0.8):
        assert refused(packed[: int(len(packed) * share)]).reason in (
            "image truncated",
            "image unreadable",
            "not an image",
        )


@pytest.mark.parametrize("kind", ["lossless", "baseline"])
def test_a_cut_frame_in_a_whole_file_is_no_picture(kind):
    """The DICOM file ends as it should, the JPEG in it does not: decoders fill the rest with grey without a word."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    frame, syntax = stream.getvalue(), JPEGBaseline8Bit
    if kind == "lossless":
        pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
        frame, syntax = lossless_jpeg(pixels, 8), JPEGLosslessSV1
    data = dataset(pixels)
    for length in (len(frame) // 4, len(frame) // 2, len(frame) - 2):
        data.PixelData = encapsulate([frame[:length]])
        error = refused(write(data, syntax))
        assert (error.reason, error.detail) == ("image truncated", "the compressed frame has no end")
    for padding in (b"", b"\0", b"\xff\xff", bytes(9)):
        data.PixelData = encapsulate([frame + padding])
        assert grey_pixels(write(data, syntax)).size == (60, 40)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_picture_or_a_reason(data):
    """Nothing but ImageError, whatever byte is changed."""
    kind = data.draw(st.sampled_from(["plain", "rle"]))
    raw = bytearray(_SAMPLES[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(132, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        said = grey_pixels(bytes(raw)).mode
    except ImageError as error:
        said = str(error)
    assert "Doe" not in said


def _samples() -> dict[str, bytes]:
    rle = dataset(ramp(height=16, width=16), WindowCenter=[500, 600], WindowWidth=[100, 200], PixelPaddingValue=0)
    rle.file_meta = FileMetaDataset()
    rle.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    rle.compress(RLELossless, generate_instance_uid=False)
    plain = dataset(ramp(height=16, width=16), RescaleSlope=1, RescaleIntercept=0, WindowCenter=500, WindowWidth=90)
    return {"plain": write(plain), "rle": write(rle, RLELossless)}


_SAMPLES = _samples()


# ------------------------------------------------------------------------------------------------ real files
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real DICOM samples are not at {REAL} (set COGAZE_REAL_DATA)")
def test_real_files_one_picture_and_its_negative():
    """One chest as MONOCHROME2 (JPEG baseline), and the same bytes labelled MONOCHROME1: exact negatives."""
    paths = sorted(REAL.glob("*.dcm"))
    upright = next(path for path in paths if "Fake" not in path.name)
    negative = REAL / "Fake_MONOHR1.dcm"
    header = read_header(upright)
    assert (header.view, header.modality, header.rows, header.columns) == ("PA", "CR", 1024, 1024)
    assert header.patient_id == "16d7f894-55d7-4d95-8957-d18987f0e981"
    assert header.photometric == "MONOCHROME2"
    assert read_header(negative).photometric == "MONOCHROME1"
    first, second = (np.asarray(grey_pixels(path.read_bytes())).astype(int) for path in (upright, negative))
    np.testing.assert_array_equal(first + second, np.full_like(first, 255))
    data = pydicom.dcmread(upright)  # by a second decoder, Pillow on the bare frame, stretched to its extremes
    frame = pydicom.encaps.get_frame(data.PixelData, 0, number_of_frames=1)
    levels = np.asarray(Image.open(io.BytesIO(frame)).convert("L")).astype(float)
    low, high = levels.min(), levels.max()
    assert np.abs(first - 255 * (levels - low) / (high - low)).max() <= 2
    rows, columns = first.shape
    lungs = first[rows // 3 : rows // 2, columns // 5 : 2 * columns // 5]
    middle = first[rows // 2 : 2 * rows // 3, 2 * columns // 5 : 3 * columns // 5]
    assert lungs.mean() < middle.mean()  # lungs dark, heart light
    loaded = load_grey(upright, 256)
    assert loaded.image.size == (256, 256)
    assert math.isclose(np.asarray(loaded.image).mean(), first.mean(), abs_tol=1.0)
