"""`encode_image` and `encode_text`: from files, pictures and sentences straight to features; part of `CoGazeModel`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..data.text import load_tokenizer
from .processing import CoGazeProcessor, Context, ImageInput, image_files, is_single, listed, per_image

if TYPE_CHECKING:
    from .configuration import CoGazeConfig
    from .modeling import CoGazeModel


class ModelFolderError(ValueError):
    """A folder or hub id that a model or its processor cannot be loaded from; the message says what to do."""


class ImageRows(NamedTuple):
    """What the model says about some of the images it was given; tensors on the CPU."""

    rows: list[int]  # which of the images, n of them
    features: Tensor  # (n,D), L2-normalised
    logits: Tensor  # (n,14)
    patches: Tensor | None  # (n,P,D), L2-normalised; where asked for


class EncodingMixin:
    """What a user needs of `CoGazeModel`: own images and texts in, features out.

    Everything runs in evaluation mode and without gradients, and leaves the model's mode as it was. Results are
    tensors on the CPU, in fp32 at least, whatever device and precision the model has. The features of an image or a
    text do not depend on what else is given with it.
    """

    _processor: CoGazeProcessor | None = None

    def encode_image(
        self,
        images: ImageInput | Sequence[ImageInput],
        views: str | Sequence[str | None] | None = None,
        contexts: Context | Sequence[Context | None] | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """Normalised image features: (N,D) of N images or of a folder's image files, (D,) of one image.

        images: paths, PIL images or uint8 arrays, one or several; or a folder, whose files (also those in folders
        below it) are taken in the order of `cogaze.model.processing.image_files`. views ("PA", "LATERAL", ...; anything
        else is UNKNOWN) and contexts (pairs of indication and history) are one for all or one an image, None where
        unknown. Raises ValueError for an image that cannot be read; `cogaze embed` sets such images aside instead.

        >>> from cogaze import CoGazeModel
        >>> model = CoGazeModel.from_pretrained("exported")  # a folder that `cogaze export` wrote, or a hub id
        >>> features = model.encode_image("films")  # every image file in the folder
        >>> features.shape == (3, model.config.width)
        True

        One image, its view and why it was taken, against two sentences:

        >>> image = model.encode_image("films/a.png", views="PA", contexts=("cough and fever", None))
        >>> texts = model.encode_text(["There is a consolidation.", "The lungs are clear."])
        >>> similarity = texts @ image
        >>> similarity.shape
        torch.Size([2])
        """
        folder = isinstance(images, str | Path) and Path(images).is_dir()
        shown = image_files(cast("str | Path", images)) if folder else listed(images)
        features: dict[int, Tensor] = {}
        for part in self.image_batches(shown, views, contexts, batch_size):
            features |= zip(part.rows, part.features, strict=True)
        in_order = torch.stack([features[row] for row in range(len(shown))])
        return in_order if folder or not is_single(images) else in_order[0]

    def encode_text(self, texts: str | Sequence[str], batch_size: int = 32) -> Tensor:
        """Normalised features of report-like texts: (N,D) of N texts, (D,) of one.

        Texts longer than `config.max_tokens` are cut. Raises ValueError: no text, a blank one, something else.

        >>> from cogaze import CoGazeModel
        >>> model = CoGazeModel.from_pretrained("exported")
        >>> model.encode_text("The heart is enlarged.").shape == (model.config.width,)
        True
        >>> model.encode_text(["The heart is enlarged.", "No pneumothorax."]).shape == (2, model.config.width)
        True
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        if not given:
            raise ValueError("no text given")
        for number, text in enumerate(given):
            if not isinstance(text, str) or not text.strip():
                what = "blank" if isinstance(text, str) else f"of type {type(text).__name__}"
                raise ValueError(f"text {number} is {what}; a text is some words of a report")
        model = cast("CoGazeModel", self)
        features: dict[int, Tensor] = {}
        tokens = self.processor.reports(given)
        lengths = tokens["token_mask"].sum(1).tolist()
        for rows in runs(lengths, batch_size, alike=model.config.report_pooling == "padded_mean"):
            longest = max(lengths[row] for row in rows)
            inputs = (tokens[name][rows, :longest].to(model.device) for name in ("token_ids", "token_mask"))
            with evaluating(model):
                features |= zip(rows, on_cpu(model.text_tensors(*inputs)), strict=True)
        in_order = torch.stack([features[row] for row in range(len(given))])
        return in_order[0] if isinstance(texts, str) else in_order

    def image_batches(
        self,
        images: Sequence[ImageInput],
        views: str | Sequence[str | None] | None = None,
        contexts: Context | Sequence[Context | None] | None = None,
        batch_size: int = 32,
        patches: bool = False,
    ) -> Iterator[ImageRows]:
        """Features, logits and, with `patches`, patch features of images, a batch at a time; else as `encode_image`."""
        model, processor = cast("CoGazeModel", self), self.processor
        named, about = per_image(len(images), views, contexts)
        lengths = [len(processor.context_tokens(context) or ()) for context in about]
        for rows in runs(lengths, batch_size, alike=not model.config.perceiver["mask_padding"]):
            inputs = processor([images[i] for i in rows], [named[i] for i in rows], [about[i] for i in rows])
            names = ("image", "view", "token_ids", "token_mask", "context_row")
            with evaluating(model):
                found = model.image_tensors(*(inputs[name].to(model.device) for name in names))
                features, logits, x = (None if i == 2 and not patches else on_cpu(t) for i, t in enumerate(found))
            yield ImageRows(rows, cast(Tensor, features), cast(Tensor, logits), x)

    # -------------------------------------------------------------------------------------------- loading, saving
    @property
    def processor(self) -> CoGazeProcessor:
        """The processor that belongs to the model: the one set, else that of the folder or hub id it came from.

        Raises ModelFolderError where there is none.
        """
        if self._processor is None:
            self._processor = find_processor(cast("CoGazeModel", self).config)
        return self._processor

    @processor.setter
    def processor(self, processor: CoGazeProcessor) -> None:
        self._processor = processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, from a folder or a hub id, but never with random weights in the image encoder.

        A checkpoint of a run with a frozen encoder holds the trained weights only, and `cogaze export` makes a whole
        model of it. Raises ModelFolderError for such a one.
        """
        told = kwargs.pop("output_loading_info", False)
        name = pretrained_model_name_or_path
        model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        lacking = (key for key in info["missing_keys"] if key.startswith("vision.encoder."))
        missing = sorted(key for key in lacking if not key.endswith("mask_token"))  # which nothing here uses
        if missing:
            raise ModelFolderError(
                f"{name} lacks {len(missing)} weights of the image encoder, first {missing[0]}. A training checkpoint "
                "leaves out what was frozen: `cogaze export` writes a folder with the whole model"
            )
        return (model, info) if told else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the processor goes along where the model has one.

        >>> import cogaze.model  # tells transformers' Auto classes of ours
        >>> from transformers import AutoModel
        >>> model = AutoModel.from_pretrained("exported")
        >>> model.save_pretrained("copy")
        >>> again = AutoModel.from_pretrained("copy")
        >>> bool((again.encode_text("No effusion.") == model.encode_text("No effusion.")).all())
        True
        """
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        try:
            processor = self.processor
        except ModelFolderError:  # a model that was made in memory
            return
        if kwargs.get("is_main_process", True):
            processor.save_pretrained(save_directory)


def find_processor(config: CoGazeConfig) -> CoGazeProcessor:
    """The processor of the folder or hub id that a model with this configuration was loaded from."""
    name = config.name_or_path
    if not name:
        raise ModelFolderError(
            "this model was not loaded from anywhere, so it has no processor: set model.processor to a CoGazeProcessor"
        )
    if (Path(name) / "tokenizer").is_dir():  # a training checkpoint
        return CoGazeProcessor(load_tokenizer(Path(name) / "tokenizer"), config.image_size, config.max_tokens)
    revision = getattr(config, "_commit_hash", None)
    try:
        found: Any = CoGazeProcessor.from_pretrained(name, **({"revision": revision} if revision else {}))
    except Exception as error:  # OSError, ValueError, TypeError, or a bare Exception from `tokenizers`
        reason = str(error).strip().partition("\n")[0]
        raise ModelFolderError(
            f"{name} holds a model without its processor ({reason}). `cogaze export` writes both; or set "
            "model.processor to a CoGazeProcessor"
        ) from error
    if found.image_size != config.image_size:
        raise ModelFolderError(
            f"{name}: the processor makes images of {found.image_size} px, the model takes {config.image_size} px; "
            "processor_config.json is not the model's"
        )
    return cast(CoGazeProcessor, found)


# ------------------------------------------------------------------------------------------------ helpers
@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; afterwards every module has the mode it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def runs(lengths: Sequence[int], size: int, alike: bool) -> Iterator[list[int]]:
    """All row numbers once, at most `size` at a time; `alike`: only rows of equal length together.

    A model that reads padding (the released settings) needs the latter, or a text would change with its batch mates.
    """
    if size < 1:
        raise ValueError(f"batch_size is at least 1, not {size}")
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(length if alike else 0, []).append(row)
    for rows in groups.values():
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def on_cpu(tensor: Tensor) -> Tensor:
    """On the CPU, in fp32 at least."""
    low = tensor.dtype in (torch.float16, torch.bfloat16)
    return (tensor.float() if low else tensor).cpu()
