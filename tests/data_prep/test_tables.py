"""data_prep.tables: csv as found in the wild."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.records import Quarantine, SourceError
from data_prep.tables import clean_id, find_table, keyed, number, require_table, rows, truth


def read(path: Path, *required: str, quarantine: Quarantine | None = None, **options):
    return list(rows(path, required, source="t", quarantine=quarantine or Quarantine(), **options))


def test_bom_crlf_header_blanks_case_and_extra_columns_do_no_harm(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'\xef\xbb\xbfUnnamed: 0, Dicom_ID ,"View\x00Position"\r\n0,a-1,"two\r\nlines, one cell"\r\n\r\n1, b ,AP\r\n'
    )
    assert read(path, "dicom_id", "ViewPosition") == [
        (2, {"dicom_id": "a-1", "ViewPosition": "two\r\nlines, one cell"}),
        (5, {"dicom_id": "b", "ViewPosition": "AP"}),
    ]


def test_gz_and_plain_are_found_plain_first(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfid\n7\n"))
    assert read(require_table(tmp_path, "t", "get it"), "id") == [(2, {"id": "7"})]
    (tmp_path / "t.csv").write_text("id\n8\n")
    assert find_table(tmp_path, "t") == tmp_path / "t.csv"
    with pytest.raises(SourceError, match=r"neither other\.csv nor other\.csv\.gz: get it"):
        require_table(tmp_path, "other", "get it")


def test_missing_column_names_file_and_column(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,b\n1,2\n")
    with pytest.raises(SourceError, match=r"t\.csv: no column 'colour', and none of the 2 cells of the first"):
        read(path, "id", "colour")
    with pytest.raises(SourceError, match=r"t\.csv: no column 'ids'; did you mean 'id'\?"):
        read(path, "ids")
    assert read(path, "id", optional=("colour",)) == [(2, {"id": "1"})]
    assert read(path, "id", "colour", aliases={"b": "colour"}) == [(2, {"id": "1", "colour": "2"})]


@pytest.mark.parametrize("content", [b"", b"id,id\n1,2\n"])
def test_empty_table_and_repeated_column_are_source_errors(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"t\.csv"):
        read(path, "id")


def test_no_message_shows_what_stands_in_a_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("A1,Smith 1950-01-01,a.png,Smith 1950-01-01\n")
    with pytest.raises(SourceError, match="columns 2 and 4 of the first line have one name") as twice:
        read(path, "Image")
    path.write_text("A1,Smith 1950-01-01,a.png,Smith is well\n")
    with pytest.raises(SourceError, match="does not look like names") as headless:
        read(path, "Image")
    assert "smith" not in f"{twice.value}{headless.value}".lower()


def test_what_is_no_text_in_this_encoding_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "t.csv"
    for data, remedy in {
        b"PK\3\4\x14\0": "a workbook or an archive",
        b"\xd0\xcf\x11\xe0\xa1": "a workbook or an archive",
        b"PAR1\x15": "format: parquet",
        "id\n7\n".encode("utf-16"): "say encoding: utf-16 in",
        "id\n7\n".encode("utf-16-le"): "say encoding: utf-16-le in",
        "id\n7\n".encode("utf-16-be"): "say encoding: utf-16-be in",
    }.items():
        for packed in (False, True):
            path.write_bytes(gzip.compress(data) if packed else data)  # gzip is known by its content too
            with pytest.raises(SourceError, match=remedy):
                read(path, "id")
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        path.write_bytes("id,v\n7,ß\n".encode(encoding))
        assert read(path, "id", "v", encoding=encoding) == [(2, {"id": "7", "v": "ß"})]
    path.write_bytes(b"id\n7\n")
    with pytest.raises(SourceError, match="cannot be read to its end"):
        read(path, "id", encoding="utf-16")
    path.write_bytes(gzip.compress(b"id\n7\n"))
    assert read(path, "id") == [(2, {"id": "7"})]


def test_lines_of_another_encoding_are_counted(tmp_path):
    """A U+FFFD that the file itself holds was lost before: no encoding brings it back."""
    path = tmp_path / "t.csv"
    path.write_bytes("id,v\n1,Erguß\n2,a\n3,Möglich\n".encode("cp1252") + "4,Stra\ufffde\n".encode())
    quarantine = Quarantine()
    assert [row["v"] for _, row in read(path, "v", quarantine=quarantine)] == [
        "Ergu\ufffd", "a", "M\ufffdglich", "Stra\ufffde",
    ]  # fmt: skip
    (row,) = quarantine.rows
    assert (row["reason"], row["count"]) == ("line with bytes of another encoding", 2)
    assert row["detail"].startswith("2 lines, the first is line 2; ")
    assert "encoding: cp1252" in row["detail"]
    quarantine = Quarantine()
    read(path, "v", quarantine=quarantine, encoding="cp1252")
    assert quarantine.rows == []
    path.write_bytes(b"id,v\n1,a\x81\n")  # no character of that code page
    read(path, "v", quarantine=quarantine, encoding="cp1252")
    assert quarantine.counts() == {"line with bytes of another encoding": 1}


@given(st.binary(max_size=60))
def test_damaged_utf8_reads_as_python_replaces_it(tmp_path_factory, data):
    data = data.replace(b"\0", b"").replace(b'"', b"").replace(b",", b"").replace(b"\n", b"").replace(b"\r", b"")
    path = tmp_path_factory.mktemp("utf8") / "t.csv"
    path.write_bytes(b"id,v\n1,<" + data + b">\n")
    assert read(path, "v") == [(2, {"v": f"<{data.decode('utf-8', 'replace')}>"})]


def test_cut_gz_is_a_source_error(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"id\n" + b"123456789\n" * 5000)[:60])
    with pytest.raises(SourceError, match="fetch the file again"):
        read(path, "id")
    path.write_text("id\n1\n")  # not gzip at all
    with pytest.raises(SourceError, match="fetch the file again"):
        read(path, "id")


def test_rows_of_another_width_are_set_aside_with_their_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3\n4,5,6\n7,8,\n")
    quarantine = Quarantine()
    assert [row for _, row in read(path, "a", "b", quarantine=quarantine)] == [
        {"a": "1", "b": "2"},
        {"a": "7", "b": "8"},
    ]
    assert [row["detail"] for row in quarantine.rows] == [
        "line 3: 1 fields, the header has 2",
        "line 4: 3 fields, the header has 2",
    ]
    assert quarantine.counts() == {"malformed row": 2}


def test_a_stray_quote_does_not_take_the_whole_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,2\n3,"4\n' + "5,6\n" * 50_000)
    quarantine = Quarantine()
    good = read(path, "a", "b", quarantine=quarantine)
    assert good[0] == (2, {"a": "1", "b": "2"})
    assert len(good) > 15_000  # 131,072 characters (32,768 lines) are lost to the quote, the rest is read
    assert quarantine.rows[0]["detail"].startswith("lines 3 to ")
    assert quarantine.rows[0]["count"] == 50_002 - len(good)  # every row is given or counted


def test_keyed_repeats_and_contradictions(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,v\n1.0,x\n2,y\n1,x\n2,z\n3,w\n2,y\n,q\n../4,q\n")
    quarantine = Quarantine()
    table = keyed(path, "id", ("v",), lambda row: row["v"], source="t", quarantine=quarantine, conflict="two values")
    assert table.rows == {"1": "x", "3": "w"}
    assert table.conflicts == {"2"}
    assert quarantine.counts() == {"duplicate row": 1, "two values": 1, "malformed row": 2}
    assert quarantine.rows[0]["id"] == "1"


def test_clean_id_number_truth():
    assert [clean_id(text) for text in ("59999901.0", " 50414267 ", "'7'", "a-b.c", "3.5")] == [
        "59999901", "50414267", "7", "a-b.c", "3.5",
    ]  # fmt: skip
    assert clean_id("x" * 200) == "x" * 200
    for bad in ("", " nan", "../x", "a/b", ".hidden", "x" * 201, "é" * 101):
        with pytest.raises(ValueError):
            clean_id(bad)
    assert number(" 1e-3") == 0.001
    assert math.isnan(number("NaN"))
    assert math.isnan(number(" "))
    assert [truth(text) for text in ("True", "1", "FALSE", "0.0", "")] == [True, True, False, False, False]
    with pytest.raises(ValueError, match="not a number"):
        number("12px")
    with pytest.raises(ValueError, match="neither"):
        truth("maybe")


@given(st.one_of(st.binary(max_size=200), st.text('id,"\n\r1', max_size=60).map(str.encode)), st.booleans())
def test_any_bytes_give_rows_or_a_source_error(tmp_path_factory, data, zipped):
    path = tmp_path_factory.mktemp("fuzz") / ("t.csv.gz" if zipped else "t.csv")
    path.write_bytes(data)
    try:
        found = read(path, "id")
    except SourceError:
        return
    assert all(set(row) == {"id"} and row["id"] == row["id"].strip() for _, row in found)
