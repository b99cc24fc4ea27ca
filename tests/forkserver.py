"""A process beside the tests that has imported everything, and forks: no run of theirs imports for ten seconds first.

pytest's own process has threads and may not fork. This one is started once, by the first test that wants a run; the
runs die with it, and it with the tests. What a run does is what a fresh interpreter would do after its imports; that
a fresh one does it as well is for the tests that start one.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COGAZE = "tests.chaos:cogaze"  # the `cogaze` command, whose `--nproc` ranks are forks as well


class Run:
    """What is used of `subprocess.Popen`: pid, poll, wait, signals; and what it has printed."""

    def __init__(self, call: str, *given: Any, env: Mapping[str, str] | None = None, largest_file: int | None = None):
        """Calls the function `call` ("module:name") with `given`, which JSON can carry, in a session of its own.

        env: its whole environment, this process's unless given. largest_file: RLIMIT_FSIZE in bytes.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="cogaze-run-")
        self.returncode: int | None = None
        self.pid: int = _ask(
            do="start", call=call, given=given, env=dict(os.environ if env is None else env), folder=self._folder.name,
            largest_file=largest_file,
        )  # fmt: skip

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(do="poll", pid=self.pid)
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Raises TimeoutError, after killing it."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"it runs after {timeout} s: {self.output[-3000:]}")
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # who has not been asked for is there, if only as a zombie: the pid is its own
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    @property
    def stdout(self) -> str:
        return self._said("out")

    @property
    def stderr(self) -> str:
        return self._said("err")

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def _said(self, name: str) -> str:
        path = Path(self._folder.name, name)
        return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def _ask(**question: Any) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(question) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the process that forks has died"
    return json.loads(answer)


@functools.cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.forkserver"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)  # Ctrl-C is for the tests


# ------------------------------------------------------------------------------------------------ over there
def main() -> None:
    """Answer questions, a JSON line each, until whoever asks is gone."""
    from tests.forking import DEEPSPEED, Forked, preload

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    preload(
        "cogaze.train", "cogaze.moments", "cogaze.embed", "launch.local", "tests.chaos", "tests.equality.worker",
        "tests.stepping", "tests.switched", *DEEPSPEED,
    )  # fmt: skip
    runs: dict[int, Forked] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if question["do"] == "start":
            folder = Path(question["folder"])
            forked = Forked(functools.partial(_work, question), question["env"], folder / "out", folder / "err")
            runs[forked.pid] = forked
            answer = forked.pid
        else:
            answer = runs[question["pid"]].poll()
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def _work(question: dict[str, Any]) -> int:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the questions are not for this one
    if question["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (question["largest_file"],) * 2)
    module, _, name = question["call"].partition(":")
    return int(getattr(importlib.import_module(module), name)(*question["given"]) or 0)


if __name__ == "__main__":
    main()
