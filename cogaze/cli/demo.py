"""`cogaze demo`: phantom -> build -> check -> two-rank training, killed and resumed once -> evaluation -> page."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import Failure, UsageError
from .options import here

# The names others rely on in summary.json; the evaluation files hold everything else.
SUMMARY = (
    "zero_shot_auroc",
    "zero_shot_auroc_no_context",
    "zero_shot_auroc_blind",
    "retrieval_p_at_1",
    "retrieval_hit_at_10",
    "retrieval_chance",
    "retrieval_pool",
    "gaze_nss",
    "gaze_nss_center_bias",
    "gaze_js",
    "gaze_js_center_bias",
    "gaze_js_uniform",
    "gaze_js_shuffled_sentences",
    "gaze_js_shuffled_images",
)


def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="training settings as section.key=value", metavar="[KEY=VALUE]...")
    ] = None,
    out: Annotated[Path, typer.Option(help="the run folder", parser=here)] = Path("runs/demo"),
    config: Annotated[Path, typer.Option(help="training configuration")] = Path("configs/demo.yaml"),
    seed: Annotated[int, typer.Option(help="seed of the phantom data and of training")] = 0,
    studies: Annotated[int, typer.Option(min=20, help="phantom studies to draw")] = 2200,
    nproc: Annotated[int, typer.Option(min=1, help="ranks")] = 2,
) -> None:
    """The whole pipeline on phantom data, about ten minutes on two cores; ends with a page to look at.

    Examples:

      cogaze demo

      cogaze demo --seed 1 --out runs/demo-1

      cogaze demo --studies 60 --out runs/tiny train.steps=30 eval.every=30 train.save_every=10
    """
    if not config.is_file():
        raise UsageError(f"{config} not found: run the demo from the repository, or give --config")
    began = time.perf_counter()
    raw, shards = out / "raw", out / "shards"
    out.mkdir(parents=True, exist_ok=True)
    jobs = str(os.cpu_count() or 1)
    seconds: dict[str, float] = {}

    def stage(name: str, *arguments: str) -> None:
        typer.echo(f"\n== {name}: cogaze {' '.join(arguments)}")
        start = time.perf_counter()
        code = subprocess.call([sys.executable, "-m", "cogaze", *arguments])
        seconds[name] = round(time.perf_counter() - start, 1)
        if code != 0:
            raise Failure(f"the demo stopped: {name} ended with exit code {code}")

    if raw.exists() and not (shards / "manifest.json").is_file():
        from data_prep.phantom.mark import is_marked

        if not is_marked(raw):  # its text would not be shown
            raise Failure(f"{raw} was drawn by an earlier version of cogaze: remove it, or give another --out")
    if not raw.exists():
        aside = out / ".raw.partial"  # an interrupted drawing is started anew
        shutil.rmtree(aside, ignore_errors=True)
        stage("phantom", "data", "phantom", "--out", str(aside), "--studies", str(studies), "--seed", str(seed),
              "--size", "256", "--jobs", jobs)  # fmt: skip
        os.replace(aside, raw)
    if not (shards / "manifest.json").is_file():
        stage("build", "data", "build", "--source", "mimic-cxr", "--root", str(raw), "--out", str(shards),
              "--image-size", "128", "--jobs", jobs)  # fmt: skip
    stage("check", "data", "check", str(shards))

    training = ["train", str(config), f"run.dir={out}", f"data.shards=[{shards}]", f"run.seed={seed}",
                *(overrides or []), "--nproc", str(nproc)]  # fmt: skip
    start = time.perf_counter()
    if not (out / "checkpoints" / "latest").is_file():
        typer.echo(f"\n== training, to be killed once: cogaze {' '.join(training)}")
        _train_until_killed(training, out)
        typer.echo("\n== killed (SIGKILL) after a checkpoint; starting again, it resumes")
    stage("training", *training)
    seconds["training"] = round(time.perf_counter() - start, 1)

    stage("evaluation", "evaluate", "all", str(out), "--data", str(shards), "--split", "test")
    stage("page", "page", str(out))

    summary = _summary(out, began, seconds, seed)
    typer.echo("")
    for name in SUMMARY:
        value = summary[name]
        typer.echo(f"  {name:<28} {value:.3f}" if isinstance(value, float) else f"  {name:<28} {value}")
    page, figures = out / "page" / "index.html", out / "summary.json"
    typer.echo(f"\n{summary['seconds']:.0f} s in all. Look at {page}; the figures are in {figures}")


def _train_until_killed(arguments: list[str], out: Path) -> None:
    """Start training in its own process group and kill -9 all of it a few steps after the first checkpoint."""
    process = subprocess.Popen([sys.executable, "-m", "cogaze", *arguments], start_new_session=True)
    try:
        steps_at_save: int | None = None
        while process.poll() is None:
            time.sleep(0.2)
            steps = _lines(out / "metrics.jsonl")
            if steps_at_save is None and (out / "checkpoints" / "latest").is_file():
                steps_at_save = steps
            if steps_at_save is not None and steps >= steps_at_save + 5:
                break
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode not in (0, -signal.SIGKILL):
        raise Failure(f"the demo stopped: training ended with exit code {process.returncode}")


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except FileNotFoundError:
        return 0


def _summary(out: Path, began: float, seconds: dict[str, float], seed: int) -> dict[str, Any]:
    """summary.json: the headline figures of the evaluation, how long everything took, what was trained."""
    headline: dict[str, Any] = json.loads((out / "eval" / "all.json").read_text(encoding="utf-8"))["headline"]
    missing = [name for name in SUMMARY if name not in headline]
    if missing:
        raise Failure(f"the evaluation left no {', '.join(missing)}")
    summary = {name: headline[name] for name in SUMMARY}
    summary |= {"seconds": round(time.perf_counter() - began, 1), "stages": seconds, "seed": seed}
    aside = out / ".summary.partial"
    aside.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, out / "summary.json")
    return summary
