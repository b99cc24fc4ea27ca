"""Whole runs on real processes: launchers, kill -9 and resume, signals, refusals, what a run folder holds."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

from cogaze import checkpoint
from cogaze.data import text
from cogaze.data.shards import ShardSet
from tests import forkserver
from tests.phantoms import TINY, phantom_shards

ROOT = Path(__file__).resolve().parents[1]
COGAZE = [sys.executable, "-m", "cogaze"]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "MLFLOW_DISABLE_TELEMETRY": "true"}
BIN = Path(sys.executable).parent


def arguments(run: Path, steps: int, *settings: str) -> list[str]:
    shards = f"data.shards=[{phantom_shards()}]"
    lengths = (f"train.steps={steps}", "tracking.mlflow=false", "run.deterministic=true")
    return ["configs/demo.yaml", f"run.dir={run}", shards, *lengths, *TINY, *settings]


def execute(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300, check=False, **options
    )  # type: ignore[call-overload, no-any-return]


def start(arguments: list[str], nproc: int | None = None, **more: Any) -> forkserver.Run:
    """`cogaze train`, its imports already done, and its ranks forked likewise."""
    ranks = ["--nproc", str(nproc)] if nproc else []
    return forkserver.Run(forkserver.COGAZE, ["train", *arguments, *ranks], env=ENV, **more)


def cogaze(arguments: list[str], nproc: int | None = None) -> forkserver.Run:
    """The same, to its end."""
    run = start(arguments, nproc)
    run.wait()
    return run


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


SAME = ("step", "epoch", "samples_seen", "loss", "loss_contrastive", "loss_disease", "loss_gaze", "logit_scale",
        "gaze_scale", "grad_norm", "lr", "eval_loss", "zero_shot_auroc", "gaze_js")  # fmt: skip


def fields(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock."""
    return [{k: row[k] for k in SAME if k in row} for row in metrics(run)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, 14 steps, evaluation at 7 and 14, checkpoints at 4, 8, 12 and the end."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    done = cogaze(arguments(run, 14, "train.save_every=4", "eval.every=7"), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    return run


@pytest.mark.slow
def test_a_run_folder_holds_everything(unbroken: Path) -> None:
    rows = metrics(unbroken)
    steps = [row for row in rows if row.get("event") != "eval"]
    assert [row["step"] for row in steps] == list(range(1, 15))
    assert [row["samples_seen"] for row in steps] == [8 * s for s in range(1, 15)]
    assert [row["step"] for row in rows if row.get("event") == "eval"] == [7, 14]
    for row in steps:
        parts = row["loss_contrastive"] + row["loss_disease"] + row["loss_gaze"]
        config = yaml.safe_load((unbroken / "config.yaml").read_text())
        weights = {name: config["loss"][name]["weight"] for name in ("contrastive", "disease", "gaze")}
        parts = sum(weights[name] * row[f"loss_{name}"] for name in weights)
        assert row["loss"] == pytest.approx(parts, rel=1e-5)
        assert row["samples_per_s"] > 0
        assert row["data_wait"] >= 0
    names = sorted(p.name for p in (unbroken / "checkpoints").iterdir())
    assert names == ["latest", "step-00000012", "step-00000014"]  # keep_last is 2
    last = unbroken / "checkpoints" / "step-00000014"
    assert {"model.safetensors", "config.json", "config.yaml", "trainer.json", "files.json"} <= {
        p.name for p in last.iterdir()
    }
    assert "step 5 |" in (unbroken / "train.log").read_text()


@pytest.mark.slow
def test_kill_and_resume_give_the_same_run(unbroken: Path, tmp_path: Path) -> None:
    """The second start in interpreters of its own, which hash otherwise."""
    run = tmp_path / "run"
    settings = arguments(run, 14, "train.save_every=4", "eval.every=7")
    process = start(settings, 2)
    path, deadline = run / "metrics.jsonl", time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if path.is_file() and path.read_bytes().count(b"\n") >= 6 and (run / "checkpoints" / "latest").is_file():
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with path.open("a") as file:  # what a kill in the middle of a line leaves
        file.write('{"step": 99, "los')
    done = execute([*COGAZE, "train", *settings, "--nproc", "2"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed step-" in done.stdout
    assert fields(run) == fields(unbroken)  # bitwise, no step twice, none missing
    ours, theirs = (r / "checkpoints" / "step-00000014" / "model.safetensors" for r in (run, unbroken))
    assert ours.read_bytes() == theirs.read_bytes()
    assert not [p for p in (run / "checkpoints").iterdir() if p.name.startswith(".")]


def start_and_stop(arguments: list[str], run: Path, lines: int, nproc: int | None, **more: Any) -> tuple[int, str]:
    """Start training, SIGTERM it when metrics.jsonl has that many lines; exit code and everything it said."""
    process = start(arguments, nproc, **more)
    path, deadline = run / "metrics.jsonl", time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if path.is_file() and path.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.005)
    return process.wait(240), process.output


STOPPED = ("train.save_every=1000", "eval.every=7")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped by a signal soon after its third step."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    code, output = start_and_stop(arguments(run, 14, *STOPPED), run, 3, 2)
    assert code == 3, output[-2000:]
    assert "stopped by a signal" in output
    return run


@pytest.mark.slow
def test_a_signal_saves_and_leaves_with_code_3_then_resumes(unbroken: Path, stopped: Path, tmp_path: Path) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    saved = sorted((run / "checkpoints").glob("step-*"))
    assert len(saved) == 1
    assert int(saved[0].name.split("-")[1]) == metrics(run)[-1]["step"]
    done = cogaze(arguments(run, 14, *STOPPED), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert fields(run) == fields(unbroken)


@pytest.mark.slow
def test_two_ranks_one_rank_and_two_again_are_the_same_run(unbroken: Path, stopped: Path, tmp_path: Path) -> None:
    """A rank holds 4 images either way: the one accumulates. Losses differ by rounding alone, so samples do not."""
    run = shutil.copytree(stopped, tmp_path / "run")
    code, output = start_and_stop(arguments(run, 14, *STOPPED), run, 8, None)
    assert code == 3, output[-2000:]
    assert "ranks          1 x" in output
    assert 7 <= metrics(run)[-1]["step"] < 14
    done = cogaze(arguments(run, 14, *STOPPED), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ranks          2 x" in done.stdout
    ours, theirs = fields(run), fields(unbroken)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        assert row.keys() == expected.keys()
        for key in row.keys() - {"zero_shot_auroc"}:  # ranks of scores: a rounding may swap two
            assert row[key] == pytest.approx(expected[key], rel=5e-6, abs=1e-9), (row["step"], key)


@pytest.mark.slow
def test_a_full_disk_costs_checkpoints_and_the_exit_code(stopped: Path, tmp_path: Path) -> None:
    """No file may grow beyond 100 kB, which the weights (126 kB) and the optimizer's state would."""
    run = shutil.copytree(stopped, tmp_path / "run")
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    given = arguments(run, 14, "train.save_every=1", "eval.every=1000")
    code, output = start_and_stop(given, run, 8, 2, largest_file=100_000)
    assert code == 1, output[-2000:]
    last = metrics(run)[-1]["step"]
    assert last >= 8  # training went on
    for step in range(int(before[-1].removeprefix("step-")) + 1, last + 1):
        assert f"checkpoints/step-{step:08d} could not be written" in output
    assert f"the newest one is still {before[-1]}; training goes on" in output
    assert f"training ended at step {last} unsaved: checkpoint" in output
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before  # nothing half-written, nothing lost


@pytest.mark.slow
def test_zero2_trains_and_resumes_like_ddp(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("train.save_every=4", "eval.every=7", "train.strategy=zero2")
    first = cogaze(arguments(run, 14, *settings), 2)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "DeepSpeed ZeRO" in first.stdout
    whole = fields(run)
    for row, expected in zip(whole, fields(unbroken), strict=True):
        assert row["step"] == expected["step"]
        if "loss" in row:
            assert row["loss"] == pytest.approx(expected["loss"], rel=5e-6)
    # go back to step 12 as if the rest had never happened
    shutil.rmtree(run / "checkpoints" / "step-00000014")
    again = cogaze(arguments(run, 14, *settings), 2)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "resumed step-00000012" in again.stdout
    assert fields(run) == whole


LAUNCHERS = {
    "torchrun": [f"{BIN}/torchrun", "--standalone", "--nproc_per_node", "2", "-m", "cogaze.train"],
    "accelerate": [f"{BIN}/accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0",
                   "-m", "cogaze.train"],
    "accelerate-file": [f"{BIN}/accelerate", "launch", "--config_file", "configs/accelerate/ddp_cpu.yaml", "-m",
                        "cogaze.train"],
    "deepspeed": [f"{BIN}/deepspeed", "--num_accelerators", "2", "--master_port", "29641", "--module", "cogaze.train"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_it_starts_in_every_launcher(name: str, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("train.save_every=1000", "eval.every=1000", "run.nproc=2", "eval.max_batches=1")
    done = execute([*LAUNCHERS[name], *arguments(run, 2, "optim.schedule.warmup=1", *settings)])
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "ranks          2 x" in done.stdout
    # the first step's loss does not depend on the schedule or the back end
    assert metrics(run)[0]["loss"] == pytest.approx(metrics(unbroken)[0]["loss"], rel=1e-5)


def tiny_encoders(folder: Path) -> tuple[Path, Path]:
    """An image and a text encoder as a hub has them, with a tokenizer of the phantom's words beside the latter."""
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    ).save_pretrained(folder / "vision")
    tokenizer = text.train_tokenizer(text.shard_texts(ShardSet.open([phantom_shards()]), "train"), 300)
    tokenizer.save_pretrained(folder / "text")
    sizes = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )
    BertModel(sizes, add_pooling_layer=False).save_pretrained(folder / "text")
    return folder / "vision", folder / "text"


@pytest.mark.slow
def test_the_command_of_the_readme_trains_the_default_configuration_under_zero2(tmp_path: Path) -> None:
    """configs/default.yaml as it is (frozen image encoder, pretrained text encoder, bf16), at tiny size."""
    (command,) = re.findall(r"^(accelerate launch .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    vision, encoder = tiny_encoders(tmp_path)
    words = [
        w.replace("8", "2") if before == "--num_processes" else w for before, w in pairwise(["", *command.split()])
    ]
    given = {word.split("=")[0] for word in words if "=" in word}
    assert given == {"run.dir", "data.shards"}
    sizes = [
        f"model.{part}" for part in ("perceiver.latents=4", "perceiver.heads=2", "perceiver.head_dim=8", "width=16")
    ]
    run = tmp_path / "run"
    done = execute([
        f"{BIN}/{words[0]}", *words[1:], f"run.dir={run}", f"data.shards=[{phantom_shards()}]", *sizes,
        f"model.vision.pretrained={vision}", f"model.text.pretrained={encoder}", f"text.tokenizer={encoder}",
        "data.image_size=56", "train.global_batch=16", "train.micro_batch=4", "train.epochs=0.2", "eval.batch=8",
        "eval.max_batches=1", "run.nproc=2", "tracking.mlflow=false", "data.workers=1",
    ])  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "ranks          2 x DeepSpeed ZeRO-2 on cpu, bf16" in done.stdout
    assert "global batch   16 images = 2 ranks x 2 micro-batches x 4" in done.stdout
    rows = metrics(run)
    assert rows[-1]["event"] == "eval"
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows if "event" not in row)
    stored = load_file(checkpoint.newest(run) / "model.safetensors")
    assert not any(name.startswith("vision.encoder.") for name in stored)  # frozen: by source and hash
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "nproc", "message"),
    [
        (("train.global_batch=9",), 2, "not a whole number of micro-batches"),
        (("run.nproc=3",), None, "3 processes were asked for, 1 started"),
        (("data.shards=[no/such/folder]",), None, "no/such/folder"),
        (("train.global_batch=4096", "train.micro_batch=4096"), None, "4096"),
        (("train.resume=must",), None, "there is no checkpoint"),
    ],
)
def test_refusals_are_one_clear_message(
    tmp_path: Path, settings: tuple[str, ...], nproc: int | None, message: str
) -> None:
    done = cogaze(arguments(tmp_path / "run", 2, *settings), nproc)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_resume_with_another_configuration_is_refused(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    done = cogaze(arguments(run, 14, "optim.lr=0.1", "train.micro_batch=8"))
    assert done.returncode == 1
    assert "optim.lr: 0.0015 -> 0.1" in done.stderr


@pytest.mark.slow
def test_dry_run_prints_the_arithmetic_and_trains_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = cogaze([*arguments(run, 6), "--dry-run"], 2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "global batch   8 images = 2 ranks x 1 micro-batches x 4" in done.stdout
    assert "batch.image            (4, 1, 56, 56) uint8" in done.stdout
    assert not (run / "metrics.jsonl").exists()
