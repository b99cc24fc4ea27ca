from __future__ import annotations

import errno
import json
import logging
import math
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogaze.meters import (
    Clock,
    MetricsFile,
    MetricsFileError,
    clock_face,
    log_line,
    peak_memory_bytes,
    rates,
    read_metrics,
)


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_clock_stands_still_while_paused():
    time = FakeTime()
    clock = Clock(now=time)
    time.seconds += 3
    with clock.paused():
        time.seconds += 50
        assert clock.seconds == 3
        with clock.paused():  # saving inside an evaluation
            time.seconds += 7
        time.seconds += 1
    time.seconds += 2
    assert clock.seconds == 5


def test_clock_goes_on_from_an_earlier_part_of_the_run():
    time = FakeTime()
    clock = Clock(40.0, time)
    time.seconds += 2
    assert clock.seconds == 42


def test_clock_runs_on_after_an_error_in_a_pause():
    time = FakeTime()
    clock = Clock(now=time)

    def evaluation_that_fails() -> None:
        with clock.paused():
            time.seconds += 4
            raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        evaluation_that_fails()
    time.seconds += 1
    assert clock.seconds == 1


def test_rates_of_a_step():
    """Half a second for 20 images and 3,000 tokens, an eighth of it waiting; 8e12 of 2 x 0.5 s x 32e12 FLOPs."""
    assert rates(20, 3000.0, 8e12, 0.5, 0.0625, 2, 32e12) == {
        "samples_per_s": 40,
        "tokens_per_s": 6000,
        "data_wait": 0.0625,
        "data_wait_percent": 12.5,
        "mfu": 0.25,
    }
    assert rates(20, 3000.0, 0, 0.5, 0.0625, 2, None)["mfu"] is None


def test_peak_memory_is_in_bytes():
    held = bytearray(64 * 2**20)
    assert 64 * 2**20 < peak_memory_bytes() < 2**40
    assert len(held) == 64 * 2**20


@given(st.floats(allow_nan=False, allow_infinity=False), st.text(), st.integers())
def test_metrics_round_trip_exactly(tmp_path_factory, number, text, integer):
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    file = MetricsFile(path)
    file.append({"loss": number, "note": text, "step": integer})
    file.close()
    (row,) = read_metrics(path)
    assert row == {"loss": number, "note": text, "step": integer}
    assert math.copysign(1, row["loss"]) == math.copysign(1, number)


def test_non_finite_numbers_stay_json(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"loss": math.nan, "nested": {"a": [math.inf, 1.0]}})
    file.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "nested": {"a": [None, 1.0]}}


def test_truncate_gives_the_file_of_an_uninterrupted_run(tmp_path):
    straight = MetricsFile(tmp_path / "straight.jsonl")
    for step in range(6):
        straight.append({"step": step, "loss": 0.1 * step})

    killed = MetricsFile(tmp_path / "killed.jsonl")
    for step in range(3):
        killed.append({"step": step, "loss": 0.1 * step})
    offset = killed.offset()  # the checkpoint
    for step in range(3, 5):
        killed.append({"step": step, "loss": 0.1 * step})
    killed.close()
    with open(tmp_path / "killed.jsonl", "ab") as file:
        file.write(b'{"step": 5, "lo')  # killed while writing

    resumed = MetricsFile(tmp_path / "killed.jsonl")
    resumed.truncate(offset)
    for step in range(3, 6):
        resumed.append({"step": step, "loss": 0.1 * step})
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "straight.jsonl").read_bytes()
    assert resumed.offset() == straight.offset() == (tmp_path / "straight.jsonl").stat().st_size


def test_opening_drops_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste')
    assert read_metrics(path) == [{"step": 1}]
    file = MetricsFile(path)
    assert file.offset() == len(b'{"step": 1}\n')
    file.append({"step": 2})
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


def test_a_full_disk_keeps_lines_waiting_and_loses_none(tmp_path, monkeypatch, caplog):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1})
    room, write = 5, os.write

    def nearly_full(fd: int, data: bytes) -> int:
        """5 bytes fit, the rest does not: what a full disk does."""
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", nearly_full)
    monkeypatch.setattr(logging.getLogger("cogaze"), "propagate", True)
    file.append({"step": 2})
    file.append({"step": 3})
    with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'"):  # so no checkpoint counts on it
        file.offset()
    assert [r.getMessage() for r in caplog.records] == [
        f"{file.path} cannot be written (No space left on device); its lines wait in memory"
    ]
    room = 10_000
    file.append({"step": 4})
    assert read_metrics(file.path) == [{"step": step} for step in (1, 2, 3, 4)]
    assert file.offset() == file.path.stat().st_size


def test_truncate_refuses_a_foreign_file(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1})
    with pytest.raises(MetricsFileError, match=r"metrics\.jsonl has 12 bytes, the checkpoint recorded 500"):
        file.truncate(500)
    with pytest.raises(MetricsFileError, match="byte 5 is not the end of a line"):
        file.truncate(5)
    file.truncate(0)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(MetricsFileError, match="line 2: not JSON"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_log_line_of_a_step():
    line = log_line(
        {
            "step": 120,
            "total_steps": 2000,
            "epoch": 1.5,
            "samples_seen": 3840,
            "loss": 3.12341,
            "loss_contrastive": 2.5,
            "loss_disease": 0.1,
            "loss_gaze": 0.25,
            "logit_scale": 14.2857,
            "grad_norm": 1.23456,
            "lr": 1.5e-3,
            "positives_per_row": 1.625,
            "multi_positive_share": 0.375,
            "samples_per_s": 812.34,
            "tokens_per_s": 51234.56,
            "data_wait": 0.0123,
            "data_wait_percent": 3.2,
            "mfu": 0.4142,
            "peak_memory_mib": 71234.5,
            "gaze_scale": 14.3,
            "seconds": 3725.4,
            "retries": 2,
        }
    )
    assert line == (
        "step 120/2000 | epoch 1.50 | loss 3.1234 | contrastive 2.5000 | disease 0.1000 | gaze 0.2500 | grad 1.23 | "
        "lr 1.50e-03 | scale 14.29 | positives 1.62 | 38% with several | 812.3 samples/s | 51235 tokens/s | "
        "wait 12 ms | 3.2 % waited | MFU 41.4% | peak 71234 MiB | 1:02:05 trained | retries 2"
    )


def test_log_line_of_an_evaluation_and_of_gaps():
    assert (
        log_line({"event": "eval", "step": 5, "auroc": 0.81234, "labels": {"Edema": 1}}) == "eval step 5 | auroc 0.8123"
    )
    assert log_line({"step": 5, "loss": None, "mfu": None}) == "step 5 | loss - | mfu -"


def test_clock_face():
    assert [clock_face(s) for s in (0, 59.6, 3600, 90061)] == ["0:00:00", "0:01:00", "1:00:00", "1 d 1:01:01"]


def test_meters_do_not_import_torch():
    import subprocess

    code = "import sys, cogaze.meters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
