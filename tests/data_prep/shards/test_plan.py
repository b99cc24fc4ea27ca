"""The plan: every image once, studies whole, and shards that stay what they are when a source grows."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogaze.data.schema import canonical_json
from data_prep.records import ImageRecord, Quarantine
from data_prep.shards.plan import (
    LATE,
    PlanError,
    ShardPlan,
    image_digests,
    plan,
    report_aside,
    set_contradictions_aside,
    source_digests,
    spool_records,
)
from data_prep.shards.spool import Spool
from tests.hand_made import reading

# (study number, split, image number within the study) of an image; the patient is the study's
Drawn = tuple[int, str, int]


class Planned(NamedTuple):
    shards: list[tuple[str, list[ImageRecord]]]  # name, images in order
    aside: list[dict[str, str]]
    digests: list[tuple[str, list[str]]]  # what the finished build would remember
    sources: list[dict]


def planned(
    records: Sequence[ImageRecord], images_per_shard: int = 9, earlier: Iterable[tuple[str, list[str]]] = ()
) -> Planned:
    quarantine = Quarantine()
    with Spool(None) as spool:
        spool_records(records, spool, quarantine)
        set_contradictions_aside(spool)
        shards = plan(spool, images_per_shard, earlier)
        report_aside(spool, quarantine)
        by_id = {(row.image_id, row.study_id): row for row in records}
        ids = [list(spool.execute("SELECT image_id, study_id FROM image ORDER BY seq"))]
        return Planned(
            [(shard.name, [by_id[ids[0][seq - 1]] for seq in shard.rows]) for shard in shards],
            quarantine.rows,
            [(shard.name, image_digests(spool, shard)) for shard in shards],
            source_digests(spool, {}),
        )


def image(study: int, split: str, number: int, **changes: object) -> ImageRecord:
    name = f"{split}{study}"
    return replace(ImageRecord("x", f"{name}-{number}", name, name, split, "PA", Path("x"), "x"), **changes)  # type: ignore[arg-type]


def order_of(record: ImageRecord) -> bytes:
    return hashlib.sha256(canonical_json([record.source, record.patient_id, record.study_id])).digest()


IMAGES = st.sets(st.tuples(st.integers(0, 12), st.sampled_from(["train", "test"]), st.integers(0, 3)), max_size=60)


@settings(max_examples=40, deadline=None)
@given(IMAGES, st.integers(1, 9))
def test_plan_properties(drawn: set[Drawn], images_per_shard: int) -> None:
    """Every image once; studies whole, adjacent, in hash order; shards full but for what would not fit."""
    made = [image(*place) for place in drawn]
    shards = planned(made, images_per_shard).shards
    assert shards == planned(made[::-1], images_per_shard).shards
    flat = [row for _, rows in shards for row in rows]
    assert sorted(row.image_id for row in flat) == sorted(row.image_id for row in made)
    assert len({name for name, _ in shards}) == len(shards)
    for split in ("train", "test"):
        order = [order_of(row) for row in flat if row.split == split]
        assert order == sorted(order)
    sizes = {study: len(list(group)) for study, group in groupby(flat, key=lambda row: row.study_id)}
    assert sum(sizes.values()) == len(flat)  # each study in one run
    for name, rows in shards:
        assert {row.split for row in rows} == {name.partition("-")[0]}
        assert len(rows) <= images_per_shard or len({row.study_id for row in rows}) == 1
        assert sum(sizes[study] for study in {row.study_id for row in rows}) == len(rows)  # whole in this shard
    for (left, before), (right, after) in pairwise(shards):
        if left.partition("-")[0] == right.partition("-")[0]:
            assert int(right[-6:]) == int(left[-6:]) + 1
            assert len(before) + sizes[after[0].study_id] > images_per_shard


@settings(max_examples=40, deadline=None)
@given(IMAGES, IMAGES, st.integers(1, 9), st.integers(1, 9))
def test_growth_properties(first: set[Drawn], more: set[Drawn], images_per_shard: int, then: int) -> None:
    """Shards that are there stay; new studies are planned behind them as a source of their own would be."""
    old = [image(*place) for place in first]
    before = planned(old, images_per_shard)
    grown = old + [image(*place) for place in more - first]
    after = planned(grown[::-1], then, before.digests)
    known = {row.study_id for row in old}
    late = {row.image_id for row in grown[len(old) :] if row.study_id in known}
    assert {row["id"] for row in after.aside} == late
    assert {row["reason"] for row in after.aside} <= {LATE}
    new = [row for row in grown if row.study_id not in known]
    alone = planned(new, then).shards
    numbers = {split: sum(name.startswith(split) for name, _ in before.shards) for split in ("train", "test")}
    shifted = [(f"{n[:-7]}-{int(n[-6:]) + numbers[n[:-7]]:06d}", rows) for n, rows in alone]  # the numbering goes on
    assert sorted(after.shards) == sorted(before.shards + shifted)
    kept = dict(before.digests)
    assert {name: images for name, images in after.digests if name in kept} == kept
    again = planned(grown, then, after.digests)  # nothing new: the same plan
    assert (again.shards, again.digests) == (after.shards, after.digests)
    assert {row["id"] for row in again.aside} == late


def test_what_is_gone_or_changed_is_refused() -> None:
    made = [image(study, "train", number) for study in range(4) for number in range(2)]
    before = planned(made).digests
    with pytest.raises(PlanError, match=r"^2 images of the finished build are not in the source any more\. "):
        planned(made[2:], earlier=before)
    with pytest.raises(PlanError, match=r"^1 images of the finished build are described otherwise"):
        planned([replace(made[0], findings="Corrected."), *made[1:]], earlier=before)
    looked = replace(made[0], readings=(reading(),))
    with pytest.raises(PlanError, match=r"1 images .* otherwise"):
        planned([looked, *made[1:]], earlier=before)
    moved = replace(reading(), fixations=reading().fixations + 0.001)
    with pytest.raises(PlanError, match=r"1 images .* otherwise"):  # gaze counts to the last bit
        planned([replace(made[0], readings=(moved,)), *made[1:]], earlier=planned([looked, *made[1:]]).digests)
    # A patient of the training shards turns up in the test split: keeping either would be a leak.
    leak = image(0, "test", 0, image_id="new", patient_id="train0", study_id="other")
    with pytest.raises(PlanError, match=r"2 images .* \(2 now set aside: patient in two splits\)"):
        planned([*made, leak], earlier=before)
    assert planned([replace(row, path=Path("elsewhere"), findings="  ") for row in made], earlier=before).aside == []


def test_contradictions_are_set_aside() -> None:
    """No image of a patient in two splits is kept anywhere: that would leak the test into training."""

    def row(name: str, study: str, patient: str, split: str = "train", source: str = "made") -> ImageRecord:
        return ImageRecord(source, name, study, patient, split, "PA", Path("x"), f"{name}.png")

    made = [
        row("a", "s1", "leaks", "train"),
        row("b", "s2", "leaks", "test"),
        row("c", "shared", "p1"),
        row("d", "shared", "p2"),
        row("e", "s5", "p5"),
        row("e", "s6", "p6"),
        row("e", "s7", "p7", source="other"),
        row("f", "s8", "leaks", source="other"),  # another source's patient of that name is another patient
        row("g", "s9", "0042", "train"),
        row("h", "s10", "42", "test"),
        row("i", "s11", "42.0", "train"),
        row("j", "s12", "042", "train", source="other"),  # in one split it does no harm
        row("k", "s13", "42", "train", source="other"),
    ]
    found = planned(made)
    kept = {(row.source, row.study_id) for _, rows in found.shards for row in rows}
    assert kept == {("made", "s5"), ("other", "s7"), ("other", "s8"), ("other", "s12"), ("other", "s13")}
    assert [(row["id"], row["reason"], row.get("detail", "")) for row in found.aside] == [
        ("a", "patient in two splits", "test, train"),
        ("b", "patient in two splits", "test, train"),
        ("c", "study of two patients", ""),
        ("d", "study of two patients", ""),
        ("e", "image listed twice", ""),
        *((name, "patient in two splits, under ids that differ in zeros", "test, train") for name in "ghi"),
    ]
    assert {row["path"] for row in found.aside} == {f"{name}.png" for name in "abcdeghi"}
    assert [(row["name"], row["images"]) for row in found.sources] == [("made", 1), ("other", 4)]


def test_digests_stand_for_everything_but_the_place_of_the_files() -> None:
    made = [image(study, "train", 0) for study in range(3)]
    (source,) = planned(made, 1).sources
    assert planned(made[::-1], 7).sources == [source]  # neither order nor shards matter
    assert planned([replace(made[0], indication="cough"), *made[1:]], 1).sources != [source]
    shard = ShardPlan("train-000000", "train", array("q", [1]), "0" * 64)
    digest = shard.digest({"image_size": 518, "quality": 95})
    assert digest == shard.digest({"quality": 95, "image_size": 518})
    others = (shard.digest({"image_size": 518, "quality": 94}), replace(shard, name="train-000001").digest({}))
    assert digest not in others
    # By hand: the canonical JSON of name, records and settings.
    text = f'["train-000000","{"0" * 64}",{{"image_size":518,"quality":95}}]'
    assert digest == hashlib.sha256(text.encode()).hexdigest()
