"""Any table gives records or reasons: every row of it, whatever stands in its cells, and never an exception."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep.records import Quarantine, SourceError
from data_prep.shards.plan import UNSEEN, as_json, meta_of, valid
from data_prep.tables import UNDECODED
from tests.data_prep.table.export import export, read, reasons

COLUMNS = ("file", "study", "mrn", "set", "proj", "report", "why", "eff", "list", "w", "h", "mod", "acc")
MAPPING: dict[str, Any] = {
    "image": {"path": ["images/{file}", "{file}"]},
    "path_regex": r"(?P<folder>[a-z]+)/",
    "ids": {"image": "{path.folder}-{file.stem}", "study": "{study|8}", "patient": "mrn"},
    "split": {"column": "set", "validate_share": 0.3},
    "filters": [{"column": "{mod|stem}", "drop": ["CT", "nm"]}],
    "view": {"column": "proj", "words": {"p.a.": "PA"}},
    "text": {"report": "report", "indication": ["why", "section"]},
    "size": {"width": "w", "height": "h"},
    "join": [{"table": "more.jsonl", "key": {"acc": "acc"}}],
}
LABELS: list[dict[str, Any]] = [
    {"columns": {"Pleural Effusion": "eff"}},
    {"column": "list", "names": {"effusion": "Pleural Effusion", "clear": None}},
]
# What a column may sensibly hold, so that rows get past the first test they meet.
USUAL = {
    "file": ("a.png", "b.png", "c.png", "d.png", "A.PNG", "images/a.png", "..\\images\\b.png", "/etc/passwd", "."),
    "study": ("1", "59999901.0", "s/7", "007", "é"),
    "mrn": ("1", "42.0", "p 1", "none"),
    "set": ("train", "TEST", "val", "hold-out"),
    "proj": ("PA", "p.a.", "ll", "frontal"),
    "report": ("FINDINGS: Clear.\n\nIMPRESSION: Normal.", "Clear lungs.", "___", "FINDINGS:", "IMPRESSION: a\u2028b"),
    "why": ("Cough.", "___", "."),
    "eff": ("1", "0.0", "-1", "2", "NaN"),
    "list": ("Effusion|clear", "['effusion']", "[effusion", "[{[]: 1}]", "[1, 2]", "[" * 99 + "]" * 99),
    "w": ("50", "50.0", "inf", "-1", "1e400", "wide", "1_0"),
    "h": ("40", "", "1e999", "0x10"),
    "mod": ("CR", "ct", "CT.dcm", "NM"),
    "acc": ("1", "2.0", "x"),
}
ODD = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "nan", "\0", "\ud800", "\ufffe", "\x1b[31m", "a\rb", '"', "x" * 300, "../" * 9, "٣", "{file}"]
    ),
)


def row(odd: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.one_of(st.sampled_from(USUAL[name]), odd) for name in COLUMNS})


def whole(**cells: Any) -> dict[str, Any]:
    """A row that becomes a record but for these cells."""
    return {**{name: USUAL[name][0] for name in COLUMNS}, **cells}


def every_row_ends(root: Path, labels: Mapping[str, Any], table: str, number: int) -> None:
    """`number` rows in the table: as many records and rows set aside, each with its reason; records can be built."""
    records, quarantine = read(root, **MAPPING, table=table, labels=labels)
    aside = [row for row in quarantine.rows if row.get("path") != "more.jsonl" and row["reason"] != UNDECODED]
    assert len(records) + len(aside) == number
    assert all(row["source"] == "clinic" and row["reason"] for row in quarantine.rows)
    assert len({record.image_id for record in records}) == len(records)
    for record in records:
        assert record.path.is_file()
        assert record.path.resolve().is_relative_to(root.resolve())
        as_json(meta_of(record, UNSEEN))
    invalid = Quarantine()
    assert list(valid(records, invalid)) == records, invalid.rows
    "".join(quarantine.lines()).encode("utf-8", "backslashreplace")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = (
        {"acc": 1, "section": "Fall."},
        {"acc": "2", "section": ["a", None]},
        {"acc": [], "section": {"x": "\ud800"}},
    )
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    return export(tmp_path, "")


FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_the_usual_row_is_a_record(root: Path) -> None:
    """Else the tests below would try nothing but the first refusal."""
    for labels in LABELS:
        (root / "t.jsonl").write_text(json.dumps(whole()))
        (record,), quarantine = read(root, **MAPPING, table="t.jsonl", labels=labels)
        assert quarantine.rows == []
        assert (record.image_id, record.study_id, record.patient_id) == ("images-a", "00000001", "1")
        assert (record.findings, record.indication) == ("Clear.", "Cough. Fall.")
        assert (record.labels, record.size) == ({"Pleural Effusion": 1}, (50, 40))


@FUZZ
@given(st.lists(row(ODD), max_size=6), st.sampled_from(LABELS), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
@example([whole(file="x" * 300)], LABELS[0], csv.QUOTE_ALL)
@example([whole(list="[{[]: 1}]")], LABELS[1], csv.QUOTE_ALL)
def test_csv(root: Path, rows: list[dict[str, str]], labels: dict[str, Any], quoting: Any) -> None:
    rows = [whole(file="d.png"), *rows]
    rows = [{**row, "study": row["study"] or "?"} for row in rows]  # a blank line is no row
    with open(root / "t.csv", "w", newline="", encoding="utf-8", errors="surrogatepass") as stream:
        writer = csv.DictWriter(stream, COLUMNS, quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
    every_row_ends(root, labels, "t.csv", len(rows))


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.integers(10**15, 10**30), st.floats(), ODD),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


@FUZZ
@given(st.lists(row(VALUES), max_size=6), st.sampled_from(LABELS))
@example([whole(report="FINDINGS: \ud800 clear")], LABELS[0])
def test_json_lines(root: Path, rows: list[dict[str, Any]], labels: dict[str, Any]) -> None:
    lines = [json.dumps(whole(file="d.png")), *(json.dumps(row) for row in rows)]
    (root / "t.jsonl").write_text("\n".join(lines))
    every_row_ends(root, labels, "t.jsonl", len(lines))


@FUZZ
@given(
    st.lists(
        st.one_of(st.text(max_size=40), st.sampled_from(["a.png,1,1", '"a.png,1', "b.png,2,2,3", ",,", "a,b"])),
        max_size=6,
    )
)
def test_lines_of_anything(tmp_path: Path, lines: Iterable[str]) -> None:
    """Not even a table: records, reasons, or one message for the whole."""
    root = export(tmp_path, "")
    (root / "t.csv").write_text("file,study,mrn\n" + "\n".join(lines), encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(SourceError):
        records, quarantine = read(root)
        assert all(record.path.is_file() for record in records)
        assert all(reason for _, reason in reasons(quarantine))
