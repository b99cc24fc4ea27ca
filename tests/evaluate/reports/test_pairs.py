"""Generated reports and references from every kind of file, side by side."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from cogaze.data.shards import ShardSet
from cogaze.evaluate import EvaluationError
from cogaze.evaluate.reports.pairs import join, read_texts, shard_texts
from tests.phantoms import phantom_shards

ROWS = {"7": "Clear.", "59999901": "No effusion,\nnone.", "007": "None", "x é": ""}


def read(path: Path) -> dict[str, str]:
    return read_texts(path, "study_id", "report", "--generated")


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.parquet", "map.json", "lists.json", "rows.json"]
)
def test_every_kind_of_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = [{"study_id": study, "report": text or None, "other": 1} for study, text in ROWS.items()]
    table = pd.DataFrame(rows)
    if name.startswith("a.csv"):
        text = "\ufeff" + table.to_csv(index=False)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    elif name == "a.tsv":
        table.to_csv(path, sep="\t", index=False)
    elif name == "a.parquet":
        table.to_parquet(path)
    elif name.startswith("a.jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    else:
        content = {"map": ROWS, "lists": {study: [text] for study, text in ROWS.items()}, "rows": rows}
        path.write_text(json.dumps(content[path.stem]))
    assert read(path) == ROWS


def test_ids_are_the_same_as_numbers_floats_and_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"study_id": 12, "report": "a"}\n{"study_id": 13.0, "report": "b"}\n')
    (tmp_path / "b.csv").write_text("study_id,report\n12.0,a\n 13 ,b\n")
    assert read(tmp_path / "a.jsonl") == read(tmp_path / "b.csv") == {"12": "a", "13": "b"}


def test_the_words_for_nothing_are_words(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("study_id,report\n1,None\n2,NA\n3,\n4,nan\n")
    assert read(tmp_path / "a.csv") == {"1": "None", "2": "NA", "3": "", "4": "nan"}


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"1": "a \\ud800 b"}')
    assert read(tmp_path / "a.json") == {"1": "a ? b"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "study,report\n1,a\n", r"no column 'study_id' \(--id\); did you mean 'study'\?"),
        ("a.csv", "a,report\n1,a\n", r"no column 'study_id' \(--id\), and none of the 2 cells"),
        ("a.csv", "study_id,text\n1,a\n", r"no column 'report' \(--generated\)"),
        ("a.csv", "study_id,report\n1,a\n1,b\n", "row 2 has an id that came before"),
        ("a.csv", "study_id,report\n,b\n", "row 1 has no id"),
        ("a.csv", "", "cannot be read as a table"),
        ("a.csv.gz", "study_id,report\n1,a\n", "cannot be read as a table"),
        ("a.parquet", "PAR1", "cannot be read as a table"),
        ("a.jsonl", '{"study_id": 1\n', "cannot be read as a table"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", "3", "neither an object of texts by id nor a list"),
        ("a.json", '[{"study_id": 1}]', "item 1 is no object with 'study_id' and 'report'"),
        ("a.json", '{"1": ["a", "b"]}', "an id has 2 texts"),
        ("a.json", '{"1": 3}', "a report is a int, not a text"),
        ("a.txt", "a", r"reports are read from \.csv"),
    ],
)
def test_unusable_files_are_named_with_what_to_do(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(EvaluationError, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value)


def test_a_table_without_a_header_shows_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("A1,John Smith 1950-01-01,Large effusion in Mr Smith\n")
    with pytest.raises(EvaluationError, match="does not look like names") as error:
        read(tmp_path / "a.csv")
    assert "Smith" not in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no such file"):
        read(tmp_path / "a.csv")


def test_join_counts_what_it_leaves_out() -> None:
    pairs = join({"1": "a", "2": "", "3": "c", "9": "z"}, {"2": "x", "1": "w", "3": " ", "4": "y"})
    assert (pairs.ids, pairs.generated, pairs.references) == (["2", "1"], ["", "a"], ["x", "w"])
    assert pairs.counts() == {
        "reports": 2,
        "empty_generated": 1,
        "left_out": {
            "the reference is empty": 1, "no generated report of this id": 1, "no reference of this id": 1,
        },
    }  # fmt: skip


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="of 1 generated reports and 2 references no id is in both"):
        join({"s1": "a"}, {"1": "a", "2": "b"})


def test_references_from_shards() -> None:
    shards = ShardSet.open(phantom_shards())
    texts = shard_texts(shards, "test", "study_id", ["findings"])
    studies = {}
    for position in range(shards.size("test")):
        meta = shards.read_meta("test", position)
        studies[meta["study_id"]] = meta["report"]["findings"] or ""
    assert texts == studies
    assert any(texts.values())
    images = shard_texts(shards, "test", "image_id", ["impression", "findings"])
    assert len(images) == shards.size("test")
    meta = shards.read_meta("test", 0)
    assert images[meta["image_id"]] == (meta["report"]["impression"] or meta["report"]["findings"])
    with pytest.raises(EvaluationError, match="not by 'patient'"):
        shard_texts(shards, "test", "patient", ["findings"])
