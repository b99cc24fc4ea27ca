"""The `cogaze` command: one file a verb, put together here, and how each ending becomes an exit code.

Nothing heavy is imported before a command runs: every verb imports what it needs inside its function.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from . import bench, data, demo, doctor, embed, evaluate, export, import_weights, page, train
from .errors import DONE, FAILED, USAGE, CommandError

app = typer.Typer(
    help="""Pretrain chest X-ray vision-language models, guided by clinical context and radiologists' gaze.

    Examples:

      cogaze demo

      cogaze doctor

      cogaze data build --source mimic-cxr --root raw/mimic-cxr-jpg --out shards/mimic

      cogaze train configs/default.yaml run.dir=runs/one data.shards=[shards/mimic] --nproc 4

      cogaze evaluate all runs/one --data shards/mimic

      cogaze page runs/one

      cogaze export runs/one --out exported --onnx

      cogaze embed exported films/ --out films.parquet

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 stopped by a signal after saving, 130 interrupted.
    """,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # `data.shards=[a]` in a help text is no markup
    pretty_exceptions_enable=False,  # it prints local variables: report text must not reach a log
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},  # examples on one line
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cogaze {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    pass


app.command("demo")(demo.command)
app.command("doctor")(doctor.command)
app.add_typer(data.app, name="data")
app.command("train")(train.command)
app.add_typer(evaluate.app, name="evaluate")
app.command("page")(page.command)
app.command("embed")(embed.command)
app.command("export")(export.command)
app.command("import-weights")(import_weights.command)
app.command("bench")(bench.command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (sys.argv's unless given) and return its exit code; never raises for what a user can mend.

    Errors meant for the user (CommandError, and every exception class of this project: ConfigError, ShardError,
    SourceError, ...) and files that cannot be opened end in one message on stderr; anything else is a bug and keeps
    its traceback. COGAZE_TRACEBACK=1 shows the traceback of the former too.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="cogaze")
    except SystemExit as ending:  # how typer ends: done, typer.Exit, wrong usage, Ctrl-C
        return ending.code if isinstance(ending.code, int) else DONE if ending.code is None else FAILED
    except Exception as error:
        message, code = _explain(error)
        if message is None or os.environ.get("COGAZE_TRACEBACK") == "1":
            traceback.print_exc()
            message = message or "this should not happen: a bug in cogaze, or a case it does not know (traceback above)"
        print(f"cogaze{_rank()}: {message}", file=sys.stderr)
        return code
    return DONE


def _explain(error: Exception) -> tuple[str | None, int]:
    """The message for the user, None where only a traceback helps, and the exit code."""
    if isinstance(error, CommandError):
        return str(error), error.code
    if type(error).__module__.partition(".")[0] in ("cogaze", "data_prep", "launch"):
        from launch.environment import LauncherError

        from ..config import ConfigError

        return str(error), USAGE if isinstance(error, (ConfigError, LauncherError)) else FAILED
    if isinstance(error, OSError) and error.filename is not None:  # missing, not permitted, a full disk
        return f"{error.filename}: {error.strerror}", FAILED
    return None, FAILED


def _rank() -> str:
    """Which of several processes is speaking."""
    return f" (rank {os.environ['RANK']})" if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ else ""
