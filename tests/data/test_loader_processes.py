"""Worker processes: their errors, their death, the signals they outlive."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cogaze.data.loader import (
    BatchReader,
    LoaderError,
    Portion,
    train_batches,
)
from cogaze.data.sample import SampleError
from cogaze.data.shards import ShardSet, validate_meta
from cogaze.data.text import shard_texts, train_tokenizer
from tests.data.fakes import FakeShards
from tests.data.loading import assert_equal, evaluate, make_config


@pytest.fixture(scope="module")
def shards():
    return FakeShards(studies=30)


@pytest.fixture(scope="module")
def tokenizer(shards):
    return train_tokenizer(shard_texts(shards, "train"), 300)


class Damaged(FakeShards):
    def read(self, split, position):
        raw = super().read(split, position)
        return type(raw)(raw.key, raw.shard, raw.index, b"", raw.meta, raw.gaze) if position == 3 else raw


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_sample_is_one_clear_error_with_or_without_workers(tokenizer, workers):
    with pytest.raises(SampleError) as error:
        evaluate(Damaged(studies=6), tokenizer, workers=workers)
    assert str(error.value).startswith("train-000000:3: the image cannot be decoded")
    assert "\n" not in str(error.value)


class Killing(FakeShards):
    """Ends the process that reads it, as the system does when memory runs out."""

    def read(self, split, position):
        if torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(split, position)


def test_a_killed_worker_is_one_clear_error(tokenizer):
    with pytest.raises(
        LoaderError, match=r"has died.*lower data\.workers \(now 1\) or data\.prefetch \(now 2\)"
    ) as error:
        evaluate(Killing(studies=6), tokenizer, workers=1)
    assert "\n" not in str(error.value)


class Vanishing(FakeShards):
    """Tells a file its process id, then reads slowly enough to be interrupted."""

    path = ""

    def read(self, split, position):
        if not Path(self.path).exists():  # once, and whole: the test reads while the worker goes on
            Path(f"{self.path}.new").write_text(str(os.getpid()))
            os.replace(f"{self.path}.new", self.path)
        time.sleep(0.05)
        return super().read(split, position)


def test_a_worker_outlives_the_signals_that_tell_its_trainer_to_save(tokenizer, tmp_path):
    shards = Vanishing(studies=12)
    shards.path = str(tmp_path / "pid")
    batches = train_batches(make_config(workers=1), shards, tokenizer, rank=0, world=1, start_step=0, total_steps=4)
    next(batches)
    worker = Path(shards.path).read_text()
    assert int(worker) != os.getpid()
    subprocess.run(["bash", "-c", f"kill -TERM {worker}; kill -USR1 {worker}; kill -INT {worker}"], check=True)
    assert [step for step, *_ in batches] == [1, 2, 3]
    for _ in range(100):  # the worker ends with its loader
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the worker is still there")


def test_a_reader_travels_to_another_process(shards, tokenizer):
    config = make_config()
    portion = Portion(0, 1, np.arange(4))
    reader = BatchReader(config, shards, tokenizer, "train")
    assert_equal(pickle.loads(pickle.dumps(reader))[portion], reader[portion])


def test_the_fakes_speak_as_shards_do():
    assert all(validate_meta(sample.meta) == [] for sample in FakeShards(studies=6).samples)
    assert {"size", "layout", "shards", "read", "read_meta"} <= set(dir(ShardSet)) & set(dir(FakeShards))
