"""`cogaze demo` from nothing to the page, with a tiny model: every stage, the kill, the resume, the names it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forkserver
from tests.phantoms import TINY

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [*TINY, "train.steps=24", "train.save_every=6", "eval.every=24", "tracking.mlflow=false"]


def cogaze(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cogaze", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500, check=False)


def forked(*arguments: str) -> forkserver.Run:
    """The same without its imports."""
    done = forkserver.Run(forkserver.COGAZE, list(arguments), env=os.environ | {"OMP_NUM_THREADS": "1"})
    done.wait()
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "run"
    done = cogaze("demo", "--out", str(out), "--studies", "60", "--seed", "3", *SETTINGS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return out, done.stdout


@pytest.mark.slow
def test_the_demo_goes_all_the_way(demo: tuple[Path, str]) -> None:
    out, printed = demo
    assert "resumed step-" in printed  # killed once on the way
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "event" not in row] == list(range(1, 25))
    summary = json.loads((out / "summary.json").read_text())
    for name in ("zero_shot_auroc", "zero_shot_auroc_no_context", "retrieval_p_at_1", "retrieval_hit_at_10"):
        assert 0 <= summary[name] <= 1
    for name in ("gaze_js", "gaze_js_center_bias", "gaze_js_shuffled_sentences", "gaze_js_shuffled_images"):
        assert 0 < summary[name] < 0.6931472
    assert summary["retrieval_chance"] == pytest.approx(1 / summary["retrieval_pool"])
    assert {"gaze_nss", "gaze_nss_center_bias"} < summary.keys()
    assert summary["seconds"] > sum(summary["stages"].values()) * 0.9
    page = (out / "page" / "index.html").read_text()
    assert "<html" in page
    assert str(out / "page" / "index.html") in printed


@pytest.mark.slow
def test_an_untrained_model_is_evaluated_beside_it(demo: tuple[Path, str]) -> None:
    out, _ = demo
    done = forked("evaluate", "all", str(out), "--untrained", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    untrained = json.loads(done.stdout)
    trained = json.loads((out / "eval" / "all.json").read_text())
    assert untrained["zero_shot"]["step"] == 0
    assert trained["step"] == 24
    assert untrained["headline"]["gaze_js"] != trained["headline"]["gaze_js"]
    assert (out / "eval" / "test-untrained" / "all.json").is_file()


@pytest.mark.slow
def test_the_data_set_under_the_demo_is_sound_and_the_demo_can_be_called_again(demo: tuple[Path, str]) -> None:
    out, _ = demo
    check = forked("data", "check", str(out / "shards"), "--json")
    assert json.loads(check.stdout)["ok"] is True
    again = forked("demo", "--out", str(out), "--studies", "60", "--seed", "3", *SETTINGS)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "phantom:" not in again.stdout  # raw data, shards and the finished training are there already


def test_phantoms_of_an_early_version_are_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "PHANTOM.json").write_text('{"studies": 3}')
    done = forked("demo", "--out", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path}/raw was drawn by an earlier version of cogaze: remove it" in done.stderr
    assert (tmp_path / "raw" / "PHANTOM.json").is_file()


def test_outside_the_repository_it_says_what_to_do(tmp_path: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cogaze", "demo"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "configs/demo.yaml not found: run the demo from the repository, or give --config" in done.stderr
