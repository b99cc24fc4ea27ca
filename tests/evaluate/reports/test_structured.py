"""Reports written organ by organ: with and without their line ends, unknown and repeated organs, and their scores."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogaze.evaluate.reports.structured import ORGANS, parse, score

REPORT = """Lungs and Airways:
- No focal consolidation.
- Nodule of 5 - 6 mm in the right-sided apex.

Tubes, Catheters, and Support Devices:
- Port in place: tip in the SVC.

Other:
- None
"""
SQUEEZED = (
    "Lungs and Airways:- No focal consolidation.- Nodule of 5 - 6 mm in the right-sided apex."
    "Tubes, Catheters, and Support Devices:- Port in place: tip in the SVC.Other:- None"
)
ORGANS_OF_IT = {
    "Lungs and Airways": ["No focal consolidation.", "Nodule of 5 - 6 mm in the right-sided apex."],
    "Tubes, Catheters, and Support Devices": ["Port in place: tip in the SVC."],
    "Other": ["None"],
}


@pytest.mark.parametrize("text", [REPORT, SQUEEZED, REPORT.replace("\n", " "), REPORT.replace("\n", "\r\n")])
def test_the_sections_whatever_became_of_the_line_ends(text: str) -> None:
    sections = parse(text)
    assert sections.organs == ORGANS_OF_IT
    assert not (sections.unknown)
    assert not (sections.repeated)
    assert not (sections.outside)


def test_unknown_and_repeated_organs_and_text_outside() -> None:
    sections = parse(
        "Findings as told.\nPleura:\n- Clear.\nBrain:\n- Not seen.\npleura :\n- No effusion.\nAbdominal:\n"
    )
    assert sections.organs == {"Pleura": ["Clear.", "No effusion."], "Brain": ["Not seen."]}
    assert (sections.unknown, sections.repeated, sections.outside) == (["Brain"], ["Pleura"], True)
    squeezed = parse("Pleura:- clearBrain:- Not seen.Pleura:- No effusion.")
    assert squeezed.organs == {"Pleura": ["clearBrain:", "Not seen.", "No effusion."]}  # no sign parts an unknown name
    assert parse("Pleura:- clear.Brain:- Not seen.").unknown == ["Brain"]
    assert parse("Pleura:- clearCardiovascular:- Normal.").organs == {
        "Pleura": ["clear"],
        "Cardiovascular": ["Normal."],
    }


def test_text_without_organs() -> None:
    for text in ("", "   ", "The heart is normal. Pleura clear: no effusion."):
        sections = parse(text)
        assert not sections.organs
        assert sections.outside == bool(text.strip())


def test_scores_by_hand() -> None:
    true = ["Pleura:\n- No effusion.\n\nOther:\n- None", "Abdominal:\n- Gas in the bowel."]
    said = ["Pleura:\n- No pneumothorax.", "Abdominal:\n- Gas in the bowel.\nBrain:\n- Fine."]
    found = score(said, true)
    # organs: Pleura both, Other reference only, Abdominal both, Brain generated only
    assert found["presence"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3})
    assert found["means"]["rouge_1"] == pytest.approx((1 / 2 + 0 + 1 + 0) / 4)  # "no": one of two words each
    assert found["means"]["rouge_2"] == pytest.approx((0 + 0 + 1 + 0) / 4)
    assert found["means"]["bleu_4"] == pytest.approx((0 + 0 + 1 + 0) / 4, abs=1e-3)
    assert list(found["per_organ"]) == ["Pleura", "Abdominal", "Other", "Brain"]
    assert found["per_organ"]["Brain"] == pytest.approx(
        {"generated": 1, "reference": 0, "bleu_4": 0, "rouge_1": 0, "rouge_2": 0, "rouge_l": 0}
    )
    assert found["odd"]["generated"]["unknown organs"] == 1


def test_bleu_of_a_section_in_the_middle() -> None:
    found = score(["Pleura:\n- No large effusion"], ["Pleura:\n- No effusion"])
    # three words at most, so BLEU-3: 2 of 3 words, no pair, no triple: (c + 1e-15) / (g + 1e-9) each
    expected = (2 / 3 * (1e-15 / 2) * 1e-15) ** (1 / 3)
    assert math.isclose(found["means"]["bleu_4"], expected, rel_tol=1e-6)
    assert found["means"]["rouge_1"] == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))


def test_equal_reports_score_one_and_empty_ones_nothing() -> None:
    found = score([REPORT, SQUEEZED], [REPORT, SQUEEZED])
    assert list(found["means"].values()) == pytest.approx([1] * 4)
    assert found["presence"]["f1"] == 1
    nothing = score([""], [REPORT])
    assert list(nothing["means"].values()) == [0] * 4
    assert nothing["presence"] == {"precision": 0, "recall": 0, "f1": 0}
    assert score(["", "free text"], ["", ""])["means"] is None


utterances = st.lists(
    st.sampled_from(["No effusion.", "Clear", "Port in 5 - 6 mm; tip: SVC.", "é"]), min_size=1, max_size=3
)


@given(st.dictionaries(st.sampled_from(ORGANS), utterances, min_size=1, max_size=8))
def test_what_is_written_is_read(organs: dict[str, list[str]]) -> None:
    lines = "\n\n".join(f"{organ}:\n" + "\n".join(f"- {text}" for text in texts) for organ, texts in organs.items())
    assert parse(lines).organs == organs


@given(st.text() | st.lists(st.sampled_from([*ORGANS, ":", "-", "\n", "- ", ".", "x", "Brain"])).map("".join))
def test_any_text_is_read(text: str) -> None:
    sections = parse(text)
    assert all(organ and all(said.strip() for said in texts) and texts for organ, texts in sections.organs.items())
    score([text], [text])
