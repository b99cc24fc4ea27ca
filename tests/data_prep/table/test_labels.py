"""Labels from columns and from lists of words."""

from __future__ import annotations

from tests.data_prep.table.export import export, read


def test_labels_from_a_list_of_words(tmp_path):
    root = export(
        tmp_path,
        "file,study,mrn,l\na.png,1,1,Effusion| big heart\nb.png,2,2,none seen\nc.png,3,3,\nd.png,4,4,effusoin\n",
    )
    labels = {
        "column": "l",
        "names": {"effusion": "Pleural Effusion", "Big Heart": ["Cardiomegaly", "Enlarged Cardiomediastinum"],
                  "none seen": "No Finding", "hernia": None},
        "undecided": ["Enlarged Cardiomediastinum"],
    }  # fmt: skip
    records, quarantine = read(root, labels=labels)
    assert [r.labels for r in records] == [
        {"Pleural Effusion": 1, "Cardiomegaly": 1, "Enlarged Cardiomediastinum": 1, "No Finding": 0},
        {"Pleural Effusion": 0, "Cardiomegaly": 0, "No Finding": 1},
        {},
    ]
    assert [r.label_source for r in records] == ["table", "table", None]
    assert quarantine.rows[0]["detail"] == "line 5: label word 'effusoin' is not in labels.names"
    assert read(root, labels={**labels, "others": "ignore"})[0][3].labels["Pleural Effusion"] == 0


def test_labels_of_python_lists_and_of_columns_with_words(tmp_path):
    root = export(tmp_path, "file,study,mrn,l,e\na.png,1,1,\"['Effusion', 'x']\",present\nb.png,2,2,\"['Effu\",?\n")
    names = {"effusion": "Pleural Effusion", "x": None}
    records, quarantine = read(root, labels={"column": "l", "names": names, "separator": ","})
    assert [r.labels for r in records] == [{"Pleural Effusion": 1}]
    assert "is not in labels.names" in quarantine.rows[0]["detail"]
    values = {"present": 1, "absent": 0, "?": -1, "": "unknown"}
    records, _ = read(
        root, labels={"columns": {"Edema": "e", "Fracture": "mrn"}, "values": {**values, "1": 0, "2": "unknown"}}
    )
    assert [r.labels for r in records] == [{"Edema": 1, "Fracture": 0}, {"Edema": -1}]
    _, quarantine = read(root, labels={"columns": {"Edema": "e"}, "values": {"present": 1}})
    assert quarantine.rows[0]["detail"] == "line 3: label value '?' of Edema is not in labels.values"
