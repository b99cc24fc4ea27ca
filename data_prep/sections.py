"""Finding the sections of a free-text radiology report.

Reports of MIMIC-CXR are plain text: a title line (FINAL REPORT), lines that begin with one blank, headers in capitals
with a colon, de-identified words as `___`. Around this plain case stand the wild ones: headers in lower case or packed
on one line, a WET READ block or addenda on top (parted by a line of underscores), FINDINGS AND IMPRESSION in one, and
findings without a header after the last context section. Rules:

1. A line that starts with a header opens a section. Names in HEADERS count in capitals; those in CORE also Capitalised,
   after a finished line in lower case, and in capitals in the middle of a line. An unknown name in capitals ends a
   context section and is plain text inside findings and impression ("LUNGS: clear" belongs to FINDINGS).
2. Indication, history, technique and comparison are one paragraph: what follows their first blank line is not context.
   Without a findings header, the paragraphs after the last such section are the findings (else the text before the
   first header). This keeps unheaded findings out of the context, where they would give the report away.
3. The last non-empty section of a name wins (addenda stand on top). FINDINGS AND IMPRESSION counts as impression,
   or as findings where an impression of its own follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SECTIONS = ("findings", "impression", "indication", "history", "technique", "comparison")

HEADERS: dict[str, str] = {
    name: section
    for section, names in {
        "findings": "findings|finding|report|description|discussion",
        "impression": "impression|impressions|conclusion|conclusions|opinion|summary|interpretation|"
        "final impression|impresson|imression",
        "combined": "findings and impression|findings/impression|findings / impression|impression and findings|"
        "impression/findings|findings & impression|findings, impression",
        "indication": "indication|indications|clinical indication|clinical indications|reason for exam|"
        "reason for examination|reason for this examination|reason for this exam|reason for study|reason for the study|"
        "reason|indication/history|indication and history|clinical question|indicaton|ndication",
        "history": "history|clinical history|clinical information|clinical info|patient history|medical history|"
        "clinical data|clinical details|clinical notes|clinical presentation|clinical statement|past medical history|"
        "medical condition|underlying medical condition|history of present illness",
        "technique": "technique|techniques|method|methods|procedure comments",
        "comparison": "comparison|comparisons|comparison exam|comparison study|comparison studies|comparision|"
        "prior studies|prior study|reference exam",
        "other": "examination|exam|exams|study|studies|procedure|procedures|type of exam|type of examination|exam type|"
        "date|date of exam|time|notification|notifications|recommendation|recommendations|recommendation(s)|dose|"
        "radiation dose|contrast|wet read|addendum|addenda|final addendum|pfi|provisional findings impression (pfi)|"
        "provisional findings|preliminary report|attending|referring physician|dictated by|signed by|communication",
    }.items()
    for name in names.split("|")
}

CONTEXT = frozenset({"indication", "history", "technique", "comparison", "other"})
# A header in capitals with one of these words heads findings although no table knows it ("PORTABLE CHEST, AP:").
FINDING_WORDS = (
    "chest", "pa and lat", "portable", "frontal", "lateral", "upright", "supine", "view", "radiograph", "x-ray",
    "lungs", "heart", "pleura", "mediastin", "ribs", "bones", "lines and tubes",
)  # fmt: skip

# Names that are headers in any case and anywhere in a line; the others are too common as words of a sentence.
CORE = {*SECTIONS, "indications", "comparisons", "conclusion", "clinical history", "clinical information"} | {
    "clinical indication", "reason for exam", "reason for examination", "reason for this examination",
    "findings and impression", "findings/impression", "impression and findings",
}  # fmt: skip
SEPARATOR = re.compile(r"\s*_{10,}\s*")
TITLE = re.compile(r"\s*(FINAL REPORT|Final Report|(?:FINAL )?ADDENDUM|WET READ|PRELIMINARY REPORT)\b:?(.*)")
HEADER = re.compile(r"\s*([A-Za-z][A-Za-z ()/,&'-]{1,60}?)\s*:(.*)")
PACKED = re.compile(r"(?<![A-Za-z/])(" + "|".join(re.escape(n.upper()) for n in sorted(CORE, key=len)[::-1]) + r")\s*:")
# Words removed by de-identification: `___` in MIMIC-CXR, `XXXX` in the Indiana collection, with hyphens they hang on.
REMOVED_WORD = re.compile(r"-?(?:_{2,}|X{4,})-?")


def sections(text: str) -> dict[str, str | None]:
    """The six sections of SECTIONS as one-line texts, None where absent or empty. Never raises."""
    parts = _parts(text)
    found: dict[str, str | None] = dict.fromkeys(SECTIONS)
    combined = unnamed = None
    for part in parts:
        head, _ = _first_paragraph(part.lines) if part.name in CONTEXT else (part.lines, [])
        body = clean_text("\n".join(head))
        if body is None or part.name in {"other", "preamble"}:
            continue
        if part.name == "combined":
            combined = body
        elif part.name == "view":
            unnamed = body
        else:
            found[part.name] = body
    if combined and found["impression"] is None:
        found["impression"] = combined
    elif combined and found["findings"] is None:
        found["findings"] = combined
    if found["findings"] is None and combined is None:
        found["findings"] = unnamed or _unheaded(parts)
    return found


def decode_report(data: bytes) -> str:
    """Report bytes as text: UTF-8, else Windows-1252 with replacement characters. Never raises."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def clean_text(text: str | None) -> str | None:
    """One line of text without control characters and removed words (`___`, `XXXX`); None when no word is left."""
    if text is None:
        return None
    text = REMOVED_WORD.sub(" ", text)
    text = "".join(c if c.isprintable() else " " for c in text)
    text = " ".join(text.split())
    text = re.sub(r" +([.,;:?!])", r"\1", text)  # the blank that a removed word leaves before punctuation
    text = re.sub(r"[,;:]+(?=[.;:,])", "", text).lstrip(".,;: ")
    return text if any(c.isalnum() for c in text) else None


@dataclass
class _Part:
    name: str  # a section name, "combined", "view" (findings under a view's name), "other" or "preamble"
    lines: list[str] = field(default_factory=list)


def _parts(text: str) -> list[_Part]:
    parts = [_Part("preamble")]
    finished = True  # whether the line above ends a sentence or is a header, so that a lower-case header may follow
    for line in re.split(r"\r\n|[\n\r\f\v\x1c-\x1e\x85\u2028\u2029]", text):
        opened: str | None
        if SEPARATOR.fullmatch(line):
            opened, rest = "preamble", ""
        elif title := TITLE.match(line):
            opened, rest = ("preamble" if title.group(1).lower() == "final report" else "other"), title.group(2)
        else:
            opened, rest = _line_header(line, parts[-1].name, finished)
        if opened:
            parts.append(_Part(opened))
        for packed, piece in _packed(rest):
            if packed:
                parts.append(_Part(packed))
            parts[-1].lines.append(piece)
        stripped = line.strip()
        finished = not stripped or bool(opened) or stripped[-1] in ".:;!?"
    return parts


def _line_header(line: str, current: str, finished: bool) -> tuple[str | None, str]:
    """(section that this line opens or None, the rest of the line)."""
    stripped = line.strip()
    if stripped.isupper() and stripped.lower() in SECTIONS:  # a bare FINDINGS on its own line, without a colon
        return stripped.lower(), ""
    match = HEADER.match(line)
    if match is None:
        return None, line
    raw, rest = " ".join(match.group(1).split()), match.group(2)
    section = HEADERS.get(raw.lower())
    capitals = raw.isupper()
    if section is not None:
        if capitals or (raw.lower() in CORE and (raw[0].isupper() or finished)):
            return section, rest
        return None, line
    if not capitals or not (not rest or rest[0].isspace()):
        return None, line
    for word, meaning in (("impression", "impression"), ("findings", "findings"), ("comparison", "comparison"),
                          ("indication", "indication"), ("history", "history"), ("technique", "technique"),
                          ("addendum", "other")):  # fmt: skip
        if word in raw.lower():
            return meaning, rest
    if current not in CONTEXT | {"preamble"}:
        return None, line
    return ("view" if any(word in raw.lower() for word in FINDING_WORDS) else "other"), rest


def _packed(line: str) -> list[tuple[str | None, str]]:
    """Cuts a line at core headers in capitals: [(None, text before), (section, its text), ...]."""
    pieces: list[tuple[str | None, str]] = []
    section, start = None, 0
    for match in PACKED.finditer(line):
        pieces.append((section, line[start : match.start()]))
        section, start = HEADERS[match.group(1).lower()], match.end()
    pieces.append((section, line[start:]))
    return pieces


def _first_paragraph(lines: list[str]) -> tuple[list[str], list[str]]:
    """(first paragraph, what follows its blank line)."""
    start = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    return lines[start:end], lines[end:]


def _unheaded(parts: list[_Part]) -> str | None:
    """Findings without a header: what follows the last context section before the impression, else the preamble."""
    ends = [i for i, part in enumerate(parts) if part.name in {"impression", "combined"}]
    before = parts[: ends[-1]] if ends else parts
    contexts = [part for part in before if part.name in CONTEXT]
    for context in reversed(contexts):
        after = clean_text("\n".join(_first_paragraph(context.lines)[1]))
        if after:
            return after
        if context.name != "other":  # a trailing NOTIFICATION or DOSE does not hide what stands before it
            break
    preambles = [part for part in before if part.name == "preamble" and any(line.strip() for line in part.lines)]
    if not preambles:
        return None
    # Titles of the examination are lines in capitals without a sentence.
    lines = [line for line in preambles[-1].lines if not line.isupper()]
    return clean_text("\n".join(lines))
