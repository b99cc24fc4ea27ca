"""A hospital's export by a mapping: every field of a record, every row accounted for."""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import table
from data_prep.build import build
from data_prep.records import ImageRecord, Quarantine, SourceError
from data_prep.splits import share_of, split_by_hash
from data_prep.table.mapping_file import load_mapping
from tests.data_prep.dicom.files import dataset, ramp, write
from tests.data_prep.table.export import BASE, export, read, reasons


def test_every_field_of_a_record(tmp_path):
    root = export(
        tmp_path,
        "file,study,mrn,set,proj,f1,f2,imp,why,past,eff,card\n"
        'a.png,s1,0042,Training,p.a.,Clear.,"No\neffusion.",Normal.,cough,none,0,1\n'
        "b.png,s1,0042,dev,Lateral,,,Old scar.,,COPD ___,-1,\n",
    )
    records, quarantine = read(
        root,
        split={"column": "set"},
        view={"column": "proj", "words": {"P.A.": "PA"}},
        text={"findings": ["f1", "f2"], "impression": "imp", "indication": "why", "history": "past"},
        labels={"source": "radiologist", "columns": {"Pleural Effusion": "eff", "Cardiomegaly": "card"}},
    )
    assert quarantine.rows == []
    assert records == [
        ImageRecord(
            source="clinic", image_id="a", study_id="s1", patient_id="0042", split="train", view="PA",
            path=root / "images/a.png", relative_path="images/a.png", findings="Clear. No effusion.",
            impression="Normal.", indication="cough", history=None,
            labels={"Pleural Effusion": 0, "Cardiomegaly": 1}, label_source="radiologist",
        ),
        ImageRecord(
            source="clinic", image_id="b", study_id="s1", patient_id="0042", split="validate", view="LATERAL",
            path=root / "images/b.png", relative_path="images/b.png", findings=None, impression="Old scar.",
            indication=None, history="COPD", labels={"Pleural Effusion": -1, "Cardiomegaly": None},
            label_source="radiologist",
        ),
    ]  # fmt: skip


def test_views_blank_unknown_lower_case_and_with_blanks(tmp_path):
    root = export(
        tmp_path, "file,study,mrn,v\na.png,1,1, pa \nb.png,2,2,nan\nc.png,3,3,FRONTAL\nd.png,4,4,ap   axial\n"
    )
    assert [r.view for r in read(root, view="v")[0]] == ["PA", "UNKNOWN", "UNKNOWN", "AP AXIAL"]
    words = {"column": "{v}/{study}", "words": {"frontal/3": "AP", " NAN/2": "PA", "/2": "LL"}}
    assert [r.view for r in read(root, view=words)[0]] == ["UNKNOWN", "LL", "AP", "UNKNOWN"]
    assert [r.view for r in read(root)[0]] == ["UNKNOWN"] * 4


def test_a_whole_report_is_cut_into_sections_and_a_column_goes_before(tmp_path):
    report = "INDICATION: Cough.\n\nFINDINGS: Clear lungs.\n\nIMPRESSION: Normal."
    rows = [
        ["file", "study", "mrn", "report", "ask"],
        ["a.png", "1", "1", report, ""],
        ["b.png", "2", "2", report, "Fever."],
    ]
    with open(export(tmp_path, "") / "t.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    records, _ = read(tmp_path, text={"report": "report", "indication": "ask"})
    assert [(r.findings, r.impression, r.indication) for r in records] == [
        ("Clear lungs.", "Normal.", "Cough."),
        ("Clear lungs.", "Normal.", "Fever."),
    ]


def test_ids_from_path_and_template_and_their_repairs(tmp_path):
    """Floats, lost zeros and odd characters (what becomes of two that clean to one, test_ids says)."""
    root = export(tmp_path, "file,study,mrn\na.png,59999901.0,42.0\nb.png,2020/7 (x),1042\nc.png,,7\nd.png,3,nan\n")
    records, quarantine = read(root, ids={"image": "i-{file.stem}", "study": "study", "patient": "{mrn|8}"})
    assert [(r.image_id, r.study_id, r.patient_id) for r in records] == [
        ("i-a", "59999901", "00000042"),
        ("i-b", "2020-7-x", "00001042"),
    ]
    assert [row["detail"] for row in quarantine.rows] == [
        "line 4: study id: the id is blank",
        "line 5: patient id: the id is blank",
    ]
    records, quarantine = read(
        root,
        path_regex=r"(?P<kind>\w+)/(?P<letter>[abc])\.png",
        ids={"study": "{path.kind}.{path.letter}", "patient": "path.letter"},
    )
    assert [(r.study_id, r.patient_id) for r in records] == [("images.a", "a"), ("images.b", "b"), ("images.c", "c")]
    assert reasons(quarantine) == [("d", "path does not fit path_regex")]
    assert [r.study_id for r in read(root, ids={"patient": "file.stem"})[0]] == ["a", "b", "c", "d"]  # study: the image


def test_every_row_is_accounted_for(tmp_path):
    root = export(
        tmp_path,
        "file,study,mrn,f,mod\na.png,1,1,Clear.,CR\nz.png,2,2,Clear.,CR\n../../t.csv,3,3,Clear.,CR\n,4,4,Clear.,CR\n"
        "b.png,5,5,___,CR\nc.png,6,6,Clear.,CT\nd.png,7\na.png,1,1,Clear.,CR\n/etc/passwd,8,8,Clear.,CR\n",
    )
    records, quarantine = read(
        root, text={"findings": "f"}, filters=[{"column": "mod", "keep": ["cr", "DX"]}], ids=BASE["ids"]
    )
    assert [r.image_id for r in records] == ["a"]
    assert reasons(quarantine) == [
        ("z", "image file missing"),
        ("", "image path outside the root"),
        ("", "row without an image"),
        ("b", "report without findings and impression"),
        ("c", "left out by a filter of the mapping"),
        ("", "malformed row"),
        ("a", "duplicate row"),
        ("passwd", "image file missing"),
    ]
    assert quarantine.rows[4]["detail"] == "mod: ct"
    assert len(records) + len(quarantine.rows) == 9
    records, quarantine = read(root, text={"findings": "f", "required": False},
                               filters=[{"column": "mod", "drop": ["CT", ""]}])  # fmt: skip
    assert [r.image_id for r in records] == ["a", "b"]


def test_contradicting_rows_are_all_set_aside(tmp_path):
    root = export(tmp_path, "file,study,mrn,x\na.png,1,1,1\nb.png,2,2,1\na.png,1,9,1\nb.png,2,2,8\n")
    records, quarantine = read(root)  # column x is not used, so the rows of b are equal
    assert [r.image_id for r in records] == ["b"]
    assert sorted(reasons(quarantine)) == [
        ("a", "contradicting rows for one id"),
        ("a", "contradicting rows for one id"),
        ("b", "duplicate row"),
    ]


def test_splits_by_words_lists_and_hash(tmp_path):
    root = export(tmp_path, "file,study,mrn,set\na.png,1,1,TRAIN\nb.png,2,2,hold-out\nc.png,3,3,other\nd.png,4,4,\n")
    records, quarantine = read(root, split={"column": "set", "words": {"Hold-Out": "test"}})
    assert [r.split for r in records] == ["train", "test"]
    assert [row["detail"] for row in quarantine.rows] == ["other", "blank"]
    (root / "train.txt").write_text("a.png\nb\nc.png\n")
    (root / "test.csv").write_text("c.png,0\n\n")
    lists = {"train": "train.txt", "test": "test.csv"}
    records, quarantine = read(root, split={"lists": lists})
    assert [(r.image_id, r.split) for r in records] == [("a", "train"), ("b", "train")]
    assert reasons(quarantine) == [("c", "image in two split lists"), ("d", "image in no split list")]
    with pytest.raises(SourceError, match=r"none\.txt: the list of split\.lists cannot be read"):
        read(root, split={"lists": {"train": "none.txt"}})


def test_hashed_splits_are_stable_patient_disjoint_and_of_the_asked_size(tmp_path):
    # `printf clinic/0/7 | sha256sum` begins with b40cc759702004ed, which over 2^64 is 0.7033
    assert round(share_of("clinic", "7", 0), 4) == round(0xB40C / 2**16, 4) == 0.7033
    assert [split_by_hash("clinic", "7", *shares) for shares in ((0.71, 0.1), (0.7, 0.1), (0.6, 0.1))] == [
        "train", "validate", "test",
    ]  # fmt: skip
    shares = Counter(split_by_hash("clinic", str(i), 0.7, 0.1) for i in range(20_000))
    assert abs(shares["train"] / 20_000 - 0.7) < 0.01
    assert abs(shares["validate"] / 20_000 - 0.1) < 0.01
    names = " ".join(f"i{i}.png" for i in range(60))
    root = export(
        tmp_path, "file,study,mrn,set\n" + "".join(f"i{i}.png,{i},{i // 3},train\n" for i in range(60)), names
    )
    for split in ({"shares": {"train": 0.5, "validate": 0.2, "test": 0.3}, "seed": 3},
                  {"column": "set", "validate_share": 0.4}):  # fmt: skip
        records, _ = read(root, split=split)
        assert len(records) == 60
        places: dict[str, set[str]] = {}
        for record in records:
            places.setdefault(record.patient_id, set()).add(record.split)
        assert all(len(found) == 1 for found in places.values())
        assert len(set.union(*places.values())) > 1


def test_odd_characters_in_reports(tmp_path):
    """Control characters become blanks, tags go; formulas, emoji, other scripts are text; stray bytes are U+FFFD."""
    root = export(tmp_path, "")
    report = "FINDINGS: a\x0bclear\x1b chest <b>5 < 6</b> =cmd()|'x' \u2028\U0001fac1 \u0633\u0644\u06cc\u0645 [SEP]"
    rows = f'file,study,mrn,r,h\na.png,1,1,"{report}\nIMPRESSION: ok\x85",___ XXXX .\nb.png,2,2,caf\udce9 au lait,\n'
    (root / "t.csv").write_bytes(rows.encode("utf-8", "surrogateescape").replace(b"clear", b"cl\0ear"))
    first, second = read(root, text={"report": "r", "history": "h"})[0]
    assert (first.findings, first.impression, first.history) == (
        "a clear chest 5 < 6 =cmd()|'x' \U0001fac1 \u0633\u0644\u06cc\u0645 [SEP]", "ok", None,
    )  # fmt: skip
    assert second.findings == "caf\ufffd au lait"
    again = read(root, encoding="cp1252", text={"report": "r"})[0][1]
    assert again.findings == "caf\xe9 au lait"


def test_dicom_and_16_bit_png_are_built(tmp_path):
    """From export to shards: both pictures are the same, and the grey mapping stands in the manifest."""
    pixels = ramp(0, 4095, 40, 50)
    root = export(tmp_path / "in", "file,study,mrn,f\na.dcm,1,1,Clear.\nb.png,2,2,Clear.\n", files="")
    (root / "images" / "a.dcm").write_bytes(write(dataset(pixels)))
    Image.fromarray(pixels).save(root / "images" / "b.png")
    records, quarantine = read(root, text={"findings": "f"})
    for mapping in ("window", "minmax-equalized"):
        out = tmp_path / mapping
        manifest = build(
            iter(records), out, quarantine=quarantine, image_size=40, image_format="png", dicom_grey=mapping
        )
        assert manifest["build"]["dicom_grey"] == mapping
        assert manifest["totals"]["images"] == 2
    with tarfile.open(next((tmp_path / "window").glob("train-*.tar"))) as tar:
        found = {
            json.loads(tar.extractfile(name).read())["image_id"]: np.asarray(
                Image.open(io.BytesIO(tar.extractfile(name.replace(".json", ".png")).read()))
            )
            for name in tar.getnames()
            if name.endswith(".json")
        }
    np.testing.assert_array_equal(found["a"], found["b"])
    np.testing.assert_array_equal(found["a"], np.rint(pixels / 4095 * 255))


def test_a_file_of_another_size_than_the_table_says_is_kept_and_reported(tmp_path):
    root = export(tmp_path / "in", "file,study,mrn,w,h\na.png,1,1,50,40\nb.png,2,2,40.0,50\nc.png,3,3,,\n", files="")
    for name in "abc":
        Image.fromarray(ramp(0, 255, 40, 50, np.uint8)).save(root / "images" / f"{name}.png")
    records, quarantine = read(root, size={"width": "w", "height": "h"})
    assert [r.size for r in records] == [(50, 40), (40, 50), None]
    manifest = build(iter(records), tmp_path / "out", quarantine=quarantine, image_size=40)
    assert manifest["totals"]["images"] == 3
    assert manifest["noted"] == {"image of another shape than its table says": 1}
    (row,) = map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    assert (row["id"], row["detail"]) == ("b", "40x50 px in the table, 50x40 px in the file; the image is kept")


def test_the_example_of_the_documentation(tmp_path):
    """docs/table.md, run as it stands."""
    text = (Path(__file__).parents[3] / "docs" / "table.md").read_text(encoding="utf-8")
    for name, body in re.findall(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", text, re.S):
        (tmp_path / name).write_text(body)
    for name in ("01/a100_1", "01/a100_2", "02/a200_1", "02/a300_1"):
        (tmp_path / "images/2024" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images/2024" / f"{name}.png").touch()
    quarantine = Quarantine()
    records = list(table.read(tmp_path, quarantine, mapping=tmp_path / "export.yaml"))
    assert [(r.image_id, r.study_id, r.patient_id, r.view) for r in records] == [
        ("a100_1", "A100", "00000042", "PA"),
        ("a100_2", "A100", "00000042", "LATERAL"),
        ("a200_1", "A200", "00000043", "AP"),
    ]
    assert records[0].labels == {"Pleural Effusion": 1, "Cardiomegaly": 0}
    assert records[2].labels == {"Pleural Effusion": None, "Cardiomegaly": 1}
    assert (records[0].findings, records[0].impression, records[0].indication) == (
        "Small left effusion. Heart size normal.", "Small left effusion.", "Dyspnoea.",
    )  # fmt: skip
    assert reasons(quarantine) == [("a300_1", "left out by a filter of the mapping")]
    others = re.findall(r"(?<!-->\n)```yaml\n(.*?)```", text, re.S)
    for body in others:
        (tmp_path / "other.yaml").write_text(body)
        load_mapping(tmp_path / "other.yaml")
    assert others
