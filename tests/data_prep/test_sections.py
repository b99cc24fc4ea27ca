"""data_prep.sections: reports written here by hand in the shapes of MIMIC-CXR."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sections import SECTIONS, clean_text, decode_report, sections


def found(text: str) -> dict[str, str]:
    return {name: body for name, body in sections(text).items() if body is not None}


PLAIN = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // evaluate for
 pneumonia

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 The heart is mildly enlarged.  Tip 3:15 cm above
 the carina.
 LUNGS:  Clear.

 No pneumothorax.

 IMPRESSION:

 1.  Mild cardiomegaly.
 2.  No pneumonia.

 NOTIFICATION:  Told to Dr. ___ by phone.
"""


def test_plain_report():
    expected = {
        "indication": "year old woman with cough // evaluate for pneumonia",
        "technique": "Chest PA and lateral",
        "findings": "The heart is mildly enlarged. Tip 3:15 cm above the carina. LUNGS: Clear. No pneumothorax.",
        "impression": "1. Mild cardiomegaly. 2. No pneumonia.",
    }
    assert found(PLAIN) == expected
    assert found(PLAIN.replace("\n", "\r\n")) == expected
    assert found(PLAIN + "\f\n") == expected
    assert set(sections(PLAIN)) == set(SECTIONS)


def test_lower_case_headers_without_the_leading_blank():
    text = (
        "Indication: cough\nfindings: a clear chest.\nin comparison with the earlier\n"
        "findings: unchanged\nimpression: none\n"
    )
    # "findings:" after an unfinished line is the middle of a sentence
    assert found(text) == {
        "indication": "cough",
        "findings": "a clear chest. in comparison with the earlier findings: unchanged impression: none",
    }
    assert found("findings: Clear.\nimpression: Normal.\n") == {"findings": "Clear.", "impression": "Normal."}


def test_headers_packed_on_one_line_and_bare_headers():
    assert found(" CLINICAL HISTORY: Pain. COMPARISON: None. FINDINGS: Clear. IMPRESSION: Normal.") == {
        "history": "Pain.", "comparison": "None.", "findings": "Clear.", "impression": "Normal.",
    }  # fmt: skip
    assert found(" FINDINGS\n\n Clear.\n\n IMPRESSION\n Normal.") == {"findings": "Clear.", "impression": "Normal."}


@pytest.mark.parametrize("header", ["FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "IMPRESSION AND FINDINGS"])
def test_combined_header_is_the_impression_unless_one_follows(header):
    assert found(f" {header}:\n Small effusion.\n") == {"impression": "Small effusion."}
    both = f" {header}:\n Small effusion.\n\n IMPRESSION:\n Effusion.\n"
    assert found(both) == {"findings": "Small effusion.", "impression": "Effusion."}


@pytest.mark.parametrize(
    ("header", "section"),
    [
        ("REASON FOR EXAM", "indication"),
        ("REASON FOR EXAMINATION", "indication"),
        ("CLINICAL INDICATION", "indication"),
        ("CLINICAL HISTORY", "history"),
        ("CLINICAL INFORMATION", "history"),
        ("PATIENT HISTORY", "history"),
        ("CONCLUSION", "impression"),
        ("CHEST FINDINGS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PORTABLE AP CHEST", "findings"),
        ("COMPARISONS", "comparison"),
    ],
)
def test_header_variants(header, section):
    assert found(f"\n {header}:  Some words.\n") == {section: "Some words."}


def test_unheaded_findings_never_stay_in_the_context():
    text = (
        " INDICATION:  Cough.\n\n COMPARISON:  None.\n\n PA and lateral views. The lungs are clear.\n\n"
        " IMPRESSION: Normal.\n"
    )
    assert found(text) == {
        "indication": "Cough.",
        "comparison": "None.",
        "findings": "PA and lateral views. The lungs are clear.",
        "impression": "Normal.",
    }
    # with a findings header, the second paragraph of an indication is dropped rather than given away
    assert found(" INDICATION: Cough.\n\n Effusion seen.\n\n FINDINGS: Clear.\n") == {
        "indication": "Cough.", "findings": "Clear.",
    }  # fmt: skip
    assert found(" FINAL REPORT\n CHEST RADIOGRAPH\n The lungs are clear.\n") == {"findings": "The lungs are clear."}
    assert found(" HISTORY: Pain.\n\n Lungs are clear.\n\n NOTIFICATION: By phone.\n")["findings"] == "Lungs are clear."


def test_wet_read_and_addendum_do_not_win():
    text = (
        "                                 WET READ: ___ ___ 9:14 PM\n  Possible pneumonia.\n"
        " ______________________________________________________________________________\n"
        "                                 ADDENDUM  The impression should say:\n IMPRESSION:  Corrected.\n"
        " ______________________________________________________________________________\n"
        "                                 FINAL REPORT\n FINDINGS:  Clear.\n\n IMPRESSION:  Normal.\n"
    )
    assert found(text) == {"findings": "Clear.", "impression": "Normal."}
    assert found(" ADDENDUM  More views were taken.\n ____________________\n") == {}


def test_empty_repeated_and_last_line_sections():
    assert found(" FINDINGS: Clear.\n FINDINGS: ___\n IMPRESSION:") == {"findings": "Clear."}
    assert found(" FINDINGS: First.\n FINDINGS: Second.\n") == {"findings": "Second."}
    assert found(" FINDINGS:\n\n IMPRESSION: ___.\n") == {}
    assert found("") == {}


def test_clean_text():
    assert clean_text("XXXX-year-old male, XXXX.") == "year-old male."
    assert clean_text("compared to ___ , the\x00 tube\f is\u2028gone .") == "compared to, the tube is gone."
    assert clean_text("___, XXXX. ;") is None
    assert clean_text("None") == "None"
    assert clean_text(None) is None


def test_decode_report():
    assert decode_report("\ufeffÉtude".encode()) == "Étude"
    assert decode_report(b"patient\x92s \x81") == "patient’s \ufffd"


HEADS = st.sampled_from(
    ("FINDINGS:|impression:|Indication :|HISTORY|\n\n|____________|FINAL REPORT|WET READ:|CHEST:|___|\r\n |" + "A" * 80)
    .split("|")
)  # fmt: skip


@given(st.lists(st.one_of(HEADS, st.text(max_size=30)), max_size=25).map("".join))
def test_any_text_gives_clean_sections(text):
    for body in sections(text).values():
        assert body is None or (body == " ".join(body.split()) and "___" not in body and any(c.isalnum() for c in body))


@given(st.binary(max_size=200))
def test_any_bytes_are_read(data):
    sections(decode_report(data))
