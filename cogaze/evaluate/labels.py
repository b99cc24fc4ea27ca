"""AUROC, average precision and F1 per observation, from scores and the 14 labels.

Only rows whose label is known count. An observation without a positive or without a negative row has no ROC curve: it
is left out of the means and listed with its reason, never counted as 0.5. F1 needs a threshold: 0.5 on the
probability, or the one with the best F1 on the *validation* split. Nothing is ever tuned on the split under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from cogaze.evaluate import EvaluationError, require_finite
from cogaze.observations import OBSERVATIONS

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def rank_metrics(scores: Floats, labels: Floats, known: Bools) -> dict[str, Any]:
    """Threshold-free metrics of `scores` (n,14), any monotone scale; labels (n,14) 0/1; known (n,14).

    Returns mean_auroc and mean_average_precision (None when no observation can be evaluated), per_observation
    {name: auroc, average_precision, positives, negatives}, skipped {name: reason}. Average precision is the step-wise
    area sum_k (R_k - R_k-1) P_k; its chance level is the share of positives.
    Raises EvaluationError on scores that are not finite.
    """
    require_finite("scores", scores)
    rows: dict[str, dict[str, float | int]] = {}
    skipped: dict[str, str] = {}
    for c, name in enumerate(OBSERVATIONS):
        truth = labels[known[:, c], c] > 0.5  # (n_known,)
        score = np.asarray(scores[known[:, c], c], dtype=np.float64)
        reason = _undefined(truth)
        if reason:
            skipped[name] = reason
            continue
        rows[name] = {
            "auroc": float(roc_auc_score(truth, score)),
            "average_precision": float(average_precision_score(truth, score)),
            "positives": int(truth.sum()),
            "negatives": int((~truth).sum()),
        }
    return {
        "mean_auroc": _mean(rows, "auroc"),
        "mean_average_precision": _mean(rows, "average_precision"),
        "per_observation": rows,
        "skipped": skipped,
    }


def tune_thresholds(logits: Floats, labels: Floats, known: Bools) -> Floats:
    """Probability thresholds (14,) with the best F1 on these rows (the lowest such); 0.5 where F1 is undefined.

    Give it the validation split. logits, labels, known: (n,14).
    """
    require_finite("validation logits", logits)
    thresholds = np.full(len(OBSERVATIONS), 0.5)
    for c in range(len(OBSERVATIONS)):
        truth = labels[known[:, c], c] > 0.5
        if _undefined(truth):
            continue
        precision, recall, cut = precision_recall_curve(truth, _probability(logits[known[:, c], c]))
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        thresholds[c] = cut[int(np.argmax(f1[:-1]))]  # the last point (recall 0) has no threshold
    return thresholds


def head_metrics(logits: Floats, labels: Floats, known: Bools, thresholds: Floats | None = None) -> dict[str, Any]:
    """`rank_metrics` of a head's logits (n,14) plus F1 per observation: f1_at_half, and f1_tuned with its threshold.

    `thresholds` (14,) are probabilities from `tune_thresholds` on the validation split; without them f1_tuned is left
    out. An observation is predicted present when sigmoid(logit) >= threshold.
    """
    table = rank_metrics(logits, labels, known)
    for name, row in table["per_observation"].items():
        c = OBSERVATIONS.index(name)
        truth = labels[known[:, c], c] > 0.5
        probability = _probability(logits[known[:, c], c])
        row["f1_at_half"] = float(f1_score(truth, probability >= 0.5, zero_division=0.0))
        if thresholds is not None:
            row["threshold"] = float(thresholds[c])
            row["f1_tuned"] = float(f1_score(truth, probability >= thresholds[c], zero_division=0.0))
    table["mean_f1_at_half"] = _mean(table["per_observation"], "f1_at_half")
    if thresholds is not None:
        table["mean_f1_tuned"] = _mean(table["per_observation"], "f1_tuned")
    return table


def evaluate(
    logits: dict[str, Floats],
    labels: Floats,
    known: Bools,
    rows: dict[str, Bools] | None = None,
    thresholds: dict[str, Floats] | None = None,
    tuned_on: str | None = None,
) -> dict[str, Any]:
    """Metrics of several heads, e.g. image, image without context, text.

    `logits`: head name -> (n,14). `rows`: head name -> (n,) bool, rows that the head may be judged on (the text head
    only where there is a report). `thresholds`: head name -> (14,), and `tuned_on` the split they come from.
    Raises EvaluationError for thresholds whose origin is not stated.
    """
    if thresholds and not tuned_on:
        raise EvaluationError("tuned thresholds need the name of the split they were tuned on (`tuned_on`)")
    heads = {}
    for name, values in logits.items():
        keep = rows[name] if rows and name in rows else np.ones(len(values), dtype=bool)
        own = thresholds.get(name) if thresholds else None
        heads[name] = {"images": int(keep.sum()), **head_metrics(values[keep], labels[keep], known[keep], own)}
    source = f"best F1 on the split '{tuned_on}'" if thresholds else "0.5 for every observation"
    return {"heads": heads, "threshold_source": source, "tuned_on": tuned_on}


def from_words(
    train_texts: Sequence[str],
    train_labels: Floats,
    train_known: Bools,
    texts: Sequence[str],
    labels: Floats,
    known: Bools,
) -> dict[str, Any]:
    """`rank_metrics` of a bag-of-words model that sees texts alone: a logistic regression per observation.

    Given the clinical contexts, it tells how far these words alone give the labels away, with no image and none of
    our model. "" stands for an absent context. An observation that the training rows cannot teach scores all alike.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    scores = np.zeros(labels.shape)
    try:
        train = words.fit_transform(train_texts)
    except ValueError:  # not one word stands in two texts
        return rank_metrics(scores, labels, known)
    test = words.transform(texts)
    for c in range(len(OBSERVATIONS)):
        truth = train_labels[train_known[:, c], c] > 0.5
        if not _undefined(truth):
            model = LogisticRegression(max_iter=1000, class_weight="balanced")
            scores[:, c] = model.fit(train[np.flatnonzero(train_known[:, c])], truth).decision_function(test)
    return rank_metrics(scores, labels, known)


def _undefined(truth: Bools) -> str | None:
    """Why no ROC curve exists, or None when it does."""
    if truth.size == 0:
        return "no known label"
    if not truth.any():
        return f"no positive among {truth.size}"
    if truth.all():
        return f"no negative among {truth.size}"
    return None


def _probability(logits: Floats) -> Floats:
    return expit(np.asarray(logits, dtype=np.float64))


def _mean(rows: dict[str, dict[str, float | int]], key: str) -> float | None:
    return float(np.mean([row[key] for row in rows.values()])) if rows else None
