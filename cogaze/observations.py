"""The field's fixed vocabularies: the 14 CheXbert observations and the view positions.

Both are plain tuples in a fixed order, because tensors index them: `OBSERVATIONS[i]` names column i of every
(B, 14) label or logit tensor, `VIEWS[i]` names row i of the view embedding. Tables are always read by name and
mapped here, never by position (the CheXpert tables of MIMIC-CXR are alphabetical, CheXbert's order is not).
"""

from __future__ import annotations

OBSERVATIONS: tuple[str, ...] = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)

# Row 0 is the embedding of a view that is blank, unknown or not in this list.
VIEWS: tuple[str, ...] = (
    "UNKNOWN",
    "PA",
    "AP",
    "LATERAL",
    "LL",
    "PA LLD",
    "PA RLD",
    "AP LLD",
    "AP RLD",
    "AP AXIAL",
    "LAO",
    "RAO",
    "LPO",
    "RPO",
    "XTABLE LATERAL",
    "SWIMMERS",
)

FRONTAL_VIEWS: frozenset[str] = frozenset({"PA", "AP", "PA LLD", "PA RLD", "AP LLD", "AP RLD", "AP AXIAL"})


def view_index(view: str | None) -> int:
    """Row of the view embedding for a view name; blank, odd or unknown names give 0 (UNKNOWN)."""
    name = " ".join((view or "").upper().split())
    return VIEWS.index(name) if name in VIEWS else 0
