"""`cogaze data show`: a contact sheet of a shard folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogaze.cli.options import Folder, here


def command(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="the sheet to write, .html or .png", parser=here)] = Path("sheet.html"),
    split: Annotated[str | None, typer.Option(help="train, validate or test", show_default="the first")] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, max=500, help="number of images")] = 12,
    seed: Annotated[int, typer.Option(help="which images")] = 0,
    gaze_only: Annotated[bool, typer.Option("--gaze-only", help="only images with gaze")] = False,
    text: Annotated[
        bool | None,
        typer.Option("--text/--no-text", help="report and transcript text", show_default="phantom data alone"),
    ] = None,
    blur: Annotated[bool, typer.Option("--blur", help="blur the images, for a sheet to hand around")] = False,
    lead: Annotated[float, typer.Option(min=0, help="seconds before a sentence that count for it (data.lead)")] = 0.0,
) -> None:
    """Draw a contact sheet: images with what the radiologists looked at while they spoke.

    A page (.html) is one file to browse offline: pick a sentence, filter by view or label. A .png is one picture.

    Examples:

      cogaze data show shards/phantom --out sheet.html --gaze-only

      cogaze data show shards/mimic --out sheet.png --split test --n 24 --no-text --blur
    """
    from cogaze.data.shards import ShardSet
    from data_prep.show import contact_sheet

    shards = ShardSet.open([folder])
    keys = contact_sheet(
        shards, out, split=split, n=n, gaze_only=gaze_only, show_text=text, blur=blur, lead=lead, seed=seed
    )
    typer.echo(f"{out}: {len(keys)} images")
