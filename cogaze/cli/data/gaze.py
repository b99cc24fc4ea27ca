"""`cogaze data gaze`: one reading from fixations to patch maps, beside other people's recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogaze.cli.options import Folder, here


def command(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="the page to write, .html or .png", parser=here)] = Path("gaze.html"),
    key: Annotated[
        str | None, typer.Option(help="the image, e.g. train-000000-00012", show_default="the first with gaze")
    ] = None,
    reading: Annotated[int, typer.Option(min=0, help="which of the image's readings, from 0")] = 0,
    lead: Annotated[float, typer.Option(min=0, help="data.lead: seconds before a sentence that count for it")] = 0.0,
    image_size: Annotated[int, typer.Option(min=1, help="side of the model's input, px")] = 518,
    patch_size: Annotated[int, typer.Option(min=1, help="side of a patch, px")] = 14,
    rate: Annotated[float, typer.Option(min=1, help="data.gaze_rate: Hz of the eye tracker, for GazeX")] = 1000.0,
    text: Annotated[
        bool | None, typer.Option("--text/--no-text", help="what was said", show_default="phantom data alone")
    ] = None,
) -> None:
    """Draw one reading: when what was said and looked at, and the patch maps that each recipe makes of it.

    Examples:

      cogaze data gaze shards/phantom --out gaze.html

      cogaze data gaze shards/mimic --key train-000000-00012 --lead 2 --out gaze.png
    """
    from cogaze.data.shards import ShardSet
    from cogaze.evaluate.gaze_page import gaze_page

    shown = gaze_page(
        ShardSet.open([folder]),
        out,
        key=key,
        reading=reading,
        image_size=image_size,
        patch_size=patch_size,
        lead=lead,
        rate=rate,
        show_text=text,
    )
    typer.echo(f"{out}: reading {reading} of {shown}")
