"""`cogaze evaluate zero-shot | retrieval | labels | gaze | all CHECKPOINT`: numbers of a trained model on one split.

`cogaze evaluate reports` needs no checkpoint and stands in cogaze/cli/reports.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from cogaze.cli.errors import UsageError
from cogaze.cli.options import here
from cogaze.cli.reports import reports

app = typer.Typer(
    help="Evaluate a checkpoint on one split, in this process or inside torchrun; or generated reports, from files.",
    no_args_is_help=True,
)
PATIENCE = timedelta(minutes=30)  # how long ranks wait for one another

Checkpoint = Annotated[Path, typer.Argument(help="run folder (its newest checkpoint), checkpoint, or exported folder")]
Data = Annotated[
    list[Path] | None,
    typer.Option("--data", help="shard folder, may be repeated", show_default="data.shards of the run"),
]
Split = Annotated[str, typer.Option(help="split under test")]
NoContext = Annotated[bool, typer.Option("--no-context", help="hide every indication and history")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="images the ranks are given at once, together", show_default="eval.batch of the run"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="folder for the result files",
        parser=here,
        show_default="RUN/eval for the test split, RUN/eval/SPLIT[-no-context][-untrained] for anything else",
    ),
]


@app.command("zero-shot")
def zero_shot(
    checkpoint: Checkpoint,
    data: Data = None,
    split: Split = "test",
    no_context: NoContext = False,
    batch_size: BatchSize = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """AUROC and average precision per observation, from prompts that state or rule out each finding.

    Examples:

      cogaze evaluate zero-shot runs/one --data shards/mimic --split test

      cogaze evaluate zero-shot runs/one/checkpoints/step-00002000 --no-context --json
    """
    _evaluate(("zero_shot",), checkpoint, data, split, no_context, batch_size, as_json, out)


@app.command()
def retrieval(
    checkpoint: Checkpoint,
    data: Data = None,
    split: Split = "test",
    no_context: NoContext = False,
    batch_size: BatchSize = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Precision@K and Hit@K over the whole pool, image to text and back, by study, text and label, beside chance.

    Examples:

      cogaze evaluate retrieval runs/one --data shards/mimic

      torchrun --nproc_per_node 4 -m cogaze evaluate retrieval runs/one --data shards/mimic
    """
    _evaluate(("retrieval",), checkpoint, data, split, no_context, batch_size, as_json, out)


@app.command()
def labels(
    checkpoint: Checkpoint,
    data: Data = None,
    split: Split = "test",
    no_context: NoContext = False,
    batch_size: BatchSize = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """AUROC, average precision and F1 per observation of both heads; thresholds from the validation split.

    Examples:

      cogaze evaluate labels runs/one --data shards/mimic --json
    """
    _evaluate(("labels",), checkpoint, data, split, no_context, batch_size, as_json, out)


@app.command()
def gaze(
    checkpoint: Checkpoint,
    data: Data = None,
    split: Split = "test",
    no_context: NoContext = False,
    batch_size: BatchSize = None,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """JS, NSS, correlation and AUC-Judd of the map predicted for each spoken sentence, beside baselines and controls.

    Examples:

      cogaze evaluate gaze runs/one --data shards/mimic
    """
    _evaluate(("gaze",), checkpoint, data, split, no_context, batch_size, as_json, out)


@app.command("all")
def everything(
    checkpoint: Checkpoint,
    data: Data = None,
    split: Split = "test",
    no_context: NoContext = False,
    batch_size: BatchSize = None,
    as_json: AsJson = False,
    out: Out = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="the same model with the weights it started from, to compare with")
    ] = False,
) -> None:
    """All four in one pass over the split; `cogaze page RUN` then shows them.

    Examples:

      cogaze evaluate all runs/demo --data runs/demo/shards --split test

      cogaze evaluate all runs/demo --untrained --json
    """
    _evaluate(None, checkpoint, data, split, no_context, batch_size, as_json, out, untrained)


app.command()(reports)


# ------------------------------------------------------------------------------------------------ the work
def _evaluate(
    tasks: tuple[str, ...] | None,
    checkpoint: Path,
    data: list[Path] | None,
    split: str,
    no_context: bool,
    batch_size: int | None,
    as_json: bool,
    out: Path | None,
    untrained: bool = False,
) -> None:
    if not checkpoint.is_dir():
        raise UsageError(f"{checkpoint}: no such folder; give a run folder or one of its checkpoints/step-… folders")
    with _ranks() as device:
        from cogaze import dist
        from cogaze.checkpoint import is_exported, load_for_evaluation, newest, read_state
        from cogaze.data.shards import ShardSet
        from cogaze.evaluate import suite
        from cogaze.faults import explained_command

        exported = is_exported(checkpoint) and not (checkpoint / "trainer.json").is_file()
        folder = checkpoint if exported or (checkpoint / "trainer.json").is_file() else None
        if folder is None:  # rank 0 decides which is the newest, so that all ranks evaluate the same
            folder = dist.broadcast_object(newest(checkpoint) if dist.rank() == 0 else None)
        if folder is None:
            raise UsageError(f"{checkpoint}: neither a checkpoint, nor a run folder with checkpoints/, nor exported")
        model, config, tokenizer = load_for_evaluation(folder, untrained=untrained)
        if data:
            config.data.shards = [str(path) for path in data]
        if batch_size:
            config.eval.batch = batch_size
        shards = ShardSet.open(config.data.shards, config.data)
        if split not in shards.splits:
            raise UsageError(f"--split {split}: the shards have {', '.join(shards.splits)}")
        with explained_command(config, PATIENCE.total_seconds() / 60):
            results = suite.evaluate_all(
                model.to(device),
                config,
                shards,
                tokenizer,
                split,
                device,
                tasks=tasks or suite.TASKS,
                variants=("no_context",) if no_context else None,
                step=0 if untrained else None if exported else read_state(folder).step,
            )
        if dist.rank() == 0:
            target = out or _results_folder(folder, split, no_context, untrained)
            written = suite.write_results(target, results) if target else []
            results.pop("gaze_examples", None)
            typer.echo(json.dumps(results, indent=1)) if as_json else _print(results)
            if written and not as_json:
                typer.echo(f"\nwritten to {target}")


def _results_folder(folder: Path, split: str, no_context: bool, untrained: bool) -> Path | None:
    """RUN/eval of a checkpoint inside its run folder, else None: nothing is written beside a lone checkpoint."""
    if folder.resolve().parent.name != "checkpoints":
        return None
    results = folder.resolve().parent.parent / "eval"
    if split == "test" and not no_context and not untrained:
        return results
    return results / (split + ("-no-context" if no_context else "") + ("-untrained" if untrained else ""))


@contextmanager
def _ranks() -> Iterator[Any]:
    """The device of this rank; inside a launcher, with a process group around the work."""
    import torch
    import torch.distributed as td

    from launch.environment import rank_environment

    me = rank_environment()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", me.local_rank) if cuda else torch.device("cpu")
    if me.world_size == 1 or td.is_initialized():
        yield device
        return
    if cuda:
        torch.cuda.set_device(device)
    os.environ.update(me.variables())
    td.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        td.destroy_process_group()


# ------------------------------------------------------------------------------------------------ tables
def _print(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    headline = Table(title="headline", title_justify="left", box=None, show_header=False)
    for name, value in results["headline"].items():
        if value is not None:
            headline.add_row(name, _figure(value))
    console.print(headline)
    shown = {
        "zero-shot AUROC": results.get("zero_shot", {}).get("variants", {}),
        "AUROC of the heads": results.get("labels", {}).get("heads", {}),
    }
    for title, tables in shown.items():
        if not tables:
            continue
        grid = Table(title=title, title_justify="left", box=None)
        grid.add_column("", no_wrap=True)
        for name in tables:
            grid.add_column(name.replace("_", " "), justify="right")
        for row in sorted({name for table in tables.values() for name in table["per_observation"]}):
            cells = [table["per_observation"].get(row, {}).get("auroc") for table in tables.values()]
            grid.add_row(row, *(_figure(cell) for cell in cells))
        console.print("", grid)
        skipped = next(iter(tables.values()))["skipped"]
        if skipped:
            console.print("not evaluated: " + "; ".join(f"{name} ({why})" for name, why in skipped.items()))


def _figure(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
