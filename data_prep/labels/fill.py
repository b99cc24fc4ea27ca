"""Labels for records that have none: by rules, or by CheXbert where its weights are given.

A record keeps the labels its source gave; only a record without any is filled, from its findings and impression, and
`label_source` says by whom. Images of a study share their text and so their labels. Both ways read English alone: a
report in another language leaves its labels unknown, and the study is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

from data_prep.labels.language import is_english
from data_prep.labels.rules import label_report
from data_prep.records import ImageRecord, Quarantine

Labels = dict[str, int | None]
HOW = ("rules", "chexbert")
NOT_ENGLISH = "labels not filled: report not in English"
AT_ONCE = 256  # records looked at together, so that a network sees whole batches


def fill_labels(
    records: Iterable[ImageRecord],
    how: Literal["rules", "chexbert"],
    *,
    weights: Path | None = None,
    tokenizer: Path | str | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[ImageRecord]:
    """The records in their order, those without labels given some. Text that says nothing leaves them unknown.

    weights, tokenizer: of CheXbert (`cogaze.chexbert`). Raises CheXbertError where they cannot be used.
    quarantine: gets a row (kept) for every study whose report is not in English.
    """
    label = _rules if how == "rules" else _chexbert(weights, tokenizer)
    records = iter(records)
    noted: set[tuple[str, str]] = set()
    while some := list(islice(records, AT_ONCE)):
        lacking = [record for record in some if not record.labels]
        texts = dict.fromkeys(text for record in lacking if (text := _text(record)))
        readable = [text for text in texts if is_english(text)]
        found = dict(zip(readable, label(readable), strict=True))
        for record in some:
            text = "" if record.labels else _text(record)
            study = record.source, record.study_id
            if text and text not in found and quarantine is not None and study not in noted:
                noted.add(study)
                quarantine.add(record.source, NOT_ENGLISH, id=record.study_id, kept=True)
            yield replace(record, labels=found[text], label_source=how) if text in found else record


def _text(record: ImageRecord) -> str:
    """Findings and impression as one text; "" without either."""
    return "\n\n".join(part for part in (record.findings, record.impression) if part and part.strip())


def _rules(texts: list[str]) -> list[Labels]:
    return [label_report(text) for text in texts]


def _chexbert(weights: Path | None, tokenizer: Path | str | None) -> Callable[[list[str]], list[Labels]]:
    from cogaze import chexbert

    if weights is None:
        raise chexbert.CheXbertError("labels by CheXbert need its weight file: --chexbert chexbert.pth")
    model = chexbert.load(weights)
    words = chexbert.load_tokenizer(tokenizer or chexbert.TOKENIZER)
    return lambda texts: list(chexbert.label(model, words, texts))
