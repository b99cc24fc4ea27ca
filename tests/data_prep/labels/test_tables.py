"""Label tables, by the names of their columns."""

from __future__ import annotations

import pytest

from cogaze.observations import OBSERVATIONS
from data_prep.labels.tables import as_labels, read_label_table
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
