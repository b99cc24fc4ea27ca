"""All evaluations of one model on one split, the few headline figures, and the files they are kept in.

    RUN/eval/zero_shot.json retrieval.json labels.json gaze.json    everything, with counts and what was skipped
    RUN/eval/all.json                                               the headline figures
    RUN/eval/gaze_examples.npz                                      maps of a few sentences, for the page

The files hold positions in the split, never a text, an identifier of the source or a path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cogaze.config import Config
from cogaze.evaluate import EvaluationError, gaze, labels, retrieval, zero_shot

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from cogaze.data.shards import ShardSet
    from cogaze.evaluate.encode import Encoded, GazeRows

Floats = NDArray[np.floating]

TASKS = ("zero_shot", "retrieval", "labels", "gaze")
SENTENCES_AN_IMAGE = 3  # gaze examples
MAX_WORD_STUDIES = 20_000  # training studies of the bag-of-words control


def evaluate_all(
    model: Any,
    config: Config,
    shards: ShardSet,
    tokenizer: PreTrainedTokenizerFast,
    split: str,
    device: torch.device | str,
    *,
    train_gaze_mean: Floats | None = None,
    tasks: Sequence[str] = TASKS,
    variants: Sequence[str] | None = None,
    step: int | None = None,
    max_batches: int | None = None,
) -> dict[str, Any]:
    """Results by task and, under "headline", the flat figures of `headline`; under "gaze_examples" arrays for the page.

    Called by all ranks, which all get the same. `variants` as in `encode` (all three by default). Thresholds of the F1
    are tuned on `config.data.eval_split`, unless that is the split under test or absent. `train_gaze_mean` (P,) is the
    centre-bias map; by default it is computed from the gaze of `config.data.train_split`. `max_batches` evaluates only
    the first batches of the split (during training; the pool of the retrieval is then smaller).
    """
    from cogaze.evaluate.encode import VARIANTS, encode_split

    if split not in shards.splits:
        raise EvaluationError(f"there is no split {split!r} in the shards; there are: {', '.join(shards.splits)}")
    chosen = tuple(variants or VARIANTS)
    encoded = encode_split(model, config, shards, tokenizer, split, device, variants=chosen, max_batches=max_batches)
    about = {"step": step, "manifest": shards.digest, "phantom": shards.is_phantom, **encoded.counts()}
    results: dict[str, Any] = {}
    if "zero_shot" in tasks:
        prompts = zero_shot.load_prompts(config.eval.prompts)
        directions = zero_shot.encode_prompts(model, tokenizer, prompts, config.text.max_tokens, device)
        table = zero_shot.evaluate(encoded.image_features, encoded.labels, encoded.known, directions)
        results["zero_shot"] = {"task": "zero_shot", **about, "prompts": prompts.summary(), **table}
    if "retrieval" in tasks:
        results["retrieval"] = {"task": "retrieval", **about, **_retrieval(encoded, config.page.examples)}
    if "labels" in tasks:
        tuned_on = config.data.eval_split
        tuning = None
        if tuned_on != split and tuned_on in shards.splits and shards.size(tuned_on):
            tuning = encode_split(model, config, shards, tokenizer, tuned_on, device, variants=chosen)
        words = _context_words(encoded, config, shards)
        results["labels"] = {"task": "labels", **about, **_labels(encoded, tuning), "context_words": words}
    if "gaze" in tasks:
        center, origin = train_gaze_mean, "as given"
        if center is None and config.data.train_split in shards.splits:
            center, sentences = center_bias_map(config, shards, tokenizer, config.data.train_split)
            origin = f"{sentences} sentences of the split '{config.data.train_split}'"
        rows = encoded.gaze
        table = gaze.evaluate(rows.predicted, rows.truth, rows.dwell, rows.reading_key, rows.other_image, center)
        images = {"images_with_gaze": len(np.unique(rows.sample_id)), "center_bias_from": origin}
        results["gaze"] = {"task": "gaze", **about, **images, **table}
        results["gaze_examples"] = gaze_examples(rows, config.page.examples)
    results["headline"] = headline(results)
    return results


def center_bias_map(
    config: Config, shards: ShardSet, tokenizer: PreTrainedTokenizerFast, split: str
) -> tuple[Floats | None, int]:
    """Mean map (P,) of all spoken sentences of a split, in the evaluation crop, and their number; (None, 0) without.

    No model is needed. Reads the split's gaze images only.
    """
    from cogaze.data.sample import build_sample

    total, count = np.zeros(config.grid**2), 0
    for position in np.flatnonzero(shards.layout(split).gaze).tolist():
        sample = build_sample(shards.read(split, position), position, config, tokenizer, None)
        for segment in sample.segments:
            if not segment.paragraph and segment.gaze.any():
                total += segment.gaze / segment.gaze.sum()  # a distribution, of whatever kind the map is
                count += 1
    return (total / count, count) if count else (None, 0)


def gaze_examples(rows: GazeRows, count: int) -> dict[str, NDArray[Any]]:
    """About `count` sentences of evenly spread gaze images, up to three of an image's first reading; arrays (E, ...).

    Evenly spread, not picked by how well they do.
    """
    usable = (rows.truth.sum(1) > 0) & (rows.dwell.sum(1) > 0)
    images = np.unique(rows.sample_id[usable])
    wanted = min(len(images), -(-count // SENTENCES_AN_IMAGE))
    chosen: list[int] = []
    for i in np.unique(np.linspace(0, len(images) - 1, wanted).round().astype(int)) if wanted else ():
        of_image = np.flatnonzero(usable & (rows.sample_id == images[i]))
        of_reading = of_image[rows.reading[of_image] == rows.reading[of_image[0]]]
        spread = np.linspace(0, len(of_reading) - 1, min(SENTENCES_AN_IMAGE, len(of_reading))).round().astype(int)
        chosen += of_reading[np.unique(spread)].tolist()
    names = ("sample_id", "reading", "sentence", "predicted", "truth")
    arrays = {name: getattr(rows, name)[chosen] for name in names}
    values = gaze.per_sentence(rows.predicted[chosen], rows.truth[chosen], rows.dwell[chosen])
    return arrays | {"js": values["js"], "nss": values["nss"]}


def headline(results: dict[str, Any]) -> dict[str, float | int | None]:
    """The flat figures that the page, summary.json and others read; None where one is undefined or was not asked for.

    Only figures of tasks in `results`. `X`, `X_no_context`, `X_blind` are the three variants of the images;
    retrieval_* is image -> text by study, retrieval_chance its Precision@1 at random.
    """
    flat: dict[str, float | int | None] = {}
    suffix = {"context": "", "no_context": "_no_context", "blind": "_blind"}
    if "zero_shot" in results:
        for variant, end in suffix.items():
            flat[f"zero_shot_auroc{end}"] = _at(results, "zero_shot", "variants", variant, "mean_auroc")
    if "retrieval" in results:
        for variant, end in suffix.items():
            place = ("retrieval", "variants", variant, "by_study", "image_to_text")
            for name in ("p_at_1", "hit_at_10"):
                flat[f"retrieval_{name}{end}"] = _at(results, *place, name)
            if flat.get("retrieval_chance") is None:
                flat["retrieval_chance"] = _at(results, *place, "p_at_1_chance")
                flat["retrieval_hit_at_10_chance"] = _at(results, *place, "hit_at_10_chance")
                flat["retrieval_pool"] = _at(results, *place, "pool")
    if "labels" in results:
        for end in suffix.values():
            flat[f"label_auroc_image{end}"] = _at(results, "labels", "heads", f"image{end}", "mean_auroc")
        flat["label_auroc_context_words"] = _at(results, "labels", "context_words", "mean_auroc")
        flat["label_auroc_text"] = _at(results, "labels", "heads", "text", "mean_auroc")
    if "gaze" in results:
        for metric in gaze.NAMES:
            name = "gaze_" + metric
            flat[name] = _at(results, "gaze", "model", metric)
            for other in ("center_bias", "uniform", "shuffled_sentences", "shuffled_images"):
                flat[f"{name}_{other}"] = _at(results, "gaze", other, metric)
    return flat


# ------------------------------------------------------------------------------------------------ files
def write_results(folder: Path, results: dict[str, Any]) -> list[Path]:
    """Write the results into `folder` (RUN/eval), each file whole or not at all; returns what was written.

    all.json is written when every task is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task in TASKS:
        if task in results:
            written.append(
                _write(folder / f"{task}.json", json.dumps(results[task], indent=1, allow_nan=False).encode())
            )
    if "gaze_examples" in results:
        aside = folder / ".gaze_examples.partial.npz"
        np.savez_compressed(aside, **results["gaze_examples"])
        os.replace(aside, folder / "gaze_examples.npz")
        written.append(folder / "gaze_examples.npz")
    if all(task in results for task in TASKS):
        first = results[TASKS[0]]
        about = {key: first[key] for key in ("split", "step", "manifest", "phantom", "images", "studies")}
        text = json.dumps({**about, "headline": results["headline"]}, indent=1, allow_nan=False)
        written.append(_write(folder / "all.json", text.encode()))
    return written


def read_results(folder: Path) -> dict[str, Any]:
    """What `write_results` left, by task, with the headline of what is there; {} for an absent folder.

    Raises EvaluationError naming a file that cannot be read.
    """
    results: dict[str, Any] = {}
    for task in TASKS:
        path = folder / f"{task}.json"
        if path.is_file():
            try:
                results[task] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise EvaluationError(f"{path}: cannot be read ({error}); run `cogaze evaluate` again") from None
    if results:
        results["headline"] = headline(results)
    examples = folder / "gaze_examples.npz"
    if examples.is_file():
        try:
            with np.load(examples, allow_pickle=False) as archive:
                results["gaze_examples"] = {name: archive[name] for name in archive.files}
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{examples}: cannot be read ({error}); run `cogaze evaluate gaze` again") from None
    return results


# ------------------------------------------------------------------------------------------------ the tasks
def _retrieval(encoded: Encoded, count: int) -> dict[str, Any]:
    variants = {
        name: retrieval.evaluate(
            features,
            encoded.text_features,
            encoded.study,
            encoded.report_key,
            encoded.has_report,
            encoded.labels,
            encoded.known,
        )
        for name, features in encoded.image_features.items()
    }
    first = next(iter(encoded.image_features.values()))
    shown = retrieval.examples(first, encoded.text_features, encoded.study, encoded.has_report, count)
    for example in shown:  # rows of the encoded split -> positions in the split, which is what the shards know
        for key in ("query", "own"):
            example[key] = int(encoded.sample_id[example[key]])
        example["results"] = encoded.sample_id[example["results"]].tolist()
    return {"variants": variants, "examples": shown}


def _labels(encoded: Encoded, tuning: Encoded | None) -> dict[str, Any]:
    thresholds = None
    if tuning is not None:
        thresholds = {
            name: labels.tune_thresholds(logits[keep], tuning.labels[keep], tuning.known[keep])
            for name, (logits, keep) in _heads(tuning).items()
        }
    heads = _heads(encoded)
    return labels.evaluate(
        {name: logits for name, (logits, _) in heads.items()},
        encoded.labels,
        encoded.known,
        rows={name: keep for name, (_, keep) in heads.items()},
        thresholds=thresholds,
        tuned_on=None if tuning is None else tuning.split,
    )


def _context_words(encoded: Encoded, config: Config, shards: ShardSet) -> dict[str, Any] | None:
    """How far the words of the contexts alone give the labels away; None without a training split."""
    from cogaze.data.sample import resolve_labels
    from cogaze.data.text import context_texts

    train = config.data.train_split
    if train == encoded.split or train not in shards.splits:
        return None
    runs = shards.layout(train).study_runs
    firsts = np.cumsum(runs) - runs  # the first image of every study
    spread = np.linspace(0, len(firsts) - 1, min(len(firsts), MAX_WORD_STUDIES)).round().astype(int)
    metas = [shards.read_meta(train, position) for position in firsts[np.unique(spread)].tolist()]
    truth = [resolve_labels(meta["labels"]) for meta in metas]
    table = labels.from_words(
        [" ".join(context_texts(meta) or ()) for meta in metas],
        np.stack([row for row, _ in truth]),
        np.stack([row for _, row in truth]),
        [" ".join(context_texts(shards.read_meta(encoded.split, i)) or ()) for i in encoded.sample_id.tolist()],
        encoded.labels,
        encoded.known,
    )
    return {"trained_on": train, "studies": len(metas), **table}


def _heads(encoded: Encoded) -> dict[str, tuple[Floats, NDArray[np.bool_]]]:
    """Logits (n,14) of every head and the rows (n,) it is judged on."""
    everyone = np.ones(encoded.images, dtype=bool)
    names = {"context": "image", "no_context": "image_no_context", "blind": "image_blind"}
    heads = {names[variant]: (logits, everyone) for variant, logits in encoded.image_logits.items()}
    return heads | {"text": (encoded.text_logits, encoded.has_report)}


def _at(tree: Any, *path: str) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _write(path: Path, data: bytes) -> Path:
    aside = path.with_name(f".{path.name}.partial")
    aside.write_bytes(data + b"\n")
    os.replace(aside, path)
    return path
