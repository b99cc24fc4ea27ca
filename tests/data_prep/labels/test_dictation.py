"""What dictated sentences say: dictation.txt, one a line, their labels set by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.labels.rules import label_report
from data_prep.labels.sentences import clauses, sentences
from data_prep.sections import sections

NAMES = {
    "mediastinum": "Enlarged Cardiomediastinum", "cardiomegaly": "Cardiomegaly", "opacity": "Lung Opacity",
    "lesion": "Lung Lesion", "edema": "Edema", "consolidation": "Consolidation", "pneumonia": "Pneumonia",
    "atelectasis": "Atelectasis", "pneumothorax": "Pneumothorax", "effusion": "Pleural Effusion",
    "pleura": "Pleural Other", "fracture": "Fracture", "devices": "Support Devices",
}  # fmt: skip


def dictated() -> list[tuple[str, dict[str, int]]]:
    """(sentence, labels) of every line of dictation.txt."""
    found = []
    for line in Path(__file__).with_name("dictation.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            sentence, said = line.split(" -> ")
            pairs = [] if said == "nothing" else [pair.rsplit(" ", 1) for pair in said.split(", ")]
            found.append((sentence.replace("\\n", "\n"), {NAMES[name]: int(value) for name, value in pairs}))
    return found


def said_by(report: str) -> dict[str, int]:
    """The labels that are not None, but for No Finding."""
    return {name: value for name, value in label_report(report).items() if value is not None and name != "No Finding"}


@pytest.mark.parametrize(("sentence", "said"), dictated(), ids=[sentence for sentence, _ in dictated()])
def test_what_a_dictated_sentence_says(sentence: str, said: dict[str, int]) -> None:
    assert said_by(sentence) == said


def test_a_list_that_lost_its_line_breaks_says_the_same() -> None:
    for mark in ("- ", "* ", "\u2022 ", "{}. ", "{}) ", "({}) ", ""):
        lines = ["No pneumothorax", "Moderate left effusion", "Bibasilar opacities"]
        text = "\n".join(mark.format(n) + line for n, line in enumerate(lines, 1))
        stored = sections("FINDINGS:\n" + text)["findings"]
        assert stored is not None
        for report in (text, stored):
            assert said_by(report) == {"Pneumothorax": 0, "Pleural Effusion": 1, "Lung Opacity": 1}, report


def test_sentences_end_at_marks_and_not_inside_numbers_names_or_wrapped_lines() -> None:
    assert sentences("No effusion.A 2.5 cm nodule\n\n2. Edema vs. CHF? Dr. Smith - informed") == [
        "no effusion", "a 2.5 cm nodule", "edema vs chf ?", "dr smith", "informed",
    ]  # fmt: skip
    assert sentences("No right - sided effusion of the\nSwan-Ganz catheter") == [
        "no right - sided effusion of the swan-ganz catheter"
    ]
    assert clauses("effusion, but infiltrates and engorgement have resolved and the heart is big") == [
        "effusion", "infiltrates and engorgement have resolved", "the heart is big",
    ]  # fmt: skip


ABNORMAL = [
    "The left lung is collapsed.", "Complete collapse of the left lung.", "Whiteout of the left hemithorax.",
    "Right hilar enlargement.", "Mediastinal mass.", "The vasculature is engorged.", "Vascular redistribution.",
    "Right upper lobe cancer.", "Lungs are not clear.", "Lung parenchyma is not clear.", "Inflammatory changes.",
    "Thickened right minor fissure.", "Fluid in the minor fissure.", "Irregular lucency in the left apex.",
    "Radiopaque foreign body.", "Tracheostomy in place.", "Defibrillator in place.",
]  # fmt: skip


@pytest.mark.parametrize(
    ("report", "value"),
    [
        ("The lungs are clear. No effusion.", 1),
        ("Pacemaker in place, lungs clear.", 1),
        ("Tortuous aorta. No acute disease.", 1),
        ("No evidence of emphysema or hernia.", 1),
        ("Possible effusion.", None),
        ("No acute disease. Stable large hiatal hernia.", None),
        ("Scoliosis of the thoracic spine. The lungs are clear.", None),
        ("Calcified granuloma in the left base. No pneumonia.", None),
        ("Possible emphysema.", None),
        ("The heart border is not obscured. No collapse, mediastinal mass or engorged vessels.", 1),
        ("The lungs are unchanged. Cervical hardware, ICD in place.", 1),
        *((report, None) for report in ABNORMAL),
    ],
)
def test_no_finding_stands_where_neither_observations_nor_further_abnormalities_are_named(
    report: str, value: int | None
) -> None:
    assert label_report(report)["No Finding"] == value


FINDINGS = ("pneumothorax", "effusion", "consolidation", "edema", "fracture")
NAMED = [NAMES[name] for name in FINDINGS]


@given(st.permutations(FINDINGS), st.integers(1, 5), st.sampled_from(["or", "nor"]), st.booleans())
def test_a_list_is_denied_to_its_end_at_any_length(
    order: list[str], number: int, joined: str, last_comma: bool
) -> None:
    *some, last = order[:number]
    text = (
        f"No {', '.join(some)}{',' if last_comma and len(some) > 1 else ''} {joined} {last}." if some else f"No {last}."
    )
    assert said_by(text) == {NAMES[name]: 0 for name in order[:number]}


@given(st.permutations(FINDINGS), st.sampled_from(["moderate", "small", "stable", "old", "bilateral", "residual left"]))
def test_a_list_that_turns_to_what_is_there_denies_only_what_stood_before(order: list[str], adjective: str) -> None:
    denied, also, present, *_ = order
    wanted = {NAMES[denied]: 0, NAMES[also]: 0, NAMES[present]: 1}
    assert said_by(f"No {denied} or {also}, {adjective} {present}.") == wanted
    assert said_by(f"No {denied}, {also}, {adjective} {present}.") == wanted
    assert said_by(f"{adjective} {present}, no {denied} or {also}.") == wanted
