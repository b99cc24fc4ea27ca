"""The three losses of CoGaze; `total` is the only place with weights.

Written in the terms of one process that holds the whole global batch: each rank returns its local sum over the GLOBAL
count, so that the sum over ranks is the loss. `cogaze.step` counts over all micro-batches and ranks before the first
forward, and is the only place that scales by the number of ranks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batch import Batch
from ..config import LossConfig
from .contrastive import contrastive_sum
from .disease import class_weights, focal_sum
from .gaze import count_groups, gaze_sum
from .positives import positives_per_row

__all__ = ["LossTerms", "class_weights", "contrastive_sum", "local_counts", "positives_per_row", "total"]


class LossTerms(NamedTuple):
    """Scalars: this rank's local sum over the global count; only `total` carries the weights of the config."""

    total: Tensor
    contrastive: Tensor
    disease: Tensor
    gaze: Tensor


def local_counts(batch: Batch, config: LossConfig) -> Tensor:
    """What this batch adds to the global counts, float64 (4,): contrastive rows (images with a report), known image
    labels, known text labels (of images with a report), gaze groups with a map. Summed over micro-batches and ranks
    it is the `counts` of `total`."""
    has_report = batch.report_row >= 0  # (B,)
    parts = (
        has_report.sum(),
        batch.labels_known.sum(),
        (batch.labels_known & has_report[:, None]).sum(),
        count_groups(batch.gaze, batch.segment_image, batch.segment_reading, config.gaze.groups),
    )
    return torch.stack(parts).to(torch.float64)


def total(
    outputs: Any,
    batch: Batch,
    counts: Tensor,
    config: LossConfig,
    class_weights: Tensor,
    *,
    contrastive: Tensor | None = None,
) -> LossTerms:
    """This rank's part of the loss: every term is its local sum over the global count.

    outputs: CoGazeOutput of `batch`; counts float64 (4,) as in `local_counts`, global; class_weights (14,). Computed
    in fp32 (float64 where the model is), outside autocast. Every output is part of the graph of `total`, whatever is
    missing from the batch. All ranks must call it the same number of times: the contrastive term gathers, unless the
    caller (accumulation) has computed that term over more than this batch and hands it in as `contrastive`.
    """
    with torch.autocast(device_type=batch.study.device.type, enabled=False):
        has_report = batch.report_row >= 0  # (B,)
        scores = _full(outputs.image_logits)
        rows, image_labels, text_labels, groups = counts.clamp(min=1).to(scores.dtype).unbind()
        if contrastive is None:
            features = (_full(outputs.image_features), _full(outputs.text_features), _full(outputs.logit_scale))
            how = config.contrastive
            contrastive = contrastive_sum(*features, batch.study, has_report, how.positives, how.chunk) / rows
        gamma = config.disease.gamma
        image = focal_sum(scores, batch.labels, batch.labels_known, class_weights, gamma)
        with_text = batch.labels_known & has_report[:, None]
        text = focal_sum(_full(outputs.text_logits), batch.labels, with_text, class_weights, gamma)
        gaze = gaze_sum(
            _full(outputs.segment_features),
            _full(outputs.patch_features),
            _full(outputs.gaze_scale),
            batch.gaze,
            batch.segment_image,
            batch.segment_reading,
            config.gaze,
        )
        disease = (image / image_labels + text / text_labels) / 2
        gaze = gaze / groups
        weighted = config.contrastive.weight * contrastive + config.disease.weight * disease + config.gaze.weight * gaze
        return LossTerms(weighted, contrastive, disease, gaze)


def _full(value: Tensor) -> Tensor:
    """fp32 of a half-precision tensor; fp32 and float64 as they are."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
