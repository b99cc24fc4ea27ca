"""data_prep.sections: reports written here by hand in the shapes of MIMIC-CXR."""

from __future__ import annotations

import re
import signal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.sections import SECTIONS, clean_text, decode_report, sections
from data_prep.sections.parts import VISIBLE


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
    assert set(sections(PLAIN)) == {*SECTIONS, "last_paragraph"}


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


def test_beside_a_combined_section_nothing_is_findings_but_what_is_headed_so():
    text = " HISTORY: Pain.\n\n Two views. The lungs are clear.\n\n FINDINGS AND IMPRESSION:\n Small effusion.\n"
    assert found(text) == {"history": "Pain.", "impression": "Small effusion."}
    assert found(f" FINDINGS: Clear.\n{text}") == {
        "findings": "Clear.", "history": "Pain.", "impression": "Small effusion.",
    }  # fmt: skip


@pytest.mark.parametrize(
    "header",
    [
        *("FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "IMPRESSION AND FINDINGS"),
        *("FINDINGS/ IMPRESSION", "FINDINGS /IMPRESSION", "FINDINGS  / IMPRESSION"),
    ],
)
def test_combined_header_is_the_impression_unless_one_follows(header):
    assert found(f" {header}:\n Small effusion.\n") == {"impression": "Small effusion."}
    both = f" {header}:\n Small effusion.\n\n IMPRESSION:\n Effusion.\n"
    assert found(both) == {"findings": "Small effusion.", "impression": "Effusion."}


@pytest.mark.parametrize(
    "header", ["PFI", "RECOMMENDATION(S)", "EXAM", "WETREAD", "DR. X, DICTATING", "ROOM 12", "NOTE"]
)
def test_headers_of_none_of_the_six(header):
    assert found(f" INDICATION: Pain.\n {header}:  Some words.\n IMPRESSION: Fine.\n") == {
        "indication": "Pain.", "impression": "Fine.",
    }  # fmt: skip


def test_what_follows_a_header_of_none_of_the_six():
    """It is context like the others: its first paragraph is its own, and a view's name after it heads findings."""
    assert found(" EXAM: Chest.\n\n Lungs are clear.\n") == {"last_paragraph": "Lungs are clear."}
    assert found(" EXAM: Chest.\n PORTABLE AP CHEST: Clear.\n") == {"findings": "Clear."}
    assert found(" EXAM: Chest.\n CLINICAL CONCERN: Pain.\n") == {"history": "Pain."}


def test_names_inside_findings_are_their_text():
    text = " FINDINGS: One.\n OTHER FINDINGS: Two.\n CLINICAL CORRELATION: Three.\n HEART: Four.\n Ratio 3:15.\n"
    assert found(text) == {
        "findings": "One. OTHER FINDINGS: Two. CLINICAL CORRELATION: Three. HEART: Four. Ratio 3:15."
    }
    assert found(" INDICATION: She fell\n AT 3:15 TODAY.\n IMPRESSION: Fine.\n") == {
        "indication": "She fell AT 3:15 TODAY.", "impression": "Fine.",
    }  # fmt: skip
    assert found(" CHEST, TWO VIEWS: One.\n BONE FINDINGS: Two.\n") == {"findings": "One. BONE FINDINGS: Two."}


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
        ("COMPARISON FILM", "comparison"),
        ("COMPARRISON", "comparison"),
        ("REFERENCE EXAM", "comparison"),
        ("PRIOR CHEST RADIOGRAPHS", "comparison"),
        ("PA AND LAT CHEST", "findings"),
        ("FRONTAL AND LATERAL VIEWS", "findings"),
        ("RIBS, TWO VIEWS", "findings"),
        ("BONE WINDOW", "findings"),
        ("CHEST, 2 VIEWS", "findings"),
        ("FINDNGS", "findings"),
        ("IMPRESSOIN", "impression"),
        ("MPRESSION", "impression"),
        ("IMPRESSION AND RECOMMENDATIONS", "impression"),
        ("FINDINGS/ IMPRESSION", "impression"),
        ("NDICATION", "indication"),
        ("REASON FOR CHEST X-RAY", "indication"),
        ("CLINICAL CONCERN", "history"),
        ("MEDICAL HISTORY (PATIENT)", "history"),
        ("TECHNIQUE AND VIEWS", "technique"),
        ("Impression", "impression"),
        ("reason for exam", "indication"),
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
    # what follows the impression is none, whatever is headed there
    after = (
        " HISTORY: Pain.\n\n Lungs are clear. Heart is normal.\n\n IMPRESSION: Normal.\n\n DOSE: 1.\n\n Read. Signed.\n"
    )
    assert found(after)["findings"] == "Lungs are clear. Heart is normal."
    # with a findings header, the second paragraph of an indication is dropped rather than given away
    assert found(" INDICATION: Cough.\n\n Effusion seen.\n\n FINDINGS: Clear.\n") == {
        "indication": "Cough.", "findings": "Clear.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Portable chest radiograph at 5 pm.", False),
        ("One two three four five six seven eight nine ten eleven.", False),
        ("One two three four five six seven eight nine ten eleven twelve", True),
        ("Lungs are clear. Heart is normal.", True),
        ("Is it clear? Yes", False),
        ("Is it clear? Yes!", True),
        ("Nodule of 3.5 cm, see no. 2", False),
    ],
)
def test_beside_an_impression_a_short_sentence_is_no_findings(text, counts):
    """Twelve words or two sentences are; less names the images. Without an impression nothing is too short."""
    report = f" HISTORY: Pain.\n\n {text}\n"
    findings = {"findings": text} if counts else {}
    assert found(f"{report}\n IMPRESSION: Normal.\n") == {"history": "Pain.", **findings, "impression": "Normal."}
    assert found(report) == {"history": "Pain.", "last_paragraph": text}


def test_without_findings_and_impression_the_last_paragraph_goes_by_its_own_name():
    assert found(" FINAL REPORT\n CHEST RADIOGRAPH\n The lungs are clear.\n") == {
        "last_paragraph": "The lungs are clear."
    }
    assert found(" HISTORY: Pain.\n\n Lungs are clear.\n\n NOTIFICATION: By phone.\n") == {
        "history": "Pain.", "last_paragraph": "Lungs are clear.",
    }  # fmt: skip
    assert found(" COMPARISON: None.\n \n One.\n \n Two.\n") == {"comparison": "None.", "last_paragraph": "One. Two."}
    assert found(" FINDINGS: Clear.\n \n Two.\n") == {"findings": "Clear. Two."}


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
    assert found(" ADDENDUM\n FINDINGS: Larger.\n ____________________\n") == {"findings": "Larger."}
    assert found(f" ADDENDUM  More views.\n {'_' * 10}\n Clear.\n") == {"last_paragraph": "Clear."}  # a separator
    assert found(f" ADDENDUM  More views.\n {'_' * 9}\n Clear.\n") == {}
    assert found(" WETREAD: ___ ___ 8:15 AM\n  Possible pneumonia.\n") == {}


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
    ("FINDINGS:|impression:|Indication :|HISTORY|\n\n|____________|FINAL REPORT|WET READ:|CHEST:|___|\r\n |,|. |-|;:|X|"
     "\0|\f|<br>|IMPRESSION/FINDINGS:|PRIOR STUDY:|words|" + "A" * 80)
    .split("|")
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@example(
    " INDICATION: cough,\n\n. fever"
)  # what is cleaned away at the end of a piece is cleaned away within the whole
@example(" FINDINGS: clear -\n IMPRESSION:-___-")
@given(st.lists(st.one_of(HEADS, st.text(max_size=30)), max_size=25).map("".join))
def test_any_text_gives_pieces_of_itself(text):
    whole = clean_text(text)
    for body in sections(text).values():
        assert body is None or (body == " ".join(body.split()) and "___" not in body and any(c.isalnum() for c in body))
        assert body is None or (whole is not None and body in whole)


@pytest.mark.parametrize(
    "text",
    [
        " IMPRESSION: " + "word " * 10_000,
        " FINDINGS: Clear.\n IMPRESSION:\n" + " ".join(["FINDINGS", "IMPRESSION", "ratio 3:15"] * 20_000),
        "INDICATION: x\n\n" * 20_000,
        " EXAM: A\n" * 40_000,
        "A" * 400_000 + ":",
        " " * 400_000 + "FINDINGS:",
        "_" * 400_000 + "\n FINDINGS: a" + ",;:" * 100_000,
        "-" * 200_000 + " FINDINGS: a" + " ." * 100_000,
        "Indication: " + "a. B" * 50_000 + ". PA views: " * 8_000,
        "Indication: a. Findings: b " + "Impression: c. Findings: d " * 8_000,
        "Findings: b " + "Findings: c " * 15_000,
        "Indication: a" + "; The lungs" * 15_000,
        "Indication: a\n\n" + "Please evaluate.\n\n" * 15_000 + "Impression: b",
        "IMPRESSION: COMPARISON: " * 15_000,
        "Clinical" + " " * 400_000 + "history:" + "Reason for " * 15_000,
        "Indication: a. " + "No a, a, a, a " * 15_000,
        "Indication" + " -" * 200_000,
        "<p " + "a=b " * 50_000 + "&amp;" * 50_000 + "\\" * 200_000,
    ],
)  # fmt: skip
def test_time_grows_with_length_alone(text):
    """Each takes well under a second; anything that backtracked would take hours, which the alarm cuts short."""
    signal.alarm(20)
    try:
        sections(text)
    finally:
        signal.alarm(0)


@given(st.binary(max_size=200))
def test_any_bytes_are_read(data):
    sections(decode_report(data))


def test_odd_characters():
    assert found("\x00 FINDINGS\x00: a\x00clear\x1b chest \U0001fac1 <br> 5 < 6 ||| [SEP]\f IMPRESSION: ok\x85") == {
        "findings": "a clear chest \U0001fac1 5 < 6 ||| [SEP]", "impression": "ok",
    }  # fmt: skip
    assert found("<b>FINDINGS:</b> Clear.<p>IMPRESSION:</p> Normal.") == {
        "findings": "Clear.", "impression": "Normal.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".5 cm nodule.", ".5 cm nodule."),
        ("A .5 cm nodule", "A .5 cm nodule"),
        ("A ___ .5 cm, .4 cm nodule", "A .5 cm, .4 cm nodule"),
        ("with ?pleural effusion", "with ?pleural effusion"),
        ("with ??pleural effusion ??", "with ??pleural effusion??"),
        ("?edema", "?edema"),
        ("___ . Stable, ___, ___ ?", "Stable,?"),
        ("CT of ___ .", "CT of."),
    ],
)
def test_numbers_and_questions_stay(text, expected):
    assert clean_text(text) == expected


@given(st.text("a5 _X-.,;:!?\n\t\0\x85\u2028\u200bé\U0001fac1", max_size=40))
def test_tidy_is_the_plain_formula(text):
    """The quick ways (tables of characters, replacement) against character by character and regular expressions."""
    slow = re.sub(r"-?(?:_{2,}|X{4,})-?", " ", text)
    slow = " ".join("".join(c if c.isprintable() else " " for c in slow).split())
    slow = re.sub(r" +([,;:!]|\.(?!\d)|\?+(?![?\w]))", r"\1", slow)
    slow = re.sub(r"[,;:]+(?=[;:,]|\.(?!\d))", "", slow).rstrip(",;: ")
    while slow and (slow[0] in ",;: " or (slow[0] == "." and not slow[1:2].isdigit())):
        slow = slow[1:]
    assert clean_text(text) == (slow if any(c.isalnum() for c in slow) else None)
    breaks = "\n\r\f\v\x1c\x1d\x1e\x85\u2028\u2029"
    assert text.translate(VISIBLE) == "".join(c if c.isprintable() or c in breaks else " " for c in text)
