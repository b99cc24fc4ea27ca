"""`cogaze import-weights FILE --out DIR`: the authors' published weights as a folder of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cogaze.cli.errors import UsageError
from cogaze.cli.options import here


def command(
    file: Annotated[Path, typer.Argument(help="the authors' .pt (or .safetensors) file", show_default=False)],
    out: Annotated[Path, typer.Option(help="folder to make", parser=here, show_default=False)],
    vision: Annotated[
        str | None,
        typer.Option(help="RAD-DINO, folder or hub id, for a file without it", show_default="of the configuration"),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="GPT-2's, folder or hub id", show_default="of the configuration")
    ] = None,
    views: Annotated[
        Path | None,
        typer.Option(help="the authors' table of views: JSON, name -> row", show_default="AP PA LATERAL LL unknown"),
    ] = None,
    config: Annotated[Path, typer.Option(help="settings kept beside the weights")] = Path("configs/released.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="print what import.json holds")] = False,
) -> None:
    """Write a folder that CoGazeModel.from_pretrained and `cogaze evaluate` open, from the authors' weights.

    Every tensor is carried over under our name, or listed as unused with the reason; a shape that does not fit is
    named. A GPT-2 decoder in the file (their report model) goes into OUT/decoder.

    Examples:

      cogaze import-weights mimic_pretrain_best_model.pt --out weights/cogaze

      cogaze import-weights model.pt --out weights/cogaze --vision weights/rad-dino --tokenizer weights/distilgpt2
    """
    from cogaze.config import load
    from cogaze.importing import import_weights
    from cogaze.model.released import RELEASED_VIEWS

    table = RELEASED_VIEWS if views is None else _views(views)
    report = import_weights(file, out, load(config), vision=vision, tokenizer=tokenizer, views=table)
    typer.echo(json.dumps(report, indent=1)) if as_json else _print(report, out)


def _views(path: Path) -> dict[str, int]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"--views {path}: not JSON ({error})") from None
    if not isinstance(table, dict) or not all(isinstance(row, int) for row in table.values()):
        raise UsageError(f'--views {path}: expected an object of names and rows, such as {{"AP": 0, "PA": 1}}')
    return table


def _print(report: dict[str, Any], out: Path) -> None:
    typer.echo(f"{report['mapped']} tensors, {report['mapped_parameters']:,} parameters, carried over")
    if report["encoder_tensors"]:
        typer.echo(f"{report['encoder_tensors']} tensors of the frozen image encoder added")
    if report["decoder_tensors"]:
        typer.echo(f"{report['decoder_tensors']} tensors of a GPT-2 decoder: {out / 'decoder'}")
    typer.echo(f"{len(report['unused'])} tensors, {report['unused_parameters']:,} parameters, left out")
    for reason, count in report["unused_by_reason"].items():
        typer.echo(f"  {count:4d}  {reason}")
    typer.echo(f"written to {out}")
