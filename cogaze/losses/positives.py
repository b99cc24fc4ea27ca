"""How many texts count as an image's own in the contrastive loss: whether hybrid positives occur at all."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def positives_per_row(study: Tensor, has_report: Tensor, positives: Literal["study", "self"] = "study") -> Tensor:
    """Positives of every row of the loss (the non-zero P_ij of Eq. 3), int64 (B,); 0 for an image without a report.

    study int64 (B,) and has_report bool (B,) of all images that one contrastive loss compares: the global batch, or a
    micro-batch of all ranks with `train.accumulation: plain`. O(B log B); shapes do not depend on the data, so nothing
    waits for the device.
    """
    if positives == "self":
        return has_report.to(torch.int64)
    nobody = -1 - torch.arange(len(study), device=study.device)  # no study hash is negative
    key = torch.where(has_report, study, nobody)
    ordered = key.sort().values
    same = torch.searchsorted(ordered, key, right=True) - torch.searchsorted(ordered, key)  # (B,)
    return same * has_report
