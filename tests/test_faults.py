"""Signals in a real process: the first asks, the second leaves at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from cogaze.faults import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_the_first_signal_only_asks(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert signal.getsignal(number) is before


def test_the_second_signal_leaves_at_once() -> None:
    program = (
        "import os, signal, time\n"
        "from cogaze.faults import StopRequest\n"
        "with StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here after its echo', flush=True)\n"
        "    time.sleep(2.1)\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    time.sleep(5)\n"
        "    print('too far', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "still here after its echo\n"
    assert done.returncode == 128 + signal.SIGUSR1
