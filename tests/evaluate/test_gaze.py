"""Gaze metrics on four patches by hand, scipy and scikit-learn as second methods, baselines and controls."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from cogaze.evaluate import EvaluationError, gaze


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=float)


def random_maps(seed: int, rows: int, patches: int) -> np.ndarray:
    maps = np.random.default_rng(seed).gamma(0.5, size=(rows, patches))
    return maps / maps.sum(1, keepdims=True)


# ------------------------------------------------------------------------------------------------ by hand
def test_js_by_hand() -> None:
    assert gaze.js(row(0.5, 0.5, 0, 0), row(0.5, 0.5, 0, 0))[0] == pytest.approx(0.0, abs=1e-15)
    assert gaze.js(row(1, 0, 0, 0), row(0, 0, 0, 1))[0] == pytest.approx(math.log(2))
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): 1/2 ln(4/3) + 1/2 (1/2 ln(2/3) + 1/2 ln 2)
    wanted = 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert gaze.js(row(1, 0), row(0.5, 0.5))[0] == pytest.approx(wanted)


def test_the_truth_may_be_in_grey_levels() -> None:
    predicted, truth, dwell = random_maps(0, 4, 16), random_maps(1, 4, 16), random_maps(2, 4, 16)
    truth[3] = 0  # a row without a map stays one
    levels = truth * np.array([[255], [1], [17], [255]]) / truth.max(1, keepdims=True, initial=1e-3)
    values, wanted = gaze.per_sentence(predicted, levels, dwell), gaze.per_sentence(predicted, truth, dwell)
    for name in gaze.NAMES:
        np.testing.assert_allclose(values[name], wanted[name], err_msg=name)
    assert gaze.js(row(0.5, 0.5, 0, 0), row(40, 40, 0, 0))[0] == pytest.approx(0.0, abs=1e-15)


def test_nss_by_hand() -> None:
    # S = (4, 2, 2, 0)/8: mean 2/8, deviation sqrt(2)/8, z = (sqrt 2, 0, 0, -sqrt 2)
    s = row(0.5, 0.25, 0.25, 0.0)
    assert gaze.nss(s, row(1, 0, 0, 0))[0] == pytest.approx(math.sqrt(2))
    # three seconds on patch 0 and one on patch 3: (3 - 1) / 4 * sqrt 2
    assert gaze.nss(s, row(3, 0, 0, 1))[0] == pytest.approx(math.sqrt(2) / 2)


def test_correlation_by_hand() -> None:
    assert gaze.correlation(row(0.4, 0.3, 0.2, 0.1), row(0.4, 0.3, 0.2, 0.1))[0] == pytest.approx(1.0)
    assert gaze.correlation(row(0.4, 0.3, 0.2, 0.1), row(0.1, 0.2, 0.3, 0.4))[0] == pytest.approx(-1.0)


def test_auc_judd_by_hand() -> None:
    s = row(0.4, 0.3, 0.2, 0.1)
    assert gaze.auc_judd(s, row(1, 0, 0, 0))[0] == 1.0
    assert gaze.auc_judd(s, row(0, 0, 5, 0))[0] == pytest.approx(1 / 3)  # above one of three others
    # patches 0 and 3 fixated, 1 and 2 not: pairs won 2 of 4; seconds do not matter
    assert gaze.auc_judd(s, row(9, 0, 0, 1))[0] == pytest.approx(0.5)
    assert np.isnan(gaze.auc_judd(s, row(1, 1, 1, 1))[0])


def test_a_constant_map_scores_chance() -> None:
    flat, truth, dwell = row(0.25, 0.25, 0.25, 0.25), row(1, 0, 0, 0), row(2, 0, 0, 0)
    values = gaze.per_sentence(flat, truth, dwell)
    assert values["nss"][0] == 0.0
    assert values["cc"][0] == 0.0
    assert values["auc_judd"][0] == 0.5


def test_dwell_map_counts_seconds_per_patch_and_drops_the_outside() -> None:
    fixations = np.array(
        [
            [0.1, 0.1, 1.0],  # patch 0
            [0.49, 0.2, 0.5],  # patch 0
            [0.5, 0.99, 2.0],  # patch 3
            [1.0, 0.5, 9.0],  # on the right border: outside
            [-0.1, 0.5, 9.0],
            [0.2, 0.7, 0.0],  # no time
            [0.2, 0.7, 0.25],  # patch 2 of the second segment
        ]
    )
    dwell = gaze.dwell_map(fixations, np.array([0, 0, 0, 0, 0, 0, 1]), 2, 2)
    assert dwell.tolist() == [[1.5, 0, 0, 2.0], [0, 0, 0.25, 0]]
    assert gaze.dwell_map(np.zeros((0, 3)), np.zeros(0, dtype=int), 2, 2).tolist() == [[0] * 4] * 2


# ------------------------------------------------------------------------------------------------ second methods
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_against_scipy_and_sklearn(seed: int) -> None:
    predicted, truth = random_maps(seed, 3, 16), random_maps(seed + 1, 3, 16)
    dwell = np.random.default_rng(seed).random((3, 16)) * (np.random.default_rng(seed + 2).random((3, 16)) < 0.3)
    dwell[:, 0] = 1.0
    dwell[:, 1] = 0.0
    values = gaze.per_sentence(predicted, truth, dwell)
    for s in range(3):
        assert values["js"][s] == pytest.approx(jensenshannon(predicted[s], truth[s]) ** 2, abs=1e-12)
        assert values["cc"][s] == pytest.approx(pearsonr(predicted[s], truth[s]).statistic)
        assert values["auc_judd"][s] == pytest.approx(roc_auc_score(dwell[s] > 0, predicted[s]))
        z = (predicted[s] - predicted[s].mean()) / predicted[s].std()
        assert values["nss"][s] == pytest.approx(np.average(z, weights=dwell[s]))
        assert 0 <= values["js"][s] <= math.log(2)


# ------------------------------------------------------------------------------------------------ controls
def test_donors_are_of_another_study_and_each_used_once() -> None:
    study = np.array([1, 1, 2, 3, 3, 4])
    other = gaze.donors(study)
    assert other is not None
    assert sorted(other.tolist()) == list(range(6))
    assert (study[other] != study).all()
    assert gaze.donors(np.array([5, 5])) is None
    assert gaze.donors(np.array([], dtype=int)) is None
    assert gaze.donors(np.array([1, 1, 1, 2])) is None  # more than half are one study: no such permutation


def scene() -> dict[str, np.ndarray]:
    """Two readings: one of three sentences at patches 0, 1, 2, one of a single sentence at patch 3."""
    truth = np.eye(4)
    return {
        "predicted": 0.9 * truth + 0.025,
        "truth": truth,
        "dwell": 2.0 * truth,
        "reading": np.array([7, 7, 7, 9]),
    }


def test_a_right_model_beats_every_baseline_and_control() -> None:
    arrays = scene()
    result = gaze.evaluate(
        **arrays, other_image=arrays["predicted"][[1, 2, 3, 0]], center=np.array([0.4, 0.2, 0.2, 0.2])
    )
    model = result["model"]
    assert (result["sentences"], result["readings"], model["sentences"]) == (4, 2, 4)
    for name in ("uniform", "center_bias", "shuffled_sentences", "shuffled_images"):
        assert result[name]["js"] > model["js"]
        assert result[name]["nss"] < model["nss"]
        assert result[name]["cc"] < model["cc"]
        assert result[name]["auc_judd"] < model["auc_judd"]
    assert result["uniform"]["nss"] == 0.0
    assert result["uniform"]["auc_judd"] == 0.5
    # the single sentence of reading 9 cannot be shuffled
    assert result["shuffled_sentences"]["sentences"] == 3
    assert result["shuffled_sentences"]["model_on_same"]["sentences"] == 3


def test_shuffled_sentences_average_every_other_sentence() -> None:
    arrays = scene()
    arrays["predicted"] = random_maps(3, 4, 4)
    result = gaze.evaluate(**arrays)["shuffled_sentences"]
    wanted = []
    for i in range(3):
        others = [gaze.js(arrays["predicted"][j : j + 1], arrays["truth"][i : i + 1])[0] for j in range(3) if j != i]
        wanted.append(np.mean(others))
    assert result["js"] == pytest.approx(np.mean(wanted))


def test_readings_of_different_length_and_interleaved_rows() -> None:
    reading = np.array([4, 2, 4, 2, 4, 4, 1])
    predicted, truth = random_maps(1, 7, 9), random_maps(2, 7, 9)
    result = gaze.evaluate(predicted, truth, np.ones((7, 9)) * (np.arange(9) < 4), reading)["shuffled_sentences"]
    wanted = []
    for i in range(6):
        others = [j for j in range(7) if reading[j] == reading[i] and j != i]
        wanted.append(np.mean([gaze.nss(predicted[[j]], (np.arange(9) < 4)[None] * 1.0)[0] for j in others]))
    assert result["nss"] == pytest.approx(np.mean(wanted))


def test_maps_from_words_alone_equal_their_control() -> None:
    """The same map for a sentence on any image: shuffling images changes nothing, so the control gives it away."""
    arrays = scene()
    result = gaze.evaluate(**arrays, other_image=arrays["predicted"])
    assert result["shuffled_images"]["js"] == pytest.approx(result["model"]["js"])


def test_sentences_without_gaze_inside_are_left_out_and_counted() -> None:
    arrays = scene()
    arrays["truth"] = arrays["truth"].copy()
    arrays["truth"][1] = 0.0
    arrays["dwell"] = arrays["dwell"].copy()
    arrays["dwell"][2] = 0.0
    result = gaze.evaluate(**arrays)
    assert (result["sentences"], result["sentences_left_out"]) == (2, 2)
    assert result["shuffled_sentences"] == {"skipped": "no reading has two sentences"}
    assert result["shuffled_images"] == {"skipped": "gaze images of two studies are needed"}
    assert "center_bias" not in result


def test_no_gaze_at_all() -> None:
    empty = np.zeros((0, 4))
    result = gaze.evaluate(empty, empty, empty, np.zeros(0, dtype=int))
    assert result["sentences"] == 0
    assert "no sentence" in result["skipped"]


def test_not_finite_is_a_clear_error() -> None:
    arrays = scene()
    arrays["predicted"][2, 1] = float("nan")
    with pytest.raises(EvaluationError, match="predicted gaze maps: 1 of 4"):
        gaze.evaluate(**arrays)
