"""`cogaze data phantom`: draw a raw data set of phantom radiographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogaze.cli.errors import Failure
from cogaze.cli.options import CORES, Jobs, here
from cogaze.cli.progress import progress_bar


def command(
    out: Annotated[Path, typer.Option(help="folder to write the raw data set to", parser=here, show_default=False)],
    studies: Annotated[int, typer.Option(min=1, help="studies to draw")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="same seed, same bytes")] = 0,
    size: Annotated[int, typer.Option(min=64, help="shortest side of the images, px")] = 512,
    gaze_share: Annotated[float, typer.Option(min=0, max=1, help="share of the images with gaze")] = 0.35,
    context_share: Annotated[float, typer.Option(min=0, max=1, help="share of studies with clinical context")] = 0.75,
    raw_gaze: Annotated[bool, typer.Option("--raw-gaze", help="a few raw eye-tracker recordings too")] = False,
    jobs: Jobs = CORES,
) -> None:
    """Draw phantom chest radiographs with reports, context and gaze, laid out as MIMIC-CXR-JPG, REFLACX and EGD are.

    Examples:

      cogaze data phantom --out raw/phantom --studies 400 --seed 0

      cogaze data phantom --out raw/tiny --studies 40 --size 256 --gaze-share 1
    """
    from data_prep.phantom import write

    with progress_bar("drawing", "studies") as progress:
        try:
            write(
                out,
                studies,
                seed,
                size=size,
                jobs=jobs,
                gaze_share=gaze_share,
                context_share=context_share,
                raw_gaze=raw_gaze,
                progress=progress,
            )
        except FileExistsError as error:
            raise Failure(str(error)) from None
    typer.echo(
        f"{out}: {studies} phantom studies. Next: cogaze data build --source mimic-cxr --root {out} --out SHARDS"
    )
