"""The node's cache of tars: never above its size, never without what is open, the least recently used goes first."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cogaze.data.cache import Cache
from cogaze.data.schema import ShardError


def content(number: int, size: int = 1000) -> tuple[str, bytes]:
    data = bytes([number]) * size
    return hashlib.sha256(data).hexdigest(), data


def put(cache: Cache, number: int, size: int = 1000, at: float | None = None) -> str:
    """Fetch a made-up tar; `at` sets when it was read last."""
    sha256, data = content(number, size)
    assert cache.fetch(sha256, size, lambda part: part.write_bytes(data))  # type: ignore[arg-type,return-value]
    if at is not None:
        os.utime(cache.path(sha256), (at, at))
    return sha256


def there(cache: Cache) -> list[int]:
    """Numbers of the tars that are there."""
    return sorted(path.read_bytes()[0] for path in cache.folder.glob("*.tar"))


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 3000)
    keys = [put(cache, number, at=time.time() - 100 + number) for number in range(3)]
    assert there(cache) == [0, 1, 2]
    with cache.held(keys[0], 1000) as file:  # read again, so 1 is the oldest now
        assert file is not None
        assert os.pread(file, 2, 0) == b"\0\0"
    put(cache, 3)
    assert there(cache) == [0, 2, 3]
    put(cache, 4, size=2000)  # needs the room of two: 2, then 0
    assert there(cache) == [3, 4]
    assert cache.used() == 3000


def test_what_is_open_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 2000, wait=0.2)
    old, new = (put(cache, number, at=time.time() - 100 + number) for number in range(2))
    with cache.held(old, 1000):
        put(cache, 2)
        assert there(cache) == [0, 2]
        with cache.held(content(2)[0], 1000), pytest.raises(ShardError, match="are being read or fetched"):
            put(cache, 3)
    put(cache, 3)
    assert 3 in there(cache)
    with cache.held(new, 1000) as file:
        assert file is None


def test_room_is_waited_for(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", 1000)
    first = put(cache, 0)
    held, go = threading.Event(), threading.Event()

    def reader() -> None:
        with cache.held(first, 1000):
            held.set()
            go.wait(30)

    thread = threading.Thread(target=reader)
    thread.start()
    held.wait(30)
    threading.Timer(0.2, go.set).start()
    put(cache, 1)
    assert go.is_set()
    thread.join()
    assert there(cache) == [1]


def test_a_shard_larger_than_the_cache(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"0\.10 GB does not fit in a cache of 0\.05 GB; raise data\.cache_gb"):
        Cache(tmp_path, 50_000_000).fetch("0" * 64, 100_000_000, lambda part: None)


def test_other_files_in_the_folder_are_not_ours(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    (tmp_path / "thesis.tar").write_bytes(bytes(5000))
    (tmp_path / "a.1.part").write_bytes(b"x")
    put(cache, 1)
    put(cache, 2)
    assert {"thesis.tar", "a.1.part", f"{content(2)[0]}.tar"} <= {path.name for path in tmp_path.iterdir()}
    assert cache.used() == 1000


def test_a_failed_fetch_leaves_its_part_and_no_lock(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1500)
    sha256, data = content(7)

    def half(part: Path) -> None:
        part.write_bytes(data[:500])
        raise ShardError("gone")

    with pytest.raises(ShardError, match="gone"):
        cache.fetch(sha256, 1000, half)
    assert cache.used() == 1000  # reserved in full
    seen: list[int] = []

    def rest(part: Path) -> None:
        seen.append(part.stat().st_size)
        part.write_bytes(data)

    cache.fetch(sha256, 1000, rest)
    assert seen == [500]
    with pytest.raises(ShardError, match="gone"):
        cache.fetch(content(8)[0], 1000, half)  # 7 made room
    put(cache, 9)  # the abandoned part of 8 makes room
    assert there(cache) == [9]
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ShardError, match=r"Not a directory; set data\.cache_dir to a disk of this machine"):
        put(Cache(tmp_path / "file" / "c", 10**6), 1)

    def full(part: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ShardError, match=r"No space left on device; set data\.cache_dir .* or lower data\.cache_gb"):
        Cache(tmp_path, 10**6).fetch("0" * 64, 10, full)


def test_somebody_else_is_at_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**6)
    sha256, data = content(1)
    busy, go = threading.Event(), threading.Event()

    def slow(part: Path) -> None:
        busy.set()
        go.wait(30)
        part.write_bytes(data)

    thread = threading.Thread(target=lambda: cache.fetch(sha256, 1000, slow))
    thread.start()
    busy.wait(30)
    assert cache.fetch(sha256, 1000, lambda part: pytest.fail("twice"), wait=False) is False
    go.set()
    assert cache.fetch(sha256, 1000, lambda part: pytest.fail("twice")) is True
    thread.join()


def _stress(cache: Cache, seed: int, queue: Any) -> None:
    """Reads tars in a pseudo-random order through a cache of three; reports the most that was ever in it."""
    most = 0
    for turn in range(40):
        number = (seed * 7 + turn * 5) % 8
        sha256, data = content(number)
        while True:
            with cache.held(sha256, 1000) as file:
                if file is not None:
                    if os.pread(file, 2000, 0) != data:
                        queue.put("damaged")
                        return
                    break
            cache.fetch(sha256, 1000, lambda part, data=data: part.write_bytes(data))  # type: ignore[misc]
        most = max(most, cache.used())
    queue.put(most)


def test_processes_never_exceed_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3000)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_stress, args=(cache, seed, queue), daemon=True) for seed in range(3)]
    for child in children:
        child.start()
    most = [queue.get(timeout=60) for _ in children]
    assert all(isinstance(m, int) and 0 < m <= 3000 for m in most), most
