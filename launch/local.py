"""Start the ranks of one machine: one process each, torchrun's environment, signals passed on, one exit code back.

torchrun itself would do but for the exit code: it ends with 1 whatever a rank said, and 3 ("stopped by a signal after
saving", which asks for a requeue) would be lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
HARMLESS = (0, 3)  # done; stopped by a signal after saving
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def spawn(
    nproc: int,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    grace_s: float = 15.0,
) -> int:
    """Run `command` once a rank, `nproc` times, and wait; from the main thread only (it handles signals).

    Each rank gets RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT on top of `env`
    (os.environ unless given) and shares this terminal's output. SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 are passed on; a
    second SIGINT kills. When a rank fails, the others, which would wait for it for ever, are killed after `grace_s`
    seconds; on Linux they also die with this process.

    Returns the exit code of the first rank that failed (128 + n if a signal n killed it), else 3 where a rank
    returned 3, else 0. Raises ValueError for nproc below 1, OSError where the command cannot be started.
    """
    if nproc < 1:
        raise ValueError(f"at least one process is needed, not {nproc}")
    shared = dict(os.environ if env is None else env)
    shared |= {
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "COGAZE_LAUNCHER": "cogaze",
    }
    shared.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // nproc)))  # else every rank takes every core
    ranks: list[subprocess.Popen[bytes]] = []
    with _forwarding(ranks):
        try:
            for rank in range(nproc):
                own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                # A session of its own: Ctrl-C in the terminal reaches the rank once, through us.
                process = subprocess.Popen(command, env=own, start_new_session=True, preexec_fn=_die_with_parent())
                ranks.append(process)
            return _wait(ranks, grace_s)
        finally:
            _kill(ranks)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(ranks: Sequence[subprocess.Popen[bytes]], grace_s: float) -> int:
    first_failure: int | None = None
    deadline = float("inf")
    while None in [process.poll() for process in ranks]:  # a list: every rank is asked each time
        if first_failure is None:
            first_failure = _failure(ranks)
            if first_failure is not None:
                deadline = time.monotonic() + grace_s
        if time.monotonic() > deadline:
            _kill(ranks)
        time.sleep(0.05)
    first_failure = _failure(ranks) if first_failure is None else first_failure
    if first_failure is not None:
        return first_failure
    return max(process.returncode for process in ranks)  # 0 or 3


def _failure(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Exit code of a rank that has failed; of several, one that failed by itself before one a signal killed."""
    codes = [process.returncode for process in ranks if process.returncode not in (None, *HARMLESS)]
    if not codes:
        return None
    code = next((code for code in codes if code > 0), codes[0])
    return code if code > 0 else 128 - code


def _kill(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGKILL to every rank still there, with the processes it started: a checkpoint is complete or absent, so safe."""
    for process in ranks:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _forwarding(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    interrupts = 0

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        for process in ranks:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if interrupts > 1 else number)

    before = {number: signal.signal(number, handle) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _die_with_parent() -> Callable[[], None] | None:
    """What a rank runs before exec so that the kernel kills it when this process is gone (Linux; else None)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork nothing may be loaded
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:  # gone between fork and prctl
            os._exit(1)

    return ask


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
