"""What a trained model can do, in numbers and pictures.

    encode (the model over a split, once) -> zero_shot | retrieval | labels | gaze (numpy in, plain dict out) -> page

`suite.evaluate_all` chains them. Nothing here changes a model or reads a training image's label, with two stated
exceptions that never touch the test split: thresholds are tuned on the validation split, and the centre-bias map is
the mean of the training split's gaze.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class EvaluationError(ValueError):
    """The evaluation cannot give a meaningful number; the message says why and what would help."""


def require_finite(name: str, values: NDArray[np.floating]) -> None:
    """Raise EvaluationError when `values` (n, ...) holds a NaN or an infinity: no metric of it means anything."""
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        raise EvaluationError(
            f"{name}: {int(bad.sum())} of {len(bad)} rows are not finite (first: row {int(bad.argmax())}); "
            "the checkpoint has probably diverged, take an earlier one"
        )
