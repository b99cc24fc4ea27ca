"""One chunk of rows: read and decoded by threads, then through the model, to plain arrays."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..model.processing import ImageError
from ..observations import VIEWS, view_index
from .output import Arrays, EmbedError
from .sources import Row, RowError, Source

if TYPE_CHECKING:
    from ..model import CoGazeModel, CoGazeProcessor

# What may be wrong with one file and says nothing of the others. Any other errno (a disk or network that fails, no
# more memory) stops the work, or half the source would be set aside for it.
_ABOUT_THE_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL,
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What of a job decides its numbers, beside model and source."""

    patches: bool = False  # patch features too
    contexts: bool = True  # False hides every indication and history
    batch_size: int = 32  # images the model is given at once
    bf16: bool = False  # autocast


# ------------------------------------------------------------------------------------------------ reading
Loaded = tuple[Row, NDArray[np.uint8]] | RowError


def decoded(
    source: Source, processor: CoGazeProcessor, chunks: Sequence[range], workers: int
) -> Generator[list[Loaded], None, None]:
    """The chunks' rows with their pixels uint8 (H,W); while one chunk is in use, threads decode the next."""
    pool = ThreadPoolExecutor(workers)
    waiting: deque[list[Future[Loaded]]] = deque()
    try:
        for rows in chunks:
            waiting.append([pool.submit(_load, source, processor, row) for row in rows])
            if len(waiting) > 1:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def _load(source: Source, processor: CoGazeProcessor, number: int) -> Loaded:
    try:
        row = source.read(number)
    except RowError as error:
        return error
    try:
        return row, processor.pixels(row.image)[0]
    except ImageError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno not in _ABOUT_THE_FILE:
            raise EmbedError(f"images cannot be read: {cause.strerror}; start again when that is mended") from None
        return RowError(error.reason, str(cause or error), row.id)


# ------------------------------------------------------------------------------------------------ encoding
def encode_chunk(
    model: CoGazeModel,
    source: Source,
    numbers: range,
    loaded: Sequence[Loaded],
    settings: Settings,
    tell: Callable[[int], None],
    stop: Callable[[], bool],
) -> tuple[Arrays, list[dict[str, Any]]] | None:
    """A chunk's arrays and the rows set aside; None where it was stopped."""
    good = [one for one in loaded if not isinstance(one, RowError)]
    set_aside = [
        {"row": number, "id": one.row_id, "reason": one.reason, "detail": one.detail}
        for number, one in zip(numbers, loaded, strict=True)
        if isinstance(one, RowError)
    ]
    rows = [row for row, _ in good]
    contexts = [row.context if settings.contexts else None for row in rows]
    config = model.config
    arrays: Arrays = {
        "id": np.array([row.id for row in rows], dtype=np.str_),
        "view": np.array([VIEWS[view_index(row.view)] for row in rows], dtype=np.str_),
        "has_context": np.array([context is not None for context in contexts], np.bool_),
        "image_features": np.zeros((len(rows), config.width), np.float32),
        "probabilities": np.zeros((len(rows), len(labels_of(model))), np.float32),
    }
    if source.has_key:
        arrays["key"] = np.array([row.key for row in rows], dtype=np.str_)
    if settings.patches:
        arrays["patch_features"] = np.zeros((len(rows), config.patches, config.width), np.float16)
    device = model.device.type
    with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
        pictures = [pixels for _, pixels in good]
        views = [row.view for row in rows]
        seen = 0
        for part in model.image_batches(pictures, views, contexts, settings.batch_size, settings.patches):
            arrays["image_features"][part.rows] = part.features.numpy()
            arrays["probabilities"][part.rows] = torch.sigmoid(part.logits).numpy()
            if part.patches is not None:
                arrays["patch_features"][part.rows] = part.patches.numpy()
            seen += len(part.rows)
            tell(seen)
            if stop():
                return None
        if source.has_text:
            said = [i for i, row in enumerate(rows) if row.text]
            arrays["has_text"] = np.isin(np.arange(len(rows)), said)
            arrays["text_features"] = np.zeros((len(rows), config.width), np.float32)
            if said:
                texts = model.encode_text([str(rows[i].text) for i in said], settings.batch_size)
                arrays["text_features"][said] = texts.numpy()
    if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
        raise EmbedError("the model gives features that are not finite: it has diverged, or needs more than bf16")
    return arrays, set_aside


def labels_of(model: CoGazeModel) -> list[str]:
    """Names of the image logits."""
    return [name for _, name in sorted((model.config.id2label or {}).items())]
