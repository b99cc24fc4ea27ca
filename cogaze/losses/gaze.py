"""Soft gaze guidance (Eq. 7-8): spoken segments against patches, Jensen-Shannon divergence to the reader's gaze.

A group is one reading of one image. Its segments are padded to the longest group of the batch, (groups, segments,
patches), so that both directions are one softmax along one axis of one tensor.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..config import GazeConfig

LN2 = math.log(2)


def gaze_sum(
    segment_features: Tensor,
    patch_features: Tensor,
    gaze_scale: Tensor,
    gaze: Tensor,
    segment_image: Tensor,
    segment_reading: Tensor,
    config: GazeConfig,
) -> Tensor:
    """Sum over this batch's gaze groups of lambda JS(G, S) + (1 - lambda) JS(G', S').

    segment_features (S,D) and patch_features (G,P,D) normalised, patch_features in the order of the sorted distinct
    values of segment_image (S,); gaze_scale (1,); gaze (S,P) maps; segment_reading (S,).

    Rows: softmax of a segment's similarities over all patches against its top-rho map, mean over the group's rows
    that have a map. Columns: each patch's column of the same top-rho maps (or, `remasked`, the top-rho of its column of
    the full maps) renormalised over the group's segments, against the softmax of its similarities over all segments of
    the group, mean over columns that are not zero. Groups without any map count nothing. Returns a scalar; 0, still
    part of the graph, without groups.
    """
    if segment_image.numel() == 0:
        return (segment_features.sum() + patch_features.sum()) * 0 + gaze_scale.sum() * 0
    gaze = gaze.to(segment_features.dtype)
    target = top_maps(gaze, config.rho, config.epsilon)  # (S,P)
    scores = gaze_scale * _similarities(segment_features, patch_features, segment_image)  # (S,P)

    group, slot, groups, longest = _slots(gaze_groups(segment_image, segment_reading, config.groups))
    place = group * longest + slot  # (S,), row of the padded layout
    shape = (groups, longest, gaze.shape[1])
    # padding rows: a zero map, and a score that leaves every softmax while its logarithm stays finite
    outside = torch.finfo(scores.dtype).min / 4
    padded = scores.new_full((groups * longest, shape[2]), outside).index_copy(0, place, scores).view(shape)
    maps = target.new_zeros(groups * longest, shape[2]).index_copy(0, place, target).view(shape)

    row_kept = maps.sum(2) > 0  # (groups,L)
    rows = jensen_shannon(maps, padded, dim=2, epsilon=config.epsilon)  # (groups,L)
    if config.transposed == "remasked":
        full = gaze.new_zeros(groups * longest, shape[2]).index_copy(0, place, gaze).view(shape)
        columns_target = top_maps(full.transpose(1, 2).flatten(0, 1), config.rho, config.epsilon)  # (groups*P,L)
        columns_target = columns_target.view(groups, shape[2], longest).transpose(1, 2)  # (groups,L,P)
    else:
        mass = maps.sum(1, keepdim=True)  # (groups,1,P)
        columns_target = maps / torch.where(mass > 0, mass + config.epsilon, 1.0)
    column_kept = columns_target.sum(1) > 0  # (groups,P)
    columns = jensen_shannon(columns_target, padded, dim=1, epsilon=config.epsilon)

    row_mean = (rows * row_kept).sum(1) / row_kept.sum(1).clamp(min=1)  # (groups,), 0 in a group without a map
    column_mean = (columns * column_kept).sum(1) / column_kept.sum(1).clamp(min=1)
    weight = config.transcript_to_patch
    return (weight * row_mean + (1 - weight) * column_mean).sum()


def count_groups(
    gaze: Tensor, segment_image: Tensor, segment_reading: Tensor, groups: Literal["reading", "image"] = "reading"
) -> Tensor:
    """Number (0-dim int64) of groups with at least one non-zero map; gaze (S,P)."""
    group = gaze_groups(segment_image, segment_reading, groups)  # (S,)
    return torch.tensor(torch.unique(group[(gaze > 0).any(1)]).numel(), device=gaze.device)


def gaze_groups(segment_image: Tensor, segment_reading: Tensor, groups: Literal["reading", "image"]) -> Tensor:
    """One integer per segment (S,), equal where image and reading are equal, or (`groups="image"`) the image."""
    if groups == "image" or segment_reading.numel() == 0:
        return segment_image
    return segment_image * (segment_reading.max() + 1) + segment_reading


@torch.no_grad()
def top_maps(gaze: Tensor, rho: float, epsilon: float = 0.0) -> Tensor:
    """The strongest share of each map: (S,P) -> (S,P), rows summing to 1 (zero rows stay zero).

    Of the n patches of a row above `epsilon`, k = max(1, floor(rho n)) are kept; among equals the lower index wins.
    A row whose kept sum is not above `epsilon` is zero; others are divided by that sum plus `epsilon`.
    """
    nonzero = (gaze > epsilon).sum(1, keepdim=True)  # (S,1)
    # the tiny addend keeps e.g. 0.29 * 100 = 28.999999999999996 from losing a patch
    keep = (rho * nonzero.double() + 1e-9).floor().clamp(min=1)  # (S,1)
    value, index = torch.sort(gaze, dim=1, descending=True, stable=True)
    value = value * (torch.arange(gaze.shape[1], device=gaze.device) < keep)
    top = torch.zeros_like(gaze).scatter(1, index, value)
    total = top.sum(1, keepdim=True)
    return torch.where(total > epsilon, top / torch.where(total > 0, total + epsilon, 1.0), 0.0)


def jensen_shannon(p: Tensor, scores: Tensor, dim: int, epsilon: float = 0.0) -> Tensor:
    """Jensen-Shannon divergence (natural log, 0..ln 2) of distributions p and softmax(scores) along `dim`.

    At epsilon 0 exact where p is zero (there q ln(q/m) = q ln 2) and finite with its gradient at any finite score;
    else `epsilon` stands inside each logarithm, as in the released code, whose order of operations this follows (its
    rounding too: the gradient is a difference of nearly equal numbers). p carries no gradient; a row of zeros in p
    gives a finite number without meaning.
    """
    if epsilon > 0:
        q = torch.softmax(scores, dim=dim)
        m = 0.5 * (p + q) + epsilon
        from_p = (p * ((p + epsilon).log() - m.log())).sum(dim)
        return 0.5 * from_p + 0.5 * (q * ((q + epsilon).log() - m.log())).sum(dim)
    log_q = torch.log_softmax(scores, dim=dim)
    q = log_q.exp()
    some = p > 0
    log_p = torch.where(some, p, 1.0).log()  # 0 where p is 0
    log_m = torch.where(some, torch.logaddexp(log_p, log_q), log_q) - LN2
    return (p * (log_p - log_m) + q * (log_q - log_m)).sum(dim) / 2


def _similarities(segments: Tensor, patches: Tensor, segment_image: Tensor) -> Tensor:
    """Each segment against the patches of its own image: (S,D), (G,P,D), (S,) -> (S,P), one batched product."""
    image, slot, images, longest = _slots(segment_image)
    place = image * longest + slot  # (S,)
    padded = segments.new_zeros(images * longest, segments.shape[1]).index_copy(0, place, segments)
    product = padded.view(images, longest, -1) @ patches.transpose(1, 2)  # (G,L,P)
    return product.flatten(0, 1).index_select(0, place)


def _slots(ids: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """For ids (S,): rank of the id among the distinct ones (S,), place among equals (S,), how many ids, most equals."""
    _, rank, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    order = torch.argsort(rank, stable=True)
    starts = counts.cumsum(0) - counts  # (groups,)
    slot = torch.empty_like(order)
    slot[order] = torch.arange(len(order), device=order.device) - starts[rank[order]]
    return rank, slot, len(counts), int(counts.max())
