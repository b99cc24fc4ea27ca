"""Labels from the words of a report, by rules: what is mentioned, what is denied, what is left open.

    report -- sentences -- mentions of an observation -- cues before and after each, within its clause -- 1, 0, -1

In the manner of NegEx (Chapman et al. 2001) and of the CheXpert labeller (Irvin et al. 2019), but small: some two
hundred phrases (phrases.yaml) and no parser. A cue reaches from where it stands to the end of its clause ("no focal
consolidation, effusion or pneumothorax, but ..."): denials such as "no", "without" and "free of" forwards, "has
resolved" and "is not seen" backwards; "may", "possible", "suspicious for", "cannot be excluded", "versus" leave open.
"No change in", "not only" and their like deny nothing. That an organ is normal ("heart size is normal") denies what
would be wrong with it.

Of an observation's mentions one that asserts it decides, then one that leaves it open, then one that denies it; without
a mention the value is None. No Finding is 1 where nothing but support devices is asserted or left open, else None, as
the CheXpert labeller has it. `docs/labels.md` says how well this does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

import yaml

from cogaze.observations import OBSERVATIONS

# Where a clause ends, and the reach of a cue with it. After a comma a new clause begins where a verb follows.
_CLAUSE = re.compile(
    r"[;:]|\b(?:but|however|although|though|except|apart from|aside from|nevertheless|yet|whereas|while|which|"
    r"secondary to|due to|because)\b|"
    r"\band (?=(?:there (?:is|are)|the|an?) |\w+(?: \w+){0,3} (?:is|are|has|have|remains?) )|"
    r", (?=(?:there|the|an?|again|stable|unchanged|persistent|mild|moderate|small|left|right|bilateral|and the|with)\b"
    r"[^,;]*\b(?:is|are|has|have|was|were|remains?|persists?|noted|seen|present|again)\b)|"
    r"(?<!\bor), (?=with )"
)
_SENTENCE = re.compile(r"(?<!\S)\d+[.)]\s|[.!?](?=\s|$)|\n\s*\n")
_STRENGTH = {1: 3, -1: 2, 0: 1, None: 0}


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(rf"(?<![\w-])(?:{p})(?![\w])" for p in patterns))


PHRASES = yaml.safe_load((files("data_prep.labels") / "phrases.yaml").read_text(encoding="utf-8"))
_MENTIONS = {name: _any_of(patterns) for name, patterns in PHRASES["mentions"].items()}
_NORMAL = {name: _any_of(patterns) for name, patterns in PHRASES["normal"].items()}
_IGNORED = {name: _any_of(patterns) for name, patterns in PHRASES["ignored"].items()}
_NOT_A_DENIAL, _DENIABLE, _DENIED_BEFORE, _DENIED_AFTER, _OPEN_BEFORE, _OPEN_AFTER = (
    _any_of(PHRASES[kind])
    for kind in ("not_a_denial", "deniable", "denied_before", "denied_after", "open_before", "open_after")
)


# ------------------------------------------------------------------------------------------------ labels
def label_report(*sections: str | None) -> dict[str, int | None]:
    """Labels of a report's sections by CheXbert name: 1 asserted, 0 denied, -1 left open, None not mentioned.

    {} (all unknown) where there is no text at all.
    """
    text = "\n\n".join(section for section in sections if section and section.strip())
    if not text:
        return {}
    found: dict[str, int | None] = dict.fromkeys(OBSERVATIONS)
    for clause in clauses(text):
        for name, value in mentions(clause):
            if _STRENGTH[value] > _STRENGTH[found[name]]:
                found[name] = value
    abnormal = any(found[name] in (1, -1) for name in OBSERVATIONS if name not in ("No Finding", "Support Devices"))
    found["No Finding"] = None if abnormal else 1
    return found


def clauses(text: str) -> list[str]:
    """A text's clauses, lower case, white space as single blanks: the reach of a cue ends with its clause."""
    result = []
    for sentence in _SENTENCE.split(text.lower()):
        plain = " ".join(sentence.split())
        result += [part for part in (piece.strip(" ,.") for piece in _CLAUSE.split(plain)) if part]
    return result


def mentions(clause: str) -> list[tuple[str, int]]:
    """(observation, value) of every mention in one clause."""
    clause = _NOT_A_DENIAL.sub(lambda match: "~" * len(match[0]), clause)
    found: list[tuple[str, int]] = []
    for name, pattern in _MENTIONS.items():
        taken = [match.span() for match in _IGNORED[name].finditer(clause)] if name in _IGNORED else []
        for match in _NORMAL[name].finditer(clause) if name in _NORMAL else ():
            if not re.search(r"\b(?:not|abnormal)\b", match[0]) or "not enlarged" in match[0]:
                found.append((name, -1 if "borderline" in match[0] else 0))
                taken.append(match.span())
        for match in pattern.finditer(clause):
            if not any(start <= match.start() < end for start, end in taken):
                found.append((name, _value(clause, match)))
    return found


def _value(clause: str, mention: re.Match[str]) -> int:
    """1, 0 or -1 of a mention, by the cues around it and inside it."""
    before, after = clause[: mention.end()], clause[mention.start() :]
    denial = _DENIED_BEFORE.search(before)
    for cue in _OPEN_BEFORE.finditer(before):
        # "no opacity to suggest pneumonia", "no suspicious nodule": the denial holds for what was suspected as well
        if not (denial and denial.end() <= cue.start() and _DENIABLE.match(cue[0])):
            return -1
    if _OPEN_AFTER.search(after):
        return -1
    return 0 if denial or _DENIED_AFTER.search(after) else 1
