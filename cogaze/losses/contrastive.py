"""Hybrid-positive contrastive loss (Eq. 2-4) without the similarity matrix: own rows of it, a few at a time.

Similarities S_ij of image i and text j of the global batch; rank r has the rows of its images. Image->text is a softmax
along each row, text->image along each column of the same matrix, so each similarity is worked out once for both
directions, and only the texts are gathered: of a column the ranks tell one another no more than its sums.

    forward   S chunk by chunk -> log-sum-exp of rows (R,) and of columns (C,), the columns' put together over the ranks
    backward  S once more, chunk by chunk -> dL/dS = softmax along rows + softmax along columns - 2 P -> gradients

Four matrix products in place of a dense loss's three, and memory O(chunk C + C D) in place of O(C^2).

Shape letters: b images of this rank, R of them with a report, C with a report on all ranks, D width, W ranks.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import dist

CHUNK = 512  # rows of S held at once; on a CPU 256 to 1,024 are within 6 % of one another


def contrastive_sum(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    study: Tensor,
    has_report: Tensor,
    positives: Literal["study", "self"] = "study",
    chunk: int = CHUNK,
) -> Tensor:
    """Sum over this rank's rows of half the image->text and half the text->image soft-label cross-entropy.

    image_features, text_features (b,D) normalised, fp32 or float64; logit_scale (1,); study int64 (b,); has_report bool
    (b,): an image without a report is neither row nor column. b is the same on every rank. P_ij = 1[study_i = study_j]
    / row count over the global batch, or the identity with `positives="self"`. Returns a scalar; 0, still part of the
    graph, where there are no rows. `chunk` decides memory, not results.

    The gradient is that of the sum over all ranks, of which this rank's images get theirs here and the texts through
    the gather: all ranks must call it, and scale what it returns alike. It holds three collectives forward (the second
    carries the features) and one backward; where no rank has a report, one fewer forward. No second derivative.
    """
    rows, rank = image_features.shape[0], dist.rank()
    here = torch.arange(rows, device=study.device) + rank * rows  # place in the global batch
    key = study if positives == "study" else here
    identity = dist.gather(torch.stack([key, has_report.to(key.dtype)], dim=1))  # int64 (W*b,2): no gradient, exact
    texts = dist.gather_with_gradient(text_features)  # (W*b,D)
    columns = identity[:, 1].nonzero().flatten()  # (C,)
    own = has_report.nonzero().flatten()  # (R,)
    first = int((columns < rank * rows).sum())  # the columns of this rank's texts are first : first + R
    return _Rows.apply(
        image_features.index_select(0, own),
        texts.index_select(0, columns),
        logit_scale,
        key[own],
        identity[columns, 0],
        first,
        chunk,
    )


class _Rows(torch.autograd.Function):
    """images (R,D), texts (C,D), scale (1,), keys int64 (R,) and (C,) -> the loss of own rows and columns, a scalar."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, key: Tensor, column_key: Tensor, first: int, chunk: int
    ) -> Tensor:
        rows, columns = len(images), len(texts)
        row_lse, row_positive, count = (images.new_empty(rows) for _ in range(3))  # count: positives of the row
        lse, positive = images.new_full((columns,), -torch.inf), images.new_zeros(columns)  # of columns, own rows' part
        with torch.autocast(images.device.type, enabled=False):
            for start in range(0, rows, chunk):
                part = slice(start, start + chunk)
                scores = (images[part] * scale) @ texts.T  # (chunk,C)
                row_lse[part] = torch.logsumexp(scores, 1)
                lse = torch.logaddexp(lse, torch.logsumexp(scores, 0))
                same = key[part, None] == column_key  # (chunk,C)
                count[part] = same.sum(1).to(count.dtype)
                scores.mul_(same)
                row_positive[part] = scores.sum(1)
                positive += scores.sum(0)
        ctx.chunk = chunk
        if columns:
            everyone = dist.gather(torch.stack([lse, positive])[None])  # (W,2,C)
            lse, positive = torch.logsumexp(everyone[:, 0], 0), everyone[:, 1].sum(0)
        ctx.save_for_backward(images, texts, scale, key, column_key, row_lse, lse, count)
        mine = slice(first, first + rows)  # text j has the study of image j, so `count` is that of its column too
        return ((row_lse + lse[mine]) - (row_positive + positive[mine]) / count).sum() / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, key, column_key, row_lse, lse, count = ctx.saved_tensors
        to_images, to_texts = torch.empty_like(images), torch.zeros_like(texts)
        with torch.autocast(images.device.type, enabled=False):
            for start in range(0, len(images), ctx.chunk):
                part = slice(start, start + ctx.chunk)
                scaled = images[part] * scale
                scores = scaled @ texts.T  # (chunk,C), the very numbers of the forward pass
                slope = torch.sub(scores, row_lse[part, None]).exp_()
                slope += scores.sub_(lse).exp_()
                scores.copy_(key[part, None] == column_key)
                slope.addcmul_(scores, (2 / count[part])[:, None], value=-1)  # 2 dL/dS
                torch.mm(slope, texts, out=to_images[part])
                to_texts.addmm_(slope.T, scaled)
        half = grads[0] / 2
        to_scale = ((to_images * images).sum() * half).reshape(scale.shape)  # dS_ij / dscale = image_i . text_j
        return to_images.mul_(scale * half), to_texts.mul_(half), to_scale, None, None, None, None
