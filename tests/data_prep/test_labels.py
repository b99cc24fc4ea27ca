"""data_prep.labels: tables by name, and the MeSH mapping by hand."""

from __future__ import annotations

import pytest

from cogaze.observations import OBSERVATIONS
from data_prep.labels import IU_LISTED, IU_UNDECIDED, as_labels, iu_labels, read_label_table
from data_prep.records import Quarantine, SourceError


def test_columns_are_found_by_name_and_airspace_opacity_is_lung_opacity(tmp_path):
    names = [name if name != "Lung Opacity" else "Airspace Opacity" for name in sorted(OBSERVATIONS, reverse=True)]
    values = {"Airspace Opacity": "1.0", "Edema": "-1.0", "Pneumothorax": "0.0", "Fracture": "1"}
    path = tmp_path / "labels.csv"
    path.write_text("study_id," + ",".join(names) + "\n50000001.0," + ",".join(values.get(n, "") for n in names) + "\n")
    table = read_label_table(path, source="t", quarantine=Quarantine())
    labels = as_labels(table.rows["50000001"])
    assert {name: value for name, value in labels.items() if value is not None} == {
        "Lung Opacity": 1, "Edema": -1, "Pneumothorax": 0, "Fracture": 1,
    }  # fmt: skip
    assert tuple(labels) == OBSERVATIONS


def test_bad_value_and_missing_column(tmp_path):
    path = tmp_path / "labels.csv"
    header = "study_id," + ",".join(OBSERVATIONS)
    path.write_text(header + "\n1," + ",".join(["2.0"] * 14) + "\n2," + ",".join([""] * 14) + "\n")
    quarantine = Quarantine()
    table = read_label_table(path, source="t", quarantine=quarantine)
    assert set(table.rows) == {"2"}
    assert quarantine.rows[0]["reason"] == "malformed row"
    assert "line 2: Enlarged Cardiomediastinum is '2.0'" in quarantine.rows[0]["detail"]
    path.write_text(header.replace("Edema", "Oedema") + "\n")
    with pytest.raises(SourceError, match="no column 'Edema'"):
        read_label_table(path, source="t", quarantine=quarantine)


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
