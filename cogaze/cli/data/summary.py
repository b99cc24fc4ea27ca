"""What a finished build holds, what was set aside and what changed, in a few lines for the user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cogaze.cli.errors import Failure

if TYPE_CHECKING:
    from data_prep.build import Changed


def say(out: Path, manifest: dict[str, Any], strict: bool, changed: Changed | None = None) -> None:
    """Print the summary of the build at `out`, with the published counts beside those read where there are any.

    Raises Failure if `strict` is wanted and anything was set aside, or files of its shards are `changed`. What is only
    noted, since nothing is missing for it, does not count for that.
    """
    from data_prep.expected import compare, lines

    totals, shards = manifest["totals"], manifest["shards"]
    megabytes = sum(shard["bytes"] for shard in shards) / 1e6
    typer.echo(
        f"{out}: {totals['images']:,} images of {totals['studies']:,} studies and {totals['patients']:,} patients in "
        f"{len(shards):,} shards, {megabytes:,.1f} MB"
    )
    for split, row in totals["by_split"].items():
        gaze = f", {row['gaze_images']:,} with gaze" if row["gaze_images"] else ""
        typer.echo(f"  {split:<9}{row['images']:>9,} images of {row['studies']:,} studies{gaze}")
    aside = manifest["quarantined"]
    if aside:
        typer.echo(f"set aside, with reasons in {out / 'quarantine.jsonl'}: {sum(aside.values()):,}")
        _reasons(aside)
    noted = manifest["noted"]
    if noted:
        typer.echo(f"noted there, with nothing missing for it: {sum(noted.values()):,}")
        _reasons(noted)
    if changed is not None:
        say_changed(changed)
    for source in [] if manifest["phantom"] else manifest["source"]:
        for line in lines(compare(source, manifest["read"])):
            typer.echo(line)
    if strict and aside:
        raise Failure(f"--strict: {sum(aside.values()):,} things were set aside; see {out / 'quarantine.jsonl'}")
    if strict and changed is not None and changed.files:
        raise Failure(f"--strict: {changed.files:,} image files changed since they were built; --overwrite builds anew")


def say_changed(changed: Changed) -> None:
    """Print how many image files are others than those the shards were made of; nothing where none is."""
    if changed.files:
        mended = f", {changed.mended:,} of them set aside then and usable now" if changed.mended else ""
        keys = ", ".join(changed.keys) + (", ..." if changed.files > len(changed.keys) else "")
        typer.echo(
            f"{changed.files:,} image files changed since they were built{mended} ({keys}): the shards keep what they "
            "have; --overwrite builds anew"
        )


def _reasons(counts: Mapping[str, int]) -> None:
    for reason, number in sorted(counts.items(), key=lambda item: -item[1]):
        typer.echo(f"  {number:>9,} {reason}")
