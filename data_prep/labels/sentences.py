"""A report cut into sentences and clauses, in plain spelling: what the rules (rules.py) read.

The stored text of a report is one line: lists have lost their line breaks, and a missing full stop must not let a
denial run on. A sentence therefore also ends at a bullet (" - "), a list number ("2. "), a semicolon, a full stop
without a blank after it, and before a capital that follows a small letter ("No pneumothorax Moderate effusion").
A clause ends within a sentence where another verb begins.
"""

from __future__ import annotations

import re
import unicodedata

_SIGNS = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2212": "-"}
    | {"\u2014": " - ", "\u2022": " * ", "\u25cf": " * ", "\u25aa": " * ", "\u00b7": " * "}
)
# Before lower case: paragraphs, list items, a full stop without its blank, and a capital where no sentence ended. On a
# line of its own any capital opens a finding; on the same line only these words do, which are no names.
_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\(?\d{1,2}[.)])\s)|(?<=[a-z]{2})\.(?=[A-Z])")
_CAPITAL = re.compile(
    r"\b([a-z]+)(?: *\n\s*(?=[A-Z][a-z])|\s+(?=(?:No|There|The|This|Small|Moderate|Large|Mild|Minimal|Severe|Stable|"
    r"Unchanged|Persistent|Left|Right|Bilateral|Bibasilar|Heart|Lungs?|Cardiac|Mediastinal|Normal|Interval|Old|New|Trace|"
    r"Tiny|Possible|Probable|Low|Multiple|Bones|Bony|Osseous|Degenerative|Status|Patchy)\b(?! ?-)))"
)
_CONNECTIVES = (
    "a an the of or and nor in on at to with for no not without is are was were from by any this that be may as"
)
_QUALIFIERS = (
    "large small new acute focal definite significant left right discrete obvious evident suspicious bilateral"
)
_GOES_ON = frozenset(f"{_CONNECTIVES} {_QUALIFIERS}".split())  # after one of these the sentence has not ended
_ENDS = re.compile(
    r";|[.!](?=\s|$)|\?(?=\s|$)|(?<!\S)\(?\d{1,2}[.)](?=\s|[a-z])|(?:(?<=\s)|^)\*(?=\s)|"
    r"(?:(?<=[^\d\s])\s|^)-\s(?!(?:or|and|nor|sided|rays?|up|a|in|to|parenchymal|displaced|gastric|like|based|cath)\b)"
)
# How one writes and how one means it.
_SPELT = {
    r"n't\b": " not",
    r"\bcan ?not\b": "cannot",
    r"\bca not\b": "cannot",
    r"(?<!\w)w/o\b": "without",
    r"(?<!\w)w/(?=\s|[a-z])": "with ",
    r"(?<!\w)r/o\b": "rule out",
    r"(?<!\w)[hx]/o\b": "history of",
    r"(?<!\w)s/p\b": "status post",
    r"(?<!\w)c/w\b": "consistent with",
    r"(?<!\w)(?:\+/-|±)": "possible",
    r"\band/or\b": "or",
    r"\b(vs|dr|mr|mrs|ms|approx)\.": r"\1",
    r"\bprob\.": "probable",
    r"\bposs\.": "possible",
    r"(?<!\S)\?\s*(?=\w)": "question of ",
    r"\(\s*-\s*\)": " is absent ",
    # "Pneumothorax: none." "Effusion - no" "Pneumothorax? No."
    r"\s*(?:\s-|:|\?)\s*(?:none(?: seen| identified| present)?|no(?: evidence)?|nil|neg(?:ative)?|absent|n/a)"
    r"(?=\s*(?:[.,;()]|$| - ))": " is absent",
    r"\s*(?:\s-|:)\s*(possible|probable|suspected|questionable|equivocal|unlikely|resolved|cleared|removed|excluded)"
    r"(?=\s*(?:[.,;()]|$| - ))": r" is \1",
}
_SPELT_AS = [(re.compile(pattern), plain) for pattern, plain in _SPELT.items()]

# Where a clause ends. After a comma or "and" a new one begins where a verb follows.
_CLAUSE = re.compile(
    r":|\b(?:but|however|although|though|except|apart from|aside from|nevertheless|yet|whereas|while|which|"
    r"(?<!\bbe )(?<!likely )(?<!probably )(?<!possibly )(?:secondary|due) to|because)\b|"
    r"\band (?=(?:there (?:is|are)|the|an?) |\w+(?: \w+){0,3} (?:is|has|remains) )|"
    r"(?P<plural>\band (?=\w+(?: \w+){0,3} (?:are|have|remain) ))|"
    r", (?=(?:there|the|an?|again|stable|unchanged|persistent|mild|moderate|small|left|right|bilateral|and the|with)\b"
    r"[^,]*\b(?:is|are|has|have|was|were|remains?|persists?|noted|seen|present|again)\b)|"
    r"(?<!\bor), (?=with )"
)

_SAYS_SOMETHING = re.compile(
    r"\b(?:is|are|was|were|has|have|there|no|not|without|seen|noted|present|remains?|persists?|unchanged)\b"
)


def sentences(text: str) -> list[str]:
    """A text's sentences in lower case, white space as single blanks, "?" as a word of its own at a question's end."""
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    text = _CAPITAL.sub(lambda match: match[0] if match[1] in _GOES_ON else match[1] + "; ", text)
    text = " ".join(_PARAGRAPH.sub("; ", text).lower().split())
    for pattern, plain in _SPELT_AS:
        text = pattern.sub(plain, text)
    found, start = [], 0
    for end in _ENDS.finditer(text):
        found.append(text[start : end.start()] + (" ?" if end[0] == "?" else ""))
        start = end.end()
    found = [" ".join(sentence.split()).strip(" ,.-") for sentence in (*found, text[start:])]
    return [sentence for sentence in found if sentence not in ("", "?")]


def clauses(sentence: str) -> list[str]:
    """A sentence's clauses: the reach of a cue ends with its clause."""
    pieces, start = [], 0
    for end in _CLAUSE.finditer(sentence):
        # "infiltrates and engorgement have resolved": one clause where nothing is said of the infiltrates before
        if not end["plural"] or _SAYS_SOMETHING.search(sentence, start, end.start()):
            pieces.append(sentence[start : end.start()])
            start = end.end()
    return [part for part in (piece.strip(" ,.") for piece in (*pieces, sentence[start:])) if part]
