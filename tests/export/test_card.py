"""The model card: the figures that were measured, the terms that apply, and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cogaze.checkpoint import TrainerState
from cogaze.config import Config
from cogaze.evaluate import suite
from cogaze.export import card
from cogaze.export.folder import export
from cogaze.model import CoGazeModel
from tests.evaluate.fakes import FakeModel, Splits, settings, tokenizer_of
from tests.export.runs import build_shards, make_run, write_results
from tests.model.tiny import tiny_model, tiny_settings

DIGEST = "d" * 64
ONNX = {
    "opset": 18,
    "versions": {"onnxruntime": "1.2.3"},
    "padding_counts": {"reports": False, "contexts": False},
    "files": {"text.onnx": {"inputs": ["a"], "outputs": ["b"], "largest": {"absolute": 3e-7, "relative": 2e-6}}},
}


@pytest.fixture(scope="module")
def model() -> CoGazeModel:
    return tiny_model()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    root = tmp_path_factory.mktemp("results")
    write_results(root / "trained", DIGEST)
    write_results(root / "untrained", DIGEST, shift=0.25)
    return suite.read_results(root / "trained"), suite.read_results(root / "untrained")


def manifest(source: str = "clinic", phantom: bool = False, images: int = 9, **parts: bool) -> dict[str, Any]:
    counts = {"images": images, "studies": 5, "patients": 4, "gaze_images": 2}
    totals = {"by_split": {"train": counts, "test": dict.fromkeys(counts, 1)}}
    return {"source": [source], "phantom": phantom, "totals": totals, "sources": [{"name": source, "parts": parts}]}


def written(
    model: CoGazeModel,
    *,
    config: Config | None = None,
    manifests: tuple[dict[str, Any], ...] = (),
    results: dict[str, Any] | None = None,
    untrained: dict[str, Any] | None = None,
    onnx: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], str]:
    """Front matter and text of a card."""
    state = TrainerState(step=2000, samples_seen=64000, world_size=4, seconds=9000.0, manifest_digest=DIGEST)
    view = card.build_view(
        "out", model, config or tiny_settings(), state, manifests, results or {}, untrained or {}, onnx
    )
    text = card.render(view)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


# ------------------------------------------------------------------------------------------------ results
def test_headline_figures_stand_beside_their_baselines(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    rows = {row["label"]: (row["value"], row["beside"]) for row in card.figure_rows(*results)}
    assert rows["zero-shot AUROC, mean of 2 observations"] == (
        0.8125,
        [("grey image", 0.5), ("untrained", 0.5625), ("chance", 0.5)],
    )
    assert rows["image → own report of 413, Hit@10"] == (0.4375, [("untrained", 0.1875), ("chance", 0.024)])
    assert rows["AUROC of the image head, mean of 2 observations"] == (
        0.875,
        [("words of the context alone", 0.5625), ("untrained", 0.875), ("chance", 0.5)],
    )


def test_the_tables_of_a_card(model: CoGazeModel, results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, text = written(model, manifests=(manifest(),), results=results[0], untrained=results[1])
    for line in (
        "On the split `test`: 644 images of 413 studies.",
        "| zero-shot AUROC, mean of 2 observations | 0.812 | grey image 0.500; untrained 0.562; chance 0.500 |",
        "| image → own report of 413, Precision@1 | 0.125 | untrained 0.125; chance 0.0024 |",
        "| | JS | NSS | CC | AUC |",
        "| The model | 0.244 | 2.078 | 0.500 | 0.750 |",
        "| Centre bias | 0.355 | 0.849 | 0.500 | 0.750 |",
        "| Untrained | 0.494 | 2.078 | 0.500 | 0.750 |",
        "| Edema | 76 | 568 | 0.875 | 0.938 | 1.000 |",
        "Not evaluated: Pleural Other (no positive among 644).",
        "2,000 steps of 160 images (64,000 in all) on 4 ranks,",
        "2.5 hours, fp32; AdamW, learning rate 5e-05 (cosine), weight decay 0.01; seed 0.",
        "| contrastive, image against report | 1.0 | positives: all images and reports of a study |",
        "| observations, class-balanced focal | 1.0 | beta 0.9999, gamma 2.0 |",
        "| gaze, Jensen-Shannon in both directions | 1.0 | transcript to patch 0.8, rho 0.25 |",
    ):
        assert line in text.splitlines(), line
    assert "Other image" not in text, "a baseline that was skipped"
    assert not re.search(r"\bnan\b|None|\{\{|%\}", text)


def test_what_was_not_evaluated_is_said_to_be(model: CoGazeModel, results: tuple[dict[str, Any], Any]) -> None:
    _, text = written(model, manifests=(manifest(),))
    assert "## Results\n\nNot evaluated.\n" in text
    assert "| figure |" not in text
    gaze_only = {"gaze": results[0]["gaze"], "headline": suite.headline({"gaze": results[0]["gaze"]})}
    _, text = written(model, manifests=(manifest(),), results=gaze_only)
    assert "Not evaluated." not in text
    assert "| figure |" not in text
    assert "| The model | 0.244 |" in text


def test_results_on_other_shards_say_so(model: CoGazeModel, tmp_path: Path) -> None:
    write_results(tmp_path, "e" * 64)
    _, text = written(model, manifests=(manifest(),), results=suite.read_results(tmp_path))
    assert "On the split `test` of other shards than it was trained on: 644 images" in text


def test_a_true_evaluation_fits_the_card(model: CoGazeModel) -> None:
    """Every figure of the headline that has a place on the card stands there as it is in the result."""
    shards, config = Splits(), settings()
    found = suite.evaluate_all(FakeModel(), config, shards, tokenizer_of(shards), "test", "cpu", step=2000)  # type: ignore[arg-type]
    found.pop("gaze_examples")
    _, text = written(model, results=found)
    for _, key, _ in card.FIGURES:
        value = found["headline"][key]
        assert value is not None, key
        assert f"| {value:.3f} |" in text, key
    for name, row in found["zero_shot"]["variants"]["context"]["per_observation"].items():
        assert f"| {name} | {row['positives']} | {row['negatives']} | {row['auroc']:.3f} |" in text


# ------------------------------------------------------------------------------------------------ data and terms
def test_counts_of_several_folders_are_added(model: CoGazeModel) -> None:
    folders = (manifest(), manifest("mimic_cxr", images=1000, reflacx=True, egd=False))
    _, text = written(model, manifests=folders)
    assert "| train | 1,009 | 10 | 8 | 4 |" in text.splitlines()
    assert "| test | 2 | 2 | 2 | 2 |" in text.splitlines()
    assert "- clinic\n" in text
    assert "- MIMIC-CXR-JPG with the reports of MIMIC-CXR\n- gaze and dictation of REFLACX\n" in text
    assert "of EGD\n" not in text


CASES = {
    "drawn": ((manifest("mimic_cxr", phantom=True, egd=True),), {}, "apache-2.0", None, "bring no terms", set()),
    "credentialed": (
        (manifest("mimic_cxr", reflacx=True, egd=True),),
        {},
        "other",
        "physionet-credentialed-health-data",
        "share them through PhysioNet",
        {"johnson2019mimiccxr", "bigolinlanfredi2022reflacx", "karargyris2021egd"},
    ),
    "partly": (
        (manifest("mimic_cxr", phantom=True), manifest("mimic_cxr")),
        {},
        "other",
        "physionet-credentialed-health-data",
        "share them through PhysioNet",
        {"johnson2019mimiccxr"},
    ),
    "public": (
        (manifest("iu_xray"),),
        {},
        "other",
        "see-licence-section",
        "terms of the data sources above apply",
        {"demnerfushman2016iu"},
    ),
    "unknown": ((), {}, "other", "see-licence-section", "not known to this card", set()),
    "encoders": (
        (manifest(phantom=True),),
        {"vision": {"pretrained": "microsoft/rad-dino"}, "text": {"pretrained": "/home/me/CXR-BERT-general"}},
        "other",
        "see-licence-section",
        "The text encoder started from CXR-BERT-general: the licence of its authors",
        {"perezgarcia2025raddino", "boecking2022cxrbert"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_terms_and_citations_follow_the_data(model: CoGazeModel, case: str) -> None:
    manifests, changes, licence, name, sentence, cited = CASES[case]
    front, text = written(model, config=tiny_settings(**changes), manifests=manifests)
    assert (front["license"], front.get("license_name")) == (licence, name)
    assert sentence in " ".join(text.split())
    assert set(re.findall(r"^@\w+\{(\w+),$", text, re.M)) == cited | {"cogaze2026"}
    assert text.count("{") == text.count("}")
    assert "/home/me" not in text
    assert ("PhysioNet" in text) == (case in ("credentialed", "partly"))


def test_front_matter_is_what_the_hub_reads(model: CoGazeModel) -> None:
    front, text = written(model, manifests=(manifest(),), onnx=ONNX)
    assert (front["library_name"], front["pipeline_tag"]) == ("cogaze", "image-feature-extraction")
    assert {"chest-x-ray", "vision-language", "onnx"} <= set(front["tags"])
    assert "| text.onnx | a | b | 3.0e-07 | 2.0e-06 |" in text
    assert "without padding" not in text
    front, text = written(model, manifests=(manifest(),))
    assert "onnx" not in front["tags"]
    assert "ONNX" not in text
    counts = ONNX | {"padding_counts": {"reports": True, "contexts": True}}
    _, text = written(model, onnx=counts)
    assert "counts padding into the mean of a report and reads the padding of contexts: give texts of one" in text


def test_not_for_the_clinic_is_said_first_and_last(model: CoGazeModel) -> None:
    _, text = written(model)
    assert "not for clinical use" in text.split("##")[0]
    assert "no output may guide the care of a patient" in text.split("## Limits")[1]


def test_names_cannot_break_out(model: CoGazeModel) -> None:
    config = tiny_settings()
    config.run.name = 'x\n---\n# <script>alert(1)</script> | `rm` [a](b) {{ 7*7 }} "q"'
    config.data.train_split = "tr|ain`"
    _, text = written(model, config=config, manifests=(manifest("cl|in<b>ic\n# x"),))
    title = next(line for line in text.splitlines() if line.startswith("# "))
    assert title == "# x --- scriptalert(1)/script rm a(b) 77 q"
    assert "- clinbic x\n" in text
    assert "<b>" not in text
    assert "Trained on `train`" in text


# ------------------------------------------------------------------------------------------------ the example
def test_the_example_of_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, build_shards(tmp_path), results=False)
    export(run, tmp_path / "exported")
    text = (tmp_path / "exported" / "README.md").read_text()
    example = re.search(r"```python\n(.*?)```", text, re.S)
    assert example is not None
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 48), dtype=np.uint8)).save(tmp_path / "chest.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example[1], "README.md", "exec"), names)
    assert (names["image"].shape, names["texts"].shape) == (torch.Size([12]), torch.Size([2, 12]))
    similarity = names["texts"] @ names["image"]
    assert similarity.abs().max() <= 1 + 1e-6
    assert similarity[0] != similarity[1]
