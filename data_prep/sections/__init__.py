"""Finding the sections of a free-text radiology report.

Reports of MIMIC-CXR are plain text: a title line (FINAL REPORT), lines that begin with one blank, headers in capitals
with a colon, de-identified words as `___`. Around this plain case stand the wild ones: headers in lower case or packed
on one line, a WET READ block or addenda on top (parted by a line of underscores), FINDINGS AND IMPRESSION in one, and
findings without a header after the last context section. Exports put the whole report on one line. Rules:

1. A line that starts with a header opens a section. Names in HEADERS count in capitals; those in CORE also Capitalised,
   after a finished line in lower case, and in capitals in the middle of a line. An unknown name in capitals ends a
   context section and is plain text inside findings and impression ("LUNGS: clear" belongs to FINDINGS).
2. Indication, history, technique and comparison are one paragraph: what follows their first blank line is not context.
   Without a findings header, the paragraphs after the last such section are the findings (else the text before the
   first header). This keeps unheaded findings out of the context, where they would give the report away. Beside an
   impression, a short sentence there ("Portable chest radiograph at 5 pm.") names the images and is no finding. A
   paragraph that goes on with an indication or history ("Please evaluate for edema.") belongs to it.
3. The last non-empty section of a name wins (addenda stand on top). FINDINGS AND IMPRESSION counts as impression,
   or as findings where an impression of its own follows.
4. Where neither findings nor impression is headed, what rule 2 finds is `last_paragraph`: a fall-back that goes by its
   own name. A wet read or an addendum without sections of its own is none of these: it comments on a report.
5. Every text is a piece of the report as `clean_text` gives it. Words removed by de-identification (`___`) leave no
   trace, in every section and every source alike; nor do HTML tags and entities.
6. No finding may stand in indication or history, which models are shown. A context section therefore ends wherever
   findings can begin: at Capitalised findings and impression headers anywhere in its lines, at any header after a
   full stop, at the name of a view or organ with a colon ("PA and lateral views of the chest: ..."), and, in the last
   one where no findings are headed, at a sentence that can be nothing else ("The lungs are clear."). What is cut there
   is the findings; where it cannot be, nothing is cut.

The names are in headers.py beside this file.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache

from data_prep.sections.headers import (
    ANATOMY,
    ASKS,
    CLINICAL,
    CLINICAL_SECTIONS,
    CONTEXT,
    DESCRIBES,
    ELSEWHERE,
    IMAGES,
    SECTIONS,
    SHADOWS,
    STATES,
    TELLING,
)
from data_prep.sections.markup import Visible, unmarked
from data_prep.sections.parts import Part, parts_of

LAST_PARAGRAPH = "last_paragraph"
MIN_UNHEADED = 12  # words; or two sentences
SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
# Words removed by de-identification: `___` in MIMIC-CXR, `XXXX` in the Indiana collection, with hyphens they hang on.
REMOVED_WORD = re.compile(r"-?(?:_{2,}|X{4,})-?")
REPEATED_MARK = re.compile(r"[,;:]+(?=[;:,]|\.(?!\d))")
# The blank that a removed word leaves before punctuation. ".5 cm" and "?edema" begin a word.
GAP = re.compile(r" (?=[,;:!]|\.(?!\d)|\?+(?![\w?]))")
LEADING = re.compile(r"(?:[,;: ]|\.(?!\d))+")
VISIBLE = Visible()


def sections(text: str) -> dict[str, str | None]:
    """The six sections of SECTIONS and LAST_PARAGRAPH as one-line texts, None where absent or empty. Never raises."""
    return sections_of(parts_of(text))


def sections_of(parts: list[Part]) -> dict[str, str | None]:
    """As `sections`, from the parts of a report."""
    found: dict[str, str | None] = dict.fromkeys((*SECTIONS, LAST_PARAGRAPH))
    combined = unnamed = None
    parts = _untangled(parts)
    headed = {part.name for part in parts if part.name in TELLING | {"view"} and _tidy("\n".join(part.lines))}
    unheaded = _unheaded(parts) if headed <= {"impression"} else None
    for part in parts:
        head, after = first_paragraph(part.lines) if part.name in CONTEXT else (part.lines, [])
        if part.name in CLINICAL_SECTIONS:
            head = [*head, *after[: len(after) - len(_without_request(after))]]
        body = _tidy("\n".join(head))
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
        found["findings"] = unnamed
        if unnamed is None:
            found[LAST_PARAGRAPH if found["impression"] is None else "findings"] = unheaded
    return found


def decode_report(data: bytes) -> str:
    """Report bytes as text: UTF-8, else Windows-1252 with replacement characters. Never raises."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def clean_text(text: str | None) -> str | None:
    """One line of text without control characters, HTML tags and entities, and removed words (`___`, `XXXX`).

    None when no word is left.
    """
    return None if text is None else _tidy(unmarked(text))


@lru_cache(maxsize=64)  # each text of a report is asked for several times
def _tidy(text: str) -> str | None:
    """As clean_text, of text that is `unmarked` already."""
    if "__" in text or "XXXX" in text:
        text = REMOVED_WORD.sub(" ", text)
    if not text.isprintable():
        text = text.translate(VISIBLE)
    text = " ".join(text.split())
    text = REPEATED_MARK.sub("", GAP.sub("", text))
    if leading := LEADING.match(text):
        text = text[leading.end() :]
    text = text.rstrip(",;: ")
    return text if any(c.isalnum() for c in text) else None


# ----------------------------------------------------------------------------------------- findings without a header
def first_paragraph(lines: list[str]) -> tuple[list[str], list[str]]:
    """(first paragraph, what follows its blank line)."""
    start = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    return lines[start:end], lines[end:]


def _untangled(parts: list[Part]) -> list[Part]:
    """A copy of the parts, with a comparison cut back that swallowed the text."""
    parts = [Part(part.name, part.header, part.lines) for part in parts]
    filled = {part.name for part in parts if _tidy("\n".join(part.lines))}
    for part, following in itertools.pairwise(parts):
        if part.name in TELLING - filled and following.name == "comparison" and not "".join(part.lines).strip():
            head, after = first_paragraph(following.lines)
            text = "\n".join(head)
            end = match.end() if (match := SENTENCE_END.search(text)) else len(text)
            describes = DESCRIBES.search(text, end) is not None
            if part.name != "findings" or describes:  # "IMPRESSION: COMPARISON: ___. Stable effusion."
                part.lines = [text[end:], *after]
                following.lines = [text[:end]]
    return parts


def _parted(lines: list[str]) -> list[str]:
    """The lines of a context section with a blank line before the sentences that describe the images."""
    head, after = first_paragraph(lines)
    text = "\n".join(head)
    begins = [match.end() for match in re.finditer(r"^\s*|[.!?;:]\s+(?=\S)|\n\s*(?=[A-Z])", text)]
    # Lines are wrapped anywhere in a sentence.
    said = [" ".join(text[at:until].split()) for at, until in itertools.pairwise([*begins, len(text)])]
    sure = next((i for i, each in enumerate(said) if STATES.match(each) and not ELSEWHERE.search(each)), None)
    if sure is None:
        return lines
    if (
        lines[:2] and not "".join(lines[:2]).strip()
    ):  # the header stands alone above a blank line: nothing of it is left
        sure = 0
    while sure > 0:
        before = said[sure - 1]
        if not ANATOMY.search(before) or CLINICAL.match(before) or ASKS.search(before):
            break
        sure -= 1
    own = text[: begins[sure]] if sure else "___"  # a first paragraph of which nothing is left
    return [own, "", text[begins[sure] :], *after]


def _unheaded(parts: list[Part]) -> str | None:
    """Findings without a header: what follows the last context section before the impression, else the preamble.

    Where they begin inside that section's first paragraph, its lines are cut there.
    """
    ends = [i for i, part in enumerate(parts) if part.name in {"impression", "combined"} and _tidy("".join(part.lines))]
    before = parts[: ends[-1]] if ends else parts
    contexts = [part for part in before if part.name in CONTEXT]
    for context in reversed(contexts):
        own = context.lines
        cut = context.name != "other" or context.header.startswith(("exam", "study", "type of exam"))
        lines = _parted(own) if cut else own
        after = first_paragraph(lines)[1]
        text = _tidy("\n".join(_without_request(after) if context.name in CLINICAL_SECTIONS else after))
        if text and ends and not _describes(text):
            return None
        if text:
            context.lines = lines
            return text
        if context.name != "other":  # a trailing NOTIFICATION or DOSE does not hide what stands before it
            break
    preambles = [part for part in before if part.name == "preamble" and any(line.strip() for line in part.lines)]
    if not preambles:
        return None
    lines = preambles[-1].lines
    # Titles of the examination are lines in capitals on top.
    start = next((i for i, line in enumerate(lines) if line.strip() and not line.isupper()), len(lines))
    text = _tidy("\n".join(lines[start:]))
    return text if text and (not ends or _describes(text)) else None


def _describes(text: str) -> bool:
    """Whether a text without a header that stands beside an impression is findings, and not the name of the images."""
    sentences = len(SENTENCE_END.findall(text))
    if len(text.split()) >= MIN_UNHEADED or sentences > 1:
        return True
    if CLINICAL.match(text) or ASKS.search(text):
        return False
    return bool(STATES.match(text) or (sentences and ANATOMY.search(text) and not IMAGES.search(text)))


def _without_request(lines: list[str]) -> list[str]:
    """The paragraphs below an indication without those on top that go on with it ("Please evaluate for edema.")."""
    begin = 0
    for blank, group in itertools.groupby(range(len(lines)), key=lambda i: not lines[i].strip()):
        paragraph = list(group)
        said = re.split(r"(?<=[.!?;])\s+", _tidy("\n".join(lines[i] for i in paragraph)) or "")
        asks = [ASKS.search(sentence) is not None for sentence in said]
        clinical = all(ask or CLINICAL.match(sentence) for ask, sentence in zip(asks, said, strict=True))
        describes = any(words.search(sentence) for words in (DESCRIBES, IMAGES, SHADOWS) for sentence in said)
        if not blank and (not any(asks) or not clinical or describes):
            break
        begin = paragraph[-1] + 1
    return lines[begin:]
