"""The page: whole, self-contained, escaped, and silent about text and identifiers where it must be."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cogaze.config import ConfigError, dump
from cogaze.data.shards import ShardError, ShardSet
from cogaze.evaluate import suite
from cogaze.evaluate.page import read_metrics, retrieval_rows, tiles, write_page
from tests.evaluate.fakes import FakeModel, Splits, settings, tokenizer_of

VOID = {"meta", "link", "input", "br", "img", "hr"}
HOSTILE = 'zebrafish <script>alert(1)</script> & "quotes"'


class Page(HTMLParser):
    """Tags opened and closed in order, and everything that could make a browser ask for something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.references += [values[n] for n in ("src", "href", "srcset", "data", "poster", "action") if n in values]
        if "id" in values:
            self.ids.append(values["id"])
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words += data


class Zoo(Splits):
    """Every report, context and sentence says something that would be noticed, and so do the identifiers."""

    def __init__(self, phantom: bool) -> None:
        super().__init__()
        self.is_phantom = phantom  # type: ignore[misc]
        for raw in self.samples:
            raw.meta |= {"image_id": "walrus-1", "study_id": "walrus-2", "patient_id": "walrus-3"}
            raw.meta["study_id"] += str(self.study[int(raw.index)])
            raw.meta["report"]["findings"] = f"{HOSTILE} {self.study[raw.index]}"
            for reading in raw.meta["readings"]:
                reading |= {"id": "walrus-4", "reader": "walrus-5"}
                for sentence in reading["sentences"]:
                    sentence["text"] = f"{HOSTILE} said"


def make_run(folder: Path, shards: Splits, monkeypatch: pytest.MonkeyPatch, evaluate: bool = True) -> Path:
    config = settings()
    config.run.name = "a <run>"
    config.data.shards = ["somewhere"]
    config.tracking.uri = "https://user:hunter2@tracking.example/mlflow"
    (folder / "config.yaml").write_text(dump(config))
    lines: list[dict[str, Any]] = []
    for step in range(1, 41):
        terms = {"loss": 3 / step, "loss_contrastive": 2 / step, "loss_disease": 0.1, "loss_gaze": 0.3}
        rest = {"logit_scale": 14.0, "lr": 1e-3, "grad_norm": 1.0, "samples_per_s": 100.0, "data_wait": 0.001}
        lines.append({"step": step, "samples_seen": 4 * step, **terms, **rest})
    lines.append({"event": "eval", "step": 40, "eval_loss": 0.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "lo')
    if evaluate:
        results = suite.evaluate_all(FakeModel(), config, shards, tokenizer_of(shards), "test", "cpu", step=40)  # type: ignore[arg-type]
        suite.write_results(folder / "eval", results)
    monkeypatch.setattr(ShardSet, "open", classmethod(lambda cls, *given: shards))
    return folder


def written(run: Path, **options: Any) -> tuple[Page, str, list[str]]:
    path, notes = write_page(run, **options)
    assert path == run / "page" / "index.html"
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    text = path.read_text(encoding="utf-8")
    return Page(text), text, notes


def test_whole_page_asks_nothing_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, text, notes = written(make_run(tmp_path, Zoo(phantom=True), monkeypatch))
    assert page.open == []
    for reference in page.references:
        assert reference.startswith(("data:image/", "#")), reference[:80]
    for anchor in (r for r in page.references if r.startswith("#")):
        assert anchor[1:] in page.ids
    assert len(page.ids) == len(set(page.ids))
    bare = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]*", "", text)
    assert not re.search(r"https?:|@import|url\(|//[a-z]", bare)
    assert "default-src 'none'" in text
    assert [note for note in notes if "1 lines" in note]
    for section in ("gaze", "zero-shot", "retrieval", "labels", "training", "run"):
        assert section in page.ids
    assert text.count('<figure class="chart">') >= 6
    assert "a &lt;run&gt;" in text
    assert "step 40" in page.words


def test_phantom_text_is_shown_and_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, text, _ = written(make_run(tmp_path, Zoo(phantom=True), monkeypatch))
    assert "zebrafish <script>alert(1)</script>" in page.words  # as text
    assert "<script>alert" not in text
    assert page.scripts == 1
    assert "✓ own report" in page.words
    assert "hunter2" not in text
    assert "walrus" not in text


@pytest.mark.parametrize(("phantom", "asked"), [(False, None), (True, False)])
def test_no_text_unless_phantom_or_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantom: bool, asked: bool | None
) -> None:
    page, text, _ = written(make_run(tmp_path, Zoo(phantom), monkeypatch), show_text=asked)
    assert "zebrafish" not in text
    assert "walrus" not in text
    assert "text not shown" in page.words
    assert "image 0" in page.words or "image " in page.words
    assert ("This page holds radiographs" in page.words) == (not phantom)


def test_real_text_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, _, _ = written(make_run(tmp_path, Zoo(phantom=False), monkeypatch), show_text=True)
    assert "zebrafish" in page.words
    assert "radiographs and report text" in page.words


def test_before_the_evaluation_there_are_curves_and_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, _, notes = written(make_run(tmp_path, Zoo(phantom=True), monkeypatch, evaluate=False))
    assert page.open == []
    assert "training" in page.ids
    assert "gaze" not in page.ids
    assert "cogaze evaluate all" in page.words
    assert len(notes) == 2


def test_a_task_of_other_shards_has_no_cards_and_its_text_is_hidden_if_it_is_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, Zoo(phantom=True), monkeypatch)
    file = run / "eval" / "retrieval.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"manifest": "1" * 64}))
    _, _, notes = written(run)
    assert any("no examples of retrieval: the shards are not those" in note for note in notes)
    assert not any("no examples of gaze" in note for note in notes)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"phantom": False}))
    page, _, _ = written(run)
    assert "zebrafish" not in page.words
    assert "This page holds radiographs" in page.words


def test_other_or_missing_shards_leave_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, Zoo(phantom=True), monkeypatch)
    other = Zoo(phantom=True)
    other.digest = "1" * 64  # type: ignore[misc]
    monkeypatch.setattr(ShardSet, "open", classmethod(lambda cls, *given: other))
    page, _, notes = written(run)
    assert any("not those that were evaluated" in note for note in notes)
    assert "zero-shot" in page.ids
    assert "zebrafish" not in page.words

    def gone(cls: Any, folders: Any, data: Any) -> Any:
        raise ShardError(f"{folders[0]}: no such folder")

    monkeypatch.setattr(ShardSet, "open", classmethod(gone))
    page, _, notes = written(run, shards=[Path("elsewhere")])
    assert any("elsewhere: no such folder" in note for note in notes)
    assert page.open == []


@pytest.mark.parametrize("task", suite.TASKS)
def test_a_single_task_makes_a_page_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    run = make_run(tmp_path, Zoo(phantom=True), monkeypatch)
    for path in (run / "eval").iterdir():
        if path.stem != task and not (task == "gaze" and path.stem == "gaze_examples"):
            path.unlink()
    page, _, _ = written(run)
    assert page.open == []
    assert task.replace("_", "-") in page.ids


def test_without_context_the_page_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Zoo(phantom=True)
    run = make_run(tmp_path, shards, monkeypatch, evaluate=False)
    config = settings()
    results = suite.evaluate_all(
        FakeModel(),
        config,
        shards,
        tokenizer_of(shards),
        "test",
        "cpu",
        variants=("no_context",),  # type: ignore[arg-type]
    )
    suite.write_results(run / "eval", results)
    page, _, _ = written(run)
    assert page.open == []
    assert "zero-shot" in page.ids


def test_undefined_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No label, no report, no gaze: the page says so and stands."""
    shards = Splits()
    for raw in shards.samples:
        raw.meta |= {"labels": {}, "readings": [], "report": {"findings": None, "impression": None}}
    page, _, _ = written(make_run(tmp_path, shards, monkeypatch))
    assert page.open == []
    assert "no known label" in page.words
    assert "No image of this split has a report" in page.words
    assert "no sentence of this split has gaze" in page.words


def test_a_run_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration"):
        write_page(tmp_path)


def test_metrics_are_read_leniently(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == ([], 0)
    path.write_bytes(b'{"step": 1, "loss": null}\n\n[1]\nnonsense\n{"loss": 2}\n{"step": 2}\n\xff\n')
    rows, broken = read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2]
    assert broken == 4


def test_tiles_and_rows_by_hand() -> None:
    shown = tiles({"retrieval_p_at_1": 0.2, "retrieval_chance": 0.005, "retrieval_pool": 200, "gaze_js": None})
    assert len(shown) == 1
    assert shown[0]["fill"] == pytest.approx(0.2)
    assert "40 × chance" in shown[0]["note"]
    assert shown[0]["marks"] == [(pytest.approx(0.005), "chance", 0.005)]
    table = {"by_study": {"image_to_text": {"p_at_1": 1.0}}, "by_label": {"skipped": "no known label"}}
    rows = retrieval_rows({"variants": {"context": table}})
    assert rows == [{"direction": "image → report", "protocol": "own study", "variant": "with context", "p_at_1": 1.0}]
