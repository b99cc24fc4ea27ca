"""Labels from the words of a report, by rules: what is mentioned, what is denied, what is left open.

    report -- sentences -- clauses -- mentions of an observation -- cues before and after each -- 1, 0, -1

In the manner of NegEx (Chapman et al. 2001) and of the CheXpert labeller (Irvin et al. 2019), but small: some four
hundred phrases (phrases.yaml) and no parser. Sentences are cut in sentences.py; how far a cue reaches is reach.py:
"no", "without" and "free of" forwards, "has resolved" and "is not seen" backwards; "may", "suspicious for", "cannot be
excluded", "versus" and a question mark leave open. "No change in", "has not resolved" and their like deny nothing. That
an organ is normal ("heart size is normal") denies what would be wrong with it. A blunted costophrenic angle leaves an
effusion open.

Of an observation's mentions one that asserts it decides, then one that leaves it open, then one that denies it; without
a mention the value is None. No Finding is 1 where nothing but support devices is asserted or left open: neither one of
the other observations nor one of the further abnormalities that the CheXpert labeller counts (hernia, scoliosis,
emphysema ...); else None. `docs/labels.md` says how well this does.
"""

from __future__ import annotations

import re

from cogaze.observations import OBSERVATIONS
from data_prep.labels.language import is_english
from data_prep.labels.phrases import CUES, DEVICES, FURTHER, IGNORED, MENTIONS, NORMAL
from data_prep.labels.reach import Place, spans, values
from data_prep.labels.sentences import clauses, sentences

Said = list[tuple[str, int]]  # observation (or FURTHER) and value

_STRENGTH = {1: 3, -1: 2, 0: 1, None: 0}
_HEADING_WORDS = 6
_NOT_NORMAL = re.compile(r"\babnormal\b|\bnot\b(?! (?:\w+ )?(?:enlarged|increased|widened|prominent))")
_ALL_OF_IT = re.compile(r"(?:both |all )?(?:are|were|have)\b")


def label_report(*sections: str | None) -> dict[str, int | None]:
    """Labels of a report's sections by CheXbert name: 1 asserted, 0 denied, -1 left open, None not mentioned.

    {} (all unknown) where there is no text, or none in English.
    """
    text = "\n\n".join(section for section in sections if section and section.strip())
    if not is_english(text):
        return {}
    found: dict[str, int | None] = dict.fromkeys((*OBSERVATIONS, FURTHER))
    for sentence in sentences(text):
        for name, value in said_in(sentence):
            if _STRENGTH[value] > _STRENGTH[found[name]]:
                found[name] = value
    abnormal = any(found[name] in (1, -1) for name in found if name not in ("No Finding", DEVICES))
    found["No Finding"] = None if abnormal else 1
    del found[FURTHER]
    return found


def said_in(sentence: str) -> Said:
    """(observation, value) of every mention in one sentence.

    A short heading says what follows of it ("Pneumothorax: not seen"), unless what follows names it again.
    """
    sentence = CUES["denies_nothing"].sub(lambda match: "~" * len(match[0]), sentence)
    head, colon, rest = sentence.partition(": ")
    if colon and CUES["goes_on"].search(head):  # "Negative for: effusion"
        return _said_in(clauses(f"{head} {rest}"))
    if colon and len(head.split()) <= _HEADING_WORDS and not CUES["denied_before"].search(head):
        said = _said_in(clauses(rest))
        named = {name for name, _ in said}
        whole = mentions(" is ".join([head, *clauses(rest)[:1]]))
        return said + [(name, value) for name, value in whole if name not in named]
    return _said_in(clauses(sentence))


def _said_in(parts: list[str]) -> Said:
    """Of a sentence's clauses. One without a mention that begins with a cue ("which has resolved", "but a tiny one
    cannot be excluded") speaks of what was mentioned last."""
    said: Said = []
    last = 0  # mentions in the last clause that has any
    for clause in parts:
        now = mentions(clause)
        left_open, denied = CUES["open_of_it"].match(clause), CUES["denied_of_it"].match(clause)
        if now:
            last = len(now)
        elif last and (left_open or denied):
            number = last if _ALL_OF_IT.match(clause) else 1
            said[-number:] = [(name, -1 if left_open else 0) for name, _ in said[-number:]]
        said += now
    return said


def mentions(clause: str) -> Said:
    """(observation, value) of every mention in one clause, in order."""
    found: list[tuple[int, str, int]] = []
    places: list[Place] = []
    unsaid = spans("unsaid", clause)
    for name, pattern in MENTIONS.items():
        taken = bytearray(len(clause))
        ignored = [match.span() for match in IGNORED[name].finditer(clause)] if name in IGNORED else []
        for start, end in unsaid + ignored:
            taken[start:end] = b"\1" * (end - start)
        for match in NORMAL[name].finditer(clause) if name in NORMAL else ():
            if not _NOT_NORMAL.search(match[0]):
                found.append((match.start(), name, -1 if "borderline" in match[0] else 0))
                taken[match.start() : match.end()] = b"\1" * len(match[0])
        places += [(*match.span(), name) for match in pattern.finditer(clause) if not taken[match.start()]]
    if places:
        places.sort()
        for (start, end, name), value in zip(places, values(clause, places), strict=True):
            blunted = name != FURTHER and "blunt" in clause[start:end]  # a costophrenic angle: fluid, or a scar
            found.append((start, name, -1 if blunted and value == 1 else value))
    return [(name, value) for _, name, value in sorted(found)]
