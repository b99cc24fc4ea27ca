"""Shards: what is read is what was written, by a second reader too, and in other processes."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import webdataset

from cogaze.data import shards as shards_module
from cogaze.data.shards import ShardError, ShardSet, manifest_digest
from data_prep.build import build
from tests.data.reading import contents, read_in_child
from tests.hand_made import IMAGE_SIZE, record, records


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


def test_reads_what_webdataset_reads(folder: Path) -> None:
    """Every member of every sample, byte for byte, in the same order as an independent reader of the same tars."""
    ours = ShardSet.open(folder)
    for split in ("train", "validate", "test"):
        tars = sorted(str(path) for path in folder.glob(f"{split}-*.tar"))
        theirs = list(webdataset.WebDataset(tars, shardshuffle=False))
        assert len(theirs) == ours.size(split)
        for position, other in enumerate(theirs):
            sample = ours.read(split, position)
            assert sample.key == other["__key__"]
            assert sample.image == other["jpg"]
            assert sample.meta == json.loads(other["json"]) == ours.read_meta(split, position)
            assert bool(sample.gaze) == ("gaze.npz" in other)
            if sample.gaze:
                arrays = np.load(io.BytesIO(other["gaze.npz"]), allow_pickle=False)
                assert sorted(arrays) == sorted(str(number) for number in sample.gaze)
                for number, rows in sample.gaze.items():
                    assert rows.dtype == np.float32
                    np.testing.assert_array_equal(rows, arrays[str(number)])


def test_every_record_arrives_with_its_fixations(folder: Path, tmp_path: Path) -> None:
    shards = ShardSet.open([folder])
    samples = [shards.read(split, i) for split in shards.splits for i in range(shards.size(split))]
    by_id = {sample.meta["image_id"]: sample for sample in samples}
    for row in records(tmp_path):
        sample = by_id.pop(row.image_id)
        assert sample.meta["report"] == {"findings": row.findings, "impression": row.impression}
        assert sample.meta["context"] == {"indication": row.indication, "history": None}
        assert sample.meta["labels"] == row.labels
        assert sample.meta["split"] == row.split
        assert sample.key.startswith(f"{sample.shard}-")
        assert [r["id"] for r in sample.meta["readings"]] == [r.id for r in row.readings]
        for number, reading in enumerate(row.readings):
            np.testing.assert_array_equal(sample.gaze[number], reading.fixations)
    assert not by_id


def test_names_that_are_not_ascii(copy: Path, tmp_path: Path) -> None:
    before = ShardSet.open(copy).read("train", 8)
    place = tmp_path / "Röntgen 胸部 #1"
    copy.rename(place)
    shards = ShardSet.open(place)
    after = pickle.loads(pickle.dumps(shards)).read("train", 8)
    assert (after.key, after.image, after.meta) == (before.key, before.image, before.meta)


def test_layout_matches_the_samples(folder: Path) -> None:
    shards = ShardSet.open(folder)
    for split, images, studies in (("train", 9, 5), ("validate", 3, 2), ("test", 2, 1)):
        layout = shards.layout(split)
        samples = [shards.read(split, i) for i in range(shards.size(split))]
        assert (len(samples), len(layout.study_runs)) == (images, studies)
        assert layout.study_runs.dtype == layout.shard_images.dtype == np.int64
        ids = [sample.meta["study_id"] for sample in samples]
        starts = np.cumsum(layout.study_runs) - layout.study_runs
        for start, run in zip(starts, layout.study_runs, strict=True):
            assert len(set(ids[start : start + run])) == 1
        assert len({ids[start] for start in starts}) == studies
        np.testing.assert_array_equal(layout.gaze, [bool(sample.gaze) for sample in samples])
        names = [sample.shard for sample in samples]
        assert layout.shard_images.tolist() == [names.count(name) for name in sorted(set(names))]
        assert [sample.index for sample in samples] == [i for n in layout.shard_images for i in range(n)]


def test_folders_follow_one_another(folder: Path, tmp_path: Path) -> None:
    more = [record(tmp_path / "raw", "x", "sx", "px", labels={"Cardiomegaly": 0})]
    build(more, tmp_path / "more", image_size=IMAGE_SIZE, phantom=True)
    both = ShardSet.open([folder, tmp_path / "more"])
    assert both.size("train") == 10
    assert both.read("train", 9).meta["image_id"] == "x"
    assert both.layout("train").shard_images.sum() == 10
    one, other = ShardSet.open(folder), ShardSet.open(str(tmp_path / "more"))
    assert both.label_counts("train")["Cardiomegaly"] == {
        "positive": 9, "negative": 1, "uncertain": 0, "blank": 0, "unknown": 0
    }  # fmt: skip
    assert both.label_counts("test")["No Finding"]["unknown"] == 2
    assert len({both.digest, one.digest, other.digest}) == 3
    assert one.digest == manifest_digest(one.manifests[0])
    assert (one.is_phantom, other.is_phantom, both.is_phantom) == (False, True, False)
    assert both.splits == ("train", "validate", "test")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_too(folder: Path, method: str) -> None:
    """Two at a time on the files of one open set, and its owner with them: all of it, again and again, unchanged."""
    expected = contents(ShardSet.open(folder))
    assert len(set(expected)) == 9
    shards = ShardSet.open(folder)
    assert contents(shards) == expected  # the files are open when the children start
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=read_in_child, args=(shards, queue)) for _ in range(2)]
    for child in children:
        child.start()
    ours = [contents(shards) for _ in range(20)]
    theirs = [found for _ in children for found in queue.get(timeout=60)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert len(theirs) == 40
    assert all(found == expected for found in ours + theirs)


def test_pickling_leaves_open_files_behind(folder: Path) -> None:
    shards = ShardSet.open(folder)
    shards.read("train", 0)
    twin = pickle.loads(pickle.dumps(shards))
    assert not twin._files
    shards.close()
    assert twin.read("train", 8).meta == shards.read("train", 8).meta


def test_open_files_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "MAX_OPEN_FILES", 2)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    shards = ShardSet.open(folder)
    keys = [shards.read(split, i).key for split in shards.splits for i in range(shards.size(split))]
    assert len(keys) == len(set(keys)) == 14
    assert len(shards._files) == 2
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before + 2
    shards.close()
    assert before is None or len(os.listdir("/proc/self/fd")) == before


def test_positions_outside(folder: Path) -> None:
    shards = ShardSet.open(folder)
    for position in (-1, 9):
        with pytest.raises(IndexError, match=r"outside 0\.\.8 of split train"):
            shards.read("train", position)
    with pytest.raises(ShardError, match=r"no split 'val'.*train, validate, test"):
        shards.size("val")
