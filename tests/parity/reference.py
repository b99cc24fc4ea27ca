"""The released computation a second time, slow and literal, from its description alone: none of our modules takes part.

`make(seed)` gives a file of the shape that `python -m tests.parity` reads, for a tiny random model with the released
parameter names. The two encoders are transformers'; everything after them is written out here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

D, LATENTS, DEPTH, INNER, SIZE, PATCH, LENGTH = 16, 5, 2, 128, 42, 14, 24
VIEWS = {"AP": 0, "PA": 1, "LATERAL": 2, "LL": 3, "unknown": 4}
PAD, SEP, CLS, INDICATION, HISTORY, FINDINGS, TRANSCRIPT = range(40, 47)
EPS = 1e-8
Params = dict[str, Tensor]


class Released:
    """Forward and losses of the released code over a dict of parameters under its names."""

    def __init__(self, seed: int):
        torch.manual_seed(seed)
        self.vision_config = Dinov2Config(
            hidden_size=D, num_hidden_layers=2, num_attention_heads=4, image_size=SIZE, patch_size=PATCH, mlp_ratio=2
        )
        self.text_config = BertConfig(
            vocab_size=47, hidden_size=D, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=32, pad_token_id=PAD,
        )  # fmt: skip
        self.vision = Dinov2Model(self.vision_config).eval()
        self.text = BertModel(self.text_config, add_pooling_layer=False).eval()
        self.params = self._draw()
        frozen = [name for name in self.params if name.startswith("image_encoder.")]
        self.trained = [name for name in self.params if name not in frozen]
        for name in self.trained:
            self.params[name].requires_grad_()
        self.frequency = torch.randint(3, 200, (14,)).tolist()
        weights = (1 - 0.9999) / (1 - 0.9999 ** torch.tensor(self.frequency, dtype=torch.float64) + EPS)
        self.class_weights = (weights / weights.sum() * 14).float()

    def _draw(self) -> Params:
        def linear(name: str, into: int, out: int, bias: bool = True) -> Params:
            made = {f"{name}.weight": torch.randn(out, into) / math.sqrt(into)}
            return made | ({f"{name}.bias": torch.randn(out) * 0.1} if bias else {})

        def norm(name: str) -> Params:
            return {f"{name}.weight": 1 + 0.1 * torch.randn(D), f"{name}.bias": 0.1 * torch.randn(D)}

        p: Params = {f"image_encoder.{old_dinov2(k)}": v.clone() for k, v in self.vision.state_dict().items()}
        p |= {
            f"text_encoder.bert.{k}": v.clone() * 8 for k, v in self.text.state_dict().items() if "LayerNorm" not in k
        }
        for k in self.text.state_dict():
            if "LayerNorm" in k:
                p[f"text_encoder.bert.{k}"] = float(k.endswith("weight")) + 0.1 * torch.randn(D)
        p |= linear("text_encoder.cls.predictions.transform.dense", D, D)
        p |= linear("text_encoder.cls_projection_head.dense_to_hidden", D, 8)
        p |= {"perceiver.latents": torch.randn(LATENTS, D), "shared_latent": torch.randn(LATENTS, D)}
        p |= {f"latent_type_embed.{kind}": torch.randn(1, D) for kind in ("context", "image")}
        p |= {"logit_scale": torch.tensor(math.log(1 / 0.07)), "logit_scale_gaze": torch.tensor(math.log(1 / 0.07))}
        p |= {
            "image_projector.add_pos_embed.pos_embed": torch.randn(5, 1, D),
            "image_projector.add_pos_embed.pos_norm.weight": 1 + 0.1 * torch.randn(D),
        }
        for root in ("image_projector.projector", "text_projector.layers"):
            p |= linear(f"{root}.0", D, 2 * D) | linear(f"{root}.2", 2 * D, D)
        for i in range(DEPTH):
            for root in (f"perceiver.layers.{i}.0", f"perceiver.layers.{i}.2.0.0"):
                p |= norm(f"{root}.norm") | linear(f"{root}.fn.to_q", D, INNER, bias=False)
                p |= linear(f"{root}.fn.to_kv", D, 2 * INNER, bias=False) | linear(f"{root}.fn.to_out", INNER, D)
            p |= norm(f"perceiver.layers.{i}.0.norm_context")
            for root in (f"perceiver.layers.{i}.1", f"perceiver.layers.{i}.2.0.1"):
                p |= norm(f"{root}.norm") | linear(f"{root}.fn.net.0", D, 8 * D) | linear(f"{root}.fn.net.2", 4 * D, D)
        return p | linear("vision_classifier.classifier", D, 14) | linear("report_classifier.classifier", D, 14)

    # -------------------------------------------------------------------------------------------- forward
    def two_layers(self, x: Tensor, root: str) -> Tensor:
        p = self.params
        hidden = F.gelu(F.linear(x, p[f"{root}.0.weight"], p[f"{root}.0.bias"]))
        return F.linear(hidden, p[f"{root}.2.weight"], p[f"{root}.2.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (D,), self.params[f"{name}.weight"], self.params[f"{name}.bias"], 1e-5)

    def attention(self, x: Tensor, context: Tensor, root: str) -> Tensor:
        p, heads = self.params, INNER // 64
        q = (x @ p[f"{root}.to_q.weight"].T).unflatten(-1, (heads, 64))
        k, v = (context @ p[f"{root}.to_kv.weight"].T).chunk(2, dim=-1)
        k, v = k.unflatten(-1, (heads, 64)), v.unflatten(-1, (heads, 64))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * 64**-0.5
        read = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
        return read @ p[f"{root}.to_out.weight"].T + p[f"{root}.to_out.bias"]

    def feed_forward(self, z: Tensor, root: str) -> Tensor:
        p = self.params
        x, gate = F.linear(
            self.norm(z, f"{root}.norm"), p[f"{root}.fn.net.0.weight"], p[f"{root}.fn.net.0.bias"]
        ).chunk(2, dim=-1)
        return F.linear(x * F.gelu(gate), p[f"{root}.fn.net.2.weight"], p[f"{root}.fn.net.2.bias"])

    def perceiver(self, z: Tensor, data: Tensor) -> Tensor:
        for i in range(DEPTH):
            cross, own = f"perceiver.layers.{i}.0", f"perceiver.layers.{i}.2.0.0"
            z = z + self.attention(
                self.norm(z, f"{cross}.norm"), self.norm(data, f"{cross}.norm_context"), f"{cross}.fn"
            )
            z = z + self.feed_forward(z, f"perceiver.layers.{i}.1")
            normed = self.norm(z, f"{own}.norm")
            z = z + self.attention(normed, normed, f"{own}.fn")
            z = z + self.feed_forward(z, f"perceiver.layers.{i}.2.0.1")
        return z

    def image_tokens(self, hidden: Tensor, views: list[str]) -> Tensor:
        p = self.params
        x = hidden + p["image_projector.add_pos_embed.pos_embed"][[VIEWS[v] for v in views]]
        x = x / (x.norm(dim=-1, keepdim=True) / math.sqrt(D) + EPS) * p["image_projector.add_pos_embed.pos_norm.weight"]
        return self.two_layers(x, "image_projector.projector")

    def tokens(self, texts: list[str]) -> dict[str, Any]:
        """One call of the text encoder: ids padded to its longest, projected token features."""
        ids = [encode(text) for text in texts]
        longest = max(map(len, ids))
        padded = torch.tensor([row + [PAD] * (longest - len(row)) for row in ids])
        mask = torch.tensor([[int(i < len(row)) for i in range(longest)] for row in ids])
        root = "text_encoder.bert."
        own = {k.removeprefix(root): v for k, v in self.params.items() if k.startswith(root)}
        hidden = functional_call(self.text, own, kwargs={"input_ids": padded, "attention_mask": mask})
        out = self.two_layers(hidden.last_hidden_state, "text_projector.layers")
        return {"texts": texts, "input_ids": padded, "attention_mask": mask, "out": out}

    def forward(
        self, b: dict[str, Any], image: Tensor, ids: list[str], labels: Tensor, maps: list[Tensor]
    ) -> dict[str, Any]:
        p, n = self.params, len(ids)
        with torch.no_grad():
            hidden = self.vision(image).last_hidden_state
        x = self.image_tokens(hidden, b["view_position"])
        has = [i for i in range(n) if b["knowledge"][i] != "[PAD]"]
        shared = p["shared_latent"]
        start = (shared + p["latent_type_embed.image"]).expand(n, -1, -1).clone()
        calls: dict[str, Any] = {}
        if has:
            calls["context"] = self.tokens([b["knowledge"][i] for i in has])
            first = (shared + p["latent_type_embed.context"]).expand(len(has), -1, -1)
            start[has] = self.perceiver(first, calls["context"]["out"])
        latents = self.perceiver(start, x)
        calls["report"] = self.tokens(b["align_report"])
        pooled_image, pooled_text = latents.mean(1), calls["report"]["out"].mean(1)
        heads = [
            F.linear(value, p[f"{name}.classifier.weight"], p[f"{name}.classifier.bias"])
            for name, value in (("vision_classifier", pooled_image), ("report_classifier", pooled_text))
        ]
        similarity = p["logit_scale"].exp() * F.normalize(pooled_image, dim=-1) @ F.normalize(pooled_text, dim=-1).T
        losses = {"align_loss": both_ways(similarity, ids)}
        halves = [
            (F.binary_cross_entropy_with_logits(z, labels.float(), reduction="none") * self.class_weights).mean()
            for z in heads
        ]
        losses |= dict(zip(("img_disease_loss", "text_disease_loss"), halves, strict=True))
        total = losses["align_loss"] + 0.5 * halves[0] + 0.5 * halves[1]
        if b["transcript_sen"]:
            calls["transcript_sen"] = self.tokens(b["transcript_sen"])
            calls["transcript_report"] = self.tokens(b["transcript_report"])
            spoken = torch.cat([calls[k]["out"][:, 0] for k in ("transcript_sen", "transcript_report")])
            owner = [*b["transcript_sen_id"], *b["transcript_report_id"]]
            heat = torch.cat(maps)
            each = []
            for i, dicom in enumerate(b["dicom_id"]):
                mine = [s for s, o in enumerate(owner) if o == dicom]
                if mine:
                    near = F.normalize(spoken[mine], dim=-1) @ F.normalize(x[i, 1:], dim=-1).T
                    scores = p["logit_scale_gaze"].exp() * near
                    each.append(
                        0.2 * divergence(scores, heat[mine], 0.25) + 0.8 * divergence(scores.T, heat[mine].T, 0.25)
                    )
            losses["kl_loss"] = torch.stack(each).mean()
            total = total + losses["kl_loss"]
        outputs = {
            "image_encoder_last_hidden_state": hidden, "vision_feat": x, "context_latent": start,
            "visual_latent": latents,
            "report_feat": calls["report"]["out"], "vision_logits": heads[0], "report_logits": heads[1],
        }  # fmt: skip
        return outputs | losses | {"loss": total, "calls": calls}

    def gradients(self, loss: Tensor) -> Params:
        grads = torch.autograd.grad(loss, [self.params[n] for n in self.trained], allow_unused=True, retain_graph=True)
        return {name: grad for name, grad in zip(self.trained, grads, strict=True) if grad is not None}


def old_dinov2(name: str) -> str:
    """transformers 4's names of the attention's projections."""
    for new, old in (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value")):
        name = name.replace(f".{new}.", f".{old}.")
    return name.replace(".o_proj.", ".output.dense.")


def encode(text: str) -> list[int]:
    """A toy tokenizer: markers have their ids, a word is its length and first letter."""
    markers = {"[CLS]": CLS, "[SEP]": SEP, "[INDICATION]": INDICATION, "[HISTORY]": HISTORY, "[FINDINGS]": FINDINGS,
               "[TRANSCRIPT]": TRANSCRIPT}  # fmt: skip
    return [markers.get(word, (len(word) * 7 + ord(word[0])) % PAD) for word in text.split()][:LENGTH]


def both_ways(scores: Tensor, ids: list[str]) -> Tensor:
    same = torch.tensor([[float(a == b) for b in ids] for a in ids])
    target = same / same.sum(1, keepdim=True)
    each = [-(target * s.log_softmax(1)).sum(1).mean() for s in (scores, scores.T)]
    return (each[0] + each[1]) / 2


def divergence(scores: Tensor, heat: Tensor, ratio: float | None) -> Tensor:
    """Mean Jensen-Shannon divergence of the rows that keep any mass, 0 without such a row."""
    rows = []
    for score, row in zip(scores, heat, strict=True):
        kept = row.clone()
        if ratio:
            count = max(1, math.floor(ratio * int((row > EPS).sum())))
            kept = torch.zeros_like(row)
            best = sorted(range(len(row)), key=lambda j: -row[j].item())[:count]
            kept[best] = row[best]
        if kept.sum() > EPS:
            p, q = kept / (kept.sum() + EPS), score.softmax(0)
            m = (p + q) / 2 + EPS
            rows.append(0.5 * (p * ((p + EPS).log() - m.log())).sum() + 0.5 * (q * ((q + EPS).log() - m.log())).sum())
    return torch.stack(rows).mean() if rows else scores.sum() * 0


# ------------------------------------------------------------------------------------------------ the file
def make(seed: int) -> dict[str, Any]:
    """A file of the shape of the released numbers."""
    net = Released(seed)
    g = torch.Generator().manual_seed(seed + 1)
    n, patches = 6, (SIZE // PATCH) ** 2

    def words(count: int) -> str:
        some = torch.randint(0, 26, (count, 5), generator=g)
        return " ".join("".join(chr(97 + int(c)) for c in row[: 1 + int(row[0]) % 5]) for row in some)

    reports = [f"[CLS] [FINDINGS] {words(4 + 3 * i)}" for i in range(n)]
    reports[1] = reports[0]
    contexts = [f"[CLS] [INDICATION] {words(2 + i)} [SEP] [HISTORY] {words(3)}" for i in range(n)]
    contexts[1], contexts[3] = contexts[0], "[PAD]"
    dicoms = [f"d{i}" for i in range(n)]
    owners, full = ["d0", "d0", "d0", "d2", "d2", "d4"], ["d0", "d2", "d4"]
    sentences = [f"[CLS] [TRANSCRIPT] {words(3 + i)}" for i in range(len(owners))]
    paragraphs = [f"[CLS] [TRANSCRIPT] {words(9 + i)}" for i in range(len(full))]
    heat = [torch.rand(len(o), patches, generator=g) * 255 for o in (owners, full)]
    for h in heat:
        h[h < 80] = 0
    heat[0][1] = 0  # nothing looked at
    pixels = torch.randint(0, 256, (n, 1, SIZE, SIZE), generator=g)
    image = ((pixels / 255 - 0.5307) / 0.2583).expand(-1, 3, -1, -1)
    labels = (torch.rand(n, 14, generator=g) < 0.4).long()
    views = ["AP", "PA", "LATERAL", "LL", "unknown", "AP"]
    studies = ["a", "a", "b", "c", "d", "e"]

    def part(idx: list[int]) -> tuple[dict[str, Any], list[Tensor]]:
        chosen = [dicoms[i] for i in idx]
        rows = [[j for d in chosen for j, o in enumerate(own) if o == d] for own in (owners, full)]
        b = {
            "dicom_id": chosen, "view_position": [views[i] for i in idx], "align_report": [reports[i] for i in idx],
            "knowledge": [contexts[i] for i in idx],
            "transcript_sen": [sentences[j] for j in rows[0]], "transcript_sen_id": [owners[j] for j in rows[0]],
            "transcript_report": [paragraphs[j] for j in rows[1]], "transcript_report_id": [full[j] for j in rows[1]],
        }  # fmt: skip
        return b, [heat[0][rows[0]], heat[1][rows[1]]] if rows[0] else []

    def losses(out: dict[str, Any]) -> dict[str, float]:
        return {k: v.item() for k, v in out.items() if k.endswith("loss")}

    b, maps = part(list(range(n)))
    out = net.forward(b, image, studies, labels, maps)
    grads = net.gradients(out["loss"])
    file: dict[str, Any] = {
        "state_dict": {k: v.detach().clone() for k, v in net.params.items()},
        "vp2id": VIEWS, "args": {"encoder_max_length": LENGTH}, "tokenizer": {"pad": PAD},
        "image_encoder_config": net.vision_config.to_dict(), "text_encoder_config": net.text_config.to_dict(),
        "class_frequency": net.frequency, "class_weights": net.class_weights,
        "trainable_without_grad": [name for name in net.trained if name not in grads],
        "text_calls": out.pop("calls"), "outputs": out, "grads": grads,
        "batch": b | {"patient_id": studies, "image": image, "disease_labels": labels,
                      "heatmap_image_sen": maps[0], "heatmap_image_report": maps[1]},
    }  # fmt: skip
    file["scenarios"] = {}
    cases = {
        "no_gaze": [1, 3, 5],
        "all_context": [0, 1, 2, 4],
        "no_context": [3],
        "single": [2],
        "dup_dicom": [0, 0, 2, 3],
    }
    for name, idx in cases.items():
        some, heats = part(idx)
        found = net.forward(some, image[idx], [studies[i] for i in idx], labels[idx], heats)
        file["scenarios"][name] = {
            "idx": idx, "batch": some, "image": image[idx], "patient_id": [studies[i] for i in idx],
            "heatmap_sen": heats[0] if heats else None, "heatmap_report": heats[1] if heats else None,
            "vision_logits": found["vision_logits"], "report_logits": found["report_logits"], "losses": losses(found),
            "grad_norm": {k: float(v.norm()) for k, v in net.gradients(found["loss"]).items()},
        }  # fmt: skip
    start = (net.params["shared_latent"] + net.params["latent_type_embed.context"])[None]
    alone = net.tokens([contexts[0]])["out"]
    file["padding_sensitivity"] = {
        "report_idx": 0, "report_alone": net.tokens(reports[:1])["out"].mean(1),
        "report_in_batch": out["report_feat"].mean(1)[:1],
        "ctx_alone": net.perceiver(start, alone), "ctx_in_batch": out["context_latent"][:1],
    }  # fmt: skip
    file["unit"] = _units(net, g)
    file["trajectory"] = {lr: _steps(seed, lr, (b, image, studies, labels, maps), losses) for lr in (5e-5, 1e-3)}
    return _detached(file)


def _detached(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach()
    if isinstance(tree, dict):
        return {key: _detached(value) for key, value in tree.items()}
    return [_detached(value) for value in tree] if isinstance(tree, list) else tree


def _steps(seed: int, lr: float, given: Any, losses: Any) -> dict[str, Any]:
    net = Released(seed)
    optimizer = torch.optim.AdamW([net.params[name] for name in net.trained], lr=lr, weight_decay=0.01)
    seen = []
    for _ in range(5):
        out = net.forward(*given)
        seen.append(losses(out))
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    return {"losses": seen, "final_param_norm": {name: net.params[name].norm().item() for name in net.trained}}


def _units(net: Released, g: torch.Generator) -> dict[str, Any]:
    js = []
    for ratio in (None, 0.25, 0.0):
        logits = (torch.randn(9, 25, generator=g) * 4).requires_grad_()
        heat = torch.rand(9, 25, generator=g) * 200
        forth, back = divergence(logits, heat, ratio), divergence(logits.T, heat.T, ratio)
        loss = 0.2 * forth + 0.8 * back
        (grad,) = torch.autograd.grad(loss, logits)
        js.append({"logits": logits.detach(), "heatmap": heat, "topk_ratio": ratio, "i2t_weight": 0.2, "loss": loss,
                   "t2i": forth.detach(), "i2t": back.detach(), "grad": grad, "grad_norm": grad.norm()})  # fmt: skip
    latent, data = torch.randn(2, LATENTS, D, generator=g), torch.randn(2, 7, D, generator=g)
    names = [n for n in net.trained if n.startswith("perceiver.layers")]
    out = net.perceiver(latent, data)
    grads = torch.autograd.grad(out.square().mean(), [net.params[n] for n in names], retain_graph=True)
    own = {n.removeprefix("perceiver."): net.params[n].detach() for n in net.trained if n.startswith("perceiver.")}
    projector = {
        n.removeprefix("image_projector."): v.detach() for n, v in net.params.items() if "image_projector." in n
    }
    x, views = torch.randn(3, 10, D, generator=g), ["LL", "unknown", "AP"]
    return {
        "js": js, "class_balanced": [], "contrastive": [], "heatmap": [],
        "perceiver": {
            "kwargs": {"latent_dim": D, "depth": DEPTH, "heads": INNER // 64, "dim_head": 64}, "state_dict": own,
            "data": data, "latent": latent, "out": out,
            "out_default_latents": net.perceiver(own["latents"].expand(2, -1, -1), data),
            "grad_norm": {n.removeprefix("perceiver."): v.norm() for n, v in zip(names, grads, strict=True)},
        },
        "vision_projector": {"state_dict": projector, "x": x, "views": views, "vp2id": VIEWS,
                             "out": net.image_tokens(x, views)},
    }  # fmt: skip
