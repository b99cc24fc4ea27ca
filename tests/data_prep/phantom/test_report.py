"""Reports: MIMIC-CXR's layout, and labels that say what the text says."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from data_prep.phantom.plan import Study, make_study
from data_prep.phantom.report import Report, make_report

HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")  # as MIMIC-CXR's own sectioner finds them


@pytest.fixture(scope="module")
def reports() -> list[tuple[Study, Report]]:
    studies = [make_study(7, i, i) for i in range(600)]
    return [(study, make_report(study, np.random.default_rng([7, study.number]))) for study in studies]


def sections(text: str) -> dict[str, str]:
    parts = HEADER.split(text)
    return {name: " ".join(body.split()) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def test_lines_and_headers(reports: list[tuple[Study, Report]]) -> None:
    seen: Counter[str] = Counter()
    for study, report in reports:
        lines = report.text.split("\n")
        assert max(map(len, lines)) <= 79
        assert all(line.startswith(" ") for line in lines[:-1])
        assert any(line.strip() == "FINAL REPORT" and line.startswith("  ") for line in lines)
        found = sections(report.text)
        seen.update(found.keys())
        if report.findings:
            assert found["FINDINGS"] == report.findings
        told = found.get("IMPRESSION", found.get("CONCLUSION"))
        assert told == (" ".join(report.impression.split()) if report.impression else None)
        for value in (study.indication, study.history):
            assert value is None or value in found.values()
    assert {"EXAMINATION", "TECHNIQUE", "COMPARISON", "INDICATION", "REASON FOR EXAM", "HISTORY"} <= set(seen)
    share = {
        "findings": sum(r.findings is None for _, r in reports) / len(reports),
        "impression": sum(r.impression is None for _, r in reports) / len(reports),
    }
    assert 0.03 < share["findings"] < 0.12
    assert 0.05 < share["impression"] < 0.16


def test_labels_follow_the_findings(reports: list[tuple[Study, Report]]) -> None:
    for study, report in reports:
        for finding in study.findings:
            assert report.labels[finding.name] == (1 if finding.sure else -1)
        allowed = study.present | {"Pneumonia", "No Finding"}
        assert {name for name, value in report.labels.items() if value} <= allowed
        assert not {name for name, value in report.labels.items() if value == 0} & study.present
        assert ("No Finding" in report.labels) == (study.present <= {"Support Devices"})
        if "Pneumonia" in report.labels and report.labels["Pneumonia"] == 1:
            assert "pneumonia" in report.text.lower()


def test_all_label_values_occur(reports: list[tuple[Study, Report]]) -> None:
    values: dict[str, set[int | None]] = {}
    for _, report in reports:
        for name in ("Pleural Effusion", "Consolidation", "Edema", "Lung Opacity"):
            values.setdefault(name, set()).add(report.labels.get(name))
    assert values["Pleural Effusion"] == {1, 0, -1, None}
    assert values["Consolidation"] == {1, 0, -1, None}
    assert values["Edema"] == {1, 0, None}
    assert values["Lung Opacity"] == {1, -1, None}


def test_negations_are_about_absent_findings(reports: list[tuple[Study, Report]]) -> None:
    words = {"pneumothorax": "Pneumothorax", "pleural effusion": "Pleural Effusion", "consolidation": "Consolidation"}
    for study, report in reports:
        for sentence in re.split(r"(?<=\.)\s", f"{report.findings or ''} {report.impression or ''}"):
            if re.match(r"(There is )?[Nn]o ", sentence):
                for word, name in words.items():
                    assert word not in sentence or name not in study.present, sentence


def test_side_and_place_are_told(reports: list[tuple[Study, Report]]) -> None:
    for study, report in reports:
        text = f"{report.findings or ''} {report.impression or ''}".lower()
        for finding in study.findings:
            if finding.side in ("right", "left") and finding.name != "Support Devices":
                assert finding.side in text
    texts = [report.findings or report.impression for _, report in reports]
    assert len(set(texts)) > 0.97 * len(texts)
    vocabulary = Counter(word for text in texts if text for word in re.findall(r"[a-z]+", text.lower()))
    assert len(vocabulary) < 400  # a small WordPiece vocabulary covers it
