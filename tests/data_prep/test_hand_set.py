"""data_prep.hand_set: the facts are whole, and each kind of fact leads to the text it points at."""

from __future__ import annotations

import hashlib

import pytest

from data_prep.hand_set import RANGES, SECTION_STUDIES, SECTIONS_BY_STUDY, study_sections
from data_prep.sections import sections


def found(text: str, study: str) -> dict[str, str]:
    return {name: body for name, body in study_sections(text, study).items() if body is not None}


def test_the_facts_are_as_many_as_published():
    assert sum(len(studies) for studies in SECTION_STUDIES.values()) == len(SECTIONS_BY_STUDY) == 23
    assert len(RANGES) == 31
    assert sum(span == (0, 0) for span in RANGES.values()) == 8
    assert not SECTIONS_BY_STUDY.keys() & {str(study) for study in RANGES}
    assert all(50_000_000 <= int(study) < 60_000_000 for study in [*RANGES, *SECTIONS_BY_STUDY])
    assert all(0 <= start <= end for start, end in RANGES.values())
    facts = sorted([*SECTIONS_BY_STUDY.items(), *((str(study), str(span)) for study, span in RANGES.items())])
    # as compared with the public code on 2026-11-22; a number mistyped is a report misread
    assert (
        hashlib.sha256(repr(facts).encode()).hexdigest()
        == "6c7e15df12d5208d2f65d332c9162407e864374fc8691ce46e64610a9801764e"
    )


def test_a_named_section_becomes_the_findings():
    text = " INDICATION: Cough.\n \n Lungs are clear.\n \n RECOMMENDATION(S): Mass, do CT.\n"
    assert found(text, "57936451") == {"indication": "Cough.", "findings": "Lungs are clear."}
    assert found(text, "50913680") == {"indication": "Cough.", "findings": "Mass, do CT."}
    # one paragraph alone: it is the text, hence no context
    assert found(" INDICATION: Lungs are clear.\n", "57936451") == {"findings": "Lungs are clear."}
    assert found(" EXAM: CHEST\n \n Clear.\n", "59363654") == {"findings": "Clear."}
    assert found(" NOTE: Clear.\n", "56451190") == {"findings": "Clear."}
    assert found(" HISTORY: Pain.\n \n Clear.\n", "51491012") == {"history": "Pain.", "findings": "Clear."}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_range_of_characters_becomes_the_findings(newline):
    start, end = RANGES[51410602]
    head = "FINAL REPORT\n" + "x\n" * ((start - 13) // 2)
    body = "Lungs are\n clear. ".ljust(end - start)
    assert len(head) == start
    text = (head + body + "dictated by nobody").replace("\n", newline)
    assert found(text, "51410602") == {"findings": "Lungs are clear."}


def test_nothing_usable_and_facts_that_do_not_fit():
    text = " INDICATION: Cough.\n \n Nothing to see here.\n"
    assert found(text, "58235663") == {"indication": "Cough."}  # range 0 to 0
    ordinary = {name: body for name, body in sections(text).items() if body is not None}
    assert ordinary == {"indication": "Cough.", "last_paragraph": "Nothing to see here."}
    assert found(text, "56412866") == ordinary  # the report ends before its range
    assert found(text, "56451190") == ordinary  # it has no NOTE
    assert found(text, "12345678") == found(text, "") == ordinary
