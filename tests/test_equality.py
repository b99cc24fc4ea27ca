"""A pairwise subset of `python -m tests.equality --full`, on real processes."""

from __future__ import annotations

import pytest

from tests.equality import __main__ as command
from tests.equality.launch import LIMIT, TERMS, launch
from tests.equality.worker import PIECES, one_process, pieces

pytestmark = pytest.mark.slow


def test_the_pieces_are_as_different_as_they_should_be() -> None:
    made = pieces()
    assert len(made) == PIECES
    gaze = [len(p.segment_image) for p in made]
    assert len(set(gaze)) > 1
    assert not any(gaze[PIECES // 2 :])  # the last rank has none, at any world size
    assert {int(p.report_row[0]) >= 0 for p in made} == {True, False}
    assert {int(p.context_row[0]) >= 0 for p in made} == {True, False}
    halves = [{int(p.study[0]) for p in half} for half in (made[: PIECES // 2], made[PIECES // 2 :])]
    assert halves[0] & halves[1]  # studies whose images lie on different ranks


@pytest.mark.parametrize(
    ("world", "layouts", "terms"),
    [
        (1, [("ddp", 4)], TERMS),
        (2, [("zero1", 4), ("zero3", 2)], ("total", "contrastive")),
        (4, [("ddp", 1), ("ddp", 4)], TERMS),
        (4, [("zero0", 1), ("zero2", 2), ("zero3", 1)], ("total",)),
    ],
    ids=["1-ddp", "2-zero", "4-ddp", "4-zero"],
)
def test_any_layout_equals_one_process(world: int, layouts: list[tuple[str, int]], terms: tuple[str, ...]) -> None:
    found = launch(world, layouts, terms)
    assert len(found) == len(layouts) * len(terms)
    for row in found:
        assert row["loss"] <= LIMIT, row
        assert row["gradient"] <= LIMIT, row


@pytest.mark.parametrize("wrong", ["detached", "own rows"])
def test_the_wrong_ways_to_gather_are_found_out(wrong: str) -> None:
    """The loss is right in both; the gradient of the term that gathers is not, and no other term is touched."""
    rows = {row["term"]: row for row in launch(2, [("ddp", 1)], wrong=wrong)}
    assert all(row["loss"] <= LIMIT for row in rows.values())
    assert rows["contrastive"]["gradient"] > 0.05
    assert rows["total"]["gradient"] > 1e-3
    assert max(rows["disease"]["gradient"], rows["gaze"]["gradient"]) <= LIMIT


def test_one_process_adds_up() -> None:
    """The total is the weighted sum of the terms, in value and gradient."""
    found = one_process()
    assert found["total"][0] == pytest.approx(sum(found[t][0] for t in TERMS[1:]), rel=1e-6)
    name = "perceiver.blocks.0.cross.to_query.weight"
    added = sum(found[t][1][name] for t in TERMS[1:])
    assert (found["total"][1][name] - added).norm() < 1e-5 * added.norm()
    assert command.__doc__
