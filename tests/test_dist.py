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

from .losses.test_contrastive import dense
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
            found[f"{case}/{positives}"] = gradients(own, LossConfig.model_validate(settings(positives, chunk=2)))
    right, dist.gather_with_gradient = dist.gather_with_gradient, dist.gather
    found["wrong"] = gradients(rank_batches("both full")[dist.rank()], LossConfig())
    dist.gather_with_gradient = right
    found["collectives"] = collectives()
    found["contrastive"] = {f"{h}/{c}": contrastive_alone(h, c) for h in REPORTS for c in (1, 2, 7)}
    return found


def settings(positives: str, chunk: int = 1000) -> dict[str, Any]:
    return {"contrastive": {"positives": positives, "weight": 0.7, "chunk": chunk}, "gaze": {"weight": 1.3}}


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


# ------------------------------------------------------------------------------------------------ the term that gathers
ROWS = 5  # a rank
REPORTS = {  # of rank 0 and of rank 1
    "all": ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
    "some": ((1, 0, 1, 1, 0), (0, 1, 1, 0, 0)),
    "one rank": ((0, 0, 0, 0, 0), (1, 1, 0, 1, 1)),
    "none": ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
}


def contrastive_inputs(reports: str) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """image, text (10,6) of length 1 and scale (1,) in float64; study, whose ids differ in their last bits; reports."""
    draw = torch.Generator().manual_seed(3)
    features = [torch.randn(2 * ROWS, 6, dtype=torch.float64, generator=draw) for _ in range(2)]
    image, text = (torch.nn.functional.normalize(x, dim=1) for x in features)
    study = 2**62 + torch.tensor([0, 1, 2, 1, 3, 1, 0, 2, 4, 0])  # studies 0, 1 and 2 lie on both ranks
    return [image, text, torch.tensor([9.0], dtype=torch.float64)], study, torch.tensor(REPORTS[reports]).bool().ravel()


def contrastive_alone(reports: str, chunk: int) -> dict[str, Any]:
    """Run on each rank: value and gradients of its rows, and what was gathered and reduced on the way."""
    (image, text, scale), study, has = contrastive_inputs(reports)
    own = slice(dist.rank() * ROWS, (dist.rank() + 1) * ROWS)
    inputs = [x.clone().requires_grad_() for x in (image[own], text[own], scale)]
    sent: list[str] = []
    gather, reduce = dist._all_gather, td.all_reduce

    def watched(kind: str, send: Callable[..., Any], payload: int) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            sent.append(f"{kind} {str(args[payload].dtype).removeprefix('torch.')} {list(args[payload].shape)}")
            return send(*args, **kwargs)

        return wrapper

    dist._all_gather, td.all_reduce = watched("gather", gather, 1), watched("reduce", reduce, 0)
    try:
        loss = losses.contrastive_sum(*inputs, study[own], has[own], "study", chunk)
        grads = torch.autograd.grad(2 * loss, inputs)
    finally:
        dist._all_gather, td.all_reduce = gather, reduce
    return {"loss": loss.detach(), "grads": list(grads), "sent": sent}


@pytest.mark.parametrize("chunk", [1, 2, 7])
@pytest.mark.parametrize("reports", list(REPORTS))
def test_contrastive_rows_of_each_rank(reports: str, chunk: int, two_ranks: list[dict[str, Any]]) -> None:
    """Each rank's value is that of its own rows; the gradients of both ranks are that of the sum, images and texts at
    their owner, the scale's in two parts."""
    inputs, study, has = contrastive_inputs(reports)
    inputs = [x.requires_grad_() for x in inputs]
    rows = torch.zeros(2 * ROWS, dtype=torch.float64)
    rows[has] = dense(inputs[0][has], inputs[1][has], inputs[2], study[has]).double()
    grads = torch.autograd.grad(2 * rows.sum(), inputs)
    found = [two_ranks[r]["contrastive"][f"{reports}/{chunk}"] for r in range(2)]
    close = {"rtol": 1e-12, "atol": 1e-13}
    for r in range(2):
        own = slice(r * ROWS, (r + 1) * ROWS)
        torch.testing.assert_close(found[r]["loss"], rows[own].sum().detach(), **close)
        for got, want in zip(found[r]["grads"][:2], grads[:2], strict=True):
            torch.testing.assert_close(got, want[own], **close)
    torch.testing.assert_close(found[0]["grads"][2] + found[1]["grads"][2], grads[2], **close)


@pytest.mark.parametrize("reports", list(REPORTS))
def test_collectives_of_the_contrastive_term(reports: str, two_ranks: list[dict[str, Any]]) -> None:
    """Ids alone and as integers; one set of features there and back; of the columns two numbers each. The same on every
    rank, whatever it holds."""
    columns = sum(map(sum, REPORTS[reports]))
    gathered = ["int64 [5, 2]", "float64 [5, 6]", f"float64 [1, 2, {columns}]"][: 3 if columns else 2]
    expected = [*(f"gather {what}" for what in gathered), "reduce float64 [10, 6]"]
    for r in range(2):
        assert two_ranks[r]["contrastive"][f"{reports}/2"]["sent"] == expected


# ------------------------------------------------------------------------------------------------ collectives
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
