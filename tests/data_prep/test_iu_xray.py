"""data_prep.iu_xray: reconciliation on hand-written files, and full accounting of the real collection."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from cogaze.observations import OBSERVATIONS
from data_prep import iu_xray
from data_prep.iu_xray import image_id_of, split_of, view_of
from data_prep.records import Quarantine, SourceError

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "iu_xray"
REPORTS = "uid,MeSH,Problems,image,indication,comparison,findings,impression"
XML = """<?xml version="1.0"?><eCitation><uId id="CXR{uid}"/><Abstract>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">Xml impression.</AbstractText>
<AbstractText Label="INDICATION"/></Abstract><MeSH><major>{mesh}</major></MeSH>{images}</eCitation>"""


def write(root: Path, reports: list[str], projections: list[str], xml: dict[str, str], files: list[str]) -> Path:
    (root / "reports_xml").mkdir(parents=True)
    (root / "indiana_reports.csv").write_text("\n".join([REPORTS, *reports]) + "\n")
    (root / "indiana_projections.csv").write_text("\n".join(["uid,filename,projection", *projections]) + "\n")
    for name, text in xml.items():
        (root / "reports_xml" / f"{name}.xml").write_text(text)
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not decoded here")
    return root


def xml(uid: str, *images: str, findings: str = "Xml findings.", mesh: str = "Opacity/lung/base") -> str:
    return XML.format(uid=uid, findings=findings, mesh=mesh, images="".join(f'<parentImage id="{i}"/>' for i in images))


def read(root: Path, **options):
    quarantine = Quarantine()
    return list(iu_xray.read(root, quarantine, **options)), quarantine


def test_parts_are_reconciled(tmp_path):
    root = write(
        tmp_path / "iu",
        [
            '7,normal,normal,x,"XXXX-year-old, cough",None,Csv findings.,None',
            "8,,Cardiomegaly,x,,,,",
        ],
        ["7,7_IM-0001-1001.dcm.png,Frontal", "7,7_IM-0001-2001.dcm.png,Lateral", "8,8_IM-0002-1001.dcm.png,Frontal"],
        {"7": xml("7", "CXR7_IM-0001-1001", "CXR7_IM-0001-3001"), "8": xml("8"), "9": xml("9", "CXR9_IM-3-1")},
        [
            "images_256/7_IM-0001-1001.dcm.jpg",
            "images_orig/CXR7_IM-0001-1001.png",
            "images_256/7_IM-0001-2001.dcm.jpg",
            "images_256/7_IM-0001-3001.jpg",
            "images/images_normalized/8_IM-0002-1001.dcm.png",
            "images_256/9_IM-3-1.dcm.jpg",
        ],
    )
    (root / "dicom_view_metadata.csv").write_text(
        "imageid,View Position\nCXR7_IM-0001-2001,PA\nCXR7_IM-0001-3001,LL\nCXR8_IM-0002-1001,AP\n"
    )
    records, quarantine = read(root)
    assert quarantine.rows == []
    assert [(r.study_id, r.image_id, r.view, r.relative_path) for r in records] == [
        ("7", "7_IM-0001-1001", "PA", "images_orig/CXR7_IM-0001-1001.png"),
        ("7", "7_IM-0001-2001", "LATERAL", "images_256/7_IM-0001-2001.dcm.jpg"),
        ("7", "7_IM-0001-3001", "LATERAL", "images_256/7_IM-0001-3001.jpg"),  # the XML alone names it
        ("8", "8_IM-0002-1001", "AP", "images/images_normalized/8_IM-0002-1001.dcm.png"),
        ("9", "9_IM-3-1", "UNKNOWN", "images_256/9_IM-3-1.dcm.jpg"),  # no row in either table
    ]
    first, eighth, ninth = records[0], records[3], records[4]
    # "None" is text; the CSV's texts come first, the XML fills what it leaves blank
    assert (first.findings, first.impression, first.indication) == ("Csv findings.", "None", "year-old, cough")
    assert (eighth.findings, eighth.impression, eighth.indication) == ("Xml findings.", "Xml impression.", None)
    assert first.labels["No Finding"] == 1
    assert eighth.labels["Lung Opacity"] == 1  # the XML's headings rather than Problems
    assert (ninth.findings, ninth.label_source, ninth.patient_id) == ("Xml findings.", "mesh", "9")


def test_what_is_set_aside_is_named(tmp_path):
    root = write(
        tmp_path / "iu",
        ["1,normal,normal,x,,,Clear.,", "2,normal,normal,x,cough,,XXXX.,", "3,a,a,x,,,Clear.,", "3,b,b,x,,,Clear.,",
         "4,normal,normal,x,,,Clear.,", "6,normal,normal,x,,,Clear.,", "7,too,few"],
        ["1,1_a.dcm.png,Frontal", "1,1_b.dcm.png,Frontal", "2,2_a.dcm.png,Frontal", "3,3_a.dcm.png,Frontal",
         "5,5_a.dcm.png,Frontal", "6,1_a.png,Frontal"],
        {"bad": "<eCitation>", "bomb": '<!DOCTYPE x [<!ENTITY a "b">]><eCitation>&a;</eCitation>',
         "1": xml("1"), "1-again": xml("1")},
        [f"images_256/{name}.dcm.jpg" for name in ("1_a", "2_a", "3_a", "5_a", "stray")] + ["images_256/notes.txt"],
    )  # fmt: skip
    records, quarantine = read(root)
    assert [r.image_id for r in records] == ["1_a"]
    assert sorted((row.get("id", row.get("path", "")), row["reason"]) for row in quarantine.rows) == sorted(
        [
            ("1_b", "image file missing"),
            ("2_a", "report without findings and impression"),
            ("3", "contradicting rows for one id"),
            ("3_a", "study without a report"),
            ("4", "study without images"),
            ("5_a", "study without a report"),
            ("1_a", "image named by two studies"),
            ("stray", "image file that no table names"),
            ("1", "second report XML of a study"),
            ("reports_xml/bad.xml", "unreadable report XML"),
            ("reports_xml/bomb.xml", "unreadable report XML"),
            (str(root / "indiana_reports.csv"), "malformed row"),
        ]
    )


def test_missing_parts_are_source_errors_at_once(tmp_path):
    for root, words in ((tmp_path / "nowhere", "is not a folder"), (tmp_path, "no indiana_reports.csv")):
        with pytest.raises(SourceError, match=words):
            iu_xray.read(root, Quarantine())
    root = write(tmp_path / "iu", ["1,normal,normal,x,,,Clear.,"], [], {}, [])
    with pytest.raises(SourceError, match="no image folder"):
        iu_xray.read(root, Quarantine())
    (root / "images").mkdir()
    with pytest.raises(ValueError, match="three shares"):
        iu_xray.read(root, Quarantine(), fractions=(0.5, 0.6, 0.1))
    (root / "indiana_reports.csv").write_text("uid,findings\n1,Clear.\n")
    with pytest.raises(SourceError, match=r"indiana_reports\.csv: no column 'MeSH', 'Problems'"):
        iu_xray.read(root, Quarantine())


def test_labels_of_made_reports(tmp_path):
    """Six reports as their publisher writes them, through the XML alone, with the counts worked out by hand."""
    majors = [
        "normal</major><major></major>",
        "Pleural Effusion/right/small</major><major>Pulmonary Atelectasis/base",
        "Thickening/pleura/apex/bilateral</major><major>Cardiomegaly/borderline",
        "Costophrenic Angle/left/blunted",
        "Pneumothorax/apex/left</major><major>Catheters, Indwelling/right",
        "No Indexing",
    ]
    names = [f"CXR{i}_IM-{i}-1" for i in range(1, 7)]
    files = [f"NLMCXR_png/{name}.png" for name in names]
    reports = {
        str(i): xml(str(i), name, mesh=mesh.removesuffix("</major>"))
        for i, (name, mesh) in enumerate(zip(names, majors, strict=True), 1)
    }
    root = write(tmp_path / "iu", [], [], reports, files)
    (root / "indiana_reports.csv").unlink()
    (root / "indiana_projections.csv").unlink()
    records, quarantine = read(root)
    assert quarantine.rows == []
    labels = [record.labels for record in records]
    counts = {
        name: tuple(sum(row.get(name) == value for row in labels) for value in (1, 0, -1)) for name in OBSERVATIONS
    }
    assert counts == {
        "Enlarged Cardiomediastinum": (0, 1, 0), "Cardiomegaly": (0, 4, 1), "Lung Opacity": (0, 4, 0),
        "Lung Lesion": (0, 5, 0), "Edema": (0, 5, 0), "Consolidation": (0, 5, 0), "Pneumonia": (0, 5, 0),
        "Atelectasis": (1, 4, 0), "Pneumothorax": (1, 4, 0), "Pleural Effusion": (1, 3, 0), "Pleural Other": (1, 3, 0),
        "Fracture": (0, 5, 0), "Support Devices": (1, 4, 0), "No Finding": (1, 3, 0),
    }  # fmt: skip
    assert [record.label_source for record in records] == ["mesh"] * 5 + [None]


def test_tables_alone_and_xml_alone_are_enough(tmp_path):
    root = write(tmp_path / "a", ["1,normal,normal,x,,,Clear.,"], ["1,1_a.dcm.png,Frontal"], {}, ["images/1_a.dcm.png"])
    (root / "reports_xml").rmdir()
    assert len(read(root)[0]) == 1
    root = write(tmp_path / "b", [], [], {"1": xml("1", "CXR1_a")}, ["NLMCXR_png/CXR1_a.png"])
    (root / "indiana_reports.csv").unlink()
    (root / "indiana_projections.csv").unlink()
    records, _ = read(root)
    assert [(r.image_id, r.findings) for r in records] == [("1_a", "Xml findings.")]
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "1_a.png").write_bytes(b"x")
    assert read(root, images=tmp_path / "else")[0][0].path == tmp_path / "else/1_a.png"


def test_names_views_and_splits():
    for name in ("CXR1_IM-2-3", "1_IM-2-3.dcm.png", "CXR1_IM-2-3.jpg", " 1_IM-2-3.DCM.JPEG"):
        assert image_id_of(name) == "1_IM-2-3"
    pairs = (("Lateral", "PA"), ("Frontal", ""), ("frontal", "AP"), ("", "PA"), ("", "LL"))
    assert [view_of(*pair) for pair in pairs] == [
        "LATERAL", "PA", "AP", "UNKNOWN", "LATERAL",
    ]  # fmt: skip
    shares = Counter(split_of(str(uid)) for uid in range(20_000))
    assert abs(shares["train"] / 20_000 - 0.7) < 0.01
    assert abs(shares["validate"] / 20_000 - 0.1) < 0.01
    assert split_of("1000", (0, 0, 1)) == "test"
    # `printf iu_xray/0/1000 | sha256sum` begins with 0a02842091c6c5cc, which over 2^64 is 0.0391
    assert [split_of("1000", f) for f in ((0.04, 0.5, 0.46), (0.03, 0.01, 0.96), (0.03, 0.005, 0.965))] == [
        "train", "validate", "test",
    ]  # fmt: skip
    assert any(split_of(str(uid), seed=1) != split_of(str(uid), seed=2) for uid in range(50))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real Indiana sample is not at {REAL} (set COGAZE_REAL_DATA)")
def test_every_study_and_image_of_the_real_collection_is_accounted_for():
    records, quarantine = read(REAL)
    with open(REAL / "indiana_projections.csv", newline="", encoding="utf-8") as stream:
        projections = list(csv.DictReader(stream))
    with open(REAL / "indiana_reports.csv", newline="", encoding="utf-8") as stream:
        reports = {row["uid"]: row for row in csv.DictReader(stream)}
    listed = {row["filename"].removesuffix(".dcm.png") for row in projections}
    on_disk = {
        path.name.removeprefix("CXR").split(".")[0]
        for folder in ("images_256", "images_orig")
        for path in (REAL / folder).iterdir()
    }
    built = [record.image_id for record in records]
    aside = [row["id"] for row in quarantine.rows if row["reason"] != "study without images"]
    assert len(built) == len(set(built))
    assert not set(built) & set(aside)
    assert listed | on_disk <= set(built) | set(aside)
    # the only further images are those that one XML names and no table or folder has
    assert sorted(set(aside) - listed - on_disk) == ["2084_IM-0715-1001-0002", "2084_IM-0715-2001-0001"]
    assert on_disk == set(built)
    assert (len(built), len(listed)) == (954, 975)
    studies = set(reports) | {path.stem for path in (REAL / "reports_xml").glob("*.xml")}
    bare = {row["id"] for row in quarantine.rows if row["reason"] == "study without images"}
    of_aside = {row["detail"].removeprefix("study ") for row in quarantine.rows if "detail" in row}
    assert studies == {record.study_id for record in records} | bare | of_aside
    assert quarantine.counts() == {
        "study without images": 14,
        "report without findings and impression": 21,
        "image file missing": 2,
    }
    # views: the table decides frontal or lateral, in spite of the 177 laterals that DICOM calls PA
    side = {row["filename"].removesuffix(".dcm.png"): row["projection"] for row in projections}
    assert all((r.view == "LATERAL") == (side[r.image_id] == "Lateral") for r in records)
    assert {r.view for r in records} == {"PA", "AP", "LATERAL"}
    for record in records:
        assert record.path.is_file()
        assert "XXXX" not in f"{record.findings} {record.impression} {record.indication}"
        assert (record.labels.get("No Finding") == 1) == (reports[record.study_id]["MeSH"] == "normal")
        assert record.split == split_of(record.study_id)
    assert [r.image_id for r in records] == sorted(built, key=lambda name: (name.split("_")[0], name))
