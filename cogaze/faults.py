"""Signals: SIGTERM, SIGUSR1 and SIGUSR2 ask for a stop at the next step boundary, saved and together.

The flag is local; the step all-reduces it with its other numbers, so that all ranks see it in the same step. A second
signal, later than an echo of the first, leaves at once.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

STOPPED = 3  # exit code: stopped by a signal after saving
REPEAT_S = 2.0  # Slurm signals every process of a step and our launcher forwards too: one request may come twice
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Installed around the loop with `with`; `requested` becomes True on the first signal."""

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _received(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._since > REPEAT_S:
            os._exit(128 + number)
        if not self.requested:
            self.requested, self._since = True, now
