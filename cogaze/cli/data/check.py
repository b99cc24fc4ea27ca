"""`cogaze data check`: is a shard folder what its manifest says?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Any

import typer

from cogaze.cli.errors import UsageError
from cogaze.cli.options import CORES, AsJson, Folder, Jobs
from cogaze.cli.progress import progress_bar

MAX_FAULTS = 200  # printed; --json prints all
EXAMPLES = 3  # samples named with each kind of warning


def command(
    folder: Folder,
    fast: Annotated[bool, typer.Option("--fast", help="manifest, sizes and indices alone; opens no tar")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="also images that look alike in two splits, and every gaze map")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 on a warning too")] = False,
    as_json: AsJson = False,
    jobs: Jobs = CORES,
) -> None:
    """Check every tar, index, hash, image, label, text and fixation of a shard folder.

    Faults make the folder unfit and the exit code 1; warnings are things to look at (a text that is only ___, fixations
    outside the image, an image in two splits). Both name samples by their key; no identifier and no text is printed.

    Examples:

      cogaze data check shards/phantom

      cogaze data check shards/mimic --fast

      cogaze data check shards/mimic --deep --strict --jobs 16 --json > faults.json
    """
    from cogaze.data.remote import as_url
    from data_prep.check import check as check_shards

    if fast and deep:
        raise UsageError("--fast and --deep: give one of them")
    place = as_url(folder) or folder  # a Path of a URL has lost a slash
    with progress_bar("checking", "shards", quiet=as_json) as progress:
        report = check_shards(folder, jobs, progress, "fast" if fast else "deep" if deep else "standard")
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        for line in _lines(report):
            typer.echo(line)
        counted = f"{report['images']:,} images of {report['studies']:,} studies in {report['shards']:,} shards"
        warnings = len(report["warnings"]) + report["warnings_left_out"]
        typer.echo(f"{place}: {counted}, {_number(len(report['faults']), 'fault')}, {_number(warnings, 'warning')}")
    if not report["ok"] or (strict and report["warnings"]):
        raise typer.Exit(1)


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """Faults one by one, warnings by kind with a few samples each."""
    for fault in report["faults"][:MAX_FAULTS]:
        where = fault["key"] or fault["shard"]
        yield f"fault    {where}: {fault['fault']}" if where else f"fault    {fault['fault']}"
    if len(report["faults"]) > MAX_FAULTS:
        yield f"... and {len(report['faults']) - MAX_FAULTS} more faults; --json lists all"
    by_kind = sorted(report["warnings"], key=lambda row: str(row["warning"]))
    for kind, group in groupby(by_kind, lambda row: row["warning"]):
        rows = list(group)
        yield f"warning  {kind}: {len(rows):,}"
        for row in rows[:EXAMPLES]:
            yield f"           {row['key'] or row['shard']}" + (f": {row['detail']}" if row["detail"] else "")
    if report["warnings_left_out"]:
        yield f"... and {report['warnings_left_out']:,} more warnings of these kinds in the same shards"


def _number(number: int, thing: str) -> str:
    return f"no {thing}" if not number else f"{number:,} {thing}{'s' if number > 1 else ''}"
