"""BLEU, ROUGE-L, CIDEr and METEOR: values by hand, the published ones, and texts with nothing to compare."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogaze.evaluate import EvaluationError
from cogaze.evaluate.reports import words

ORACLE = (
    Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "metrics_oracle_iu"
)
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs java on PATH")


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_tokens_stand_one_blank_apart_and_keep_their_case() -> None:
    assert words.tokens("Heart  is normal.No\n effusion. ") == "Heart is normal .No effusion ."
    assert words.tokens(" \t\r\n") == ""


@pytest.mark.usefixtures("no_java")
def test_values_by_hand() -> None:
    said, true = ["the heart is normal"], ["the heart is enlarged ."]
    scores, each, _ = words.score([*said, "a b c d"], [*true, "a b c d"])
    # n-grams found / generated: 3 + 4 of 4 + 4, 2 + 3 of 3 + 3, 1 + 2 of 2 + 2, 0 + 1 of 1 + 1; 8 words against 9
    brevity = math.exp(1 - 9 / 8)
    for n, precisions in enumerate(([7 / 8], [7 / 8, 5 / 6], [7 / 8, 5 / 6, 3 / 4], [7 / 8, 5 / 6, 3 / 4, 1 / 2]), 1):
        assert scores[f"bleu_{n}"] == pytest.approx(brevity * math.prod(precisions) ** (1 / n), rel=1e-8)
    precision, recall = 3 / 4, 3 / 5
    rouge = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert each["rouge_l"] == pytest.approx([rouge, 1.0])
    assert scores["rouge_l"] == pytest.approx((rouge + 1) / 2)


@pytest.mark.usefixtures("no_java")
def test_cider_by_hand() -> None:
    """No word is in both references, so each weighs log 2; cosines 1 for the n-grams that exist, 0 for the others."""
    scores, each, _ = words.score(["a b", "c d e f"], ["a b", "c d e f"])
    assert each["cider"] == pytest.approx([10 * 2 / 4, 10])
    # Half of the words: cosine 1/sqrt(2) of the words, none of the pairs; a bigram fewer costs exp(-1 / (2 * 6^2)).
    scores, each, _ = words.score(["a", "c d"], ["a b", "c d"])
    assert each["cider"][0] == pytest.approx(10 / 4 * math.sqrt(0.5) * math.exp(-1 / 72))
    assert scores["cider"] == pytest.approx((each["cider"][0] + 5) / 2)


@needs_java
def test_meteor_and_texts_that_would_break_its_protocol() -> None:
    said = ["the heart is normal .", "", "the ||| heart\nis normal .", "d'importance é", "|||", "the"]
    true = [
        "the heart is normal .",
        "no effusion .",
        "the heart is normal .",
        "d'importance é",
        "the ||| heart",
        "the ||| heart is normal",
    ]
    scores, each, undefined = words.score(said, true)
    assert each["meteor"][:5] == pytest.approx([1, 0, 1, 1, 0], abs=1e-3)
    assert each["meteor"][5] < 0.5  # "the" alone is not one of two references
    assert 0 < scores["meteor"] < 1
    assert not undefined


def test_without_java_the_others_are_there(no_java: None) -> None:
    scores, each, undefined = words.score(["a b c d"], ["a b c d"])
    assert scores["meteor"] is None
    assert "meteor" not in each
    assert "apt install default-jre-headless" in undefined["meteor"]
    assert scores["bleu_4"] == pytest.approx(1)


def test_a_java_that_fails_is_said_and_hangs_nothing(no_java: None, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    scores, _, undefined = words.score(["a b c d"], ["a b c d"])
    assert scores["meteor"] is None
    assert "does `java -version` run?" in undefined["meteor"]


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu_scorer", None)
    with pytest.raises(EvaluationError, match=r"pip install 'cogaze\[metrics\]'"):
        words.score(["a"], ["a"])


@pytest.mark.usefixtures("no_java")
def test_an_empty_generated_report_scores_nothing() -> None:
    scores, each, undefined = words.score(["", "a b c d"], ["no effusion .", "a b c d"])
    assert all(values[0] == pytest.approx(0, abs=1e-6) for values in each.values())
    assert scores["bleu_1"] == pytest.approx(math.exp(1 - 7 / 4))  # every word is right, three are missing
    assert set(undefined) == {"meteor"}
    scores, *_ = words.score(["", ""], ["no effusion .", "a b c d"])
    assert [scores[name] for name in ("bleu_1", "bleu_4", "rouge_l", "cider")] == pytest.approx([0] * 4, abs=1e-6)


@pytest.mark.usefixtures("no_java")
def test_one_report_has_no_cider() -> None:
    for corpus in (["the heart is normal ."], ["the heart is normal ."] * 3):
        scores, _, undefined = words.score(corpus, corpus)
        assert scores["cider"] is None
        assert "two different" in undefined["cider"]
        assert [scores[f"bleu_{n}"] for n in range(1, 5)] == pytest.approx([1] * 4)


@pytest.mark.usefixtures("no_java")
def test_no_bleu_of_more_words_than_any_text_has() -> None:
    scores, _, undefined = words.score(["no change", "clear"], ["no change", "clear"])
    assert [scores["bleu_1"], scores["bleu_2"]] == pytest.approx([1, 1])
    assert scores["bleu_3"] is scores["bleu_4"] is None
    assert undefined["bleu_4"] == "no text has 4 words"


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="no pair"):
        words.score([], [])


texts = st.lists(st.sampled_from(["no", "heart", ".", "é", "|||", "<|endoftext|>", "x" * 50]), min_size=1, max_size=9)


@given(st.lists(st.tuples(texts, texts | st.just([])), min_size=2, max_size=6))
def test_scores_of_any_texts_lie_in_their_range_and_equal_texts_reach_the_top(pairs: list[Any]) -> None:
    true, said = ([" ".join(text) for text in side] for side in zip(*pairs, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        scores, each, _ = words.score(said, true)
        top, same, _ = words.score(true, true)
    for name, values in each.items():
        assert all(0 <= value <= (10 if name == "cider" else 1) + 1e-9 for value in values), name
    for name, value in scores.items():
        assert value is None or 0 <= value <= (10 if name == "cider" else 1) + 1e-9
    for name, value in top.items():
        if name != "cider":
            assert value is None or value == pytest.approx(1), name
    assert same["rouge_l"] == pytest.approx([1] * len(true))


@pytest.mark.skipif(not ORACLE.is_dir(), reason=f"the published scores are not at {ORACLE} (set COGAZE_REAL_DATA)")
@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("model", ["fixed_template", "logprob_select"])
def test_published_scores(model: str) -> None:
    """382 reports of the Indiana University collection; their words already stand apart."""
    published = json.loads((ORACLE / model / "test_metrics.json").read_text())
    said, true = (json.loads((ORACLE / model / f"test_{side}.json").read_text()) for side in ("preds", "refs"))
    scores, *_ = words.score([said[study][0] for study in true], [true[study][0] for study in true])
    for ours, theirs in (("bleu_1", "Bleu_1"), ("bleu_4", "Bleu_4"), ("rouge_l", "ROUGE_L"), ("cider", "CIDEr")):
        assert scores[ours] == pytest.approx(published[theirs], abs=1e-9)
