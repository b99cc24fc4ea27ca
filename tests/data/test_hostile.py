"""Shards that somebody made to do harm, or that broke: refused with the place named, in little time and memory.

The reader goes by index and manifest and never by what a tar says of itself; `cogaze data check` reads the tar. Both
are shown the same folders here.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogaze.data.shards import ShardError, ShardSet
from tests.data.damage import INDEX, MANIFEST, TAR, faults, fitted, original, read_all, write


@pytest.fixture(name="original")
def _original() -> dict[str, bytes]:
    return original()


# ------------------------------------------------------------------------------------------------ tars
def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 4) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return info


def without_end(tar: bytes) -> bytes:
    """A tar without the empty blocks at its end, so that more members may follow."""
    tar = tar.rstrip(b"\0")
    return tar + bytes(-len(tar) % 512)


HOSTILE = {
    "absolute": (member("/etc/cron.d/job"), "leaves the folder"),
    "upwards": (member("../../train-000000-00009.json"), "leaves the folder"),
    "symbolic link": (member("train-000000-00009.jpg", tarfile.SYMTYPE, "/etc/passwd"), "not a plain file"),
    "hard link": (member("train-000000-00009.jpg", tarfile.LNKTYPE, "../secret"), "not a plain file"),
    "device": (member("train-000000-00009.jpg", tarfile.CHRTYPE), "not a plain file"),
    "pipe": (member("train-000000-00009.jpg", tarfile.FIFOTYPE), "not a plain file"),
    "folder": (member("train-000000-00009.jpg", tarfile.DIRTYPE), "not a plain file"),
    "other name": (member("train-000001-00000.json"), "a member's name is not train-000000-NNNNN"),
    "script": (member("train-000000-00009.py"), "a member's name is not train-000000-NNNNN"),
    "twice": (member("train-000000-00000.json"), "train-000000-00000: its members are not adjacent"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tar_with_something_else_in_it(name: str, original: dict[str, bytes], tmp_path: Path) -> None:
    """The reader does not see it, whatever it is; the check names it."""
    info, says = HOSTILE[name]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(info, io.BytesIO(b"evil"))
    folder = write(tmp_path / "out", fitted({**original, TAR: without_end(original[TAR]) + stream.getvalue()}))
    good = read_all(write(tmp_path / "good", original))
    assert [(s.key, s.image, s.meta) for s in read_all(folder)] == [(s.key, s.image, s.meta) for s in good]
    assert any(says in fault for fault in faults(folder))
    assert sorted(path.name for path in folder.rglob("*")) == sorted(original)  # nothing was unpacked


def test_a_member_that_claims_to_be_huge(original: dict[str, bytes], tmp_path: Path) -> None:
    """Its header says 8 GB; nothing of that size is read or made."""
    data = bytearray(original[TAR])
    header = bytearray(data[:512])
    header[124:136] = b"%011o\0" % (8 * 2**30 - 1)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[:512] = header
    folder = write(tmp_path, fitted({**original, TAR: bytes(data)}))
    assert len(read_all(folder)) == 4
    tracemalloc.start()
    found = faults(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("train-000000-00000: a member is larger than is allowed" in fault for fault in found)
    assert peak < 50e6


def test_a_tar_of_very_many_members(original: dict[str, bytes], tmp_path: Path) -> None:
    """100,000 empty members beside the four samples: given up early, and memory does not grow with them."""
    header = member("train-000000-00009.json", size=0).tobuf(tarfile.USTAR_FORMAT)
    files = fitted({**original, TAR: without_end(original[TAR]) + header * 100_000 + bytes(1024)})
    assert len(read_all(write(tmp_path, files))) == 4
    folder = write(tmp_path, files)
    tracemalloc.start()
    found = faults(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("far more members than the manifest has samples" in fault for fault in found)
    assert peak < 20e6


# ------------------------------------------------------------------------------------------------ index, manifest
@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        (INDEX, b"[" * 2000, "not a shard index|larger than"),
        (INDEX, b"[" * 100_000, "larger than the index of its shard may be"),
        (INDEX, b'{"samples": 7}', "not a shard index"),
        (INDEX, b'{"samples": [{"key": "train-000000-00000", "members": []}]}', "not a shard index"),
        (INDEX, b'{"samples": [{"key": "../../0", "members": {"jpg": [0, 9], "json": [0, 9]}}]}', "not of this shard"),
        (INDEX, b'{"samples": []}', "0 samples, the manifest says 4"),
        (INDEX, b"\xff\xfe", "not a shard index"),
        (MANIFEST, b'{"schema_version": 1' + b"0" * 5000 + b"}", "cannot be read"),
        (MANIFEST, b"[" * 100_000, "cannot be read"),
        (MANIFEST, b"null", "not a JSON object"),
    ],
)
def test_json_that_is_no_index_or_manifest(
    name: str, data: bytes, says: str, original: dict[str, bytes], tmp_path: Path
) -> None:
    files = {**original, name: data}
    folder = write(tmp_path, fitted(files) if name == INDEX else files)
    with pytest.raises(ShardError, match=says) as error:
        read_all(folder)
    assert str(error.value).startswith(str(folder / name))
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m["shards"][0].update(images=10**12, study_runs=[10**12]), "cannot lie in its"),
        (lambda m: m["shards"][0].update(images=-1, study_runs=[]), "cannot lie in its"),
        (lambda m: m["shards"][0].update(bytes=10**30, images=10**20, study_runs=[10**20]), "bytes, the manifest says"),
        (lambda m: m["shards"][0].update(name="x/../../etc-000000", split="x/../../etc"), "shard name"),
        (lambda m: m["shards"][0].update(name="train-000000\n", split="train"), "shard name"),
        (lambda m: m["shards"].append(m["shards"][0]), "stands twice"),
        (lambda m: m["totals"].update(by_split={"train": {"labels": {"Edema": {"positive": "x"}}}}), "five counts"),
        (lambda m: m["totals"].update(by_split={"train": {"labels": [1]}}), "five counts"),
        (lambda m: m["totals"].update(by_split=None), "five counts"),
        (lambda m: m.update(image_size="518"), "image_size is missing or wrong"),
        (lambda m: m.update(settings=float("inf")), "cannot be read"),
    ],
)
def test_a_manifest_that_lies(
    change: Callable[[Any], None], says: str, original: dict[str, bytes], tmp_path: Path
) -> None:
    manifest = json.loads(original[MANIFEST])
    change(manifest)
    data = json.dumps(manifest).replace("Infinity", "1e999").encode()  # JSON's own way to say it
    folder = write(tmp_path, {**original, MANIFEST: data})
    with pytest.raises(ShardError, match=says):
        read_all(folder)


def test_files_that_are_no_files(original: dict[str, bytes], tmp_path: Path) -> None:
    """A pipe where a file is expected would be waited for without end."""
    folder = write(tmp_path, original)
    for name in (INDEX, MANIFEST):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(ShardError, match=r"no file, or larger than the .* may be"):
            read_all(folder)


def test_an_index_and_a_manifest_of_gigabytes(original: dict[str, bytes], tmp_path: Path) -> None:
    folder = write(tmp_path, original)
    for name in (INDEX, MANIFEST):
        os.truncate(folder / name, 1 << 33)  # no bytes on the disk
        with pytest.raises(ShardError, match="larger than the"):
            read_all(folder)


@pytest.mark.parametrize("text", [b"[1, 2]", b'"text"', b"7", b"null", b"NaN", b'{"a": 1e5', b"[" * 40])
def test_a_member_that_is_no_sample(text: bytes, original: dict[str, bytes], tmp_path: Path) -> None:
    offset, size = json.loads(original[INDEX])["samples"][1]["members"]["json"]
    tar = original[TAR][:offset] + text.ljust(size) + original[TAR][offset + size :]
    shards = ShardSet.open(write(tmp_path, fitted({**original, TAR: tar})))
    for read in (shards.read, shards.read_meta):
        with pytest.raises(
            ShardError, match=r"train-000000\.tar, sample train-000000-00001: .*cogaze data check"
        ) as error:
            read("train", 1)
        assert str(tmp_path) in str(error.value)
        read("train", 0)  # the others are still read
