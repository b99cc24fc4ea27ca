"""Labels by rules: phrases whose meaning is plain, published samples, reports whose labels somebody else has set."""

from __future__ import annotations

import csv
import math
import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogaze.observations import OBSERVATIONS
from data_prep.labels.phrases import PHRASES
from data_prep.labels.rules import label_report
from data_prep.records import Quarantine
from data_prep.sources import SOURCES
from tests.label_agreement import agreement, f1
from tests.phantoms import phantom_raw

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))

# report, and what is said of the observations it names; No Finding is left out here
SAID: list[tuple[str, dict[str, int]]] = [
    ("There is a left pleural effusion.", {"Pleural Effusion": 1}),
    ("No focal consolidation, pleural effusion, or pneumothorax.",
     {"Consolidation": 0, "Pleural Effusion": 0, "Pneumothorax": 0}),
    ("No pneumothorax, but a small effusion is seen.", {"Pneumothorax": 0, "Pleural Effusion": 1}),
    ("No effusion, there is mild cardiomegaly.", {"Pleural Effusion": 0, "Cardiomegaly": 1}),
    ("Lungs are free of consolidation.", {"Consolidation": 0}),
    ("Pneumothorax is not identified.", {"Pneumothorax": 0}),
    ("The previously seen pneumothorax has resolved.", {"Pneumothorax": 0}),
    ("Chest tube has been removed. No pneumothorax.", {"Support Devices": 0, "Pneumothorax": 0}),
    ("Possible pneumonia or atelectasis.", {"Pneumonia": -1, "Atelectasis": -1}),
    ("Patchy opacity, which may represent atelectasis.", {"Lung Opacity": 1, "Atelectasis": -1}),
    ("Atelectasis versus early pneumonia.", {"Atelectasis": -1, "Pneumonia": -1}),
    ("Pneumonia cannot be excluded.", {"Pneumonia": -1}),
    ("A small effusion is not excluded.", {"Pleural Effusion": -1}),
    ("No opacity to suggest pneumonia.", {"Lung Opacity": 0, "Pneumonia": 0}),
    ("No suspicious nodule.", {"Lung Lesion": 0}),
    ("No pneumothorax; suspicious nodule in the apex.", {"Pneumothorax": 0, "Lung Lesion": -1}),
    ("No change in the right effusion.", {"Pleural Effusion": 1}),
    ("The effusion is not significantly changed.", {"Pleural Effusion": 1}),
    ("No significant interval increase in pulmonary edema.", {"Edema": 1}),
    ("The heart size is normal.", {"Cardiomegaly": 0}),
    ("Cardiac silhouette is within normal limits.", {"Cardiomegaly": 0}),
    ("Heart size is at the upper limits of normal.", {"Cardiomegaly": 0}),
    ("Borderline heart size.", {"Cardiomegaly": -1}),
    ("The heart is mildly enlarged.", {"Cardiomegaly": 1}),
    ("The heart is not enlarged.", {"Cardiomegaly": 0}),
    ("Cardiomediastinal silhouette is unremarkable.", {"Enlarged Cardiomediastinum": 0}),
    ("There is mediastinal widening.", {"Enlarged Cardiomediastinum": 1}),
    ("Blunting of the left costophrenic angle.", {"Pleural Effusion": -1}),
    ("No pericardial effusion.", {}),
    ("The lead is fractured.", {"Support Devices": 1}),
    ("Healing rib fractures. No pneumothorax.", {"Fracture": 1, "Pneumothorax": 0}),
    ("Endotracheal tube tip 4 cm above the carina.", {"Support Devices": 1}),
    ("Pacemaker leads in place. Apical pleural thickening.", {"Support Devices": 1, "Pleural Other": 1}),
    ("No evidence of edema. Mild edema persists at the bases.", {"Edema": 1}),  # who asserts has the last word
    ("1. Pneumonia. 2. No effusion.", {"Pneumonia": 1, "Pleural Effusion": 0}),
    ("A 2.5 cm nodule is seen, no effusion", {"Lung Lesion": 1, "Pleural Effusion": 0}),
    ("The lungs are clear.", {}),
]  # fmt: skip


@pytest.mark.parametrize(("report", "said"), SAID, ids=[report for report, _ in SAID])
def test_what_a_sentence_says(report: str, said: dict[str, int]) -> None:
    found = {name: value for name, value in label_report(report).items() if value is not None and name != "No Finding"}
    assert found == said


def test_sections_are_read_together_and_no_text_says_nothing() -> None:
    found = label_report("Small effusion.", None, "No pneumothorax")
    assert (found["Pleural Effusion"], found["Pneumothorax"], found["Edema"]) == (1, 0, None)
    assert label_report(None, " \n") == {}
    assert set(found) == set(OBSERVATIONS)


def test_every_observation_has_phrases() -> None:
    assert set(PHRASES["mentions"]) == set(OBSERVATIONS) - {"No Finding"}


@given(st.text(max_size=400))
def test_any_text_gets_labels(text: str) -> None:
    found = label_report(text)
    assert set(found) in (set(), set(OBSERVATIONS))
    assert set(found.values()) <= {1, 0, -1, None}


@pytest.mark.parametrize(
    "again",
    ["heart ", "no effusion, ", "no effusion, large edema or ", "effusion has resolved and edema ", "effusion: ", "a ?",
     "possible effusion versus edema ", "- ", "not yet ", "history of ", "pacemaker, no ", " ", "x", "Mild "],
)  # fmt: skip
def test_a_report_of_ten_thousand_words_takes_no_longer_than_its_length(again: str) -> None:
    began = time.process_time()
    assert label_report("the chest " + again * (50_000 // len(again))) != {} or again == "a ?"
    assert time.process_time() - began < 20  # seconds where it takes one; what explodes takes hours


def test_a_denial_reaches_far() -> None:
    assert label_report("no evidence of the " * 2500 + "edema")["Edema"] == 0


# ------------------------------------------------------------------------------------------------ other people's labels
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (set COGAZE_REAL_DATA)")
def test_the_published_samples_of_the_chexpert_labeller() -> None:
    with (REAL / "label_tools/chexpert_labeler/labeled_reports.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        wanted = {name: int(float(row[name])) if row[name] else None for name in OBSERVATIONS}
        assert label_report(row["Reports"]) == wanted


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (set COGAZE_REAL_DATA)")
def test_the_coders_of_the_indiana_collection_mostly_agree() -> None:
    found = agreement(SOURCES["iu-xray"](REAL / "iu_xray", Quarantine()))
    whole = sum(found.values(), Counter())
    for name, counts in found.items():
        positives = counts["both"] + counts["source only"]
        if positives >= 5:
            assert f1(counts) >= 0.8, name
    assert f1(whole) >= 0.94


def test_phantom_reports_are_read_as_they_were_drawn() -> None:
    found = agreement(SOURCES["mimic-cxr"](phantom_raw(), Quarantine()))
    for name, counts in found.items():
        if name == "Lung Opacity":  # "airspace opacity" also describes what is drawn as pneumonia
            assert counts["source only"] == 0
        elif name == "No Finding":  # a scoliosis or a flat diaphragm is none of what is drawn as a finding
            assert counts["rules only"] == 0
        elif not math.isnan(f1(counts)):
            assert f1(counts) == 1.0, name


def test_no_finding_of_a_phantom_is_missed_only_for_a_further_abnormality() -> None:
    further = re.compile("scoliosis|hyperinflated|elevat")
    missed = 0
    for record in SOURCES["mimic-cxr"](phantom_raw(), Quarantine()):
        text = f"{record.findings} {record.impression}"
        if record.labels["No Finding"] == 1 and label_report(text)["No Finding"] is None:
            missed += 1
            assert further.search(text.lower()), text
    assert missed
