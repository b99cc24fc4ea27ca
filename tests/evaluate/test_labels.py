"""Hand-worked AUROC, average precision and F1; torchmetrics as the second method; undefined observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogaze.evaluate import EvaluationError, labels
from cogaze.observations import OBSERVATIONS

HEART, EDEMA, FRACTURE = (OBSERVATIONS.index(name) for name in ("Cardiomegaly", "Edema", "Fracture"))


def table(columns: dict[int, tuple[list[float], list[float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scores, labels, known (n,14) with the given columns known; a label of NaN is unknown."""
    n = len(next(iter(columns.values()))[0])
    scores, truth, known = np.zeros((n, 14)), np.zeros((n, 14)), np.zeros((n, 14), dtype=bool)
    for c, (score, label) in columns.items():
        scores[:, c] = score
        known[:, c] = ~np.isnan(label)
        truth[:, c] = np.nan_to_num(label)
    return scores, truth, known


def test_hand_worked() -> None:
    # Ranked by score: 1 0 1 0. Pairs (positive above negative): 0.9>0.7, 0.9>0.1, 0.4>0.1 of 4 -> AUROC 3/4.
    # Average precision: recall 1/2 at precision 1, then 1/2 at precision 2/3 -> 5/6.
    result = labels.rank_metrics(*table({HEART: ([0.9, 0.7, 0.4, 0.1], [1, 0, 1, 0])}))
    row = result["per_observation"]["Cardiomegaly"]
    assert row["auroc"] == pytest.approx(3 / 4)
    assert row["average_precision"] == pytest.approx(5 / 6)
    assert (row["positives"], row["negatives"]) == (2, 2)
    assert result["mean_auroc"] == pytest.approx(3 / 4)


def test_ties_count_half() -> None:
    result = labels.rank_metrics(*table({HEART: ([0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0])}))
    assert result["per_observation"]["Cardiomegaly"]["auroc"] == pytest.approx(0.5)


def test_undefined_observations_are_listed_and_left_out_of_the_mean() -> None:
    nan = float("nan")
    scores, truth, known = table(
        {
            HEART: ([0.9, 0.1, 0.2], [1, 0, 0]),
            EDEMA: ([0.9, 0.1, 0.2], [0, 0, 0]),
            FRACTURE: ([0.9, 0.1, 0.2], [1, nan, 1]),
        }
    )
    result = labels.rank_metrics(scores, truth, known)
    assert list(result["per_observation"]) == ["Cardiomegaly"]
    assert result["mean_auroc"] == 1.0
    assert result["skipped"]["Edema"] == "no positive among 3"
    assert result["skipped"]["Fracture"] == "no negative among 2"
    assert result["skipped"]["No Finding"] == "no known label"
    assert len(result["skipped"]) == 13


def test_nothing_known_gives_no_mean() -> None:
    result = labels.rank_metrics(np.zeros((3, 14)), np.zeros((3, 14)), np.zeros((3, 14), dtype=bool))
    assert result["mean_auroc"] is None
    assert len(result["skipped"]) == 14


def test_unknown_rows_do_not_count() -> None:
    nan = float("nan")
    scores, truth, known = table({HEART: ([0.9, 0.1, 5.0, -5.0], [1, 0, nan, nan])})
    truth[2, HEART], truth[3, HEART] = 0, 1  # whatever stands there
    assert labels.rank_metrics(scores, truth, known)["mean_auroc"] == 1.0


def test_not_finite_is_a_clear_error() -> None:
    scores, truth, known = table({HEART: ([0.9, float("nan"), 0.2], [1, 0, 0])})
    with pytest.raises(EvaluationError, match=r"1 of 3 rows are not finite \(first: row 1\).*diverged"):
        labels.rank_metrics(scores, truth, known)


def test_f1_at_half_and_tuned() -> None:
    # Probabilities .6 .45 .4 .1 with labels 1 1 0 0: at 0.5 precision 1, recall 1/2 -> F1 2/3; at 0.45 it is 1.
    probability = np.array([0.6, 0.45, 0.4, 0.1])
    logits, truth, known = table({HEART: (np.log(probability / (1 - probability)).tolist(), [1, 1, 0, 0])})
    thresholds = labels.tune_thresholds(logits, truth, known)
    assert thresholds[HEART] == pytest.approx(0.45)
    assert thresholds[EDEMA] == 0.5  # nothing known: the default
    row = labels.head_metrics(logits, truth, known, thresholds)["per_observation"]["Cardiomegaly"]
    assert row["f1_at_half"] == pytest.approx(2 / 3)
    assert row["f1_tuned"] == pytest.approx(1.0)
    assert row["threshold"] == pytest.approx(0.45)


def test_no_tuned_f1_without_a_validation_split() -> None:
    logits, truth, known = table({HEART: ([1.0, -1.0], [1, 0])})
    result = labels.evaluate({"image": logits}, truth, known)
    assert "f1_tuned" not in result["heads"]["image"]["per_observation"]["Cardiomegaly"]
    assert result["threshold_source"] == "0.5 for every observation"
    with pytest.raises(EvaluationError, match="tuned_on"):
        labels.evaluate({"image": logits}, truth, known, thresholds={"image": np.full(14, 0.3)})


def test_a_head_may_be_judged_on_some_rows_only() -> None:
    logits, truth, known = table({HEART: ([1.0, -1.0, 9.0], [1, 0, 0])})
    rows = np.array([True, True, False])
    result = labels.evaluate({"image": logits, "text": logits}, truth, known, rows={"text": rows})
    assert result["heads"]["text"]["mean_auroc"] == 1.0
    assert result["heads"]["text"]["images"] == 2
    assert result["heads"]["image"]["mean_auroc"] == 0.5


def test_against_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 14)) < 0.3).astype(float)
    logits = rng.normal(size=(80, 14)) + truth
    known = np.ones_like(truth, dtype=bool)
    result = labels.head_metrics(logits, truth, known)
    target, probability = torch.tensor(truth).long(), torch.tensor(1 / (1 + np.exp(-logits)))
    auroc = classification.multilabel_auroc(probability, target, 14, average=None)
    precision = classification.multilabel_average_precision(probability, target, 14, average=None)
    f1 = classification.multilabel_f1_score(probability, target, 14, average=None)
    for c, name in enumerate(OBSERVATIONS):
        row = result["per_observation"][name]
        assert row["auroc"] == pytest.approx(float(auroc[c]), abs=1e-6)
        assert row["average_precision"] == pytest.approx(float(precision[c]), abs=1e-6)
        assert row["f1_at_half"] == pytest.approx(float(f1[c]), abs=1e-6)


def test_words_alone() -> None:
    """Contexts that name the finding give it away; contexts that say nothing do not."""
    _, truth, known = table({HEART: ([0.0] * 12, [1, 0] * 6), EDEMA: ([0.0] * 12, [0, 0, 1] * 4)})
    told = ["known big heart", "fall"] * 6
    result = labels.from_words(told, truth, known, told, truth, known)
    assert result["per_observation"]["Cardiomegaly"]["auroc"] == 1.0
    silent = labels.from_words(["pain"] * 12, truth, known, ["pain", ""] * 6, truth, known)
    assert silent["per_observation"]["Edema"]["auroc"] == pytest.approx(0.5)
    empty = labels.from_words([""] * 12, truth, known, [""] * 12, truth, known)
    assert empty["mean_auroc"] == 0.5
