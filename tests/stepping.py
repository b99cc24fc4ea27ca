"""What one rank of `tests/test_step.py` does: its share of four fixed micro-batches, two optimizer steps."""

from __future__ import annotations

import json

import torch

from cogaze import dist, losses, optim, step
from cogaze.config import validate
from cogaze.engine import Engine, accumulation, make_accelerator
from cogaze.model import CoGazeConfig, CoGazeModel
from tests.model.tiny import VOCABULARY, concatenate, random_batch, tiny_settings


def main(out: str, strategy: str, micro: int, how: str) -> None:
    """Rank 0 writes losses, norms and the resulting weights to `out`.

    how: "poison" (the loss of the last rank is NaN in the first step), "plain" (accumulation), "grad" (no step, but the
    mean of what the four pieces have by themselves) or "".
    """
    torch.set_num_threads(1)
    tree = tiny_settings().model_dump()
    plain = "plain" if how == "plain" else "cached"
    tree["train"] = {"steps": 2, "global_batch": 12, "micro_batch": micro, "strategy": strategy, "accumulation": plain}
    # with Adam's usual eps the first update is the sign of the gradient: rounding near zero becomes whole steps
    tree["optim"] = {"lr": 1e-2, "clip_norm": 0.5, "weight_decay": 0.1, "eps": 1e-3}
    config = validate(tree, "test")
    accelerator = make_accelerator(config)
    torch.manual_seed(0)
    model = CoGazeModel(CoGazeConfig.from_settings(config, VOCABULARY, 0))
    engine = Engine(accelerator, config, model, optim.make_optimizer(model, config.optim))
    weights = losses.class_weights(torch.arange(14.0) * 5, 0.99, True)
    pieces = [
        random_batch(s, images=3, gaze="none" if s % 2 else "some", contexts="none" if s == 2 else "some")
        for s in range(4)
    ]
    share = len(pieces) // dist.world()
    mine = pieces[dist.rank() * share : (dist.rank() + 1) * share]
    joined = micro // 3
    batches = [concatenate(mine[i : i + joined]) if joined > 1 else mine[i] for i in range(0, len(mine), joined)]
    assert len(batches) == accumulation(config, dist.world())
    engine.model.train()
    rows = []
    for s in range(0 if how == "grad" else 2):
        bad = how == "poison" and s == 0 and dist.rank() == dist.world() - 1  # one rank's loss is NaN in the first step
        asked = dist.rank() == 0 and s == 1
        w = weights * float("nan") if bad else weights
        r = step.train_step(engine, batches, w, lr=1e-2, step=s, stop_requested=asked)
        rows.append(
            {
                **r.terms,
                "grad_norm": r.grad_norm,
                "taken": r.taken,
                "stop": r.stop,
                "positives": r.positives_per_row,
                "several": r.multi_positive_share,
            }
        )
    if how == "grad":  # the mean of what the four pieces have by themselves: loss and gradient, in one process
        model.zero_grad(set_to_none=True)
        rows = []
        for piece in pieces:
            counts = losses.local_counts(piece, config.loss)
            terms = losses.total(engine.forward(piece), piece, counts, config.loss, weights)
            (terms.total / 4).backward()
            rows.append(terms.total.item())
        rows = [{"loss": sum(rows) / 4, "grad_norm": sum(p.grad.norm() ** 2 for p in model.parameters()).sqrt().item()}]
    evaluated = step.evaluate_loss(engine, batches if joined * dist.world() == 4 else [], weights)
    if dist.rank() == 0:
        state = {k: v.double().flatten().tolist() for k, v in model.state_dict().items()}
        with open(out, "w") as f:
            json.dump({"rows": rows, "state": state, "evaluated": evaluated}, f)
    dist.barrier()
    engine.close()
