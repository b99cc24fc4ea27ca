"""One rank of one launch: all layouts of one world size and one back end, measured on rank 0."""

from __future__ import annotations

import gc
import json
import os
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from cogaze import dist, losses, optim, step
from cogaze.batch import Batch
from cogaze.config import Config, validate
from cogaze.engine import Engine, make_accelerator
from cogaze.model import CoGazeConfig, CoGazeModel
from tests.model.tiny import VOCABULARY, concatenate, random_batch, tiny_settings

PIECES = 16
TERMS = ("total", "contrastive", "disease", "gaze")
# what a one-image piece lacks, in turn
KINDS = ({}, {"gaze": "none"}, {"contexts": "none"}, {"reports": "none"}, {"gaze": "none", "contexts": "none"})


def pieces() -> list[Batch]:
    """Half of a global batch has no gaze at all, so that ranks without gaze exist at every world size."""
    made = []
    for i in range(PIECES):
        how = {"reports": "all", "contexts": "all", "gaze": "none" if i >= PIECES // 2 else "all"} | KINDS[
            i % len(KINDS)
        ]
        made.append(random_batch(i, images=1, studies=5, **how))
    return made


def settings(strategy: str, micro: int, term: str, precision: str = "fp32") -> Config:
    tree = tiny_settings().model_dump()
    tree["train"] = {
        "steps": 1,
        "global_batch": PIECES,
        "micro_batch": micro,
        "strategy": strategy,
        "precision": precision,
    }
    tree["optim"]["clip_norm"] = None
    for name in TERMS[1:]:
        tree["loss"][name]["weight"] = {"disease": 3.0}.get(name, 1.0) if term in ("total", name) else 0.0
    return validate(tree, "test")


def build(config: Config, dtype: torch.dtype = torch.float32) -> CoGazeModel:
    torch.manual_seed(0)
    return CoGazeModel(CoGazeConfig.from_settings(config, VOCABULARY, 0)).to(dtype)


def class_weights() -> Tensor:
    return losses.class_weights(torch.arange(14.0) * 5, 0.99, True)


def one_process(dtype: torch.dtype = torch.float32) -> dict[str, tuple[float, dict[str, Tensor]]]:
    """Loss and gradient of each term on the concatenated batch; no process group may be up."""
    batch, found = concatenate(pieces()), {}
    for term in TERMS:
        config = settings("ddp", PIECES, term)
        model = build(config, dtype)
        terms = losses.total(
            model(**batch.model_inputs()), batch, losses.local_counts(batch, config.loss), config.loss, class_weights()
        )
        terms.total.backward()
        found[term] = (terms.total.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    return found


class Watched:
    """An engine whose update keeps the reduced gradient, whole, and takes no step."""

    def __init__(self, engine: Engine):
        self.engine, self.grads = engine, {}
        engine.update = self.update  # type: ignore[method-assign]

    def update(self, lr: float) -> float:
        engine = self.engine
        if engine.deepspeed and engine.stage:
            from deepspeed.utils import safe_get_full_grad

            full: Any = {name: safe_get_full_grad(p) for name, p in engine.model.named_parameters() if p.requires_grad}
        else:
            full = {name: p.grad for name, p in engine.model.named_parameters() if p.requires_grad}
        self.grads = {name: g.detach().clone() for name, g in full.items()}
        engine.discard()
        return 0.0


def measure(strategy: str, accumulation: int, term: str, want: tuple[float, dict[str, Tensor]]) -> dict[str, Any]:
    world = int(os.environ.get("WORLD_SIZE", "1"))  # the process group is not up before the first engine
    config = settings(strategy, PIECES // accumulation // world, term)
    AcceleratorState._reset_state()
    watched = Watched(
        Engine(make_accelerator(config), config, model := build(config), optim.make_optimizer(model, config.optim))
    )
    share = PIECES // world
    micro = share // accumulation
    every = pieces()
    # micro-batch a of rank r: the pieces a global micro-batch has for that rank
    mine = [every[a * world * micro + dist.rank() * micro :][:micro] for a in range(accumulation)]
    batches = [concatenate(part) for part in mine]
    done = step.train_step(watched.engine, batches, class_weights(), lr=1.0, step=0, stop_requested=False)
    off = sum((watched.grads[n].double() - g.double()).square().sum() for n, g in want[1].items()).sqrt()
    size = sum(g.double().square().sum() for g in want[1].values()).sqrt()
    assert watched.grads.keys() == want[1].keys()
    result = {
        "world": world, "strategy": strategy, "accumulation": accumulation, "term": term,
        "loss": abs(done.terms["loss"] - want[0]) / abs(want[0]), "gradient": (off / size).item(),
    }  # fmt: skip
    del watched
    gc.collect()
    return result


def main(out: str, layouts: list[tuple[str, int]], terms: list[str], wrong: str) -> None:
    torch.set_num_threads(1)
    want = one_process()
    if wrong:
        break_gather(wrong)
    found = [measure(strategy, a, term, want[term]) for strategy, a in layouts for term in terms]
    if dist.rank() == 0:
        with open(out, "w") as file:
            json.dump(found, file)
    dist.barrier()
    torch.distributed.destroy_process_group() if dist.ready() else None


def break_gather(how: str) -> None:
    """The ways in which other code bases gather: a test proves that they do not pass."""
    right = dist.gather_with_gradient

    def own_rows_only(value: Tensor) -> Tensor:
        rows = dist.gather(value).clone()
        rows[dist.rank() * len(value) : (dist.rank() + 1) * len(value)] = value
        return rows

    ways = {"detached": lambda v: dist.gather(v) + 0 * v.sum(), "own rows": own_rows_only, "right": right}
    dist.gather_with_gradient = ways[how]
