"""What a run says about itself: a clock that stands still while nothing is trained, metrics.jsonl, the log line.

Nothing here touches the model or the ranks; `cogaze.train` feeds these helpers and decides who writes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger("cogaze")


class MetricsFileError(ValueError):
    """metrics.jsonl does not fit the checkpoint that is being resumed; the message names the file and the remedy."""


# ------------------------------------------------------------------------------------------------ time
class Clock:
    """Seconds of training alone: the clock stands still inside `with clock.paused()` (evaluation, saving).

    `start` is where it begins: the seconds an earlier part of the same run already took.
    """

    def __init__(self, start: float = 0.0, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._zero = now() - start  # moves forward by the length of every pause
        self._paused_at: float | None = None

    @property
    def seconds(self) -> float:
        """Training time so far, pauses left out."""
        return (self._now() if self._paused_at is None else self._paused_at) - self._zero

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for a block; a pause inside a pause changes nothing."""
        if self._paused_at is not None:
            yield
            return
        self._paused_at = self._now()
        try:
            yield
        finally:
            self._zero += self._now() - self._paused_at
            self._paused_at = None


def rates(
    images: int, tokens: float, work: float, took: float, waited: float, ranks: int, peak: float | None
) -> dict[str, float | None]:
    """The speed of one step: `images`, text `tokens` and model FLOPs `work` of all ranks in `took` seconds.

    `waited` of them went by before the data was there. `peak` is what one rank's device could do, FLOP/s; None, where
    nobody knows, gives an mfu of None.
    """
    return {
        "samples_per_s": images / took,
        "tokens_per_s": tokens / took,
        "data_wait": waited,
        "data_wait_percent": 100 * waited / took,
        "mfu": None if peak is None else work / (took * ranks * peak),
    }


def peak_memory_bytes() -> int:
    """Most memory held so far, in bytes: on the GPU where this process uses one, else resident memory."""
    torch = sys.modules.get("torch")  # a process that never imported torch holds nothing on a GPU
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


# ------------------------------------------------------------------------------------------------ metrics.jsonl
class MetricsFile:
    """metrics.jsonl: one JSON object a line, appended whole, cut back to a checkpoint's byte offset on resume.

    Opening the file drops a torn last line (a process killed while writing). Floats are written with `repr`'s digits,
    so that reading gives the same float64; NaN and infinities, which JSON does not know, are written as null.
    A disk that is full or away is warned about once; the lines wait in memory until it takes them.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._waiting = b""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        whole = _whole_lines(self.path.read_bytes())
        if whole != self.offset():
            os.ftruncate(self._fd, whole)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line; a reader never sees half of it except after a crash."""
        text = json.dumps(_finite(dict(line)), ensure_ascii=False, allow_nan=False)
        full = bool(self._waiting)
        self._waiting += f"{text}\n".encode()
        try:
            self._write()
        except OSError as error:
            if not full:
                log.warning("%s cannot be written (%s); its lines wait in memory", self.path, error.strerror)

    def _write(self) -> None:
        while self._waiting:  # a short write happens on a full disk; the next one raises
            self._waiting = self._waiting[os.write(self._fd, self._waiting) :]

    def offset(self) -> int:
        """Size in bytes, after everything is on the disk: what a checkpoint remembers. Raises OSError."""
        try:
            self._write()
            os.fsync(self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        return os.fstat(self._fd).st_size

    def truncate(self, offset: int) -> None:
        """Cut the file back to `offset`, which a checkpoint of this run recorded.

        Raises MetricsFileError where the file is shorter than that or `offset` is not the end of a line.
        """
        size = os.fstat(self._fd).st_size
        remedy = "it is not the file this checkpoint was saved with; put that file back, or start a new run.dir"
        if offset > size:
            raise MetricsFileError(f"{self.path} has {size} bytes, the checkpoint recorded {offset}: {remedy}")
        if offset and os.pread(self._fd, 1, offset - 1) != b"\n":
            raise MetricsFileError(f"{self.path}: byte {offset} is not the end of a line: {remedy}")
        os.ftruncate(self._fd, offset)

    def close(self) -> None:
        os.close(self._fd)


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """All whole lines of a metrics.jsonl as dicts; a torn last line is left out.

    Raises MetricsFileError naming the line that is not JSON.
    """
    data = Path(path).read_bytes()
    rows = []
    for number, line in enumerate(data[: _whole_lines(data)].splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise MetricsFileError(f"{path}, line {number}: not JSON ({error})") from None
    return rows


def _whole_lines(data: bytes) -> int:
    """Bytes up to and including the last newline."""
    return data.rfind(b"\n") + 1


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


# ------------------------------------------------------------------------------------------------ the log line
# How each known number is shown, in this order; whatever else the line holds follows as `name value`.
_SHOWN: dict[str, Callable[[Any], str]] = {
    "epoch": lambda v: f"epoch {v:.2f}" if isinstance(v, float) else f"epoch {v}",
    "loss": lambda v: f"loss {v:.4f}",
    "loss_contrastive": lambda v: f"contrastive {v:.4f}",
    "loss_disease": lambda v: f"disease {v:.4f}",
    "loss_gaze": lambda v: f"gaze {v:.4f}",
    "grad_norm": lambda v: f"grad {v:.3g}",
    "lr": lambda v: f"lr {v:.2e}",
    "logit_scale": lambda v: f"scale {v:.2f}",
    "positives_per_row": lambda v: f"positives {v:.2f}",
    "multi_positive_share": lambda v: f"{v:.0%} with several",
    "samples_per_s": lambda v: f"{v:.1f} samples/s",
    "tokens_per_s": lambda v: f"{v:.0f} tokens/s",
    "data_wait": lambda v: f"wait {v * 1000:.0f} ms",
    "data_wait_percent": lambda v: f"{v:.1f} % waited",
    "mfu": lambda v: f"MFU {v:.1%}",
    "peak_memory_mib": lambda v: f"peak {v:.0f} MiB",
    "seconds": lambda v: f"{clock_face(v)} trained",
}
_SILENT = frozenset({"step", "total_steps", "event", "samples_seen", "gaze_scale"})


def log_line(values: Mapping[str, Any]) -> str:
    """One readable line of a metrics.jsonl line: `step 120/2000 | epoch 1.50 | loss 3.1234 | …`.

    Besides the keys of metrics.jsonl it knows `total_steps`. `data_wait` and `seconds` are in seconds. An evaluation
    line (`event: eval`) begins with `eval`. A value that is missing is left out, None shows as `-`.
    """
    head = f"step {values.get('step', '?')}" + (f"/{values['total_steps']}" if "total_steps" in values else "")
    parts = [f"{values['event']} {head}" if "event" in values else head]
    for name, show in _SHOWN.items():
        if name in values:
            parts.append(f"{name} -" if values[name] is None else show(values[name]))
    for name, value in values.items():
        if name not in _SHOWN and name not in _SILENT and not isinstance(value, (dict, list)):
            shown = f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
            parts.append(f"{name} {shown}")
    return " | ".join(parts)


def clock_face(seconds: float) -> str:
    """`h:mm:ss` of a duration in seconds, with days in front where it takes days."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86400)
    face = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {face}" if days else face
