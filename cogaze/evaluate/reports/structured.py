"""Reports written organ by organ (SRRG-Findings): which organs are there, and how alike the texts under each are.

    Pleura:                      a header, then a line for each utterance; some files have lost the line ends
    - No effusion.               ("Pleura:- No effusion.- No pneumothorax.Cardiovascular:- ..."), these are found again
    - No pneumothorax.

An organ that one of the two reports lacks scores 0 there, as in StructEval; the means are over all organs of all
reports. Needs the extra `metrics`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cogaze.evaluate import EvaluationError
from cogaze.evaluate.reports.words import ORDERS, tokens

ORGANS = (
    "Lungs and Airways",
    "Pleura",
    "Cardiovascular",
    "Hila and Mediastinum",
    "Tubes, Catheters, and Support Devices",
    "Musculoskeletal and Chest Wall",
    "Abdominal",
    "Other",
)
_BY_NAME = {name.lower(): name for name in ORGANS}
# One of ours wherever it is followed by a colon and an utterance (or nothing); another name where a line or a sentence
# may begin. "clearPleura:- ..." has lost its line end within a word, so a capital after a small letter begins one too.
_KNOWN = r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?P<known>(?i:" + "|".join(re.escape(name) for name in ORGANS) + r"))"
_OTHER = r"(?:^|(?<=\n)|(?<=[.!?]))[ \t]*(?P<other>[A-Z][A-Za-z,&/ ]{1,60}?)"
_HEADER = re.compile(rf"(?:{_KNOWN}|{_OTHER})[ \t]*:(?=\s*(?:-|$|\n))")
# A dash that begins a line or the section, or follows a word or a full stop without a blank: not "5 - 6 mm".
_DASH = re.compile(r"(?:^|\n)[ \t]*-[ \t]*|(?<=[^\s-])-[ \t]+|(?<=[.!?])[ \t]+-[ \t]+")


@dataclass
class Sections:
    """The utterances of each organ in the order of the report, and what was odd about it."""

    organs: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(
        default_factory=list
    )  # headers that are none of ORGANS; they count as organs of their own
    repeated: list[str] = field(default_factory=list)  # organs with a second header; its utterances join the first's
    outside: bool = False  # text stands before the first header


def parse(report: str) -> Sections:
    """The sections of a structured report. A header without an utterance is no organ; nothing else is left out."""
    sections = Sections()
    headers = list(_HEADER.finditer(report))
    sections.outside = bool(report[: headers[0].start() if headers else len(report)].strip())
    for n, header in enumerate(headers):
        name = (header["known"] or header["other"]).strip()
        organ = _BY_NAME.get(name.lower(), name)
        body = report[header.end() : headers[n + 1].start() if n + 1 < len(headers) else len(report)]
        utterances = [" ".join(part.split()) for part in _DASH.split(body) if part.strip()]
        if not utterances:
            continue
        if organ not in ORGANS:
            sections.unknown.append(organ)
        if organ in sections.organs:
            sections.repeated.append(organ)
        sections.organs.setdefault(organ, []).extend(utterances)
    return sections


def score(generated: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Presence of organs (precision, recall, F1 over all), and bleu_4, rouge_1, rouge_2, rouge_l of their texts.

    Means are over every organ that either report of a pair has, 0 where one lacks it. BLEU takes n-grams up to the
    longer text's length where that is under four words, and rouge_2 leaves out pairs in which neither has two words,
    so that equal texts score 1 whatever their length. ROUGE is rouge-score's F1 with stems. Per organ: the same means,
    with the number of generated and reference reports that have it. None where there is no organ at all.
    Raises EvaluationError when the extra is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise EvaluationError(f"structured reports need rouge-score: pip install 'cogaze[metrics]' ({error})") from None
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows: dict[str, list[dict[str, float | None]]] = {}
    said, true = [parse(text) for text in generated], [parse(text) for text in references]
    counts = {"both": 0, "generated": 0, "reference": 0}
    per_organ: dict[str, dict[str, Any]] = {}
    for one, other in zip(said, true, strict=True):
        for organ in [*other.organs, *(name for name in one.organs if name not in other.organs)]:
            here = per_organ.setdefault(organ, {"generated": 0, "reference": 0})
            both = organ in one.organs and organ in other.organs
            counts["both"] += both
            for side, sections in (("generated", one), ("reference", other)):
                counts[side] += organ in sections.organs
                here[side] += organ in sections.organs
            texts = " ".join(one.organs.get(organ, [])), " ".join(other.organs.get(organ, []))
            rows.setdefault(organ, []).append(_alike(rouge, *texts) if both else dict.fromkeys(METRICS, 0.0))
    for organ, here in per_organ.items():
        here |= _means(rows[organ])
    precision = counts["both"] / counts["generated"] if counts["generated"] else 0.0
    recall = counts["both"] / counts["reference"] if counts["reference"] else 0.0
    f1 = 2 * precision * recall / (precision + recall) if counts["both"] else 0.0
    order = [*(name for name in ORGANS if name in per_organ), *sorted(set(per_organ) - set(ORGANS))]
    return {
        "presence": {"precision": precision, "recall": recall, "f1": f1} if per_organ else None,
        "means": _means([row for some in rows.values() for row in some]) if per_organ else None,
        "per_organ": {name: per_organ[name] for name in order},
        "odd": {
            side: {
                "without organs": sum(not one.organs for one in sections),
                "text before the first header": sum(one.outside and bool(one.organs) for one in sections),
                "unknown organs": sum(bool(one.unknown) for one in sections),
                "repeated organs": sum(bool(one.repeated) for one in sections),
            }
            for side, sections in (("generated", said), ("reference", true))
        },
    }


METRICS = ("bleu_4", "rouge_1", "rouge_2", "rouge_l")


def _alike(rouge: Any, said: str, true: str) -> dict[str, float | None]:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    one, other = tokens(said), tokens(true)
    longer = max(len(one.split()), len(other.split()))
    bleu = BleuScorer(one, [other], n=min(ORDERS, longer))
    values = rouge.score(true, said)
    return {
        "bleu_4": float(bleu.compute_score(option="closest")[0][-1]),
        "rouge_1": values["rouge1"].fmeasure,
        "rouge_2": values["rouge2"].fmeasure if longer > 1 else None,
        "rouge_l": values["rougeL"].fmeasure,
    }


def _means(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    known = {name: [value for row in rows if (value := row[name]) is not None] for name in METRICS}
    return {name: sum(values) / len(values) if values else None for name, values in known.items()}
