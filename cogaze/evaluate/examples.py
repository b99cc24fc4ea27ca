"""Examples for the page, read back from the shards by their position in the split: pictures, and texts if allowed.

The evaluation files hold positions and maps only; what is shown here is looked up when the page is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cogaze.config import AugmentConfig, Config
from cogaze.data.gaze import fixations_inside, segment_weights
from cogaze.data.sample import decode, gaze_maps, gives_segment, picture_maps
from cogaze.data.text import report_text
from cogaze.evaluate import figures
from cogaze.observations import OBSERVATIONS

if TYPE_CHECKING:
    from cogaze.data.shards import RawSample, ShardSet

MAX_DOTS = 60  # fixations drawn for one sentence
TEXT_LIMIT = 420  # characters of a report


def gaze_cards(
    arrays: dict[str, NDArray[Any]], shards: ShardSet, split: str, config: Config, show_text: bool
) -> list[dict[str, Any]]:
    """Cards {position, view, image, findings, sentences: [{text, js, nss, truth, predicted, path}]} for the template.

    `arrays` as written by suite.gaze_examples; maps become data URIs, `path` the fixations (x, y, r) in percent.
    """
    cards: list[dict[str, Any]] = []
    for e in range(len(arrays["sample_id"])):
        position = int(arrays["sample_id"][e])
        raw = shards.read(split, position)
        pixels, crop = decode(raw.image, config.data.image_size, AugmentConfig(), None)
        if not cards or cards[-1]["position"] != position:
            cards.append({**_about(raw, position), "image": figures.radiograph(pixels[0]), "sentences": []})
        text, path = _sentence(raw, int(arrays["reading"][e]), int(arrays["sentence"][e]), crop, config)
        cards[-1]["sentences"].append(
            {
                "text": text if show_text else None,
                "js": float(arrays["js"][e]),
                "nss": float(arrays["nss"][e]),
                "truth": figures.heat(arrays["truth"][e], config.grid),
                "predicted": figures.heat(arrays["predicted"][e], config.grid),
                "path": path,
            }
        )
    return cards


def retrieval_cards(
    examples: list[dict[str, Any]], shards: ShardSet, split: str, config: Config, show_text: bool
) -> list[dict[str, Any]]:
    """Cards {position, view, image, findings, rank, results: [{place, own, score, text, findings}], own}.

    `own` is the study's own report where it is not among the results.
    """
    cards = []
    for example in examples:
        raw = shards.read(split, example["query"])
        pixels, _ = decode(raw.image, config.data.image_size, AugmentConfig(), None)

        def report(position: int) -> dict[str, Any]:
            meta = shards.read_meta(split, position)
            text = report_text(meta, config.data.report_sections) or ""
            short = text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT].rsplit(" ", 1)[0] + " …"
            return {"text": short if show_text else None, "findings": _findings(meta)}

        results = [
            {"place": place, "own": position == example["own"], "score": score, **report(position)}
            for place, (position, score) in enumerate(zip(example["results"], example["scores"], strict=True), start=1)
        ]
        cards.append(
            {
                **_about(raw, example["query"]),
                "image": figures.radiograph(pixels[0]),
                "rank": example["rank"],
                "results": results,
                "own": None if example["rank"] <= len(results) else report(example["own"]),
            }
        )
    return cards


def _about(raw: RawSample, position: int) -> dict[str, Any]:
    return {"position": position, "view": raw.meta["view"], "findings": _findings(raw.meta)}


def _findings(meta: dict[str, Any]) -> list[str]:
    """Names of the observations labelled present (or uncertain, as the training policy takes them)."""
    return [name for name in OBSERVATIONS if meta["labels"].get(name) in (1, -1)]


def _sentence(
    raw: RawSample, reading: int, number: int, crop: Any, config: Config
) -> tuple[str | None, list[tuple[float, float, float]]]:
    """Words and fixations (x %, y %, radius %) of the `number`-th sentence of a reading, counted as the loader does."""
    fixations = raw.gaze[reading]
    numbered = [(i, s) for i, s in enumerate(raw.meta["readings"][reading]["sentences"]) if s["text"].strip()]
    spoken = [s for _, s in numbered]
    weights = np.stack([segment_weights(fixations, s["start"], s["end"], config.data.lead) for s in spoken])  # (S,F)
    if reading in raw.maps:
        rows = [*(i + 1 for i, _ in numbered), 0]  # row 0 is the whole report's, which goes last
        maps = picture_maps(raw.maps[reading][rows], crop, config)[:-1]
    else:
        maps = gaze_maps(fixations, weights, crop, config)
    kept = np.flatnonzero(gives_segment(maps, config))
    if number >= len(kept):
        return None, []
    row = int(kept[number])
    inside = fixations_inside(fixations, weights[row], crop)[:MAX_DOTS]  # (F,3)
    dots = [(100 * float(x), 100 * float(y), 0.8 + 2.2 * float(np.sqrt(t))) for x, y, t in inside]
    return spoken[row]["text"].strip(), dots
