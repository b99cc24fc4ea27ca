"""data_prep.table.mapping: what a mapping file may say, and what it is told when it may not."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from data_prep.dicom.header import Header
from data_prep.records import SourceError
from data_prep.table import mapping
from data_prep.table.mapping import names_of
from data_prep.table.mapping_file import SHIPPED, MappingError, load_mapping

SMALL = {
    "source": "clinic",
    "table": "t.csv",
    "image": {"path": "{file}"},
    "ids": {"patient": "mrn"},
    "split": {"shares": {"train": 1.0}},
}


def faults(tmp_path: Path, **changes) -> str:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    with pytest.raises(MappingError) as caught:
        load_mapping(path)
    assert isinstance(caught.value, SourceError)
    assert all(line.startswith(f"{path}: ") for line in str(caught.value).splitlines())
    return str(caught.value)


def test_every_shipped_mapping_is_valid():
    names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    assert names == [
        "chexpert_plus", "covid_chestxray", "mhh_covid19", "nih_chestxray14", "nih_chestxray14_benchx", "padchest",
    ]  # fmt: skip
    for name in names:
        plan = load_mapping(name)
        assert name.startswith(plan.source)
        assert plan.about


def test_dicom_names_are_the_headers_fields():
    assert set(mapping.DICOM_NAMES) == {f"dicom.{field.name}" for field in fields(Header)}


def test_names_of_expressions():
    assert names_of(" Image Index ") == [("Image Index", "")]
    assert names_of("{a}-{b c|stem}.png") == [("a", ""), ("b c", "stem")]
    assert names_of("x{Patient ID|8}") == [("Patient ID", "8")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imgae": {}}, "unknown key imgae; did you mean image?"),
        ({"ids": {"patient": "mrn", "patinet": "x"}}, "unknown key ids.patinet; did you mean ids.patient?"),
        ({"labels": {"colums": {}}}, "unknown key labels.colums; did you mean labels.columns?"),
        ({"filters": [{"column": "a", "keeps": ["b"]}]}, "unknown key filters.keeps; did you mean filters.keep?"),
        ({"ids": {}}, "ids.patient: Field required"),
        ({"source": "Clinic A"}, "source: String should match pattern"),
        ({"image": {}}, "give either path or glob"),
        ({"image": {"path": "{a}", "glob": "*.png"}}, "give either path or glob"),
        ({"image": {"glob": "../*.png"}}, "leads out of the root"),
        ({"image": {"glob": "/etc/*"}}, "leads out of the root"),
        ({"image": {"glob": "*.png"}}, "needs image.name"),
        ({"table": ""}, "without a table, image needs a glob"),
        ({"image": {"path": "{file.stem}.png"}}, "'file.stem' is known only once the file is found"),
        ({"ids": {"patient": "{mrn|upper}"}}, "no filter 'upper'; filters are stem, name, bare"),
        ({"ids": {"patient": "dicom.patientid"}}, "no name 'dicom.patientid'; did you mean dicom.patient_id?"),
        ({"ids": {"patient": "{path.pat}"}, "path_regex": r"(?P<patient>p\d)"}, "no name 'path.pat'; did you mean"),
        ({"path_regex": "(x"}, "is not a regular expression"),
        ({"encoding": "klingon"}, "'klingon' is no encoding"),
        ({"join": [{"table": "b.csv", "key": "a", "encoding": "klingon"}]}, "'klingon' is no encoding"),
        ({"join": [{"table": "b.csv", "key": "a", "several": "all"}]}, "join.0.several: Input should be 'refuse'"),
        ({"join": [{"table": "b.csv", "key": {"a": "{b|upper}"}}]}, "join.key: no filter 'upper'"),
        ({"join": [{"table": "b.csv", "key": {"file.stem": "a"}}]}, "join.key: 'file.stem' is known only once"),
        ({"split": {}}, "give exactly one of column, lists and shares"),
        ({"split": {"shares": {"train": 0.5}}}, "the shares must sum to 1"),
        ({"split": {"shares": {"training": 1.0}}}, "Input should be 'train', 'validate' or 'test'"),
        ({"split": {"column": "s", "words": {"a": "val"}}}, "split.words.a: Input should be 'train'"),
        ({"view": {"column": "v", "words": {"a": "FRONTAL"}}}, "'FRONTAL' is not a view; views are UNKNOWN, PA, AP"),
        ({"labels": {"columns": {"Efusion": "e"}}}, "'Efusion' is not an observation; did you mean"),
        ({"labels": {"column": "l"}}, "column needs names"),
        ({"labels": {"column": "l", "names": {"x": "Oedema"}}}, "'Oedema' is not an observation; did you mean Edema?"),
        ({"labels": {"columns": {"Edema": "e"}, "values": {"y": 2}}}, "labels.values.y"),
        ({"filters": [{"column": "a"}]}, "give either keep or drop"),
        ({"join": [{"table": "b.csv", "key": {"a": "b", "c": "d"}}]}, "takes one column"),
        ({"labels": {"column": "l", "names": {True: "Edema"}}}, "put the word in quotes"),
        ({"labels": {"column": "l", "names": {"x": []}, "open": {"y": "Efusion"}}}, "'Efusion' is not an observation"),
        ({"labels": {"column": "l", "names": {"x": "all"}}}, "'all' is not an observation"),  # of `open` alone
        ({"labels": {"column": "l", "names": {"a  b": "Edema", "A b": []}}}, "stands there twice, with different"),
        ({"labels": {"column": "l", "names": {"x": []}, "others": "ignore"}}, "Input should be 'refuse' or 'unknown'"),
        ({"labels": {"columns": {"Edema": "e"}, "void": ["x"]}}, "go with column"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_a_remedy(tmp_path, changes, words):
    assert words in faults(tmp_path, **changes)


def test_numbers_are_words_and_one_stands_for_a_list(tmp_path):
    path = tmp_path / "m.yaml"
    labels = {"columns": {"Edema": "e"}, "values": {1: 1, 2: "unknown", 0: 0}}
    more = {"labels": labels, "text": {"findings": "f"}, "view": "v", "join": [{"table": "b.csv", "key": "id"}]}
    path.write_text(yaml.safe_dump({**SMALL, **more}))
    plan = load_mapping(path)
    assert plan.labels is not None
    assert plan.labels.values == {"1": 1, "2": "unknown", "0": 0}
    assert plan.text.findings == ("f",)
    assert plan.view is not None
    assert plan.view.column == "v"
    assert plan.join[0].key == {"id": "id"}


def test_files_that_are_no_mapping(tmp_path):
    with pytest.raises(MappingError, match="no such mapping file; shipped ones are chexpert_plus, covid_chestxray"):
        load_mapping(tmp_path / "none.yaml")
    path = tmp_path / "m.yaml"
    texts = {"a: [": "not valid YAML", "- a": "must be a mapping of keys, not list", "": "not NoneType",
             "!!python/object/apply:os.system [id]": "not valid YAML", "a\0b": "not valid YAML"}  # fmt: skip
    for text, words in texts.items():
        path.write_text(text)
        with pytest.raises(MappingError, match=words):
            load_mapping(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MappingError, match="cannot be read"):
        load_mapping(path)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    """YAML takes the last one in silence."""
    path = tmp_path / "m.yaml"
    text = yaml.safe_dump(SMALL)
    assert load_mapping(Path(path.write_text(text) and path)).source == "clinic"
    lines = text.count("\n")
    path.write_text(text + "source: other\n")
    with pytest.raises(MappingError, match=rf"the key 'source' stands in lines \d and {lines + 1}; only one can count"):
        load_mapping(path)
    path.write_text(text + "view: {column: v, words: {a: PA, b: AP, a: AP}}\n")  # on one line too
    with pytest.raises(MappingError, match="the key 'a' stands in"):
        load_mapping(path)
    path.write_text(text + 'view: {column: v, words: {1: PA, "1": AP, one: &x PA, two: *x}}\n')
    with pytest.raises(MappingError, match="the key '1' stands in"):
        load_mapping(path)
