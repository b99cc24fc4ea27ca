"""A build as an array job on a real Slurm: the same bytes as a build without, by the sbatch files and by submitit."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from cogaze.cli.main import run
from data_prep.build import BuildError, finish
from data_prep.phantom import write
from tests.slurm import Slurm, slurm  # noqa: F401  the fixture

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom source in raw/, and plain/ built from it in one go."""
    place = tmp_path_factory.mktemp("slurm")
    write(place / "raw", 24, 5, size=64)
    assert run(["data", "build", *options(place), "--out", str(place / "plain"), "--jobs", "1"]) == 0
    return place


def options(place: Path) -> list[str]:
    return ["--source", "mimic-cxr", "--root", str(place / "raw"), "--image-size", "32", "--images-per-shard", "8"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(folder: Path) -> dict[str, str]:
    """The variable COGAZE: a script that runs this interpreter's cogaze."""
    script = folder / "cogaze"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cogaze "$@"\n')
    script.chmod(0o755)
    return {"COGAZE": str(script), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_sbatch_files(slurm: Slurm, place: Path) -> None:  # noqa: F811
    """Three tasks on two nodes, and a merge that waits for all of them."""
    out, environ = place / "by-sbatch", command(place)
    small = ("--cpus-per-task=1", "--mem=900", "--time=5")
    job = slurm.sbatch(
        "--array=1-3", *small, ROOT / "slurm" / "build.sbatch", *options(place), "--out", out, cwd=place, **environ
    )
    after = f"--dependency=afterok:{job}"
    merge = slurm.sbatch(after, *small, ROOT / "slurm" / "merge.sbatch", out, cwd=place, **environ)
    logs = lambda: "".join(log.read_text() for log in place.glob("cogaze-*.log"))  # noqa: E731
    assert slurm.wait(merge) == {"": "COMPLETED"}, logs()
    assert slurm.wait(job) == {"1": "COMPLETED", "2": "COMPLETED", "3": "COMPLETED"}
    assert contents(out) == contents(place / "plain")
    (first,) = place.glob("cogaze-build-*_1.log")
    assert "part 1/3 done" in first.read_text()
    names = {path.stem for path in (place / "raw").rglob("*.jpg")} | {
        path.stem for path in (place / "raw").rglob("s*.txt")
    }
    assert [name for name in names if name in logs()] == []  # logs hold counts, no ids


def test_a_missing_part_and_a_task_on_its_own(slurm: Slurm, place: Path) -> None:  # noqa: F811
    """Part 1 of 2 was made elsewhere: the merge fails and says what to do; task 2 alone, with PARTS, makes it good."""
    out, environ = place / "in-two-goes", command(place)
    small = ("--cpus-per-task=1", "--mem=900", "--time=5", "--output=two-%j.log")
    build = (ROOT / "slurm" / "build.sbatch", *options(place), "--out", out)
    assert run(["data", "build", *options(place), "--out", str(out), "--jobs", "1", "--part", "1/2"]) == 0
    merge = (ROOT / "slurm" / "merge.sbatch", out)
    with pytest.raises(BuildError, match="shards are missing: "):
        finish(out)
    second = slurm.sbatch("--array=2", *small, *build, cwd=place, PARTS="2", **environ)
    last = slurm.sbatch(f"--dependency=afterok:{second}", *small, *merge, cwd=place, **environ)
    assert slurm.wait(last) == {"": "COMPLETED"}
    assert contents(out) == contents(place / "plain")


def test_submit(slurm: Slurm, place: Path) -> None:  # noqa: F811
    """`cogaze data submit`: submitit's array job with the merge as a job that depends on it."""
    out = place / "by-submitit"
    said = slurm.run(
        sys.executable, "-m", "cogaze", "data", "submit", "--parts", "2", "--cpus", "1", "--memory", "1",
        "--hours", "0.1", "--slurm", "partition=debug", "--", *options(place), "--out", str(out), cwd=ROOT,
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    words = said.split()
    array, merge = words[words.index("job") + 1], words[words.index("merges;") - 1]
    logs = place / "by-submitit-jobs"
    assert slurm.wait(merge) == {"": "COMPLETED"}, "".join(log.read_text() for log in logs.glob("*.err"))
    assert set(slurm.wait(array)) == {"0", "1"}
    assert contents(out) == contents(place / "plain")
    assert json.loads((out / "manifest.json").read_text())["totals"]["studies"] == 24
    assert os.path.commonpath([said.rsplit("logs in ", 1)[1].strip(), logs]) == str(logs)
