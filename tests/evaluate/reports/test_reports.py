"""All metrics of generated reports together, and `cogaze evaluate reports`."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from cogaze.cli.main import run
from cogaze.data.shards import ShardSet
from cogaze.evaluate.reports import evaluate
from cogaze.evaluate.reports.pairs import Pairs, shard_texts
from tests.phantoms import phantom_shards


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """METEOR has its own test; its program takes seconds to start."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_full_stops_are_words_of_their_own() -> None:
    found = evaluate(Pairs(["1", "2"], ["Clear.", "No  effusion"], ["Clear .", "No effusion."]))
    assert found["words"]["bleu_1"] == pytest.approx(2.718281828**-0.25, rel=1e-6)  # all 4 right of 5
    assert set(found) == {"counts", "words", "undefined", "per_report"}


def test_the_phantom_s_own_reports_score_one_and_nothing_is_printed_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = shard_texts(ShardSet.open(phantom_shards()), "test", "study_id", ["findings"])
    with (tmp_path / "generated.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("study_id", "generated"), *texts.items()])
    arguments = ["evaluate", "reports", str(tmp_path / "generated.csv"), "--data", str(phantom_shards())]
    assert run([*arguments, "--out", str(tmp_path / "o.json"), "--per-report", str(tmp_path / "each.csv")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "o.json").read_text())
    for name in ("bleu_1", "bleu_4", "rouge_l"):
        assert found["words"][name] == pytest.approx(1)
    assert found["findings"]["labeller"] == "rules"
    assert found["findings"]["micro_14"]["f1"] == found["findings"]["exact_5"] == 1
    assert re.search(r"bleu_4 +1\.0000", printed)
    assert "not computed: meteor (no java on PATH" in printed
    everything = printed + (tmp_path / "o.json").read_text() + (tmp_path / "each.csv").read_text()
    assert not any(text[:30] in everything for text in texts.values() if text)
    assert not any(study in printed + (tmp_path / "o.json").read_text() for study in texts)
    rows = list(csv.DictReader((tmp_path / "each.csv").open()))
    assert [row["study_id"] for row in rows] == [study for study, text in texts.items() if text]
    assert all(float(row["rouge_l"]) == pytest.approx(1) for row in rows)


def test_two_columns_of_one_file_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text('id,said,true\n1,"Large effusion.",Effusion.\n2,,No effusion.\n3,x,\n')
    names = ["--id", "id", "--generated", "said", "--reference", "true", "--json"]
    assert run(["evaluate", "reports", str(tmp_path / "a.csv"), *names]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"reports": 2, "empty_generated": 1, "left_out": {"the reference is empty": 1}}
    assert found["findings"]["per_observation"]["Pleural Effusion"]["f1"] == 1
    assert "per_report" not in found
    assert "structured" not in found
    assert run(["evaluate", "reports", str(tmp_path / "a.csv"), *names, "--labeller", "none"]) == 0
    assert "findings" not in json.loads(capsys.readouterr().out)


def test_structured_reports_are_shown_organ_by_organ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = "Pleura:- No effusion.Cardiovascular:- Normal heart.Brain:- Fine."
    (tmp_path / "a.json").write_text(json.dumps({"1": report, "2": ""}))
    (tmp_path / "b.json").write_text(json.dumps({"1": report, "2": "Pleura:\n- No effusion."}))
    files = [str(tmp_path / "a.json"), "--references", str(tmp_path / "b.json")]
    assert run(["evaluate", "reports", *files, "--structured"]) == 0
    printed = capsys.readouterr().out
    assert "presence of organs: F1 0.857" in printed  # 3 of 3 and 3 of 4
    assert "generated reports without organs: 1" in printed
    assert "reference reports with unknown organs: 1" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--references", "x.csv", "--data", "x"], 2, "both give references"),
        (["--chexbert", "x"], 2, "--chexbert is for --labeller chexbert"),
        (["--labeller", "chexbert"], 2, "needs its weight file: --chexbert"),
        (["--labeller", "chexbert", "--chexbert", "nowhere.pth"], 1, "nowhere.pth: no such file; get chexbert.pth"),
        (["--reference", "truth"], 1, "no column 'truth' (--reference)"),
        (["--data", "SHARDS", "--split", "dev"], 2, "--split dev: the shards have"),
        (["--data", "SHARDS"], 1, "no id is in both"),
    ],
)
def test_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "a.csv").write_text("study_id,generated,reference\n1,a,b\n")
    arguments = [str(phantom_shards()) if word == "SHARDS" else word for word in arguments]
    assert run(["evaluate", "reports", str(tmp_path / "a.csv"), *arguments]) == code
    assert message in capsys.readouterr().err
