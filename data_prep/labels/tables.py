"""Label tables by name: the CheXpert-style tables of MIMIC-CXR.

Columns are found by name, never by position (these tables are alphabetical, CheXbert's order is not).
"""

from __future__ import annotations

from pathlib import Path

from cogaze.observations import OBSERVATIONS
from data_prep.records import Quarantine
from data_prep.tables import Keyed, keyed, number

LabelVector = tuple[int | None, ...]  # one value for each of OBSERVATIONS, in that order

# Header (lower case) -> the CheXbert name it stands for. The radiologist's test labels say Airspace Opacity.
LABEL_ALIASES = {"airspace opacity": "Lung Opacity"}


def read_label_table(path: Path, *, source: str, quarantine: Quarantine) -> Keyed[LabelVector]:
    """study_id -> labels of a CheXpert-style table (1.0, 0.0, -1.0, blank), in the order of OBSERVATIONS.

    All 14 columns must be there (SourceError names what is missing); a row with another value is a malformed row.
    """
    cache: dict[LabelVector, LabelVector] = {}  # 228,000 studies share some thousand combinations

    def pack(row: dict[str, str]) -> LabelVector:
        values = tuple(_label(name, row[name]) for name in OBSERVATIONS)
        return cache.setdefault(values, values)

    return keyed(path, "study_id", OBSERVATIONS, pack, source=source, quarantine=quarantine, aliases=LABEL_ALIASES)


def as_labels(values: LabelVector) -> dict[str, int | None]:
    """The label dict of an ImageRecord from one row of read_label_table."""
    return dict(zip(OBSERVATIONS, values, strict=True))


def _label(name: str, text: str) -> int | None:
    value = number(text)
    if value != value:  # NaN: blank
        return None
    if value not in (1.0, 0.0, -1.0):
        raise ValueError(f"{name} is {text[:40]!r}, not 1, 0, -1 or blank")
    return int(value)
