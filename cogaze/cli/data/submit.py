"""`cogaze data submit`: a build as an array job with the merge behind it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cogaze.cli.errors import UsageError
from cogaze.cli.options import here


def command(
    build: Annotated[list[str], typer.Argument(help="after --: the options of `cogaze data build`", metavar="-- ...")],
    parts: Annotated[int, typer.Option(min=1, help="array tasks", show_default=False)],
    cluster: Annotated[
        Literal["slurm", "local"], typer.Option(help="local: all parts at once on this machine")
    ] = "slurm",
    cpus: Annotated[int, typer.Option(min=1, help="cores a task, and its --jobs")] = 16,
    memory: Annotated[int, typer.Option(min=1, help="GB a task")] = 16,
    hours: Annotated[float, typer.Option(min=0.1, help="time limit; a task that reaches it is queued again")] = 4.0,
    slurm: Annotated[
        list[str] | None, typer.Option(help="another option of sbatch, e.g. partition=cpu; may stand several times")
    ] = None,
    logs: Annotated[
        Path | None,
        typer.Option(help="where the jobs' logs go", parser=here, show_default="OUT-jobs, beside the shards"),
    ] = None,
) -> None:
    """Build in parts on a cluster: an array job, and a job that merges the parts when all are done.

    A part that failed is started again by the same command: what is finished is kept.

    Examples:

      cogaze data submit --parts 8 -- --source mimic-cxr --root raw/mimic-cxr-jpg --out shards/mimic

      cogaze data submit --parts 8 --slurm partition=cpu --slurm account=lab -- --source iu-xray --root raw --out shards
    """
    from launch.array import submit_array

    out = _out(build)
    pairs = [item.partition("=") for item in slurm or []]
    wrong = [name for name, sign, _ in pairs if not name or not sign]
    if wrong:
        raise UsageError(f"--slurm {wrong[0]}: write name=value, e.g. partition=cpu")
    cogaze = [sys.executable, "-m", "cogaze", "data"]
    own_jobs = [] if "--jobs" in build else ["--jobs", str(cpus)]
    logs = logs or out.parent / f"{out.name}-jobs"
    array, merge = submit_array(
        [[*cogaze, "build", *build, *own_jobs, "--part", f"{i}/{parts}"] for i in range(1, parts + 1)],
        [*cogaze, "merge", str(out)],
        logs,
        cluster=cluster,
        parameters={
            "name": "cogaze-build",
            "timeout_min": round(hours * 60),
            "cpus_per_task": cpus,
            "mem_gb": memory,
        },
        slurm={name.replace("-", "_"): value for name, _, value in pairs},
    )
    done = "built and merged" if cluster == "local" else f"array job {array} builds {parts} parts, job {merge} merges"
    typer.echo(f"{out}: {done}; logs in {logs}")


def _out(build: list[str]) -> Path:
    """The --out of a command line of `cogaze data build`, which is checked here, before anything is queued."""
    from cogaze.cli.data.build import command as build_command

    app = typer.Typer(add_completion=False)
    app.command()(build_command)
    values = typer.main.get_command(app).make_context("cogaze data build", list(build)).params
    for name in ("part", "overwrite", "strict"):
        if values[name]:
            raise UsageError(f"--{name} cannot be given to a build in parts")
    if not values["root"].is_dir():
        raise UsageError(f"--root {values['root']}: no such folder")
    out: Path = values["out"]
    return out
