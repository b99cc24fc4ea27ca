"""Shard files: whole or not there, one writer at a time, and a disk that is full or read-only is a message."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import resource
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from data_prep.build import BuildError, build
from data_prep.check import check
from data_prep.records import ImageRecord
from data_prep.shards.writer import BusyError, ShardWriter, write_whole
from tests.hand_made import IMAGE_SIZE, record, records


@pytest.fixture
def made(tmp_path: Path) -> list[ImageRecord]:
    return records(tmp_path / "raw")


def in_a_process(work: Callable[[], None]) -> int | None:
    """Exit code of a forked process that does `work`: 0, or 1 with a traceback."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


# ------------------------------------------------------------------------------------------------ one writer at a time
def test_an_unfinished_shard_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, "train-000000") as writer:  # noqa: PT012
        writer.write("train-000000-00000", {"json": b"{}"})
        assert [path.name for path in tmp_path.iterdir()] == ["train-000000.tar.partial"]
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    sample = ("train-000000-00000", {"study_id": "s", "source": "made", "readings": []})
    with ShardWriter(tmp_path, "train-000000") as writer:
        with pytest.raises(BusyError, match="another build is writing this file"):
            ShardWriter(tmp_path, "train-000000")
        ShardWriter(tmp_path, "train-000001").__exit__()
        writer.write(sample[0], {"json": b"{}"})
        writer.finish([sample])
        ShardWriter(tmp_path, "train-000000").__exit__()  # finished: the next may have it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-000000.index.json", "train-000000.tar"]


def test_the_lock_goes_with_the_process(tmp_path: Path) -> None:
    """A build that was killed -9 blocks nobody, and its half shard is begun anew."""

    def killed() -> None:
        writer = ShardWriter(tmp_path, "train-000000")
        writer.write("train-000000-00000", {"json": b"x" * 50_000})
        writer.file.flush()
        os.kill(os.getpid(), 9)

    assert in_a_process(killed) == -9
    assert (tmp_path / "train-000000.tar.partial").stat().st_size > 10_000
    with ShardWriter(tmp_path, "train-000000"):
        assert (tmp_path / "train-000000.tar.partial").stat().st_size == 0


def test_a_lock_on_a_file_that_was_renamed_meanwhile_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, the one who had the lock finishes: ours must not truncate the finished shard."""
    path, final = tmp_path / "train-000000.tar.partial", tmp_path / "train-000000.tar"
    lock = fcntl.flock
    path.write_bytes(b"whole")

    def renamed_first(file: object, how: int) -> None:
        if not final.exists():
            os.replace(path, final)
        lock(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", renamed_first)
    with ShardWriter(tmp_path, "train-000000"):
        assert final.read_bytes() == b"whole"
        assert path.stat().st_size == 0


def test_a_file_system_without_locks_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with ShardWriter(tmp_path, "train-000000"):
        assert (tmp_path / "train-000000.tar.partial").exists()


# ------------------------------------------------------------------------------------------------ full and read-only
def test_a_file_that_may_not_grow(made: list[ImageRecord], tmp_path: Path) -> None:
    """The kernel refuses the write: a message, and nothing half-written is left; first a tar, then the scratch file."""
    out = tmp_path / "out"

    def limited(to: int, message: str) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (to, to))
        with pytest.raises(BuildError, match=message):
            build(made, out, image_size=512, image_format="png")

    tar, scratch = r"File too large; finished shards are kept", r"the scratch file cannot be written .*disk full\?"
    for limit, message in ((200_000, tar), (6_000, scratch)):
        assert in_a_process(partial(limited, limit, message)) == 0
        assert not list(out.glob("**/*.partial"))
        assert not (out / "manifest.json").exists()
    build(made, out, image_size=512, image_format="png")
    assert check(out)["ok"]


def test_a_full_disk(tmp_path: Path) -> None:
    """A real disk of 400 kB: the shards that fitted are kept, and with more room the same build goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = [record(tmp_path / "raw", f"i{n}", f"s{n}", f"p{n}") for n in range(12)]
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    try:
        with pytest.raises(BuildError, match="No space left on device"):
            build(made, disk / "out", image_size=256, images_per_shard=1)
        kept = {path.name for path in (disk / "out").glob("*.tar")}
        assert 2 < len(kept) < 12
        assert not list(disk.glob("**/*.partial"))
        assert not (disk / "out" / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        done: list[int] = []
        build(made, disk / "out", image_size=256, images_per_shard=1, progress=lambda n, _: done.append(n))
        assert done[0] >= len(kept) - 1  # the last tar may have lacked its note
        assert check(disk / "out")["ok"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_may_not_be_written(made: list[ImageRecord], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    tmp_path.chmod(0o755)

    def unprivileged() -> None:
        if os.geteuid() == 0:
            os.seteuid(65534)
        with pytest.raises(BuildError, match="Permission denied"):
            build(made, locked / "out", image_size=IMAGE_SIZE)
        with pytest.raises(BuildError, match="Permission denied"):
            build(made, locked, image_size=IMAGE_SIZE)

    assert in_a_process(unprivileged) == 0
    assert list(locked.iterdir()) == []


def test_write_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"second")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"first")]
