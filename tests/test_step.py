"""The optimizer step on real processes: any layout of ranks and micro-batches gives one process's update."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch

from cogaze.batch import Batch
from tests import forkserver
from tests.model.tiny import random_batch


def launch(tmp_path: Path, world: int, strategy: str, micro: int, how: str = "") -> dict:
    """What `tests/stepping.py` finds on `world` ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out = tmp_path / f"{strategy}-{world}-{micro}.json"
    ranks = []
    for rank in range(world):
        env = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1"}
        env |= {"MASTER_PORT": port}
        if world > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        ranks.append(forkserver.Run("tests.stepping:main", str(out), strategy, micro, how, env=env))
    codes = [rank.wait(400) for rank in ranks]
    assert not any(codes), "\n".join(rank.output for rank in ranks)[-4000:]
    return json.loads(out.read_text())


def relative(a: dict, b: dict) -> float:
    left = torch.cat([torch.tensor(a["state"][k]) for k in sorted(b["state"])]).double()
    right = torch.cat([torch.tensor(b["state"][k]) for k in sorted(b["state"])]).double()
    return ((left - right).norm() / right.norm()).item()


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return launch(tmp_path_factory.mktemp("one"), 1, "ddp", 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "strategy", "micro"),
    [(1, "ddp", 3), (2, "ddp", 6), (2, "ddp", 3), (2, "zero2", 6), (2, "zero2", 3)],
)
def test_any_layout_makes_one_process_step(
    tmp_path: Path, one_process: dict, world: int, strategy: str, micro: int
) -> None:
    here = launch(tmp_path, world, strategy, micro)
    for row, expected in zip(here["rows"], one_process["rows"], strict=True):
        for name in ("loss", "loss_contrastive", "loss_disease", "loss_gaze", "grad_norm"):
            assert row[name] == pytest.approx(expected[name], rel=2e-5), name
        assert row["taken"]
        assert (row["positives"], row["several"]) == (expected["positives"], expected["several"])
    assert [row["stop"] for row in here["rows"]] == [False, True]  # asked on rank 0, seen by all in the same step
    assert relative(here, one_process) < 2e-5
    assert one_process["rows"][0]["loss"] != one_process["rows"][1]["loss"]
    if micro * world == 12:
        for name, value in one_process["evaluated"].items():
            assert here["evaluated"][name] == pytest.approx(value, rel=5e-5)


def positives_of(pieces: list[Batch]) -> tuple[int, int, int]:
    """Rows with a report, their positives together, and rows with several: counted pair by pair over the pieces."""
    studies = [s for p in pieces for s, r in zip(p.study.tolist(), p.report_row.tolist(), strict=True) if r >= 0]
    counts = [sum(other == study for other in studies) for study in studies]
    return len(counts), sum(counts), sum(count > 1 for count in counts)


@pytest.mark.slow
def test_positives_are_those_that_the_loss_compares(tmp_path: Path, one_process: dict) -> None:
    """cached: over the whole batch, however it is cut; plain: within each micro-batch."""
    pieces = [random_batch(s, images=3, gaze="none" if s % 2 else "some", contexts="none" if s == 2 else "some")
              for s in range(4)]  # fmt: skip
    rows, positive, several = positives_of(pieces)
    assert rows < 12  # some image has no report
    assert one_process["rows"][0]["positives"] == positive / rows
    assert one_process["rows"][0]["several"] == several / rows
    rows, positive, several = (sum(n) for n in zip(*(positives_of([piece]) for piece in pieces), strict=True))
    plain = launch(tmp_path, 1, "ddp", 3, "plain")["rows"][0]
    assert (plain["positives"], plain["several"]) == (positive / rows, several / rows)
    assert 0 < plain["several"] < one_process["rows"][0]["several"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_a_non_finite_loss_on_one_rank_skips_the_update_on_all(tmp_path: Path, strategy: str) -> None:
    here = launch(tmp_path, 2, strategy, 6, "poison")
    alone = launch(tmp_path, 1, "ddp", 12, "poison")
    for run in (here, alone):
        assert [row["taken"] for row in run["rows"]] == [False, True]
    # nothing of the bad gradients is left in the second step
    assert here["rows"][1]["grad_norm"] == pytest.approx(alone["rows"][1]["grad_norm"], rel=2e-5)
    assert relative(here, alone) < 2e-5


@pytest.mark.slow
def test_plain_accumulation_is_the_mean_of_the_micro_batches(tmp_path: Path) -> None:
    """One rank with four micro-batches against their losses and gradients one by one; two ranks make global
    micro-batches of two pieces, which one rank with micro-batches of six has too (in another order of pieces)."""
    (expected,) = launch(tmp_path, 1, "ddp", 12, "grad")["rows"]
    plain = launch(tmp_path, 1, "ddp", 3, "plain")
    cached = launch(tmp_path, 1, "ddp", 3)
    for name, value in expected.items():
        assert plain["rows"][0][name] == pytest.approx(value, rel=2e-5)
        assert cached["rows"][0][name] != pytest.approx(value, rel=1e-3)  # all negatives: another loss
