"""What a run says about itself on real processes: speeds, the clock, the profile, and the dry run."""

from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from cogaze.config import load
from cogaze.data import loader, text
from cogaze.data.shards import ShardSet
from tests import forkserver
from tests.phantoms import phantom_shards
from tests.test_train import ENV, arguments, cogaze, metrics


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, seven steps; the third and fourth are recorded."""
    run = tmp_path_factory.mktemp("profiled") / "run"
    settings = arguments(run, 7, "eval.every=100", "eval.max_batches=1", "train.save_every=100")
    done = cogaze([*settings, "--profile", "--profile-steps", "2"], 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"profile        {run / 'profile'}" in done.stdout
    return run


@pytest.mark.slow
def test_every_step_says_how_fast_it_was(profiled: Path) -> None:
    """Tokens by a second way: what the loaders of both ranks hand out, mask by mask."""
    rows = [row for row in metrics(profiled) if "event" not in row]
    assert len(rows) == 7
    config = load(profiled / "config.yaml")
    shards = ShardSet.open(phantom_shards())
    tokenizer = text.load_tokenizer(str(profiled / "tokenizer"), config.text.role_tokens, config.text.spaces)
    ranks = [
        loader.train_batches(config, shards, tokenizer, rank=rank, world=2, start_step=0, total_steps=7)
        for rank in range(2)
    ]
    for row, *steps in zip(rows, *ranks, strict=True):
        tokens = sum(int(batch.token_mask.sum()) for _, _, micro in steps for batch in micro)
        took = config.train.global_batch / row["samples_per_s"]
        assert row["tokens_per_s"] * took == pytest.approx(tokens)
        assert row["data_wait_percent"] == pytest.approx(100 * row["data_wait"] / took)
        assert 0 <= row["data_wait_percent"] < 100
        assert 100 < row["peak_memory_mib"] < 100_000
        assert row["mfu"] is None  # nobody knows what this CPU could do
    assert re.search(r"step 5 \|.* tokens/s \|.* % waited \|.* peak \d+ MiB", (profiled / "train.log").read_text())


@pytest.mark.slow
def test_the_profile_holds_the_steps_asked_for(profiled: Path) -> None:
    assert sorted(path.name for path in (profiled / "profile").iterdir()) == ["top.txt", "trace-rank0.json.gz"]
    with gzip.open(profiled / "profile" / "trace-rank0.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    assert {e["name"] for e in events if str(e.get("name")).startswith("ProfilerStep#")} == {
        "ProfilerStep#2",
        "ProfilerStep#3",
    }
    assert any(e.get("name") == "aten::addmm" for e in events)
    table = (profiled / "profile" / "top.txt").read_text()
    assert "Operations by their own time on the cpu" in table
    assert "aten::addmm" in table


def slowly(config: str, settings: list[str]) -> int:
    """Train with evaluations, saving and drawing that take 1.5 s longer."""
    from cogaze import saving, train
    from cogaze.evaluate import watching

    def slow(function: Any) -> Any:
        def later(*arguments: Any, **named: Any) -> Any:
            time.sleep(1.5)
            return function(*arguments, **named)

        return later

    watching.figures = slow(watching.figures)
    saving.Saver.save = slow(saving.Saver.save)  # type: ignore[method-assign]
    train.draw_curves = slow(train.draw_curves)
    return train.train(load(config, settings))


@pytest.mark.slow
def test_the_clock_stops_during_evaluation_and_saving(tmp_path: Path) -> None:
    """1.5 s each after every step: neither is training, nor part of a step's speed."""
    run = tmp_path / "run"
    settings = arguments(run, 3, "eval.every=1", "eval.max_batches=1", "train.save_every=1")
    done = forkserver.Run("tests.test_seeing:slowly", settings[0], settings[1:], env=ENV)
    assert done.wait() == 0, done.stderr[-3000:]
    rows = [row for row in metrics(run) if "event" not in row]
    assert len(metrics(run)) == 6
    assert rows[2]["seconds"] - rows[0]["seconds"] < 1.5
    assert all(8 / row["samples_per_s"] < 1.5 for row in rows[1:])
    total = re.search(r"3 of 3 steps done in (\d+) s of training", done.stdout)
    assert total is not None
    assert abs(int(total[1]) - rows[2]["seconds"]) < 1.5


@pytest.mark.slow
def test_dry_run_says_what_a_run_will_need(tmp_path: Path) -> None:
    """Two ranks of a model whose image encoder is frozen: 50 images make 6 steps of 8 and leave 2."""
    run = tmp_path / "run"
    settings = arguments(run, 12, "model.vision.trainable=none", "train.micro_batch=2")
    done = cogaze([*settings, "--dry-run"], 2)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()

    def numbers(start: str) -> list[float]:
        (line,) = [line for line in lines if line.startswith(start) and not line.endswith("%")]
        found = re.findall(r"[\d,]+\.?\d*", line.removeprefix(start))
        return [float(n.replace(",", "")) for n in found if n.strip(",")]

    assert "global batch   8 images = 2 ranks x 2 micro-batches x 2" in lines
    assert any(line.startswith("steps          12 = 2.00 epochs of 6 (50 images; 2 an epoch") for line in lines)
    encoder = numbers("  image encoder            ")[:2]
    (line,) = [line for line in lines if " in all, " in line]
    total, trained = (int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", line))
    assert encoder[1] == 0
    assert total - trained == encoder[0]
    megabytes = 4 / 1e6
    assert numbers("  ZeRO-2 ")[0:2] == pytest.approx([total * megabytes, trained / 2 * megabytes], abs=0.006)
    assert numbers("  ZeRO-3 ")[0] == pytest.approx(total / 2 * megabytes, abs=0.006)
    (row,) = [line for line in lines if line.startswith("  DDP, ZeRO-0")]
    assert row.endswith("<- this run")
    assert numbers("activations ")[0] > 0
    assert "batch.image            (2, 1, 56, 56) uint8" in lines
    assert not (run / "metrics.jsonl").exists()
    assert not (run / "checkpoints").exists()
