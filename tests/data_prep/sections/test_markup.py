"""data_prep.sections.markup: what is a tag, an entity or a spelt-out line break, and what only looks like one."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sections import clean_text, sections
from data_prep.sections.markup import unmarked


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("</p><p>clear &amp; normal.</p><br/>", "clear & normal."),
        ("One.<br>Two.<BR />Three.<div class='x' id=y>Four.</div>", "One. Two. Three. Four."),
        ('<span style="color: red">L</span>eft 1<sup>st</sup> rib', "Left 1st rib"),
        ("<ul><li>No effusion</li><li>Clear</li></ul>", "- No effusion - Clear"),
        ("&lt;br&gt;Nodule &amp;lt; 3 mm &#39;stable&#x27;&nbsp;&quot;new&quot;", "Nodule < 3 mm 'stable' \"new\""),
        (r"One.\nTwo.\r\nThree.\\nFour.\rFive.", "One. Two. Three. Four. Five."),
        ("caf&eacute; 3&deg;", "caf\xe9 3\xb0"),
    ],
)
def test_marks_go_and_their_text_stays(text, clean):
    assert clean_text(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a < b",
            "<3 mm",
            "3 < 5 > 2",
            "p <0.05",
            "<unk> <s> <pad> [SEP] <|endoftext|>",
            "a <b and c> d",
            "<p",
            "<br",
        ),
        *(
            "R&L",
            "AT&T;",
            "PA&lat; views",
            "&top;",
            "& amp;",
            "&#; x",
            "left\\right",
            "c:\\temp",
            "x \\ y",
            "<section-1>",
        ),
    ],
)
def test_what_only_looks_like_a_mark_stays(text):
    assert unmarked(text) == text
    assert clean_text(text) == text.rstrip(";")


def test_removed_words_are_found_behind_tags():
    assert clean_text("<p>___</p>") is None
    assert clean_text("<b>___</b>-year-old <i>male</i>") == "year-old male"


@given(st.text(st.characters(exclude_characters="<&\\")))
def test_text_without_their_characters_comes_back_as_it_is(text):
    assert unmarked(text) is text


@given(st.lists(st.sampled_from(["<", "b", "p", "br", "/", ">", " ", "a=", '"', "'", "&", "amp;", "lt;", "#60;", "x"])))
def test_any_marks_leave_the_other_letters_in_their_order(pieces):
    """x belongs to no tag here but in a value, where a = stands before it."""
    text = "".join(pieces)
    left = unmarked(text)
    assert len(left) <= len(text)
    if "=" not in text:
        assert left.count("x") == text.count("x")


def test_html_and_spelt_out_breaks_open_sections():
    whole = {"indication": "Cough", "findings": "Large effusion.", "impression": "Effusion."}
    for text in (
        "<p>Indication: Cough</p><p>Findings: Large effusion.</p><p>Impression: Effusion.</p>",
        "INDICATION: Cough&lt;br&gt;FINDINGS: Large effusion.&lt;br&gt;IMPRESSION: Effusion.",
        r"INDICATION: Cough\nFINDINGS: Large effusion.\r\nIMPRESSION: Effusion.",
    ):
        assert {name: body for name, body in sections(text).items() if body} == whole


@pytest.mark.parametrize(
    "piece", ["<p ", "<p", "a=b ", "&amp;", "&", "\\", "\\r", '<p a="', "<p a=x/", " ", "<", "&#1"]
)
def test_time_grows_with_length_alone(piece):
    signal.alarm(20)
    try:
        unmarked("<p " + piece * 100_000)
    finally:
        signal.alarm(0)
