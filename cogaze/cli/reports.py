"""`cogaze evaluate reports GENERATED`: generated reports against the radiologists' own."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cogaze.cli.errors import UsageError
from cogaze.cli.options import AsJson, here

SECTIONS = {"findings": ("findings",), "impression": ("impression",), "either": ("findings", "impression")}


def reports(
    generated: Annotated[Path, typer.Argument(help="file of generated reports: .csv, .tsv, .jsonl, .parquet or .json")],
    references: Annotated[
        Path | None, typer.Option(help="file of the references", show_default="a column of GENERATED")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="shard folder whose reports are the references")] = None,
    split: Annotated[str, typer.Option(help="split of --data")] = "test",
    section: Annotated[
        Literal["findings", "impression", "either"],
        typer.Option(help="section of --data's reports; either: the findings, without them the impression"),
    ] = "findings",
    key: Annotated[str, typer.Option("--id", help="column of the ids; of --data: study_id or image_id")] = "study_id",
    column: Annotated[str, typer.Option("--generated", help="column of the generated texts")] = "generated",
    reference: Annotated[str, typer.Option("--reference", help="column of the references")] = "reference",
    labeller: Annotated[
        Literal["rules", "chexbert", "none"], typer.Option(help="who finds the 14 observations in the texts")
    ] = "rules",
    chexbert: Annotated[Path | None, typer.Option(help="the weight file chexbert.pth for --labeller chexbert")] = None,
    chexbert_tokenizer: Annotated[str, typer.Option(help="folder or hub id of its tokenizer")] = "bert-base-uncased",
    structured: Annotated[bool, typer.Option("--structured", help="the texts are written organ by organ")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results", parser=here)] = None,
    per_report: Annotated[
        Path | None, typer.Option(help="CSV file for each report's scores; it holds the ids, no text", parser=here)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """BLEU, METEOR, ROUGE-L, CIDEr and the F1 of the 14 observations of generated reports.

    Examples:

      cogaze evaluate reports generated.csv --data shards/mimic --split test

      cogaze evaluate reports predictions.json --references truth.json --json

      cogaze evaluate reports both.csv --id image_id --generated prediction --reference findings --out scores.json
    """
    from cogaze.evaluate.reports import evaluate
    from cogaze.evaluate.reports.pairs import join, read_texts, shard_texts

    if references is not None and data is not None:
        raise UsageError("--references and --data both give references; name one")
    if chexbert is not None and labeller != "chexbert":
        raise UsageError("--chexbert is for --labeller chexbert")
    texts = read_texts(generated, key, column, "--generated")
    if data is not None:
        truth = shard_texts(_shards(data, split), split, key, SECTIONS[section])
    else:
        truth = read_texts(references or generated, key, reference, "--reference")
    pairs = join(texts, truth)
    results = evaluate(
        pairs, labeller=_labeller(labeller, chexbert, chexbert_tokenizer), labeller_name=labeller, sections=structured
    )
    each = results.pop("per_report")
    if per_report is not None:
        with per_report.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow([key, *each])
            table.writerows(zip(pairs.ids, *each.values(), strict=True))
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    typer.echo(json.dumps(results, indent=1)) if as_json else _print(results)


def _shards(folder: Path, split: str) -> Any:
    from cogaze.data.shards import ShardSet

    shards = ShardSet.open(folder)
    if split not in shards.splits:
        raise UsageError(f"--split {split}: the shards have {', '.join(shards.splits)}")
    return shards


def _labeller(name: str, weights: Path | None, tokenizer: str) -> Any:
    """texts -> labels, or None. Raises UsageError without the weights that CheXbert needs."""
    if name == "none":
        return None
    if name == "rules":
        from data_prep.labels.rules import label_report

        return lambda texts: [label_report(text) for text in texts]
    if weights is None:
        raise UsageError("--labeller chexbert needs its weight file: --chexbert chexbert.pth")
    from cogaze import chexbert

    model, words = chexbert.load(weights), chexbert.load_tokenizer(tokenizer)
    return lambda texts: list(chexbert.label(model, words, texts))


# ------------------------------------------------------------------------------------------------ tables
def _print(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    counts = results["counts"]
    console.print(f"{counts['reports']} reports compared, {counts['empty_generated']} of them generated empty")
    for reason, number in counts["left_out"].items():
        console.print(f"left out: {number} ({reason})")

    def grid(title: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]]) -> None:
        table = Table(title=title, title_justify="left", box=None, show_header=bool(heads))
        table.add_column("", no_wrap=True)
        for head in heads or ("",):
            table.add_column(head, justify="right")
        for name, values in rows:
            table.add_row(name, *(_figure(value) for value in values))
        console.print("", table)

    grid("words", (), [(name, [value]) for name, value in results["words"].items()])
    if found := results.get("findings"):
        means = [(name, found[name]) for name in ("micro_14", "macro_14", "micro_5", "macro_5")]
        heads = ("precision", "recall", "f1")
        grid(
            f"the 14 observations, found by {found['labeller']}",
            heads,
            [(name, [mean and mean[head] for head in heads]) for name, mean in means],
        )
        console.print(f"the five most watched agree exactly in {found['exact_5']:.3f} of the reports")
        heads = ("f1", "generated", "reference")
        grid("", heads, [(name, [row[head] for head in heads]) for name, row in found["per_observation"].items()])
    if organs := results.get("structured"):
        columns = ("generated", "reference", "bleu_4", "rouge_1", "rouge_2", "rouge_l")
        rows = [(name, [row[column] for column in columns]) for name, row in organs["per_organ"].items()]
        if organs["means"]:
            rows.append(("all", [None, None, *organs["means"].values()]))
            console.print(f"\npresence of organs: F1 {organs['presence']['f1']:.3f}")
        grid("organ by organ", columns, rows)
        for side, odd in organs["odd"].items():
            for what, number in odd.items():
                if number:
                    console.print(f"{side} reports with {what}: {number}".replace("with without", "without"))
    for name, why in results["undefined"].items():
        console.print(f"not computed: {name} ({why})", soft_wrap=True)


def _figure(value: float | int | None) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
