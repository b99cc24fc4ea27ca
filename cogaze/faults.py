"""What may end a run early: signals, ranks that no longer answer, a lack of memory, numbers that are not finite.

SIGTERM, SIGUSR1 and SIGUSR2 ask for a stop at the next step boundary, saved and together. The flag is local; the step
all-reduces it with its other numbers, so that all ranks see it in the same step. A second signal, later than an echo of
the first, leaves at once.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from .batch import Batch
    from .config import Config
    from .data.order import StepSamples
    from .data.shards import ShardSet
    from .step import StepResult

STOPPED = 3  # exit code: stopped by a signal after saving
REPEAT_S = 2.0  # Slurm signals every process of a step and our launcher forwards too: one request may come twice
# what torch raises, as plain RuntimeErrors, where memory or the other ranks are missing
_NO_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)
_NO_ANSWER = re.compile(r"timed out|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)
_GO_ON = " The newest checkpoint is untouched; start again to go on from it."
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


class RunFault(RuntimeError):
    """A run that cannot go on; the message says why, what is saved and what to do."""


# ------------------------------------------------------------------------------------------------ memory, other ranks
@contextmanager
def explained(config: Config, batches: Sequence[Batch]) -> Iterator[None]:
    """Runs a step; raises RunFault, with the numbers that matter, where memory runs out or a rank does not answer."""
    train = config.train
    waited = (
        f"{train.step_timeout_minutes:g} minutes (train.step_timeout_minutes; until the first step is done "
        f"{train.timeout_minutes:g}, train.timeout_minutes)"
    )
    with _explained(lambda: _step_memory(config, batches), waited, _GO_ON):
        yield


@contextmanager
def explained_evaluation(config: Config) -> Iterator[None]:
    """The same around an evaluation of the training loop."""
    train, batch = config.train, config.eval.batch
    remedies = [
        f"eval.batch={batch // 2} (of the figures, eval_loss and its terms change: fewer reports are compared)"
        if batch > _world()
        else "",
        "more ranks, which share eval.batch",
        "train.strategy=zero2 (zero3 evaluates on a whole copy of the weights)" if train.strategy == "zero3" else "",
        "" if config.eval.max_batches else "eval.max_batches, which keeps fewer rows of the split in the host's memory",
    ]
    waited = f"{train.timeout_minutes:g} minutes (train.timeout_minutes)"
    with _explained(lambda: _evaluation_memory(config, remedies) + _GO_ON, waited, _GO_ON):
        yield


@contextmanager
def explained_command(config: Config, minutes: float) -> Iterator[None]:
    """The same around the work of `cogaze evaluate`, whose ranks wait `minutes` for one another."""
    batch = config.eval.batch
    remedies = [
        f"--batch-size {batch // 2} (the figures stay the same)" if batch > _world() else "",
        "more ranks, which share a batch: torchrun --nproc_per_node N -m cogaze evaluate ...",
    ]
    with _explained(lambda: _evaluation_memory(config, remedies), f"{minutes:g} minutes", ""):
        yield


@contextmanager
def _explained(no_memory: Callable[[], str], waited: str, after: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError and DistBackendError are RuntimeErrors
        if type(error).__module__.startswith("cogaze."):  # it has said what to do
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            raise RunFault(f"out of memory: {no_memory()} ({first})") from error
        if _NO_ANSWER.search(str(error)) and _world() > 1:
            raise RunFault(
                f"another rank has died, or has not answered for {waited}: look for its own message.{after} ({first})"
            ) from error
        raise


def _step_memory(config: Config, batches: Sequence[Batch]) -> str:
    train = config.train
    largest = max(batches, key=lambda batch: batch.token_ids.numel())
    texts, tokens = largest.token_ids.shape
    remedies = [
        f"train.micro_batch={train.micro_batch // 2} (the global batch, its negatives and the results stay the same)"
        if train.micro_batch > 1
        else "",
        "" if train.checkpointing else "train.checkpointing=true",
        "" if train.precision == "bf16" else "train.precision=bf16",
        "train.strategy=zero2 or zero3 on several ranks",
        "" if config.text.max_tokens <= 128 else "a smaller text.max_tokens",
    ]
    return (
        f"a micro-batch of {train.micro_batch} images of {config.data.image_size} px with {texts} texts of up to "
        f"{tokens} tokens and {largest.gaze.shape[0]} gaze segments, in {train.precision}"
        f"{' with activation checkpointing' if train.checkpointing else ''}; {_held()}. "
        f"Try {'; or '.join(filter(None, remedies))}. `--dry-run` measures a micro-batch beforehand."
    )


def _evaluation_memory(config: Config, remedies: Sequence[str]) -> str:
    batch, world = config.eval.batch, _world()
    share = f", {-(-batch // world)} a rank," if world > 1 else ""
    return (
        f"an evaluation batch of {batch} images{share} of {config.data.image_size} px with texts of up to "
        f"{config.text.max_tokens} tokens, in {config.train.precision}; {_held()}. "
        f"Try {'; or '.join(filter(None, remedies))}."
    )


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _held() -> str:
    from .meters import peak_memory_bytes

    return f"at most {peak_memory_bytes() / 2**30:.2f} GiB were held{_of_device()}"


def _of_device() -> str:
    import torch

    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    return f" of the GPU's {total / 2**30:.1f} ({free / 2**30:.2f} free now)"


# ------------------------------------------------------------------------------------------------ skipped steps
def skipped(
    result: StepResult, samples: StepSamples, shards: ShardSet, config: Config, world: int
) -> dict[str, str | list[list[str]]]:
    """What metrics.jsonl says of a step that was left out: the reason, and the samples it may be due to.

    They are those of the ranks whose loss was not finite, of all ranks where it was the gradient alone; each as its
    place in the shards and the salted hash of its image id.
    """
    from .data.order import rank_positions
    from .privacy import hashed, place, salt_of

    ranks = result.bad_ranks or tuple(range(world))
    what = f"loss on rank {', '.join(map(str, ranks))}" if result.bad_ranks else "gradient"
    salt, split = salt_of(shards), config.data.train_split
    blamed = []
    for rank in ranks:
        for positions in rank_positions(samples.positions, rank, world, config.train.micro_batch):
            for position in positions.tolist():
                image_id = shards.read_meta(split, position)["image_id"]
                blamed.append([place(shards, split, position), hashed(image_id, salt)])
    return {"skipped": f"non-finite {what}", "skipped_samples": blamed}


def gave_up(in_row: int, step: int) -> RunFault:
    """The error that ends a run whose last `in_row` steps were all left out."""
    return RunFault(
        f"{in_row} steps in a row had a non-finite loss or gradient (train.max_skipped); none of them changed the "
        f"weights, and the state of step {step} is saved. metrics.jsonl names their samples. Lower optim.lr, or look "
        "at those samples with `cogaze data show` and `cogaze data check`; start again to go on"
    )


# ------------------------------------------------------------------------------------------------ leaving
def leave(code: int) -> NoReturn:
    """End this process. A rank that failed leaves at once, after its checkpoint is written: the interpreter's own way
    out may wait for ever for process-group threads whose peers are gone."""
    if code in (0, STOPPED) or os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(code)
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
