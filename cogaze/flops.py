"""FLOPs of a training step from shapes alone, and what a device could do at most: together they are MFU.

Model FLOPs: matrix products forward and backward, each once, a multiply-add counting two. What is computed again to
save memory (the first pass of cached accumulation, the scores inside flash attention and the contrastive loss,
checkpointed layers) does not count, so that a step which wastes nothing is the one with the highest MFU. Norms,
softmaxes and other element-wise work are left out, as everywhere MFU is quoted.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

import torch
from transformers import BertConfig

from .batch import Batch
from .config import Config
from .model import CoGazeConfig
from .model.modeling import unique_contexts
from .model.text import by_role, cut_points


class Count(NamedTuple):
    """FLOPs of one part of a step."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        return self.forward + self.backward


class Shapes(NamedTuple):
    """What the FLOPs of one micro-batch depend on."""

    images: int  # B
    patches: int  # P
    runs: tuple[tuple[int, int], ...]  # (texts, tokens a text) of each text-encoder call
    contexts: int  # C, distinct
    context_tokens: int  # of the longest context
    rows: int  # images with a report, on this rank
    columns: int  # the same over all ranks
    gaze_images: int  # G
    gaze_segments: int  # of the image with most


# ------------------------------------------------------------------------------------------------ shapes
def batch_shapes(batch: Batch, config: CoGazeConfig, ranks: int = 1) -> Shapes:
    """Shapes of a batch that lies on the CPU (on a GPU every one of these numbers would wait for the device).

    Of the other ranks' reports nothing is known here; they are taken to be as many as this rank's.
    """
    height, width = batch.image.shape[-2:]
    contexts, _ = unique_contexts(batch.context_row)
    lengths = _lengths(batch)
    rows = int((batch.report_row >= 0).sum())
    segments = batch.segment_image.unique(return_counts=True)[1]
    return Shapes(
        images=batch.images,
        patches=(height // config.patch_size) * (width // config.patch_size),
        runs=_text_runs(batch, config),
        contexts=len(contexts),
        context_tokens=max((lengths[row] for row in contexts.tolist()), default=1),
        rows=rows,
        columns=rows * ranks,
        gaze_images=len(segments),
        gaze_segments=int(segments.max()) if len(segments) else 0,
    )


def tokens(batch: Batch) -> int:
    """Text tokens of a batch, padding left out; a text that several images share counts once, as it is encoded."""
    return int(batch.token_mask.sum())


def _lengths(batch: Batch) -> list[int]:
    """Tokens of each text, up to its last real one."""
    texts, longest = batch.token_mask.shape
    positions = torch.arange(1, longest + 1)  # (T,)
    return [int(n) for n in (batch.token_mask * positions).amax(1)] if texts else []


def _text_runs(batch: Batch, config: CoGazeConfig) -> tuple[tuple[int, int], ...]:
    """The text encoder's calls as TextTower makes them; an empty one encodes a dummy token."""
    lengths = _lengths(batch)
    if config.text_buckets == "roles":
        contexts, _ = unique_contexts(batch.context_row)
        order, cuts = by_role(len(lengths), contexts, batch.report_row[batch.report_row >= 0])
        lengths = [lengths[row] for row in order.tolist()]
    else:
        lengths = sorted(lengths)
        cuts = cut_points(lengths, int(config.text_buckets))
    return tuple((end - first, max(lengths[first:end])) if end > first else (1, 1) for first, end in pairwise(cuts))


# ------------------------------------------------------------------------------------------------ counting
def micro_batch_flops(config: CoGazeConfig, shapes: Shapes) -> dict[str, Count]:
    """FLOPs by part of one forward and backward of the model and its losses over one micro-batch of one rank.

    `config` is the built model's (`model.config`): a pretrained encoder brings its own sizes.
    """
    width = config.width
    seen = shapes.patches + (1 if config.perceiver["read_cls"] else 0)
    vision, text = config.vision_config.hidden_size, config.text_config.hidden_size
    text_tokens = sum(n * t for n, t in shapes.runs)
    projectors = _projector(shapes.images * seen, vision, width) + _projector(text_tokens, text, width)
    heads = 2 * _product(shapes.images, width, len(config.id2label or ()))
    contrastive = _product(shapes.rows, width, shapes.columns)  # one matrix serves both directions
    gaze = shapes.gaze_images * _product(shapes.gaze_segments, width, shapes.patches)
    return {
        "image encoder": _image_encoder(config, shapes),
        "text encoder": _trained(sum(_bert(config.text_config, n, t) for n, t in shapes.runs)),
        "projectors and heads": _trained(projectors + heads),
        "Perceiver over contexts": _trained(_perceiver(config, max(shapes.contexts, 1), shapes.context_tokens)),
        "Perceiver over patches": _trained(_perceiver(config, shapes.images, seen)),
        "losses": _trained(contrastive + gaze),
    }


def step_flops(config: CoGazeConfig, batches: list[Batch], ranks: int = 1) -> int:
    """Model FLOPs of one rank's micro-batches of an optimizer step, forward and backward.

    The contrastive loss is counted as `accumulation: cached` computes it, over the whole global batch.
    """
    counted = 0
    for batch in batches:
        shapes = batch_shapes(batch, config, ranks * len(batches))
        counted += sum(part.total for part in micro_batch_flops(config, shapes).values())
    return counted


def _trained(forward: int) -> Count:
    """A product whose two factors both need a gradient: two more of the same size backward."""
    return Count(forward, 2 * forward)


def _product(rows: int, inner: int, columns: int) -> int:
    """(rows,inner) @ (inner,columns)."""
    return 2 * rows * inner * columns


def _attention(batch: int, queries: int, keys: int, channels: int) -> int:
    """Scores and weighted sum over all heads, whose channels together are `channels`."""
    return 2 * batch * _product(queries, channels, keys)


def _projector(rows: int, width_in: int, width_out: int) -> int:
    return _product(rows, width_in, 2 * width_out) + _product(rows, 2 * width_out, width_out)


def _image_encoder(config: CoGazeConfig, shapes: Shapes) -> Count:
    """Dinov2. Frozen layers are forward alone; the pixels need no gradient."""
    vision = config.vision_config
    width, images = vision.hidden_size, shapes.images
    length = shapes.patches + 1
    hidden = int(width * vision.mlp_ratio)
    if vision.use_swiglu_ffn:
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8  # as transformers rounds it
        feed_forward = 3 * _product(images * length, width, hidden)
    else:
        feed_forward = 2 * _product(images * length, width, hidden)
    layer = 4 * _product(images * length, width, width) + _attention(images, length, length, width) + feed_forward
    patches = _product(images * shapes.patches, vision.num_channels * config.patch_size**2, width)
    layers = vision.num_hidden_layers
    if config.vision_trainable == "all":
        return Count(patches + layers * layer, patches + 2 * layers * layer)
    last = 0 if config.vision_trainable == "none" else int(config.vision_trainable)
    return Count(patches + layers * layer, 2 * last * layer)


def _bert(text: BertConfig, texts: int, length: int) -> int:
    width, inner = text.hidden_size, text.intermediate_size
    rows = texts * length
    layer = (
        4 * _product(rows, width, width) + _attention(texts, length, length, width) + 2 * _product(rows, width, inner)
    )
    return layer * text.num_hidden_layers


def _perceiver(config: CoGazeConfig, batch: int, data: int) -> int:
    """`depth` blocks of cross-attention, feed-forward, self-attention, feed-forward for `batch` sequences of `data`."""
    sizes, width = config.perceiver, config.width
    inner, latents = sizes["heads"] * sizes["head_dim"], sizes["latents"]
    rows = batch * latents
    feed_forward = _product(rows, width, 3 * sizes["ff_mult"] * width)  # up to value and gate, down from one
    both = 0
    for keys in (data, latents):
        both += 2 * _product(rows, width, inner) + _product(batch * keys, width, 2 * inner)
        both += _attention(batch, latents, keys, inner) + feed_forward
    return int(sizes["depth"]) * both


# ------------------------------------------------------------------------------------------------ devices
# Peak FLOP/s of dense products, by what the name of a CUDA device holds; the first that fits counts.
# name: (bf16, TF32, fp32) in 1e12; None where the device has no such unit
_PEAKS: tuple[tuple[str, tuple[float | None, float | None, float]], ...] = (
    ("H200 NVL", (835.5, 417.5, 60.0)),
    ("GH200|H200", (989.4, 494.7, 66.9)),
    ("H100 PCIe", (756.0, 378.0, 51.2)),
    ("H100 NVL", (835.5, 417.5, 60.0)),
    ("H100", (989.4, 494.7, 66.9)),  # SXM: "NVIDIA H100 80GB HBM3"
    ("A100", (312.0, 156.0, 19.5)),
    ("A30", (165.0, 82.0, 10.3)),
    ("V100-PCIE", (None, None, 14.0)),
    ("V100", (None, None, 15.7)),
    ("T4", (None, None, 8.1)),
    ("RTX A6000", (154.8, 77.4, 38.7)),
    ("A40", (149.7, 74.8, 37.4)),
    ("L40S", (362.1, 183.2, 91.6)),
    ("L40", (181.1, 90.5, 90.5)),
    ("L4", (121.0, 60.0, 30.3)),
)


def peak_flops(device_name: str, precision: str, matmul: str) -> float | None:
    """FLOP/s a CUDA device could do at most in this run's products; None for a device that is not in the table.

    precision and matmul as in the config (`train.precision`, `train.matmul`): bf16 products, else TF32 ones unless
    matmul is highest. A MIG slice carries its whole device's name but not its power: None.
    """
    if "MIG" in device_name:
        return None
    for pattern, (bf16, tf32, fp32) in _PEAKS:
        if re.search(rf"\b({pattern})\b", device_name):
            peak = bf16 if precision == "bf16" else fp32 if matmul == "highest" else tf32 or fp32
            return None if peak is None else peak * 1e12
    return None


def device_peak(device_type: str, config: Config) -> float | None:
    """`peak_flops` of the device this process trains on; None on a CPU."""
    if device_type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(), config.train.precision, config.train.matmul)
