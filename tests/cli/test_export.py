"""`cogaze export`: what it prints, where it writes, how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cogaze.cli.main import run
from cogaze.export import onnx as graphs
from tests.export.runs import build_shards, make_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli-export")
    return make_run(root, build_shards(root))


def stand_in(model: Any, folder: Path, opset: int) -> dict[str, Any]:
    """What `write_all` leaves, without its seconds of work."""
    (folder / "text.onnx").write_bytes(b"graph")
    check = {"batch": 1, "tokens": 7, "outputs": {"text_features": {"absolute": 2e-7, "relative": 3e-6}}}
    file = {
        "inputs": ["token_ids"],
        "outputs": ["text_features"],
        "checks": [check],
        "largest": graphs.largest([check]),
    }
    counts = {"reports": False, "contexts": False}
    return {"opset": opset, "versions": {"onnxruntime": "1"}, "padding_counts": counts, "files": {"text.onnx": file}}


def test_it_lists_what_it_wrote(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(trained), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    for name in ("model.safetensors", "README.md", "config.yaml", "tokenizer.json"):
        assert name in printed.out
        assert (tmp_path / "out" / name).is_file()
    assert "step 7" in printed.out
    assert f"written to {tmp_path / 'out'}" in printed.out
    assert "ONNX" not in printed.out
    assert "PhysioNet" not in printed.err  # its data are made by hand


def test_onnx_differences_are_printed_and_kept(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "write_all", stand_in)
    out = tmp_path / "out"
    assert run(["export", str(trained / "checkpoints" / "step-00000007"), "--out", str(out), "--onnx"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "2.0e-07" in line)
    assert line.split() == ["text.onnx", "1", "2.0e-07", "3.0e-06"]
    kept = json.loads((out / "onnx.json").read_text())
    assert (kept["opset"], kept["files"]["text.onnx"]["largest"]) == (18, {"absolute": 2e-7, "relative": 3e-6})
    assert "| text.onnx | token_ids | text_features | 2.0e-07 | 3.0e-06 |" in (out / "README.md").read_text()

    assert run(["export", str(trained), "--out", str(out), "--onnx", "--opset", "20", "--force", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["onnx"]["opset"] == 20
    assert printed["files"]["text.onnx"] == 5
    assert run(["export", str(trained), "--out", str(out), "--force"]) == 0
    assert not (out / "text.onnx").exists(), "graphs of another export do not stay"
    assert not (out / "onnx.json").exists()


def test_json_is_one_object_and_notes_go_to_stderr(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(trained / "checkpoints" / "step-00000007", tmp_path / "alone")
    assert run(["export", str(alone), "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    done = json.loads(printed.out)
    assert (done["step"], done["onnx"], done["credentialed"]) == (7, None, False)
    assert done["notes"] == ["the card has no results: they lie in a run folder, and this checkpoint is in none"]
    assert done["notes"][0] in printed.err
    assert set(done["files"]) == {path.name for path in (tmp_path / "out").iterdir()}


def test_weights_of_credentialed_data_come_with_a_word(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cogaze.export import folder

    read = folder.read_manifest
    monkeypatch.setattr(folder, "read_manifest", lambda path: read(path) | {"source": ["mimic_cxr"]})
    assert run(["export", str(trained), "--out", str(tmp_path / "out")]) == 0
    assert "share it through PhysioNet" in capsys.readouterr().err
    assert "physionet-credentialed-health-data" in (tmp_path / "out" / "README.md").read_text()


def test_wrong_use_is_one_line_and_exit_code_2(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    wrong: tuple[tuple[list[str], str], ...] = (
        ([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")], "no such folder"),
        ([str(trained), "--out", str(tmp_path / "full")], "not empty; --force"),
        ([str(trained), "--out", str(tmp_path / "out"), "--opset", "20"], "--opset is for --onnx"),
        ([str(trained), "--out", str(tmp_path / "out"), "--onnx", "--opset", "17"], "greater than or equal to 18"),
        ([str(trained)], "--out"),
    )
    for arguments, message in wrong:
        assert run(["export", *arguments]) == 2, arguments
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_what_cannot_be_exported_is_exit_code_1(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(trained / "eval"), "--out", str(tmp_path / "out")]) == 1
    assert "neither a run folder with checkpoints/" in capsys.readouterr().err
    assert run(["export", str(trained), "--out", str(trained / "checkpoints"), "--force"]) == 1
    assert "the run itself lies there" in capsys.readouterr().err


def test_missing_packages_are_named_before_any_work(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = graphs.find_spec
    monkeypatch.setattr(graphs, "find_spec", lambda name: None if name == "onnxscript" else there(name))
    assert run(["export", str(trained), "--out", str(tmp_path / "out"), "--onnx"]) == 1
    error = capsys.readouterr().err
    assert "--onnx needs onnxscript, not installed here: pip install 'cogaze[onnx]'" in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
    assert run(["export", str(trained), "--out", str(tmp_path / "out")]) == 0  # nobody else needs them
