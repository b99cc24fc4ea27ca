"""data_prep.table.files: one table in four kinds, the same rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.records import Quarantine, SourceError
from data_prep.table.files import Table, cell_text, kind_of

ROWS = [{"id": "59999901", "text": "Clear.\nNo effusion."}, {"id": "7", "text": ""}]


def read(table: Table, *columns: str):
    quarantine = Quarantine()
    return [row for _, row in table.rows(columns, source="t", quarantine=quarantine)], quarantine


def test_the_same_rows_from_every_kind(tmp_path: Path):
    csv = b'\xef\xbb\xbf id,text\r\n59999901,"Clear.\nNo effusion."\r\n7,\r\n'
    (tmp_path / "t.csv").write_bytes(csv)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(csv))
    (tmp_path / "t.tsv").write_bytes(csv.replace(b",", b"\t"))
    (tmp_path / "semicolon.csv").write_bytes(csv.replace(b",", b";"))
    (tmp_path / "utf16.csv").write_bytes(csv.decode("utf-8-sig").encode("utf-16"))
    (tmp_path / "t.jsonl").write_text('{"id": 59999901, "text": "Clear.\\nNo effusion."}\n\n{"id": 7.0}\n')
    table = pa.table({"id": pa.array([59999901.0, 7.0]), "text": [ROWS[0]["text"], None], "extra": [1, 2]})
    pq.write_table(table, tmp_path / "t.parquet")
    for name, options in {
        "t.csv": {}, "t.csv.gz": {}, "t.tsv": {}, "t.jsonl": {}, "t.parquet": {},
        "semicolon.csv": {"separator": ";"}, "utf16.csv": {"encoding": "utf-16"},
    }.items():  # fmt: skip
        table = Table(tmp_path / name, **options)
        assert table.header[:2] == ["id", "text"]
        found, quarantine = read(table, "id", "text")
        assert found == ROWS, name
        assert quarantine.rows == []


def test_windows_text(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes("id,text\n1,Erguß\n".encode("cp1252"))
    assert read(Table(tmp_path / "t.csv", encoding="cp1252"), "text")[0] == [{"text": "Erguß"}]
    assert read(Table(tmp_path / "t.csv"), "text")[0] == [{"text": "Ergu\ufffd"}]


def test_bad_lines_of_json_are_set_aside(tmp_path: Path):
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n[1]\n{"id": \n{"id": 2, "tags": ["a", "b"], "deep": {"x": 1}}\n')
    table = Table(tmp_path / "t.jsonl")
    assert table.header == ["id", "tags", "deep"]
    found, quarantine = read(table, "id", "tags")
    assert found == [{"id": "1", "tags": ""}, {"id": "2", "tags": "a|b"}]
    assert [row["detail"] for row in quarantine.rows] == ["line 2 is a list, not an object", "line 3 is not JSON"]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.parquet"])
def test_empty_and_damaged_tables_are_source_errors(tmp_path: Path, name: str):
    path = tmp_path / name
    for data in (b"", b"PAR1 nonsense PAR1" if name.endswith("parquet") else b"\n"):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=name):
            Table(path)


def test_kinds_and_cells():
    names = {"a.csv": "csv", "a.TSV": "tsv", "a.tab.gz": "tsv", "a.ndjson": "jsonl", "a.pq": "parquet", "a.txt": "csv"}
    assert {name: kind_of(Path(name)) for name in names} == names
    cells = {None: "", float("nan"): "", 3.0: "3", 0.25: "0.25", True: "True", " a\0 ": "a", 10**17: str(10**17)}
    assert [cell_text(value) for value in cells] == list(cells.values())
    assert cell_text({"a": "ß"}) == '{"a": "ß"}'
    assert cell_text(float("inf")) == "inf"


@given(st.binary(max_size=200), st.sampled_from(["t.csv", "t.jsonl", "t.parquet", "t.csv.gz"]))
def test_any_bytes_give_rows_or_a_source_error(tmp_path_factory, data: bytes, name: str):
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(data)
    try:
        table = Table(path)
        found, _ = read(table, *table.header[:1])
    except SourceError:
        return
    assert all(isinstance(value, str) for row in found for value in row.values())
    json.dumps(found)
