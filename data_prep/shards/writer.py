"""Writing one shard: a tar and its index, under temporary names until both are whole, with the same bytes each time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from cogaze.data.schema import SCHEMA_VERSION

NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # a file system without locks


class BusyError(OSError):
    """Another process is writing this shard."""


class ShardWriter:
    """One tar with its index, under temporary names until `finish`; leaving without it removes them.

    Raises BusyError where another process is at the same shard, OSError where it cannot be written.
    """

    def __init__(self, out: Path, name: str) -> None:
        # Here, not at the top: webdataset imports torch, which the encoding processes have no use for.
        from webdataset import TarWriter

        self.name = name
        self.tar, self.index = out / f"{name}.tar", out / f"{name}.index.json"
        self.file = _HashingFile(_locked(Path(f"{self.tar}.partial")))
        # Everything in a tar header that could differ between two builds is fixed.
        self.writer = TarWriter(self.file, encoder=False, mtime=0, user="cogaze", group="cogaze", mode=0o444)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.file.closed:  # not finished: the lock is held until the files are gone
            for path in (self.tar, self.index):
                Path(f"{path}.partial").unlink(missing_ok=True)
        with suppress(OSError, ValueError):  # the disk may be full: that is being said already
            self.writer.close()
        with suppress(OSError):
            self.file.close()

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        self.writer.write({"__key__": key, **members})

    def finish(self, samples: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        """Close the tar, write its index from what really stands in it, rename both; returns the manifest's entry.

        `samples` are key and JSON of each. Both files are on the disk for certain before they get their names.
        """
        self.writer.close()
        self.file.flush()
        spans: dict[str, dict[str, list[int]]] = {}
        with tarfile.open(f"{self.tar}.partial", "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                spans.setdefault(key, {})[extension] = [member.offset_data, member.size]
        rows = [
            {"key": key, "study": meta["study_id"], "gaze": bool(meta["readings"]), "members": spans[key]}
            for key, meta in samples
        ]
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        head = f'{{"schema_version": {SCHEMA_VERSION}, "shard": "{self.name}", "samples": [\n'
        data = f"{head}{lines}\n]}}\n".encode()
        os.replace(f"{self.tar}.partial", self.tar)
        self.file.close()
        write_whole(self.index, data)
        runs = [len(list(group)) for _, group in groupby((meta["source"], meta["study_id"]) for _, meta in samples)]
        return {
            "images": len(rows),
            "studies": len(runs),
            "bytes": self.file.size,
            "sha256": self.file.sha256.hexdigest(),
            "index_sha256": hashlib.sha256(data).hexdigest(),
            "study_runs": runs,
            "gaze": [i for i, row in enumerate(rows) if row["gaze"]],
        }


class _HashingFile:
    """A file for writing that hashes on the way, so that a tar is not read again for its sha256."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    @property
    def closed(self) -> bool:
        return self.file.closed

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def _locked(path: Path) -> IO[bytes]:
    """The file at `path`, empty, open for writing, and locked until it is closed or this process ends."""
    while True:
        file = open(path, "ab")  # noqa: SIM115  closed by the writer
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise BusyError(errno.EBUSY, "another build is writing this file", str(path)) from None
        except OSError as error:
            if error.errno not in NO_LOCKS_HERE:
                file.close()
                raise
        # Whoever had it before may have renamed or removed it just now: then the lock is on another file.
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                file.truncate(0)
                return file
        file.close()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file aside, on the disk for certain, then rename it into place; on failure nothing is left aside."""
    partial = Path(f"{path}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
