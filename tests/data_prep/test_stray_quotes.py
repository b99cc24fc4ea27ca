"""data_prep.stray_quotes: rows run together by a quote, told from reports of several lines."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.records import Quarantine
from data_prep.stray_quotes import holds_rows
from data_prep.tables import MALFORMED, RUN_TOGETHER, STRAY_QUOTES, rows

HEADER = "acc,mrn,file,report\n"
GOOD = "9,9,z.png,Normal\n"


def read(tmp_path: Path, text: str) -> tuple[list[int], list[tuple[str, str]]]:
    """(lines of the rows that are given, (reason, place) of those set aside or told of)."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    quarantine = Quarantine()
    columns = next(csv.reader([text.splitlines()[0]], skipinitialspace=True))
    found = [line for line, _ in rows(path, columns, source="t", quarantine=quarantine)]
    return found, [(row["reason"], row["detail"].split(":")[0].split(";")[0]) for row in quarantine.rows]


@pytest.mark.parametrize(
    ("body", "lines", "aside"),
    [
        # the next quote opens a cell: no CSV
        ('1,1,a.png,"Clear 3"" apart\n2,2,b.png,"Large effusion"\n' + GOOD, [4], [(MALFORMED, "lines 2 to 3")]),
        # the next quote ends a line or a cell: CSV by the letter
        ('1,1,a.png,"Clear 3"" apart\n2,2,b.png,Nodule of 3"\n' + GOOD, [4], [(RUN_TOGETHER, "lines 2 to 3")]),
        (
            '1,1,a.png,"Clear\n2,2,b.png,Old\n3,3,c.png,Nodule of 3"\n' + GOOD,
            [5],
            [(RUN_TOGETHER, "lines 2 to 4")],
        ),
        # within a report of several lines
        ('1,1,a.png,"One.\nTwo, 3"" wide.\n2,2,b.png,Nodule of 3"\n' + GOOD, [5], [(RUN_TOGETHER, "lines 2 to 4")]),
        # up to the end of the table
        (GOOD + '1,1,a.png,"Clear\n2,2,b.png,Old\n', [2], [(MALFORMED, "lines 3 to 4")]),
        # a row of one line cannot have swallowed another
        ('1,1,a.png,"The "heart" is big"\n' + GOOD, [2, 3], [(STRAY_QUOTES, "line 2")]),
        ('1,1,"a.png" ,Clear\n' + GOOD, [2, 3], [(STRAY_QUOTES, "line 2")]),
        ('1,1,"a"b,"c\n' + GOOD, [3], [(MALFORMED, "line 2")]),
        ('1,1,a.png,"x"y ' + "z" * 140_000 + "\n" + GOOD, [3], [(MALFORMED, "line 2")]),
    ],
)
def test_rows_run_together_are_set_aside_with_their_lines(tmp_path, body, lines, aside):
    assert read(tmp_path, HEADER + body) == (lines, aside)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("report,file\n", '"Clear 3"" apart,a.png\nNodule of 3",b.png\n'),  # the id stands behind the report
        ("id,report,file\n", '1,"Clear,a.png\n2,Nodule of 3",b.png\n'),
        ("id,report,n\n", ',"Clear,11\n,Nodule of 3",12\n'),  # a blank id says nothing, the next one does
        ("id, report, n\n", '1, "Clear, 11\n2, Nodule of 3", 12\n'),  # written with blanks
        ("dicom,report\n", '02aa-bd-11,"Clear\n1b-f00d-zz,Nodule of 3"\n'),
    ],
)
def test_wherever_the_report_stands(tmp_path, header, body):
    assert read(tmp_path, header + body) == ([], [(RUN_TOGETHER, "lines 2 to 3")])


@pytest.mark.parametrize(
    "report",
    [
        "FINDINGS: Clear.\n\nIMPRESSION: Normal.",
        "Heart, lungs and pleura:\nheart normal, lungs clear, no effusion, no nodule",  # as wide as the table
        "Nodules:\n1, 2, 3, and more",  # with an id in front, but prose
        "Herd\n3,5 cm, links, alt",  # German decimals
        "a,b,c,d\r\ne f,g,h,i",
        'said ""twice\n"" and, so, on, then',
    ],
)
def test_reports_of_several_lines_stay(tmp_path, report):
    assert read(tmp_path, f'{HEADER}59999901,1,a.png,"{report}"\n{GOOD}')[1] == []


@pytest.mark.parametrize(
    "text",
    [
        'id,a,b,report\n7,x,y,"Nodules:\n1, 2, 3, and more"\n',  # made like a row, but for the blanks of prose
        'report,file\n"Clear lungs, heart\nnormal",a.png\n',  # the last line ends with the row's own id
        'report,file\n"Clear lungs\nheart, normal",a.png\n',
    ],
)
def test_lines_that_only_resemble_a_row(tmp_path, text):
    assert read(tmp_path, text) == ([2], [])


def test_what_a_row_is_not():
    assert not holds_rows(["one\ntwo"], ",", False)  # of a table with one column nothing can be said
    assert not holds_rows(["one text\ntwo,three", "four five"], ",", False)  # no id in the row
    assert not holds_rows(["1", "a"], ",", False)


CELL = st.text('ab 1.,\n"', max_size=12)


@given(st.lists(st.tuples(st.integers(1, 10**9).map(str), CELL.filter(str.strip)), max_size=5))
def test_well_formed_tables_lose_nothing_but_what_reads_as_a_row(tmp_path_factory, table):
    """Whatever csv writes is read again, or told of."""
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([("id", "report"), *table])
    quarantine = Quarantine()
    found = [(row["id"], row["report"]) for _, row in rows(path, ("id", "report"), source="t", quarantine=quarantine)]
    told = {row["reason"] for row in quarantine.rows}
    assert told <= {RUN_TOGETHER}
    expected = [(name, cell.strip()) for name, cell in table]
    assert len(found) + len(quarantine.rows) == len(expected)
    assert [row for row in expected if row in found] == found
    for name, cell in expected:
        assert (name, cell) in found or any(line.count(",") == 1 for line in cell.split("\n"))
