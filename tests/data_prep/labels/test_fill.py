"""Records without labels get some, the others keep theirs, and the source of each is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogaze.chexbert import CheXbertError
from data_prep.labels.fill import AT_ONCE, NOT_ENGLISH, fill_labels
from data_prep.records import ImageRecord, Quarantine


def record(number: int, findings: str | None, impression: str | None = None, **more: object) -> ImageRecord:
    name = f"i{number}"
    return ImageRecord("x", name, "s", "p", "train", "PA", Path(name), name, findings, impression, **more)  # type: ignore[arg-type]


def test_only_records_without_labels_are_filled() -> None:
    given = [
        record(0, "Small effusion."),
        record(1, "Small effusion.", labels={"Edema": 1}, label_source="mesh"),
        record(2, None, "No edema."),
        record(3, None),
    ]
    filled = list(fill_labels(given, "rules"))
    assert [r.image_id for r in filled] == ["i0", "i1", "i2", "i3"]
    assert (filled[0].labels["Pleural Effusion"], filled[0].label_source) == (1, "rules")
    assert (filled[1].labels, filled[1].label_source) == ({"Edema": 1}, "mesh")
    assert (filled[2].labels["Edema"], filled[2].labels["No Finding"]) == (0, 1)
    assert (filled[3].labels, filled[3].label_source) == ({}, None)  # nothing is said, nothing is known


def test_order_and_number_survive_many_records() -> None:
    given = [record(n, f"Nodule number {n % 7}." if n % 3 else None) for n in range(2 * AT_ONCE + 5)]
    filled = list(fill_labels(iter(given), "rules"))
    assert [r.image_id for r in filled] == [r.image_id for r in given]
    assert [bool(r.labels) for r in filled] == [bool(r.findings) for r in given]


def test_a_report_in_another_language_leaves_labels_unknown_and_its_study_is_noted_once() -> None:
    german = "Grosser Pleuraerguss rechts. Kein Pneumothorax."
    given = [record(n, german) for n in range(AT_ONCE + 2)] + [record(9000, "Small effusion."), record(9001, None)]
    quarantine = Quarantine()
    *foreign, english, silent = fill_labels(given, "rules", quarantine=quarantine)
    assert all((r.labels, r.label_source, r.findings) == ({}, None, german) for r in foreign)
    assert (english.labels["Pleural Effusion"], silent.labels) == (1, {})
    assert quarantine.rows == [{"source": "x", "reason": NOT_ENGLISH, "id": "s", "kept": True}]
    assert list(fill_labels(given, "rules")) == [*foreign, english, silent]  # nobody need count


def test_chexbert_without_weights_says_what_is_missing() -> None:
    with pytest.raises(CheXbertError, match=r"--chexbert chexbert\.pth"):
        list(fill_labels([record(0, "Edema.")], "chexbert"))
    with pytest.raises(CheXbertError, match="StanfordAIMI/RRG_scorers"):
        list(fill_labels([record(0, "Edema.")], "chexbert", weights=Path("no/such.pth")))
