"""A model of a few thousand parameters, and random batches for it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from cogaze.batch import Batch
from cogaze.config import Config, validate
from cogaze.model import CoGazeConfig, CoGazeModel

SIZE, PATCH, VOCABULARY, MAX_TOKENS = 28, 7, 40, 16
PATCHES = (SIZE // PATCH) ** 2


def tiny_settings(**model: Any) -> Config:
    tree: dict[str, dict[str, Any]] = {
        "data": {"image_size": SIZE},
        "text": {"max_tokens": MAX_TOKENS, "buckets": 2},
        "model": {
            "width": 12,
            "vision": {"width": 8, "depth": 2, "heads": 2, "mlp_ratio": 2, "patch_size": PATCH},
            "text": {"width": 8, "depth": 1, "heads": 2, "mlp_ratio": 2},
            "perceiver": {"latents": 3, "depth": 2, "heads": 2, "head_dim": 4, "ff_mult": 2},
        },
    }
    for section, values in model.items():
        tree["model"][section] = tree["model"][section] | values if isinstance(values, dict) else values
    return validate(tree, "test")


def tiny_model(seed: int = 0, **model: Any) -> CoGazeModel:
    """float64, in evaluation mode."""
    torch.manual_seed(seed)
    config = CoGazeConfig.from_settings(tiny_settings(**model), VOCABULARY, 0)
    return CoGazeModel(config).double().eval()


def random_batch(
    seed: int,
    images: int = 4,
    reports: str = "some",
    contexts: str = "some",
    gaze: str = "some",
    studies: int = 3,
) -> Batch:
    """A batch whose reports, contexts and gaze are there for all, some (all but the second image) or no images."""
    g = torch.Generator().manual_seed(seed)
    texts: list[list[int]] = []

    def text() -> int:
        length = int(torch.randint(2, MAX_TOKENS, (), generator=g))
        texts.append(torch.randint(1, VOCABULARY, (length,), generator=g).tolist())
        return len(texts) - 1

    def present(how: str, i: int) -> bool:
        return how == "all" or (how == "some" and i != 1)

    report_row = [text() if present(reports, i) else -1 for i in range(images)]
    context_row = [text() if present(contexts, i) else -1 for i in range(images)]
    if images > 2 and present(contexts, 0) and present(contexts, 2):
        context_row[2] = context_row[0]  # two images of one study share the text
    segments = [
        (text(), i, reading)
        for i in range(images)
        if present(gaze, i) and i < 3
        for reading in range(1 + (i == 0))
        for _ in range(1 + i + reading)
    ]
    maps = torch.rand(len(segments), PATCHES, generator=g) ** 3
    maps[torch.rand(maps.shape, generator=g) < 0.3] = 0
    if len(segments) > 1:
        maps[1] = 0  # a sentence during which nobody looked at the crop
    maps = maps / maps.sum(1, keepdim=True).clamp(min=1e-9)
    longest = max((len(t) for t in texts), default=0)
    ids = torch.tensor([t + [0] * (longest - len(t)) for t in texts], dtype=torch.int64).reshape(len(texts), longest)
    lengths = torch.tensor([len(t) for t in texts], dtype=torch.int64)
    return Batch(
        image=torch.randint(0, 256, (images, 1, SIZE, SIZE), dtype=torch.uint8, generator=g),
        view=torch.randint(0, 4, (images,), generator=g),
        study=torch.randint(0, studies, (images,), generator=g) + 2**62,  # needs all 63 bits: no way through float64
        labels=(torch.rand(images, 14, generator=g) < 0.4).float(),
        labels_known=torch.rand(images, 14, generator=g) < 0.8,
        token_ids=ids,
        token_mask=torch.arange(longest) < lengths[:, None],
        report_row=torch.tensor(report_row),
        context_row=torch.tensor(context_row),
        segment_row=torch.tensor([s[0] for s in segments], dtype=torch.int64),
        segment_image=torch.tensor([s[1] for s in segments], dtype=torch.int64),
        segment_reading=torch.tensor([s[2] for s in segments], dtype=torch.int64),
        gaze=maps,
        sample_id=torch.arange(images),
    )


def concatenate(batches: list[Batch]) -> Batch:
    """The batch one process would have held."""
    longest = max(b.token_ids.shape[1] for b in batches)
    moved = []
    texts = images = 0
    for b in batches:
        pad = (0, longest - b.token_ids.shape[1])
        moved.append(
            replace(
                b,
                token_ids=torch.nn.functional.pad(b.token_ids, pad),
                token_mask=torch.nn.functional.pad(b.token_mask, pad),
                report_row=torch.where(b.report_row < 0, -1, b.report_row + texts),
                context_row=torch.where(b.context_row < 0, -1, b.context_row + texts),
                segment_row=b.segment_row + texts,
                segment_image=b.segment_image + images,
            )
        )
        texts, images = texts + b.token_ids.shape[0], images + b.images
    joined = {f.name: torch.cat([getattr(b, f.name) for b in moved]) for f in fields(Batch) if f.default is not None}
    return Batch(**joined)
