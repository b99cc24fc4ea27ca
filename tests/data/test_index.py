"""Manifest and tar index: every folder that is missing, changed or lies is refused clearly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cogaze.data import index as index_module
from cogaze.data.shards import ShardError, ShardSet
from data_prep.build import build
from tests.hand_made import IMAGE_SIZE, records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    build(records(root / "raw"), root / "out", image_size=IMAGE_SIZE, images_per_shard=4)
    return root / "out"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_refuses_what_is_no_shard_folder(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ShardError, match="no shard folder given"):
        ShardSet.open([])
    with pytest.raises(ShardError, match="no such folder"):
        ShardSet.open([tmp_path / "nowhere"])
    with pytest.raises(ShardError, match=r"has no manifest\.json"):
        ShardSet.open([tmp_path])
    with pytest.raises(ShardError, match="holds the same shards as"):
        ShardSet.open([copy, copy])
    (copy / "manifest.json").write_text('{"schema_version": NaN}')
    with pytest.raises(ShardError, match="cannot be read"):
        ShardSet.open([copy])
    (copy / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(ShardError, match=r"schema version 99.*build again"):
        ShardSet.open([copy])


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("name", "../../etc/train-000000", "shard name"),
        ("name", "validate-000000", "shard name"),
        ("images", 3, "study_runs"),
        ("images", "3", "lacks one of"),
        ("study_runs", [7], "study_runs"),
        ("study_runs", [True, True], "study_runs"),
        ("gaze", [99], "gaze positions"),
        ("bytes", 10**6, "bytes, the manifest says 1000000"),
        ("bytes", 1, "cannot lie in its 1 bytes"),
        ("images", 10**15, "cannot lie in its"),
        ("sha256", "../../etc/passwd", "is no sha256"),
    ],
)
def test_refuses_a_manifest_that_lies(copy: Path, key: str, value: object, says: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["shards"][0][key] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=says):
        ShardSet.open(copy)


def test_refuses_missing_and_changed_files(copy: Path) -> None:
    index = copy / "train-000000.index.json"
    text = index.read_text()
    index.write_text(text.replace('"gaze": false', '"gaze": true '))
    with pytest.raises(ShardError, match="sha256 differs"):
        ShardSet.open(copy).read("train", 0)
    index.unlink()
    with pytest.raises(ShardError, match=r"index\.json: No such file.*build again"):
        ShardSet.open(copy)
    (copy / "train-000001.tar").unlink()
    index.write_text(text)
    with pytest.raises(ShardError, match=r"train-000001\.tar: No such file"):
        ShardSet.open(copy)


@pytest.mark.parametrize(
    ("member", "span", "says"),
    [
        ("jpg", [0, 10**9], "outside the tar or has no possible size"),
        ("json", [-4, 10], "outside the tar"),
        ("json", [1024, 1 << 20], "the json member of train-000000-00000 lies outside the tar"),
        ("json", [2**63 - 1, 2], "outside the tar"),
        ("json", "of the last sample", "do not lie together"),
        ("json", [512, 0], "no possible size"),
        ("jpg", [10**30, 5], "not a shard index"),
        ("jpg", "here", "not a shard index"),
    ],
)
def test_refuses_an_index_that_points_elsewhere(
    copy: Path, member: str, span: object, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with a fitting hash an index is not trusted."""
    monkeypatch.setattr(index_module, "SAMPLE_OVERHEAD", 2048)  # these tars are small
    path = copy / "train-000000.index.json"
    index = json.loads(path.read_text())
    if span == "of the last sample":
        span = index["samples"][-1]["members"][member]
    index["samples"][0]["members"][member] = span
    path.write_text(json.dumps(index))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["shards"][0]["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=says):
        ShardSet.open(copy).read("train", 0)
