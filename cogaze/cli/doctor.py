"""`cogaze doctor [CONFIG]`: check software, machine, launcher, disks and data, and say what to mend."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .errors import FAILED


def command(
    config: Annotated[
        Path | None, typer.Argument(help="YAML configuration of the run in mind", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings as section.key=value", metavar="[KEY=VALUE]...")
    ] = None,
    shards: Annotated[
        list[Path] | None,
        typer.Option("--shards", help="shard folder, may be repeated", show_default="data.shards of the config"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead")] = False,
) -> None:
    """Say for each thing a run needs whether it is there: ok, warn or fail, with a remedy. Exit code 1 on any fail.

    Inside a job it sees what a rank would see: `srun cogaze doctor configs/default.yaml`.

    Examples:

      cogaze doctor

      cogaze doctor configs/default.yaml run.dir=runs/one --shards shards/mimic
    """
    from launch.environment import rank_environment

    from ..config import load
    from ..doctor import Finding, examine

    resolved = load(config, list(overrides or [])) if config else None
    findings: list[Finding] = []
    for finding in examine(resolved, shards or [], rank_environment):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{finding.state:<5} {finding.check:<20} {finding.found}")
            if finding.state != "ok":
                typer.echo(f"{'':<5} {'':<20} -> {finding.remedy}")
    count = {state: sum(f.state == state for f in findings) for state in ("ok", "warn", "fail")}
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(f) for f in findings], **count}, ensure_ascii=False, indent=2))
    else:
        typer.echo(f"{count['ok']} ok, {count['warn']} warnings, {count['fail']} failures")
    if count["fail"]:
        raise typer.Exit(FAILED)
