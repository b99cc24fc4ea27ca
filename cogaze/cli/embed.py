"""`cogaze embed MODEL SOURCE --out FILE`: features of a folder of images, a table or shards, on any number of ranks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import STOPPED, Failure, UsageError
from .options import CORES, here
from .progress import progress_bar


def command(
    model: Annotated[
        str,
        typer.Argument(help="run folder (its newest checkpoint), checkpoint, exported folder, or hub id"),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            help="folder of images; table (.csv .tsv .jsonl .parquet, the first three also with .gz); or shard folder",
        ),
    ],
    out: Annotated[Path, typer.Option(help="the file to write, .parquet or .npz", parser=here, show_default=False)],
    split: Annotated[str | None, typer.Option(help="of a shard folder: train, validate or test")] = None,
    root: Annotated[
        Path | None, typer.Option(help="what a table's image paths are relative to", show_default="the table's folder")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="a table's names for image, id, view, indication, history, text, e.g. image=path,view=ViewPosition",
            show_default="these six, where the table has them; image it must have",
        ),
    ] = None,
    patches: Annotated[bool, typer.Option("--patches", help="patch features too, float16 (P x D an image)")] = False,
    no_context: Annotated[bool, typer.Option("--no-context", help="hide every indication and history")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="images the model is given at once")] = 32,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="bf16 autocast: faster on a GPU, features change by about 1e-2")
    ] = False,
    nproc: Annotated[int | None, typer.Option(min=1, help="start this many ranks on this machine")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="threads a rank that decode images", show_default="its share of the cores")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace what another model, source or setting left in FILE")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 if any row had to be set aside")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as one JSON object")] = False,
) -> None:
    """Features of many images, and of their texts, as one file: the row of an image has its id, its normalised
    features, and what the image head makes of the 14 findings (sigmoids, not calibrated).

    Stopped at any moment, the same command goes on; the file does not depend on restarts or ranks. Rows that cannot be
    used are set aside in FILE.quarantine.jsonl with the reason. FILE and its quarantine hold the ids and paths of the
    source, so treat them like the source; logs hold counts alone.

    Columns: id, key (shards), view, has_context, image_features, probability.NAME for each finding (npz: probabilities,
    labels), patch_features, text_features.

    Examples:

      cogaze embed runs/one films/ --out films.parquet

      cogaze embed exported studies.csv --out all.npz --columns image=path,view=ViewPosition

      cogaze embed runs/one shards/mimic --split test --out test.npz --nproc 4

      torchrun --nproc_per_node 8 -m cogaze embed runs/one films --out films.npz --bf16
    """
    from ..embed.output import SUFFIXES

    if out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: the name decides the format and ends in {' or '.join(SUFFIXES)}")
    mapping = _mapping(columns)
    from launch.environment import rank_environment

    launched = rank_environment()
    if nproc is not None and launched.world_size > 1:
        raise UsageError("--nproc starts ranks itself; leave it out inside torchrun, accelerate, deepspeed or srun")
    if nproc is not None and nproc > 1:
        from launch.local import spawn

        named = {"--split": split, "--root": root, "--columns": columns, "--batch-size": batch_size}
        named |= {"--workers": workers or max(1, CORES // nproc)}
        flags = {"--patches": patches, "--no-context": no_context, "--bf16": bf16, "--overwrite": overwrite}
        flags |= {"--strict": strict, "--json": as_json}
        arguments = [part for name, value in named.items() if value is not None for part in (name, str(value))]
        arguments += [name for name, value in flags.items() if value]
        ranks = [sys.executable, "-m", "cogaze", "embed", model, str(source), "--out", str(out), *arguments]
        raise typer.Exit(spawn(nproc, ranks))

    with _ranks() as device:
        from transformers.utils import logging

        from .. import embed as work
        from ..faults import StopRequest

        logging.disable_progress_bar()  # of loading weights: ours is the one to watch
        loaded, sections, trained_with_contexts = work.load_model(model)
        try:
            opened = work.open_source(source, split=split, root=root, columns=mapping, sections=sections)
        except work.SourceError as error:
            raise UsageError(str(error)) from None
        with StopRequest() as request, progress_bar("embedding", "images", quiet=as_json or launched.rank > 0) as bar:
            summary = work.embed(
                loaded.to(device),
                opened,
                out,
                work.Settings(patches, trained_with_contexts and not no_context, batch_size, bf16),
                workers=workers or max(1, CORES // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
                overwrite=overwrite,
                progress=bar,
                stop=lambda: request.requested,
            )
    if summary is None:
        typer.echo(f"stopped by a signal; what is finished lies in {out}.partial, the same command goes on", err=True)
        raise typer.Exit(STOPPED)
    if not summary:  # rank 0 speaks
        return
    if as_json:
        typer.echo(json.dumps({"out": str(out), **summary}))
    else:
        _print(out, summary)
    if strict and summary["set_aside"]:
        raise Failure(f"--strict: {sum(summary['set_aside'].values()):,} rows were set aside")


def _mapping(columns: str | None) -> dict[str, str]:
    """`image=path,view=ViewPosition` as a dict."""
    pairs = [pair.partition("=") for pair in (columns or "").split(",") if pair.strip()]
    odd = [ours for ours, _, theirs in pairs if not ours.strip() or not theirs.strip()]
    if odd:
        raise UsageError(f"--columns {columns}: write image=path,view=ViewPosition, ours first")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def _print(out: Path, summary: dict[str, Any]) -> None:
    from ..embed import quarantine_path

    views = ", ".join(f"{count:,} {view}" for view, count in sorted(summary["views"].items(), key=lambda v: -v[1]))
    typer.echo(f"{out}: {summary['rows']:,} images, features of width {summary['width']}")
    typer.echo(f"  views {views}; {summary['with_context']:,} with context, {summary['with_text']:,} with text")
    if summary["resumed"]:
        typer.echo(f"  {summary['resumed']:,} of {summary['chunks']:,} chunks were there from before")
    aside = summary["set_aside"]
    if aside:
        typer.echo(f"set aside, with reasons in {quarantine_path(out)}: {sum(aside.values()):,}")
        for reason, number in aside.items():
            typer.echo(f"  {number:>9,} {reason}")


@contextmanager
def _ranks() -> Iterator[Any]:
    """The device of this rank; inside a launcher, with a process group (of CPUs: ranks exchange counts alone)."""
    import torch
    import torch.distributed as td

    from launch.environment import rank_environment

    me = rank_environment()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", me.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if me.world_size == 1 or td.is_initialized():
        yield device
        return
    os.environ.update(me.variables())
    td.init_process_group("gloo", timeout=timedelta(hours=2))
    try:
        yield device
    finally:
        td.destroy_process_group()
