"""Image files that are others now than when the shards were made of them: told, never passed over in silence.

A shard keeps its bytes, since training may have seen them. What is remembered of a file is its size and the beginning
of its sha256, in the shard's line of the plan (plan.jsonl), so the line depends on no clock. A file of the same size is
read again only if it is younger than the tar, whose time is then set to this look if all were the same (after a copy
or a chmod all files are younger, and need be read once). One that could not be used is always tried again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogaze.data.schema import parse_json
from data_prep.images import ImageError, load_grey
from data_prep.shards.plan import ShardPlan
from data_prep.shards.pseudonyms import hashed_checksum
from data_prep.shards.spool import Spool

DIGITS = 16  # hexadecimal, of the sha256
NAMED = 3  # keys that are remembered for the message


@dataclass
class Changed:
    """How many files of kept shards are others now, how many of those were set aside then and can be used now."""

    files: int = 0
    mended: int = 0
    keys: list[str] = field(default_factory=list)  # of the first ones

    def add(self, other: Changed) -> None:
        self.files += other.files
        self.mended += other.mended
        self.keys += other.keys[: NAMED - len(self.keys)]


def file_mark(size: int, sha256: str, salt: bytes | None) -> str:
    """What is remembered of a file that was used; with `salt` hashed, since sizes and checksums can be looked up."""
    parts = (str(size), sha256) if salt is None else (hashed_checksum(str(size), salt), hashed_checksum(sha256, salt))
    return " ".join(part[:DIGITS] for part in parts)


def files_changed(
    shard: ShardPlan, line: bytes, spool: Spool, out: Path, settings: Mapping[str, Any], salt: bytes | None
) -> Changed:
    """What differs among the files of one finished shard, `line` being its line in the ledger.

    That has the `file_mark` of each planned image, None where the file could not be used; in older builds none at all,
    and nothing is known.
    """
    marks, name, changed = parse_json(line).get("files"), shard.name, Changed()
    if marks is None:
        return changed
    tar = out / f"{name}.tar"
    made = tar.stat().st_mtime_ns if tar.exists() else 0
    began, again = time.time_ns(), 0
    for number, (path, mark) in enumerate(zip(spool.paths(shard.rows), marks, strict=True)):
        if mark is None:
            if _usable(path, settings):
                changed.add(Changed(1, 1, [f"{name}-{number:05d}"]))
        else:
            younger = _younger(path, made)
            again += younger
            if _differs(path, mark, younger, salt):
                changed.add(Changed(1, 0, [f"{name}-{number:05d}"]))
    if again and made and not changed.files:
        with suppress(OSError):  # shards that may not be written are read again next time
            os.utime(tar, ns=(began, began))
    return changed


def _usable(path: Path, settings: Mapping[str, Any]) -> bool:
    try:
        load_grey(path, settings["image_size"], settings["dicom_grey"])
    except ImageError:
        return False
    return True


def _younger(path: Path, made: int) -> bool:
    """Whether the file was touched after `made`, ns; its inode too, for what copies a file may set its time back."""
    try:
        state = os.stat(path)
    except OSError:
        return True
    return max(state.st_mtime_ns, state.st_ctime_ns) > made


def _differs(path: Path, mark: str, younger: bool, salt: bytes | None) -> bool:
    """Whether a file is another than its mark says; a file that cannot be read any more is."""
    try:
        state = os.stat(path)
        if file_mark(state.st_size, "", salt).split()[0] != mark.split()[0]:
            return True
        if not younger:
            return False
        return file_mark(state.st_size, hashlib.sha256(path.read_bytes()).hexdigest(), salt) != mark
    except OSError:
        return True
