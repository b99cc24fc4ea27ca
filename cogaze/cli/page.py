"""`cogaze page RUN`: one self-contained HTML file that shows what a run learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogaze.cli.errors import UsageError


def command(
    run: Annotated[Path, typer.Argument(help="run folder", show_default=False)],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="shard folder, may be repeated", show_default="data.shards of the run"),
    ] = None,
    show_text: Annotated[
        bool | None,
        typer.Option(
            "--show-text/--hide-text", help="report text on the page", show_default="page.show_text of the run"
        ),
    ] = None,
) -> None:
    """Write RUN/page/index.html from metrics.jsonl, RUN/eval and a few images of the shards.

    Examples:

      cogaze page runs/demo

      cogaze page runs/mimic --data /data/shards/mimic --hide-text
    """
    from cogaze.evaluate.page import write_page

    if not (run / "config.yaml").is_file():
        raise UsageError(f"{run}: not a run folder (it has no config.yaml)")
    path, notes = write_page(run, shards=data, show_text=show_text)
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(str(path))
