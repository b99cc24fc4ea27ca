"""Labels of a table's row by the mapping: a column an observation, or one column that lists words."""

from __future__ import annotations

import ast

from cogaze.observations import OBSERVATIONS
from data_prep.table.expressions import Lookup, expand
from data_prep.table.mapping import Labels

CLEAR, DEVICES = "No Finding", "Support Devices"


def labels_of(spec: Labels | None, lookup: Lookup) -> dict[str, int | None]:
    """The label dict of an ImageRecord (records.py). Raises ValueError for a word that the mapping does not know.

    From a list of words, for the observations that words of the mapping stand for:

    - 1: named by a word. A row with another word than No Finding and support devices has No Finding 0.
    - unknown: left open by a word (`open`; a word that the mapping does not know leaves all open), or not named and
      `undecided`.
    - 0: the rest. Where the list says No Finding, and nothing is named or left open, that includes the `undecided`.
    - No Finding is unknown where neither it nor a finding is named: a scoliosis is not normal, yet none of the 14.

    A list that is blank or holds a word of `void` says nothing at all, and neither does a row whose label columns are
    all blank (as where a joined table lacks the image).
    """
    if spec is None:
        return {}
    if spec.columns:
        return _columns(spec, lookup)
    words = _words(expand(spec.column, lookup), spec.separator)
    if not words or set(words) & set(spec.void):
        return {}
    present: set[str] = set()
    left_open: set[str] = set()
    for word in words:
        if word not in spec.names and word not in spec.open:
            if spec.others == "refuse":
                raise ValueError(f"label word {word[:40]!r} is not in labels.names")
            left_open.update(OBSERVATIONS)
        present.update(spec.names.get(word, ()))
        left_open.update(spec.open.get(word, ()))
    findings = present - {CLEAR, DEVICES}
    clear = CLEAR in present and not findings and left_open <= {DEVICES}
    labels: dict[str, int | None] = {}
    for name in spec.named:
        if name == CLEAR:
            if clear or findings:
                labels[name] = int(clear)
        elif name in present:
            labels[name] = 1
        elif name not in left_open and (clear or name not in spec.undecided):
            labels[name] = 0
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
