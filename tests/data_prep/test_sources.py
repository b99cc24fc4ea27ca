"""data_prep.sources: every source is read by name, with the agreed signature."""

from __future__ import annotations

import inspect

from data_prep import iu_xray, mimic_cxr
from data_prep.sources import SOURCES


def test_both_spellings_and_the_signature():
    assert SOURCES["mimic-cxr"] is SOURCES["mimic_cxr"] is mimic_cxr.read
    assert SOURCES["iu-xray"] is SOURCES["iu_xray"] is iu_xray.read
    for reader in SOURCES.values():
        parameters = inspect.signature(reader).parameters
        assert list(parameters)[:2] == ["root", "quarantine"]
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in list(parameters.values())[2:])
