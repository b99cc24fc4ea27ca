"""Every kind of image file becomes 8-bit grey, or an ImageError with its reason."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.build import build
from data_prep.images import MAX_ASPECT, MAX_PIXELS, MORE_PAGES, ImageError, encode, load_grey
from data_prep.records import ImageRecord


def ramp(width: int = 60, height: int = 40) -> np.ndarray:
    """uint8 (height,width), dark at the left, light at the right."""
    return np.linspace(10, 240, width)[None, :].repeat(height, 0).round().astype(np.uint8)


def grey(path: Path, side: int = 40) -> np.ndarray:
    image = load_grey(path, side).image
    assert image.mode == "L"
    return np.asarray(image).astype(float)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "I;16", "I", "F", "YCbCr", "1"])
def test_modes_give_the_same_picture(tmp_path: Path, mode: str) -> None:
    pixels = ramp()
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((pixels.astype(kind) - 10) * 16)  # 12 bits in 16
        # 10..240 is stretched to 0..255
        expected = (pixels.astype(float) - 10) * 255 / 230
    else:
        image = Image.fromarray(pixels).convert(mode)
        expected = pixels.astype(float)
    suffix = "tiff" if mode in ("F", "I", "CMYK", "YCbCr") else "png"
    image.save(tmp_path / f"image.{suffix}")
    found = grey(tmp_path / f"image.{suffix}")
    if mode == "1":
        assert set(np.unique(found)) == {0, 255}
        assert found[:, :20].mean() < 80 < 170 < found[:, -20:].mean()
    else:
        assert np.abs(found - expected).max() <= (4 if mode in ("P", "YCbCr", "CMYK") else 0.51)


def test_transparent_is_black(tmp_path: Path) -> None:
    pixels = np.full((40, 60, 4), 200, np.uint8)
    pixels[..., 3] = 255
    pixels[:, :30, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = grey(tmp_path / "a.png")
    assert (found[:, :30] == 0).all()
    assert (found[:, 30:] == 200).all()
    palette = Image.fromarray(ramp()).convert("P")
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((59, 0)))
    assert grey(tmp_path / "p.png")[0, 59] == 0


def test_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    Image.fromarray(ramp()).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    found = grey(tmp_path / "c.jpg")
    assert found[:, :10].mean() < 60 < 200 < found[:, -10:].mean()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """The stored pixels are turned so that the picture stands as a viewer shows it, sizes included."""
    upright = Image.fromarray(ramp(60, 40))
    method = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if method is None else upright.transpose(method)
    stored.save(tmp_path / "o.png", exif=exif)
    loaded = load_grey(tmp_path / "o.png", 40)
    assert (loaded.width, loaded.height) == (60, 40)
    np.testing.assert_array_equal(np.asarray(loaded.image), np.asarray(upright))


def test_large_jpegs_are_shrunk_as_by_full_decoding(tmp_path: Path) -> None:
    """Decoding at reduced scale gives nearly what decoding in full and resizing gives; size and hash are the file's."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (30, 25), dtype=np.uint8)).resize(
        (1000, 1200), Image.Resampling.BICUBIC
    )
    smooth.save(tmp_path / "big.jpg", quality=95)
    loaded = load_grey(tmp_path / "big.jpg", 120)
    assert loaded.image.size == (120, 144)
    assert (loaded.width, loaded.height) == (1000, 1200)
    assert loaded.sha256 == hashlib.sha256((tmp_path / "big.jpg").read_bytes()).hexdigest()
    full = Image.open(tmp_path / "big.jpg").convert("L").resize((120, 144), Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(loaded.image).astype(float) - np.asarray(full))
    assert difference.mean() < 1.5


@settings(max_examples=25, deadline=None)
@given(st.integers(16, 90), st.integers(16, 90), st.integers(16, 64))
def test_shortest_side_and_aspect(tmp_path_factory: pytest.TempPathFactory, width: int, height: int, side: int) -> None:
    path = tmp_path_factory.getbasetemp() / "sides.png"
    Image.fromarray(ramp(width, height)).save(path)
    image = load_grey(path, side).image
    assert min(image.size) == side
    assert (image.size[0] >= image.size[1]) == (width >= height) or width == height
    assert abs(max(image.size) - side * max(width, height) / min(width, height)) <= 0.5


def test_encode(tmp_path: Path) -> None:
    image = Image.fromarray(ramp())
    for kind in ("jpg", "png"):
        data = encode(image, kind)
        assert data == encode(image, kind)
        back = Image.open(io.BytesIO(data))
        assert (back.mode, back.format) == ("L", {"jpg": "JPEG", "png": "PNG"}[kind])
        assert np.abs(np.asarray(back).astype(int) - ramp()).max() <= (0 if kind == "png" else 3)
    assert len(encode(image, "jpg", 30)) < len(encode(image, "jpg", 95))


# ------------------------------------------------------------------------------------------------ set aside
def refused(path: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_grey(path, 40)
    return caught.value


def test_missing_empty_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.png").reason == "image file missing"
    (tmp_path / "empty.jpg").touch()
    assert refused(tmp_path / "empty.jpg").reason == "image empty"
    assert refused(tmp_path).reason == "image unreadable"


def test_not_images(tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    path.write_bytes(b"\n<!DOCTYPE html><html><body>403 Forbidden</body></html>")
    error = refused(path)
    assert (error.reason, "HTML" in error.detail) == ("not an image", True)
    path.write_bytes(bytes(128) + b"DICM" + bytes(100))
    assert refused(path).detail == "a DICOM file without pixels (no modality)"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\n")  # PIL would call Ghostscript
    assert refused(path).reason == "not an image"


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_truncated_anywhere(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (80, 90), dtype=np.uint8)
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for share in (0.02, 0.3, 0.7, 0.95):
        cut.write_bytes(data[: int(len(data) * share)])
        assert refused(cut).reason in ("image truncated", "image unreadable", "not an image")
    cut.write_bytes(data[: int(len(data) * 0.7)])
    if suffix != "tiff":
        assert refused(cut).reason == "image truncated"


def test_constant_images(tmp_path: Path) -> None:
    for kind in (np.uint8, np.uint16, np.float32):
        Image.fromarray(np.full((40, 50), 7, kind)).save(tmp_path / "flat.tiff")
        assert refused(tmp_path / "flat.tiff").reason == "image constant"
    Image.fromarray(np.full((40, 50), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    assert refused(tmp_path / "nan.tiff").reason == "image unreadable"


def test_odd_sizes(tmp_path: Path) -> None:
    Image.fromarray(ramp(60, 1)).save(tmp_path / "line.png")
    assert refused(tmp_path / "line.png").reason == "image too small"
    Image.fromarray(ramp(20 * int(MAX_ASPECT) + 20, 20)).save(tmp_path / "strip.png")
    assert refused(tmp_path / "strip.png").reason == "image too narrow"


def test_decompression_bomb_is_not_decoded(tmp_path: Path) -> None:
    """A PNG of a few bytes that claims gigapixels; and one just above our own limit."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (100_000, int(MAX_PIXELS**0.5) + 1):
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        assert refused(tmp_path / "bomb.png").reason == "image too large"


def test_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("image empty", "zero bytes")))
    assert (error.reason, error.detail, str(error)) == ("image empty", "zero bytes", "image empty: zero bytes")


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_more_pages_are_told_of(tmp_path: Path, suffix: str) -> None:
    """The first page is the image; the build says that there were others."""
    first = Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40) // 2)
    path = tmp_path / f"a.{suffix}"
    first.save(path)
    alone = load_grey(path, 30)
    first.save(path, save_all=True, append_images=[Image.new("L", (40, 30), 7)])
    both = load_grey(path, 30)
    assert (alone.more_pages, both.more_pages) == (False, True)
    assert alone.image.tobytes() == both.image.tobytes()
    first.save(tmp_path / "a.png")
    assert not load_grey(tmp_path / "a.png", 30).more_pages
    record = ImageRecord("s", "a", "a", "p", "train", "PA", path, path.name)
    manifest = build(iter([record]), tmp_path / "out", image_size=30)
    assert manifest["totals"]["images"] == 1
    row = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert (row["id"], row["reason"], row["kept"]) == ("a", MORE_PAGES, True)
