"""The checker finds every kind of damage, names the sample, and tells nothing that the source would keep to itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.check import LEVELS, check
from tests.data_prep.check.helpers import edit, faults, rewrite_json


def test_clean(folder: Path) -> None:
    counts = {"shards": 3, "images": 13, "studies": 8}
    for level in LEVELS:
        assert check(folder, level=level) == {
            "ok": True, "level": level, "faults": [], "warnings": [], "warnings_left_out": 0, **counts
        }  # fmt: skip


def test_two_processes_find_the_same(folder: Path) -> None:
    rewrite_json(folder, lambda meta: meta.update(view="UPSIDE"))
    (folder / "test-000000.tar").write_bytes(b"")
    assert check(folder, jobs=2) == check(folder, jobs=1)


@pytest.mark.parametrize("name", ["train-000000.tar", "train-000000.index.json", "quarantine.jsonl"])
def test_any_flipped_byte_is_seen(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for place in np.linspace(0, len(data) - 1, 9).astype(int):
        broken = bytearray(data)
        broken[place] ^= 1
        (folder / name).write_bytes(bytes(broken))
        assert faults(folder) or name == "quarantine.jsonl"
    if name == "quarantine.jsonl":
        (folder / name).write_bytes(data[: len(data) // 2])
        assert "quarantine.jsonl, line 1" in faults(folder)[0]


def test_missing_and_extra_files(folder: Path) -> None:
    (folder / "train-000009.tar").touch()
    (folder / "train-000000.tar.partial").touch()
    assert faults(folder) == [
        ": train-000000.tar.partial is not named by the manifest",
        ": train-000009.tar is not named by the manifest",
    ]
    (folder / "train-000009.tar").unlink()
    (folder / "train-000000.tar.partial").unlink()
    (folder / "quarantine.jsonl").unlink()
    (folder / "test-000000.index.json").unlink()
    (folder / "validate-000000.tar").unlink()
    found = "\n".join(faults(folder))
    for words in ("quarantine.jsonl cannot be read", "test-000000: the index cannot be read: No such file",
                  "validate-000000: the tar cannot be read: No such file"):  # fmt: skip
        assert words in found


def test_the_quarantine_is_counted_by_things_and_kinds(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]

    def with_row(**more: object) -> list[str]:
        lines = [*rows, {"source": "made", "reason": "duplicate row", **more}]
        (folder / "quarantine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        return faults(folder)

    before = json.loads((folder / "manifest.json").read_text())["noted"]
    edit(folder, lambda manifest: manifest["noted"].update({"duplicate row": 3}))
    assert with_row(count=3, kept=True) == []
    assert "does not hold" in with_row(count=2, kept=True)[0]
    assert "`quarantined` counts" in with_row(count=3)[0]
    assert f"line {len(rows) + 1}: count is no whole number" in with_row(count="3", kept=True)[0]
    edit(folder, lambda manifest: manifest.pop("noted"))  # as an older build left it
    assert "`noted` counts" in with_row(kept=True)[0]
    assert before == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("{}", "schema version None"),
        ("[1]", "not a JSON object"),
        ('{"schema_version": 1, "image_format": "jpg", "image_size": 32}', "shards or totals are missing"),
    ],
)
def test_bad_manifest(folder: Path, text: str, says: str) -> None:
    (folder / "manifest.json").write_text(text)
    assert len(faults(folder)) == 1
    assert says in faults(folder)[0]
    assert "no such folder" in check(folder / "below")["faults"][0]["fault"]


def test_counts_that_disagree(folder: Path) -> None:
    def with_manifest(change: Callable[[dict[str, Any]], None]) -> str:
        saved = (folder / "manifest.json").read_text()
        edit(folder, change)
        found = faults(folder)
        (folder / "manifest.json").write_text(saved)
        assert len(found) == 1
        return found[0]

    assert "totals.images is 99, counted 13" in with_manifest(lambda m: m["totals"].update(images=99))
    assert "by_split.train" in with_manifest(
        lambda m: m["totals"]["by_split"]["train"]["labels"]["Edema"].update(blank=1)
    )
    assert "by_split.test" in with_manifest(lambda m: m["totals"]["by_split"].pop("test"))
    assert "does not hold" in with_manifest(lambda m: m["quarantined"].update({"image empty": 2}))
    assert "`noted` counts" in with_manifest(lambda m: m["noted"].update({"duplicate row": 1}))
    assert "study_runs" in with_manifest(lambda m: m["shards"][0].update(study_runs=[8]))
    assert "gaze positions" in with_manifest(lambda m: m["shards"][0]["gaze"].pop())
    assert "totals.images is None" in with_manifest(lambda m: m["totals"].pop("images"))


def test_fast_opens_no_tar(folder: Path) -> None:
    for path in folder.glob("*.tar"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    assert check(folder, level="fast")["faults"] == []
    assert len(faults(folder)) > 3
    edit(folder, lambda manifest: manifest["totals"].update(images=99))
    edit(folder, lambda manifest: manifest["totals"]["by_split"]["test"].update(gaze_images=0))
    edit(folder, lambda manifest: manifest["shards"][0]["gaze"].pop())
    edit(folder, lambda manifest: manifest["shards"][1].update(index_sha256="0" * 64, bytes=8192))
    (folder / "quarantine.jsonl").write_text("")
    names = [shard["name"] for shard in json.loads((folder / "manifest.json").read_text())["shards"]]
    found = [f"{row['shard']}: {row['fault']}" for row in check(folder, level="fast")["faults"]]
    for words in (
        "totals.images is 99, the shards have 13", "by_split.test is not what the shards add up to",
        f"{names[0]}: gaze positions of the manifest are not", f"{names[1]}: the index's sha256",
        f"{names[1]}: the index names bytes outside the tar", "bytes, the manifest says 8192", "does not hold",
    ):  # fmt: skip
        assert any(words in line for line in found), (words, found)
