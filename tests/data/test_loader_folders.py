"""The loader on real shard folders: what comes out of one, of several, and of one with a single image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cogaze.data.loader import training_order
from cogaze.data.shards import ShardSet
from cogaze.data.text import train_tokenizer
from data_prep.build import build
from data_prep.records import ImageRecord, Reading, Sentence
from tests.data.fakes import VOCABULARY
from tests.data.loading import assert_equal, make_config, run


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([VOCABULARY], 300)


def build_folder(folder, numbers, **plan):
    """Shards of one image a number: two numbers a study, every third number with gaze."""
    fixations = np.array([[0.2, 0.2, 0, 1, 0.05, 0.05], [0.8, 0.8, 1, 2, 0.05, 0.05]], np.float32)
    reading = Reading("r", "a", (Sentence("small effusion", 0.0, 1.0), Sentence("clear lungs", 1.0, 2.0)), fixations)
    records = []
    for number in numbers:
        path = folder.parent / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (60, 70), dtype=np.uint8)).save(path)
        records.append(
            ImageRecord(
                source="fake",
                image_id=f"i{number}",
                study_id=f"s{number // 2}",
                patient_id=f"p{number // 2}",
                split="train",
                view="PA",
                path=path,
                relative_path=path.name,
                findings="small left effusion",
                labels={"Edema": 1},
                readings=(reading,) if number % 3 == 0 else (),
            )
        )
    build(records, folder, image_size=40, image_format="png", **plan)
    return folder


def test_a_shard_folder_gives_batches(tmp_path, tokenizer):
    shards = ShardSet.open([build_folder(tmp_path / "shards", range(12))])
    settings = make_config(batch=4, micro=2, workers=1, augment={})
    steps = run(settings, shards, tokenizer, stop=3)
    batches = [batch for _, micro in steps.values() for batch in micro]
    assert sorted(torch.cat([b.sample_id for b in batches]).tolist()) == list(range(12))
    assert sum(len(b.segment_row) for b in batches) == 4 * 3  # four images with gaze: two sentences and the paragraph
    for batch in batches:
        for start, middle, end in batch.gaze.reshape(-1, 3, 4):
            assert start.argmax() == 0
            assert middle.argmax() == 3
            np.testing.assert_allclose(end.numpy(), [0.5, 0, 0, 0.5], atol=0.05)
    studies = [tuple(b.study.tolist()) for b in batches]
    assert all(a == b for a, b in studies)  # two images a study, two images a micro-batch


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_read_the_same_from_a_folder(tmp_path, tokenizer, workers):
    """Two shards of tars on the disk, through processes that share the trainer's open files: bit for bit."""
    shards = ShardSet.open(build_folder(tmp_path / "shards", range(24), images_per_shard=12))
    assert len(shards.layout("train").shard_images) == 2
    wanted = run(make_config(batch=6, micro=3, augment={}), shards, tokenizer, stop=6)  # here: its files are open now
    found = run(make_config(batch=6, micro=3, augment={}, workers=workers), shards, tokenizer, stop=6)
    assert list(found) == list(wanted) == list(range(6))
    for (epoch, micro), (its, others) in zip(wanted.values(), found.values(), strict=True):
        assert epoch == its
        for one, other in zip(micro, others, strict=True):
            assert_equal(one, other)
    assert sum(len(batch.segment_row) for _, micro in wanted.values() for batch in micro) > 20


def test_several_folders_are_one_data_set(tmp_path, tokenizer):
    """Twelve, one and two images: each once an epoch, studies together, over the borders of the folders."""
    folders = [build_folder(tmp_path / name, numbers) for name, numbers in
               (("one", range(12)), ("two", [20]), ("three", [40, 41]))]  # fmt: skip
    shards = ShardSet.open(folders)
    order = training_order(make_config(batch=5, micro=5), shards)
    assert (shards.size("train"), order.steps_per_epoch, order.dropped) == (15, 3, 0)
    for epoch in (0, 1):
        steps = run(make_config(batch=5, micro=5, augment={}), shards, tokenizer, start=3 * epoch, stop=3 * epoch + 3)
        samples = [s for _, (batch,) in steps.values() for s in batch.sample_id.tolist()]
        assert sorted(samples) == list(range(15))
        studies = torch.cat([batch.study for _, (batch,) in steps.values()])
        assert (studies.diff() != 0).sum() == 8 - 1  # six studies, one, one: each in one piece
        gaze = [s for s in samples if shards.layout("train").gaze[s]]
        names = {shards.read("train", s).meta["image_id"] for s in gaze}
        assert names == {"i0", "i3", "i6", "i9"}
    assert len({tuple(order.step(s).positions.tolist()) for s in (0, 3, 6)}) == 3


def test_one_image_is_enough_to_train_on(tmp_path, tokenizer):
    shards = ShardSet.open(build_folder(tmp_path / "shards", [7]))
    steps = run(make_config(batch=1, micro=1), shards, tokenizer, stop=3)
    assert [(epoch, micro[0].sample_id.tolist()) for epoch, micro in steps.values()] == [(0, [0]), (1, [0]), (2, [0])]
