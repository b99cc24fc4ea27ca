"""The whole released model: weights imported, forward, losses, gradient, five scenarios, five optimizer steps."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, Dinov2Config

from cogaze import losses, optim
from cogaze.batch import Batch
from cogaze.config import Config, OptimConfig, load
from cogaze.model.modeling import CoGazeModel
from cogaze.model.released import Translation, released_config, translate
from cogaze.observations import view_index

from .report import SPIKY, Report

CONFIG = Path(__file__).parents[2] / "configs" / "released.yaml"
TERMS = ("loss", "align_loss", "kl_loss", "img_disease_loss", "text_disease_loss")  # their names
STEPS_LIMIT = {5e-5: 1e-5, 1e-3: SPIKY}


def build(golden: dict[str, Any]) -> tuple[CoGazeModel, Translation, Config]:
    """Our model with their weights, in evaluation mode, fp32."""
    found = translate(golden["state_dict"])
    sizes = released_config(
        found.weights,
        golden["vp2id"],
        vision=_known(Dinov2Config, golden["image_encoder_config"]),
        text=_known(BertConfig, golden["text_encoder_config"]),
        pad_token_id=golden["tokenizer"]["pad"],
        max_tokens=golden["args"]["encoder_max_length"],
    )
    model = CoGazeModel(sizes)
    model.load_state_dict(found.weights)
    return model.eval(), found, load(CONFIG)


def _known(kind: Any, values: dict[str, Any]) -> Any:
    """A configuration from another transformers release: the settings that this one knows and that carry numbers."""
    own = kind().to_dict()
    skip = ("id2label", "label2id", "dtype", "model_type", "architectures", "out_features", "stage_names")
    return kind(**{k: v for k, v in values.items() if k in own and k not in skip and not k.startswith("_")})


class Texts:
    """Token ids of every text of the file, as their tokenizer made them."""

    def __init__(self, golden: dict[str, Any]):
        self.ids: dict[str, list[int]] = {}
        for call in golden["text_calls"].values():
            for text, ids, mask in zip(call["texts"], call["input_ids"], call["attention_mask"], strict=True):
                self.ids[text] = ids[mask.bool()].tolist()

    def rows(self, texts: list[str], pad: int) -> tuple[Tensor, Tensor, dict[str, int]]:
        unique = list(dict.fromkeys(texts))
        longest = max(len(self.ids[t]) for t in unique)
        ids = torch.tensor([self.ids[t] + [pad] * (longest - len(self.ids[t])) for t in unique])
        mask = torch.tensor([[i < len(self.ids[t]) for i in range(longest)] for t in unique])
        return ids, mask, {text: row for row, text in enumerate(unique)}


def make_batch(
    golden: dict[str, Any],
    texts: Texts,
    batch: dict[str, Any],
    image: Tensor,
    labels: Tensor,
    studies: list[str],
    maps: list[Tensor],
) -> Batch:
    """Their batch as a `Batch`. Every image takes all transcripts that carry its dicom id, sentences first."""
    spoken = [*batch["transcript_sen"], *batch["transcript_report"]]
    owner = [*batch["transcript_sen_id"], *batch["transcript_report_id"]]
    gaze = torch.cat(maps) if maps else torch.zeros(0, (image.shape[-1] // 14) ** 2)
    assert len(spoken) == len(owner) == len(gaze)
    said = [None if text == "[PAD]" else text for text in batch["knowledge"]]
    reports = batch["align_report"]
    ids, mask, row = texts.rows([*reports, *(t for t in said if t), *spoken], golden["tokenizer"]["pad"])
    pairs = [(i, s) for i, dicom in enumerate(batch["dicom_id"]) for s in range(len(owner)) if owner[s] == dicom]
    mean, std = 0.5307, 0.2583
    grey = (image[:, :1] * std + mean) * 255
    assert (grey - grey.round()).abs().max() < 1e-3, "the images of the file are not 8-bit pictures"
    return Batch(
        image=grey.round().to(torch.uint8),
        view=torch.tensor([view_index(view) for view in batch["view_position"]]),
        study=torch.tensor([int(hashlib.sha256(s.encode()).hexdigest()[:15], 16) for s in studies]),
        labels=labels.float(),
        labels_known=torch.ones_like(labels, dtype=torch.bool),
        token_ids=ids,
        token_mask=mask,
        report_row=torch.tensor([row[text] for text in reports]),
        context_row=torch.tensor([-1 if text is None else row[text] for text in said]),
        segment_row=torch.tensor([row[spoken[s]] for _, s in pairs], dtype=torch.int64),
        segment_image=torch.tensor([i for i, _ in pairs], dtype=torch.int64),
        segment_reading=torch.zeros(len(pairs), dtype=torch.int64),
        gaze=gaze[[s for _, s in pairs]],
        sample_id=torch.arange(len(reports)),
    )


def main_batch(golden: dict[str, Any], texts: Texts) -> Batch:
    b = golden["batch"]
    maps = [b["heatmap_image_sen"], b["heatmap_image_report"]]
    return make_batch(golden, texts, b, b["image"], b["disease_labels"], b["patient_id"], maps)


def scenario_batch(golden: dict[str, Any], texts: Texts, case: dict[str, Any]) -> Batch:
    maps = [case[k] for k in ("heatmap_sen", "heatmap_report") if case[k] is not None]
    labels = golden["batch"]["disease_labels"][case["idx"]]
    return make_batch(golden, texts, case["batch"], case["image"], labels, case["patient_id"], maps)


def run(model: CoGazeModel, config: Config, batch: Batch, weights: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """Outputs, and the five losses under their names."""
    outputs = model(**batch.model_inputs())
    counts = losses.local_counts(batch, config.loss)
    terms = losses.total(outputs, batch, counts, config.loss, weights)
    gamma, elements = config.loss.disease.gamma, batch.labels.numel()
    halves = [
        losses.focal_sum(logits, batch.labels, batch.labels_known, weights, gamma) / elements
        for logits in (outputs.image_logits, outputs.text_logits)
    ]
    return outputs, dict(zip(TERMS, (terms.total, terms.contrastive, terms.gaze, *halves), strict=True))


def compare(golden: dict[str, Any], report: Report) -> None:
    model, found, config = build(golden)
    unknown = [name for name, why in found.unused.items() if "no part" in why]
    report.add("weights without a place", len(unknown), 0, note=", ".join(unknown[:3]))
    never = set(golden["trainable_without_grad"]) - set(found.unused)
    report.add("never-trained weights carried over", len(never), 0, note=", ".join(sorted(never)[:3]))

    disease = config.loss.disease
    frequency = torch.tensor(golden["class_frequency"], dtype=torch.float64)
    weights = losses.class_weights(frequency, disease.beta, disease.scale_weights, disease.epsilon)
    report.add("class weights", weights, golden["class_weights"])

    texts = Texts(golden)
    batch = main_batch(golden, texts)
    _forward(golden, model, batch, report)
    outputs, terms = run(model, config, batch, weights)
    want = golden["outputs"]
    report.add("image logits", outputs.image_logits, want["vision_logits"])
    report.add("report logits", outputs.text_logits, want["report_logits"])
    _losses(report, "loss", terms, want)
    model.zero_grad()
    terms["loss"].backward(retain_graph=True)
    theirs = translate(golden["grads"]).weights
    report.add_all("gradient", _gradients(model), theirs, floors=scale_floor(outputs, batch, config, weights))

    for name, case in golden["scenarios"].items():
        _scenario(golden, model, config, texts, weights, name, case, report)
    _padding(golden, model, texts, report)
    for lr, path in golden["trajectory"].items():
        _trajectory(golden, config, batch, weights, float(lr), path, report)


def _losses(report: Report, name: str, terms: dict[str, Tensor], want: dict[str, Any]) -> None:
    scale = abs(float(want["loss"]))
    for term in TERMS:
        if term in want:  # without gaze there is no kl_loss; measured against the total, since a term may be 0
            report.add(f"{name}: {term}", terms[term], want[term], floor=1e-3 * scale)


def _gradients(model: CoGazeModel) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def scale_floor(outputs: Any, batch: Batch, config: Config, weights: Tensor) -> dict[str, float]:
    """What the gradients of the two scales are measured against: the norm of the terms that each is the sum of.

    The gaze scale's adds one term for every segment and patch, of both signs, with a norm up to ten times their sum:
    rounding of the features in the seventh digit moves the fifth digit of the sum. (The released value in the scenario
    `dup_dicom` of the given file is 1.4e-5 away from ours in float64.) The other one adds two matrices likewise.
    """
    scores = (outputs.logit_scale * outputs.image_features @ outputs.text_features.T).detach()  # (B,B)
    same = (batch.study[:, None] == batch.study).float()
    target = same / same.sum(1, keepdim=True)
    slope = (scores.softmax(1) - target + (scores.T.softmax(1) - target).T) / (2 * len(scores))
    parted = copy.copy(outputs)
    parted.gaze_scale = outputs.gaze_scale.detach().expand(batch.gaze.shape).clone().requires_grad_()  # (S,P)
    counts = losses.local_counts(batch, config.loss)
    total = losses.total(parted, batch, counts, config.loss, weights).total
    (terms,) = torch.autograd.grad(total, parted.gaze_scale)
    norms = ((slope * scores).norm().item(), (terms * parted.gaze_scale).norm().item())
    return dict(zip(("log_logit_scale", "log_gaze_scale"), norms, strict=True))


def _forward(golden: dict[str, Any], model: CoGazeModel, batch: Batch, report: Report) -> None:
    """Every intermediate value, on the main batch."""
    want, kept = golden["outputs"], {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: kept.setdefault(name, []).append(out))
        for name, module in (
            ("vision", model.vision),
            ("hidden", model.vision.encoder),
            ("perceiver", model.perceiver),
            ("projected", model.text.projector),
        )
    ]
    with torch.no_grad():
        model(**batch.model_inputs())
    for hook in hooks:
        hook.remove()
    report.add("image encoder", kept["hidden"][0].last_hidden_state, want["image_encoder_last_hidden_state"])
    report.add("projected image tokens", kept["vision"][0], want["vision_feat"])
    calls = golden["text_calls"]
    rows = {tuple(r): i for i, r in enumerate(batch.token_ids.tolist())}
    width = batch.token_ids.shape[1]
    pad = golden["tokenizer"]["pad"]
    contexts = sorted(set(batch.context_row[batch.context_row >= 0].tolist()))
    reports = sorted(set(batch.report_row.tolist()))
    for name, call, order in (("context", 0, contexts), ("report", 1, reports)):
        theirs = [
            rows[tuple(ids[m.bool()].tolist() + [pad] * (width - int(m.sum())))]
            for ids, m in zip(calls[name]["input_ids"], calls[name]["attention_mask"], strict=True)
        ]
        places = [order.index(row) for row in theirs]
        report.add(f"text tokens: {name}", kept["projected"][call][places], calls[name]["out"])
    has = batch.context_row >= 0
    order = torch.tensor([contexts.index(int(r)) for r in batch.context_row[has]], dtype=torch.int64)
    if has.any():
        report.add("context latents", kept["perceiver"][0][order], want["context_latent"][has])
    report.add("vision latents", kept["perceiver"][1], want["visual_latent"])


def _scenario(
    golden: dict[str, Any],
    model: CoGazeModel,
    config: Config,
    texts: Texts,
    weights: Tensor,
    name: str,
    case: dict[str, Any],
    report: Report,
) -> None:
    batch = scenario_batch(golden, texts, case)
    outputs, terms = run(model, config, batch, weights)
    report.add(f"{name}: image logits", outputs.image_logits, case["vision_logits"])
    report.add(f"{name}: report logits", outputs.text_logits, case["report_logits"])
    _losses(report, name, terms, case["losses"])
    model.zero_grad()
    terms["loss"].backward(retain_graph=True)
    want = translate({k: torch.tensor([v]) for k, v in case["grad_norm"].items()}).weights
    norms = {k: g.norm().reshape(1) for k, g in _gradients(model).items()}
    # what has no part in this batch (the gaze scale without gaze) has no gradient there and a zero one here
    zero = [k for k in norms.keys() - want.keys() if norms[k].item() == 0]
    floors = scale_floor(outputs, batch, config, weights)
    report.add_all(f"{name}: gradient norms", {k: v for k, v in norms.items() if k not in zero}, want, floors=floors)


def _padding(golden: dict[str, Any], model: CoGazeModel, texts: Texts, report: Report) -> None:
    """That a report's feature and a context's latents depend on their neighbours' length, by as much as there."""
    case = golden["padding_sensitivity"]
    batch = main_batch(golden, texts)
    rows = batch.report_row
    place = case["report_idx"]
    with torch.no_grad():
        every = model.text(batch.token_ids, batch.token_mask, rows[:0], rows).pooled
        one = rows[place : place + 1]
        ids, mask = batch.token_ids[one], batch.token_mask[one]
        alone = model.text(ids, mask, rows[:0], torch.tensor([0])).pooled
    report.add("padding: report alone", alone[:1], case["report_alone"])
    report.add("padding: report among others", every[one], case["report_in_batch"])
    for key, rows_in in (("ctx_in_batch", batch.context_row[batch.context_row >= 0].unique()), ("ctx_alone", None)):
        found = _context_latents(model, batch, rows_in, case[key])
        report.add(f"padding: {key.replace('_', ' ').replace('ctx', 'context')}", found, case[key])


def _context_latents(model: CoGazeModel, batch: Batch, rows: Tensor | None, want: Tensor) -> Tensor:
    """Latents of the context that the file means: it does not say which, so the nearest one is taken."""
    contexts = batch.context_row[batch.context_row >= 0].unique()
    candidates = []
    with torch.no_grad():
        start = model.start_latents()[0]
        for group in [rows] if rows is not None else [row[None] for row in contexts]:
            texts = model.text(batch.token_ids, batch.token_mask, group, batch.report_row.unique())
            candidates.extend(model.perceiver(start.expand(len(group), -1, -1), texts.tokens)[:, None])
    return min(candidates, key=lambda c: (c - want).norm().item())


def _trajectory(
    golden: dict[str, Any],
    config: Config,
    batch: Batch,
    weights: Tensor,
    lr: float,
    path: dict[str, Any],
    report: Report,
) -> None:
    """AdamW from the imported weights, on the main batch again and again."""
    model = build(golden)[0]
    settings: OptimConfig = config.optim.model_copy(update={"lr": lr})
    optimizer = optim.make_optimizer(model, settings)
    limit = STEPS_LIMIT.get(lr, SPIKY)
    for step, want in enumerate(path["losses"]):
        _, terms = run(model, config, batch, weights)
        report.add(f"lr {lr:g}: loss of step {step}", terms["loss"], want["loss"], limit=limit)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    want = translate({k: torch.tensor([v]) for k, v in path["final_param_norm"].items()}).weights
    got = {k: p.detach().norm().reshape(1) for k, p in model.named_parameters() if k in want}
    report.add_all(f"lr {lr:g}: norms of the weights after {len(path['losses'])} steps", got, want, limit=limit)
