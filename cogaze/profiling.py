"""`cogaze train --profile`: a few steps of rank 0 under torch's profiler, then training goes on without it.

RUN/profile/trace-rank0.json.gz    chrome://tracing or https://ui.perfetto.dev open it
RUN/profile/top.txt                the operations that took longest, and those that held most memory
RUN/profile/memory-rank0.pickle    on a GPU: every allocation of those steps; pytorch.org/memory_viz opens it
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

log = logging.getLogger("cogaze")
WARM_UP = 2  # steps before the first that is recorded: allocators, autotuning, the profiler's own start
TOP = 40  # rows of a table
MAX_EVENTS = 200_000  # of the memory history: some 100 MB


class StepProfiler:
    """Records `steps` optimizer steps after WARM_UP others: `step()` after every step, `close()` in the end.

    A run that ends earlier writes what it has recorded until then, or says that there was nothing.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self._left = WARM_UP + steps
        self._cuda = torch.cuda.is_available()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
        self._profile: profile | None = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=WARM_UP, active=steps, repeat=1),
            on_trace_ready=self._write,
            profile_memory=True,
        )
        self._written = False
        folder.mkdir(parents=True, exist_ok=True)
        self._profile.start()

    def step(self) -> None:
        """Called when an optimizer step, with the evaluation and saving that belong to it, is done."""
        if self._profile is None:
            return
        self._profile.step()
        self._left -= 1
        if self._left == 0:
            self.close()
        elif self._cuda and self._profile.step_num == WARM_UP:
            torch.cuda.memory._record_memory_history(max_entries=MAX_EVENTS)

    def close(self) -> None:
        """Stop recording; a second call does nothing."""
        if self._profile is None:
            return
        self._profile.stop()
        self._profile = None
        if not self._written:
            log.warning("profile: the run ended during the %d steps of warm-up, nothing was recorded", WARM_UP)

    def _write(self, recorded: profile) -> None:
        self._written = True
        if self._cuda:
            snapshot = self.folder / "memory-rank0.pickle"
            try:
                torch.cuda.memory._dump_snapshot(str(snapshot))
            except RuntimeError as error:  # builds without memory history
                log.warning("profile: no memory snapshot (%s)", error)
            torch.cuda.memory._record_memory_history(enabled=None)
        recorded.export_chrome_trace(str(self.folder / "trace-rank0.json.gz"))
        where = "device" if self._cuda else "cpu"
        averages = recorded.key_averages()
        tables = [
            f"{title}\n\n{averages.table(sort_by=key, row_limit=TOP, max_name_column_width=60)}\n"
            for title, key in (
                (f"Operations by their own time on the {where}", f"self_{where}_time_total"),
                (f"Operations by the {where} memory they allocated themselves", f"self_{where}_memory_usage"),
            )
        ]
        (self.folder / "top.txt").write_text("\n".join(tables), encoding="utf-8")
        log.info("profile        %s", self.folder)
