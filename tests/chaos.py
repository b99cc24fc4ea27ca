"""`python -m tests.chaos --kills N [--strategy any]`: a run that is killed again and again ends as if it had not been.

Two runs on the same shards: one unbroken on one rank under DDP; the other started on 1, 2 or 4 ranks at random (and
with `--strategy any` under DDP or a ZeRO stage at random), and stopped at a random moment: kill -9 of one random rank
or of all, SIGTERM or SIGUSR2; while it starts, between steps, inside an evaluation, inside saving. It is started again
until it has done all its steps. Then its metrics.jsonl is the unbroken one's: each step once, the same samples, losses
within what another order of summation does.

A start is a fork of this process, which has imported all that a run needs, running the `cogaze` command; the launcher
forks its ranks likewise. A start of its own would import for ten seconds first.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.forking import DEEPSPEED, Forked, preload
from tests.phantoms import TINY, phantom_shards

ROOT = Path(__file__).resolve().parents[1]
STRATEGIES = ("ddp", "zero0", "zero1", "zero2", "zero3")
EXACT = ("step", "epoch", "samples_seen", "lr")
CLOSE = ("loss", "loss_contrastive", "loss_disease", "loss_gaze", "logit_scale", "gaze_scale", "grad_norm", "eval_loss")
TOLERANCE = 1e-5  # relative; what rounding in another order grows to in some tens of steps (fp32)
STOPS = ("kill a rank", "kill all", "SIGTERM", "SIGUSR2")
MOMENTS = ("starting", "between steps", "evaluating", "saving")
SAVE_EVERY, EVAL_EVERY = 3, 5


@dataclass
class Found:
    """What a chaos run did, and what is wrong with its result (empty = nothing)."""

    stops: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    worlds: Counter[int] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    largest: float = 0.0  # relative difference of a figure in CLOSE
    faults: list[str] = field(default_factory=list)


def arguments(run: Path, shards: Path, steps: int, world: int, strategy: str) -> list[str]:
    settings = (
        f"run.dir={run}", f"data.shards=[{shards}]", f"train.steps={steps}", "tracking.mlflow=false",
        "run.deterministic=true", *TINY, f"train.micro_batch={8 // world}", f"train.save_every={SAVE_EVERY}",
        f"eval.every={EVAL_EVERY}", "eval.max_batches=2", "optim.lr=3e-4", f"train.strategy={strategy}",
    )  # fmt: skip
    return ["train", "configs/demo.yaml", *settings, "--nproc", str(world)]


def cogaze(arguments: list[str]) -> int:
    """The `cogaze` command in a fork; what it starts itself (ranks of a launcher, stages of the demo) forks too."""
    import launch.local
    from cogaze.cli import demo
    from cogaze.cli.main import run
    from cogaze.faults import leave

    def started(command: list[str], *, env: Mapping[str, str] = os.environ, **_: Any) -> Forked:
        module, *given = command[2:]
        again = [*{"cogaze.train": ["train"], "cogaze": []}[module], *given]
        return Forked(lambda: cogaze(again), env)

    launch.local.subprocess = SimpleNamespace(Popen=started)  # type: ignore[assignment]
    demo.subprocess = SimpleNamespace(Popen=started, call=lambda command: started(command).wait())  # type: ignore[assignment]
    leave(run(arguments))


def start(arguments: list[str], log: Path) -> Forked:
    return Forked(functools.partial(cogaze, arguments), os.environ, log)


def rows(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def is_at(moment: str, run: Path, begun: float, seen: int, delay: float) -> bool:
    """Whether the run is now at the moment meant."""
    if moment == "starting":
        return time.monotonic() - begun > 3 * delay
    if moment == "saving":
        return any((run / "checkpoints").glob(".step-*"))
    here = rows(run)
    if moment == "evaluating":
        return len(here) > seen and here[-1].get("event") != "eval" and here[-1]["step"] % EVAL_EVERY == 0
    return len(here) > seen + int(4 * delay)


def ranks_of(launcher: int) -> list[int]:
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def stop(process: Forked, how: str, draw: random.Random) -> None:
    ranks = ranks_of(process.pid)
    if how == "kill all" or (how == "kill a rank" and not ranks):
        process.kill()  # the ranks die with their launcher
    elif how == "kill a rank":
        os.kill(draw.choice(ranks), signal.SIGKILL)
    else:
        process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGUSR2)


def one_start(
    run: Path, shards: Path, steps: int, draw: random.Random, found: Found, disturb: bool, strategy: str
) -> bool:
    """Start once, disturb it perhaps, wait for its end; True when it has done all steps."""
    world = draw.choice((1, 2, 4))
    strategy = draw.choice(STRATEGIES) if strategy == "any" else strategy
    moment, how, delay = draw.choice(MOMENTS), draw.choice(STOPS), draw.random()
    found.worlds[world] += 1
    found.strategies[strategy] += 1
    log, disturbed = run.parent / "output.log", False
    begun, seen = time.monotonic(), len(rows(run))
    process = start(arguments(run, shards, steps, world, strategy), log)
    while process.poll() is None and time.monotonic() < begun + 300:
        if disturb and is_at(moment, run, begun, seen, delay):
            disturbed = True
            found.moments[moment] += 1
            found.stops[how] += 1
            stop(process, how, draw)
            break
        time.sleep(0.002)
    try:
        code = process.wait(180)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        after = f"after {how} while {moment} " if disturbed else ""
        found.faults.append(f"it hung {after}on {world} ranks under {strategy}: {tail(log)}")
        code = process.wait()
    found.codes[code] += 1
    if code == 2 or (code not in (0, 3) and not disturbed):
        found.faults.append(f"exit code {code} on {world} ranks under {strategy}: {tail(log)}")
    return code == 0


def tail(log: Path) -> str:
    return log.read_bytes()[-1500:].decode(errors="replace") if log.is_file() else ""


def _say(line: str) -> None:
    print(line, flush=True)


def begin() -> Path:
    """Import what forks need, once; and the shards, which another process makes."""
    os.chdir(ROOT)
    preload("cogaze.train", "cogaze.moments", "data_prep.build", "data_prep.sources", "launch.local", *DEEPSPEED)
    with tempfile.NamedTemporaryFile("r") as told:
        code = Forked(lambda: Path(told.name).write_text(str(phantom_shards())) * 0, os.environ).wait(120)
        assert code == 0, "the phantom shards could not be made"
        return Path(told.read())


def chaos(
    folder: Path, kills: int, seed: int, steps: int, strategy: str = "ddp", say: Callable[[str], None] = _say
) -> Found:
    """Run both; what differs is in the result's `faults`. The process must be one that may fork."""
    draw, found, shards = random.Random(seed), Found(), begin()
    unbroken, run = folder / "unbroken" / "run", folder / "broken" / "run"
    for path in (unbroken, run):
        path.parent.mkdir(parents=True)
    log = unbroken.parent / "output.log"
    if start(arguments(unbroken, shards, steps, 1, "ddp"), log).wait(600):
        found.faults.append(f"the unbroken run failed: {tail(log)}")
        return found
    finished = False
    while not finished and not found.faults:
        disturbed = sum(found.stops.values())
        finished = one_start(run, shards, steps, draw, found, disturbed < kills, strategy)
        here = [row["step"] for row in rows(run)]
        disturbed = sum(found.stops.values())
        say(f"{disturbed:4d} of {kills}: step {max(here, default=0)} of {steps}")
        if finished and disturbed < kills:  # nothing left to disturb: begin anew, keep counting
            compare(unbroken, run, found)
            os.rename(run.parent, folder / f"done-{sum(found.codes.values())}")
            run.parent.mkdir()
            finished = False
    if not found.faults:
        compare(unbroken, run, found)
    return found


def compare(unbroken: Path, run: Path, found: Found) -> None:
    """Faults of a finished run against the unbroken one."""
    want, got = rows(unbroken), rows(run)
    keys = [[(row["step"], row.get("event")) for row in side] for side in (want, got)]
    if keys[0] != keys[1]:
        found.faults.append(f"steps differ: {[k for k in keys[1] if k not in keys[0]]} or repeated or missing")
        return
    for a, b in zip(want, got, strict=True):
        found.faults += [f"step {a['step']}: {k} {b[k]} for {a[k]}" for k in EXACT if k in a and a[k] != b[k]]
        for k in CLOSE:
            if k in a and not math.isclose(a[k], b[k], rel_tol=TOLERANCE, abs_tol=1e-9):
                found.faults.append(f"step {a['step']}: {k} {b[k]} for {a[k]}")
            if a.get(k):
                found.largest = max(found.largest, abs(a[k] - b[k]) / abs(a[k]))
    left = [p.name for p in run.rglob("*") if p.name.endswith(".partial")]
    if left:
        found.faults.append(f"left behind: {left}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--strategy", choices=(*STRATEGIES, "any"), default="any", help="any: another at each start")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cogaze-chaos-") as folder:
        found = chaos(Path(folder), given.kills, given.seed, given.steps, given.strategy)
    for name in ("stops", "moments", "worlds", "strategies", "codes"):
        print(f"{name:10}", dict(sorted(getattr(found, name).items(), key=str)))
    print("\n".join(found.faults) or f"no step differs from the unbroken run by more than {found.largest:.1e}")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
