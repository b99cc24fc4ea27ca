"""Prompt files, class directions and scores by hand, and the packaged prompts themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cogaze.data.text import train_tokenizer
from cogaze.evaluate import EvaluationError, zero_shot
from cogaze.observations import OBSERVATIONS

HEART, EDEMA = OBSERVATIONS.index("Cardiomegaly"), OBSERVATIONS.index("Edema")


def test_packaged_prompts_cover_all_observations_with_five_each() -> None:
    prompts = zero_shot.load_prompts()
    assert set(prompts.ensembles) == set(OBSERVATIONS)
    for sides in prompts.ensembles.values():
        for side in zero_shot.SIDES:
            assert len(sides[side]) >= 5
            assert len({s.lower() for s in sides[side]}) == len(sides[side])
        assert not set(sides["present"]) & set(sides["absent"])
    assert prompts.origin == "packaged"
    assert len(prompts.digest) == 64


def write(path: Path, tree: object) -> Path:
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_own_file(tmp_path: Path) -> None:
    tree = {"Edema": {"present": ["wet lungs"], "absent": ["dry lungs", "no edema"]}}
    prompts = zero_shot.load_prompts(write(tmp_path / "own.yaml", tree))
    assert prompts.summary()["file"] == "own.yaml"
    assert prompts.summary()["prompts_present_absent"] == {"Edema": [1, 2]}
    assert prompts.frames == ("{}",)


def test_every_prompt_is_encoded_in_every_frame(tmp_path: Path) -> None:
    tree = {"frames": ["clear. {}", "{} no change."], "Edema": {"present": ["wet lungs."], "absent": ["dry lungs."]}}
    prompts = zero_shot.load_prompts(write(tmp_path / "own.yaml", tree))
    assert set(prompts.ensembles) == {"Edema"}
    assert prompts.summary()["frames"] == 2
    tokenizer = train_tokenizer(["clear. wet lungs. dry no change."] * 5, 200)
    seen: list[str] = []

    class Listener:
        def text_tensors(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            seen.extend(tokenizer.decode(row[m], skip_special_tokens=True) for row, m in zip(ids, mask, strict=True))
            return torch.eye(len(ids))

    directions = zero_shot.encode_prompts(Listener(), tokenizer, prompts, 32, "cpu")
    assert [text.replace(" .", ".") for text in seen] == [
        "clear. wet lungs.", "wet lungs. no change.", "clear. dry lungs.", "dry lungs. no change."
    ]  # fmt: skip
    half = 0.5**0.5
    assert directions[EDEMA].tolist() == pytest.approx(np.array([[half, half, 0, 0], [0, 0, half, half]]))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"Cardiomegalie": {"present": ["a"], "absent": ["b"]}}, "did you mean Cardiomegaly"),
        ({"Edema": {"present": ["a"]}}, "exactly the lists"),
        ({"Edema": {"present": [], "absent": ["b"]}}, "Edema.present must be a list"),
        ({"Edema": {"present": ["a", 3], "absent": ["b"]}}, "Edema.present must be a list"),
        (["Edema"], "expected a mapping"),
        ({"frames": ["no place"], "Edema": {"present": ["a"], "absent": ["b"]}}, "frames must be a list"),
        ({"frames": "{}", "Edema": {"present": ["a"], "absent": ["b"]}}, "frames must be a list"),
        ({}, "expected a mapping"),
    ],
)
def test_faulty_prompt_files(tmp_path: Path, tree: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        zero_shot.load_prompts(write(tmp_path / "p.yaml", tree))


def test_unreadable_prompt_files(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read"):
        zero_shot.load_prompts(tmp_path / "missing.yaml")
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(EvaluationError, match="cannot be read"):
        zero_shot.load_prompts(tmp_path / "bad.yaml")


def test_directions_and_scores_by_hand() -> None:
    # present: the mean of (1,0) and (0,1) is (1,1)/2, normalised (1,1)/sqrt 2; absent: (-1,0)
    features = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    where = np.array([[HEART, 0], [HEART, 0], [HEART, 1]])
    directions = zero_shot.class_directions(features, where)
    assert directions[HEART].tolist() == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]))
    assert np.isnan(directions[EDEMA]).all()
    score = zero_shot.scores(np.array([[0.6, 0.8]]), directions)
    assert score[0, HEART] == pytest.approx(0.5**0.5 * 1.4 + 0.6)


def test_evaluate_gives_every_variant_and_lists_classes_without_prompts() -> None:
    features = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    directions = zero_shot.class_directions(features[[0, 2]], np.array([[HEART, 0], [HEART, 1]]))
    labels, known = np.zeros((3, 14)), np.ones((3, 14), dtype=bool)
    labels[0, HEART] = 1.0
    labels[1, EDEMA] = 1.0
    result = zero_shot.evaluate({"context": features, "blind": features[::-1]}, labels, known, directions)
    assert result["variants"]["context"]["mean_auroc"] == 1.0
    assert result["variants"]["blind"]["mean_auroc"] == 0.0
    assert list(result["variants"]["context"]["per_observation"]) == ["Cardiomegaly"]
    assert result["variants"]["context"]["skipped"]["Edema"] == "no prompts"
    assert len(result["variants"]["context"]["skipped"]) == 13
