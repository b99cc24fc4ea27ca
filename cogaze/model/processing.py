"""`CoGazeProcessor`: images and texts of a user's own to the tensors `CoGazeModel.forward` takes."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from ..config import AugmentConfig
from ..data.loader import collate
from ..data.sample import Sample, Segment, crop_square
from ..data.text import context_ids, report_ids, transcript_ids
from ..observations import OBSERVATIONS, view_index

ImageInput = str | Path | bytes | Image.Image | NDArray[Any]
Context = tuple[str | None, str | None]  # indication, history

# Only formats that decode in-process; EPS and friends would start other programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm")
EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
MAX_PIXELS = 89_478_485  # PIL's own limit; the largest radiographs have about 25 million
ORIENTATION = 0x0112  # EXIF tag


class ImageError(ValueError):
    """An image that cannot be used: `reason` is a short fixed phrase, the message has the particulars."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CoGazeProcessor(ProcessorMixin):
    """The tokenizer with the image size and text length of a model; saved beside it by `save_pretrained`.

    >>> from cogaze import CoGazeProcessor
    >>> processor = CoGazeProcessor.from_pretrained("exported")  # a folder that `cogaze export` wrote, or a hub id
    >>> inputs = processor(
    ...     ["films/a.png", "films/b.png"], views=["PA", "LATERAL"], contexts=[("cough", None), None]
    ... )
    >>> inputs["image"].shape == (2, 1, processor.image_size, processor.image_size)
    True
    >>> inputs["context_row"]  # which row of token_ids is an image's context, -1 without one
    tensor([ 0, -1])
    """

    tokenizer: PreTrainedTokenizerFast

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_size: int = 518, max_tokens: int = 300):
        super().__init__(tokenizer)
        self.image_size = image_size
        self.max_tokens = max_tokens

    def __call__(  # the model's own inputs, not transformers' images-text-videos
        self,
        images: ImageInput | Sequence[ImageInput],
        views: str | Sequence[str | None] | None = None,
        contexts: Context | Sequence[Context | None] | None = None,
        reports: Sequence[str | None] | None = None,
        transcripts: Sequence[Sequence[str]] | None = None,
    ) -> BatchFeature:
        """Keyword arguments of `CoGazeModel.forward`, as CPU tensors (shapes in `cogaze.batch.Batch`).

        images: one or several, as `pixels` takes them. views: names as in the view table ("PA", "LATERAL"; anything
        else is UNKNOWN), one for all or one an image. contexts: pairs (indication, history), one for all or one an
        image, None or empty where there is none. reports, transcripts (sentences to place in the image): one entry an
        image, None or empty where there is none. Raises ValueError: an image that cannot be read or is not 8-bit, lists
        of different lengths, a context that is no pair.
        """
        shown = listed(images)
        count = len(shown)
        named, about = per_image(count, views, contexts)
        said = reports if reports is not None else [None] * count
        spoken = transcripts if transcripts is not None else [()] * count
        for name, given in {"reports": said, "transcripts": spoken}.items():
            if isinstance(given, str) or len(given) != count:
                raise ValueError(f"{name} takes one entry an image: a list of {count}")
        samples = [
            Sample(
                sample_id=i,
                image=self.pixels(shown[i]),
                view=view_index(named[i]),
                study=i,
                labels=np.zeros(len(OBSERVATIONS), np.float32),
                labels_known=np.zeros(len(OBSERVATIONS), np.bool_),
                report=report_ids(self.tokenizer, text, self.max_tokens) if (text := said[i]) else None,
                context=self.context_tokens(about[i]),
                segments=[
                    Segment(0, transcript_ids(self.tokenizer, text, self.max_tokens), np.zeros(1, np.float32), False)
                    for text in spoken[i]
                ],
            )
            for i in range(count)
        ]
        batch = collate(samples, patches=1, pad_token_id=self.tokenizer.pad_token_id)
        return BatchFeature(batch.model_inputs())

    def reports(self, texts: Sequence[str]) -> BatchFeature:
        """`token_ids` and `token_mask` (N,T) of report-like texts, for `CoGazeModel.text_tensors`.

        >>> from cogaze import CoGazeProcessor
        >>> processor = CoGazeProcessor.from_pretrained("exported")
        >>> tokens = processor.reports(["The heart is enlarged.", "No pneumothorax."])
        >>> tokens["token_mask"].sum(1)  # tokens of each text, [CLS] and [FINDINGS] among them
        tensor([7, 5])
        """
        ids = [report_ids(self.tokenizer, text, self.max_tokens) for text in texts]
        longest = max(map(len, ids), default=1)
        padded = [row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in ids]
        mask = [[i < len(row) for i in range(longest)] for row in ids]
        return BatchFeature({"token_ids": padded, "token_mask": mask}, tensor_type="pt")

    def context_tokens(self, context: Context | None) -> list[int] | None:
        """Token ids of a context; None where both parts are blank or absent."""
        indication, history = ((text or "").strip() for text in context or ("", ""))
        if not indication and not history:
            return None
        return context_ids(self.tokenizer, indication, history, self.max_tokens)

    def pixels(self, image: ImageInput) -> NDArray[np.uint8]:
        """uint8 (1,size,size): the largest centre square of an image, grey, as in evaluation.

        A PIL image of 8 bits a channel, a uint8 array (H,W), (H,W,3) or (H,W,4), or the path or the bytes of a JPEG,
        PNG, TIFF, BMP, GIF or PPM file. EXIF orientation is obeyed and transparency shows black; large JPEG files are
        decoded at reduced scale, as when shards are read. Raises ValueError for anything else (ImageError for a file).
        """
        if isinstance(image, str | Path | bytes):
            name = "the image" if isinstance(image, bytes) else image
            try:
                with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS) as file:
                    return self._square(file, reduce=True)
            except Exception as error:  # decoders raise whatever they like: OSError, SyntaxError, struct.error
                raise ImageError(_reason(error), f"{name}: cannot be read as an image: {error}") from error
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8:
                raise ValueError(f"an image array must be uint8 (0 to 255), not {image.dtype}; scale it to 8 bits")
            if image.ndim == 3 and image.shape[2] == 1:
                image = image[:, :, 0]
            if not image.size or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
                raise ValueError(f"an image array has shape (H,W), (H,W,3) or (H,W,4), not {image.shape}")
            image = Image.fromarray(np.ascontiguousarray(image))
        if not isinstance(image, Image.Image):
            raise ValueError(f"an image is a path, a PIL image or a uint8 array, not {type(image).__name__}")
        return self._square(image, reduce=False)

    def _square(self, image: Image.Image, reduce: bool) -> NDArray[np.uint8]:
        """`reduce`: the JPEG decoder may halve the image for as long as twice the size remains (see data.sample)."""
        if image.mode not in EIGHT_BIT:
            raise ImageError("image not 8-bit", f"an image of mode {image.mode} is not 8-bit; scale it to 8 bits")
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError("image too large", f"{width}x{height} px are more than {MAX_PIXELS:,} px in all")
        size, side = self.image_size, min(image.size)
        if reduce and side >= 4 * size:
            image.draft("L", (2 * width * size // side, 2 * height * size // side))
        orientation = image.getexif().get(ORIENTATION, 1)
        if orientation != 1:
            image = ImageOps.exif_transpose(image)
        if orientation in (5, 6, 7, 8):
            width, height = height, width
        left, top, side = crop_square(width, height, AugmentConfig(), None)
        scale_x, scale_y = image.width / width, image.height / height  # 1 unless drafted
        box = (left * scale_x, top * scale_y, (left + side) * scale_x, (top + side) * scale_y)
        return np.asarray(grey(image).resize((size, size), Image.Resampling.BICUBIC, box=box))[None]


def _reason(error: Exception) -> str:
    if isinstance(error, ImageError):
        return error.reason
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return "image file missing"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return "image too large"
    return "image truncated" if "truncated" in str(error).lower() else "image unreadable"


def grey(image: Image.Image) -> Image.Image:
    """Mode L of any 8-bit mode; what is transparent shows black."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour).convert("L")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB").convert("L")


# ------------------------------------------------------------------------------------------------ what users give
def is_single(images: Any) -> bool:
    """One image (or the path of one), not several."""
    return isinstance(images, str | Path | bytes | Image.Image | np.ndarray)


def listed(images: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    """The images as a list. Raises ValueError where there is none."""
    shown: list[Any] = [images] if is_single(images) else list(images)  # type: ignore[arg-type]
    if not shown:
        raise ValueError("no image given")
    return shown


def per_image(
    count: int, views: str | Sequence[str | None] | None, contexts: Context | Sequence[Context | None] | None
) -> tuple[list[str | None], list[Context | None]]:
    """Views and contexts with one entry an image. Raises ValueError for other numbers of them, and for odd contexts."""
    named: list[Any] = [views] * count if views is None or isinstance(views, str) else list(views)
    about: list[Any] = [contexts] * count if contexts is None or _is_context(contexts) else list(contexts)
    for name, given in (("views", named), ("contexts", about)):
        if len(given) != count:
            raise ValueError(f"{name} has {len(given)} entries for {count} images")
    for context in about:
        if context is not None and not _is_context(context):
            raise ValueError(
                f"a context is a pair (indication, history) of texts or None, not a {type(context).__name__}"
            )
    return named, about


def _is_context(value: Any) -> bool:
    """A tuple or list of two, each a text or None (a text of two letters is no pair)."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(v is None or isinstance(v, str) for v in value)


def image_files(folder: str | Path) -> list[Path]:
    """The image files in a folder and the folders below it, by suffix, sorted by their path; hidden ones left out.

    Raises ValueError where there is none.
    """
    root = Path(folder)
    found = []
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not found:
        raise ValueError(f"{root}: holds no image file ({' '.join(SUFFIXES)})")
    return sorted(found, key=lambda path: path.relative_to(root).parts)
