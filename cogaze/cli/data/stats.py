"""`cogaze data stats`: count a shard folder, for a terminal, a program or a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cogaze.cli.options import AsJson, Folder, here
from cogaze.cli.progress import progress_bar


def command(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(help="write a page with plots, e.g. stats.html", parser=here, show_default="tables")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="folder or hub id: text lengths in tokens too", show_default="words alone")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="the limit drawn beside them (text.max_tokens)")] = 300,
    pixels: Annotated[int, typer.Option(min=0, help="images whose grey levels are looked at")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Count a shard folder: splits, views, labels, texts, gaze, images, what is missing, what was set aside.

    The page is one file that opens offline, and holds no text of a report and no identifier.

    Examples:

      cogaze data stats shards/phantom

      cogaze data stats shards/mimic --out stats.html --tokenizer runs/mimic/tokenizer

      cogaze data stats shards/mimic --json
    """
    from rich.console import Console

    from cogaze.data.remote import as_url
    from cogaze.data.shards import ShardSet
    from data_prep.stats import gather, tables
    from data_prep.stats.page import make_room, write_page

    if out is not None:
        make_room(out)
    count_tokens = _counter(tokenizer) if tokenizer else None
    with progress_bar("counting", "images", quiet=as_json) as progress:
        found = gather(ShardSet.open([folder]), progress, count_tokens, pixels)
    if out is not None:
        write_page(found, out, max_tokens if tokenizer else None)
        typer.echo(f"{out}: {found.totals.as_dict()['images']:,} images of {as_url(folder) or folder}", err=as_json)
    if as_json:
        typer.echo(json.dumps(found.as_report(), ensure_ascii=False))
    elif out is None:
        console = Console()
        for table in tables(found.as_report()):
            console.print(table)


def _counter(name: str) -> Callable[[str, Mapping[str, Any]], int]:
    """Tokens of a sample's report or context, or of a spoken sentence, with the markers of its prompt, not cut."""
    from cogaze.data.text import context_ids, context_texts, load_tokenizer, report_ids, report_text, transcript_ids

    words = load_tokenizer(name)
    no_limit = 1 << 30

    def count(role: str, meta: Mapping[str, Any]) -> int:
        if role == "transcript":
            return len(transcript_ids(words, meta["text"], no_limit))
        if role == "context":
            context = context_texts(meta)
            return len(context_ids(words, *context, no_limit)) if context else 0
        text = report_text(meta, ("findings", "impression"))
        return len(report_ids(words, text, no_limit)) if text else 0

    return count
