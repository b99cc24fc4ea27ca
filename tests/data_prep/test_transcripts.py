"""data_prep.transcripts: timed words to sentences, by hand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.records import Sentence
from data_prep.transcripts import Phrase, sentences

NAN = math.nan


def test_words_and_a_period_of_its_own():
    words = [Phrase("mild", 1.0, 1.2), Phrase("edema", 1.3, 1.8), Phrase(".", 1.8, 2.0), Phrase("no", 3.0, 3.1),
             Phrase(",", 3.1, 3.1), Phrase("none", 3.2, 3.5)]  # fmt: skip
    assert sentences(words) == ((Sentence("mild edema.", 1.0, 2.0), Sentence("no, none", 3.0, 3.5)), 0)


def test_a_phrase_with_inner_periods_shares_its_time_by_characters():
    # "Clear." has 6 characters, "The" 3: of 9 seconds 6 and 3
    spoken, _ = sentences([Phrase("Clear. The", 10.0, 19.0), Phrase("heart is 3.5 cm.", 20.0, 22.0)])
    assert spoken == (Sentence("Clear.", 10.0, 16.0), Sentence("The heart is 3.5 cm.", 16.0, 22.0))


def test_periods_in_one_phrase_with_and_without_a_blank():
    """EGD's phrases are typed: "clear.Heart" is two sentences, "3.5" and "U.S.A." are words."""
    # 6 and 9 of 15 characters: 4 and 6 of ten seconds; a blank takes no time
    for text in ("Clear.No edema.", "Clear. No edema.", "Clear.\n No edema. "):
        assert sentences([Phrase(text, 0.0, 10.0)])[0] == (
            Sentence("Clear.", 0.0, 4.0), Sentence("No edema.", 4.0, 10.0),
        )  # fmt: skip
    assert [s.text for s in sentences([Phrase("Tip at 3.5 cm.The U.S.A. film of Dr.b.", 0, 1)])[0]] == [
        "Tip at 3.5 cm.", "The U.S.A. film of Dr.b.",
    ]  # fmt: skip
    (only,), _ = sentences([Phrase("clear.heart", 0.0, 1.0), Phrase("is", 1.0, 2.0, final=True)])
    assert only == Sentence("clear.heart is", 0.0, 2.0)
    assert [s.text for s in sentences([Phrase("One.Two", 0, 1, final=True), Phrase("three", 1, 2)])[0]] == [
        "One.", "Two", "three",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith said no effusion.", []),
        ("Told to Dr. J. R. Smith. No effusion.", ["Told to Dr. J. R. Smith.", "No effusion."]),
        ("Mass of approx. 3 cm.", []),
        ("Film no. 1 is clear. No. 2 too.", ["Film no. 1 is clear.", "No. 2 too."]),
        ("Is there edema? no. The lungs are clear.", ["Is there edema?", "no.", "The lungs are clear."]),
        ("Tip in the S.V.C. is unchanged.", []),
        ("Tip in the S.V.C. The heart is normal.", ["Tip in the S.V.C.", "The heart is normal."]),
        ("Edema vs. pneumonia, i.e. opacities, e.g. at the base.", []),
        ("Film of 5 p.m. today. Clear.", ["Film of 5 p.m. today.", "Clear."]),
        ("1. Effusion. 2. Edema of 3.5 cm.", ["1. Effusion.", "2. Edema of 3.5 cm."]),
        ("Lines, tubes, etc. unchanged.", []),
        ("clear. heart is big! ok", ["clear.", "heart is big!", "ok"]),
        ("Scarring of L5. L4 is normal.", ["Scarring of L5.", "L4 is normal."]),
        ("History of lung ca. No CF. Clear.", ["History of lung ca.", "No CF.", "Clear."]),
    ],
)
def test_periods_of_abbreviations(text, expected):
    """The same sentences from one phrase and from a phrase a word; the time of a phrase is shared by characters."""
    expected = expected or [text]
    whole, _ = sentences([Phrase(text, 0.0, 10.0)])
    assert [s.text for s in whole] == expected
    words = [Phrase(word, float(i), i + 0.5) for i, word in enumerate(text.split())]
    by_words, _ = sentences(words)
    assert [s.text for s in by_words] == expected
    begin, letters, total = 0, 0, sum(map(len, expected))
    for sentence, spoken, share in zip(expected, by_words, whole, strict=True):
        end = begin + len(sentence.split())
        assert (spoken.start, spoken.end) == (begin, end - 0.5)
        assert share.start == pytest.approx(10 * letters / total)
        assert share.end == pytest.approx(10 * (letters + len(sentence)) / total)
        begin, letters = end, letters + len(sentence)


def test_periods_that_are_words_of_their_own():
    """REFLACX: "no ." ends a sentence, "dr ." does not; a question mark is one too."""
    rows = ["effusion", "no", ".", "1", "nodule", ".", "told", "to", "dr", ".", "smith", "?", "yes"]
    spoken, _ = sentences(Phrase(row, float(i), i + 1.0) for i, row in enumerate(rows))
    assert spoken == (
        Sentence("effusion no.", 0.0, 3.0), Sentence("1 nodule.", 3.0, 6.0), Sentence("told to dr. smith?", 6.0, 12.0),
        Sentence("yes", 12.0, 13.0),
    )  # fmt: skip


def test_the_phrase_before_belongs_to_the_sentence():
    spoken, _ = sentences([Phrase("Edema of grade", 0, 1), Phrase("3. Effusion.", 1, 4)])
    assert spoken == (
        Sentence("Edema of grade 3.", 0, 1 + 3 * 2 / 11),
        Sentence("Effusion.", 1 + 3 * 2 / 11, 4),
    )  # 2 of 11 letters
    assert [s.text for s in sentences([Phrase("Told to Dr.", 0, 1), Phrase("J. Smith. Clear.", 1, 2)])[0]] == [
        "Told to Dr. J. Smith.", "Clear.",
    ]  # fmt: skip


def test_blank_phrases_say_nothing():
    spoken, _ = sentences([Phrase("Dr.", 0, 1), Phrase(" ", 1, 50), Phrase("X is here.", 2, 3), Phrase("", -5, 60)])
    assert spoken == (Sentence("Dr. X is here.", 0, 3),)
    assert [s.text for s in sentences([Phrase("a", 0, 1), Phrase("", 1, 2, final=True), Phrase("b", 2, 3)])[0]] == [
        "a",
        "b",
    ]


def test_final_ends_a_sentence_without_a_period():
    assert sentences([Phrase("one", 0, 1, final=True), Phrase("two", 2, 3)])[0] == (
        Sentence("one", 0, 1), Sentence("two", 2, 3),
    )  # fmt: skip


def test_unsorted_untimed_and_punctuation_only():
    spoken, untimed = sentences(
        [
            Phrase("b", 5.0, 4.0),
            Phrase("a.", 1.0, NAN),
            Phrase(".", 6, 7),
            Phrase("lost.", NAN, NAN),
            Phrase("x", -2, -1),
        ]
    )
    assert spoken == (Sentence("b a.", 1.0, 5.0), Sentence("x", -2, -1))
    assert untimed == 1
    assert sentences([]) == ((), 0)


TIMES = st.one_of(st.floats(-10, 100), st.just(NAN))


@given(st.lists(st.builds(Phrase, st.text("ab. ,?1\n", max_size=12), TIMES, TIMES, st.booleans()), max_size=20))
def test_letters_survive_and_start_never_follows_end(phrases):
    spoken, untimed = sentences(phrases)
    assert all(s.start <= s.end and s.text for s in spoken)
    if not untimed:
        assert sum(c in "ab" for s in spoken for c in s.text) == sum(c in "ab" for p in phrases for c in p.text)


@given(st.text("abAB. ?1\n", max_size=40))
def test_one_phrase_keeps_its_time(text):
    """Its sentences follow one another from its start to its end and hold all its letters."""
    spoken, _ = sentences([Phrase(text, 1.0, 3.0)])
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(spoken))
    assert not spoken or (spoken[0].start >= 1.0 and spoken[-1].end <= 3.0 + 1e-9)
    assert sum(c.isalnum() for s in spoken for c in s.text) == sum(c.isalnum() for c in text)
