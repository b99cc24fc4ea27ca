"""The same image, study or patient where it must not be."""

from __future__ import annotations

import json
from pathlib import Path

from cogaze.data.shards import ShardSet
from data_prep.check import check
from tests.data_prep.check.helpers import Members, faults, rewrite_json
from tests.hand_made import rewrite


def test_studies_patients_and_doubles(folder: Path) -> None:
    """Across samples and shards: adjacency, leaks, the same image twice."""

    def scatter(members: Members) -> None:
        keys = list(members)
        of = {key: json.loads(parts["json"])["study_id"] for key, parts in members.items()}
        group = [key for key in keys if list(of.values()).count(of[key]) == 3]
        other = next(key for key in keys if (of[key] != of[group[0]] and key > group[0]) or key < group[0])
        members[group[1]], members[other] = members[other], members[group[1]]

    rewrite(folder, "train-000000", scatter)
    assert any("its study's images are not adjacent" in line for line in faults(folder))


def test_leak_and_double(folder: Path) -> None:
    donor = json.loads(sample_json(folder, "train"))
    key = rewrite_json(folder, lambda meta: meta.update(patient_id=donor["patient_id"]), row=1, shard="test")
    assert any(line.startswith(f"{key}: its patient is also in split train") for line in faults(folder))
    key = rewrite_json(folder, lambda meta: meta.update(image_id=donor["image_id"]), row=0, shard="validate")
    assert any(line.startswith(f"{key}: is the same image as train-000000-") for line in faults(folder))
    key = rewrite_json(folder, lambda meta: meta.update(study_id=donor["study_id"]), row=0, shard="validate")
    assert any(line.startswith(f"{key}: its study also stands in train-000000") for line in faults(folder))


def test_patient_ids_that_differ_in_zeros(folder: Path) -> None:
    """A spreadsheet takes the zeros of a number, and the same patient looks like another."""
    keys = {
        (shard, row): rewrite_json(folder, lambda meta, id=spelled: meta.update(patient_id=id), row=row, shard=shard)
        for shard, row, spelled in (("train", 0, "0042"), ("train", 7, "42"), ("test", 0, "42.0"), ("test", 1, "42.0"))
    }
    lines = [(row["key"], row["warning"], row["detail"]) for row in check(folder)["warnings"]]
    first = keys["train", 0]
    assert (keys["train", 7], "patient ids that differ in zeros", f"that of {first}") in lines
    assert [line for line in lines if "two splits" in line[1]] == [
        (keys["test", 0], "patient ids that differ in zeros, in two splits", f"train, {first}")
    ]
    assert not [fault for fault in faults(folder) if "also in split" in fault]


def sample_json(folder: Path, split: str) -> bytes:
    return json.dumps(ShardSet.open(folder).read_meta(split, 0)).encode()


def test_a_study_of_two_patients(folder: Path) -> None:
    rewrite(folder, "train-000000", lambda members: None)
    shards = ShardSet.open(folder)
    studies = [shards.read_meta("train", i)["study_id"] for i in range(shards.size("train"))]
    row = next(i for i in range(1, len(studies)) if studies[i] == studies[i - 1])
    key = rewrite_json(folder, lambda meta: meta.update(patient_id="somebody else"), row=row)
    assert any(line.startswith(f"{key}: its study is of another patient in train-000000-") for line in faults(folder))
