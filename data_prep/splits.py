"""Splits drawn by a hash of the patient: nobody is in two, and nobody moves however the collection grows."""

from __future__ import annotations

import hashlib
import re


def one_spelling(patient: str) -> str:
    """The id as it is compared with others: "0042", "42.0" and "42" are one patient, whose number lost its zeros."""
    number = re.fullmatch(r"0*([0-9]+)(?:\.0*)?", patient)
    return number[1] if number else patient


def share_of(source: str, patient: str, seed: int) -> float:
    """A patient's place in [0, 1): the first 8 bytes of sha256("SOURCE/SEED/PATIENT"), over 2^64.

    A number goes in without leading zeros, so that a patient draws one place however a table spells him.
    """
    text = f"{source}/{seed}/{one_spelling(patient)}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_by_hash(source: str, patient: str, train: float, validate: float, seed: int = 0) -> str:
    """train below the share `train`, validate below `train + validate`, else test."""
    draw = share_of(source, patient, seed)
    if draw < train:
        return "train"
    return "validate" if draw < train + validate else "test"
