"""Positives of a row: by hand, and against the matrix P written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cogaze.losses import positives_per_row

from . import test_contrastive
from .test_contrastive import REPORTS, STUDIES


def test_by_hand() -> None:
    """Two images of study 7, three of study 9 of which one has no report, one of study 4, a padding row."""
    study = torch.tensor([7, 9, 4, 9, 7, 9, -1])
    has_report = torch.tensor([True, True, True, False, True, True, False])
    assert positives_per_row(study, has_report).tolist() == [2, 2, 1, 0, 2, 2, 0]
    assert positives_per_row(study, has_report, "self").tolist() == [1, 1, 1, 0, 1, 1, 0]


def test_nobody_has_a_report() -> None:
    assert positives_per_row(torch.tensor([3, 3]), torch.tensor([False, False])).tolist() == [0, 0]
    assert positives_per_row(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)).tolist() == []


def test_ids_that_differ_in_the_last_bit_differ() -> None:
    study = torch.tensor([2**63 - 1, 2**63 - 2, 2**63 - 1])
    assert positives_per_row(study, torch.tensor([True] * 3)).tolist() == [2, 1, 2]


@pytest.mark.parametrize("positives", ["study", "self"])
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from(STUDIES), st.sampled_from(REPORTS))
def test_the_row_sums_of_p(positives: Any, seed: int, rows: int, studies: str, reports: str) -> None:
    _, _, study, has = test_contrastive.draw(seed, rows, studies, reports, "random")
    key = study if positives == "study" else np.arange(rows)
    matrix = (key[:, None] == key) & has[:, None] & has
    counted = positives_per_row(torch.from_numpy(study), torch.from_numpy(has), positives)
    assert counted.dtype == torch.int64
    assert counted.tolist() == matrix.sum(1).tolist()
