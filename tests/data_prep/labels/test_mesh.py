"""The MeSH mapping by hand, heading by heading, and its counts on the real collection."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from cogaze.observations import OBSERVATIONS
from data_prep.labels.mesh import IU_LISTED, IU_UNDECIDED, iu_labels

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")) / "iu_xray"
LETTERS = ("EC", "CM", "LO", "LL", "ED", "CO", "PN", "AT", "PX", "PE", "PO", "FX", "SD", "NF")
SHORT = dict(zip(OBSERVATIONS, LETTERS, strict=True))
# what a heading says is present / what it leaves open, beside Enlarged Cardiomediastinum, which always is
HEADINGS = {
    "CM/": ["Cardiomegaly", "Cardiomegaly/mild", "Cardiac Shadow/enlarged"],
    "/CM": ["Cardiac Shadow/obscured", "Heart/enlarged", "Heart Atria/left/enlarged", "Heart Ventricles/left",
            "Pericardial Effusion"],
    "/CM ED": ["Heart Failure"],
    "EC/": ["Mediastinum/enlarged", "Mediastinum/prominent", "Mediastinum/widened/severe"],
    "LO/CO PN AT": ["Opacity/lung/base/left", "Opacity/retrocardiac", "Opacity/lingula", "Opacity/apex/right",
                    "Opacity/upper lobe", "Opacity/middle lobe/right", "Opacity/lower lobe", "Density/lung"],
    "LO/CO PN AT LL": ["Opacity/lung/round/small", "Density/round/lung"],
    "LO/CO PN AT ED": ["Opacity/lung/interstitial", "Airspace Disease", "Airspace Disease/patchy/mild", "Infiltrate"],
    "/LO CO PN AT": ["Opacity/ribs", "Density/thorax"],
    "LL/LO": ["Nodule/lung/upper lobe", "Mass/lung", "Multiple Pulmonary Nodules", "Lung Neoplasms", "Nodule/apex"],
    "/LL LO": ["Nodule/thorax", "Mass/mediastinum"],
    "/LL": ["Cavitation", "Cysts", "Calcified Granuloma/lung/hilum", "Granuloma", "Granulomatous Disease",
            "Calcinosis/lung/hilum"],
    "/LL LO PN": ["Tuberculosis"],
    "ED/LO": ["Pulmonary Edema", "Pulmonary Edema/interstitial/severe"],
    "/ED": ["Pulmonary Congestion"],
    "/LO ED": ["Lung/interstitial", "Markings/bronchovascular", "Lung Diseases, Interstitial"],
    "CO/LO PN": ["Consolidation/lung/lower lobe"],
    "PN/LO CO": ["Pneumonia", "Bronchopneumonia/right"],
    "AT/LO": ["Pulmonary Atelectasis/base/bilateral"],
    "/LO": ["Cicatrix/lung/apex", "Fibrosis/lung", "Pulmonary Fibrosis/chronic"],
    "PX/": ["Pneumothorax", "Pneumothorax/apex/left/small"],
    "PX PE/": ["Hydropneumothorax", "Hemopneumothorax/left"],
    "PE/": ["Pleural Effusion", "Pleural Effusion/right/small", "Hemothorax"],
    "PO/": ["Thickening/pleura/apex", "Cicatrix/pleura", "Sclerosis/pleura", "Calcinosis/pleura/bilateral"],
    "PO/LO": ["Fibrosis/pleura"],
    "/PO": ["Thickening/bronchi", "Cicatrix/costophrenic angle"],
    "/PE PO": ["Costophrenic Angle/blunted/left", "Sulcus/posterior/blunted", "Pleura/right"],
    "FX/": ["Fractures, Bone/ribs/healed", "Fractures, Bone"],
    "/FX": ["Ribs/right", *(f"Deformity/{bone}" for bone in (
        "ribs", "clavicle", "humerus", "scapula", "shoulder", "spine", "sternum", "thoracic vertebrae",
        "lumbar vertebrae", "cervical vertebrae",
    ))],
    "SD/": ["Catheters, Indwelling/left", "Medical Device", "Implanted Medical Device", "Tube, Inserted/trachea",
            "Stents/aorta"],
    "/SD": ["Surgical Instruments/right", "Foreign Bodies", "Breast Implants"],
    "/": ["Lung/hyperdistention", "Thoracic Vertebrae/degenerative", "Scoliosis", "Calcinosis/aorta",
          "Deformity/diaphragm",
          "Lucency/lung", "Cicatrix/abdomen", "Sclerosis/spine", "Emphysema", "Hernia, Hiatal", "Mediastinum/left",
          "Diaphragm/right/elevated", "Nipple Shadow", "Bronchiectasis", "A heading of another year"],
}  # fmt: skip


def of(headings: list[str]) -> tuple[set[str], set[str], set[str]]:
    """(present, uncertain, unknown), by the letters of SHORT."""
    labels = iu_labels(headings)
    assert set(labels.values()) <= {1, 0, -1}
    one, minus = ({SHORT[name] for name, value in labels.items() if value == wanted} for wanted in (1, -1))
    return one, minus, {SHORT[name] for name in OBSERVATIONS if name not in labels}


@pytest.mark.parametrize(("code", "heading"), [(code, name) for code, names in HEADINGS.items() for name in names])
def test_each_heading(code, heading):
    """Alone, borderline, and beside a fracture; what is neither present nor open is absent."""
    present, opened = (set(part.split()) for part in code.split("/"))
    unknown = (opened | {"EC"}) - present
    silent = set() if present - {"SD"} else {"NF"}  # of normality: neither is it normal, nor one of the 13
    assert of([heading]) == (present, set(), unknown | silent)
    assert of([f" {heading.upper()}/borderline "]) == (set(), present, unknown | silent)
    assert of([heading, "Fractures, Bone/ribs"]) == (present | {"FX"}, set(), unknown - {"FX"})
    assert of(["Fractures, Bone/borderline", heading, heading]) == (
        present, {"FX"} - present, unknown - {"FX"}
    )  # fmt: skip


def test_every_line_of_the_table_has_its_heading_above():
    """A line of IU_LISTED or IU_UNDECIDED that no heading meets could be changed unseen."""
    met = [(name, set(rest)) for name, *rest in (h.lower().split("/") for names in HEADINGS.values() for h in names)]
    for table in (IU_LISTED, IU_UNDECIDED):
        for heading, lines in table.items():
            for needed, _ in lines:
                assert any(name == heading and (not needed or needed & rest) for name, rest in met), heading
                assert all(any(name == heading and one in rest for name, rest in met) for one in needed
                           if heading in ("mediastinum", "opacity", "deformity"))  # fmt: skip


# positive, negative, uncertain of the 490 studies, counted with regular expressions in the MeSH column
COUNTS = {
    "EC": (2, 172, 0), "CM": (35, 441, 7), "LO": (72, 346, 0), "LL": (16, 413, 0), "ED": (6, 435, 0), "CO": (5, 397, 0),
    "PN": (5, 397, 0), "AT": (48, 379, 0), "PX": (1, 482, 0), "PE": (15, 465, 0), "PO": (8, 468, 0),
    "FX": (14, 456, 0), "SD": (25, 446, 0), "NF": (172, 148, 0),
}  # fmt: skip


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real Indiana sample is not at {REAL} (set COGAZE_REAL_DATA)")
def test_counts_on_the_real_studies():
    with open(REAL / "indiana_reports.csv", newline="", encoding="utf-8") as stream:
        studies = [iu_labels(row["MeSH"].split(";")) for row in csv.DictReader(stream)]
    assert len(studies) == 490
    counts = Counter((SHORT[name], value) for labels in studies for name, value in labels.items())
    assert {short: tuple(counts[short, value] for value in (1, 0, -1)) for short in SHORT.values()} == COUNTS
    assert all(positive and negative for positive, negative, _ in COUNTS.values())


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
