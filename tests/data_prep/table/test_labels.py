"""Labels from columns and from lists of words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.table.labels import labels_of
from data_prep.table.mapping import Labels
from tests.data_prep.table.export import export, read

NAMES = {
    "effusion": "Pleural Effusion", "Big  Heart": ["Cardiomegaly", "Enlarged Cardiomediastinum"],
    "none seen": "No Finding", "hernia": None, "pacer": "Support Devices",
}  # fmt: skip
LIST = {
    "column": "l",
    "names": NAMES,
    "open": {"Blunt angle": ["Pleural Effusion", "Pleural Other"], "clips": "Support Devices", "seen before": "all"},
    "void": ["Excluded"],
    "undecided": ["Enlarged Cardiomediastinum"],
}


@pytest.mark.parametrize(
    ("words", "positive", "negative"),
    [
        # E effusion, C cardiomegaly, M mediastinum (undecided), S devices, N no finding; what is in neither is unknown
        ("Effusion| big heart", "ECM", "SN"),
        ("effusion", "E", "CSN"),
        ("none seen", "N", "ECMS"),  # it speaks for what is otherwise undecided
        ("None  Seen|pacer", "NS", "ECM"),
        ("none seen|hernia", "N", "ECMS"),
        ("none seen|clips", "N", "ECM"),
        ("hernia", "", "ECS"),  # not normal, yet none of these
        ("pacer", "S", "EC"),
        ("clips", "", "EC"),
        ("blunt angle", "", "CS"),
        ("none seen|blunt angle", "", "CS"),
        ("blunt angle|effusion", "E", "CSN"),
        ("none seen|effusion", "E", "CSN"),  # the two cannot both be so: the finding is believed
        ("effusion|seen before", "E", "N"),
        ("seen before", "", ""),
        ("effusion|EXCLUDED", "", ""),
        ("excluded|none seen", "", ""),
        ("", "", ""),
        (" | ", "", ""),
    ],
)
def test_labels_from_a_list_of_words(words, positive, negative):
    names = {"E": "Pleural Effusion", "C": "Cardiomegaly", "M": "Enlarged Cardiomediastinum", "S": "Support Devices",
             "N": "No Finding"}  # fmt: skip
    expected = {names[letter]: 1 for letter in positive} | {names[letter]: 0 for letter in negative}
    assert labels_of(Labels.model_validate(LIST), {"l": words}.__getitem__) == expected


def test_a_word_that_the_mapping_does_not_know(tmp_path):
    """Refused, or it leaves everything open that the other words do not name: it may stand for any of them."""
    root = export(
        tmp_path,
        "file,study,mrn,l\na.png,1,1,effusoin\nb.png,2,2,effusoin|big heart\nc.png,3,3,none seen|?\nd.png,4,4,pacer\n",
    )
    records, quarantine = read(root, labels=LIST)
    assert [r.image_id for r in records] == ["d"]
    assert quarantine.rows[0]["detail"] == "line 2: label word 'effusoin' is not in labels.names"
    records, quarantine = read(root, labels={**LIST, "others": "unknown"})
    assert quarantine.rows == []
    assert [r.labels for r in records] == [
        {},
        {"Cardiomegaly": 1, "Enlarged Cardiomediastinum": 1, "No Finding": 0},
        {},
        {"Support Devices": 1, "Pleural Effusion": 0, "Cardiomegaly": 0},
    ]
    assert [r.label_source for r in records] == [None, "table", None, "table"]


@given(st.lists(st.sampled_from([*NAMES, *LIST["open"], "excluded", "new"]), max_size=6), st.randoms())
def test_lists_in_any_order_and_more_words(words, random):
    """The order and doubles do not matter; a further word makes no positive negative and no unknown negative."""
    spec = Labels.model_validate({**LIST, "others": "unknown"})

    def of(some):
        return labels_of(spec, {"l": "|".join(some)}.__getitem__)

    shuffled = [*words, *words[:2]]
    random.shuffle(shuffled)
    assert of(shuffled) == of(words)
    findings = {name for word in words if word in NAMES for name in spec.names[" ".join(word.lower().split())]}
    if "excluded" not in words:
        assert {name for name, value in of(words).items() if value == 1} - {"No Finding"} == findings - {"No Finding"}
    for word in ("hernia", "blunt angle", "new"):
        more, fewer = of([*words, word]), of(words)
        for name, value in fewer.items():
            assert name == "No Finding" or more.get(name) in ((value,) if value else (0, None))
        if words and "none seen" not in words:
            assert set(more) <= set(fewer)


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
