"""`cogaze data phantom | build | check | stats | show`: from raw data sets to shards, and a look at them.

What data_prep and the shards raise for bad input becomes one message in `cogaze.cli.main`.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cogaze.cli.errors import Failure, UsageError

app = typer.Typer(help="Build shards from raw data sets, check them, count them, look at them.", no_args_is_help=True)

Progress = Callable[[int, int], None]  # (done, total)
Folder = Annotated[Path, typer.Argument(help="shard folder", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object instead")]
MAX_FAULTS = 200  # printed; --json prints all


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
Jobs = Annotated[int, typer.Option(min=1, help="processes; the result does not depend on it", show_default="all cores")]


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="folder to write the raw data set to", show_default=False)],
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

    with _progress("drawing", "studies") as progress:
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


@app.command()
def build(
    source: Annotated[str, typer.Option(help="mimic-cxr or iu-xray", show_default=False)],
    root: Annotated[Path, typer.Option(help="where the raw data set lies", show_default=False)],
    out: Annotated[Path, typer.Option(help="new or empty folder for the shards", show_default=False)],
    reports: Annotated[
        Path | None, typer.Option(help="mimic-cxr: folder of the reports", show_default="found beside the images")
    ] = None,
    reflacx: Annotated[
        Path | None, typer.Option(help="mimic-cxr: folder of REFLACX", show_default="found beside the images")
    ] = None,
    egd: Annotated[
        Path | None, typer.Option(help="mimic-cxr: folder of EGD", show_default="found beside the images")
    ] = None,
    labels: Annotated[
        Literal["chexpert", "negbio"] | None, typer.Option(help="mimic-cxr: whose labels", show_default="chexpert")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="iu-xray: folder of the images", show_default="found below the root")
    ] = None,
    image_size: Annotated[int, typer.Option(help="shortest side of the stored images, px")] = 518,
    image_format: Annotated[Literal["jpg", "png"], typer.Option("--format", help="png is lossless")] = "jpg",
    quality: Annotated[int, typer.Option(help="JPEG quality")] = 95,
    images_per_shard: Annotated[int, typer.Option(help="planned images a tar")] = 2048,
    jobs: Jobs = CORES,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a finished build")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 if anything had to be set aside")] = False,
) -> None:
    """Turn a raw data set into shards; what cannot be used is set aside in quarantine.jsonl with its reason.

    Examples:

      cogaze data build --source mimic-cxr --root raw/mimic-cxr-jpg --out shards/mimic

      cogaze data build --source mimic-cxr --root raw/phantom --out shards/one --jobs 2

      cogaze data build --source iu-xray --root raw/iu --out shards/iu --image-size 256
    """
    from data_prep.build import build as build_shards
    from data_prep.records import Quarantine
    from data_prep.sources import SOURCES

    if source not in SOURCES:
        known = ", ".join(sorted({name.replace("_", "-") for name in SOURCES}))
        raise UsageError(f"unknown --source {source!r}; known: {known}")
    source = source.replace("_", "-")
    given = {"reports": reports, "reflacx": reflacx, "egd": egd, "labels": labels, "images": images}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    foreign = options.keys() - inspect.signature(SOURCES[source]).parameters.keys()
    if foreign:
        raise UsageError(f"--source {source} takes no {', '.join(f'--{name}' for name in sorted(foreign))}")
    _need_folder(root, "--root")
    quarantine = Quarantine()
    parts = _parts(source, root, options)
    records = SOURCES[source](root, quarantine, **options)
    with _progress("building", "images") as progress:
        manifest = build_shards(
            records,
            out,
            quarantine=quarantine,
            image_size=image_size,
            image_format=image_format,
            quality=quality,
            images_per_shard=images_per_shard,
            jobs=jobs,
            overwrite=overwrite,
            phantom=any((folder / "PHANTOM.json").is_file() for folder in (root, root.resolve().parent)),
            parts=parts,
            progress=progress,
        )
    _summary(out, manifest)
    if strict and quarantine.rows:
        raise Failure(f"--strict: {len(quarantine.rows)} things were set aside; see {out / 'quarantine.jsonl'}")


@app.command()
def check(folder: Folder, as_json: AsJson = False, jobs: Jobs = CORES) -> None:
    """Check every tar, index, hash, image, text and fixation of a shard folder; exit code 1 and a list on any fault.

    Examples:

      cogaze data check shards/phantom

      cogaze data check shards/mimic --jobs 16 --json > faults.json
    """
    from data_prep.check import check as check_shards

    with _progress("checking", "shards", quiet=as_json) as progress:
        report = check_shards(folder, jobs, progress)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        for fault in report["faults"][:MAX_FAULTS]:
            where = fault["key"] or fault["shard"]
            typer.echo(f"{where}: {fault['fault']}" if where else fault["fault"])
        if len(report["faults"]) > MAX_FAULTS:
            typer.echo(f"... and {len(report['faults']) - MAX_FAULTS} more; --json lists all")
        counted = f"{report['images']:,} images of {report['studies']:,} studies in {report['shards']:,} shards"
        faults = f"{len(report['faults']):,} fault{'s' if len(report['faults']) > 1 else ''}"
        typer.echo(f"{folder}: {counted}, {'no fault' if report['ok'] else faults}")
    if not report["ok"]:
        raise typer.Exit(1)


@app.command()
def stats(folder: Folder, as_json: AsJson = False) -> None:
    """Count a shard folder by split, view, label, gaze, study size and text length.

    Examples:

      cogaze data stats shards/phantom

      cogaze data stats shards/mimic --json
    """
    from rich.console import Console

    from cogaze.data.shards import ShardSet
    from data_prep.stats import stats as count
    from data_prep.stats import tables

    with _progress("counting", "images", quiet=as_json) as progress:
        report = count(ShardSet.open([folder]), progress)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    console = Console()
    for table in tables(report):
        console.print(table)


@app.command()
def show(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="the sheet to write, .html or .png")] = Path("sheet.html"),
    split: Annotated[str | None, typer.Option(help="train, validate or test", show_default="the first")] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, max=500, help="number of images")] = 12,
    seed: Annotated[int, typer.Option(help="which images")] = 0,
    gaze_only: Annotated[bool, typer.Option("--gaze-only", help="only images with gaze")] = False,
    text: Annotated[
        bool | None,
        typer.Option("--text/--no-text", help="report and transcript text", show_default="phantom data alone"),
    ] = None,
) -> None:
    """Draw a contact sheet: images with what the radiologists looked at while they spoke.

    Examples:

      cogaze data show shards/phantom --out sheet.html --gaze-only

      cogaze data show shards/mimic --out sheet.png --split test --n 24 --no-text
    """
    from cogaze.data.shards import ShardSet
    from data_prep.show import contact_sheet

    shards = ShardSet.open([folder])
    keys = contact_sheet(shards, out, split=split, n=n, gaze_only=gaze_only, show_text=text, seed=seed)
    typer.echo(f"{out}: {len(keys)} images")


# ------------------------------------------------------------------------------------------------ helpers
def _need_folder(path: Path, option: str) -> None:
    if not path.is_dir():
        raise UsageError(f"{option} {path}: {'is not a folder' if path.exists() else 'no such folder'}")
    if next(path.iterdir(), None) is None:
        raise UsageError(f"{option} {path}: the folder is empty")


def _parts(source: str, root: Path, options: dict[str, Any]) -> dict[str, bool]:
    """Which optional parts of the source are there, told to the user and kept in the manifest."""
    if source != "mimic-cxr":
        return {}
    from data_prep.mimic_cxr import discover

    found = discover(root)
    parts = {name: name in found or name in options for name in ("reports", "reflacx", "egd")}
    missing = [name for name, there in parts.items() if not there]
    there = ", ".join(name for name in parts if parts[name]) or "none"
    typer.echo(f"optional parts found: {there}" + (f"; not found: {', '.join(missing)}" if missing else ""), err=True)
    return parts


def _summary(out: Path, manifest: dict[str, Any]) -> None:
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
        for reason, number in sorted(aside.items(), key=lambda item: -item[1]):
            typer.echo(f"  {number:>9,} {reason}")


@contextmanager
def _progress(verb: str, things: str, quiet: bool = False) -> Iterator[Progress]:
    """A bar with an ETA on a terminal, a line at every tenth in a log file; both on stderr."""
    if quiet or not sys.stderr.isatty():
        said = 0

        def line(done: int, total: int) -> None:
            nonlocal said
            if not quiet and total and done * 10 // total > said:
                said = done * 10 // total
                typer.echo(f"{verb}: {done:,} of {total:,} {things}", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn(things))
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(verb, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
