"""What generated reports say of the 14 observations, against the references: precision, recall and F1.

As in the field's CheXbert F1: positive and uncertain count as present, negative and not mentioned as absent; micro and
macro means over all 14 observations (No Finding is one of them) and over the five most watched; the share of reports
whose five agree exactly. In the macro mean an observation that no report has counts as 0, as the published figures
have it; per observation it is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from cogaze.observations import OBSERVATIONS

FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
PRESENT = (1, -1)


def score(
    generated: Sequence[Mapping[str, int | None]], references: Sequence[Mapping[str, int | None]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(metrics, why some are None) of the labels of n generated reports and their references, by CheXbert name.

    Metrics: micro_14, macro_14, micro_5, macro_5, each {precision, recall, f1}; exact_5; per_observation {precision,
    recall, f1 (None where neither side has it), generated, reference: reports that have it}.
    """
    said, true = _present(generated), _present(references)  # (n,14)
    five = [OBSERVATIONS.index(name) for name in FIVE]
    metrics: dict[str, Any] = {}
    undefined: dict[str, str] = {}
    for size, columns in ((14, list(range(len(OBSERVATIONS)))), (5, five)):
        none = not (said[:, columns].any() or true[:, columns].any())
        for mean in ("micro", "macro"):
            name = f"{mean}_{size}"
            metrics[name] = None if none else _f1(true[:, columns], said[:, columns], mean)
            if none:
                undefined[name] = "no report has any of the observations"
    metrics["exact_5"] = float((said[:, five] == true[:, five]).all(axis=1).mean())
    each = precision_recall_fscore_support(true, said, average=None, zero_division=0.0)[:3]  # of (14,)
    metrics["per_observation"] = {}
    for c, name in enumerate(OBSERVATIONS):
        row: dict[str, float | None] = {"generated": int(said[:, c].sum()), "reference": int(true[:, c].sum())}
        for what, values in zip(("precision", "recall", "f1"), each, strict=True):
            row[what] = float(values[c]) if row["generated"] or row["reference"] else None
        metrics["per_observation"][name] = row
    return metrics, undefined


def _present(labels: Sequence[Mapping[str, int | None]]) -> NDArray[np.int64]:
    return np.array([[int(one.get(name) in PRESENT) for name in OBSERVATIONS] for one in labels], dtype=np.int64)


def _f1(true: NDArray[np.int64], said: NDArray[np.int64], mean: str) -> dict[str, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(true, said, average=mean, zero_division=0.0)
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
