"""Generated reports beside their references, joined by study: from tables, JSON maps, or a split of shards.

generated.csv | .tsv | .jsonl | .parquet (.gz)    study_id, generated[, reference]    one row a study
generated.json                                    {study id: text} or {study id: [text]}
references: the same kinds of file, a column of the first, or the reports inside shards
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogaze.columns import no_column
from cogaze.evaluate import EvaluationError

if TYPE_CHECKING:
    from cogaze.data.shards import ShardSet

NO_REFERENCE = "no reference of this id"
NOT_GENERATED = "no generated report of this id"
EMPTY_REFERENCE = "the reference is empty"


@dataclass(frozen=True)
class Pairs:
    """n generated texts and their references, neither list with an absent one; `left_out` counts the others."""

    ids: list[str]
    generated: list[str]
    references: list[str]
    left_out: dict[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, Any]:
        empty = sum(not text.strip() for text in self.generated)
        return {"reports": len(self.ids), "empty_generated": empty, "left_out": dict(self.left_out)}


def join(generated: Mapping[str, str], references: Mapping[str, str]) -> Pairs:
    """Pairs in the order of the references. An empty generated report stays and scores 0; an empty reference goes.

    Raises EvaluationError when no id is in both.
    """
    left_out: Counter[str] = Counter()
    kept = []
    for study, reference in references.items():
        if study not in generated:
            left_out[NOT_GENERATED] += 1
        elif not reference.strip():
            left_out[EMPTY_REFERENCE] += 1
        else:
            kept.append(study)
    left_out[NO_REFERENCE] = sum(study not in references for study in generated)
    if not kept:
        raise EvaluationError(
            f"of {len(generated)} generated reports and {len(references)} references no id is in both with a text: "
            "name the column that holds the same ids in both with --id"
        )
    texts = [generated[study] for study in kept], [references[study] for study in kept]
    return Pairs(kept, *texts, {reason: n for reason, n in left_out.items() if n})


def read_texts(path: Path, key: str, column: str, option: str) -> dict[str, str]:
    """id -> text of a file; `key` and `column` name the columns of a table, `option` is the one that names `column`.

    A missing value is "". Characters that no UTF-8 file can hold are replaced. Raises EvaluationError: no such file,
    not such a file, a column missing, an id twice, several texts of one id.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    texts: dict[str, str] = {}
    for row, (study, text) in enumerate(_rows(path, key, column, option), 1):
        if study in texts:
            raise EvaluationError(
                f"{path}: row {row} has an id that came before; there is one generated report and one reference a study"
            )
        if not study:
            raise EvaluationError(f"{path}: row {row} has no id in the column {key!r}")
        texts[study] = text.encode("utf-8", "replace").decode()
    return texts


def shard_texts(shards: ShardSet, split: str, key: str, sections: Sequence[str]) -> dict[str, str]:
    """id -> the first of `sections` (findings, impression) that the report has, of every study or image of a split.

    key: study_id or image_id. Raises EvaluationError for another.
    """
    if key not in ("study_id", "image_id"):
        raise EvaluationError(f"shards know their reports by study_id and image_id, not by {key!r} (--id)")
    texts: dict[str, str] = {}
    for position in range(shards.size(split)):
        meta = shards.read_meta(split, position)
        report = meta["report"]
        texts.setdefault(meta[key], next((report[name] for name in sections if report.get(name)), ""))
    return texts


def _rows(path: Path, key: str, column: str, option: str) -> Iterable[tuple[str, str]]:
    """(id, text) of every row. Raises EvaluationError."""
    import pandas as pd

    name = path.name.lower().removesuffix(".gz")
    compression: Any = "gzip" if path.name.lower().endswith(".gz") else None
    try:
        if name.endswith(".json"):
            yield from _json_rows(path, key, column, option)
            return
        if name.endswith((".csv", ".tsv")):
            table = pd.read_csv(
                path,
                sep="\t" if name.endswith(".tsv") else ",",
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                encoding_errors="replace",
                compression=compression,
            )
        elif name.endswith(".jsonl"):
            table = pd.read_json(path, lines=True, dtype=False, convert_dates=False, compression=compression)
        elif name.endswith(".parquet"):
            table = pd.read_parquet(path)
        else:
            raise EvaluationError(
                f"{path}: reports are read from .csv, .tsv, .jsonl (or these with .gz), .parquet, .json"
            )
    except (OSError, ValueError, EOFError, ArithmeticError) as error:
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(f"{path} cannot be read as a table ({type(error).__name__})") from None
    table.columns = [str(name).strip() for name in table.columns]
    for wanted, named_by in ((key, "--id"), (column, option)):
        if wanted not in table.columns:
            raise EvaluationError(f"{path}: {no_column(wanted, list(table.columns), f' ({named_by})')}")
    for study, text in zip(table[key], table[column], strict=True):
        yield _plain(study), text if isinstance(text, str) else ""


def _json_rows(path: Path, key: str, column: str, option: str) -> Iterable[tuple[str, str]]:
    """Of a JSON file: an object of texts by id, or a list of objects. Raises EvaluationError."""
    try:
        content = json.loads(path.read_text("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path} is not JSON ({error})") from None
    if isinstance(content, list):
        for row, item in enumerate(content, 1):
            if not isinstance(item, dict) or key not in item or column not in item:
                raise EvaluationError(
                    f"{path}: item {row} is no object with {key!r} and {column!r}; name them with --id and {option}"
                )
            yield _plain(item[key]), _one(path, item[column])
    elif isinstance(content, dict):
        for study, text in content.items():
            yield _plain(study), _one(path, text)
    else:
        raise EvaluationError(f"{path} holds neither an object of texts by id nor a list of objects")


def _one(path: Path, text: Any) -> str:
    """The text, which may stand alone in a list. Raises EvaluationError for several."""
    if isinstance(text, list):
        if len(text) > 1:
            raise EvaluationError(f"{path}: an id has {len(text)} texts; there is one report a study")
        text = text[0] if text else ""
    if text is not None and not isinstance(text, str):
        raise EvaluationError(f"{path}: a report is a {type(text).__name__}, not a text")
    return text or ""


def _plain(value: Any) -> str:
    """An id as text; 59999901.0, as tables write whole numbers in a column with gaps, is 59999901."""
    text = "" if value is None or value != value else str(value).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").isdigit() else text
