"""Writing checkpoints beside training: copied in a moment, written by a thread, renamed into place when whole.

    save   weights and optimizer state are copied to CPU memory; training goes on
    thread     files written aside, synced and hashed -> renamed -> `best` -> `latest` -> old ones removed
    wait   before the next save, an evaluation and the end: at most one write is in flight

Under DDP all ranks hold the same state, so rank 0 writes it alone, the optimizer's by torch.distributed.checkpoint.
Under DeepSpeed training stands still meanwhile: its engine writes live tensors, on every rank.

A disk that is full, read-only or gone costs a checkpoint and a warning, never the run: the last good checkpoint stays
the newest. A process killed at any moment leaves a folder with a leading dot, which the next start removes.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as td
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from . import dist
from .checkpoint import CheckpointError, TrainerState, folder_name, named
from .config import Config, dump
from .keeping import aside_of, make_empty, put_in_order, put_in_place, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from .engine import Engine
    from .meters import MetricsFile
    from .model import CoGazeModel

log = logging.getLogger("cogaze")


def save(engine: Engine, tokenizer: PreTrainedTokenizerFast, state: TrainerState, run: Path, config: Config) -> Path:
    """Write one checkpoint and wait for it; called by all ranks. Returns its folder, raises CheckpointError."""
    saver = Saver(engine, tokenizer, run, config)
    saver.save(state)
    problem = saver.wait()
    if problem is not None:
        raise CheckpointError(problem)
    return run / "checkpoints" / folder_name(state.step)


# ------------------------------------------------------------------------------------------------ what is written
@dataclass
class Snapshot:
    """Everything of a checkpoint that rank 0 writes, in memory that training does not touch."""

    weights: dict[str, Tensor]  # trained ones and buffers, CPU
    optimizer: dict[str, Tensor] | None  # CPU; None where the engine writes its own state
    files: dict[str, bytes]  # by path in the folder

    def write(self, folder: Path) -> None:
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        weights = folder / "model.safetensors"
        save_file(self.weights, weights, metadata={"format": "pt"})
        weights.chmod((folder / "trainer.json").stat().st_mode)  # safetensors gives it to its owner alone
        if self.optimizer is not None:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # no_dist says so at every call
            # one process holds it all, so no collective runs beside those of training
            dcp.save(self.optimizer, storage_writer=dcp.FileSystemWriter(folder / "state"), no_dist=True)


def optimizer_tensors(engine: Engine) -> dict[str, Tensor]:
    """The optimizer's tensors as `exp_avg/vision.projector.0.weight`: by name, whatever the order of parameters."""
    names = {parameter: name for name, parameter in engine.model.named_parameters()}
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)  # without accelerate's wrapper
    return {f"{slot}/{names[p]}": value for p, slots in inner.state.items() for slot, value in slots.items()}


class Saver:
    """Saves checkpoints of one run. Every method is called by all ranks at the same step."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerFast,
        run: Path,
        config: Config,
        *,
        state: TrainerState | None = None,
        metrics: MetricsFile | None = None,
    ) -> None:
        """state: where training starts; what a killed process left unfinished in `run` is put in order."""
        self.engine, self.tokenizer, self.run, self.config, self.metrics = engine, tokenizer, run, config, metrics
        self.main = dist.rank() == 0
        self.stalled: float | None = None  # seconds that training stood still since `take_stall` was last asked
        self._thread: threading.Thread | None = None
        self._in_flight: tuple[TrainerState, dict[str, Any] | None] | None = None  # and what was best before it
        self._problem: str | None = None  # of the last write, on this rank
        self._memory: dict[str, Tensor] = {}  # CPU copies, filled anew at every save
        self._constant: dict[str, bytes] = {}  # files that every checkpoint has alike
        if self.main and state is not None:
            put_in_order(run, state)

    def save(self, state: TrainerState, best: dict[str, Any] | None = None) -> None:
        """Begin the checkpoint of `state.step`. `best` (see `better`) becomes `state.best`, unless writing fails."""
        with self._standing_still():
            self._join()
            self._in_flight = (state, state.best)
            state.best = best if best is not None else state.best
            if self.engine.deepspeed:
                self._write_together(state, best is not None)
            elif self.main:
                snapshot = self._snapshot(state, self.engine.model)
                if snapshot is not None:
                    task = (snapshot, folder_name(state.step), best is not None)
                    self._thread = threading.Thread(target=self._write, args=task, name="checkpoint")
                    self._thread.start()

    def wait(self) -> str | None:
        """Until nothing is in flight. Returns why the last checkpoint could not be written, on all ranks; else None."""
        with self._standing_still():
            return self._join()

    def take_stall(self) -> float | None:
        """Seconds that training stood still for saving since the last call; None where nothing was saved."""
        stalled, self.stalled = self.stalled, None
        return stalled

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        began, idle = time.perf_counter(), self._in_flight is None
        yield
        if not (idle and self._in_flight is None):
            self.stalled = (self.stalled or 0.0) + time.perf_counter() - began

    def _join(self) -> str | None:
        if self._in_flight is None:
            return None
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        problem = _agree(self._problem)
        state, best_before = self._in_flight
        if problem is not None:
            state.best = best_before
        self._in_flight = self._problem = None
        return problem

    # -------------------------------------------------------------------------------------------- copying
    def _snapshot(self, state: TrainerState, whole: CoGazeModel) -> Snapshot | None:
        """Rank 0's copy of everything, None (and a warning) where it cannot be had."""
        try:
            if self.metrics is not None:
                state.metrics_offset = self.metrics.offset()
            trained = {name for name, p in self.engine.model.named_parameters() if p.requires_grad}
            buffers = {name for name, _ in self.engine.model.named_buffers()}
            weights = {name: value for name, value in whole.state_dict().items() if name in trained | buffers}
            optimizer = {} if self.engine.deepspeed else optimizer_tensors(self.engine)
            copied = self._copy({f"/{name}": value for name, value in weights.items()} | optimizer)
            return Snapshot(
                weights={name: copied[f"/{name}"] for name in weights},
                optimizer=None if self.engine.deepspeed else {name: copied[name] for name in optimizer},
                files={**self._constant_files(), "trainer.json": json.dumps(asdict(state), indent=1).encode()},
            )
        except Exception as error:
            self._failed(folder_name(state.step), error)
            return None

    def _copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """CPU copies, in memory that is kept from one save to the next."""
        for name, value in tensors.items():
            mine = self._memory.get(name)
            if mine is None or mine.shape != value.shape or mine.dtype != value.dtype:
                mine = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=value.is_cuda)
                self._memory[name] = mine
            mine.copy_(value.detach(), non_blocking=True)
        if any(value.is_cuda for value in tensors.values()):
            torch.cuda.synchronize()
        return {name: self._memory[name] for name in tensors}

    def _constant_files(self) -> dict[str, bytes]:
        if not self._constant:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                self.engine.model.config.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder / "tokenizer")
                found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
            self._constant = {**found, "config.yaml": dump(self.config).encode()}
        return self._constant

    # -------------------------------------------------------------------------------------------- writing
    def _write(self, snapshot: Snapshot, name: str, best: bool, state_is_there: bool = False) -> None:
        """A whole checkpoint, in rank 0's thread; or, after DeepSpeed has written its state, the rest of it."""
        aside = aside_of(self.run, name)
        try:
            if not state_is_there:
                make_empty(aside)
            snapshot.write(aside)
            put_in_place(self.run, name, best, self.config.train)
        except (Exception, CheckpointException) as error:  # the latter is no Exception
            self._failed(name, error)
            shutil.rmtree(aside, ignore_errors=True)

    def _write_together(self, state: TrainerState, best: bool) -> None:
        """Under DeepSpeed: every rank writes its part while all wait, and all learn of a failure on any of them."""
        name = folder_name(state.step)
        aside = aside_of(self.run, name)
        try:
            if self.main:
                make_empty(aside)
        except OSError as error:
            self._failed(name, error)
        if _agree(self._problem) is not None:
            return
        with _noting_errors(self.engine.wrapped) as errors:
            self.engine.save_state(aside / "state")
        whole = self.engine.whole()  # gathered from all ranks under ZeRO-3
        if errors:
            self._failed(name, errors[0])
        if _agree(self._problem) is None:
            snapshot = self._snapshot(state, whole) if self.main else None
            if snapshot is not None:
                self._write(snapshot, name, best, state_is_there=True)
        elif self.main:
            shutil.rmtree(aside, ignore_errors=True)

    def _failed(self, name: str, error: BaseException) -> None:
        good = named(self.run, "latest")
        there = f"the newest one is still {good.name}" if good else "there is none before it"
        if isinstance(error, CheckpointException) and error.failures:
            error = next(iter(error.failures.values()))[0]
        reason = reason_of(error)
        if not isinstance(error, OSError):  # torch's writer does not say why the system refused
            reason += f"; {_free(self.run)} MB free on that disk"
        self._problem = f"checkpoint {self.run / 'checkpoints' / name} could not be written ({reason}); {there}"
        log.warning("%s; training goes on", self._problem)


# ------------------------------------------------------------------------------------------------ errors
def _agree(problem: str | None) -> str | None:
    """The first rank's problem on all ranks, None where no rank has one."""
    if dist.world() == 1:
        return problem
    problems: list[str | None] = [None] * dist.world()
    td.all_gather_object(problems, problem)
    return next((p for p in problems if p is not None), None)


@contextmanager
def _noting_errors(wrapped: Any) -> Iterator[list[Exception]]:
    """Collects what DeepSpeed's files raise: a rank that left its `save_checkpoint` by an exception would leave the
    others in a barrier. Its recovery script is not copied: model.safetensors holds the weights.
    """
    errors: list[Exception] = []
    files = wrapped.checkpoint_engine
    write = files.save

    def noted(*args: Any, **kwargs: Any) -> None:
        try:
            write(*args, **kwargs)
        except Exception as error:
            errors.append(error)

    files.save, wrapped._copy_recovery_script = noted, lambda *_: None
    try:
        yield errors
    finally:
        del files.save, wrapped._copy_recovery_script


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f}"
    except OSError:
        return "unknown"
