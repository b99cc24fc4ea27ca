"""Whole files of remote shards kept on a node's disk: one download a node, within a size, oldest use first out.

    CACHE/  {sha256}.tar            a tar, complete and checked; its time stamp says when it was read last
            {sha256}.{size}.part    one on its way, of which `size` bytes are reserved
            {sha256}.lock, .lock    who is fetching it; who is making room
            {sha256}.index          the index of a tar (0.3 % of its size, not counted, never removed)

The processes of a node need no server to agree: everything is file locks (flock), which the system gives back when a
process dies. Whoever finds a tar missing takes its lock; the others wait for that lock and then find the tar there. A
reader holds a shared lock on the tar itself, and what is so held is never removed. The folder should lie on a disk of
the node's own: not every network file system knows flock.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cogaze.data.schema import ShardError

ROOM_SECONDS = 600.0  # how long to wait for others to finish with what fills the cache
TOUCH_SECONDS = 1.0  # a tar's time stamp is renewed no more often
OURS = re.compile(r"[0-9a-f]{64}\.(tar|(\d+)\.part)")  # nothing else in the folder is ever counted or removed


@dataclass(frozen=True)
class Cache:
    """A folder for the tars of remote shards, of `limit` bytes at most."""

    folder: Path
    limit: int
    wait: float = ROOM_SECONDS

    def path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.tar"

    def index(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.index"

    @contextmanager
    def held(self, sha256: str, size: int) -> Iterator[int | None]:
        """The open tar, which is not removed meanwhile; None where it is not here.

        Raises ShardError where the cache cannot be read. One of another size was cut off by hand, or by a disk that
        lost its last writes: that one is removed.
        """
        try:
            file = os.open(self.path(sha256), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise self._trouble(error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            whole = os.fstat(file).st_size == size
            if whole:
                _touch(file)
                yield file
        finally:
            _let_go(file)
        if not whole:
            with self._counting():
                _remove(self.path(sha256))
            yield None

    def fetch(self, sha256: str, size: int, download: Callable[[Path], None], wait: bool = True) -> bool:
        """See to it that the tar is here: by `download(part)`, which completes the file, unless another process does.

        Returns False, at once, where another is at it and `wait` is false. Raises ShardError where there is no room,
        and what `download` raises; what it has written then stays, for the next try to go on from.
        """
        if size > self.limit:
            raise ShardError(
                f"a shard of {size / 1e9:.2f} GB does not fit in a cache of {self.limit / 1e9:.2f} GB; "
                "raise data.cache_gb"
            )
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # 0700: reports lie in there
            with _locked(self.folder / f"{sha256}.lock", wait) as mine:
                if not mine:
                    return False
                if not self.path(sha256).exists():
                    part = self.folder / f"{sha256}.{size}.part"
                    self._reserve(part, size)
                    download(part)
                    with self._counting():  # who counts would otherwise see it twice, or not at all
                        os.replace(part, self.path(sha256))
        except OSError as error:
            raise self._trouble(error) from None
        return True

    def used(self) -> int:
        """Bytes of all tars, those under way included as if they were complete."""
        if not self.folder.is_dir():
            return 0
        with self._counting():
            return sum(size for _, _, size in self._entries())

    def _counting(self) -> AbstractContextManager[bool]:
        return _locked(self.folder / ".lock", True)

    def _trouble(self, error: OSError) -> ShardError:
        return ShardError(
            f"{self.folder}: {error.strerror or error}; set data.cache_dir to a disk of this machine with "
            f"{self.limit / 1e9:.1f} GB free, or lower data.cache_gb (where no settings are given: set XDG_CACHE_HOME)"
        )

    # -------------------------------------------------------------------------------------------- making room
    def _reserve(self, part: Path, size: int) -> None:
        """Make room for `part` and leave the file there, so that others count it."""
        until = time.monotonic() + self.wait
        while True:
            with self._counting():
                if part.exists() or self._make_room(size):
                    part.touch(mode=0o600)
                    return
            if time.monotonic() > until:
                raise ShardError(
                    f"{self.folder}: all of its {self.limit / 1e9:.2f} GB are being read or fetched; "
                    "raise data.cache_gb"
                )
            time.sleep(0.05)

    def _make_room(self, size: int) -> bool:
        entries = sorted(self._entries())  # least recently used first
        used = sum(entry[2] for entry in entries)
        for _, path, freed in entries:
            if used + size <= self.limit:
                break
            if _remove(path):
                used -= freed
        return used + size <= self.limit

    def _entries(self) -> list[tuple[float, Path, int]]:
        """Last use, path and size of every tar and of every one on its way."""
        found = []
        for item in os.scandir(self.folder):
            if named := OURS.fullmatch(item.name):
                with suppress(FileNotFoundError):  # somebody cleans up by hand
                    facts = item.stat()
                    found.append((facts.st_mtime, Path(item.path), int(named[2] or facts.st_size)))
        return found


def _remove(path: Path) -> bool:
    """Delete a tar that nobody reads, or a part that nobody is fetching."""
    with suppress(FileNotFoundError):
        if path.suffix == ".part":
            with _locked(path.with_name(f"{path.name.split('.')[0]}.lock"), wait=False) as mine:
                if mine:
                    path.unlink()
                return mine
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        except BlockingIOError:
            return False
        finally:
            _let_go(file)
    return True


# ------------------------------------------------------------------------------------------------ locks
@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    """An exclusive lock; False, without one, where another has it and `wait` is false."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(file)
        yield False
        return
    try:
        yield True
    finally:
        _let_go(file)


def _let_go(file: int) -> None:
    """Unlock and close. Closing alone would leave the lock with a process that was forked meanwhile."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def _touch(file: int) -> None:
    if time.time() - os.fstat(file).st_mtime > TOUCH_SECONDS:
        with suppress(PermissionError):  # a cache that belongs to somebody else
            os.utime(file)
