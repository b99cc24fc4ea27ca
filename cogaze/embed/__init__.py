"""Features of many images: any source to one parquet or npz file, on any number of ranks, resumable at any moment.

    Source  --  chunks of 512 rows, each for one rank  -->  decoded by threads, one chunk ahead
            --  CoGazeModel, in batches              -->  FILE.partial/chunk-000003.npz
            --  all chunks, on rank 0                -->  FILE, FILE.quarantine.jsonl

Which rows stand in which chunk and in which batch depends on the source alone, so the file does not depend on the
number of ranks, on restarts, or on who embedded what.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__, dist
from ..data.schema import canonical_json
from .chunk import Settings, decoded, encode_chunk, labels_of
from .output import SUFFIXES, EmbedError, chunk_path, finished, merge, quarantine_path, read_about, write_chunk
from .sources import Source, SourceError, open_source

if TYPE_CHECKING:
    from ..model import CoGazeModel

__all__ = ["EmbedError", "Settings", "Source", "SourceError", "embed", "load_model", "open_source", "quarantine_path"]

CHUNK, CHUNK_WITH_PATCHES = 512, 64  # rows; what a kill -9 loses at most, on each rank

_JOB_WORDS = {
    "model": "another model",
    "source": "another source (or its listing has changed)",
    "images": "image files that have changed since",
    "rows": "another number of rows",
    "settings": "other settings",
    "cogaze": "another version of cogaze",
}


def load_model(name: str) -> tuple[CoGazeModel, tuple[str, ...], bool]:
    """A model with its processor, the report sections it was trained on, and whether it was trained with contexts.

    `name`: a run folder (its newest checkpoint), a checkpoint, a folder that `cogaze export` wrote, or a hub id.
    Called by all ranks; rank 0 decides which checkpoint is the newest. Raises CheckpointError, ConfigError or
    EmbedError where nothing can be loaded.
    """
    from ..checkpoint import load_for_evaluation, newest
    from ..config import Config
    from ..model import CoGazeModel, CoGazeProcessor

    path = Path(name)
    folder = path if (path / "trainer.json").is_file() else None
    if folder is None and (path / "checkpoints").is_dir():
        said = (lambda line: print(line, file=sys.stderr)) if dist.rank() == 0 else None
        folder = dist.broadcast_object(newest(path, said) if dist.rank() == 0 else None)
    if folder is not None:
        model, config, tokenizer = load_for_evaluation(folder)
        model.processor = CoGazeProcessor(tokenizer, config.data.image_size, config.text.max_tokens)
        return model, tuple(config.data.report_sections), config.data.use_context
    if path.is_dir() and not (path / "config.json").is_file():
        raise EmbedError(
            f"{path}: neither a run folder with checkpoints/, nor a checkpoint, nor a folder that `cogaze export` wrote"
        )
    try:
        model = CoGazeModel.from_pretrained(name)
    except (OSError, RuntimeError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EmbedError(f"{name}: neither a model folder here nor to be had from the hub ({reason})") from error
    assert model.processor is not None  # raises ModelFolderError where it has none
    data = Config().data
    return model.eval(), tuple(data.report_sections), True


def embed(
    model: CoGazeModel,
    source: Source,
    out: Path,
    settings: Settings,
    *,
    workers: int = 4,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Embed the source into `out`; called by all ranks, which share a file system. Started again, it goes on.

    overwrite: what another job left in the place of `out` is thrown away. progress(done, total): rows, on rank 0.
    stop: asked after every batch; the chunk in work is then given up and None comes back on all ranks. Returns the
    summary (rank 0; {} elsewhere). Raises EmbedError: another job's output is there, another process is at it, an
    input that cannot be read at all, features that are not finite, no row left.
    """
    size = CHUNK_WITH_PATCHES if settings.patches else CHUNK
    chunks = -(-source.size // size)
    work = out.with_name(f"{out.name}.partial")
    with contextlib.ExitStack() as held:
        job, done, failure = {}, None, None
        if dist.rank() == 0:
            try:
                job = _job(model, source, settings)
                done = _begin(job, out, work, chunks, overwrite, held)
            except (EmbedError, OSError) as error:
                failure = error
        listing, done, failed = dist.broadcast_object((source.digest, done, failure and str(failure)))
        if failed:
            raise failure or EmbedError(failed)
        if listing != source.digest:
            raise EmbedError("the source changed while the ranks started; start the same command again")
        if done is None:  # the output is there, and it is this job's
            about = read_about(out) if dist.rank() == 0 else None
            return {**about["summary"], "resumed": chunks, "chunks": chunks} if about else {}
        pending = [number for number in range(chunks) if number not in done][dist.rank() :: dist.world()]

        def rows_of(number: int) -> range:
            return range(number * size, min((number + 1) * size, source.size))

        rows_done = 0

        def count() -> None:
            nonlocal rows_done
            if dist.rank() == 0:  # of all ranks; a look at the folder is not for every batch
                rows_done = sum(len(rows_of(n)) for n in finished(work, chunks))
                progress(rows_done, source.size)

        def tell(extra: int) -> None:
            if dist.rank() == 0:
                progress(min(rows_done + extra, source.size), source.size)

        count()
        loading = decoded(source, model.processor, [rows_of(number) for number in pending], workers)
        with contextlib.closing(loading):
            for number, loaded in zip(pending, loading, strict=True):
                written = encode_chunk(model, source, rows_of(number), loaded, settings, tell, stop)
                if written is None:
                    break
                write_chunk(chunk_path(work, number), *written, rank=dist.rank())
                count()
        if int(dist.all_max(torch.tensor([int(stop())]))):
            return None
        if dist.rank() != 0:
            return {}
        summary = merge(work, chunks, out, job, labels_of(model))
        shutil.rmtree(work, ignore_errors=True)
        return {**summary, "resumed": len(done), "chunks": chunks}


# ------------------------------------------------------------------------------------------------ the job
def _job(model: CoGazeModel, source: Source, settings: Settings) -> dict[str, Any]:
    return {
        "cogaze": __version__,
        "model": model_digest(model),
        "source": source.digest,
        "images": source.stamps(),
        "rows": source.size,
        "settings": vars(settings) | {"kind": source.kind},
    }


def model_digest(model: CoGazeModel) -> str:
    """sha256 (hex) of weights, configuration and tokenizer: equal features for equal input, wherever it was loaded."""
    sha = hashlib.sha256()
    described = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "architectures"):
        described.pop(name, None)
    processor = model.processor
    sha.update(canonical_json([described, processor.image_size, processor.max_tokens]))
    sha.update(processor.tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _begin(
    job: dict[str, Any], out: Path, work: Path, chunks: int, overwrite: bool, held: contextlib.ExitStack
) -> list[int] | None:
    """Numbers of the chunks that are there; None where the output itself is. Makes and locks the work folder."""
    if out.is_dir():
        raise EmbedError(f"{out} is a folder; --out takes a file name that ends in {' or '.join(SUFFIXES)}")
    if out.exists():
        about = read_about(out)
        if about is not None and about.get("job") == job:
            shutil.rmtree(work, ignore_errors=True)
            return None
        if not overwrite:
            what = "is not of cogaze embed" if about is None else f"was made from {_difference(about['job'], job)}"
            raise EmbedError(f"{out} exists and {what}; choose another --out, or --overwrite replaces it")
    if work.exists():
        try:
            before = json.loads((work / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None  # killed before it was written
        before = before if isinstance(before, dict) else None
        if before != job:
            if before is not None and not overwrite:
                raise EmbedError(
                    f"{work} was begun with {_difference(before, job)}; give the same again to go on, or --overwrite "
                    "to start anew"
                )
            shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    held.enter_context(_locked(work / "lock", out))
    for left in work.glob(".chunk-*.partial"):
        left.unlink()
    aside = work / ".job.partial"
    aside.write_text(json.dumps(job), encoding="utf-8")
    os.replace(aside, work / "job.json")
    return finished(work, chunks)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    differing = [
        words for name, words in _JOB_WORDS.items() if not isinstance(before, dict) or before.get(name) != now[name]
    ]
    return " and ".join(differing[:2]) or "something else"


@contextlib.contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    """Held while this process lives, where the file system can."""
    import fcntl

    with path.open("w") as file:
        for attempt in range(50):  # one that was just killed may take a moment to go
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 49:
                    raise EmbedError(f"another `cogaze embed` is writing {out}; wait for it, or stop it") from None
                time.sleep(0.1)
            except OSError:  # no locks here
                break
        yield
