"""Records on disk while a build is planned and written, so that memory does not grow with the data set.

One private sqlite file in the build's work folder. It has no name from the moment it is open, so a process that is
killed leaves nothing behind and two builds never meet in it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.splits import one_spelling

# `image` holds what planning sorts and compares, `body` what encoding needs, `member` the files that go into the tar
# beside image and JSON. `digest` stands for all that the reader said about the image.
_TABLES = """
CREATE TABLE image (seq INTEGER PRIMARY KEY, split INTEGER, study BLOB, identity BLOB, digest BLOB, source TEXT,
                    patient_id TEXT, study_id TEXT, image_id TEXT, relative_path TEXT, aside TEXT, detail TEXT);
CREATE TABLE body (seq INTEGER PRIMARY KEY, path BLOB, heatmaps TEXT, meta BLOB);
CREATE TABLE member (seq INTEGER, extension TEXT, data BLOB);
CREATE TABLE earlier (shard TEXT, place INTEGER, identity BLOB PRIMARY KEY, study BLOB, digest BLOB);
"""
# Nobody else opens the file and a crash throws it away, so nothing is journalled and nothing is waited for.
_SETTINGS = ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-16000")


@dataclass(frozen=True)
class Spooled:
    """One image as encoding needs it: the file to decode, the sample's JSON but for `original`, ready members.

    `heatmaps` has the picture files of each reading (empty for a reading without), as Reading.heatmaps.
    """

    path: Path
    meta: bytes
    members: dict[str, bytes]
    heatmaps: tuple[tuple[Path | None, ...], ...] = ()


class Spool:
    """The records of one build; `folder` None keeps them in memory. Raises sqlite3.Error where the disk is full."""

    def __init__(self, folder: Path | None) -> None:
        self.count = 0
        if folder is None:
            self._db = sqlite3.connect(":memory:", isolation_level=None)
        else:
            handle, name = tempfile.mkstemp(prefix="records-", suffix=".sqlite", dir=folder)
            os.close(handle)
            self._db = sqlite3.connect(name, isolation_level=None)
        self._db.create_function("one_spelling", 1, one_spelling, deterministic=True)
        for setting in _SETTINGS:
            self._db.execute(f"PRAGMA {setting}")
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")  # never ended: one transaction, thrown away with the file
        if folder is not None:
            os.unlink(name)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(
        self,
        *,
        split: int,
        study: bytes,
        identity: bytes,
        digest: bytes,
        ids: tuple[str, str, str, str],
        relative_path: str,
        body: Spooled,
    ) -> None:
        """Keep one image; `ids` are its source, patient, study and image id."""
        self.count += 1
        row = (self.count, split, study, identity, digest, *ids, relative_path)
        self.execute("INSERT INTO image VALUES (?,?,?,?,?,?,?,?,?,?,NULL,NULL)", row)
        maps = [[path and str(path) for path in reading] for reading in body.heatmaps]
        values = (self.count, os.fsencode(body.path), json.dumps(maps) if any(maps) else None, body.meta)
        self.execute("INSERT INTO body VALUES (?,?,?,?)", values)
        for extension, data in body.members.items():
            self.execute("INSERT INTO member VALUES (?,?,?)", (self.count, extension, data))

    def index(self) -> None:
        """After the last `add`: what is looked up by later."""
        self.execute("CREATE INDEX member_seq ON member (seq)")
        self.execute("CREATE INDEX image_identity ON image (identity)")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Run one statement; its rows are fetched as they are asked for."""
        return self._db.execute(statement, values)

    def many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        self._db.executemany(statement, rows)

    def number(self, statement: str, values: Sequence[Any] = ()) -> int:
        """The one number a statement gives."""
        return int(next(self.execute(statement, values))[0])

    def paths(self, rows: array[int]) -> list[Path]:
        """The image files of the images with these numbers, in this order."""
        wanted = "SELECT path FROM body WHERE seq=?"
        return [Path(os.fsdecode(next(self.execute(wanted, (seq,)))[0])) for seq in rows]

    def read(self, rows: array[int]) -> Iterator[Spooled]:
        """The images with these numbers, in this order."""
        for seq in rows:
            path, maps, meta = next(self.execute("SELECT path, heatmaps, meta FROM body WHERE seq=?", (seq,)))
            members = dict(self.execute("SELECT extension, data FROM member WHERE seq=? ORDER BY rowid", (seq,)))
            pictures = (tuple(name and Path(name) for name in reading) for reading in json.loads(maps or "[]"))
            yield Spooled(Path(os.fsdecode(path)), meta, members, tuple(pictures))
