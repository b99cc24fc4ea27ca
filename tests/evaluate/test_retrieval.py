"""Retrieval by hand on small pools, the closed-form chance against enumeration, ties, duplicates, K beyond the pool."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogaze.evaluate import EvaluationError, retrieval


def unit(*angles: float) -> np.ndarray:
    """Unit vectors of the plane at these degrees: cosine falls with the angle between them."""
    radians = np.deg2rad(np.array(angles, dtype=float))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_hand_worked() -> None:
    pool, keys = unit(0, 20, 60, 90), np.array([1, 2, 1, 3])
    query, query_key = unit(5, 80), np.array([2, 1])
    # The query at 5 degrees ranks the keys 1 2 1 3: its own, 2, is second. That at 80 ranks 3 1 2 1: 1 second and last.
    assert retrieval.rank(query, pool).tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    result = retrieval.metrics(query, pool, query_key, keys, ks=(1, 2, 4))
    assert result["p_at_1"] == 0.0
    assert result["hit_at_1"] == 0.0
    assert result["p_at_2"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert result["hit_at_2"] == 1.0
    assert result["p_at_4"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert result["median_rank"] == 2.0
    # chance of P@1: one of four and two of four
    assert result["p_at_1_chance"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    # Hit@2: 1 - C(3,2)/C(4,2) = 1/2 and 1 - C(2,2)/C(4,2) = 5/6
    assert result["hit_at_2_chance"] == pytest.approx((1 / 2 + 5 / 6) / 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.data())
def test_chance_is_the_mean_over_all_rankings(pool: int, k: int, data: st.DataObject) -> None:
    relevant = data.draw(st.integers(1, pool))
    flags = np.array([1] * relevant + [0] * (pool - relevant))
    shuffled = np.array(list(permutations(flags)))[:, :k]
    precision, hit = retrieval.chance(np.array([relevant]), pool, k)
    assert precision == pytest.approx(shuffled.sum(1).mean() / k)
    assert hit == pytest.approx((shuffled.sum(1) > 0).mean())


def test_k_beyond_the_pool_ranks_all_and_divides_by_k() -> None:
    result = retrieval.metrics(unit(0, 90), unit(0, 90), np.array([1, 2]), np.array([1, 2]), ks=(10,))
    assert result["p_at_10"] == pytest.approx(1 / 10)
    assert result["hit_at_10"] == 1.0
    assert result["p_at_10_chance"] == pytest.approx(1 / 10)
    assert result["hit_at_10_chance"] == 1.0


def test_a_collapsed_model_gets_exactly_chance() -> None:
    same = np.tile(unit(30), (300, 1))
    keys = np.arange(300)
    result = retrieval.metrics(same, same, keys, keys)
    assert retrieval.rank(same, same)[3].tolist() == list(range(300))
    for k in (1, 5, 10):
        assert result[f"p_at_{k}"] == pytest.approx(result[f"p_at_{k}_chance"])
        assert result[f"hit_at_{k}"] == pytest.approx(result[f"hit_at_{k}_chance"])


def test_ties_keep_the_order_of_the_pool_among_others() -> None:
    pool = np.tile(unit(30, 60, 90), (100, 1))
    wanted = [i for start in (0, 1, 2) for i in range(start, 300, 3)]
    assert retrieval.rank(unit(20), pool)[0].tolist() == wanted


def test_rounding_noise_does_not_break_ties() -> None:
    pool = np.tile(unit(30), (4, 1))
    pool[3] *= 1 + 1e-8
    assert retrieval.rank(unit(30), pool)[0].tolist() == [0, 1, 2, 3]


def test_queries_without_a_relevant_item_are_left_out_and_counted() -> None:
    result = retrieval.metrics(unit(0, 90), unit(0, 90), np.array([1, 7]), np.array([1, 2]))
    assert (result["queries"], result["queries_without_relevant"]) == (1, 1)
    assert result["p_at_1"] == 1.0
    with pytest.raises(EvaluationError, match="no query has a relevant item"):
        retrieval.metrics(unit(0), unit(0, 90), np.array([9]), np.array([1, 2]))


def test_not_finite_is_a_clear_error() -> None:
    broken = unit(0, 90)
    broken[1, 0] = np.inf
    with pytest.raises(EvaluationError, match="pool features: 1 of 2 rows are not finite"):
        retrieval.metrics(unit(0), broken, np.array([1]), np.array([1, 2]))


def test_chunks_change_nothing() -> None:
    rng = np.random.default_rng(0)
    query, pool = (rng.normal(size=(n, 4)) for n in (23, 17))
    keys = rng.integers(0, 5, 23), rng.integers(0, 5, 17)
    assert retrieval.metrics(query, pool, *keys, chunk=4) == retrieval.metrics(query, pool, *keys, chunk=100)


def test_against_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.retrieval")
    rng = np.random.default_rng(1)
    query, pool = (rng.normal(size=(n, 6)) for n in (12, 30))
    query_key, pool_key = rng.integers(0, 4, 12), rng.integers(0, 4, 30)
    result = retrieval.metrics(query, pool, query_key, pool_key)
    for k in (1, 5, 10):
        precision, hit = [], []
        for q in range(12):
            arguments = torch.tensor(pool @ query[q]), torch.tensor(pool_key == query_key[q])
            precision.append(float(functional.retrieval_precision(*arguments, top_k=k)))
            hit.append(float(functional.retrieval_hit_rate(*arguments, top_k=k)))
        assert result[f"p_at_{k}"] == pytest.approx(np.mean(precision))
        assert result[f"hit_at_{k}"] == pytest.approx(np.mean(hit))


# ------------------------------------------------------------------------------------------------ protocols
# Four images of three studies; studies 20 and 30 say the same words, and have the same labels. Image 3 has no report.
STUDY = np.array([10, 10, 20, 30, 40])
REPORT_KEY = np.array([1, 1, 2, 2, -1])
HAS_REPORT = np.array([True, True, True, True, False])
LABELS = np.zeros((5, 14))
LABELS[:2, 1] = 1.0
KNOWN = np.ones((5, 14), dtype=bool)
IMAGES = unit(0, 10, 80, 85, 40)
TEXTS = unit(0, 0, 80, 80, 0)


def protocols(**changes: np.ndarray) -> dict:
    arguments = {
        "image_features": IMAGES,
        "text_features": TEXTS,
        "study": STUDY,
        "report_key": REPORT_KEY,
        "has_report": HAS_REPORT,
        "labels": LABELS,
        "known": KNOWN,
    }
    return retrieval.evaluate(**(arguments | changes))


def test_by_study_is_strict_and_the_pool_is_one_report_a_study() -> None:
    result = protocols()
    assert (result["images"], result["images_without_report"], result["reports"]) == (4, 1, 3)
    assert result["distinct_reports"] == 2
    to_text = result["by_study"]["image_to_text"]
    assert (to_text["queries"], to_text["pool"]) == (4, 3)
    # images 0, 1 find the report of study 10; image 2 ties with the equal words of study 30 and comes first in the
    # pool; image 3 finds those same words of study 20 first, which is wrong under this protocol
    assert to_text["p_at_1"] == pytest.approx(3 / 4)
    assert to_text["p_at_1_chance"] == pytest.approx(1 / 3)
    to_image = result["by_study"]["text_to_image"]
    assert (to_image["queries"], to_image["pool"]) == (3, 4)
    assert to_image["p_at_1_chance"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)


def test_by_text_and_by_label_take_equal_words_and_equal_labels() -> None:
    result = protocols()
    assert result["by_text"]["image_to_text"]["p_at_1"] == 1.0
    assert result["by_text"]["image_to_text"]["p_at_1_chance"] == pytest.approx((1 / 3 + 1 / 3 + 2 / 3 + 2 / 3) / 4)
    assert result["by_label"]["image_to_text"]["p_at_1"] == 1.0


def test_by_label_leaves_out_images_without_a_known_label() -> None:
    known = KNOWN.copy()
    known[3] = False
    assert protocols(known=known)["by_label"]["image_to_text"]["queries"] == 3
    assert protocols(known=np.zeros_like(KNOWN))["by_label"] == {"skipped": "no known label"}


def test_label_keys_tell_unknown_from_negative() -> None:
    labels = np.zeros((4, 14))
    known = np.ones((4, 14), dtype=bool)
    known[1, 5] = False
    labels[2, 3] = 1.0
    known[3] = False
    keys = retrieval.label_keys(labels, known)
    assert len(set(keys.tolist())) == 4
    assert keys[3] == -1
    assert (keys[:3] >= 0).all()


def test_without_any_report() -> None:
    result = protocols(has_report=np.zeros(5, dtype=bool))
    assert result["by_study"] == {"skipped": "no image has a report"}
    assert retrieval.examples(IMAGES, TEXTS, STUDY, np.zeros(5, dtype=bool), 3) == []


def test_examples_name_the_own_report_and_its_rank() -> None:
    shown = retrieval.examples(IMAGES, TEXTS, STUDY, HAS_REPORT, count=2, top=2)
    assert [e["query"] for e in shown] == [0, 3]
    assert shown[0]["results"] == [0, 2]
    assert shown[0]["rank"] == 1
    assert (shown[1]["own"], shown[1]["rank"], shown[1]["results"]) == (3, 2, [2, 3])
    assert shown[1]["scores"][0] == pytest.approx(np.cos(np.deg2rad(5)), abs=1e-4)
    assert len(retrieval.examples(IMAGES, TEXTS, STUDY, HAS_REPORT, count=99)) == 4
