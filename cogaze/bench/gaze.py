"""Gaze: the loss against a form that masks one row at a time, and exact maps against full-size heatmap pictures.

The other side of both is what the released CoGaze code does, in words of our own: top-k row by row in a Python loop,
each patch's row over the segments included; and for every sentence a JPEG of the X-ray's own size.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..config import GazeConfig
from ..data.gaze import Crop, factors, patch_maps, segment_weights
from ..data.heatmaps import remove_background
from ..losses.gaze import gaze_sum
from . import Row, Setting, Side, compare_time, relative_error

RELEASED = GazeConfig(transcript_to_patch=0.8, rho=0.25, groups="image", transposed="remasked", epsilon=1e-8)
LOSS_LIMIT = 1e-4  # fp32, and at an epsilon of 1e-8 the gradient is a difference of nearly equal numbers
MAP_LIMIT = 0.03  # share of a map's mass that lies elsewhere: the picture has 8 bits and is a JPEG


def rows(setting: Setting) -> Iterator[Row]:
    yield loss(*((2, 3, 6, 8) if setting.quick else (3, 4, 37, 768)))
    yield maps(*((250, 300, 56) if setting.quick else (2500, 3000, 518)))


# ------------------------------------------------------------------------------------------------ the loss
def loss(images: int, segments: int, grid: int, width: int) -> Row:
    """Forward and backward over `images` gaze images of `segments` transcripts each."""
    draw, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    spoken, patches = (
        functional.normalize(torch.randn(n, width, generator=draw), dim=1)
        for n in (images * segments, images * grid**2)
    )
    patches = patches.view(images, grid**2, width)
    inputs = spoken, patches, scale = tuple(x.requires_grad_() for x in (spoken, patches, torch.tensor([1 / 0.07])))
    of_image = torch.arange(images).repeat_interleave(segments)  # (S,)
    read = [fixations(rng, 15 * segments) for _ in range(images)]
    gaze = torch.from_numpy(
        np.concatenate([patch_maps(f, sentences(f, segments), Crop(), grid) for f in read])
    )  # (S,P)

    def batched() -> list[Tensor]:
        one_reading = torch.zeros_like(of_image)
        value = gaze_sum(spoken, patches, scale, gaze, of_image, one_reading, RELEASED)
        return [value.detach(), *torch.autograd.grad(value, inputs)]

    def by_row() -> list[Tensor]:
        value = row_by_row(spoken, patches, scale, gaze, of_image, RELEASED)
        return [value.detach(), *torch.autograd.grad(value, inputs)]

    ours, other = Side("all rows at once", batched), Side("one row at a time", by_row)
    sizes = {"images": images, "S": images * segments, "P": grid**2, "D": width}

    def check() -> float:
        return relative_error(ours.run(), other.run())

    return compare_time("gaze loss", ours, other, check, LOSS_LIMIT, sizes=sizes, must=8, aim=20)


def row_by_row(
    segments: Tensor, patches: Tensor, scale: Tensor, gaze: Tensor, segment_image: Tensor, config: GazeConfig
) -> Tensor:
    """As `gaze_sum` with groups: image and transposed: remasked; (S,D), (G,P,D), (1,), (S,P), (S,) -> a scalar."""
    value = segments.new_zeros(())
    for place, image in enumerate(segment_image.unique().tolist()):
        own = segment_image == image
        scores = scale * segments[own] @ patches[place].T  # (n,P)
        to_patch, to_segment = one_way(scores, gaze[own], config), one_way(scores.T, gaze[own].T, config)
        value = value + config.transcript_to_patch * to_patch + (1 - config.transcript_to_patch) * to_segment
    return value


def one_way(scores: Tensor, maps: Tensor, config: GazeConfig) -> Tensor:
    """Mean Jensen-Shannon divergence over the rows that have a map: (n,m), (n,m) -> a scalar."""
    masked = torch.zeros_like(maps)
    for row, values in enumerate(maps):
        keep = max(1, int(config.rho * int((values > config.epsilon).sum().item())))
        top, where = torch.topk(values, keep)
        masked[row, where] = top
    total = masked.sum(1)
    there = total > config.epsilon
    p = masked[there] / (total[there, None] + config.epsilon)
    q = torch.softmax(scores[there], dim=1)
    m = (p + q) / 2 + config.epsilon
    kl = [(x * ((x + config.epsilon).log() - m.log())).sum(1) for x in (p, q)]
    return ((kl[0] + kl[1]) / 2).mean()


# ------------------------------------------------------------------------------------------------ maps
def maps(width: int, height: int, size: int) -> Row:
    """A segment's map from its fixations, against the way from its picture of width x height px; input of `size` px."""
    grid, segments = size // 14, 7
    looked = fixations(np.random.default_rng(1), 80)
    weights = sentences(looked, segments)  # (S,F)
    gap = (height - width) / 2 / height
    crop = Crop(0.0, gap, 1.0, 1.0 - gap)  # the centre square
    picture = draw(looked, weights[0], width, height)

    def check() -> float:
        exact = patch_maps(looked, weights, crop, grid)[0].astype(np.float64)
        seen = from_picture(picture, size, grid).double().numpy().ravel()
        return float(np.abs(exact - seen / seen.sum()).sum() / 2)

    ours = Side("from fixations", lambda: patch_maps(looked, weights, crop, grid), share=segments)
    other = Side(f"from a JPEG of {width} x {height} px", lambda: from_picture(picture, size, grid))
    sizes = {"F": len(looked), "P": grid**2, "width": width, "height": height, "segments at once": segments}
    return compare_time("gaze map", ours, other, check, MAP_LIMIT, sizes=sizes, must=1000, aim=3000)


def from_picture(data: bytes, size: int, grid: int) -> Tensor:
    """A heatmap file to patch values (grid,grid): RGB, shortest side to `size`, centre crop, luminance, patch means,
    background to 0."""
    with Image.open(io.BytesIO(data)) as image:
        colour = image.convert("RGB")
    shortest = min(colour.size)
    colour = colour.resize(
        (colour.width * size // shortest, colour.height * size // shortest), Image.Resampling.BICUBIC
    )
    left, top = (colour.width - size) // 2, (colour.height - size) // 2
    pixels = torch.from_numpy(np.array(colour.crop((left, top, left + size, top + size)), np.float32))  # (H,W,3)
    luminance = 0.299 * pixels[..., 0] + 0.587 * pixels[..., 1] + 0.114 * pixels[..., 2]
    return remove_background(functional.adaptive_avg_pool2d(luminance[None, None], (grid, grid))[0, 0])


def draw(looked: NDArray[np.float32], weights: NDArray[np.float64], width: int, height: int) -> bytes:
    """The JPEG of a segment's heatmap over the whole image, grey, peak 255."""
    weights, along_y, _ = factors(looked, weights[None], Crop(), height)
    _, _, along_x = factors(looked, weights, Crop(), width)
    mass = (weights[0] * along_y.T) @ along_x  # (height,width)
    stream = io.BytesIO()
    Image.fromarray(np.rint(mass * (255 / mass.max())).astype(np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def fixations(rng: np.random.Generator, number: int) -> NDArray[np.float32]:
    """A reading: (F,6) as FIXATION_COLUMNS, a third of a second each, inside the middle of the image."""
    begin = np.arange(number) * 0.35
    x, y = rng.uniform(0.2, 0.8, number), rng.uniform(0.25, 0.75, number)
    spread = np.full(number, 0.05)
    return np.stack([x, y, begin, begin + 0.3, spread, spread * 0.83], axis=1).astype(np.float32)


def sentences(looked: NDArray[np.float32], number: int) -> NDArray[np.float64]:
    """Weights of `number` segments (S,F): sentences of equal length, and the paragraph last."""
    edges = np.linspace(0, looked[-1, 3], number)
    spoken = [segment_weights(looked, a, b) for a, b in pairwise(edges.tolist())]
    return np.stack([*spoken, segment_weights(looked, -np.inf, np.inf)])
