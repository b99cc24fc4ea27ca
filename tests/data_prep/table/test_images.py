"""The files of a table: by paths, by globs, without a table at all."""

from __future__ import annotations

import pytest

from data_prep.records import SourceError
from tests.data_prep.dicom.files import dataset, ramp, write
from tests.data_prep.table.export import export, read, reasons


def test_files_by_glob_every_one_accounted_for(tmp_path):
    root = export(
        tmp_path, "name,study,mrn\nx/a.dcm.png,1,1\nB.jpg,2,2\nmissing.png,3,3\n", files="a.dcm.png stray.png"
    )
    (root / "small").mkdir()
    for name in ("a.dcm.png", "B.jpeg"):
        (root / "small" / name).write_bytes(b"x")
    image = {"glob": ["images/*", "small/*"], "name": "name", "by": "stem"}
    records, quarantine = read(root, image=image)
    assert [(r.image_id, r.relative_path) for r in records] == [("a.dcm", "images/a.dcm.png"), ("B", "small/B.jpeg")]
    assert sorted((row.get("path", ""), row["reason"]) for row in quarantine.rows) == [
        ("images/stray.png", "image file that no row names"),
        ("missing.png", "image file missing"),
        ("small/a.dcm.png", "second file of one image name"),
    ]
    assert [r.image_id for r in read(root, image={**image, "by": "name"})[0]] == ["a.dcm"]
    with pytest.raises(SourceError, match=r"no file fits image.glob nowhere/\*"):
        read(root, image={"glob": "nowhere/*", "name": "name"})


def test_a_file_that_the_rows_of_several_patients_would_share(tmp_path):
    """`frontal.png` in each patient's folder, and a table that says no more: whose is it?"""
    root = export(tmp_path, "name,study,mrn\nfrontal,1,7\nfrontal,2,8\nown,3,9\nown,4,9\n", files="")
    for path in ("a/frontal.png", "b/frontal.png", "c/own.png"):
        (root / path).parent.mkdir()
        (root / path).write_bytes(b"x")
    image = {"glob": "*/*.png", "name": "{name}.png"}
    ids = {"image": "study", "study": "study", "patient": "mrn"}
    records, quarantine = read(root, image=image, ids=ids)
    assert [(r.image_id, r.relative_path) for r in records] == [("3", "c/own.png"), ("4", "c/own.png")]
    assert [(row["reason"], row.get("id")) for row in quarantine.rows[:2]] == [
        ("one image file for several patients", "1"), ("one image file for several patients", "2"),
    ]  # fmt: skip


def test_of_two_files_of_one_id_the_first_that_is_used_counts(tmp_path):
    """Without a table; a filter that leaves the first out leaves the second."""
    root = export(tmp_path, "", files="")
    for path in ("a/x.png", "b/x.png", "c/x.png"):
        (root / path).parent.mkdir()
        (root / path).write_bytes(b"x")
    records, quarantine = read(
        root,
        table=None,
        image={"glob": "*/x.png"},
        ids={"image": "file.stem", "patient": "file.stem"},
        filters=[{"column": "path.folder", "drop": ["a"]}],
        path_regex="^(?P<folder>[a-z])/",
    )
    assert [r.relative_path for r in records] == ["b/x.png"]
    assert [(row["path"], row["reason"]) for row in quarantine.rows] == [
        ("a/x.png", "left out by a filter of the mapping"), ("c/x.png", "second file of one image id"),
    ]  # fmt: skip


def test_several_paths_and_absolute_and_windows_ones(tmp_path):
    root = export(tmp_path, "", files="a.png b.png")
    (root / "t.csv").write_text(
        f"file,study,mrn\na,1,1\n{root}/images/b.png,2,2\nimages\\b.png,3,3\n/etc/passwd,4,4\n..,5,5\n"
    )
    paths = ["other/{file}.png", "images/{file}.png"]
    assert [r.relative_path for r in read(root, image={"path": paths})[0]] == ["images/a.png"]
    records, aside = read(root, image={"path": ["{file}"]}, ids={"image": "study", "study": "study", "patient": "mrn"})
    assert [(r.image_id, r.relative_path) for r in records] == [("2", "images/b.png"), ("3", "images/b.png")]
    assert reasons(aside) == [("1", "image file missing"), *[("", "image path outside the root")] * 2]


def test_a_folder_of_dicom_without_a_table(tmp_path):
    """Ids, view and nothing else from the headers; a file that is no DICOM is set aside."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "1.dcm").write_bytes(write(dataset(ramp(height=40, width=50))))
    (tmp_path / "scans" / "2.dcm").write_bytes(
        write(dataset(ramp(height=40, width=50), PatientID="", ViewPosition="LL"))
    )
    (tmp_path / "scans" / "3.dcm").write_text("<html>")
    records, quarantine = read(
        tmp_path,
        table=None,
        image={"glob": "scans/*.dcm"},
        ids={"image": "file.stem", "study": "dicom.study_id", "patient": "dicom.patient_id"},
        view="dicom.view",
    )
    assert [(r.image_id, r.study_id, r.patient_id, r.view) for r in records] == [("1", "1.2.3.1", "p7", "PA")]
    assert reasons(quarantine) == [("2", "malformed row"), ("3", "not a DICOM file")]
    with pytest.raises(SourceError, match=r"ids\.patient names the column 'mrn', but there is no table"):
        read(tmp_path, table=None, image={"glob": "scans/*.dcm"}, ids={"patient": "mrn"})


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # of pydicom, while the files are written
def test_dicom_that_is_no_radiograph_and_filters_on_its_header(tmp_path):
    """CT slices and knees lie in archives too. A picture, and a file of an unknown modality, are not asked."""
    (tmp_path / "scans").mkdir()
    for name, tags in {
        "cr": {}, "dx": {"Modality": "DX", "BodyPartExamined": "CHEST"}, "ct": {"Modality": "CT"},
        "knee": {"Modality": "DX", "BodyPartExamined": "KNEE"}, "sc": {"Modality": "sc"}, "no": {"Modality": ""},
    }.items():  # fmt: skip
        data = dataset(ramp(height=40, width=50), SOPInstanceUID=f"1.2.{len(name)}.{ord(name[0])}", **tags)
        (tmp_path / "scans" / name).write_bytes(write(data))
    (tmp_path / "scans" / "x.png").write_bytes(write(dataset(ramp(height=40, width=50), Modality="CT")))
    spec = {"table": None, "image": {"glob": "scans/*"}, "ids": {"image": "file.stem", "patient": "file.stem"}}

    def kept(**changes) -> tuple[set[str], dict[str, int]]:
        records, quarantine = read(tmp_path, **spec, **changes)
        return {r.image_id for r in records}, dict(quarantine.counts())

    assert kept() == ({"cr", "dx", "knee", "no", "x"}, {"not a radiograph": 2})
    left_out = "left out by a filter of the mapping"
    modality = {"column": "dicom.modality", "keep": ["CR", "DX", "SC"]}
    assert kept(filters=[modality]) == ({"cr", "dx", "knee", "sc"}, {left_out: 3})  # in place of the default
    chest = {"column": "dicom.body_part", "keep": ["chest", ""]}
    assert kept(filters=[chest]) == ({"cr", "dx", "no", "x"}, {left_out: 1, "not a radiograph": 2})
    named = {"column": "{file.name}", "drop": ["x.png", "cr"]}
    assert kept(filters=[named])[0] == {"dx", "knee", "no"}
    path = {"column": "path.first", "keep": ["d", "k"]}
    assert kept(filters=[path], path_regex="scans/(?P<first>.)")[0] == {"dx", "knee"}
    assert read(tmp_path, **spec)[1].rows[0]["detail"] == "modality CT; a filter on dicom.modality may keep it"
    damaged = dataset(ramp(height=40, width=50), Modality="DOE^JANE")
    (tmp_path / "scans" / "ct").write_bytes(write(damaged))
    assert read(tmp_path, **spec)[1].rows[0]["detail"] == "another modality; a filter on dicom.modality may keep it"
