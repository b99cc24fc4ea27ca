"""`cogaze export RUN`: a trained model as a folder for others, with a model card and, if asked for, ONNX files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cogaze.cli.errors import UsageError
from cogaze.cli.options import here

OPSETS = (18, 23)  # what torch's exporter writes; cogaze.export.onnx checks it too


def command(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="run folder (its newest checkpoint), checkpoint, or imported folder", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="folder to make", parser=here, show_default=False)],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="shard folder, may be repeated", show_default="data.shards of the run"),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="also write ONNX files, each compared with torch")] = False,
    opset: Annotated[
        int | None, typer.Option(min=OPSETS[0], max=OPSETS[1], help="ONNX operator set", show_default="18")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="the averaged weights of a run with train.ema")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace a former export in the folder")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")] = False,
) -> None:
    """Write a folder that CoGazeModel.from_pretrained loads, with all weights, tokenizer, settings and a model card.

    The card has the results of `cogaze evaluate`, so evaluate first. Shards are needed for their counts only.

    Examples:

      cogaze export runs/demo --out exported

      cogaze export runs/mimic/checkpoints/step-00002000 --out exported --onnx --force
    """
    if not checkpoint.is_dir():
        raise UsageError(f"{checkpoint}: no such folder; give a run folder or one of its checkpoints/step-… folders")
    if opset is not None and not onnx:
        raise UsageError("--opset is for --onnx")
    if not force and out.is_dir() and any(out.iterdir()):
        raise UsageError(f"--out {out}: not empty; --force replaces a former export in it")
    from transformers.utils import logging

    from cogaze.export.folder import export

    logging.disable_progress_bar()
    done = export(checkpoint, out, shards=data, onnx=onnx, opset=opset or OPSETS[0], force=force, averaged=ema)
    for note in done["notes"]:
        typer.echo(note, err=True)
    if done["credentialed"]:
        typer.echo(
            "trained on credentialed data, or on data nobody knows: share it through PhysioNet under the data's own "
            "agreement, not on a public hub",
            err=True,
        )
    typer.echo(json.dumps(done, indent=1)) if as_json else _print(done)


def _print(done: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    files = Table(
        title=f"step {done['step']:,}, {done['parameters']:,} parameters",
        title_justify="left",
        box=None,
        show_header=False,
    )
    for name, size in done["files"].items():
        files.add_row(name, f"{size:,} bytes")
    console.print(files)
    if done["onnx"]:
        table = Table(title="ONNX against torch", title_justify="left", box=None)
        for heading in ("", "sizes tried", "largest absolute", "largest relative"):
            table.add_column(heading, justify="right" if heading else "left")
        for name, file in done["onnx"]["files"].items():
            most = file["largest"]
            table.add_row(name, str(len(file["checks"])), f"{most['absolute']:.1e}", f"{most['relative']:.1e}")
        console.print("", table)
    console.print(f"\nwritten to {done['folder']}", soft_wrap=True, highlight=False)
