"""`python -m tests.chaos --kills N`: a run that is killed again and again ends as if nothing had happened.

Two runs on the same shards: one unbroken on one rank; the other started on 1, 2 or 4 ranks at random, and stopped at a
random moment: kill -9 of one random rank or of all, SIGTERM or SIGUSR2; while it starts, between steps, inside an
evaluation, inside saving. It is started again until it has done all its steps. Then its metrics.jsonl is the unbroken
one's: each step once, the same samples, losses within what another order of summation does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.phantoms import TINY, phantom_shards

ROOT = Path(__file__).resolve().parents[1]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
EXACT = ("step", "epoch", "samples_seen", "lr")
CLOSE = ("loss", "loss_contrastive", "loss_disease", "loss_gaze", "logit_scale", "gaze_scale", "grad_norm", "eval_loss")
TOLERANCE = 1e-4  # relative; a few steps' growth of the rounding that another world size brings (fp32)
STOPS = ("kill a rank", "kill all", "SIGTERM", "SIGUSR2")
MOMENTS = ("starting", "between steps", "evaluating", "saving")
SAVE_EVERY, EVAL_EVERY = 3, 5


@dataclass
class Found:
    """What a chaos run did, and what is wrong with its result (empty = nothing)."""

    stops: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    worlds: Counter[int] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def command(run: Path, steps: int, world: int, strategy: str) -> list[str]:
    settings = (
        f"run.dir={run}", f"data.shards=[{phantom_shards()}]", f"train.steps={steps}", "tracking.mlflow=false",
        "run.deterministic=true", *TINY, f"train.micro_batch={8 // world}", f"train.save_every={SAVE_EVERY}",
        f"eval.every={EVAL_EVERY}", "eval.max_batches=2", "optim.lr=3e-4", f"train.strategy={strategy}",
    )  # fmt: skip
    ranks = ["--nproc", str(world)]
    return [sys.executable, "-m", "cogaze", "train", "configs/demo.yaml", *settings, *ranks]


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


def stop(process: subprocess.Popen[bytes], how: str, draw: random.Random) -> None:
    ranks = ranks_of(process.pid)
    if how == "kill all" or (how == "kill a rank" and not ranks):
        process.kill()  # the ranks die with their launcher
    elif how == "kill a rank":
        os.kill(draw.choice(ranks), signal.SIGKILL)
    else:
        process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGUSR2)


def one_start(run: Path, steps: int, draw: random.Random, found: Found, disturb: bool, strategy: str) -> bool:
    """Start once, disturb it perhaps, wait for its end; True when it has done all steps."""
    world = draw.choice((1, 2, 4))
    moment, how, delay = draw.choice(MOMENTS), draw.choice(STOPS), draw.random()
    found.worlds[world] += 1
    with (run.parent / "output.log").open("ab") as log:
        process = subprocess.Popen(
            command(run, steps, world, strategy), cwd=ROOT, env=ENV, stdout=log, stderr=log, start_new_session=True
        )
        begun, seen = time.monotonic(), len(rows(run))
        while process.poll() is None:
            if disturb and is_at(moment, run, begun, seen, delay):
                found.moments[moment] += 1
                found.stops[how] += 1
                stop(process, how, draw)
                break
            time.sleep(0.002)
        try:
            code = process.wait(180)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            found.faults.append(f"it hung after {how} while {moment} on {world} ranks")
            code = process.wait()
    found.codes[code] += 1
    if code == 2 or (code not in (0, 3) and not disturb):
        tail = (run.parent / "output.log").read_bytes()[-1500:].decode(errors="replace")
        found.faults.append(f"exit code {code} on {world} ranks: {tail}")
    return code == 0


def chaos(
    folder: Path, kills: int, seed: int, steps: int, strategy: str = "ddp", say: Callable[[str], None] = print
) -> Found:
    """Run both; what differs is in the result's `faults`."""
    draw, found = random.Random(seed), Found()
    unbroken, run = folder / "unbroken" / "run", folder / "broken" / "run"
    for path in (unbroken, run):
        path.parent.mkdir(parents=True)
    done = subprocess.run(command(unbroken, steps, 1, "ddp"), cwd=ROOT, env=ENV, capture_output=True)
    if done.returncode:
        found.faults.append(f"the unbroken run failed: {done.stderr[-1500:].decode(errors='replace')}")
        return found
    finished = False
    while not finished and not found.faults:
        disturbed = sum(found.stops.values())
        finished = one_start(run, steps, draw, found, disturbed < kills, strategy)
        here = [row["step"] for row in rows(run)]
        say(f"{disturbed + 1:4d} of {kills}: step {max(here, default=0)} of {steps}")
        if finished and disturbed + 1 < kills:  # nothing left to disturb: begin anew, keep counting
            compare(unbroken, run, found)
            os.rename(run.parent, folder / f"done-{disturbed}")
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
        found.faults += [
            f"step {a['step']}: {k} {b[k]} for {a[k]}"
            for k in CLOSE
            if k in a and not math.isclose(a[k], b[k], rel_tol=TOLERANCE, abs_tol=1e-6)
        ]
    left = [p.name for p in run.rglob("*") if p.name.endswith(".partial")]
    if left:
        found.faults.append(f"left behind: {left}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cogaze-chaos-") as folder:
        found = chaos(Path(folder), given.kills, given.seed, given.steps)
    for name in ("stops", "moments", "worlds", "codes"):
        print(f"{name:8}", dict(sorted(getattr(found, name).items(), key=str)))
    print("\n".join(found.faults) or "nothing differs from the unbroken run")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
