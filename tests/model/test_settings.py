"""Every setting in which the released model differs, alone and all together, against a forward written by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cogaze.batch import Batch
from cogaze.config import ConfigError, validate
from cogaze.model import CoGazeConfig, CoGazeModel
from cogaze.observations import VIEWS

from .tiny import VOCABULARY, random_batch, tiny_settings

CLOSE = {"rtol": 1e-11, "atol": 1e-12}
DIFFERENCES: dict[str, dict[str, Any]] = {
    "views": {"views": ["AP", "UNKNOWN", "PA"]},
    "shared latents": {"latents": "shared"},
    "no limit": {"scale_limit": None},
    "padded mean": {"text": {"report_pooling": "padded_mean"}},
    "cls of transcripts": {"text": {"transcript_pooling": "cls"}},
    "cls read": {"perceiver": {"read_cls": True}},
    "padding read": {"perceiver": {"mask_padding": False}},
}


def build(*names: str) -> CoGazeModel:
    """float64; scales beyond the usual limit, and latents that differ."""
    tree = tiny_settings().model_dump()
    tree["text"]["buckets"] = "roles"
    for name in names:
        for key, value in DIFFERENCES[name].items():
            tree["model"][key] = tree["model"][key] | value if isinstance(value, dict) else value
    torch.manual_seed(0)
    model = CoGazeModel(CoGazeConfig.from_settings(validate(tree, "test"), VOCABULARY, 0)).double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("latents", "_type", "view_embedding.weight")):
                p.normal_()
        model.log_logit_scale.fill_(5.0)
        model.log_gaze_scale.fill_(6.0)
    return model


def by_hand(model: CoGazeModel, b: Batch, on: set[str]) -> dict[str, Tensor]:
    """The outputs that the settings touch, text by text and image by image."""
    hidden = model.vision.encoder(((b.image.double() / 255 - 0.5307) / 0.2583).repeat(1, 3, 1, 1)).last_hidden_state
    names = ["AP", "UNKNOWN", "PA"] if "views" in on else list(VIEWS)
    rows = [names.index(VIEWS[v] if VIEWS[v] in names else "UNKNOWN") for v in b.view.tolist()]
    seen = model.vision.projector(model.vision.norm(hidden + model.vision.view_embedding.weight[rows][:, None]))

    def tokens(row: int, longest: int) -> Tensor:
        ids, mask = b.token_ids[row, :longest][None], b.token_mask[row, :longest][None]
        return model.text.projector(model.text.encoder(input_ids=ids, attention_mask=mask).last_hidden_state)[0]

    def length(row: int) -> int:
        return int(b.token_mask[row].sum())

    contexts = sorted(set(b.context_row[b.context_row >= 0].tolist()))
    reports = sorted(set(b.report_row[b.report_row >= 0].tolist()))
    pad_context, pad_report = max(map(length, contexts)), max(map(length, reports))
    if "shared latents" in on:
        for_context, for_image = model.latents + model.context_type, model.latents + model.image_type
    else:
        for_context, for_image = model.context_latents, model.image_latents
    pooled, texts = [], []
    for i in range(b.images):
        start, row = for_image[None], int(b.context_row[i])
        if row >= 0:
            reach = pad_context if "padding read" in on else length(row)
            start = model.perceiver(for_context[None], tokens(row, pad_context)[None, :reach])
        keys = seen[i : i + 1] if "cls read" in on else seen[i : i + 1, 1:]
        pooled.append(model.perceiver(start, keys).mean(1)[0])
        row = int(b.report_row[i])
        reach = pad_report if "padded mean" in on else length(row)
        texts.append(tokens(row, pad_report)[:reach].mean(0) if row >= 0 else torch.zeros(model.config.width).double())
    spoken = [tokens(r, length(r)) for r in b.segment_row.tolist()]
    cls = "cls of transcripts" in on
    image = torch.stack(pooled)
    limit = math.inf if "no limit" in on else 100.0
    scales = [torch.tensor([min(math.exp(v), limit)], dtype=torch.float64) for v in (5, 6)]
    return {
        "image_features": F.normalize(image, dim=-1),
        "image_logits": model.image_head(image),
        "text_features": F.normalize(torch.stack(texts), dim=-1),
        "segment_features": F.normalize(torch.stack([t[0] if cls else t.mean(0) for t in spoken]), dim=-1),
        "patch_features": F.normalize(seen[b.segment_image.unique(), 1:], dim=-1),
        "logit_scale": scales[0],
        "gaze_scale": scales[1],
    }


@pytest.mark.parametrize(
    "names", [(), *((name,) for name in DIFFERENCES), tuple(DIFFERENCES)], ids=lambda n: " + ".join(n)
)
def test_a_setting_does_what_it_says_and_nothing_else(names: tuple[str, ...]) -> None:
    model, batch = build(*names), random_batch(3)
    with torch.no_grad():
        got, want = model(**batch.model_inputs()), by_hand(model, batch, set(names))
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
        plain = by_hand(model, batch, set(names) & {"shared latents", "views"})
    if set(names) - {"shared latents", "views"}:  # the batch is one in which the setting shows
        assert any((got[name] - value).abs().max() > 1e-6 for name, value in plain.items())


def test_the_image_latents_serve_images_without_a_context() -> None:
    model, batch = build("shared latents"), random_batch(3, contexts="none")
    with torch.no_grad():
        before = model(**batch.model_inputs()).image_features
        model.context_type += 1.0
        assert torch.equal(model(**batch.model_inputs()).image_features, before)
        model.image_type += 1.0
        assert (model(**batch.model_inputs()).image_features - before).norm() > 1e-3


def test_initial_values_have_the_spread_asked_for() -> None:
    tree = tiny_settings().model_dump()
    tree["model"] |= {"latents": "shared", "init_std": 3.0}
    tree["model"]["perceiver"]["latents"] = 400
    model = CoGazeModel(CoGazeConfig.from_settings(validate(tree, "test"), VOCABULARY, 0))
    assert model.latents.std().item() == pytest.approx(3.0, rel=0.05)
    assert model.vision.view_embedding.weight.std().item() == pytest.approx(3.0, rel=0.2)
    assert model.image_type.std() > 1


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("model", {"text": {"report_pooling": "padded_mean"}}, "only text.buckets: roles defines"),
        ("model", {"perceiver": {"mask_padding": False}}, "only text.buckets: roles defines"),
        ("model", {"views": ["PA", "AP"]}, "takes UNKNOWN"),
        ("model", {"views": ["UNKNOWN", "OBLIQUE"]}, r"odd: \['OBLIQUE'\]"),
        ("text", {"role_tokens": ["[FINDINGS]", "[HISTORY]"]}, r"missing: \[TRANSCRIPT\], \[INDICATION\]"),
        ("text", {"buckets": "lengths"}, "text.buckets"),
    ],
)
def test_settings_that_cannot_be(section: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate({section: values}, "test")
