"""The same image, study or patient where it must not be, and images that look alike."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cogaze.data.shards import ShardSet
from data_prep.build import build
from data_prep.check import check, splits
from tests.data_prep.check.helpers import Members, faults, rewrite_json, warnings
from tests.hand_made import record, rewrite

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


FILMS = REAL / "iu_xray" / "images_256"


def test_studies_patients_and_doubles(folder: Path) -> None:
    """Across samples and shards: adjacency, leaks, the same image twice."""

    def scatter(members: Members) -> None:
        keys = list(members)
        of = {key: json.loads(parts["json"])["study_id"] for key, parts in members.items()}
        group = [key for key in keys if list(of.values()).count(of[key]) == 3]
        other = next(key for key in keys if (of[key] != of[group[0]] and key > group[0]) or key < group[0])
        members[group[1]], members[other] = members[other], members[group[1]]

    rewrite(folder, "train-000000", scatter)
    assert any("its study's images are not adjacent" in line for line in faults(folder))


def test_leak_and_double(folder: Path) -> None:
    donor = json.loads(sample_json(folder, "train"))
    key = rewrite_json(folder, lambda meta: meta.update(patient_id=donor["patient_id"]), row=1, shard="test")
    assert any(line.startswith(f"{key}: its patient is also in split train") for line in faults(folder))
    key = rewrite_json(folder, lambda meta: meta.update(image_id=donor["image_id"]), row=0, shard="validate")
    assert any(line.startswith(f"{key}: is the same image as train-000000-") for line in faults(folder))
    key = rewrite_json(folder, lambda meta: meta.update(study_id=donor["study_id"]), row=0, shard="validate")
    assert any(line.startswith(f"{key}: its study also stands in train-000000") for line in faults(folder))


def test_patient_ids_that_differ_in_zeros(folder: Path) -> None:
    """A spreadsheet takes the zeros of a number, and the same patient looks like another."""
    keys = {
        (shard, row): rewrite_json(folder, lambda meta, id=spelled: meta.update(patient_id=id), row=row, shard=shard)
        for shard, row, spelled in (("train", 0, "0042"), ("train", 7, "42"), ("test", 0, "42.0"), ("test", 1, "42.0"))
    }
    lines = [(row["key"], row["warning"], row["detail"]) for row in check(folder)["warnings"]]
    first = keys["train", 0]
    assert (keys["train", 7], "patient ids that differ in zeros", f"that of {first}") in lines
    assert [line for line in lines if "two splits" in line[1]] == [
        (keys["test", 0], "patient ids that differ in zeros, in two splits", f"train, {first}")
    ]
    assert not [fault for fault in faults(folder) if "also in split" in fault]


def sample_json(folder: Path, split: str) -> bytes:
    return json.dumps(ShardSet.open(folder).read_meta(split, 0)).encode()


def test_a_study_of_two_patients(folder: Path) -> None:
    rewrite(folder, "train-000000", lambda members: None)
    shards = ShardSet.open(folder)
    studies = [shards.read_meta("train", i)["study_id"] for i in range(shards.size("train"))]
    row = next(i for i in range(1, len(studies)) if studies[i] == studies[i - 1])
    key = rewrite_json(folder, lambda meta: meta.update(patient_id="somebody else"), row=row)
    assert any(line.startswith(f"{key}: its study is of another patient in train-000000-") for line in faults(folder))


def test_images_that_look_alike(tmp_path: Path) -> None:
    """A copy under another name, brighter and as a JPEG, in the test split of another patient; all others are drawn
    from noise and alike to none."""
    smooth = {}
    for number in range(8):
        noise = np.random.default_rng(number).normal(0, 1, (12, 12))
        smooth[number] = Image.fromarray(np.clip(120 + 60 * noise, 0, 255).astype(np.uint8)).resize(
            (96, 96), Image.Resampling.BICUBIC
        )
    made = []
    for number, split in enumerate(("train",) * 5 + ("validate", "test", "test")):
        made.append(record(tmp_path, f"i{number}", f"s{number}", f"p{number}", split))
        smooth[number].save(made[-1].path)
    copy = record(tmp_path, "copy", "s8", "p8", "test")
    smooth[3].point(lambda level: min(level * 1.1, 255)).save(copy.path.with_suffix(".jpg"), quality=60)
    copy = replace(copy, path=copy.path.with_suffix(".jpg"))
    same = replace(record(tmp_path, "same", "s9", "p9", "validate"), path=made[0].path)
    build([*made, copy, same], tmp_path / "out", image_size=64)
    shards = ShardSet.open(tmp_path / "out")
    keys = {
        meta["image_id"]: raw.key
        for split in shards.splits
        for raw in (shards.read(split, i) for i in range(shards.size(split)))
        for meta in [raw.meta]
    }
    assert warnings(tmp_path / "out") == [
        (keys["same"], "the same image file is in two splits", f"train, {keys['i0']}")
    ]
    deep = warnings(tmp_path / "out", "deep")
    assert deep[0] == (keys["same"], "the same image file is in two splits", f"train, {keys['i0']}")
    assert [(key, kind) for key, kind, _ in deep[1:]] == [(keys["copy"], "looks like an image of another split")]
    assert deep[1][2].startswith(f"train, {keys['i3']}, ")
    assert check(tmp_path / "out", jobs=2, level="deep") == check(tmp_path / "out", level="deep")


@pytest.mark.skipif(not FILMS.is_dir(), reason=f"no real radiographs at {FILMS}; set COGAZE_REAL_DATA")
def test_alike_on_real_radiographs() -> None:
    """Copies (JPEG, half the size, paler) are within the limit; radiographs of different studies are far beyond it."""
    paths = sorted(FILMS.glob("*.jpg"))[::16]
    looks, studies = [], []
    for path in paths:
        film = Image.open(path).convert("L")
        stream = io.BytesIO()
        film.save(stream, "JPEG", quality=60)
        copies = [Image.open(stream).convert("L"), film.resize((film.width // 2, film.height // 2)),
                  film.point(lambda level: 60 + level * 0.7)]  # fmt: skip
        looks.append(splits.look_of(film))
        studies.append(path.name.partition("_")[0])
        near = splits.nearest(np.stack([splits.look_of(copy) for copy in copies]), looks[-1][None])[1]
        assert (near <= splits.ALIKE).all(), (path.name, near)
    assert len(set(studies)) > 40
    for name, look in zip(studies, looks, strict=True):
        others = np.stack([other for of, other in zip(studies, looks, strict=True) if of != name])
        assert splits.nearest(look[None], others)[1] > 1.5 * splits.ALIKE


@given(st.integers(1, 70), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_nearest_is_the_nearest(n: int, m: int, seed: int) -> None:
    """Against counting the bits of Python integers, over blocks smaller than the input."""
    generator = np.random.default_rng(seed)
    a, b = (generator.integers(0, 2**64, (k, 4), dtype=np.uint64) for k in (n, m))
    a[0] = b[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "BLOCK_A", 16)
        patch.setattr(splits, "BLOCK_B", 32)
        at, bits = splits.nearest(a, b)
    whole = [[int.from_bytes(row.tobytes(), "big") for row in rows] for rows in (a, b)]
    distances = [[bin(x ^ y).count("1") for y in whole[1]] for x in whole[0]]
    assert bits.tolist() == [min(row) for row in distances]
    assert [row[i] for row, i in zip(distances, at.tolist(), strict=True)] == bits.tolist()
    assert bits[0] == 0
