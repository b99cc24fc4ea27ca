"""The MeSH mapping by hand."""

from __future__ import annotations

import pytest

from cogaze.observations import OBSERVATIONS
from data_prep.labels.mesh import IU_LISTED, IU_UNDECIDED, iu_labels


def test_normal_is_no_finding_and_nothing_else():
    assert iu_labels(["normal"]) == {name: int(name == "No Finding") for name in OBSERVATIONS}


@pytest.mark.parametrize("headings", [[], [""], ["No Indexing"], ["Technical Quality of Image Unsatisfactory "]])
def test_no_statement_is_all_unknown(headings):
    assert iu_labels(headings) == {}


def test_listed_undecided_and_negative():
    labels = iu_labels(["Opacity/lung/base/left/round", "Cardiomegaly/borderline", "Catheters, Indwelling/right"])
    assert labels == {
        "Cardiomegaly": -1, "Lung Opacity": 1, "Support Devices": 1, "No Finding": 0, "Edema": 0, "Pneumothorax": 0,
        "Pleural Effusion": 0, "Pleural Other": 0, "Fracture": 0,
    }  # fmt: skip
    # what the round opacity leaves open, and what is seldom coded
    assert set(OBSERVATIONS) - set(labels) == {
        "Consolidation", "Pneumonia", "Atelectasis", "Lung Lesion", "Enlarged Cardiomediastinum",
    }  # fmt: skip


def test_place_decides_and_a_listing_beats_an_open_question():
    assert iu_labels(["Opacity/ribs/anterior"]).get("Lung Opacity") is None
    assert iu_labels(["Cicatrix/pleura/right"])["Pleural Other"] == 1
    assert "Pleural Other" in iu_labels(["Cicatrix/lung/apex"])
    assert iu_labels(["Cicatrix/lung/apex"])["Pleural Other"] == 0
    assert "Fracture" not in iu_labels(["Deformity/ribs/left"])
    assert iu_labels(["Deformity/ribs/left", "Fractures, Bone/ribs/left"])["Fracture"] == 1
    assert iu_labels(["Cardiomegaly/borderline", "Cardiac Shadow/enlarged"])["Cardiomegaly"] == 1
    spine = iu_labels(["Thoracic Vertebrae/degenerative"])
    assert "No Finding" not in spine
    assert set(spine.values()) == {0}
    assert "No Finding" not in iu_labels(["Medical Device/thorax"])


def test_tables_name_observations():
    assert {name for rules in IU_LISTED.values() for _, name in rules} <= set(OBSERVATIONS)
    assert {name for rules in IU_UNDECIDED.values() for _, names in rules for name in names} <= set(OBSERVATIONS)
    assert all(heading == heading.lower() for heading in (*IU_LISTED, *IU_UNDECIDED))
