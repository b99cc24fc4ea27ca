"""Ranks as forks of a process that has imported everything: a start takes the time of its work, not ten seconds more.

The process that forks must be a plain one: no threads, no process group, nothing heavy imported before `preload`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# what DeepSpeed imports when it is first used; the last of them takes five seconds
DEEPSPEED = ("deepspeed", "deepspeed.runtime.zero", "deepspeed.runtime.zero.muon.muon_optimizer")


def preload(*modules: str) -> None:
    """Import what forks will need, without threads, for this process and for them."""
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    for name in modules:
        importlib.import_module(name)
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    threads = {task.joinpath("comm").read_text().strip() for task in tasks}
    threads -= {"jemalloc_bg_thd"}  # pyarrow's allocator, which minds forks
    assert not threads, f"threads {threads}: a fork of this process could wait for ever for a lock of theirs"
    gc.collect()
    gc.freeze()  # the forks' collector need not look at all of this again


class Forked:
    """What is used of `subprocess.Popen`, for a function that returns an exit code. Dies with its parent."""

    def __init__(
        self, work: Callable[[], int], env: Mapping[str, str], log: Path | None = None, errors: Path | None = None
    ) -> None:
        """What it prints goes to `log`, and what it prints on stderr to `errors`, where these are given."""
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_child(work, env, log, errors or log, parent)

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutError."""
        if timeout is None:
            self._reap(0)
        deadline = time.monotonic() + (timeout or 0)
        while self.returncode is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} runs after {timeout} s")
            time.sleep(0.005)
            self._reap(os.WNOHANG)
        return self.returncode

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _be_the_child(
    work: Callable[[], int], env: Mapping[str, str], log: Path | None, errors: Path | None, parent: int
) -> NoReturn:
    code: Any = 1
    try:
        os.setsid()  # a process group of its own, as launched ranks have
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        given = dict(env)  # it may be os.environ itself
        os.environ.clear()
        os.environ.update(given)
        for stream, path in ((1, log), (2, errors)):
            if path is not None:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(file, stream)
                os.close(file)
        code = work()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for thread in threading.enumerate():  # as the interpreter does at its end
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def start_ranks(world: int, work: Callable[[], int], logs: Path) -> list[Forked]:
    """`world` ranks of one group, each with torchrun's environment and `logs`/RANK.log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world)}
    shared["LOCAL_WORLD_SIZE"] = str(world)
    return [
        Forked(work, os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, logs / f"{rank}.log")
        for rank in range(world)
    ]


def run_ranks(world: int, work: Callable[[], int], logs: Path, timeout: float = 300) -> None:
    """The same, until all have ended. Raises RuntimeError with the ends of their logs where one failed or hangs."""
    logs.mkdir(parents=True, exist_ok=True)
    ranks = start_ranks(world, work, logs)
    deadline = time.monotonic() + timeout
    try:
        while any(rank.poll() is None for rank in ranks) and not any(rank.returncode for rank in ranks):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
    finally:
        failed = [rank.returncode for rank in ranks]
        for rank in ranks:
            rank.kill()
            rank.wait(10)
    if any(code != 0 for code in failed):
        ends = "\n".join(f"--- rank {i}\n{(logs / f'{i}.log').read_text()[-3000:]}" for i in range(world))
        raise RuntimeError(f"exit codes {failed}\n{ends}")
