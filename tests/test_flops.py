"""Counted FLOPs against hand numbers and against torch's own counter, which sees every product as it is computed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cogaze import flops, losses
from cogaze.batch import Batch
from cogaze.model import CoGazeConfig, CoGazeModel
from tests.model.tiny import MAX_TOKENS, VOCABULARY, concatenate, random_batch, tiny_settings


def counted_by_torch(model: CoGazeModel, batch: Batch) -> tuple[int, int]:
    """FLOPs of forward (with the losses) and backward. The plain attention kernel: torch's counter knows no other on a
    CPU, and on a GPU a fused one computes the scores again backward, which is not the model's work. For the same reason
    the contrastive loss, which computes its similarities twice, is one product here."""
    settings = tiny_settings()
    weights = losses.class_weights(torch.arange(14.0), 0.99, True)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            outputs = model(**batch.model_inputs())
            counts = losses.local_counts(batch, settings.loss)
            has = batch.report_row >= 0
            similarities = outputs.image_features[has] @ outputs.text_features[has].T
            total = losses.total(outputs, batch, counts, settings.loss, weights, contrastive=similarities.sum()).total
        with FlopCounterMode(display=False) as backward:
            total.backward()
    return forward.get_total_flops(), backward.get_total_flops()


def built(buckets: int | str = 2, **model: object) -> CoGazeModel:
    torch.manual_seed(0)
    settings = tiny_settings(**model)
    config = CoGazeConfig.from_settings(settings, VOCABULARY, 0)
    config.text_buckets = buckets
    return CoGazeModel(config).train()


def compare(model: CoGazeModel, batch: Batch) -> None:
    parts = flops.micro_batch_flops(model.config, flops.batch_shapes(batch, model.config)).values()
    ours = sum(p.forward for p in parts), sum(p.backward for p in parts)
    assert ours == counted_by_torch(model, batch)  # to the last one


@pytest.mark.parametrize("trainable", ["all", "none", 1, 2])
@pytest.mark.parametrize("contexts", ["all", "none", "some"])
def test_the_count_is_torchs_count(trainable: str | int, contexts: str) -> None:
    model = built(vision={"trainable": trainable})
    compare(model, random_batch(3, images=5, contexts=contexts))


@pytest.mark.parametrize(
    ("reports", "contexts", "gaze"), list(itertools.product(["all", "none"], ["some", "none"], ["all", "none"]))
)
@pytest.mark.parametrize("buckets", [1, 3, "roles"])
def test_whatever_is_absent(reports: str, contexts: str, gaze: str, buckets: int | str) -> None:
    compare(built(buckets), random_batch(4, images=4, reports=reports, contexts=contexts, gaze=gaze))


@pytest.mark.parametrize(
    "model",
    [
        {"perceiver": {"read_cls": True}},
        {"perceiver": {"final_norm": True, "latents": 5, "depth": 1, "heads": 3, "head_dim": 8, "ff_mult": 1}},
        {"latents": "shared"},
        {"width": 20, "text": {"width": 12, "depth": 3, "heads": 3, "mlp_ratio": 4}},
        {"vision": {"width": 12, "depth": 3, "heads": 3, "mlp_ratio": 4, "patch_size": 14}},
    ],
    ids=lambda model: "-".join(model),
)
def test_other_sizes(model: dict) -> None:
    batch = random_batch(6, images=3)
    if "vision" in model:  # larger patches: 4 of them
        batch = replace(batch, gaze=batch.gaze[:, :4])
    compare(built(**model), batch)


def test_swiglu_encoder() -> None:
    model = built()
    config = model.config
    config.vision_config.use_swiglu_ffn = True
    torch.manual_seed(0)
    compare(CoGazeModel(config).train(), random_batch(1))


def test_by_hand() -> None:
    """Two images of 16 patches, a report of 3 tokens each, nothing else; the tiny model's sizes in numbers."""
    batch = random_batch(0, images=2, reports="none", contexts="none", gaze="none")
    batch = replace(
        batch,
        token_ids=torch.tensor([[5, 6, 7], [8, 9, 0]]),
        token_mask=torch.tensor([[True, True, True], [True, True, False]]),
        report_row=torch.tensor([0, 1]),
    )
    config = built(1).config
    shapes = flops.batch_shapes(batch, config)
    assert shapes == (2, 16, ((2, 3),), 0, 1, 2, 2, 0, 0)
    assert flops.tokens(batch) == 5
    parts = flops.micro_batch_flops(config, shapes)
    # 32 patches of 3 x 49 values to 8; twice over 34 tokens: q, k, v, o (4 x 8x8) and 8x16, 16x8; attention 17 x 17 x 8
    image = 2 * 32 * 147 * 8 + 2 * (2 * 34 * (4 * 64 + 2 * 128) + 2 * 2 * 2 * 17 * 17 * 8)
    assert parts["image encoder"].forward == image
    assert parts["image encoder"].backward == 2 * image - 2 * 32 * 147 * 8  # no gradient of the pixels
    text = 2 * 6 * (4 * 64 + 2 * 128) + 2 * 2 * 2 * 3 * 3 * 8
    assert parts["text encoder"] == (text, 2 * text)
    # 32 patches and 6 text tokens: 8 -> 24 -> 12; both heads 2 x 12 -> 14
    assert parts["projectors and heads"].forward == 2 * 38 * (8 * 24 + 24 * 12) + 2 * 2 * 2 * 12 * 14
    # depth 2, one dummy context of one token, 3 latents, 2 heads of 4: cross, self, two
    # gated feed-forwards 12 -> 48, 24 -> 12
    cross = 2 * 3 * 12 * 8 + 2 * 1 * 12 * 16 + 2 * 2 * 3 * 1 * 8 + 2 * 3 * 8 * 12
    inside = 2 * 3 * 12 * 8 + 2 * 3 * 12 * 16 + 2 * 2 * 3 * 3 * 8 + 2 * 3 * 8 * 12
    gated = 2 * 3 * (12 * 48 + 24 * 12)
    assert parts["Perceiver over contexts"].forward == 2 * (cross + inside + 2 * gated)
    assert parts["losses"] == (2 * 2 * 12 * 2, 2 * 2 * 2 * 12 * 2)


def test_a_step_is_its_micro_batches_with_all_columns() -> None:
    config = built().config
    one, other = random_batch(1, reports="all"), random_batch(2, reports="all")
    both = flops.step_flops(config, [one, other], ranks=3)
    alone = [flops.step_flops(config, [batch]) for batch in (one, other)]
    # twice, forward and backward: 4 rows against 24 columns instead of 4
    assert both - sum(alone) == 2 * 3 * (2 * 4 * 12 * (24 - 4))
    assert flops.tokens(concatenate([one, other])) == flops.tokens(one) + flops.tokens(other)


def test_lengths_with_full_rows() -> None:
    batch = replace(random_batch(0), token_mask=torch.ones(3, MAX_TOKENS, dtype=torch.bool))
    assert flops._lengths(batch) == [MAX_TOKENS] * 3


@pytest.mark.parametrize(
    ("name", "precision", "matmul", "expected"),
    [
        ("NVIDIA A100-SXM4-40GB", "bf16", "highest", 312e12),
        ("NVIDIA A100 80GB PCIe", "fp32", "high", 156e12),
        ("NVIDIA H100 80GB HBM3", "bf16", "highest", 989.4e12),
        ("NVIDIA H100 80GB HBM3", "fp32", "highest", 66.9e12),
        ("NVIDIA H100 PCIe", "bf16", "medium", 756e12),
        ("NVIDIA H200", "fp32", "medium", 494.7e12),
        ("Tesla V100-SXM2-16GB", "fp32", "high", 15.7e12),  # no TF32 unit
        ("Tesla V100-PCIE-32GB", "fp32", "highest", 14e12),
        ("Tesla V100-SXM2-16GB", "bf16", "highest", None),
        ("NVIDIA RTX A6000", "bf16", "highest", 154.8e12),
        ("NVIDIA L40S", "fp32", "highest", 91.6e12),
        ("NVIDIA L4", "bf16", "highest", 121e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", "highest", None),
        ("NVIDIA GeForce MX450", "bf16", "highest", None),
    ],
)
def test_peaks(name: str, precision: str, matmul: str, expected: float | None) -> None:
    assert flops.peak_flops(name, precision, matmul) == (expected and pytest.approx(expected))
