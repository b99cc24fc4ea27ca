"""Any image file to the 8-bit grey image of a shard: one shape of pixels, however the source keeps them.

JPEG (decoded at reduced scale where that is enough), PNG with 1, 8 or 16 bits, palette, alpha, CMYK, EXIF orientation.
A file that cannot become a usable radiograph raises ImageError with a short reason that can be counted.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import PIL.TiffImagePlugin  # noqa: F401  registers TIFF, which PIL otherwise does on demand only
from PIL import Image, ImageOps, UnidentifiedImageError

# Only formats that decode in-process; EPS and friends would start other programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM")
MAX_FILE_BYTES = 512 << 20
MAX_PIXELS = 89_478_485  # PIL's own limit; the largest radiographs have about 25 million
MORE_PAGES = "only the first page of a file is used"
MIN_SIDE = 16  # px
MAX_ASPECT = 8.0
ORIENTATION = 0x0112  # EXIF tag

ImageFormat = Literal["jpg", "png"]
GreyMapping = Literal["window", "minmax-equalized"]  # of DICOM pixels, see data_prep/dicom/pixels.py
GREY_MAPPINGS: tuple[GreyMapping, ...] = get_args(GreyMapping)


class ImageError(ValueError):
    """An image file that is set aside: `reason` is a short fixed phrase, `detail` the particulars."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:  # crosses process borders
        return ImageError, (self.reason, self.detail)


@dataclass(frozen=True)
class GreyImage:
    """A decoded image and what is worth knowing of its file."""

    image: Image.Image  # mode L, shortest side as asked
    width: int  # px of the original, as displayed (after EXIF orientation)
    height: int
    sha256: str  # of the file
    file_size: int  # bytes
    more_pages: bool = False  # of a TIFF or GIF file, whose first page this is


def load_grey(path: Path, shortest_side: int, dicom_grey: GreyMapping = "window") -> GreyImage:
    """Read the file at `path` as 8-bit grey with its shortest side `shortest_side` px, aspect kept.

    Images of more than 8 bits are stretched from their own minimum and maximum to 0..255 (as MIMIC-CXR-JPG was made,
    without its histogram equalisation); 8-bit values are kept. Transparency shows black. A DICOM file, known by its
    content and not by its name, goes through data_prep.dicom with the grey mapping `dicom_grey`.

    Raises ImageError: "image file missing", "image unreadable", "image empty", "not an image", "image truncated",
    "image too large", "image too small", "image too narrow", "image constant"; of DICOM files also "DICOM of several
    frames" and "no decoder for transfer syntax NAME".
    """
    data = _read(path)
    turned = False
    if is_dicom(data):
        from data_prep.dicom import grey_pixels  # here, since pydicom takes half a second to import

        grey = grey_pixels(data, dicom_grey)
        width, height = grey.size
    else:
        grey, width, height, turned = _picture(data, shortest_side)
    if turned:
        width, height = height, width
    low, high = grey.getextrema()
    if low == high:
        raise ImageError("image constant", f"every pixel is {low}")
    size = _scaled(width, height, shortest_side)
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.BICUBIC)
    return GreyImage(grey, width, height, hashlib.sha256(data).hexdigest(), len(data), _more_pages(data))


def is_dicom(data: bytes) -> bool:
    """Whether a file that begins with these bytes (132 or more) is DICOM, with or without its preamble."""
    return data[128:132] == b"DICM" or (data[:2] in (b"\x02\x00", b"\x08\x00") and data[3:4] == b"\0")


def _more_pages(data: bytes) -> bool:
    """Whether a TIFF or GIF file has a second page."""
    if not data.startswith((b"II", b"MM", b"GIF8")):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF", "GIF")) as file:
            file.seek(1)
    except Exception:  # EOFError: there is none; anything else: none that could be read
        return False
    return True


def _picture(data: bytes, shortest_side: int) -> tuple[Image.Image, int, int, bool]:
    """(mode L, stored width and height, whether EXIF turns them); a JPEG may come at a reduced scale."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's bomb warning comes before our own, lower, limit
            with Image.open(io.BytesIO(data), formats=FORMATS) as file:
                width, height = file.size
                check_size(width, height)
                file.draft("L", _scaled(width, height, shortest_side))  # JPEG: the DCT does most of the shrinking
                turned = file.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
                grey = _eight_bit(ImageOps.exif_transpose(file))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image", looks_like(data)) from None
    except Image.DecompressionBombError as error:
        raise ImageError("image too large", str(error)) from None
    except Exception as error:  # decoders raise whatever they like on damaged files: OSError, SyntaxError, struct.error
        reason = "image truncated" if "truncated" in str(error).lower() else "image unreadable"
        raise ImageError(reason, f"{type(error).__name__}: {error}") from None
    return grey, width, height, turned


def encode(image: Image.Image, image_format: ImageFormat, quality: int = 95) -> bytes:
    """A mode-L image as the bytes of a JPEG (`quality` 1..95) or PNG file, without metadata."""
    stream = io.BytesIO()
    if image_format == "jpg":
        image.save(stream, "JPEG", quality=quality)
    else:
        image.save(stream, "PNG")
    return stream.getvalue()


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ImageError("image too large", f"a file of {size} bytes")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError("image file missing") from None
    except OSError as error:
        raise ImageError("image unreadable", str(error.strerror)) from None
    if not data:
        raise ImageError("image empty", "a file of zero bytes")
    return data


def check_size(width: int, height: int) -> None:
    """Raises ImageError for sizes (px) that are no radiograph or not safe to decode."""
    short, long = sorted((width, height))
    if width * height > MAX_PIXELS:
        raise ImageError("image too large", f"{width}x{height} px")
    if short < MIN_SIDE:
        raise ImageError("image too small", f"{width}x{height} px")
    if long > MAX_ASPECT * short:
        raise ImageError("image too narrow", f"{width}x{height} px")


def _scaled(width: int, height: int, shortest_side: int) -> tuple[int, int]:
    """The size with this shortest side and the same aspect; the long side rounded half up, px."""
    short = min(width, height)
    return (2 * width * shortest_side + short) // (2 * short), (2 * height * shortest_side + short) // (2 * short)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Mode L from any mode."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _stretch(np.asarray(image))
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colour = image.convert("RGBA")
        opaque = Image.new("RGBA", colour.size, (0, 0, 0, 255))
        return Image.alpha_composite(opaque, colour).convert("L")
    if mode == "L":
        return image
    if mode == "1":
        return image.convert("L")
    return image.convert("RGB").convert("L")  # P, RGB, CMYK, YCbCr, LAB, HSV


def _stretch(pixels: np.ndarray) -> Image.Image:
    """(H,W) of integers or floats, minimum to 0 and maximum to 255."""
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError("image unreadable", "NaN or infinite pixels")
    low, high = values.min(), values.max()
    if low == high:
        raise ImageError("image constant", f"every pixel is {low:g}")
    return Image.fromarray(np.rint((values - low) * (255.0 / (high - low))).astype(np.uint8))


def looks_like(data: bytes) -> str:
    """What a file that begins so seems to be, in words."""
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return "an HTML or XML page (a download that failed?)"
    return "none of the known image formats"
