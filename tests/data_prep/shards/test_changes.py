"""Image files that change after a build: the shards keep what they have, and the user is told."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogaze.data.shards import ShardSet
from data_prep.build import Changed, build, finish
from data_prep.check import check
from data_prep.records import ImageRecord
from data_prep.shards.changes import file_mark
from tests.hand_made import IMAGE_SIZE, picture, record, records

SALT = b"s" * 32
PER_SHARD: dict[str, Any] = {"image_size": IMAGE_SIZE, "images_per_shard": 4}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def changes(made: list[ImageRecord], out: Path, **more: Any) -> Changed:
    """What building again says has changed."""
    changed = Changed()
    build(made, out, changed=changed, **{**PER_SHARD, **more})
    return changed


@pytest.fixture
def made(tmp_path: Path) -> list[ImageRecord]:
    made = records(tmp_path / "raw")
    made[6].path.write_bytes(made[6].path.read_bytes()[:99])  # a download that broke off
    made[7].path.write_bytes(b"<html>")
    return made


@pytest.fixture
def out(made: list[ImageRecord], tmp_path: Path) -> Path:
    assert changes(made, tmp_path / "out") == Changed()
    return tmp_path / "out"


def keys(out: Path) -> dict[str, str]:
    shards = ShardSet.open(out)
    samples = (shards.read(split, i) for split in shards.splits for i in range(shards.size(split)))
    return {sample.meta["image_id"]: sample.key for sample in samples}


def other_of_the_same_size(path: Path) -> None:
    """Another picture in as many bytes: PNG readers pass over what stands behind the end."""
    size = path.stat().st_size
    picture(path, 20, 20)
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    assert path.stat().st_size == size


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def set_back(path: Path) -> None:
    """As rsync does: the file has the time that it has elsewhere."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns - 10**12, before.st_mtime_ns - 10**12))


@pytest.mark.parametrize("change", [longer, set_back, other_of_the_same_size, os.unlink])
def test_another_file_is_told_and_nothing_is_changed(
    change: Callable[[Path], Any], made: list[ImageRecord], out: Path
) -> None:
    before, key = contents(out), keys(out)[made[2].image_id]
    assert changes(made, out) == Changed()
    change(made[2].path)
    assert changes(made, out) == Changed(1, 0, [key])
    assert changes(made, out, jobs=2) == Changed(1, 0, [key])  # and again, until somebody builds anew
    assert contents(out) == before


def test_another_size_is_told_whatever_the_clocks_say(made: list[ImageRecord], out: Path) -> None:
    """As with shards that were copied after the files had changed."""
    longer(made[2].path)
    for tar in out.glob("*.tar"):
        os.utime(tar, (4e9, 4e9))
    assert changes(made, out).files == 1


def test_a_mended_file_is_tried_again(made: list[ImageRecord], out: Path) -> None:
    before = contents(out)
    picture(made[6].path, 60, 50)
    longer(made[7].path)  # still no image: nothing to gain
    found = changes(made, out)
    assert (found.files, found.mended) == (1, 1)
    assert contents(out) == before
    assert check(out)["ok"]
    assert changes(made, out, overwrite=True) == Changed()
    assert json.loads((out / "manifest.json").read_text())["quarantined"] == {"not an image": 1}
    assert found.keys == [keys(out)[made[6].image_id]]  # its key was kept free
    assert changes(made, out) == Changed()


def test_a_copy_of_the_source_has_not_changed(made: list[ImageRecord], out: Path, tmp_path: Path) -> None:
    """Younger files with the same bytes, in the same place and elsewhere: the same folder to the last byte."""
    before = contents(out)
    for row in made:
        os.utime(row.path, (2e9, 2e9))
    assert changes(made, out) == Changed()
    assert contents(out) == before
    again = records(tmp_path / "again")
    for one, other in zip(made, again, strict=True):
        other.path.write_bytes(one.path.read_bytes())
    assert changes(again, out) == Changed()
    assert changes(again, tmp_path / "two", jobs=2) == Changed()
    assert contents(out) == contents(tmp_path / "two") == before


def test_files_that_are_younger_and_the_same_are_read_once(
    made: list[ImageRecord], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def read_bytes(path: Path) -> bytes:
        read.append(path)
        return path.open("rb").read()

    monkeypatch.setattr(Path, "read_bytes", read_bytes)

    def looked_at() -> set[Path]:
        read.clear()
        assert changes(made, out) == Changed()
        return set(read) & {row.path for row in made if row not in made[6:8]}  # those two are tried every time

    for row in made:
        row.path.chmod(0o444)
    assert len(looked_at()) == len(made) - 2
    assert looked_at() == set()
    made[0].path.chmod(0o644)
    other_of_the_same_size(made[0].path)
    for _ in range(2):  # a difference is told each time
        assert changes(made, out).files == 1


def test_unfinished_shards_are_made_again(made: list[ImageRecord], out: Path, tmp_path: Path) -> None:
    """Nobody has seen them: a build goes on with the files as they are now."""

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(made, tmp_path / "stopped", progress=stop, **PER_SHARD)
    for number in (1, 2):
        build(made, tmp_path / "parts", part=(number, 2), **PER_SHARD)
    longer(made[2].path)
    picture(made[6].path, 60, 50)
    calls: list[int] = []
    assert changes(made, tmp_path / "stopped", progress=lambda done, total: calls.append(done)) == Changed()
    assert 0 < calls[0] < 14 - 2  # the other shards are kept
    for number in (1, 2):
        assert changes(made, tmp_path / "parts", part=(number, 2)) == Changed()
    finish(tmp_path / "parts")
    assert changes(made, tmp_path / "anew") == Changed()
    assert contents(tmp_path / "stopped") == contents(tmp_path / "parts") == contents(tmp_path / "anew")
    assert contents(tmp_path / "anew") != contents(out)


def test_growth_leaves_the_changed_files_out(made: list[ImageRecord], out: Path, tmp_path: Path) -> None:
    longer(made[2].path)
    tars = {name: data for name, data in contents(out).items() if name.endswith(".tar")}
    grown = [*made, record(tmp_path / "raw", "image-new", "study-new", "patient-new")]
    assert changes(grown, out).files == 1
    assert json.loads((out / "manifest.json").read_text())["totals"]["images"] == 13
    assert tars.items() < {name: data for name, data in contents(out).items() if name.endswith(".tar")}.items()


def test_parts_look_at_their_own_shards(made: list[ImageRecord], out: Path) -> None:
    for row in made[:6]:
        longer(row.path)
    found = [changes(made, out, part=(number, 2)) for number in (1, 2)]
    finish(out)
    whole = changes(made, out)
    assert whole.files == 6 == sum(part.files for part in found)
    assert all(part.files for part in found)
    assert len(whole.keys) == 3  # some are named


def test_a_lost_shard_is_made_of_the_files_as_they_are(made: list[ImageRecord], out: Path) -> None:
    """The way to take one file in without building all anew."""
    longer(made[2].path)
    (name,) = changes(made, out).keys
    (out / f"{name.rpartition('-')[0]}.tar").unlink()
    assert changes(made, out) == Changed()
    shards = ShardSet.open(out)
    metas = [shards.read_meta(split, i) for split in shards.splits for i in range(shards.size(split))]
    sums = {meta["image_id"]: meta["original"]["sha256"] for meta in metas}
    assert sums[made[2].image_id] == hashlib.sha256(made[2].path.read_bytes()).hexdigest()
    assert check(out)["ok"]


def test_a_plan_that_remembers_no_files(made: list[ImageRecord], out: Path) -> None:
    """As builds left it before: nothing is known, nothing is told."""
    lines = [json.loads(line) for line in (out / "plan.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({k: v for k, v in line.items() if k != "files"}) + "\n" for line in lines)
    (out / "plan.jsonl").write_text(text)
    longer(made[2].path)
    assert changes(made, out) == Changed()


def test_with_hashed_ids_no_size_and_no_checksum_is_told(made: list[ImageRecord], tmp_path: Path) -> None:
    out = tmp_path / "hashed"
    assert changes(made, out, salt=SALT) == Changed()
    marks = [mark for line in (out / "plan.jsonl").read_text().splitlines() for mark in json.loads(line)["files"]]
    data = made[2].path.read_bytes()
    size, digest = (
        hmac.new(SALT, text.encode(), "sha256").hexdigest()[:16]
        for text in (str(len(data)), hashlib.sha256(data).hexdigest())
    )
    assert f"{size} {digest}" in marks
    assert marks.count(None) == 2
    assert file_mark(len(data), hashlib.sha256(data).hexdigest(), None) == (
        f"{len(data)} {hashlib.sha256(data).hexdigest()[:16]}"
    )
    longer(made[2].path)
    assert changes(made, out, salt=SALT).files == 1
