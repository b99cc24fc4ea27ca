"""Cutting a report at its headers (rules 1 and 6 of data_prep/sections/__init__.py)."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

from data_prep.sections.headers import (
    ASKS,
    CLINICAL_SECTIONS,
    CONTEXT,
    CORE,
    DESCRIBES,
    FINDING_WORDS,
    HEADERS,
    NO_VIEW,
    PACKED,
    SPOKEN,
    TELLING,
    TELLING_IN_CONTEXT,
    TELLING_WORDS,
    VIEW_NAME,
)
from data_prep.sections.markup import Visible, unmarked

STOP = re.compile(r"[.;!?]\s+")  # after it a header may begin in the middle of a context line
SEPARATOR = re.compile(r"\s*_{10,}\s*")
TITLE = re.compile(r"\s*(FINAL REPORT|Final Report|(?:FINAL )?ADDENDUM|WET ?READ|PRELIMINARY REPORT)\b:?(.*)")
HEADER = re.compile(r"\s*([A-Za-z][A-Za-z0-9 ()/,&'.#-]{1,60}?)\s*:(.*)")
# "FINDINGS - clear", as some write it
DASHED = re.compile(r"(\s*[A-Z][A-Za-z/& ]{4,30}?)\s+[-\u2013\u2014]+\s+(?=\S)")
COMMENTS = ("wet", "add", "prelim", "prov", "pfi")  # how headers of what comments on a report begin
BREAKS = frozenset("\n\r\f\v\x1c\x1d\x1e\x85\u2028\u2029")  # where str.splitlines cuts
VISIBLE = Visible(BREAKS)


@dataclass
class Part:
    """What stands under one header of a report, up to the next."""

    name: str  # a section name, "combined", "view" (findings under a view's name), "other" or "preamble"
    header: str = ""  # as written, in lower case
    lines: list[str] = field(default_factory=list)
    paragraph: int = 0  # 1 while its first paragraph goes on, 2 after the blank line below it

    @property
    def is_context(self) -> bool:
        return self.name in CONTEXT or self.name == "preamble"

    @property
    def is_open(self) -> bool:
        """Whether it is a context section whose first paragraph goes on: what comes would be taken for context."""
        return self.name in CONTEXT and self.paragraph < 2


def parts_of(text: str) -> list[Part]:
    """The report cut at its headers, in order. Never raises."""
    text = unmarked(text)
    text = text.translate(VISIBLE)  # a NUL must not hide a header
    parts = [Part("preamble")]
    headed: set[str] = set()  # sections that had a header in capitals
    finished = True  # whether the line above ends a sentence or is a header, so that a lower-case header may follow
    for line in text.splitlines():
        opened: str | None
        header = ""
        if SEPARATOR.fullmatch(line):
            opened, rest = "preamble", ""
            headed.clear()
        elif title := TITLE.match(line):
            header, rest = title.group(1).lower(), title.group(2)
            opened = "preamble" if header == "final report" else "other"
        else:
            opened, header, rest = _line_header(line, parts[-1], finished, headed)
        if opened:
            parts.append(Part(opened, header))
            if line.lstrip()[: len(header)].isupper():
                headed.add(opened)
        _add(rest, parts, headed)
        stripped = line.strip()
        if rest.strip():
            parts[-1].paragraph = max(parts[-1].paragraph, 1)
        elif not stripped and parts[-1].paragraph:
            parts[-1].paragraph = 2
        finished = not stripped or bool(opened) or stripped[-1] in ".:;!?"
    return parts


def _line_header(line: str, part: Part, finished: bool, headed: set[str]) -> tuple[str | None, str, str]:
    """(section that this line opens inside `part` or None, its header in lower case, the rest of the line)."""
    nothing = None, "", line
    in_context = part.is_context
    bare = _plain(line) if len(line) < 80 else ""
    if bare in HEADERS and line.lstrip()[0].isupper():  # FINDINGS on its own line, without a colon
        told, opens = HEADERS[bare] in TELLING, HEADERS[bare] not in headed or in_context
        if bare in CORE and (line.isupper() or in_context or (told and opens)):
            return HEADERS[bare], bare, ""
        if told and finished and line.isupper():  # REPORT
            return HEADERS[bare], bare, ""
    match = HEADER.match(line)
    dashed = DASHED.match(line)
    if dashed and _plain(dashed[1]) in CORE and (match is None or dashed.end() < match.start(2)):
        bare = _plain(dashed[1])
        if dashed[1].isupper() or in_context or (HEADERS[bare] in TELLING and HEADERS[bare] not in headed):
            return HEADERS[bare], bare, line[dashed.end() :]
    if match is None:
        return nothing
    raw, rest = " ".join(match.group(1).split()), match.group(2)
    name, capitals = _plain(raw), raw.isupper()
    section = HEADERS.get(name)
    if section is not None and not capitals:
        if section in TELLING and section in headed and (not in_context or part.name == "other"):
            return nothing  # "Findings: discussed with ..." below an IMPRESSION or a NOTIFICATION
        concludes = section == "impression" and finished and section not in headed  # "Opinion: ..."
        loose = part.is_open or part.name == "preamble" or concludes
        begins = name in CORE or loose if raw[0].isupper() else name in CORE and finished
        return (section, name, rest) if begins else nothing
    if section is not None:
        return section, name, rest
    if not (not rest or rest[0].isspace()):
        return nothing
    if not capitals:
        return ("view", name, rest) if _is_view(raw, rest, part) else nothing
    section = _unknown(name, part, headed)
    return (section, name, rest) if section else nothing


def _unknown(name: str, part: Part, headed: set[str]) -> str | None:
    """The section that a name in capitals (given in lower case) opens although no table has it; None for text."""
    in_context, current = part.is_context, part.name
    spoken = SPOKEN.search(name) is not None
    for word, meaning in {**TELLING_WORDS, **(TELLING_IN_CONTEXT if in_context else {})}.items():
        if word not in name:
            continue
        if spoken and (meaning in TELLING or not in_context):  # "FINDINGS WERE DISCUSSED WITH DR X AT: ..."
            return "other" if in_context else None
        told = name.startswith("history of") or headed & CLINICAL_SECTIONS
        if not in_context and meaning in CLINICAL_SECTIONS and told:
            return None  # "HISTORY OF CABG: wires intact" among the findings
        if meaning == current or (meaning == "findings" and current == "view"):
            return None  # OTHER FINDINGS go on with the FINDINGS
        return None if meaning == "findings" and meaning in headed and not in_context else meaning
    if not in_context:
        return None
    return "view" if any(word in name for word in FINDING_WORDS) and not spoken else "other"


def _is_view(raw: str, rest: str, part: Part) -> bool:
    """Whether a name in small letters heads findings inside a context section ("PA and lateral views: ...")."""
    name = raw.lower()
    if not part.is_open or not raw[0].isupper() or not VIEW_NAME.search(name) or NO_VIEW.search(name):
        return False
    return not ASKS.search(rest) and (part.name in CLINICAL_SECTIONS or DESCRIBES.search(rest) is not None)


def _plain(name: str) -> str:
    return " ".join(name.lower().split()).replace(" /", "/").replace("/ ", "/")


def _add(line: str, parts: list[Part], headed: set[str]) -> None:
    """Adds a line to the last part, cut at core headers in its middle (and, see rule 6, at others)."""
    start = 0
    for match in PACKED.finditer(line):
        section = HEADERS[_plain(match[1])]
        if _opens_inside(line, start, match, section, parts[-1], headed):
            _add_context(line[start : match.start()], parts, headed)
            parts.append(Part(section, _plain(match[1])))
            start = match.end()
            if match[1].isupper():
                headed.add(section)
    _add_context(line[start:], parts, headed)


def _opens_inside(line: str, start: int, match: re.Match[str], section: str, part: Part, headed: set[str]) -> bool:
    """Whether a core name with its colon in the middle of a line is a header; from `start` the line is of `part`."""
    in_context, current = part.is_context, part.name
    same = section == current or (section == "findings" and current == "view")
    if match[1].isupper():
        longer = re.search(r"[A-Z] $", line[max(match.start() - 2, 0) : match.start()])
        return not (longer and (same or (section in headed and not in_context)))  # OTHER FINDINGS
    if section not in TELLING:  # "INDICATION: History: ..." is an indication
        expected = part.is_open or (current == "preamble" and section in {"indication", "history"})
        return expected and not same and any(c.isalnum() for c in line[start : match.start()])
    if in_context:
        return current != "other" or section not in headed
    before = match.start() - 1
    while before >= start and line[before].isspace():
        before -= 1
    ended = before < start or line[before] in ".:;!?)"
    return not same and section not in headed and (ended or current not in headed)


def _add_context(text: str, parts: list[Part], headed: set[str]) -> None:
    """Adds a piece of a line to the last part; in a context section a header may follow each full stop."""
    watched = parts[-1].is_open or parts[-1].name == "preamble"
    ends = [match.end() for match in STOP.finditer(text)] if watched else []
    begin = 0
    for at, until in itertools.pairwise([*ends, len(text)]):
        part = parts[-1]
        opened, header, rest = _line_header(text[at:until], part, True, headed)
        known = HEADERS.get(header) != "other" or header.startswith(COMMENTS)
        expected = part.name != "preamble" or opened not in {"technique", "comparison"}
        if opened and opened != part.name and expected and known and (opened != "other" or header in HEADERS):
            part.lines.append(text[begin:at])
            parts.append(Part(opened, header))
            begin = until - len(rest)
            if not parts[-1].is_open:
                break
    parts[-1].lines.append(text[begin:])
