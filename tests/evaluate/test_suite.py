"""All evaluations together on a small split: names, counts, files, and the real model in the place of the fake one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogaze.data.gaze import Crop
from cogaze.data.sample import build_sample
from cogaze.evaluate import EvaluationError, examples, suite
from tests.data.fakes import make_raw
from tests.evaluate.fakes import FakeModel, Splits, settings, tokenizer_of

HEADLINE = {
    "zero_shot_auroc",
    "zero_shot_auroc_no_context",
    "zero_shot_auroc_blind",
    "retrieval_p_at_1",
    "retrieval_hit_at_10",
    "retrieval_chance",
    "retrieval_pool",
    "gaze_nss",
    "gaze_nss_center_bias",
    "gaze_js",
    "gaze_js_center_bias",
    "gaze_js_uniform",
    "gaze_js_shuffled_sentences",
    "gaze_js_shuffled_images",
    "gaze_cc",
    "gaze_auc_judd",
    "label_auroc_image",
    "label_auroc_text",
}


@pytest.fixture(scope="module")
def shards() -> Splits:
    return Splits()


@pytest.fixture(scope="module")
def results(shards: Splits) -> dict[str, Any]:
    return run(shards)


def run(shards: Splits, **options: Any) -> dict[str, Any]:
    model = options.pop("model", None) or FakeModel()
    return suite.evaluate_all(model, settings(), shards, tokenizer_of(shards), "test", "cpu", **options)  # type: ignore[arg-type]


def test_headline_names_and_counts(shards: Splits, results: dict[str, Any]) -> None:
    head = results["headline"]
    assert set(head) >= HEADLINE
    assert all(isinstance(head[name], (int, float)) for name in HEADLINE)
    for task in suite.TASKS:
        assert results[task]["task"] == task
        assert results[task]["images"] == shards.size("test")
        assert results[task]["split"] == "test"
    spoken = {int(s) for s, raw in zip(shards.study, shards.samples, strict=True) if raw.meta["report"]["findings"]}
    assert head["retrieval_pool"] == len(spoken)
    assert head["retrieval_chance"] == pytest.approx(1 / len(spoken))
    assert set(results["zero_shot"]["variants"]) == {"context", "no_context", "blind"}
    assert len(results["zero_shot"]["variants"]["context"]["skipped"]) >= 9
    assert set(results["labels"]["heads"]) == {"image", "image_no_context", "image_blind", "text"}
    assert results["labels"]["tuned_on"] == "validate"


def test_center_bias_is_the_mean_sentence_map_of_the_training_split(shards: Splits) -> None:
    config, tokenizer = settings(), tokenizer_of(shards)

    class Training(Splits):
        def layout(self, split: str) -> Any:
            return self._layout

    mean, count = suite.center_bias_map(config, Training(), tokenizer, "test")  # type: ignore[arg-type]
    maps = [
        segment.gaze
        for i, raw in enumerate(shards.samples)
        for segment in build_sample(raw, i, config, tokenizer, None).segments
        if not segment.paragraph
    ]
    assert count == len(maps)
    assert mean is not None
    np.testing.assert_allclose(mean, np.mean(maps, axis=0), rtol=1e-6)
    assert mean.sum() == pytest.approx(1.0)
    for raw in (nothing := Training()).samples:
        raw.meta["readings"] = []
    assert suite.center_bias_map(config, nothing, tokenizer, "test") == (None, 0)  # type: ignore[arg-type]


def test_maps_in_grey_levels_are_evaluated_as_distributions(shards: Splits) -> None:
    config, tokenizer = settings(), tokenizer_of(shards)
    config.data.gaze_maps = "rendered"
    mean, count = suite.center_bias_map(config, shards, tokenizer, "train")  # type: ignore[arg-type]
    assert count > 3
    assert mean is not None
    assert mean.sum() == pytest.approx(1.0)
    results = suite.evaluate_all(FakeModel(), config, shards, tokenizer, "test", "cpu", tasks=("gaze",))  # type: ignore[arg-type]
    assert results["gaze_examples"]["truth"].max() > 10
    for name in ("model", "uniform", "center_bias", "shuffled_sentences", "shuffled_images"):
        assert 0 <= results["gaze"][name]["js"] <= np.log(2), name


def test_the_page_counts_sentences_as_the_loader_does() -> None:
    """The first sentence's drawn map is all background (four equal patches), so the second is number 0."""
    looked = np.array([[0.5, 0.5, 0, 1, 0, 0], [0.75, 0.75, 1, 2, 0, 0]], np.float32)
    spoken = [{"text": "rib", "start": 0.0, "end": 1.0}, {"text": "clear", "start": 1.0, "end": 2.0}]
    raw = make_raw(gaze={0: looked}, readings=[{"id": "r", "reader": "a", "sentences": spoken}])
    config = settings()
    assert [examples._sentence(raw, 0, n, Crop(), config)[0] for n in range(3)] == ["rib", "clear", None]
    config.data.gaze_maps = "rendered"
    assert [examples._sentence(raw, 0, n, Crop(), config)[0] for n in range(3)] == ["clear", None, None]


def test_a_given_center_map_is_used(shards: Splits) -> None:
    peak = np.array([0.97, 0.01, 0.01, 0.01])
    gaze = run(shards, tasks=("gaze",), train_gaze_mean=peak)["gaze"]
    assert gaze["center_bias_from"] == "as given"
    assert gaze["center_bias"]["js"] > gaze["uniform"]["js"]


def test_examples_point_into_the_split(shards: Splits, results: dict[str, Any]) -> None:
    n = shards.size("test")
    for example in results["retrieval"]["examples"]:
        assert 0 <= example["query"] < n
        assert shards.study[example["own"]] == shards.study[example["query"]]
        assert len(example["results"]) == 5
    arrays = results["gaze_examples"]
    assert len(arrays["js"]) == len(arrays["predicted"]) >= 4
    for position in arrays["sample_id"]:
        assert shards.gaze[position]


def test_without_context_there_is_one_variant(shards: Splits) -> None:
    results = run(shards, variants=("no_context",), tasks=("zero_shot", "retrieval"))
    assert list(results["zero_shot"]["variants"]) == ["no_context"]
    assert results["headline"]["zero_shot_auroc"] is None
    assert results["headline"]["zero_shot_auroc_no_context"] is not None
    assert results["headline"]["retrieval_chance"] is not None
    assert "gaze" not in results


def test_a_split_without_gaze() -> None:
    shards = Splits()
    for raw in shards.samples:
        raw.meta["readings"] = []
    results = run(shards, tasks=("gaze",))
    assert "no sentence" in results["gaze"]["skipped"]
    assert results["headline"]["gaze_js"] is None
    assert len(results["gaze_examples"]["sample_id"]) == 0
    json.dumps(results["gaze"], allow_nan=False)


def test_unknown_split(shards: Splits) -> None:
    with pytest.raises(EvaluationError, match=r"no split 'holdout'.*train, validate, test"):
        suite.evaluate_all(FakeModel(), settings(), shards, tokenizer_of(shards), "holdout", "cpu")  # type: ignore[arg-type]


def test_files_round_trip_and_hold_no_text_or_identifier(
    shards: Splits, results: dict[str, Any], tmp_path: Path
) -> None:
    written = suite.write_results(tmp_path / "eval", results)
    names = {"zero_shot.json", "retrieval.json", "labels.json", "gaze.json", "gaze_examples.npz", "all.json"}
    assert {path.name for path in written} == names == {path.name for path in (tmp_path / "eval").iterdir()}
    back = suite.read_results(tmp_path / "eval")
    assert back["headline"] == results["headline"]
    assert back["retrieval"] == results["retrieval"]
    np.testing.assert_array_equal(back["gaze_examples"]["predicted"], results["gaze_examples"]["predicted"])
    assert json.loads((tmp_path / "eval" / "all.json").read_text())["headline"] == results["headline"]
    everything = "".join(path.read_text() for path in written if path.suffix == ".json")
    for raw in shards.samples:
        for text in (raw.meta["report"]["findings"], raw.meta["context"]["indication"]):
            assert text is None or text not in everything
        for reading in raw.meta["readings"]:
            assert all(sentence["text"] not in everything for sentence in reading["sentences"])
    assert '"s1"' not in everything


def test_damaged_result_files_are_named(tmp_path: Path) -> None:
    assert suite.read_results(tmp_path / "nowhere") == {}
    (tmp_path / "gaze.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"gaze.json: cannot be read.*again"):
        suite.read_results(tmp_path)
    (tmp_path / "gaze.json").unlink()
    (tmp_path / "gaze_examples.npz").write_bytes(b"PK no zip")
    with pytest.raises(EvaluationError, match=r"gaze_examples.npz: cannot be read"):
        suite.read_results(tmp_path)


def test_the_real_model(shards: Splits) -> None:
    from cogaze.config import Config
    from cogaze.model import CoGazeConfig, CoGazeModel

    tree = settings().model_dump()
    tree["model"] = {
        "width": 12,
        "vision": {"width": 8, "depth": 1, "heads": 2, "patch_size": 14},
        "text": {"width": 8, "depth": 1, "heads": 2},
        "perceiver": {"latents": 3, "depth": 1, "heads": 2, "head_dim": 4, "ff_mult": 2},
    }
    config, tokenizer = Config.model_validate(tree), tokenizer_of(shards)
    torch.manual_seed(0)
    model = CoGazeModel(CoGazeConfig.from_settings(config, len(tokenizer), int(tokenizer.pad_token_id or 0)))
    results = suite.evaluate_all(model, config, shards, tokenizer, "test", "cpu")  # type: ignore[arg-type]
    assert set(results["headline"]) >= HEADLINE
    assert all(results["headline"][name] is not None for name in HEADLINE)
    assert results["zero_shot"]["images"] == shards.size("test")
