"""A small shard folder as bytes, to be damaged, with what the reader and `cogaze data check` say of the result."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from cogaze.data.shards import ShardSet
from data_prep.build import build
from data_prep.check import check
from tests.hand_made import IMAGE_SIZE, records

TAR, INDEX, MANIFEST = "train-000000.tar", "train-000000.index.json", "manifest.json"


@functools.cache
def original() -> dict[str, bytes]:
    """The files of one shard of four images, two with gaze, without other splits."""
    with tempfile.TemporaryDirectory() as root:
        rows = [row for row in records(Path(root, "raw")) if row.study_id in ("study-0", "study-1", "study-3")]
        build(rows, Path(root, "out"), image_size=IMAGE_SIZE)
        return {path.name: path.read_bytes() for path in Path(root, "out").iterdir()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def fitted(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with hashes and sizes in the manifest that fit them, so that the damage itself must be found."""
    manifest = json.loads(files[MANIFEST])
    entry = manifest["shards"][0]
    entry["bytes"], entry["sha256"] = len(files[TAR]), hashlib.sha256(files[TAR]).hexdigest()
    entry["index_sha256"] = hashlib.sha256(files[INDEX]).hexdigest()
    return {**files, MANIFEST: json.dumps(manifest).encode()}


def read_all(folder: Path) -> list[Any]:
    shards = ShardSet.open(folder)
    try:
        return [shards.read(split, i) for split in shards.splits for i in range(shards.size(split))]
    finally:
        shards.close()


def faults(folder: Path) -> list[str]:
    return [f"{row['key'] or row['shard']}: {row['fault']}" for row in check(folder)["faults"]]
