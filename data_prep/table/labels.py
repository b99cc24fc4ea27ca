"""Labels of a table's row by the mapping: a column an observation, or one column that lists words."""

from __future__ import annotations

import ast

from data_prep.table.images import Lookup, expand
from data_prep.table.mapping import Labels


def labels_of(spec: Labels | None, lookup: Lookup) -> dict[str, int | None]:
    """The label dict of an ImageRecord (records.py). Raises ValueError for a word that the mapping does not know.

    From a list of words: what is named is 1; of the other observations that words stand for, those in `undecided` are
    unknown and the rest 0. A blank list says nothing at all, and neither does a row whose label columns are all blank
    (as where a joined table lacks the image).
    """
    if spec is None:
        return {}
    if spec.columns:
        return _columns(spec, lookup)
    names = {word.lower(): observations for word, observations in spec.names.items()}
    words = _words(expand(spec.column, lookup), spec.separator)
    if not words:
        return {}
    present: set[str] = set()
    for word in words:
        if word in names:
            present.update(names[word])
        elif spec.others == "refuse":
            raise ValueError(f"label word {word[:40]!r} is not in labels.names")
    labels: dict[str, int | None] = {}
    for observation in dict.fromkeys(name for targets in names.values() for name in targets):
        if observation in present:
            labels[observation] = 1
        elif observation not in spec.undecided:
            labels[observation] = 0
    return labels


def _columns(spec: Labels, lookup: Lookup) -> dict[str, int | None]:
    values = {word.lower(): value for word, value in spec.values.items()}
    words = {observation: expand(expression, lookup).lower() for observation, expression in spec.columns.items()}
    if not any(words.values()):
        return {}
    labels: dict[str, int | None] = {}
    for observation, word in words.items():
        if word not in values:
            raise ValueError(f"label value {word[:40]!r} of {observation} is not in labels.values")
        value = values[word]
        if value != "unknown":
            labels[observation] = value
    return labels


def _words(text: str, separator: str) -> list[str]:
    """The words of a list in lower case: parted by the separator, or a list as Python and JSON write it."""
    if text.startswith("[") and text.endswith("]"):
        try:
            parts = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise ValueError("the list of labels cannot be read") from None
    else:
        parts = text.split(separator)
    return [word for word in (" ".join(str(part).lower().split()) for part in parts) if word]
