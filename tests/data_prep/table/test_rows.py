"""The rows of a table and of those joined to it."""

from __future__ import annotations

import pytest

from data_prep import table
from data_prep.records import Quarantine, SourceError
from tests.data_prep.table.export import export, read, reasons


def test_joined_tables(tmp_path):
    root = export(tmp_path, "file,study,mrn,acc\na.png,1,1,100.0\nb.png,2,2,200\nc.png,3,3,300\nd.png,4,4,400\n")
    (root / "reports.csv").write_text("Accession No,Findings\n100,Clear.\n200,Wet.\n200,Dry.\n300,Old.\n300,Old.\n")
    (root / "labels.jsonl").write_text('{"acc": 100, "Edema": 1}\n{"acc": 300, "Edema": null}\n')
    join = [{"table": "reports.csv", "key": {"acc": "Accession No"}}, {"table": "labels.jsonl", "key": "acc"}]
    records, quarantine = read(
        root, join=join, text={"findings": "findings", "required": False}, labels={"columns": {"Edema": "Edema"}}
    )
    assert [(r.findings, r.labels) for r in records] == [("Clear.", {"Edema": 1}), (None, {}), ("Old.", {}), (None, {})]
    assert reasons(quarantine) == [("200", "contradicting rows for one id")]
    with pytest.raises(SourceError, match=r"none\.csv: no such table"):
        read(root, join=[{"table": "none.csv", "key": "acc"}])
    records, _ = read(root, join=[{"table": "none.csv", "key": "acc", "optional": True}],
                      labels={"columns": {"Edema": "Edema"}})  # fmt: skip
    assert [r.labels for r in records] == [{}] * 4
    with pytest.raises(
        SourceError, match=r"reports\.csv: no column 'accession', which join\.key .* mean 'Accession No'"
    ):
        read(root, join=[{"table": "reports.csv", "key": {"acc": "Accession"}}])


def test_missing_columns_and_tables_are_named_with_the_nearest(tmp_path):
    root = export(tmp_path, "file,study,patient_mrn\na.png,1,1\n")
    with pytest.raises(SourceError, match=r"t\.csv: no column 'mrn', which ids\.patient .* did you mean 'patient_mrn'"):
        read(root)
    with pytest.raises(SourceError, match="there are file, study, patient_mrn"):
        read(root, ids={"patient": "zzzzzz"})
    with pytest.raises(SourceError, match=r"other\.csv: no such table"):
        read(root, table="other.csv")
    with pytest.raises(SourceError, match="needs --mapping"):
        table.read(root, Quarantine())
    with pytest.raises(SourceError, match="is not a folder"):
        table.read(root / "nowhere", Quarantine(), mapping=root / "m.yaml")


def test_odd_headers_and_cells(tmp_path):
    """BOM, CRLF, leading blanks in headers, Unnamed columns, embedded newlines, case of names."""
    root = export(tmp_path, "")
    (root / "t.csv").write_bytes(
        b'\xef\xbb\xbfUnnamed: 0, FILE,Study , mrn,"find\r\nings"\r\n'
        b'0,a.png,1,1,"Two\r\nlines."\r\n\r\n1,b.png,2,2,x\r\n'
    )
    records, quarantine = read(root, text={"findings": "Find Ings"})
    assert [(r.image_id, r.findings) for r in records] == [("a", "Two lines."), ("b", "x")]
    assert quarantine.rows == []
