"""`cogaze train CONFIG [key=value ...]`: print, dry-run, or train, in this process or in N ranks of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .errors import UsageError


def command(
    config: Annotated[Path, typer.Argument(help="YAML configuration, e.g. configs/default.yaml", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings as section.key=value", metavar="[KEY=VALUE]...")
    ] = None,
    nproc: Annotated[int | None, typer.Option(min=1, help="start this many ranks on this machine")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="print the resolved YAML and stop")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="build everything and one batch, print the arithmetic, train nothing")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="record a few steps of rank 0 into run.dir/profile, then go on")
    ] = False,
    profile_steps: Annotated[int, typer.Option(min=1, help="how many steps --profile records")] = 3,
    local_rank: Annotated[int | None, typer.Option("--local_rank", "--local-rank", hidden=True)] = None,
) -> None:
    """Pretrain a model; the run folder (run.dir) holds everything it leaves, and starting again resumes it.

    Examples:

      cogaze train configs/demo.yaml run.dir=runs/one data.shards=[shards/phantom] --nproc 2

      torchrun --nproc_per_node 8 -m cogaze.train configs/default.yaml run.dir=runs/one data.shards=[shards/mimic]

      accelerate launch --config_file configs/accelerate/zero2.yaml -m cogaze.train configs/default.yaml ...

      cogaze train configs/paper.yaml --print-config

      cogaze train configs/default.yaml run.dir=runs/one data.shards=[shards/mimic] --profile --profile-steps 5
    """
    from ..config import dump, load

    settings = list(overrides or [])
    from launch.environment import rank_environment

    launched = rank_environment()
    if nproc is not None:
        if launched.world_size > 1:
            raise UsageError("--nproc starts ranks itself; leave it out inside torchrun, accelerate, deepspeed or srun")
        settings.append(f"run.nproc={nproc}")
    resolved = load(config, settings)
    if print_config:
        typer.echo(dump(resolved), nl=False)
        return
    if nproc is not None and nproc > 1:
        from launch.local import spawn

        arguments = [str(config), *settings, *(["--dry-run"] if dry_run else [])]
        arguments += ["--profile", "--profile-steps", str(profile_steps)] if profile else []
        raise typer.Exit(spawn(nproc, [sys.executable, "-m", "cogaze.train", *arguments]))
    if launched.world_size > 1:
        os.environ.update(launched.variables())  # under srun nobody else has said which rank this is
    from ..train import train

    raise typer.Exit(train(resolved, dry_run=dry_run, profile_steps=profile_steps if profile else 0))
