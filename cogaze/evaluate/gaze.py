"""How well the map a model predicts for a spoken sentence agrees with where the radiologist looked while saying it.

Everything is on the patch grid. For a sentence, S (P,) is the predicted map (softmax over the patches of one image),
G (P,) the radiologist's map (Gaussians of the fixations, full; scaled to sum 1), d (P,) the seconds of fixation on each
patch. Per sentence, then the mean over sentences:

    JS    1/2 KL(S||M) + 1/2 KL(G||M), M = (S+G)/2, natural logarithm: 0 equal, ln 2 = 0.693 disjoint; lower is better
    NSS   sum_p d_p z_p / sum_p d_p, z = (S - mean S) / std S over the patches: 0 is chance; higher is better
    CC    Pearson correlation of S and G over the patches
    AUC   AUC-Judd: probability that a fixated patch has a higher S than one never fixated (ties count half)

A constant map has no z-score and no correlation: both are 0 then, their chance value. AUC-Judd is the area under the
whole ROC curve; scripts that only use thresholds at fixated values join those points by straight lines, which on a
coarse grid lifts a random map far above one half.

A good number alone proves little, because gaze is anywhere but uniform. So the same metrics stand beside
- `uniform`: 1/P everywhere; `center_bias`: the mean map of the training split's sentences, the same for every image;
- `shuffled_sentences`: the model's own maps, but of another sentence of the same reading. All rotations of the
  sentences are averaged (each is a derangement), so every other sentence is used equally often;
- `shuffled_images`: the same sentence on the patches of another study's image. A map guessed from words alone gives
  the same values here as the model itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cogaze.evaluate import require_finite

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

NAMES = ("js", "nss", "cc", "auc_judd")


def js(predicted: Floats, truth: Floats) -> Floats:
    """Jensen-Shannon divergence of two distributions a row, (S,P), (S,P) -> (S,), in nats.

    The truth may be in any unit (with `data.gaze_maps: rendered` it is in grey levels): its rows are scaled to sum 1.
    """
    p, q = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    total = q.sum(1, keepdims=True)
    q = q / np.where(total > 0, total, 1.0)
    middle = (p + q) / 2
    return (_kl(p, middle) + _kl(q, middle)) / 2


def nss(predicted: Floats, dwell: Floats) -> Floats:
    """Normalised scanpath saliency, (S,P) maps and (S,P) seconds -> (S,): mean z-score where was looked, by seconds."""
    return (_standardised(predicted) * dwell).sum(1) / dwell.sum(1)


def correlation(predicted: Floats, truth: Floats) -> Floats:
    """Pearson correlation over the patches, (S,P), (S,P) -> (S,)."""
    return (_standardised(predicted) * _standardised(truth)).mean(1)


def auc_judd(predicted: Floats, dwell: Floats) -> Floats:
    """Area under the ROC curve of fixated against other patches, (S,P), (S,P) -> (S,); NaN if either is missing."""
    fixated = dwell > 0
    ones = fixated.sum(1)
    zeros = fixated.shape[1] - ones
    ranks = rankdata(predicted, axis=1)  # (S,P), ties share their mean rank
    wins = (ranks * fixated).sum(1) - ones * (ones + 1) / 2  # Mann-Whitney U
    return np.where(ones * zeros > 0, wins / np.maximum(ones * zeros, 1), np.nan)


def per_sentence(predicted: Floats, truth: Floats, dwell: Floats) -> dict[str, Floats]:
    """The four metrics of every row: predicted, truth, dwell (S,P) -> {name: (S,)}."""
    predicted = np.asarray(predicted, np.float64)
    return {
        "js": js(predicted, truth),
        "nss": nss(predicted, dwell),
        "cc": correlation(predicted, truth),
        "auc_judd": auc_judd(predicted, dwell),
    }


def dwell_map(fixations: Floats, segment: Ints, segments: int, grid: int) -> Floats:
    """Seconds of fixation on each patch, (segments, grid*grid) row-major.

    fixations (F,3): x, y as fractions of the image and seconds; segment (F,): row of each. What lies outside the image
    is left out (right and lower border are outside).
    """
    fixations = np.asarray(fixations, np.float64).reshape(-1, 3)
    dwell = np.zeros((segments, grid * grid))
    x, y, seconds = fixations.T
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1) & (seconds > 0)
    patch = (y[inside] * grid).astype(np.int64) * grid + (x[inside] * grid).astype(np.int64)
    np.add.at(dwell, (np.asarray(segment)[inside], patch), seconds[inside])
    return dwell


def donors(study: Ints) -> Ints | None:
    """A permutation (n,) that gives every gaze image another one of a different study, or None if there is none.

    `study` (n,): study of each gaze image, in the order of the split. Deterministic: the rotation nearest to half a
    turn that never lands in the own study (so it has no fixed point).
    """
    n = len(study)
    for shift in sorted(range(1, n), key=lambda s: (abs(s - n / 2), s)):
        other = (np.arange(n) + shift) % n
        if (study[other] != study).all():
            return other
    return None


def evaluate(
    predicted: Floats,
    truth: Floats,
    dwell: Floats,
    reading: Ints,
    other_image: Floats | None = None,
    center: Floats | None = None,
) -> dict[str, Any]:
    """All metrics, baselines and controls over the sentences of a split.

    predicted, truth, dwell (S,P); reading (S,): equal for sentences of one reading of one image; other_image (S,P):
    the maps of the same sentences on a donor image; center (P,): the centre-bias map. Sentences without a map or
    without a fixation inside the crop are left out and counted (the loader already passes over those without a map).
    Every control comes with the model's own value on the very sentences that it covers (`model_on_same`).
    Raises EvaluationError on predicted maps that are not finite.
    """
    require_finite("predicted gaze maps", predicted)
    kept = (truth.sum(1) > 0) & (dwell.sum(1) > 0)
    result: dict[str, Any] = {
        "sentences": int(kept.sum()),
        "sentences_left_out": int((~kept).sum()),
        "readings": len(np.unique(reading[kept])),
    }
    if not kept.any():
        return result | {"skipped": "no sentence of this split has gaze inside the image"}
    predicted, truth, dwell, reading = predicted[kept], truth[kept], dwell[kept], reading[kept]
    own = per_sentence(predicted, truth, dwell)
    everyone = np.arange(len(predicted))
    result["model"] = _summary(own, everyone)
    flat = np.full_like(truth, 1.0 / truth.shape[1], dtype=np.float64)
    result["uniform"] = _summary(per_sentence(flat, truth, dwell), everyone)
    if center is not None:
        fixed = np.broadcast_to(center, truth.shape)
        result["center_bias"] = _summary(per_sentence(fixed, truth, dwell), everyone)
    shuffled = _rotations(predicted, truth, dwell, reading)
    if shuffled is None:
        result["shuffled_sentences"] = {"skipped": "no reading has two sentences"}
    else:
        rows, values = shuffled
        result["shuffled_sentences"] = _summary(values, rows) | {"model_on_same": _summary(own, rows)}
    if other_image is None:
        result["shuffled_images"] = {"skipped": "gaze images of two studies are needed"}
    else:
        require_finite("gaze maps on another image", other_image[kept])
        swapped = per_sentence(other_image[kept], truth, dwell)
        result["shuffled_images"] = _summary(swapped, everyone) | {"model_on_same": result["model"]}
    return result


def _rotations(
    predicted: Floats, truth: Floats, dwell: Floats, reading: Ints
) -> tuple[NDArray[np.integer], dict[str, Floats]] | None:
    """Metrics averaged over all rotations of the maps within a reading: the rows used (R,) and {name: (S,)}, 0 else."""
    groups = [rows for rows in _groups(reading) if len(rows) > 1]
    if not groups:
        return None
    total: dict[str, Floats] = {name: np.zeros(len(predicted)) for name in NAMES}
    for turn in range(1, max(len(rows) for rows in groups)):
        # all readings with more than `turn` sentences in one call: row r is judged with the map of row source[r]
        turned = [rows for rows in groups if len(rows) > turn]
        rows = np.concatenate(turned)
        source = np.concatenate([np.roll(r, turn) for r in turned])
        share = np.concatenate([np.full(len(r), 1.0 / (len(r) - 1)) for r in turned])
        for name, values in per_sentence(predicted[source], truth[rows], dwell[rows]).items():
            total[name][rows] += share * values
    return np.sort(np.concatenate(groups)), total


def _groups(reading: Ints) -> list[NDArray[np.intp]]:
    order = np.argsort(reading, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(reading[order])) + 1)


def _summary(values: dict[str, Floats], rows: NDArray[np.integer]) -> dict[str, float | int | None]:
    """Means over `rows`; a metric without a single defined value is None."""
    means: dict[str, float | int | None] = {"sentences": len(rows)}
    for name in NAMES:
        chosen = values[name][rows]
        chosen = chosen[np.isfinite(chosen)]
        means[name] = float(chosen.mean()) if len(chosen) else None
    return means


def _kl(p: Floats, q: Floats) -> Floats:
    ratio = np.log(np.where(p > 0, p, 1.0)) - np.log(np.where(p > 0, q, 1.0))  # 0 ln 0 = 0
    return (p * ratio).sum(1)


def _standardised(maps: Floats) -> Floats:
    """z-scores over the patches with the population deviation; zeros for a constant row."""
    maps = np.asarray(maps, np.float64)
    centred = maps - maps.mean(1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(1, keepdims=True))
    constant = deviation <= 1e-12 * np.abs(maps).max(1, keepdims=True)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, deviation))
