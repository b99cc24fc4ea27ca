"""Image-text retrieval over one whole pool, beside its exact chance level.

Every query ranks the whole pool by cosine similarity (not a batch of it). What counts as relevant is an equal integer
key, which gives three protocols with one function:

    by study   the report of the image's own study (strict: another study with the same words is wrong) - the headline
    by text    any report with the same words
    by label   any report with the same vector of known labels (the MIMIC 5x200 protocol, on 14 observations)

Precision@K = mean over queries of (relevant among the first K) / K. Hit@K = share of queries with at least one
relevant item among the first K; it is what several papers print as "R@K".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cogaze.evaluate import EvaluationError, require_finite

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KS = (1, 5, 10)
_DECIMALS = 6  # equal vectors must tie exactly, and fp32 features of one text differ by about 1e-7 between batches


def rank(query: Floats, pool: Floats) -> NDArray[np.intp]:
    """Pool indices from most to least similar, (q,p), for normalised rows (q,D) and (p,D).

    Scores are rounded to 1e-6, below the rounding of fp32 features; ties keep the order of the pool, so that a model
    whose features have collapsed gets the chance level and not a lucky or unlucky draw.
    """
    scores = np.round(np.asarray(query, np.float64) @ np.asarray(pool, np.float64).T, _DECIMALS)
    return np.argsort(-scores, axis=1, kind="stable")


def chance(relevant: Ints, pool: int, k: int) -> tuple[float, float]:
    """Expected Precision@k and Hit@k of a uniformly random ranking, exactly.

    `relevant` (q,): number of relevant items of each query in a pool of `pool`. With R relevant items and
    k' = min(k, pool) places: E[P@k] = k'/k * R/pool, and Hit@k = 1 - C(pool-R, k') / C(pool, k').
    """
    counts = np.asarray(relevant, dtype=np.float64)
    places = min(k, pool)
    drawn = np.arange(places)
    miss = np.prod(np.clip(pool - counts[:, None] - drawn, 0, None) / (pool - drawn), axis=1)
    return float(np.mean(counts / pool) * places / k), float(np.mean(1.0 - miss))


def metrics(
    query: Floats, pool: Floats, query_key: Ints, pool_key: Ints, ks: tuple[int, ...] = KS, chunk: int = 512
) -> dict[str, Any]:
    """Precision@K, Hit@K, their chance levels and the median rank of the first relevant item.

    query (q,D), pool (p,D): normalised features. query_key (q,), pool_key (p,): equal keys are relevant. A pool smaller
    than K is ranked whole and still divided by K. Queries without a relevant item are left out and counted.
    Raises EvaluationError on an empty pool, no usable query, or features that are not finite.
    """
    require_finite("query features", query)
    require_finite("pool features", pool)
    names, multiplicity = np.unique(pool_key, return_counts=True)
    counted = dict(zip(names.tolist(), multiplicity.tolist(), strict=True))
    relevant = np.array([counted.get(key, 0) for key in query_key.tolist()], dtype=np.int64)  # (q,)
    usable = np.flatnonzero(relevant)
    if not len(usable):
        raise EvaluationError("retrieval: no query has a relevant item in the pool")
    found = {k: np.zeros(len(usable)) for k in ks}  # relevant items among the first k
    first = np.zeros(len(usable))
    for start in range(0, len(usable), chunk):
        rows = usable[start : start + chunk]
        order = rank(query[rows], pool)  # (r,p)
        hits = pool_key[order] == query_key[rows][:, None]  # (r,p)
        first[start : start + len(rows)] = hits.argmax(axis=1) + 1
        for k in ks:
            found[k][start : start + len(rows)] = hits[:, :k].sum(axis=1)
    result: dict[str, Any] = {"queries": len(usable), "pool": len(pool), "queries_without_relevant": 0}
    result["queries_without_relevant"] = int(len(query) - len(usable))
    result["median_rank"] = float(np.median(first))
    for k in ks:
        by_chance = chance(relevant[usable], len(pool), k)
        result[f"p_at_{k}"] = float(np.mean(found[k]) / k)
        result[f"hit_at_{k}"] = float(np.mean(found[k] > 0))
        result[f"p_at_{k}_chance"], result[f"hit_at_{k}_chance"] = by_chance
    return result


def label_keys(labels: Floats, known: Bools) -> Ints:
    """One integer a row (n,): equal when the same labels are known and have the same values; -1 with none known."""
    code = np.where(known, (labels > 0.5).astype(np.int64), 2)  # (n,14) in {0 absent, 1 present, 2 unknown}
    _, key = np.unique(code, axis=0, return_inverse=True)
    return np.where(known.any(axis=1), key.reshape(-1), -1).astype(np.int64)


def evaluate(
    image_features: Floats,
    text_features: Floats,
    study: Ints,
    report_key: Ints,
    has_report: Bools,
    labels: Floats,
    known: Bools,
    ks: tuple[int, ...] = KS,
) -> dict[str, Any]:
    """Both directions under the three protocols; all arrays have one row an image (n, ...).

    The text pool is one report a study (that of the study's first image); image -> text queries are all images with a
    report, text -> image queries are the reports and their pool is those images. `report_key` is equal for reports of
    equal words. Images without a report take no part; for "by label" images without a known label do not either.
    A protocol that cannot be evaluated is {"skipped": reason}.
    """
    with_report = np.flatnonzero(has_report)
    result: dict[str, Any] = {
        "images": len(with_report),
        "images_without_report": int((~has_report).sum()),
        "reports": 0,
        "distinct_reports": 0,
    }
    if not len(with_report):
        return result | {name: {"skipped": "no image has a report"} for name in ("by_study", "by_text", "by_label")}
    _, first = np.unique(study[with_report], return_index=True)
    one_each = np.sort(with_report[first])  # the first image with a report of every study
    result["reports"] = len(one_each)
    result["distinct_reports"] = len(np.unique(report_key[one_each]))
    by_label = label_keys(labels, known)
    for name, key in (("by_study", study), ("by_text", report_key), ("by_label", by_label)):
        images, texts = with_report, one_each
        if name == "by_label":
            images, texts = images[key[images] >= 0], texts[key[texts] >= 0]
        if not len(texts) or not len(images):
            result[name] = {"skipped": "no known label"}
            continue
        result[name] = {
            "image_to_text": metrics(image_features[images], text_features[texts], key[images], key[texts], ks),
            "text_to_image": metrics(text_features[texts], image_features[images], key[texts], key[images], ks),
        }
    return result


def examples(
    image_features: Floats, text_features: Floats, study: Ints, has_report: Bools, count: int, top: int = 5
) -> list[dict[str, Any]]:
    """`count` image queries spread evenly over the split, with their `top` reports: rows of the encoded split.

    Returns dicts {query: row, own: row of the study's report, rank: place of the own report, results: [row], scores}.
    Evenly spread, not picked by how well they do.
    """
    with_report = np.flatnonzero(has_report)
    if not len(with_report) or count < 1:
        return []
    _, first = np.unique(study[with_report], return_index=True)
    pool = np.sort(with_report[first])
    spread = np.unique(np.linspace(0, len(with_report) - 1, min(count, len(with_report))).round().astype(int))
    shown = []
    for query in with_report[spread].tolist():
        order = rank(image_features[query : query + 1], text_features[pool])[0]
        place = int(np.flatnonzero(study[pool[order]] == study[query])[0])
        best = pool[order[:top]]
        scores = text_features[best].astype(np.float64) @ image_features[query].astype(np.float64)
        shown.append(
            {
                "query": query,
                "own": int(pool[order[place]]),
                "rank": place + 1,
                "results": best.tolist(),
                "scores": [round(float(s), 4) for s in scores],
            }
        )
    return shown
