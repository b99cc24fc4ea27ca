"""`CoGazeProcessor`: images and texts of a user's own to the tensors `CoGazeModel.forward` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from ..config import AugmentConfig
from ..data.loader import collate
from ..data.sample import Sample, Segment, crop_square, decode
from ..data.text import context_ids, report_ids, transcript_ids
from ..observations import OBSERVATIONS, view_index

ImageInput = str | Path | Image.Image | NDArray[Any]
Context = tuple[str | None, str | None]  # indication, history


class CoGazeProcessor(ProcessorMixin):
    """The tokenizer with the image size and text length of a model; saved beside it by `save_pretrained`."""

    tokenizer: PreTrainedTokenizerFast

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_size: int = 518, max_tokens: int = 300):
        super().__init__(tokenizer)
        self.image_size = image_size
        self.max_tokens = max_tokens

    def __call__(  # the model's own inputs, not transformers' images-text-videos
        self,
        images: ImageInput | Sequence[ImageInput],
        views: str | Sequence[str | None] | None = None,
        contexts: Sequence[Context | None] | None = None,
        reports: Sequence[str | None] | None = None,
        transcripts: Sequence[Sequence[str]] | None = None,
    ) -> BatchFeature:
        """Keyword arguments of `CoGazeModel.forward`, as CPU tensors (shapes in `cogaze.batch.Batch`).

        images: grey or colour PIL images, uint8 arrays (H,W) or (H,W,3), or paths of JPEG and PNG files; the largest
        centre square is taken, as in evaluation. views: names as in the view table ("PA", "LATERAL"; anything else is
        UNKNOWN), one for all or one an image. contexts, reports, transcripts (sentences to place in the image): one
        entry an image, None or empty where there is none. Raises ValueError: an image that cannot be read or is not
        8-bit, lists of different lengths.
        """
        shown = [images] if isinstance(images, str | Path | Image.Image | np.ndarray) else list(images)
        count = len(shown)
        if not count:
            raise ValueError("no image given")
        named = [views] * count if views is None or isinstance(views, str) else list(views)
        about = contexts if contexts is not None else [None] * count
        said = reports if reports is not None else [None] * count
        spoken = transcripts if transcripts is not None else [()] * count
        for name, given in {"views": named, "contexts": about, "reports": said, "transcripts": spoken}.items():
            if len(given) != count:
                raise ValueError(f"{name} has {len(given)} entries for {count} images")
        samples = [
            Sample(
                sample_id=i,
                image=self._pixels(shown[i]),
                view=view_index(named[i]),
                study=i,
                labels=np.zeros(len(OBSERVATIONS), np.float32),
                labels_known=np.zeros(len(OBSERVATIONS), np.bool_),
                report=report_ids(self.tokenizer, text, self.max_tokens) if (text := said[i]) else None,
                context=self._context(about[i]),
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
        """`token_ids` and `token_mask` (N,T) of report-style texts, for `CoGazeModel.encode_texts`."""
        ids = [report_ids(self.tokenizer, text, self.max_tokens) for text in texts]
        longest = max(map(len, ids), default=1)
        padded = [row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in ids]
        mask = [[i < len(row) for i in range(longest)] for row in ids]
        return BatchFeature({"token_ids": padded, "token_mask": mask}, tensor_type="pt")

    def _context(self, context: Context | None) -> list[int] | None:
        indication, history = ((text or "").strip() for text in context or ("", ""))
        if not indication and not history:
            return None
        return context_ids(self.tokenizer, indication, history, self.max_tokens)

    def _pixels(self, image: ImageInput) -> NDArray[np.uint8]:
        """uint8 (1,size,size), the centre square."""
        if isinstance(image, str | Path):
            try:
                return decode(Path(image).read_bytes(), self.image_size, AugmentConfig(), None)[0]
            except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
                raise ValueError(f"{image}: cannot be read as a JPEG or PNG image: {error}") from None
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8:
                raise ValueError(f"an image array must be uint8 (0 to 255), not {image.dtype}; scale it to 8 bits")
            image = Image.fromarray(image)
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise ValueError(f"an image of mode {image.mode} is not 8-bit; scale it to 8 bits")
        left, top, side = crop_square(*image.size, AugmentConfig(), None)
        square = image.convert("L").resize(
            (self.image_size, self.image_size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
        )
        return np.asarray(square)[None]
