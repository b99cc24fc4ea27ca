"""The profiler around steps, wherever the run ends; a whole run with it is in test_seeing.py."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
import torch

from cogaze.profiling import WARM_UP, StepProfiler


def recorded(folder: Path) -> list[str]:
    with gzip.open(folder / "trace-rank0.json.gz", "rt") as file:
        names = {str(event.get("name")) for event in json.load(file)["traceEvents"]}
    return sorted(name for name in names if name.startswith("ProfilerStep#"))


def take_steps(profiler: StepProfiler, number: int) -> None:
    for _ in range(number):
        torch.ones(8, 8) @ torch.ones(8, 8)
        profiler.step()


def test_steps_after_the_warm_up_and_no_more(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path / "profile", 2)
    take_steps(profiler, WARM_UP + 2)
    assert profiler._profile is None  # nothing hangs on the steps that follow
    assert recorded(tmp_path / "profile") == ["ProfilerStep#2", "ProfilerStep#3"]
    assert "aten::mm" in (tmp_path / "profile" / "top.txt").read_text()
    (tmp_path / "profile" / "top.txt").unlink()
    take_steps(profiler, 3)  # training goes on
    profiler.close()
    assert not (tmp_path / "profile" / "top.txt").exists()


def test_a_run_that_ends_early_keeps_what_was_recorded(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path, 50)
    take_steps(profiler, WARM_UP + 1)
    profiler.close()
    assert recorded(tmp_path)[0] == "ProfilerStep#2"


def test_a_run_that_ends_during_the_warm_up_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("cogaze").propagate = True
    profiler = StepProfiler(tmp_path, 2)
    take_steps(profiler, 1)
    profiler.close()
    assert "nothing was recorded" in caplog.text
    assert list(tmp_path.iterdir()) == []
