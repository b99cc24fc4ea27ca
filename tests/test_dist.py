"""Two real gloo ranks: the collectives, and one process's gradient of the whole loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
import torch.multiprocessing as mp

from cogaze import dist, losses
from cogaze.batch import Batch
from cogaze.config import LossConfig

from .model.tiny import concatenate, random_batch, tiny_model

WEIGHTS = torch.linspace(0.5, 1.5, 14, dtype=torch.float64)

# What rank 0 and rank 1 hold. Studies are drawn from three ids, so positives straddle the ranks.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "both full": ({"reports": "all", "contexts": "all", "gaze": "all"},) * 2,
    "rank 1 without gaze": ({"gaze": "all"}, {"gaze": "none"}),
    "rank 1 without context": ({"contexts": "all"}, {"contexts": "none"}),
    "rank 0 without reports": ({"reports": "none"}, {"reports": "some"}),
    "rank 1 with images alone": ({}, {"reports": "none", "contexts": "none", "gaze": "none"}),
    "no gaze at all": ({"gaze": "none"}, {"gaze": "none"}),
    "no report at all": ({"reports": "none"}, {"reports": "none"}),
}


def rank_batches(case: str) -> list[Batch]:
    batches = [random_batch(10 + r, **how) for r, how in enumerate(CASES[case])]
    known = batches[1].labels_known & (torch.arange(14) < 9)  # unequal counts of known labels
    return [batches[0], replace(batches[1], labels_known=known)]


def gradients(batch: Batch, config: LossConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss terms (4,) and the gradient of the total, summed over the ranks there are."""
    model = tiny_model()
    counts = dist.all_sum(losses.local_counts(batch, config))
    terms = losses.total(model(**batch.model_inputs()), batch, counts, config, WEIGHTS)
    terms.total.backward()
    summed = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        summed[name] = dist.all_sum(parameter.grad)
    return dist.all_sum(torch.stack(list(terms))), summed


def on_two_ranks(body: Callable[[], Any], folder: Path) -> list[Any]:
    """What `body` returns on each of two gloo ranks."""
    mp.spawn(_rank, args=(body, str(folder)), nprocs=2)
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(2)]


def _rank(rank: int, body: Callable[[], Any], folder: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(body(), f"{folder}/{rank}.pt")
    td.destroy_process_group()


def all_cases() -> dict[str, Any]:
    """Run on each rank: every case under both kinds of positives, a gather that drops the gradient, the collectives."""
    found: dict[str, Any] = {}
    for case in CASES:
        own = rank_batches(case)[dist.rank()]
        for positives in ("study", "self"):
            found[f"{case}/{positives}"] = gradients(own, LossConfig.model_validate(settings(positives)))
    right, dist.gather_with_gradient = dist.gather_with_gradient, dist.gather
    found["wrong"] = gradients(rank_batches("both full")[dist.rank()], LossConfig())
    dist.gather_with_gradient = right
    found["collectives"] = collectives()
    return found


def settings(positives: str) -> dict[str, Any]:
    return {"contrastive": {"positives": positives, "weight": 0.7}, "gaze": {"weight": 1.3}}


def relative_errors(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> dict[str, float]:
    """||a - b|| / max(||b||, 1e-6 ||all gradients||), per tensor and over all."""
    everything = torch.cat([g.flatten() for g in want.values()]).norm()
    errors = {n: ((got[n] - g).norm() / g.norm().clamp(min=1e-6 * everything)).item() for n, g in want.items()}
    difference = torch.cat([(got[n] - g).flatten() for n, g in want.items()]).norm()
    return errors | {"all": (difference / everything).item()}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_ranks(all_cases, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("positives", ["study", "self"])
@pytest.mark.parametrize("case", list(CASES))
def test_two_ranks_give_one_process_gradient(case: str, positives: str, two_ranks: list[dict[str, Any]]) -> None:
    whole = concatenate(rank_batches(case))
    want_terms, want = gradients(whole, LossConfig.model_validate(settings(positives)))
    for found in two_ranks:
        terms, got = found[f"{case}/{positives}"]
        torch.testing.assert_close(terms, want_terms, rtol=1e-12, atol=1e-14)
        assert max(relative_errors(got, want).values()) <= 1e-11


def test_a_gather_without_gradient_is_caught(two_ranks: list[dict[str, Any]]) -> None:
    _, want = gradients(concatenate(rank_batches("both full")), LossConfig())
    _, wrong = two_ranks[0]["wrong"]
    assert relative_errors(wrong, want)["all"] > 1e-2


def collectives() -> dict[str, Any]:
    """Run on each rank, with values that tell ranks and rows apart."""
    r = dist.rank()
    own = torch.tensor([[1.0 + r, 10.0 + r]], dtype=torch.float64, requires_grad=True)
    rows = dist.gather_with_gradient(own)  # (2,2)
    (rows * torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (r + 1)).sum().backward()
    dist.barrier()
    return {
        "world": dist.world(),
        "rank": r,
        "rows": rows.detach(),
        "grad": own.grad,
        "sum": dist.all_sum(torch.tensor([r + 1])),
        "max": dist.all_max(torch.tensor([r + 1, -r])),
        "ids": dist.gather(torch.tensor([2**62 + r])),
        "ragged": dist.gather_ragged(torch.full((r, 2), 7 + r)),
        "object": dist.broadcast_object({"from": r}),
    }


def test_collectives(two_ranks: list[dict[str, Any]]) -> None:
    for r in range(2):
        found = two_ranks[r]["collectives"]
        assert (found["world"], found["rank"]) == (2, r)
        assert found["rows"].tolist() == [[1, 10], [2, 11]]
        # d/d own row of both ranks' sums: factor 1 from rank 0 plus 2 from rank 1, times the row's coefficients
        assert found["grad"].tolist() == [[[3.0, 6.0]], [[9.0, 12.0]]][r]
        assert found["sum"].tolist() == [3]
        assert found["max"].tolist() == [2, 0]
        assert found["ids"].tolist() == [2**62, 2**62 + 1]  # int64 all the way
        assert found["ragged"].tolist() == [[8, 8]]  # rank 0 gave no row
        assert found["object"] == {"from": 0}


def test_one_process_needs_no_group() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert dist.gather_with_gradient(x) is x
    assert not dist.gather(x).requires_grad
    assert torch.equal(dist.gather_ragged(x), x)
    assert dist.all_sum(x) is not x
    assert (dist.world(), dist.rank(), dist.broadcast_object("a")) == (1, 0, "a")
    dist.barrier()
