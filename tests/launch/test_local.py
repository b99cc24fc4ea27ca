"""Ranks here are small Python programs without torch, except for the one that sums over gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launch.local import spawn

RANK = "import os, sys, time, signal, pathlib; rank = int(os.environ['RANK']); here = pathlib.Path(sys.argv[1])\n"
# Says that its handlers stand, then waits for a signal.
WAIT = "(here / f'ready{rank}').touch()\nwhile True: time.sleep(0.02)\n"


def program(code: str, folder: Path) -> list[str]:
    return [sys.executable, "-c", RANK + code, str(folder)]


def send_when_ready(folder: Path, ranks: int, *numbers: int) -> threading.Thread:
    """Send signals to this process once all ranks are ready."""

    def send() -> None:
        wait_for(lambda: all((folder / f"ready{rank}").exists() for rank in range(ranks)))
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def wait_for(condition) -> None:
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("waited 30 s in vain")


def test_ranks_get_the_torchrun_environment(tmp_path):
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT COGAZE_LAUNCHER MINE"
    code = f"(here / str(rank)).write_text(' '.join(os.environ[n] for n in '{names}'.split()))"
    assert spawn(3, program(code, tmp_path), env=os.environ | {"MINE": "kept"}) == 0
    lines = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    port = lines[0][5]
    assert lines == [[str(r), str(r), "3", "3", "127.0.0.1", port, "cogaze", "kept"] for r in range(3)]
    assert 1024 <= int(port) < 65536


def test_two_ranks_sum_over_gloo(tmp_path):
    code = (
        "import torch, torch.distributed as d\n"
        "d.init_process_group('gloo'); x = torch.tensor([rank + 1.0]); d.all_reduce(x)\n"
        "(here / str(rank)).write_text(str(x.item())); d.destroy_process_group()"
    )
    assert spawn(2, program(code, tmp_path)) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["3.0", "3.0"]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([3, 3], 3), ([0, 3], 3), ([2, 2], 2), ([0, 5], 5), ([3, 1], 1)],
)
def test_exit_code(tmp_path, codes, expected):
    assert spawn(2, program(f"sys.exit({codes}[rank])", tmp_path)) == expected


def test_a_rank_killed_by_a_signal_gives_128_plus_its_number(tmp_path):
    code = "os.kill(os.getpid(), signal.SIGSEGV) if rank == 1 else time.sleep(20) or (here / 'survived').touch()"
    assert spawn(2, program(code, tmp_path), grace_s=0.1) == 128 + signal.SIGSEGV
    assert not (tmp_path / "survived").exists()


def test_the_others_are_killed_when_one_fails_and_the_first_code_counts(tmp_path):
    code = (
        "if rank == 1: sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"  # deaf: in a collective that never ends
        "(here / f'pid{rank}').write_text(str(os.getpid()))\n"
        "time.sleep(20)\n"
        "(here / 'survived').touch()"
    )
    assert spawn(3, program(code, tmp_path), grace_s=1.0) == 7
    assert not (tmp_path / "survived").exists()
    for rank in (0, 2):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"pid{rank}").read_text()), 0)


def test_others_may_end_by_themselves_within_the_grace(tmp_path):
    code = "sys.exit(7) if rank == 0 else time.sleep(0.5) or (here / 'ended').touch()"
    assert spawn(2, program(code, tmp_path), grace_s=30.0) == 7
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_are_passed_on_and_the_saved_code_comes_back(tmp_path, number):
    code = (
        "def stop(number, _): (here / f'got{rank}').write_text(str(number)); sys.exit(3)\n"
        f"signal.signal({int(number)}, stop)\n" + WAIT
    )
    before = signal.getsignal(number)
    thread = send_when_ready(tmp_path, 2, number)
    assert spawn(2, program(code, tmp_path)) == 3
    thread.join()
    assert [(tmp_path / f"got{rank}").read_text() for rank in range(2)] == [str(int(number))] * 2
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_kills(tmp_path):
    code = "signal.signal(signal.SIGINT, lambda *_: (here / f'got{rank}').touch())\n" + WAIT
    thread = send_when_ready(tmp_path, 2, signal.SIGINT, signal.SIGINT)
    assert spawn(2, program(code, tmp_path)) == 128 + signal.SIGKILL
    thread.join()
    assert (tmp_path / "got0").exists()
    assert (tmp_path / "got1").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_ranks_die_with_their_parent(tmp_path):
    code = "(here / f'pid{rank}').write_text(str(os.getpid()))\n" + WAIT
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from launch.local import spawn; spawn(2, {program(code, tmp_path)!r})"]
    )
    wait_for(lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(2)))
    pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in range(2)]
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    try:  # a zombie that nobody has collected yet is dead as well
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_process_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        spawn(0, ["true"])


def test_a_command_that_does_not_exist():
    with pytest.raises(FileNotFoundError):
        spawn(2, ["/does/not/exist"])
