"""Indication and history: correlated with the findings, far from giving them away."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from data_prep.phantom import context
from data_prep.phantom.plan import DRAWN, make_findings, make_study


def test_the_best_guess_from_reasons_alone_stays_weak() -> None:
    """The wording adds nothing to the two reasons, so their table of frequencies is the best classifier there is."""
    rng = np.random.default_rng(0)
    names = [sorted({f.name for f in make_findings(rng)}) for _ in range(2500)]
    drawn = [(present, context.draw_reasons(rng, present)) for present in names for _ in range(8)]
    areas = []
    for name in DRAWN:
        truth = np.array([name in present for present, _ in drawn])
        positive, total = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for (_, reasons), value in zip(drawn, truth, strict=True):
            positive[reasons] += int(value)
            total[reasons] += 1
        areas.append(roc_auc_score(truth, [positive[reasons] / total[reasons] for _, reasons in drawn]))
    assert np.mean(areas) < 0.605
    assert max(areas) < 0.64
    assert np.mean(areas) > 0.53  # and yet there is something to be learnt from it


def test_a_classifier_of_the_words_stays_near_chance() -> None:
    studies = [s for s in (make_study(0, i, i) for i in range(3000)) if s.indication or s.history]
    words = CountVectorizer(ngram_range=(1, 2), min_df=2)
    x = words.fit_transform([f"{s.indication or ''} {s.history or ''}" for s in studies])
    cut = 2 * len(studies) // 3
    areas = []
    for name in DRAWN:
        y = np.array([name in s.present for s in studies])
        model = LogisticRegression(C=0.1, max_iter=300).fit(x[:cut], y[:cut])
        areas.append(roc_auc_score(y[cut:], model.decision_function(x[cut:])))
    assert np.mean(areas) < 0.60


def test_no_observation_is_named() -> None:
    told = " ".join(f"{s.indication} {s.history}".lower() for s in (make_study(1, i, i) for i in range(400)))
    for word in ("effusion", "cardiomegaly", "consolidation", "opacity", "pneumothorax", "nodule", "fracture", "edema"):
        assert word not in told


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_share_of_studies_with_context(share: float) -> None:
    has = [bool(s.indication or s.history) for s in (make_study(0, i, i, context_share=share) for i in range(30))]
    assert all(has) if share else not any(has)
