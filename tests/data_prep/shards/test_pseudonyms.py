"""Hashed ids: nothing of the source's names is left in any file of the folder, and what belongs together stays so."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cogaze.data.shards import ShardSet
from data_prep.build import BuildError, build, finish
from data_prep.check import check
from data_prep.records import ImageRecord, Quarantine
from data_prep.shards.pseudonyms import SaltError, hashed_records, hashed_rows, read_salt
from tests.hand_made import IMAGE_SIZE, record, records

SALT = b"sixteen bytes, or more"


def metas(folder: Path) -> list[dict]:
    shards = ShardSet.open(folder)
    return [shards.read_meta(split, i) for split in shards.splits for i in range(shards.size(split))]


def told(row: ImageRecord) -> set[str]:
    """Everything in a record that says whose it is."""
    readings = {name for reading in row.readings for name in (reading.id, reading.reader)}
    return {row.image_id, row.study_id, row.patient_id, row.relative_path, *readings}


@pytest.fixture
def salt(tmp_path: Path) -> bytes:
    (tmp_path / "salt").write_bytes(SALT + b"\n")
    return read_salt(tmp_path / "salt")


@pytest.fixture
def made(tmp_path: Path) -> list[ImageRecord]:
    """Records whose names cannot stand in a shard by chance, one unreadable, one late in a second build."""
    made = [
        replace(row, findings="Clear.", relative_path=f"files/{row.patient_id}/{row.image_id}.PNG")
        for row in records(tmp_path / "raw")
    ]
    made[3].path.write_bytes(b"")
    return made


def test_no_name_of_the_source_is_left(made: list[ImageRecord], salt: bytes, tmp_path: Path) -> None:
    quarantine = Quarantine()
    quarantine.add("made", "malformed row", path="tables/patient-77.csv", detail="line 4 of patient-77: odd")
    quarantine.add("made", "study without a report", id="study-88")
    sums = {hashlib.sha256(row.path.read_bytes()).hexdigest() for row in made}
    manifest = build(
        made, tmp_path / "out", quarantine=quarantine, image_size=IMAGE_SIZE, salt=salt, images_per_shard=4
    )
    assert manifest["ids"] == "hashed"
    assert check(tmp_path / "out")["ok"]
    names = set().union(*map(told, made)) | {"study-88", "patient-77"} | sums
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert [name for name in names if name.encode() in everything] == []
    for secret in (SALT, salt, salt.hex().encode()):
        assert secret not in everything
    rows = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert Counter(row["reason"] for row in rows) == manifest["quarantined"] == Counter(
        ["malformed row", "study without a report", "image empty"]
    )  # fmt: skip
    assert all("detail" not in row for row in rows)
    (malformed,) = [row for row in rows if row["reason"] == "malformed row"]
    assert set(malformed) == {"source", "reason", "path"}
    assert malformed["path"].endswith(".csv")


def test_a_patient_whose_number_lost_its_zeros_is_hashed_as_one(tmp_path: Path, salt: bytes) -> None:
    """Hashes of two spellings would hide from plan and check that they are one patient."""
    made = [record(tmp_path, f"i{i}", f"s{i}", spelled, split) for i, (spelled, split) in enumerate(
        [("0042", "train"), ("42", "train"), ("42.0", "train"), ("7", "train"), ("007", "test")]
    )]  # fmt: skip
    manifest = build(made, tmp_path / "out", image_size=IMAGE_SIZE, salt=salt)
    assert manifest["quarantined"] == {"patient in two splits": 2}
    assert len({meta["patient_id"] for meta in metas(tmp_path / "out")}) == 1


def test_what_belongs_together_stays_together(made: list[ImageRecord], salt: bytes, tmp_path: Path) -> None:
    plain, hashed = tmp_path / "plain", tmp_path / "hashed"
    for out, key in ((plain, None), (hashed, salt)):
        build(made, out, image_size=IMAGE_SIZE, image_format="png", salt=key)
    totals = [json.loads((out / "manifest.json").read_text())["totals"] for out in (plain, hashed)]
    assert totals[0] == totals[1]

    def shape(out: Path) -> Counter:
        found = metas(out)
        sizes = Counter(meta["study_id"] for meta in found)
        return Counter(
            (meta["original"]["width"], meta["view"], sizes[meta["study_id"]], len(meta["readings"])) for meta in found
        )

    assert shape(plain) == shape(hashed)
    (key,) = {hashlib.sha256(b"cogaze shard ids\0" + SALT).digest()}
    wanted = {hmac.new(key, row.patient_id.encode(), "sha256").hexdigest()[:16] for row in made}
    assert {meta["patient_id"] for meta in metas(hashed)} <= wanted
    assert all(meta["original"]["path"].endswith(".png") for meta in metas(hashed))


def test_the_order_says_nothing(salt: bytes, tmp_path: Path) -> None:
    """Plain shards lie in the order of unsalted hashes, which anybody can compute from a list of ids."""
    made = [record(tmp_path / "raw", f"i{n}", f"s{n}", f"p{n}", findings=f"Report {n}.") for n in range(12)]
    orders = []
    for number, key in enumerate((None, salt, hashlib.sha256(b"another").digest())):
        build(made, tmp_path / f"{number}", image_size=IMAGE_SIZE, salt=key)
        orders.append([meta["report"]["findings"] for meta in metas(tmp_path / f"{number}")])
    assert [sorted(order) for order in orders] == [sorted(orders[0])] * 3
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_resuming_growing_and_parts_need_the_same_salt(made: list[ImageRecord], salt: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        build(made[2:], out, image_size=IMAGE_SIZE, salt=salt, part=(number, 2), images_per_shard=4)
    before = finish(out)
    with pytest.raises(BuildError, match=r"ids hashed, now source"):
        build(made, out, image_size=IMAGE_SIZE, images_per_shard=4)
    with pytest.raises(BuildError, match="the same salt"):
        build(made, out, image_size=IMAGE_SIZE, images_per_shard=4, salt=b"x" * 32)
    after = build(made, out, image_size=IMAGE_SIZE, images_per_shard=4, salt=salt)
    assert after["totals"]["images"] == before["totals"]["images"] + 2
    assert [entry for entry in after["shards"] if entry in before["shards"]] == before["shards"]


def test_faults_stay_faults(salt: bytes) -> None:
    blank = ImageRecord("made", "", "s", "p", "train", "PA", Path("x"), "x")
    (row,) = hashed_records([blank], salt)
    assert (row.image_id, row.path) == ("", Path("x"))  # a blank id must be found out, a file must be found
    assert list(hashed_rows([{"source": "a", "reason": "b", "detail": "patient 12"}], salt)) == [
        {"source": "a", "reason": "b"}
    ]


def test_salts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COGAZE_SALT", raising=False)
    with pytest.raises(SaltError, match="the environment variable COGAZE_SALT has 0: write one with `head"):
        read_salt(None)
    (tmp_path / "salt").write_bytes(b"  too short \n")
    with pytest.raises(SaltError, match=r"at least 16 bytes, .*salt has 9"):
        read_salt(tmp_path / "salt")
    monkeypatch.setenv("COGAZE_SALT", SALT.decode())
    (tmp_path / "salt").write_bytes(SALT)
    assert read_salt(None) == read_salt(tmp_path / "salt") == hashlib.sha256(b"cogaze shard ids\0" + SALT).digest()
    with pytest.raises(FileNotFoundError):
        read_salt(tmp_path / "none")
