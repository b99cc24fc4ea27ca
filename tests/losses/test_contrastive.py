"""The contrastive loss against Eq. 2-4, in layouts a batch can have and in some that it should not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cogaze.losses.contrastive import contrastive_sum

from . import formulas

STUDIES = ("one", "distinct", "mixed", "pairs")
REPORTS = ("all", "some", "none", "only one")
FEATURES = ("random", "all equal", "images equal", "opposite")


def draw(seed: int, rows: int, studies: str, reports: str, features: str) -> tuple[np.ndarray, ...]:
    """image, text (rows,5) of length 1, study int64 and has_report."""
    rng = np.random.default_rng(seed)
    image, text = rng.normal(size=(2, rows, 5))
    if features == "all equal":  # every score is a tie
        image, text = np.ones((rows, 5)), np.ones((rows, 5))
    elif features == "images equal":
        image = np.ones((rows, 5))
    elif features == "opposite":  # each image as far from its own report as can be
        image = -text
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    study = {
        "one": np.zeros(rows, int),
        "distinct": np.arange(rows),
        "mixed": rng.integers(0, 3, rows),
        "pairs": np.arange(rows) // 2,
    }[studies]
    has = {
        "all": np.ones(rows, bool),
        "none": np.zeros(rows, bool),
        "some": rng.random(rows) < 0.6,
        "only one": np.arange(rows) == rng.integers(rows),
    }[reports]
    # ids that differ only in their last bits: equality must be tested on integers
    return image, text, study + 2**62, has


def value(
    image: np.ndarray, text: np.ndarray, scale: float, study: np.ndarray, has: np.ndarray, positives: Any, dtype: Any
) -> tuple[float, list[torch.Tensor]]:
    """The package's loss and its gradients with respect to image, text and scale."""
    inputs = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in (image, text, [scale])]
    loss = contrastive_sum(*inputs, torch.from_numpy(study), torch.from_numpy(has), positives)
    return loss.item(), list(torch.autograd.grad(loss, inputs))


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 9),
    studies=st.sampled_from(STUDIES),
    reports=st.sampled_from(REPORTS),
    features=st.sampled_from(FEATURES),
    positives=st.sampled_from(["study", "self"]),
    scale=st.sampled_from([0.0, 1.0, 1 / 0.07, 80.0, 100.0, 1e4]),  # scores between -scale and scale
)
@example(0, 6, "distinct", "all", "opposite", "study", 1e4)
@example(0, 6, "one", "all", "random", "study", 100.0)
@example(0, 6, "mixed", "none", "random", "study", 100.0)
def test_equals_the_paper(
    seed: int, rows: int, studies: str, reports: str, features: str, positives: str, scale: float
) -> None:
    image, text, study, has = draw(seed, rows, studies, reports, features)
    key = study if positives == "study" else np.arange(rows)
    got, gradients = value(image, text, scale, study, has, positives, torch.float64)
    # scores of size s carry an error of s x 1e-16 into a loss that may itself be 0
    assert got == pytest.approx(formulas.contrastive(image, text, scale, key, has), rel=1e-10, abs=1e-12 * (1 + scale))
    assert all(torch.isfinite(g).all() for g in gradients)

    image, text, scale = image.astype(np.float32), text.astype(np.float32), float(np.float32(scale))
    expected = formulas.contrastive(image.astype(float), text.astype(float), scale, key, has)
    got, gradients = value(image, text, scale, study, has, positives, torch.float32)
    assert got == pytest.approx(expected, rel=1e-5, abs=2e-7 * (1 + scale) * rows)
    assert all(torch.isfinite(g).all() for g in gradients)


def test_hand_worked() -> None:
    """Two orthogonal pairs at scale ln 3: q = 3/4 for the own text, 1/4 for the other; loss a row = -ln(3/4)."""
    eye = torch.eye(2, dtype=torch.float64)
    scale = torch.tensor([np.log(3.0)])
    both = torch.tensor([True, True])
    loss = contrastive_sum(eye, eye, scale, torch.tensor([5, 6]), both)
    assert loss.item() == pytest.approx(2 * np.log(4 / 3))
    shared = contrastive_sum(eye, eye, scale, torch.tensor([5, 5]), both)  # both texts are positives, half each
    assert shared.item() == pytest.approx(-np.log(3 / 4) - np.log(1 / 4))
    formula = formulas.contrastive(np.eye(2), np.eye(2), np.log(3.0), np.array([5, 5]), np.ones(2, bool))
    assert formula == pytest.approx(-np.log(3 / 4) - np.log(1 / 4))


@pytest.mark.parametrize("positives", ["study", "self"])
@pytest.mark.parametrize(
    ("rows", "studies", "reports", "features"),
    [
        (5, "mixed", "some", "random"),
        (4, "one", "all", "random"),
        (5, "pairs", "all", "random"),
        (4, "distinct", "only one", "random"),
        (3, "mixed", "none", "random"),
        (1, "one", "all", "random"),
        (4, "mixed", "all", "all equal"),
        (4, "distinct", "all", "opposite"),
    ],
)
def test_gradient(rows: int, studies: str, reports: str, features: str, positives: Any) -> None:
    image, text, study, has = (torch.from_numpy(x) for x in draw(1, rows, studies, reports, features))
    scale = torch.tensor([2.0], dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (image, text, scale)]
    assert torch.autograd.gradcheck(lambda i, t, s: contrastive_sum(i, t, s, study, has, positives), inputs)


def test_extreme_scores_by_hand() -> None:
    """Both pairs crossed at scale 1e4: the own text has probability exp(-2e4); a row's loss is 2e4, its gradient 2."""
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    text = (-image).detach()
    scale = torch.tensor([1e4], requires_grad=True)
    loss = contrastive_sum(image, text, scale, torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(4e4)
    assert scale.grad is not None
    assert image.grad is not None
    assert scale.grad.tolist() == [4.0]  # d loss / d scale = sum over rows of (wrong - right score) / scale
    assert image.grad.tolist() == [[2e4, 0.0], [-2e4, 0.0]]


def test_no_report_is_zero_with_a_gradient() -> None:
    image, text = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    scale = torch.ones(1, requires_grad=True)
    loss = contrastive_sum(image, text, scale, torch.arange(3), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    for x in (image, text, scale):
        assert x.grad is not None
        assert x.grad.abs().sum() == 0


# ------------------------------------------------------------------------------------------------ a few rows at a time
def dense(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Loss of each row (R,) of Eq. 2-4 with the whole matrix, where all rows have a report."""
    scores = scale * image @ text.T  # (R,R)
    target = (key[:, None] == key).to(scores.dtype)
    target = target / target.sum(1, keepdim=True)
    both = (torch.log_softmax(s, dim=1) for s in (scores, scores.T))
    return -sum((target * log_q).sum(1) for log_q in both) / 2  # type: ignore[return-value]


def relative(got: torch.Tensor, want: torch.Tensor, least: float) -> float:
    """||a - b|| / ||b||; of a `want` below `least`, near 0 as a difference of numbers of that size, to `least`."""
    return ((got.double() - want).norm() / want.norm().clamp(min=least)).item()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 40),
    chunk=st.integers(1, 45),
    studies=st.sampled_from(STUDIES),
    reports=st.sampled_from(["all", "some"]),
    positives=st.sampled_from(["study", "self"]),
)
def test_any_chunk_equals_dense(seed: int, rows: int, chunk: int, studies: str, reports: str, positives: Any) -> None:
    image, text, study, has = (torch.from_numpy(x) for x in draw(seed, rows, studies, reports, "random"))
    key = study if positives == "study" else torch.arange(rows)
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        own = [x.to(dtype).requires_grad_() for x in (image, text, torch.tensor([1 / 0.07]))]
        exact = [x.detach().double().requires_grad_() for x in own]
        want = dense(exact[0][has], exact[1][has], exact[2], key[has]).sum()
        want_gradients = torch.autograd.grad(want, exact)
        loss = contrastive_sum(*own, study, has, positives, chunk)
        assert relative(loss.detach(), want.detach(), least=float(has.sum()) + 1) <= limit
        gradients = torch.autograd.grad(loss, own)
        assert [g.dtype for g in gradients] == [dtype] * 3
        together = [torch.cat([g.flatten() for g in found]) for found in (gradients, want_gradients)]
        assert relative(*together, least=1 / 0.07) <= limit


@pytest.mark.parametrize("chunk", [1, 3, 5, 100])
def test_gradient_of_chunks(chunk: int) -> None:
    image, text, study, has = (torch.from_numpy(x) for x in draw(4, 5, "mixed", "all", "random"))
    scale = torch.tensor([2.0], dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (image, text, scale)]
    assert torch.autograd.gradcheck(lambda i, t, s: 3 * contrastive_sum(i, t, s, study, has, "study", chunk), inputs)


def test_autocast_does_not_reach_it() -> None:
    image, text, study, has = (torch.from_numpy(x) for x in draw(4, 7, "mixed", "some", "random"))
    results = []
    for enabled in (False, True):
        inputs = [x.float().requires_grad_() for x in (image, text, torch.tensor([9.0]))]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = contrastive_sum(*inputs, study, has, "study", 3)
            results.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
    for plain, cast in zip(*results, strict=True):
        assert cast.dtype == torch.float32
        assert torch.equal(plain, cast)


class Largest(TorchDispatchMode):
    """The most elements that any tensor made under it has."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor))])
        return made


def largest(rows: int, width: int, how: Any) -> int:
    torch.manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(rows, width), dim=1).requires_grad_() for _ in range(2))
    scale, study = torch.tensor([10.0], requires_grad=True), torch.arange(rows) // 2
    with Largest() as watch:
        torch.autograd.grad(how(image, text, scale, study), (image, text, scale))
    return watch.most


@pytest.mark.parametrize(("rows", "chunk"), [(60, 4), (61, 16), (200, 8), (400, 8), (20, 64)])
def test_no_tensor_is_larger_than_a_chunk_of_rows(rows: int, chunk: int) -> None:
    """Forward and backward; the features themselves are smaller here."""
    every = torch.ones(rows, dtype=torch.bool)
    most = largest(rows, 4, lambda i, t, s, study: contrastive_sum(i, t, s, study, every, "study", chunk))
    assert most == min(rows, chunk) * rows
    assert largest(rows, 4, lambda *inputs: dense(*inputs).sum()) == rows * rows  # the watch sees what it should
