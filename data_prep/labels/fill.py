"""Labels for records that have none: by rules, or by CheXbert where its weights are given.

A record keeps the labels its source gave; only a record without any is filled, from its findings and impression, and
`label_source` says by whom. Images of a study share their text and so their labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

from data_prep.labels.rules import label_report
from data_prep.records import ImageRecord

Labels = dict[str, int | None]
HOW = ("rules", "chexbert")
AT_ONCE = 256  # records looked at together, so that a network sees whole batches


def fill_labels(
    records: Iterable[ImageRecord],
    how: Literal["rules", "chexbert"],
    *,
    weights: Path | None = None,
    tokenizer: Path | str | None = None,
) -> Iterator[ImageRecord]:
    """The records in their order, those without labels given some. Text that says nothing leaves them unknown.

    weights, tokenizer: of CheXbert (`cogaze.chexbert`). Raises CheXbertError where they cannot be used.
    """
    label = _rules if how == "rules" else _chexbert(weights, tokenizer)
    records = iter(records)
    while some := list(islice(records, AT_ONCE)):
        lacking = [record for record in some if not record.labels]
        texts = list(dict.fromkeys(text for record in lacking if (text := _text(record))))
        found = dict(zip(texts, label(texts), strict=True))
        for record in some:
            text = "" if record.labels else _text(record)
            yield replace(record, labels=found[text], label_source=how) if text else record


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
