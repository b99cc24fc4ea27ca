"""Images of two splits that look alike: as they are, as a negative, mirrored, turned."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cogaze.data.shards import ShardSet
from data_prep.build import build
from data_prep.check import alike, check, splits
from data_prep.check.alike import AGAINST, ALIKE, HOW, largest, looks_of, near
from data_prep.records import ImageRecord
from tests.data_prep.check.helpers import warnings
from tests.hand_made import record

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
FILMS = REAL / "iu_xray" / "images_256"
KIND = "looks like an image of another split"


def drawn(number: int) -> Image.Image:
    """Soft noise, 96 x 96: alike to nothing but its copies."""
    noise = np.random.default_rng(number).normal(0, 1, (12, 12))
    small = Image.fromarray(np.clip(120 + 60 * noise, 0, 255).astype(np.uint8))
    return small.resize((96, 96), Image.Resampling.BICUBIC)


def saved(root: Path, name: str, split: str, image: Image.Image, ending: str = ".png", **options: int) -> ImageRecord:
    made = record(root, name, f"s-{name}", f"p-{name}", split)
    path = made.path.with_suffix(ending)
    image.save(path, **options)
    return replace(made, path=path)


def keys_of(folder: Path) -> dict[str, str]:
    shards = ShardSet.open(folder)
    found = (shards.read(split, i) for split in shards.splits for i in range(shards.size(split)))
    return {raw.meta["image_id"]: raw.key for raw in found}


def test_images_that_look_alike(tmp_path: Path) -> None:
    """Copies under other names, of other patients; all others are drawn from noise and alike to none."""
    films = [drawn(number) for number in range(12)]
    made = [saved(tmp_path, f"i{n}", "train", films[n]) for n in range(9)]
    made += [saved(tmp_path, f"i{n}", "validate" if n < 10 else "test", films[n]) for n in range(9, 12)]
    turned = films[6].rotate(-3.2, Image.Resampling.BICUBIC)
    copies = {
        "brighter": saved(
            tmp_path, "brighter", "test", films[3].point(lambda v: min(v * 1.1, 255)), ".jpg", quality=60
        ),
        "negative": saved(tmp_path, "negative", "test", ImageOps.invert(films[4]).resize((70, 70)), ".jpg", quality=60),
        "mirror": saved(tmp_path, "mirror", "test", ImageOps.mirror(films[5])),
        "turned": saved(tmp_path, "turned", "validate", turned),
        "both": saved(tmp_path, "both", "validate", ImageOps.invert(ImageOps.mirror(films[7]))),
        "again": saved(tmp_path, "again", "train", films[3].point(lambda v: v * 0.9)),
        "flat": saved(tmp_path, "flat", "train", Image.new("L", (90, 90), 77)),
        "flat too": saved(tmp_path, "flat-too", "test", Image.new("L", (90, 90), 178)),
    }
    same = replace(record(tmp_path, "same", "s-same", "p-same", "validate"), path=made[0].path)
    out = tmp_path / "out"
    build([*made, *copies.values(), same], out, image_size=64)
    keys = keys_of(out)
    twice = (keys["same"], "the same image file is in two splits", f"train, {keys['i0']}")
    of = [line for line in warnings(out) if line[1] != "image: one grey level"]
    assert of == [twice]
    deep = [line for line in warnings(out, "deep") if line[1] != "image: one grey level"]
    assert deep[0] == twice
    found = {(key, detail.partition(" bits differ ")[0].split()[1], detail.partition(" bits differ")[2].strip())
             for key, kind, detail in deep[1:] if kind == KIND}  # fmt: skip
    assert len(found) == len(deep) - 1
    assert {detail.split(", ")[0] for _, _, detail in deep} == {"train"}
    assert found == {
        (keys["brighter"], f"{keys['i3']},", ""),
        (keys["brighter"], f"{keys['again']},", ""),  # each of them, not the nearest alone
        (keys["negative"], f"{keys['i4']},", "as a negative"),
        (keys["mirror"], f"{keys['i5']},", "mirrored"),
        (keys["turned"], f"{keys['i6']},", "turned by about -3 degrees"),
        (keys["both"], f"{keys['i7']},", "as a negative, mirrored"),
    }
    assert check(out, jobs=2, level="deep") == check(out, level="deep")


def test_copies_between_the_two_small_splits_and_too_many_of_them(tmp_path: Path, monkeypatch) -> None:
    """Nothing is said twice; what is beyond the limit is counted."""
    mirrored = ImageOps.mirror(drawn(1))
    made = [saved(tmp_path, f"i{n}", "train", drawn(20 + n)) for n in range(5)]
    made += [saved(tmp_path, f"v{n}", "validate", drawn(1).point(lambda v, n=n: v * (1 - n / 20))) for n in range(3)]
    made += [saved(tmp_path, f"t{n}", "test", mirrored.point(lambda v, n=n: v * (1 - n / 20))) for n in range(2)]
    build(made, tmp_path / "out", image_size=64)
    lines = warnings(tmp_path / "out", "deep")
    keys = keys_of(tmp_path / "out")
    assert len(lines) == 6
    assert {(key, detail.split(", ")[1]) for key, _, detail in lines} == {
        (keys[f"t{t}"], keys[f"v{v}"]) for t in range(2) for v in range(3)
    }
    monkeypatch.setattr(splits, "MAX_ALIKE", 4)
    report = check(tmp_path / "out", level="deep")
    assert (len(report["warnings"]), report["warnings_left_out"]) == (4, 2)


def test_one_split_alone_and_the_largest(tmp_path: Path) -> None:
    made = [saved(tmp_path, f"i{n}", "train", drawn(n // 2)) for n in range(4)]
    build(made, tmp_path / "out", image_size=64)
    assert [kind for _, kind, _ in warnings(tmp_path / "out", "deep")] == []
    assert largest({"train": 5, "test": 9, "validate": 9}) == "test"


@pytest.mark.parametrize("degrees", [-5, -4, -2.2, -0.7, 0.7, 2.2, 4, 5])
def test_a_turned_copy_on_either_side(degrees: float) -> None:
    """Whichever of the two is in the largest split, and whatever fills the corners."""
    for number in range(40, 44):
        plain = drawn(number)
        for corners in (0, 255):
            turned = plain.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=corners)
            for few, many in ((turned, plain), (plain, turned)):
                (found,) = near(looks_of(few, copies=True)[None], looks_of(many, copies=False)[None])
                assert len(found.row) == 1
                assert not found.negative[0]


def test_the_limit_is_24_bits() -> None:
    """The first n bits flipped, for some n, of a hash and of its complement."""
    a = np.random.default_rng(0).integers(0, 2**64, (1, 1, 4), dtype=np.uint64)
    for number, expected in ((0, [0]), (23, [23]), (24, [24]), (25, []), (40, [])):
        flipped = np.packbits(np.arange(256) < number).view(np.uint64)
        for negative in (False, True):
            b = np.zeros((1, 2, 4), np.uint64)
            b[0, 0] = ~(a[0, 0] ^ flipped) if negative else a[0, 0] ^ flipped
            assert [row for found in near(a, b) for row in found.bits.tolist()] == expected
            assert all(found.negative.tolist() == [negative] for found in near(a, b))


def bits(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> int:
    return sum(bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b, strict=True))


@pytest.mark.skipif(not FILMS.is_dir(), reason=f"no real radiographs at {FILMS}; set COGAZE_REAL_DATA")
def test_alike_on_real_radiographs() -> None:
    """Whatever was done to a copy, one of its hashes is within the limit; those of other studies are far beyond it."""
    looks, studies = [], []
    for path in sorted(FILMS.glob("*.jpg"))[::16]:
        film = Image.open(path).convert("L")
        stream = io.BytesIO()
        film.save(stream, "JPEG", quality=60)
        half = film.resize((film.width // 2, film.height // 2))
        look = looks_of(film, copies=False)
        copies = {
            "jpeg": (Image.open(stream).convert("L"), 0), "half": (half, 0),
            "paler": (film.point(lambda level: 60 + level * 0.7), 0), "mirror": (ImageOps.mirror(half), 2),
            "turned": (film.rotate(2.8, Image.Resampling.BICUBIC), HOW.index("turned by about 3 degrees")),
            "turned, white": (film.rotate(3.4, fillcolor=255), HOW.index("turned by about 3 degrees")),
        }  # fmt: skip
        for name, (copy, how) in copies.items():
            for hashes in (looks_of(copy, copies=True), ~looks_of(ImageOps.invert(copy), copies=True)):
                apart = [bits(one, look[AGAINST[place]]) for place, one in enumerate(hashes)]
                assert apart[how] <= ALIKE, (path.name, name)
                assert apart[how] <= min(apart) + 4 or how == 0, (path.name, name)
            # the other way round: the copy is in the largest split
            turned_back = {1: 1, 2: 2}.get(how, HOW.index("turned by about -3 degrees") if how else 0)
            other = looks_of(copy, copies=False)
            assert bits(looks_of(film, copies=True)[turned_back], other[AGAINST[turned_back]]) <= ALIKE
        looks.append(looks_of(film, copies=True))
        studies.append(path.name.partition("_")[0])
    assert len(set(studies)) > 40
    for name, look in zip(studies, looks, strict=True):
        others = np.stack([other[AGAINST, :] for of, other in zip(studies, looks, strict=True) if of != name])
        apart = np.bitwise_count(look[None] ^ others).sum(axis=2, dtype=np.int64)  # (m,V)
        assert apart.min() > 1.5 * ALIKE
        assert apart.max() < 256 - 1.5 * ALIKE


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_near_finds_every_pair(n: int, m: int, versions: int, seed: int) -> None:
    """Against counting the bits of Python integers, over blocks smaller than the input; a third are made alike."""
    generator = np.random.default_rng(seed)
    a = generator.integers(0, 2**64, (n, versions, 4), dtype=np.uint64)
    b = generator.integers(0, 2**64, (m, 2, 4), dtype=np.uint64)
    for row in range(0, m, 3):  # a copy with some bits flipped, about as many as the limit, of it or of its complement
        flipped = np.zeros(256, np.uint8)
        flipped[generator.choice(256, generator.integers(0, 2 * ALIKE), replace=False)] = 1
        copy = a[generator.integers(n), generator.integers(versions)] ^ np.packbits(flipped).view(np.uint64)
        b[row, generator.integers(2)] = ~copy if generator.random() < 0.5 else copy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alike, "BLOCK_A", 16)
        patch.setattr(alike, "BLOCK_B", 32)
        found = [tuple(pair) for part in near(a, b) for pair in zip(*(column.tolist() for column in part), strict=True)]
    expected = set()
    for i in range(n):
        for j in range(m):
            apart = [bits(a[i, v], b[j, AGAINST[v]]) for v in range(versions)]
            best = min((min(d, 256 - d), v, d > 128) for v, d in enumerate(apart))
            if best[0] <= ALIKE:
                expected.add((i, j, best[0], best[1], best[2]))
    assert set(found) == expected
    assert len(found) == len(expected)


def test_an_image_of_one_grey_level_looks_like_nothing() -> None:
    for copies, number in ((True, len(HOW)), (False, 2)):
        for image in (Image.new("L", (64, 80), 9), None):
            looks = looks_of(image, copies)
            assert (looks.shape, looks.dtype, looks.any()) == ((number, 4), np.uint64, False)
    assert not list(near(np.zeros((0, 9, 4), np.uint64), np.zeros((3, 2, 4), np.uint64)))
    framed = Image.new("L", (64, 64), 9)
    framed.paste(200, (0, 0, 64, 4))
    whole, middle = looks_of(framed, copies=False)  # nothing in the middle: it would look like every other such image
    assert whole.any()
    assert (middle == whole).all()
