"""Timed words or phrases -> sentences with start and end, for both gaze data sets.

REFLACX times every word and gives "." a row of its own; EGD times phrases of one or more words, with the period inside.
A sentence runs to its period, question or exclamation mark; a phrase with one in its middle is cut there, its time
shared out by characters. The period of an abbreviation ends none. Words after the last mark make a last sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from data_prep.records import Sentence
from data_prep.sections import clean_text

# A mark can end a sentence at the end of a phrase, before a blank, and before a Capitalised word that follows without
# one; "3.5 cm" goes on.
SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=\S)|(?<=[.?!])(?=[A-Z][a-z])")
# What stands before a period that ends none: titles with their initials, and words that come before another.
ABBREVIATION = re.compile(
    r"(?<![A-Za-z])(?:(?:drs?|mrs?|ms|prof)(?:\.(?:\s*[A-Z]\.)*\s*[A-Z])?|approx|vs|viz|incl|esp|figs?|i\.\s?e|e\.\s?g)$",
    re.IGNORECASE,
)
NUMBERED = re.compile(r"(?<![A-Za-z])(?:nos?|nr)$", re.IGNORECASE)  # before a number: "no. 1"
LETTERS = re.compile(r"(?<![A-Za-z])(?:(?:[A-Za-z]\.\s?)+[A-Za-z]|etc)$")  # before a small letter: "S.V.C. is clear"
ITEM = re.compile(r"\d{1,2}$")  # where it is all that was said: "1. Effusion."
LOOK_BACK = 40  # characters before a mark; none of these is longer


class Phrase(NamedTuple):
    """Words with their start and end in seconds (NaN where not timed); `final` ends the sentence whatever it says."""

    text: str
    start: float
    end: float
    final: bool = False


def sentences(phrases: Iterable[Phrase]) -> tuple[tuple[Sentence, ...], int]:
    """The sentences in the order spoken, and how many had to be left out because none of their words is timed.

    A sentence starts with the earliest of its timed words and ends with the latest, so start <= end even where the
    rows are not in order. Sentences without a letter or digit are left out and not counted: nothing was said.
    """
    done: list[Sentence] = []
    untimed = 0
    words: list[Phrase] = []
    said = ""  # the last LOOK_BACK characters of `words`

    def close() -> None:
        nonlocal untimed, said
        sentence = clean_text(" ".join(word.text for word in words))
        times = [t for word in words for t in (word.start, word.end) if math.isfinite(t)]
        words.clear()
        said = ""
        if sentence and times:
            done.append(Sentence(sentence, min(times), max(times)))
        elif sentence:
            untimed += 1

    for phrase in phrases:
        if not (text := phrase.text.strip()):
            if phrase.final:
                close()
            continue
        if _ends(said, text):
            close()
        for i, piece in enumerate(_pieces(phrase, said)):
            if i:
                close()
            words.append(piece)
            said = f"{said} {piece.text}".strip()[-LOOK_BACK:]
            if piece.final:
                close()
    close()
    return tuple(done), untimed


def _ends(said: str, following: str) -> bool:
    """Whether the mark at the end of `said` (LOOK_BACK characters at most) ends a sentence before `following`."""
    if not said.endswith((".", "?", "!")):
        return False
    before = said[:-1].rstrip()
    if said[-1] != "." or not before:
        return True
    if ABBREVIATION.search(before) or ITEM.match(before):
        return False
    if said[-2].isspace():  # a period of its own: the words before it are no abbreviation
        return True
    return not (
        (NUMBERED.search(before) and following[:1].isdigit()) or (LETTERS.search(before) and following[:1].islower())
    )


def _pieces(phrase: Phrase, said: str) -> Iterator[Phrase]:
    """The phrase cut behind each sentence that ends in its middle; the pieces share its time by their characters."""
    whole = phrase.text.strip()
    texts, begin = [], 0
    for match in SENTENCE_END.finditer(whole):
        before = whole[max(begin, match.start() - LOOK_BACK) : match.start()]
        if not begin:
            before = f"{said} {before}".strip()[-LOOK_BACK:]
        if _ends(before, whole[match.end() : match.end() + 1]):
            texts.append(whole[begin : match.start()])
            begin = match.end()
    texts.append(whole[begin:])
    total, before_it = sum(map(len, texts)) or 1, 0
    for text in texts[:-1]:
        yield Phrase(text, *_share(phrase, before_it / total, (before_it + len(text)) / total))
        before_it += len(text)
    start, end = _share(phrase, before_it / total, 1.0) if before_it else (phrase.start, phrase.end)
    yield Phrase(texts[-1], start, end, phrase.final)


def _share(phrase: Phrase, begin: float, end: float) -> tuple[float, float]:
    """Start and end in seconds of a part of the phrase, from its fractions."""
    length = phrase.end - phrase.start
    return phrase.start + length * begin, phrase.start + length * end
