"""Counts, weights and precision of the three terms together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from cogaze import losses
from cogaze.batch import Batch
from cogaze.config import LossConfig
from cogaze.model import CoGazeOutput

from ..model.tiny import PATCHES, random_batch
from . import formulas

WEIGHTS = torch.linspace(0.5, 1.5, 14, dtype=torch.float64)


def outputs(batch: Batch, seed: int = 0, dtype: torch.dtype = torch.float64) -> CoGazeOutput:
    g = torch.Generator().manual_seed(seed)
    with_gaze = len(batch.segment_image.unique())
    shapes: dict[str, tuple[int, ...]] = {
        "image_features": (batch.images, 6),
        "text_features": (batch.images, 6),
        "image_logits": (batch.images, 14),
        "text_logits": (batch.images, 14),
        "segment_features": (len(batch.segment_row), 6),
        "patch_features": (with_gaze, PATCHES, 6),
    }
    drawn: dict[str, Any] = {n: torch.randn(*s, dtype=torch.float64, generator=g) for n, s in shapes.items()}
    for name, value in drawn.items():
        if name.endswith("features"):
            drawn[name] = torch.nn.functional.normalize(value, dim=-1)
    drawn |= {"logit_scale": torch.tensor([14.0]).double(), "gaze_scale": torch.tensor([9.0]).double()}
    return CoGazeOutput(**{n: v.to(dtype).requires_grad_() for n, v in drawn.items()})


def test_counts() -> None:
    batch = random_batch(0, images=4, reports="some", gaze="all")
    batch.labels_known[:] = False
    batch.labels_known[0, :3] = True
    batch.labels_known[1, :5] = True  # image 1 has no report
    counts = losses.local_counts(batch, LossConfig())
    # readings: two of image 0, one each of images 1 and 2
    assert counts.tolist() == [3, 8, 3, 4]
    assert counts.dtype == torch.float64
    batch.gaze[batch.segment_image == 2] = 0
    assert losses.local_counts(batch, LossConfig()).tolist() == [3, 8, 3, 3]


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "self positives": {"contrastive": {"positives": "self"}, "disease": {"gamma": 0.5}, "gaze": {"rho": 1}},
    "weighted": {"contrastive": {"weight": 0.5}, "disease": {"weight": 3}, "gaze": {"weight": 7}},
    "released": {
        "disease": {"gamma": 0},
        "gaze": {"transcript_to_patch": 0.2, "groups": "image", "transposed": "remasked", "epsilon": 1e-8},
    },
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"reports": "all", "gaze": "all"},
        {"studies": 1},
        {"images": 1, "reports": "all", "gaze": "all"},
        {"gaze": "none"},
        {"reports": "none"},
    ],
    ids=str,
)
def test_terms_equal_the_formulas(name: str, how: dict[str, Any]) -> None:
    """Each term is the formula's sum over how much there is of it; 0 where there is nothing."""
    config, batch = LossConfig.model_validate(SETTINGS[name]), random_batch(6, **how)
    out, rows = outputs(batch), len(batch.study)
    counts = losses.local_counts(batch, config)
    terms = losses.total(out, batch, counts, config, WEIGHTS)

    v: dict[str, Any] = {n: value.detach().numpy() for n, value in out.items()}
    has, known, labels = (batch.report_row >= 0).numpy(), batch.labels_known.numpy(), batch.labels.numpy()
    key = batch.study.numpy() if config.contrastive.positives == "study" else torch.arange(rows).numpy()
    features = v["image_features"], v["text_features"], v["logit_scale"].item()
    contrastive = formulas.contrastive(*features, key, has) / max(has.sum(), 1)
    disease = 0.0
    for logits, mask in ((v["image_logits"], known), (v["text_logits"], known & has[:, None])):
        value = formulas.focal(logits, labels, mask, WEIGHTS.numpy(), config.disease.gamma)
        disease += value / max(mask.sum(), 1) / 2
    spoken = v["segment_features"], v["patch_features"], v["gaze_scale"].item()
    looked = (x.numpy() for x in (batch.gaze.double(), batch.segment_image, batch.segment_reading))
    gaze, groups = formulas.gaze(*spoken, *looked, **config.gaze.model_dump(exclude={"weight"}))
    gaze /= max(groups, 1)

    assert counts.tolist() == [has.sum(), known.sum(), (known & has[:, None]).sum(), groups]
    assert (terms.contrastive.item(), terms.disease.item(), terms.gaze.item()) == (
        pytest.approx(contrastive, rel=1e-10),
        pytest.approx(disease, rel=1e-10),
        pytest.approx(gaze, rel=1e-10),
    )
    weights = config.contrastive.weight, config.disease.weight, config.gaze.weight
    assert terms.total.item() == pytest.approx(
        weights[0] * contrastive + weights[1] * disease + weights[2] * gaze, rel=1e-10
    )


def test_terms_are_sums_over_global_counts() -> None:
    batch = random_batch(1, gaze="some")
    counts = losses.local_counts(batch, LossConfig())
    one = losses.total(outputs(batch), batch, counts, LossConfig(), WEIGHTS)
    twice = losses.total(outputs(batch), batch, counts * 2, LossConfig(), WEIGHTS)
    for a, b in zip(one, twice, strict=True):
        assert a.item() == pytest.approx(2 * b.item())
    assert one.total.item() == pytest.approx((one.contrastive + one.disease + one.gaze).item())
    weighted = LossConfig.model_validate(
        {"contrastive": {"weight": 0.5}, "disease": {"weight": 3}, "gaze": {"weight": 0}}
    )
    other = losses.total(outputs(batch), batch, counts, weighted, WEIGHTS)
    assert other.gaze.item() == one.gaze.item()
    assert other.total.item() == pytest.approx((0.5 * one.contrastive + 3 * one.disease).item())


def test_image_and_report_logits_count_half_each() -> None:
    """Logits 0, weight 1, gamma 2: every known element gives ln(2)/4, whatever the number of reports."""
    batch = random_batch(2, reports="some")
    out = outputs(batch)
    out.image_logits, out.text_logits = torch.zeros(4, 14), torch.zeros(4, 14)
    counts = losses.local_counts(batch, LossConfig())
    assert counts[1] != counts[2]
    terms = losses.total(out, batch, counts, LossConfig(), torch.ones(14))
    assert terms.disease.item() == pytest.approx(0.25 * 0.6931471805599453)


def test_logits_without_a_report_are_ignored() -> None:
    batch = random_batch(3, reports="some")
    out, other = outputs(batch), outputs(batch)
    with torch.no_grad():
        other.text_logits[1] += 7
        other.text_features[1] *= -1
        other.image_features[1] *= -1
    counts = losses.local_counts(batch, LossConfig())
    first, second = (losses.total(o, batch, counts, LossConfig(), WEIGHTS) for o in (out, other))
    assert first.total.item() == second.total.item()


@pytest.mark.parametrize(
    "how",
    [{"reports": "none"}, {"gaze": "none"}, {"reports": "none", "gaze": "none", "contexts": "none"}],
)
def test_everything_may_be_missing_and_all_outputs_have_gradients(how: dict[str, str]) -> None:
    batch = random_batch(4, **how)  # type: ignore[arg-type]
    batch = replace(batch, labels_known=torch.zeros_like(batch.labels_known))
    out = outputs(batch)
    terms = losses.total(out, batch, losses.local_counts(batch, LossConfig()), LossConfig(), WEIGHTS)
    terms.total.backward()
    assert terms.disease.item() == 0
    for value in out.values():
        assert value.grad is not None
        assert torch.isfinite(value.grad).all()


def test_half_precision_outputs_give_fp32_losses_under_autocast() -> None:
    batch = random_batch(5)
    counts = losses.local_counts(batch, LossConfig())
    low = outputs(batch, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = losses.total(low, batch, counts, LossConfig(), WEIGHTS)
    assert all(t.dtype == torch.float32 for t in terms)
    same = CoGazeOutput(**{n: v.detach().double() for n, v in low.items()})
    exact = losses.total(same, batch, counts, LossConfig(), WEIGHTS)
    for a, b in zip(terms, exact, strict=True):
        assert a.item() == pytest.approx(b.item(), rel=2e-5)
