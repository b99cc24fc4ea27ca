"""Counts against hand-counted records."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from cogaze.data.shards import ShardSet
from data_prep.build import build
from data_prep.stats import Totals, stats, tables
from tests.hand_made import IMAGE_SIZE, record, records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stats")
    build(records(root / "raw"), root / "out", image_size=IMAGE_SIZE, images_per_shard=4)
    return root / "out"


def test_hand_counted(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = stats(ShardSet.open(folder), lambda done, total: calls.append((done, total)))
    assert calls[-1] == (14, 14)
    assert json.loads(json.dumps(report)) == report
    assert {key: report[key] for key in ("images", "studies", "patients", "gaze_images", "readings", "phantom")} == {
        "images": 14, "studies": 8, "patients": 8, "gaze_images": 4, "readings": 5, "phantom": False
    }  # fmt: skip
    train = report["splits"]["train"]
    assert train["study_sizes"] == {"1": 2, "2": 2, "3": 1}
    assert train["views"] == {"AP": 1, "LATERAL": 3, "PA": 5}
    # Three readings of three one-second fixations; "heart is large N." and "<b>no effusion</b>.": 4 and 2 words.
    assert (train["fixations"], train["fixation_seconds"]) == (9, 9.0)
    assert train["words"]["spoken sentence"] == {"texts": 6, "median": 3.0, "p95": 4.0, "max": 4}
    # "Findings of study-N: lungs are clear." once a study.
    assert train["words"]["findings"] == {"texts": 5, "median": 6.0, "p95": 6.0, "max": 6}
    assert train["words"]["history"] == {"texts": 0, "median": 0.0, "p95": 0.0, "max": 0}
    assert report["splits"]["test"]["study_sizes"] == {"2": 1}
    manifest = ShardSet.open(folder).manifests[0]
    for split, row in manifest["totals"]["by_split"].items():
        assert {key: report["splits"][split][key] for key in row} == row


def test_percentiles_and_label_kinds(tmp_path: Path) -> None:
    made = [
        record(tmp_path, f"i{n}", f"s{n}", f"p{n}", findings=" ".join(["word"] * n), impression=None,
               labels={"Edema": label} if label != "absent" else {})
        for n, label in zip(range(1, 6), (1, 0, -1, None, "absent"), strict=True)
    ]  # fmt: skip
    build(made, tmp_path / "out", image_size=IMAGE_SIZE)
    train = stats(ShardSet.open(tmp_path / "out"))["splits"]["train"]
    assert train["labels"]["Edema"] == {"positive": 1, "negative": 1, "uncertain": 1, "blank": 1, "unknown": 1}
    assert train["words"]["findings"] == {"texts": 5, "median": 3.0, "p95": 4.8, "max": 5}  # of 1..5, linear
    assert train["words"]["impression"]["texts"] == 0


def test_parts_add_up(folder: Path) -> None:
    """Totals of halves merged are the totals of the whole: as the checker counts, shard by shard."""
    shards = ShardSet.open(folder)
    metas = [shards.read_meta(split, i) for split in shards.splits for i in range(shards.size(split))]
    whole, left, right = Totals(), Totals(), Totals()
    for i, meta in enumerate(metas):
        whole.add(meta)
        (left if i % 2 else right).add(meta)
    left.merge(right)
    assert left.as_dict() == whole.as_dict() == shards.manifests[0]["totals"]


def test_tables_show_the_numbers(folder: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    for table in tables(stats(ShardSet.open(folder))):
        console.print(table)
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    for line in ("images 9 3 2 14", "LATERAL 3 1 1", "Fracture · · 9 · ·", "3 1 · ·", "findings train 5 6 6 6",
                 "spoken sentence train 6 3 4 4"):  # fmt: skip
        assert line in lines, line
