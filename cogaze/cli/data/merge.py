"""`cogaze data merge`: the manifest of a build that was made in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogaze.cli.data import summary
from cogaze.cli.options import here


def command(
    out: Annotated[Path, typer.Argument(help="the --out of the parts", parser=here, show_default=False)],
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 if anything had to be set aside")] = False,
) -> None:
    """Check that every shard of the plan is there and write the manifest: the same bytes as one build writes.

    Examples:

      cogaze data merge shards/mimic

      cogaze data merge shards/mimic --strict
    """
    from data_prep.build import finish

    summary.say(out, finish(out), strict)
