"""Is a report in English? The rules read nothing else, and a report they cannot read says nothing, not "No Finding".

Words are counted: those that English alone has, those that other languages alone have (and any with a letter beyond
a-z), and the Latin ones that all share. A report is English where the first outweigh the second and known words are not
rare; a few words without any that is English alone ("Cardiomegaly.") are where most of them are known. Words that stand
in two languages with other meanings ("in", "am", "la", "et", an endotracheal tube) count for neither.
"""

from __future__ import annotations

import re

from data_prep.labels.phrases import PHRASES

ENGLISH, SHARED, OTHERS = (frozenset(PHRASES["words"][name].split()) for name in ("english", "shared", "others"))
_WORD = re.compile(r"[^\W\d_]+")
_BEYOND = re.compile(r"[^\x00-\x7f]")
MIN_KNOWN, MIN_KNOWN_ALONE = 0.25, 0.6  # shares of known words; the second where none is English alone


def is_english(text: str) -> bool:
    """Whether `text` reads as English. False for a text without any word."""
    words = [word for word in _WORD.findall(text.lower()) if len(word) > 1]
    if not words:
        return False
    english = sum(word in ENGLISH for word in words)
    others = sum(word in OTHERS or _BEYOND.search(word) is not None for word in words)
    known = english + sum(word in SHARED for word in words)
    if others >= english and others:
        return False
    return known / len(words) >= (MIN_KNOWN if english else MIN_KNOWN_ALONE)
