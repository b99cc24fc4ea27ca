"""Options that several verbs share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer


def here(text: str | Path) -> Path:
    """The parser of a path on this machine: shards alone are read from URLs, and nothing is written to one."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(text)):
        raise typer.BadParameter(
            f"{text} is a URL. Only finished shards are read from URLs (docs/remote.md); give a path on this machine, "
            "and copy there or from there with a tool of the storage's own, as `aws s3 cp --recursive`"
        )
    return Path(text)


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Jobs = Annotated[int, typer.Option(min=1, help="processes; the result does not depend on it", show_default="all cores")]
Folder = Annotated[Path, typer.Argument(help="shard folder, here or at a URL", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object instead")]
