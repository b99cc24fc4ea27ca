"""Two ranks take steps under one layout after another: `launch(cases)`. DDP and ZeRO cannot share a launch."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from cogaze import checkpoint, dist, engine, losses, optim, saving, step
from cogaze.config import Config, validate
from cogaze.engine import Engine, make_accelerator
from cogaze.model import CoGazeConfig, CoGazeModel
from cogaze.model.blocks import compile_blocks
from tests import forkserver
from tests.model.tiny import VOCABULARY, random_batch, tiny_settings

STEPS = 3  # of them the second is not taken: the last rank sees a loss that is no number
RATE = 1e-2


def settings(case: dict[str, Any]) -> Config:
    """A case gives settings of `train`; under `optim` and `model` those of these sections."""
    tree = tiny_settings(**case.get("model", {})).model_dump()
    tree["train"] = {"steps": STEPS, "global_batch": 12, "micro_batch": 3}
    tree["optim"] = {"lr": RATE, "clip_norm": 0.5, "weight_decay": 0.1, "eps": 1e-3}
    for key, value in case.items():
        if key == "optim":
            tree["optim"] |= value
        elif key != "model":
            tree["train"][key] = value
    return validate(tree, "test")


def build(config: Config, seed: int = 0) -> CoGazeModel:
    torch.manual_seed(seed)
    return CoGazeModel(CoGazeConfig.from_settings(config, VOCABULARY, 0))


def make(config: Config, seed: int = 0) -> Engine:
    AcceleratorState._reset_state()
    accelerator = make_accelerator(config)
    model = build(config, seed)
    return Engine(accelerator, config, model, optim.make_optimizer(model, config.optim))


def weights_of(model: CoGazeModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def train(made: Engine, config: Config) -> dict[str, Any]:
    """Losses, norms and weights after every step."""
    weights = losses.class_weights(torch.arange(14.0) * 5, 0.99, True)
    pieces = [random_batch(s, images=3, gaze="none" if s % 2 else "some") for s in range(4)]
    share = len(pieces) // dist.world()
    mine = pieces[dist.rank() * share : (dist.rank() + 1) * share]
    made.model.train()
    after, rows = [weights_of(made.whole())], []
    for s in range(STEPS):
        bad = s == 1 and dist.rank() == dist.world() - 1
        seen = weights * float("nan") if bad else weights
        done = step.train_step(made, mine, seen, lr=RATE, step=s, stop_requested=False)
        rows.append({**done.terms, "grad_norm": done.grad_norm, "taken": done.taken})
        after.append(weights_of(made.whole()))
    return {"rows": rows, "after": after}


def saved_and_opened(made: Engine, config: Config, folder: Path) -> dict[str, Any]:
    """The average as the checkpoint has it, as a new engine has it that opened it, and as an evaluation sees it."""
    from tests.saves import TOKENIZER

    before = weights_of(made.whole())
    with made.averaged():
        seen = weights_of(made.whole())
    again = weights_of(made.whole())
    state = checkpoint.TrainerState(step=STEPS, skipped_steps=1)
    place = saving.save(made, TOKENIZER, state, folder, config)
    dist.barrier()
    other = make(config, seed=1)
    checkpoint.resume(other, place, config, checkpoint.TrainerState())
    assert other.average is not None
    return {
        "seen": seen, "untouched": all(torch.equal(before[name], again[name]) for name in before),
        "file": str(place / checkpoint.AVERAGE), "opened": dict(other.average.whole()), "taken": other.average.taken,
    }  # fmt: skip


def main(out: str, cases: list[dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    # the test of what the compiler makes is in one process; here it is what the ranks do with compiled blocks
    engine.compile_blocks = lambda model: compile_blocks(model, backend="aot_eager")
    found = []
    for number, case in enumerate(cases):
        config = settings(case)
        made = make(config)
        assert made.stage != 3 or not any(p.ds_persist for p in made.parameters)
        result = train(made, config) | {"dtypes": {str(p.dtype) for p in made.parameters}}
        if made.average is not None:
            result |= saved_and_opened(made, config, Path(out).parent / f"run-{number}")
        found.append(copy.deepcopy(result))
    if dist.rank() == 0:
        torch.save(found, out)
    dist.barrier()
    torch.distributed.destroy_process_group()


def launch(folder: Path, cases: list[dict[str, Any]], world: int = 2) -> list[dict[str, Any]]:
    """What rank 0 found for each case, in files under `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out, ranks = folder / "found.pt", []
    # ZeRO-3 leaves parameters of under 100,000 values whole, which all of this model's are
    (folder / "deepspeed.json").write_text('{"zero_optimization": {"stage3_param_persistence_threshold": 0}}')
    for rank in range(world):
        env = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1"}
        env |= {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(folder / "deepspeed.json")}
        env |= {"MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        ranks.append(forkserver.Run("tests.switched:main", str(out), cases, env=env))
    codes = [rank.wait() for rank in ranks]
    assert not any(codes), "\n".join(rank.output[-4000:] for rank in ranks)
    return torch.load(out)
