"""F1 of the observations in generated reports, by hand."""

from __future__ import annotations

import pytest

from cogaze.evaluate.reports.findings import score
from cogaze.observations import OBSERVATIONS

TRUE = [
    {"Edema": 1, "Cardiomegaly": -1, "Fracture": 0},  # uncertain counts as present, negative as absent
    {"Edema": 0, "Pleural Effusion": 1, "Fracture": 1},
    {"No Finding": 1},
    {"Pneumonia": None},
]
SAID = [
    {"Edema": -1, "Fracture": 1},
    {"Pleural Effusion": 1, "Edema": 1, "Fracture": None},
    {"No Finding": 1},
    {"Consolidation": 1},
]


def test_by_hand() -> None:
    found, undefined = score(SAID, TRUE)
    # present in truth: Edema 0, Cardiomegaly 0, Effusion 1, Fracture 1, No Finding 2; said: Edema 0 and 1, Fracture 0,
    # Effusion 1, No Finding 2, Consolidation 3. Right: Edema 0, Effusion 1, No Finding 2.
    assert found["micro_14"] == pytest.approx({"precision": 3 / 6, "recall": 3 / 5, "f1": 6 / 11})
    assert found["micro_5"] == pytest.approx({"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7})
    edema = 2 * (1 / 2) * 1 / (1 / 2 + 1)
    assert found["macro_14"]["f1"] == pytest.approx((edema + 1 + 1) / 14)
    assert found["macro_5"]["f1"] == pytest.approx((edema + 1) / 5)
    assert found["exact_5"] == 1 / 4  # the third
    assert found["per_observation"]["Edema"] == pytest.approx(
        {"precision": 1 / 2, "recall": 1, "f1": edema, "generated": 2, "reference": 1}
    )
    assert found["per_observation"]["Fracture"]["f1"] == 0
    assert found["per_observation"]["Pneumonia"]["f1"] is None
    assert list(found["per_observation"]) == list(OBSERVATIONS)
    assert not undefined


def test_reports_without_any_observation() -> None:
    found, undefined = score([{}, {"Edema": 0}], [{}, {"Edema": None}])
    assert found["micro_14"] is found["macro_5"] is None
    assert set(undefined) == {"micro_14", "macro_14", "micro_5", "macro_5"}
    assert found["exact_5"] == 1


def test_equal_labels_are_right_and_empty_ones_find_nothing() -> None:
    assert score(TRUE, TRUE)[0]["micro_14"] == {"precision": 1, "recall": 1, "f1": 1}
    assert score([{}] * 4, TRUE)[0]["micro_14"] == {"precision": 0, "recall": 0, "f1": 0}
