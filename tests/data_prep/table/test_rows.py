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
    assert reasons(quarantine) == [
        ("200", "contradicting rows for one id"),
        ("", "no row of this key in a joined table"),
        ("", "no row of this key in a joined table"),
    ]
    assert [(row["path"], row.get("count", 1), row["kept"]) for row in quarantine.rows[1:]] == [
        ("reports.csv", 1, True), ("labels.jsonl", 2, True),  # 400; 200 and 400
    ]  # fmt: skip
    assert quarantine.rows[1]["detail"] == "1 of 4 rows of t.csv have no row in reports.csv; its columns are blank"
    with pytest.raises(SourceError, match=r"none\.csv: no such table"):
        read(root, join=[{"table": "none.csv", "key": "acc"}])
    records, _ = read(root, join=[{"table": "none.csv", "key": "acc", "optional": True}],
                      labels={"columns": {"Edema": "Edema"}})  # fmt: skip
    assert [r.labels for r in records] == [{}] * 4
    with pytest.raises(
        SourceError, match=r"reports\.csv: no column 'Accession', which join\.key .* mean 'Accession No'"
    ):
        read(root, join=[{"table": "reports.csv", "key": {"acc": "Accession"}}])


def test_missing_columns_and_tables_are_named_with_the_nearest(tmp_path):
    root = export(tmp_path, "file,study,patient_mrn\na.png,1,1\n")
    with pytest.raises(SourceError, match=r"t\.csv: no column 'mrn', which ids\.patient .* did you mean 'patient_mrn'"):
        read(root)
    with pytest.raises(SourceError, match=r"no column 'zzzzzz', which .* names, and none of the 3 cells"):
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


ROWS = "file,study,mrn,acc\na.png,1,1,42\nb.png,2,2,7\n"


def test_a_join_that_matches_nothing_is_an_error_that_shows_no_key(tmp_path):
    root = export(tmp_path, ROWS)
    (root / "r.csv").write_text("acc,Findings\n0042,Clear.\n0007,Wet.\n")
    join = {"table": "r.csv", "key": "acc"}
    with pytest.raises(SourceError, match=r"of 2 rows none has its key in r\.csv: .* form '99', there '9999'") as error:
        read(root, join=[join], text={"findings": "findings"})
    assert "42" not in str(error.value).replace(str(root), "")
    for optional in ({}, {"optional": True}):  # what may be missing is the file
        with pytest.raises(SourceError, match="none has its key"):
            read(root, join=[{**join, **optional}], text={"findings": "findings"})
    # either side may be an expression
    records, quarantine = read(root, join=[{**join, "key": {"{acc|4}": "acc"}}], text={"findings": "findings"})
    assert ([r.findings for r in records], quarantine.rows) == (["Clear.", "Wet."], [])
    (root / "r.csv").write_text("series,no,Findings\nx,42,Clear.\n")
    join = {"table": "r.csv", "key": {"x-{acc}": "{series}-{no}"}}
    assert [r.findings for r in read(root, join=[join], text={"findings": "findings"})[0]] == ["Clear."]
    (root / "r.csv").write_text("series,no,Findings\n")  # an empty table has no keys to miss
    records, quarantine = read(root, join=[join], text={"findings": "findings", "required": False})
    assert len(records) == 2
    assert quarantine.counts() == {"no row of this key in a joined table": 2}
    (root / "t.csv").write_text("file,study,mrn,acc\n")
    assert read(root, join=[join], text={"findings": "findings"})[0] == []


def test_a_column_of_two_tables_is_refused_unless_the_mapping_says_which(tmp_path):
    root = export(tmp_path, "file,study,mrn,acc,Report\na.png,1,1,42,pending\n")
    (root / "r.csv").write_text("acc,report,Edema\n42,Clear lungs.,1\n")
    (root / "s.csv").write_text("acc,report\n42,Other.\n")
    text, join = {"findings": "REPORT"}, {"table": "r.csv", "key": "acc"}
    with pytest.raises(
        SourceError,
        match=r"r\.csv: the column 'REPORT', which text\.findings .* stands in t\.csv too; list under `columns`",
    ):
        read(root, join=[join], text=text)
    assert read(root, join=[{**join, "columns": ["Report"]}], text=text)[0][0].findings == "Clear lungs."
    labels = {"columns": {"Edema": "Edema"}}
    (record,), _ = read(root, join=[{**join, "columns": ["Edema"]}], text=text, labels=labels)
    assert (record.findings, record.labels) == ("pending", {"Edema": 1})
    both = [{**join, "columns": ["Report"]}, {"table": "s.csv", "key": "acc"}]
    assert read(root, join=both, text=text)[0][0].findings == "Clear lungs."
    assert read(root, join=both[::-1], text=text)[0][0].findings == "Clear lungs."
    gone = {"table": "gone.csv", "key": "acc", "optional": True, "columns": ["Report"]}
    (record,), _ = read(root, join=[gone], text={**text, "required": False})
    assert record.findings is None  # what that table would say is not known; "pending" is another table's word
    (root / "t.csv").write_text("file,study,mrn,acc\na.png,1,1,42\n")
    with pytest.raises(SourceError, match=r"s\.csv: the column 'REPORT', .* stands in r\.csv too"):
        read(root, join=[join, {"table": "s.csv", "key": "acc"}], text=text)
    with pytest.raises(SourceError, match=r"no column 'Rapport', which join\.columns .* did you mean 'report'"):
        read(root, join=[{**join, "columns": ["Rapport"]}], text=text)
    with pytest.raises(
        SourceError, match=r"no column 'akz', which join\.key"
    ):  # in neither, or in the joined one alone
        read(root, join=[{**join, "key": {"akz": "acc"}}], text=text)
    with pytest.raises(SourceError, match=r"no column 'edema', which join\.key"):
        read(root, join=[{**join, "key": {"edema": "acc"}}], text=text)


def test_several_rows_of_one_key(tmp_path):
    """An accession with two addenda and a repeated row, by each way of dealing with it."""
    root = export(tmp_path, ROWS)
    (root / "r.csv").write_text(
        "acc,Findings,Edema\n42,First.,0\n7,Once.,1\n42,Second.,0\n42,nan,0\n7,Once.,1\n42,First.,0\n"
    )
    found, asides = {}, {}
    for several in ("refuse", "first", "last", "join"):
        records, quarantine = read(
            root, join=[{"table": "r.csv", "key": "acc", "several": several}], text={"findings": "findings"},
            labels={"columns": {"Edema": "Edema"}},
        )  # fmt: skip
        found[several] = [(r.findings, r.labels["Edema"]) for r in records]
        asides[several] = [(row["reason"], row["detail"].split(";")[0], row.get("kept")) for row in quarantine.rows]
    once = ("Once.", 1)
    assert found == {
        "refuse": [once],
        "first": [("First.", 0), once],
        "last": [("First.", 0), once],
        "join": [("First. Second.", 0), once],
    }
    passed_over = "another row of this key is taken"
    assert asides["first"] == [(passed_over, "line 4", True), (passed_over, "line 5", True)]
    assert asides["last"] == [(passed_over, "line 4", True), (passed_over, "line 5", True)]
    assert asides["join"] == []
    assert asides["refuse"][0] == ("contradicting rows for one id", "lines 2, 4, 5 differ", None)
    (root / "r.csv").write_text("acc,Findings\n42,First.\n42,Second.\n7,Once.\n")
    join = {"table": "r.csv", "key": "acc", "several": "last"}
    assert [r.findings for r in read(root, join=[join], text={"findings": "findings"})[0]] == ["Second.", "Once."]


def test_a_joined_table_may_have_another_encoding(tmp_path):
    root = export(tmp_path, ROWS)
    (root / "r.csv").write_bytes("acc,Findings\n42,Möglicher Erguß.\n7,Frei.\n".encode("cp1252"))
    join = {"table": "r.csv", "key": "acc"}
    records, quarantine = read(root, join=[join], text={"findings": "findings"})
    assert records[0].findings == "M\ufffdglicher Ergu\ufffd."
    assert quarantine.counts() == {"line with bytes of another encoding": 1}
    records, quarantine = read(root, join=[{**join, "encoding": "cp1252"}], text={"findings": "findings"})
    assert (records[0].findings, quarantine.rows) == ("Möglicher Erguß.", [])
