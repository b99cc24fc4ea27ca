"""data_prep.splits: one patient, one split, however a table spells him."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_prep import table
from data_prep.build import build
from data_prep.check import check
from data_prep.records import Quarantine
from data_prep.splits import one_spelling, share_of, split_by_hash
from tests.hand_made import picture


@pytest.mark.parametrize(
    ("spelled", "one"),
    [
        ("42", "42"), ("0042", "42"), ("42.0", "42"), ("42.", "42"), ("00042.000", "42"), ("0", "0"), ("000", "0"),
        ("420", "420"), ("42.5", "42.5"), ("42.05", "42.05"), ("4.2.0", "4.2.0"), ("p0042", "p0042"), ("0x42", "0x42"),
        ("-42", "-42"), ("", ""), (".0", ".0"), ("42 ", "42 "), ("٠٤٢", "٠٤٢"), ("42\n", "42\n"),
    ],
)  # fmt: skip
def test_one_spelling(spelled, one):
    assert one_spelling(spelled) == one


@given(st.integers(0, 10**20), st.integers(0, 12), st.integers(0, 4), st.integers(0, 5))
def test_a_number_draws_one_place(number, zeros, points, seed):
    spelled = "0" * zeros + str(number) + ("." + "0" * (points - 1) if points else "")
    assert one_spelling(spelled) == str(number)
    assert share_of("clinic", spelled, seed) == share_of("clinic", str(number), seed)
    assert share_of("clinic", f"p{spelled}", seed) != share_of("clinic", str(number), seed)


def test_a_share_worked_by_hand():
    """`printf nih_chestxray14/0/10 | sha256sum` begins with 1aa9: 0.104."""
    for patient in ("10", "00000010"):
        assert int(share_of("nih_chestxray14", patient, 0) * 65536) == 0x1AA9
        assert split_by_hash("nih_chestxray14", patient, 0.105, 0.5) == "train"
        assert split_by_hash("nih_chestxray14", patient, 0.104, 0.001) == "validate"
        assert split_by_hash("nih_chestxray14", patient, 0.1, 0.001) == "test"


@pytest.mark.parametrize("how", ["shares", "column", "lists"])
def test_a_table_that_lost_zeros_never_has_a_patient_in_two_splits(how, tmp_path):
    """From the table to the check: 60 patients, each spelled in three ways, of which the table may say two splits."""
    rows, lists = [], {"train": "", "test": ""}
    for number in range(60):
        for place, spelled in enumerate((f"{number:04d}", f"{number}", f"{number}.0")):
            name = f"{number}-{place}.png"
            split = "test" if place and number % 5 == 0 else "train"
            rows.append(f"{name},{spelled},{split}")
            lists[split] += f"{name}\n"
            picture(tmp_path / "raw" / name, 40, 40, seed=3 * number + place)
    (tmp_path / "raw" / "t.csv").write_text("file,mrn,split\n" + "\n".join(rows) + "\n")
    for split, text in lists.items():
        (tmp_path / "raw" / f"{split}.txt").write_text(text)
    split = {
        "shares": {"shares": {"train": 0.5, "validate": 0.25, "test": 0.25}},
        "column": {"column": "split", "validate_share": 0.3},
        "lists": {"lists": {"train": "train.txt", "test": "test.txt"}, "validate_share": 0.3},
    }[how]
    spec = {"source": "c", "table": "t.csv", "image": {"path": "{file}"}, "ids": {"patient": "mrn"}, "split": split}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(spec))
    quarantine = Quarantine()
    records = list(table.read(tmp_path / "raw", quarantine, mapping=tmp_path / "m.yaml"))
    manifest = build(iter(records), tmp_path / "out", quarantine=quarantine, image_size=32)
    leaking = 0 if how == "shares" else 12 * 3
    assert manifest["quarantined"] == (
        {"patient in two splits, under ids that differ in zeros": leaking} if leaking else {}
    )
    assert manifest["totals"]["images"] == 180 - leaking
    report = check(tmp_path / "out", level="deep")
    assert report["ok"]
    kinds = [row["warning"] for row in report["warnings"] if row["warning"].startswith("patient")]
    # "42.0" is repaired when it is read, "0042" stays beside it
    assert kinds == ["patient ids that differ in zeros"] * (60 - leaking // 3)
