"""data_prep.sources: every source is read by name, with the agreed signature."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import data_prep
from data_prep import iu_xray, mimic_cxr
from data_prep.sources import SOURCES


def test_one_name_each_and_the_signature():
    assert SOURCES["mimic-cxr"] is mimic_cxr.read
    assert SOURCES["iu-xray"] is iu_xray.read
    assert len(set(SOURCES.values())) == len(SOURCES)
    assert not [name for name in SOURCES if "_" in name]  # the command line takes both spellings
    for reader in SOURCES.values():
        parameters = inspect.signature(reader).parameters
        assert list(parameters)[:2] == ["root", "quarantine"]
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in list(parameters.values())[2:])


def test_the_worked_example_of_contributing_passes_its_worked_test(tmp_path, monkeypatch):
    """The reader and the test that CONTRIBUTING.md prints, both as they stand."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    reader, test = (
        re.search(rf"<!-- worked {what}.*?-->\n```python\n(.*?)```", text, re.S) for what in ("example", "test")
    )
    assert reader is not None
    assert test is not None
    clinic = ModuleType("data_prep.clinic")
    monkeypatch.setitem(sys.modules, clinic.__name__, clinic)
    monkeypatch.setattr(data_prep, "clinic", clinic, raising=False)
    exec(compile(reader[1], "CONTRIBUTING.md", "exec"), clinic.__dict__)
    functions = {"__name__": "tests.data_prep.test_clinic"}
    exec(compile(test[1], "CONTRIBUTING.md", "exec"), functions)
    names = [name for name in functions if name.startswith("test_")]
    assert names == ["test_every_row_is_a_record_or_set_aside"]
    functions[names[0]](tmp_path)
    parameters = inspect.signature(clinic.read).parameters
    assert list(parameters) == ["root", "quarantine"]
