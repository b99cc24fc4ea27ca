"""One pass of the model over a split, on any number of ranks, to plain arrays that every rank holds whole.

Padding rows (sample_id -1) are dropped and the rest is put in the order of the split, so each image counts exactly
once whatever the number of ranks. The images are encoded in up to three variants:

    context      each image with its own indication and history, where it has them
    no_context   every context hidden
    blind        every image replaced by the flat grey that normalises to zero, context and view kept: what a model can
                 say without looking

Shape letters: n images, S spoken sentences with gaze (paragraph segments take no part), P patches, D width.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from cogaze import dist
from cogaze.batch import Batch
from cogaze.config import Config
from cogaze.evaluate import EvaluationError, require_finite
from cogaze.evaluate.gaze import donors, dwell_map

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from cogaze.data.shards import ShardSet

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Columns = dict[str, list[Tensor]]

VARIANTS = ("context", "no_context", "blind")


@dataclass(frozen=True)
class GazeRows:
    """The spoken sentences of a split, ordered by (sample_id, reading, sentence)."""

    sample_id: Ints  # (S,), image
    study: Ints  # (S,)
    reading: Ints  # (S,), reading number inside the image
    sentence: Ints  # (S,), sentence number inside the reading
    predicted: Floats  # (S,P), softmax over the patches
    truth: Floats  # (S,P), the radiologist's map; all zero where it lies outside the crop
    dwell: Floats  # (S,P), seconds of fixation on each patch
    other_image: Floats | None  # (S,P), predicted for the same sentence on another study's image

    @property
    def reading_key(self) -> Ints:
        """(S,), equal for the sentences of one reading of one image."""
        return self.sample_id * (int(self.reading.max(initial=0)) + 1) + self.reading


@dataclass(frozen=True)
class Encoded:
    """A whole split, one row an image in the order of the split."""

    split: str
    sample_id: Ints  # (n,), position in the split
    study: Ints  # (n,)
    has_report: Bools  # (n,)
    has_context: Bools  # (n,)
    report_key: Ints  # (n,), equal for equal report tokens, -1 without a report
    labels: Floats  # (n,14)
    known: Bools  # (n,14)
    text_features: Floats  # (n,D), zeros without a report
    text_logits: Floats  # (n,14)
    image_features: dict[str, Floats]  # variant -> (n,D)
    image_logits: dict[str, Floats]  # variant -> (n,14)
    gaze: GazeRows

    @property
    def images(self) -> int:
        return len(self.sample_id)

    def counts(self) -> dict[str, int | str]:
        """What was evaluated, for the results."""
        return {
            "split": self.split,
            "images": self.images,
            "studies": len(np.unique(self.study)),
            "images_with_report": int(self.has_report.sum()),
            "images_with_context": int(self.has_context.sum()),
        }


def encode_split(
    model: Any,
    config: Config,
    shards: ShardSet,
    tokenizer: PreTrainedTokenizerFast,
    split: str,
    device: torch.device | str,
    *,
    variants: Sequence[str] = VARIANTS,
    max_batches: int | None = None,
) -> Encoded:
    """Run the model over `split` of the shards; called by all ranks, the same arrays come back on each.

    `model` is a `CoGazeModel` (unwrapped) on `device`; its training mode is restored. Reports and gaze are encoded
    along: gaze maps use the images as the first variant has them. Evaluation batches hold `config.eval.batch` images
    over all ranks. Raises EvaluationError when an image is missing or counted twice, or an output is not finite.
    """
    from cogaze.data.loader import eval_batches_of

    device = torch.device(device)
    batches = eval_batches_of(
        config,
        shards,
        tokenizer,
        split,
        rank=dist.rank(),
        world=dist.world(),
        batch=config.eval.batch,
        max_batches=max_batches,
    )
    total = -(-shards.size(split) // config.eval.batch)
    grey = round(255 * config.model.vision.mean)
    half = config.train.precision == "bf16" and device.type == "cuda"
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            columns, patches, scale = _run(model, _shown(batches, total, split), device, variants, grey, config.grid)
    finally:
        model.train(training)

    width = config.model.width
    image = {
        name: _everywhere(rows, device) for name, rows in _stacked(columns, _image_columns(variants, width)).items()
    }
    order = np.argsort(image["sample_id"], kind="stable")
    image = {name: rows[order] for name, rows in image.items()}
    expected = shards.size(split) if max_batches is None else len(order)
    if not np.array_equal(np.unique(image["sample_id"]), image["sample_id"]) or len(order) != expected:
        raise EvaluationError(f"split {split}: {len(order)} images were encoded, {expected} are in the shards")
    for name, rows in image.items():
        if rows.dtype.kind == "f":
            require_finite(name.replace(".", " of "), rows)
    return Encoded(
        split=split,
        sample_id=image["sample_id"],
        study=image["study"],
        has_report=image["has_report"].astype(bool),
        has_context=image["has_context"].astype(bool),
        report_key=image["report_key"],
        labels=image["labels"],
        known=image["known"].astype(bool),
        text_features=image["text_features"],
        text_logits=image["text_logits"],
        image_features={v: image[f"image_features.{v}"] for v in variants},
        image_logits={v: image[f"image_logits.{v}"] for v in variants},
        gaze=_gaze_rows(columns, patches, scale, device, width, config.grid**2),
    )


# ------------------------------------------------------------------------------------------------ the pass
def _run(
    model: Any, batches: Iterator[Batch], device: torch.device, variants: Sequence[str], grey: int, grid: int
) -> tuple[Columns, dict[int, Tensor], float]:
    """This rank's rows by column, patch features (P,D) of its gaze images by sample_id, and the gaze scale."""
    columns: Columns = defaultdict(list)
    patches: dict[int, Tensor] = {}
    scale = 1.0
    for batch in batches:
        batch = batch.to(device)
        hidden = torch.full_like(batch.context_row, -1)
        first = {
            "context": batch,
            "no_context": replace(batch, context_row=hidden),
            "blind": replace(batch, image=torch.full_like(batch.image, grey)),
        }[variants[0]]
        out = model(**first.model_inputs())
        scale = float(out.gaze_scale)
        keep = batch.sample_id >= 0  # (B,), without padding

        def put(name: str, rows: Tensor, keep: Tensor = keep) -> None:
            columns[name].append(rows[keep].cpu())

        put("sample_id", batch.sample_id)
        put("study", batch.study)
        put("has_report", (batch.report_row >= 0).to(torch.uint8))
        put("has_context", (batch.context_row >= 0).to(torch.uint8))
        put("report_key", _report_keys(batch))
        put("labels", batch.labels.float())
        put("known", batch.labels_known.to(torch.uint8))
        put("text_features", out.text_features.float())
        put("text_logits", out.text_logits.float())
        for variant in variants:
            if variant == variants[0]:
                features, logits = out.image_features, out.image_logits
            elif variant == "no_context":
                features, logits, _ = model.image_tensors(batch.image, batch.view)
            else:
                shown = torch.full_like(batch.image, grey) if variant == "blind" else batch.image
                features, logits, _ = model.image_tensors(
                    shown, batch.view, batch.token_ids, batch.token_mask, batch.context_row
                )
            put(f"image_features.{variant}", features.float())
            put(f"image_logits.{variant}", logits.float())
        _sentences(batch, out, grid, columns, patches)
    return columns, patches, scale


def _sentences(batch: Batch, out: Any, grid: int, columns: Columns, patches: dict[int, Tensor]) -> None:
    """Add a batch's spoken sentences to the columns, and the patch features of its gaze images."""
    segments = len(batch.segment_row)
    if not segments:
        return
    image, reading = batch.segment_image, batch.segment_reading  # (S,), (S,)
    # A reading's segments stand together: its sentences in spoken order, then the paragraph, which is left out here.
    starts = torch.ones(segments, dtype=torch.bool, device=image.device)
    starts[1:] = (image[1:] != image[:-1]) | (reading[1:] != reading[:-1])
    last = torch.ones_like(starts)
    last[:-1] = starts[1:]
    index = torch.arange(segments, device=image.device)
    sentence = index - torch.cummax(torch.where(starts, index, 0), 0).values  # (S,), number inside the reading
    keep = (~last).nonzero().flatten()  # (S',)

    present, slot = torch.unique(image, return_inverse=True)  # (G,), (S,)
    features = out.patch_features.float()  # (G,P,D)
    scale = float(out.gaze_scale)
    maps = torch.zeros(segments, features.shape[1], device=image.device)
    for g in range(len(present)):
        rows = (slot == g).nonzero().flatten()
        maps[rows] = sentence_maps(out.segment_features[rows].float(), features[g], scale)
        patches[int(batch.sample_id[present[g]])] = features[g].cpu()

    assert batch.fixations is not None, "an evaluation batch carries its fixations"
    assert batch.fixation_segment is not None
    dwell = dwell_map(batch.fixations.cpu().numpy(), batch.fixation_segment.cpu().numpy(), segments, grid)
    for name, rows in {
        "gaze.sample_id": batch.sample_id[image],
        "gaze.study": batch.study[image],
        "gaze.reading": reading,
        "gaze.sentence": sentence,
        "gaze.features": out.segment_features.float(),
        "gaze.predicted": maps,
        "gaze.truth": batch.gaze.float(),
        "gaze.dwell": torch.from_numpy(dwell).float().to(image.device),
    }.items():
        columns[name].append(rows[keep].cpu())


def sentence_maps(segments: Tensor, patches: Tensor, scale: float) -> Tensor:
    """Predicted maps softmax(scale * t . x) over the patches of one image: (s,D), (P,D) -> (s,P)."""
    return torch.softmax(scale * segments @ patches.T, dim=-1)


def _report_keys(batch: Batch) -> Tensor:
    """int64 (B,): a hash of the report's tokens, -1 without a report."""
    keys = torch.full_like(batch.report_row, -1)
    for row in batch.report_row.unique().tolist():
        if row >= 0:
            ids = batch.token_ids[row][batch.token_mask[row]].cpu().numpy().astype(np.int64)
            digest = hashlib.blake2b(ids.tobytes(), digest_size=8).digest()
            keys[batch.report_row == row] = int.from_bytes(digest, "big") >> 1  # 63 bits, never negative
    return keys


def _shown(batches: Iterator[Batch], total: int, split: str) -> Iterator[Batch]:
    """A progress bar on rank 0's terminal, nothing elsewhere."""
    show = dist.rank() == 0 and sys.stderr.isatty()
    yield from track(batches, f"encoding {split}", total, console=Console(stderr=True), disable=not show)


# ------------------------------------------------------------------------------------------------ over the ranks
def _image_columns(variants: Sequence[str], width: int) -> dict[str, Tensor]:
    """An empty column of every kind, for a rank without any row."""
    flags, ids = torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    columns = {"sample_id": ids, "study": ids, "report_key": ids, "has_report": flags, "has_context": flags}
    columns |= {"labels": torch.zeros(0, 14), "known": torch.zeros(0, 14, dtype=torch.uint8)}
    columns |= {"text_features": torch.zeros(0, width), "text_logits": torch.zeros(0, 14)}
    columns |= {f"image_features.{v}": torch.zeros(0, width) for v in variants}
    return columns | {f"image_logits.{v}": torch.zeros(0, 14) for v in variants}


def _stacked(columns: Columns, empty: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat(columns[name]) if columns.get(name) else none for name, none in empty.items()}


def _everywhere(rows: Tensor, device: torch.device) -> NDArray[Any]:
    """The rows of all ranks, in rank order, on every rank."""
    most = int(dist.all_max(torch.tensor([len(rows)], device=device)))
    if most == 0:  # nothing anywhere: collectives of empty tensors are not portable
        return rows.numpy()
    return dist.gather_ragged(rows.to(device)).cpu().numpy()


def _gaze_rows(
    columns: Columns, patches: dict[int, Tensor], scale: float, device: torch.device, width: int, p: int
) -> GazeRows:
    ids = torch.zeros(0, dtype=torch.int64)
    empty = {f"gaze.{name}": ids for name in ("sample_id", "study", "reading", "sentence")}
    empty |= {"gaze.features": torch.zeros(0, width)}
    empty |= {f"gaze.{name}": torch.zeros(0, p) for name in ("predicted", "truth", "dwell")}
    rows = {name.removeprefix("gaze."): _everywhere(r, device) for name, r in _stacked(columns, empty).items()}
    order = np.lexsort((rows["sentence"], rows["reading"], rows["sample_id"]))
    rows = {name: values[order] for name, values in rows.items()}
    features = rows.pop("features")
    return GazeRows(**rows, other_image=_other_images(rows, features, patches, scale, device, p))


def _other_images(
    rows: dict[str, NDArray[Any]],
    features: Floats,
    patches: dict[int, Tensor],
    scale: float,
    device: torch.device,
    p: int,
) -> Floats | None:
    """Maps (S,P) of the same sentences on the donor image of `gaze.donors`, or None where there is no donor.

    Patch features are too large to be sent around: each rank computes the maps on the donor images that it holds.
    """
    images, first = np.unique(rows["sample_id"], return_index=True)
    other = donors(rows["study"][first])
    if other is None:
        return None
    donor = images[other[np.searchsorted(images, rows["sample_id"])]]  # (S,), sample_id of each sentence's donor
    index, maps = [], []
    for held, x in patches.items():
        mine = np.flatnonzero(donor == held)
        if len(mine):
            index.append(torch.from_numpy(mine))
            maps.append(sentence_maps(torch.from_numpy(features[mine]), x, scale))
    none = torch.zeros(0, dtype=torch.int64)
    where = _everywhere(torch.cat(index) if index else none, device)
    values = _everywhere(torch.cat(maps) if maps else torch.zeros(0, p), device)
    return values[np.argsort(where)]
