"""The parts by themselves: gaze term, class balance, contrastive term, heatmaps, Perceiver, image projector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Dinov2Config

from cogaze import losses
from cogaze.config import GazeConfig, load
from cogaze.data.heatmaps import pool_heatmap, remove_background
from cogaze.losses.gaze import gaze_sum
from cogaze.model.configuration import CoGazeConfig
from cogaze.model.perceiver import Perceiver
from cogaze.model.released import translate, view_names
from cogaze.model.vision import VisionTower
from cogaze.observations import view_index

from .model import CONFIG
from .report import Report


def compare(golden: dict[str, Any], report: Report) -> None:
    cases = golden["unit"]
    checks = {
        "js": gaze_cases,
        "class_balanced": class_cases,
        "contrastive": contrastive_cases,
        "heatmap": heatmap_cases,
    }
    for name, check in checks.items():
        worst(report, name, check(cases[name]))
    perceiver_case(cases["perceiver"], report)
    projector_case(cases["vision_projector"], report)


def worst(report: Report, name: str, found: Iterable[tuple[str, Any, Any, float]]) -> None:
    """One line for each kind of quantity: the worst case of it."""
    seen: dict[str, list[Report]] = {}
    for kind, got, want, floor in found:
        one = Report()
        one.add(f"{name}: {kind}", got, want, floor)
        seen.setdefault(kind, []).append(one)
    for kind, reports in seen.items():
        lines = [r.lines[0] for r in reports]
        line = next((bad for bad in lines if bad.error != bad.error), max(lines, key=lambda x: x.error))
        line.name = f"{name}: {kind}, worst of {len(lines)}"
        report.lines.append(line)


# ------------------------------------------------------------------------------------------------ losses
def gaze_cases(cases: list[dict[str, Any]]) -> Iterable[tuple[str, Any, Any, float]]:
    """Segments that are unit vectors make the similarities equal to the given logits."""
    base = load(CONFIG).loss.gaze
    for case in cases:
        ratio = case["topk_ratio"] or 1.0  # None and 0: no masking
        values = {}
        for name, weight in (("loss", case["i2t_weight"]), ("t2i", 1.0), ("i2t", 0.0)):
            config = base.model_copy(update={"rho": ratio, "transcript_to_patch": weight})
            logits = case["logits"].clone().requires_grad_()  # (n,P)
            values[name] = gaze_term(logits, case["heatmap"], config)
            if name == "loss":
                (grad,) = torch.autograd.grad(values[name], logits)
        for name, value in values.items():
            yield name, value, case[name], 1e-3  # of a term that reaches ln 2
        if case["grad"] is not None:  # the largest cases keep the norm alone
            yield "gradient", grad, case["grad"], 1e-6
        yield "gradient norm", grad.norm(), case["grad_norm"], 1e-6


def gaze_term(logits: Tensor, heatmap: Tensor, config: GazeConfig) -> Tensor:
    """The term of one image from its (segments, patches) logits."""
    segments = logits.shape[0]
    one_image = torch.zeros(segments, dtype=torch.int64)
    return gaze_sum(
        torch.eye(segments), logits.T[None], torch.ones(1), heatmap, one_image, torch.arange(segments), config
    )


def class_cases(cases: list[dict[str, Any]]) -> Iterable[tuple[str, Any, Any, float]]:
    """Both are means over elements."""
    for case in cases:
        weights = losses.class_weights(torch.tensor(case["freq"]), case["beta"], True, 1e-8)
        yield "weights", weights, case["weights"], 0.0
        logits = case["logits"].clone().requires_grad_()
        labels = case["labels"].float()
        focal = case["loss_type"] == "focal"
        known = torch.ones_like(labels, dtype=torch.bool)
        loss = losses.focal_sum(logits, labels, known, weights, case["gamma"] if focal else 0.0) / labels.numel()
        yield f"{case['loss_type']} loss", loss, case["loss"], 0.0
        yield f"{case['loss_type']} gradient", torch.autograd.grad(loss, logits)[0], case["grad"], 0.0


def contrastive_cases(cases: list[dict[str, Any]]) -> Iterable[tuple[str, Any, Any, float]]:
    for case in cases:
        image, text = (case[k].clone().requires_grad_() for k in ("image", "text"))
        log_scale = torch.tensor([float(case["log_scale"])], requires_grad=True)
        study = torch.tensor([sorted(set(case["ids"])).index(i) for i in case["ids"]])
        unit = [nn.functional.normalize(x, dim=-1) for x in (image, text)]
        has_report = torch.ones(len(study), dtype=torch.bool)
        loss = losses.contrastive_sum(*unit, log_scale.exp(), study, has_report) / len(study)
        grads = torch.autograd.grad(loss, (image, text, log_scale))
        yield "loss", loss, case["loss"], 1e-6
        yield "image gradient", grads[0], case["grad_image"], 1e-6
        yield "text gradient", grads[1], case["grad_text"], 1e-6
        yield "scale gradient", grads[2].reshape(()), case["grad_log_scale"], 1e-6


# ------------------------------------------------------------------------------------------------ parts
def heatmap_cases(cases: list[dict[str, Any]]) -> Iterable[tuple[str, Any, Any, float]]:
    for case in cases:
        pooled = pool_heatmap(case["file_bytes"], case["image_size"], case["patch"])
        yield "pooled", pooled, case["pooled"], 0.0
        yield "without background", remove_background(pooled).flatten(), case["output"], 0.0


def perceiver_case(case: dict[str, Any], report: Report) -> None:
    sizes, state = case["kwargs"], {f"perceiver.{k}": v for k, v in case["state_dict"].items()}
    found = translate(state)
    mult = case["state_dict"]["layers.0.1.fn.net.2.weight"].shape[1] // sizes["latent_dim"]
    model = Perceiver(sizes["latent_dim"], sizes["depth"], sizes["heads"], sizes["dim_head"], mult)
    model.load_state_dict({name.removeprefix("perceiver."): value for name, value in found.weights.items()})
    latent, data = case["latent"].clone().requires_grad_(), case["data"]
    out = model(latent, data)
    report.add("perceiver: out", out, case["out"])
    default = case["state_dict"]["latents"].expand(len(data), -1, -1)
    report.add("perceiver: its own latents", model(default, data), case["out_default_latents"])
    out.square().mean().backward()
    norms = {
        f"perceiver.{name}": p.grad.norm().reshape(1) for name, p in model.named_parameters() if p.grad is not None
    }
    want = translate({f"perceiver.{k}": torch.as_tensor(v).reshape(1) for k, v in case["grad_norm"].items()}).weights
    report.add_all("perceiver: gradient norms", norms, want)


def projector_case(case: dict[str, Any], report: Report) -> None:
    """View embedding, RMSNorm and projector on given tokens, with a stand-in for the image encoder."""
    state = translate({f"image_projector.{k}": v for k, v in case["state_dict"].items()}).weights
    width = case["x"].shape[-1]
    small = Dinov2Config(hidden_size=width, num_hidden_layers=1, num_attention_heads=1, image_size=14, patch_size=14)
    views = view_names(case["vp2id"], len(case["vp2id"]))
    config = CoGazeConfig(
        width=width, vision_config=small.to_dict(), views=views, perceiver={"read_cls": True}, image_size=14
    )
    tower = VisionTower(config)
    tower.load_state_dict({k.removeprefix("vision."): v for k, v in state.items()}, strict=False)
    rows = tower.view_row[torch.tensor([view_index(view) for view in case["views"]])]
    tokens = case["x"] + tower.view_embedding(rows)[:, None]
    report.add("image projector: out", tower.projector(tower.norm(tokens)), case["out"])
