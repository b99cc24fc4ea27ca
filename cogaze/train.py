"""Training, top to bottom: machine, data, model, resume, loop. Run it inside any launcher:

    torchrun --nproc_per_node 8 -m cogaze.train configs/default.yaml run.dir=runs/one data.shards=[shards/mimic]

or let `cogaze train CONFIG --nproc N` start the ranks. Rank 0 writes the run folder:
config.yaml, metrics.jsonl (a line per step), curves.png, checkpoints/, tokenizer/, train.log, mlflow.db.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from . import announce, checkpoint, dist, flops, keeping, losses, meters, optim, saving, step, tracking
from .config import Config, ConfigError, dump
from .data import loader, text
from .data.shards import ShardSet
from .engine import Engine, accumulation, make_accelerator
from .evaluate import suite, watching
from .evaluate.curves import draw_curves
from .faults import STOPPED, RunFault, StopRequest, explained, explained_evaluation, gave_up, leave, skipped
from .model import CoGazeConfig, CoGazeModel
from .observations import OBSERVATIONS
from .profiling import StepProfiler

log = logging.getLogger("cogaze")


def train(config: Config, *, dry_run: bool = False, profile_steps: int = 0) -> int:
    """Train as `config` says and return the exit code: 0 done, 3 stopped by a signal after saving.

    `dry_run` builds everything and says what the run would need; `profile_steps` > 0 records that many steps of rank 0.
    Raises ConfigError, ShardError or CheckpointError with one clear message on all ranks.
    """
    # -------------------------------------------------------------------------------------------- the machine
    run = _run_folder(config)
    torch.set_flush_denormal(True)  # denormals cost a CPU run 40 % of its step rate within minutes
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    torch.set_float32_matmul_precision(config.train.matmul)
    accelerator = make_accelerator(config)
    main = dist.rank() == 0
    micro_batches = accumulation(config, dist.world())
    _log_to(run / "train.log" if main and not dry_run else None)

    # -------------------------------------------------------------------------------------------- data
    shards = ShardSet.open(config.data.shards, config.data)
    order = loader.training_order(config, shards)
    total_steps = config.train.steps or math.ceil((config.train.epochs or 0) * order.steps_per_epoch)
    tokenizer = _tokenizer(config, shards, run, main)
    positives = _positive_counts(shards, config.data.train_split)
    evaluates = watching.evaluates(config, shards)
    disease = config.loss.disease

    # -------------------------------------------------------------------------------------------- model
    torch.manual_seed(config.run.seed)  # the same initial weights on every rank, at any world size
    model_config = CoGazeConfig.from_settings(config, len(tokenizer), tokenizer.pad_token_id)
    model = CoGazeModel.from_encoders(
        model_config,
        vision=config.model.vision.pretrained,
        text=config.model.text.pretrained,
        text_layers=config.model.text.layers,
        new_word_embeddings=config.model.text.word_embeddings == "new",
        base_vocab_size=tokenizer.vocab_size,
    )
    frozen = dist.broadcast_object(checkpoint.frozen_digest(model) if main else "")  # before ZeRO-3 takes it apart
    engine = Engine(accelerator, config, model, optim.make_optimizer(model, config.optim))
    class_weights = losses.class_weights(positives, disease.beta, disease.scale_weights, disease.epsilon).to(
        engine.device
    )
    if main:
        announce.announce(config, engine, shards, order, total_steps, micro_batches)
    if dry_run:
        announce.dry_run(config, engine, shards, tokenizer, class_weights)
        engine.close()
        return 0

    # -------------------------------------------------------------------------------------------- resume
    # 1 rank 0 picks the checkpoint, all follow  2 weights, optimizer  3 step and evaluation history
    # 4 metrics.jsonl cut back to the bytes of that step  5 the same tracking run  6 the loader starts at that step
    state = checkpoint.TrainerState(
        manifest_digest=shards.digest,
        frozen_source=config.model.vision.pretrained,
        frozen_sha256=frozen,
        strategy="ddp" if engine.stage is None else f"zero{engine.stage}",
        world_size=dist.world(),
    )
    found = _choose(config, run, main)
    if found is not None:
        state = checkpoint.resume(engine, found, config, state)
        log.info("resumed %s at step %d of %d", found.name, state.step, total_steps)
    metrics = meters.MetricsFile(run / "metrics.jsonl") if main else None
    if metrics is not None:
        metrics.truncate(state.metrics_offset)
        (run / "config.yaml").write_text(dump(config), encoding="utf-8")
    tracker = tracking.start(config, run_id=state.tracking_run, manifest_digest=shards.digest)

    # -------------------------------------------------------------------------------------------- the loop
    clock = meters.Clock(state.seconds)
    patient, brisk = (timedelta(minutes=m) for m in (config.train.timeout_minutes, config.train.step_timeout_minutes))

    @contextmanager
    def standing_still() -> Iterator[None]:
        """For evaluation and saving: the clock stops, and the ranks wait longer for one another."""
        dist.set_timeout(patient)
        with clock.paused():
            yield
        dist.set_timeout(brisk)

    saver = saving.Saver(engine, tokenizer, run, config, state=state, metrics=metrics)

    def save(best: dict[str, Any] | None) -> None:
        with standing_still():
            state.seconds = clock.seconds
            state.tracking_run = tracker.run_id or state.tracking_run  # known once the store has answered
            saver.save(state, best)

    def evaluate() -> dict[str, Any] | None:
        """Adds an evaluation line; returns what `saver.save` needs to know if it is the best so far, else None."""
        with standing_still():
            saver.wait()  # loader processes are forked now, which a writing thread must not be part of
            with explained_evaluation(config):
                figures = watching.figures(engine, config, shards, tokenizer, class_weights, center)
            row = {"event": "eval", "step": state.step, **figures}
            state.eval_history.append({k: v for k, v in row.items() if isinstance(v, (int, float))})
            if metrics is not None:
                metrics.append(row)
                log.info(meters.log_line(row))
            tracker.log_metrics({k: v for k, v in figures.items() if v is not None}, state.step)
            return dist.broadcast_object(keeping.better(config.train.keep_best, figures, state))

    if not evaluates:
        log.info("no evaluation: the shards have no split %r", config.data.eval_split)
    center, _ = suite.center_bias_map(config, shards, tokenizer, config.data.train_split) if evaluates else (None, 0)
    batches = loader.train_batches(
        config,
        shards,
        tokenizer,
        rank=dist.rank(),
        world=dist.world(),
        start_step=state.step,
        total_steps=total_steps,
    )
    engine.model.train()
    peak = flops.device_peak(engine.device.type, config)
    profiler = StepProfiler(run / "profile", profile_steps) if profile_steps and main else None
    exit_code, first_step = 0, True
    fault: RunFault | None = None
    with StopRequest() as stop, _progress(total_steps, state.step, main) as bar:
        waited_from = time.perf_counter()
        for at, epoch, micro in batches:
            data_wait = time.perf_counter() - waited_from
            began = time.perf_counter()
            history = [e["eval_loss"] for e in state.eval_history]
            lr = optim.learning_rate(at, total_steps, config.optim, history)
            work = float(flops.step_flops(engine.model.config, micro, dist.world())) if peak else 0.0
            with explained(config, micro):
                result = step.train_step(
                    engine,
                    micro,
                    class_weights,
                    lr=lr,
                    step=at,
                    stop_requested=stop.requested,
                    add_up=(sum(map(flops.tokens, micro)), work),
                )
            took = time.perf_counter() - began + data_wait
            tokens, work = result.added_up  # of all ranks
            state.step, state.epoch = at + 1, epoch
            state.samples_seen += config.train.global_batch
            state.skipped_steps += not result.taken
            state.skipped_in_row = 0 if result.taken else state.skipped_in_row + 1
            row: dict[str, Any] = {
                "step": state.step,
                "epoch": epoch,
                "samples_seen": state.samples_seen,
                **result.terms,
                "logit_scale": result.logit_scale,
                "gaze_scale": result.gaze_scale,
                "positives_per_row": result.positives_per_row,
                "multi_positive_share": result.multi_positive_share,
                "grad_norm": result.grad_norm,
                "lr": lr,
                **meters.rates(config.train.global_batch, tokens, work, took, data_wait, dist.world(), peak),
                "peak_memory_mib": meters.peak_memory_bytes() / 2**20,
                "seconds": clock.seconds,
            }
            if (stalled := saver.take_stall()) is not None:
                row["save_stall_s"] = stalled  # how long training stood still for saving since the last line
            if metrics is not None and not result.taken:
                row |= skipped(result, order.step(at), shards, config, dist.world())
            if metrics is not None:
                metrics.append(row)
                if state.step % config.train.log_every == 0 or not result.taken:
                    log.info(meters.log_line(row))
                    tracker.log_metrics({k: v for k, v in row.items() if isinstance(v, float)}, state.step)
            bar(state.step)
            if first_step:
                first_step = False
                dist.set_timeout(brisk)
                log.info("pg timeout     %s from here on", announce.timeouts())
            if state.skipped_in_row >= config.train.max_skipped:
                fault = gave_up(state.skipped_in_row, state.step)
            done = state.step == total_steps
            best = evaluate() if evaluates and (state.step % config.eval.every == 0 or done) else None
            if done or result.stop or fault or best is not None or keeping.is_due(state.step, config.train):
                save(best)
            if fault or (result.stop and not done):
                exit_code = STOPPED
                break
            if profiler is not None:
                with clock.paused():  # writing the trace takes seconds
                    profiler.step()
            waited_from = time.perf_counter()
        dist.set_timeout(patient)
        problem = saver.wait()  # a signal that comes twice must not end the writing
    if profiler is not None:
        with clock.paused():
            profiler.close()
    if metrics is not None:
        with clock.paused():
            try:
                tracker.log_figure(draw_curves(meters.read_metrics(metrics.path), run / "curves.png"))
            except OSError as error:
                log.warning("curves.png cannot be drawn: %s", error)
    tracker.end("FAILED" if problem or fault else "FINISHED" if exit_code == 0 else "KILLED")
    if main:
        log.info("%d of %d steps done in %.0f s of training", state.step, total_steps, clock.seconds)
    engine.close()
    if problem is not None:
        raise checkpoint.CheckpointError(f"training ended at step {state.step} unsaved: {problem}")
    if fault is not None:
        raise fault
    if exit_code == STOPPED:
        log.info("stopped by a signal at step %d; saved, resumable", state.step)
    return exit_code


# ------------------------------------------------------------------------------------------------ the parts
def _run_folder(config: Config) -> Path:
    if config.run.dir is None:
        raise ConfigError("training needs a run folder: run.dir=runs/NAME")
    if not config.data.shards:
        raise ConfigError("training needs shards: data.shards=[FOLDER], written by `cogaze data build`")
    config.run.dir.mkdir(parents=True, exist_ok=True)
    return config.run.dir


def _log_to(path: Path | None) -> None:
    """Rank 0 logs to the terminal and to train.log; the other ranks only warn."""
    log.handlers.clear()
    log.propagate = False
    stream = logging.StreamHandler(sys.stdout)
    stream.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(stream)
    log.setLevel(logging.INFO if dist.rank() == 0 else logging.WARNING)
    if path is not None:
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(file)


def _tokenizer(config: Config, shards: ShardSet, run: Path, main: bool) -> Any:
    """The pretrained tokenizer, or one that rank 0 trains from the train split once and keeps in the run folder."""
    roles, spaces = config.text.role_tokens, config.text.spaces
    if config.text.tokenizer is not None:
        return text.load_tokenizer(config.text.tokenizer, roles, spaces)
    folder = run / "tokenizer"
    if main and not (folder / "tokenizer.json").is_file():
        trained = text.train_tokenizer(text.shard_texts(shards, config.data.train_split), config.text.vocab_size)
        aside = folder.with_name(f".tokenizer.{os.getpid()}")
        trained.save_pretrained(aside)
        os.replace(aside, folder)
    dist.barrier()
    return text.load_tokenizer(str(folder), roles, spaces)


def _positive_counts(shards: ShardSet, split: str) -> torch.Tensor:
    """n_c (14,): images of the split labelled positive or uncertain, from the manifest."""
    counts = shards.label_counts(split)
    none = {"positive": 0, "uncertain": 0}
    rows = [counts.get(name, none) for name in OBSERVATIONS]
    return torch.tensor([float(row["positive"] + row["uncertain"]) for row in rows])


def _choose(config: Config, run: Path, main: bool) -> Path | None:
    """The checkpoint to resume, chosen by rank 0. Raises CheckpointError on all ranks."""
    if config.train.resume == "never":
        return None
    answer: tuple[Path | None, str | None] = (None, None)
    if main:
        try:
            answer = (checkpoint.newest(run, log.warning), None)
        except checkpoint.CheckpointError as error:
            answer = (None, str(error))
    found, problem = dist.broadcast_object(answer)
    if problem is None and found is None and config.train.resume == "must":
        problem = f"{run}: train.resume=must, but there is no checkpoint"
    if problem is not None:
        raise checkpoint.CheckpointError(problem)
    return found


@contextmanager
def _progress(total: int, start: int, main: bool) -> Iterator[Any]:
    """A bar with an ETA on a terminal (rank 0), nothing in a log file."""
    if not (main and sys.stdout.isatty()):
        yield lambda step: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("training", total=total, completed=start)
        yield lambda step: bar.update(task, completed=step)


if __name__ == "__main__":
    from .cli.main import run as run_command

    leave(run_command(["train", *sys.argv[1:]]))
