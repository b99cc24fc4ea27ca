"""What must not happen between samples: an image twice, a study torn apart, a patient or an image in two splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep.check.alike import BITS, HOW, Looks, alike
from data_prep.check.result import MAX_ALIKE, Findings, ShardFacts

LOOKS_ALIKE = "looks like an image of another split"


def across(splits: Sequence[str], facts: Sequence[ShardFacts], findings: Findings) -> None:
    """Compare all samples with all; `splits` names each shard's. Rows of `facts` are in the order of the folder."""
    if not facts:
        return
    sizes = [len(found.studies) for found in facts]
    shard = np.repeat(np.arange(len(facts)), sizes)  # (N,), number of each sample's shard
    start = np.cumsum(sizes) - sizes
    split = np.array([sorted(set(splits)).index(name) for name in splits])[shard]  # (N,)

    def key(row: int) -> str:
        return facts[shard[row]].key(int(row - start[shard[row]]))

    def name(row: int) -> str:
        return facts[shard[row]].name

    def of(row: int) -> str:
        return splits[shard[row]]

    studies = np.concatenate([found.studies for found in facts])  # (N,)
    first = _first(studies)
    for row in _one_each(studies, shard != shard[first]):
        findings.fault(f"its study also stands in {name(first[row])}", key(row), name(row))
    if any(len(found.images) != size for found, size in zip(facts, sizes, strict=True)):
        return  # the index alone was read: nothing is known of images and patients
    images, patients, persons, files = (
        np.concatenate([getattr(found, column) for found in facts])
        for column in ("images", "patients", "persons", "files")
    )
    for row in _one_each(studies, patients != patients[first]):
        findings.fault(f"its study is of another patient in {key(first[row])}", key(row), name(row))
    first = _first(images)
    for row in np.flatnonzero(first != np.arange(len(images))).tolist():
        findings.fault(f"is the same image as {key(first[row])}", key(row), name(row))
    first = _first(patients)
    for row in _one_each(patients, split != split[first]):
        findings.fault(f"its patient is also in split {of(first[row])} ({key(first[row])})", key(row), name(row))
    first = _first(persons)
    for row in _one_each(patients, (patients != patients[first]) & (split == split[first])):
        findings.warn("patient ids that differ in zeros", f"that of {key(first[row])}", key(row), name(row))
    for row in _one_each(persons, (patients != patients[first]) & (split != split[first])):
        detail = f"{of(first[row])}, {key(first[row])}"
        findings.warn("patient ids that differ in zeros, in two splits", detail, key(row), name(row))
    first = _first(files)
    for row in np.flatnonzero(split != split[first]).tolist():
        findings.warn(
            "the same image file is in two splits", f"{of(first[row])}, {key(first[row])}", key(row), name(row)
        )
    for found in alike(_looks(split, facts)):
        rows, others, bits, how, negative = found
        for at in np.flatnonzero(files[rows] != files[others]).tolist():
            row, other = int(rows[at]), int(others[at])
            if findings.seen[LOOKS_ALIKE] >= MAX_ALIKE:  # a film of which there are a thousand copies
                findings.left_out[LOOKS_ALIKE] += 1
                continue
            as_what = ", ".join(word for word in ("as a negative" if negative[at] else "", HOW[how[at]]) if word)
            detail = f"{of(other)}, {key(other)}, {bits[at]} of {BITS} bits differ{as_what and ' '}{as_what}"
            findings.warn(LOOKS_ALIKE, detail, key(row), name(row))


def _looks(split: NDArray[np.int64], facts: Sequence[ShardFacts]) -> list[Looks]:
    """The hashes of each split, where they were asked for."""
    shard = np.repeat(np.arange(len(facts)), [len(found.studies) for found in facts])
    return [
        Looks(rows, np.concatenate([facts[number].looks for number in np.unique(shard[rows])]))
        for rows in (np.flatnonzero(split == number) for number in np.unique(split))
        if len(facts[shard[rows[0]]].looks)
    ]


def _first(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row the first row of the same value: (N,) -> (N,)."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return np.asarray(first[inverse.reshape(-1)])


def _one_each(values: NDArray[np.uint64], wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The first row of each value among those that are wrong: one fault a study or patient is enough."""
    rows = np.flatnonzero(wrong)
    return np.sort(rows[np.unique(values[rows], return_index=True)[1]])
