"""Training on shards behind a URL: the same batches, settings that fit, and the next shards there before their turn."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cogaze.config import Config, ConfigError
from cogaze.data.index import Shard
from cogaze.data.loader import train_batches, training_order
from cogaze.data.order import GlobalOrder, SplitLayout
from cogaze.data.prefetch import Prefetcher
from cogaze.data.remote import RemoteFolder, cache_of
from cogaze.data.shards import ShardError, ShardSet
from cogaze.data.text import train_tokenizer
from cogaze.settings import DataConfig
from tests.data.fakes import VOCABULARY
from tests.data.loading import assert_equal, make_config
from tests.data.test_loader_folders import build_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images, four a shard."""
    return build_folder(tmp_path_factory.mktemp("shards") / "out", range(40), images_per_shard=4)


def config_of(cache: Path, gigabytes: float, **data: object) -> Config:
    return make_config(batch=4, micro=2, cache_dir=str(cache), cache_gb=gigabytes, retries=0, **data)


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in sorted(folder.glob("*.tar"))]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_are_those_of_the_folder(folder: Path, tmp_path: Path, workers: int) -> None:
    """Also with a cache of five of the ten shards, over two epochs."""
    tokenizer = train_tokenizer([VOCABULARY], 300)
    limit = 5 * max(sizes(folder))
    config = config_of(tmp_path, limit / 1e9, shuffle_window=2, workers=workers)

    def run(where: str) -> Iterator[object]:
        shards = ShardSet.open(where, config.data)
        return train_batches(config, shards, tokenizer, rank=0, world=1, start_step=3, total_steps=20)

    steps = 0
    for (step, _, remote), (other, _, local) in zip(run(f"file://{folder}"), run(str(folder)), strict=True):
        assert step == other
        for a, b in zip(remote, local, strict=True):
            assert_equal(a, b)
        steps += 1
        assert cache_of(config.data).used() <= limit
    assert steps == 17


def test_settings_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    whole = sum(sizes(folder)) / 1e9

    def order(gigabytes: float, where: str = f"file://{folder}", **data: object) -> GlobalOrder:
        config = config_of(tmp_path, gigabytes, **data)
        return training_order(config, ShardSet.open(where, config.data))

    with pytest.raises(ConfigError, match=r"need data\.shuffle_window"):
        order(1)
    with pytest.raises(ConfigError, match=r"the 3 largest shards of a window have .*; raise data\.cache_gb or lower"):
        order(whole / 5, shuffle_window=3)
    assert order(whole / 2, shuffle_window=3).window == 3
    with pytest.raises(ConfigError, match=r"all shards, which data\.gaze_per_batch takes gaze images from"):
        order(whole / 2, shuffle_window=3, gaze_per_batch=1)
    assert order(whole * 2, shuffle_window=3, gaze_per_batch=1).quota == 1
    assert order(whole / 5, str(folder)).window is None  # a folder asks for nothing


def made_up(limit: int, shards: int = 6, images: int = 8) -> tuple[list[Shard], SplitLayout]:
    cache = cache_of(DataConfig(cache_dir="/nowhere", cache_gb=limit / 1e9))
    remote = RemoteFolder("s3://b/x", cache, 0)
    entries = [{"name": f"train-{n:06d}", "images": images, "bytes": 100, "sha256": f"{n:064d}"} for n in range(shards)]
    layout = SplitLayout(np.ones(shards * images, np.int64), np.zeros(shards * images, bool), np.full(shards, images))
    return [Shard(Path("s3:/b/x"), entry, "jpg", remote) for entry in entries], layout


def test_what_is_wanted_next() -> None:
    """By another way: walking through both epochs image by image."""
    shards, layout = made_up(limit=350)
    order = GlobalOrder(layout, seed=3, global_batch=5, window=2)
    single = GlobalOrder(layout, seed=3, global_batch=1, window=2)  # drops no image
    walk = [int(single.step(i).positions[0]) // 8 for i in range(3 * 48)]  # shard of every image of three epochs
    ahead = Prefetcher(shards, order)
    for step in range(2 * order.steps_per_epoch):
        epoch, offset = divmod(step, order.steps_per_epoch)
        begin, here, end = epoch * 48, epoch * 48 + offset * 5, (epoch + 1) * 48
        left = [n for n in dict.fromkeys(walk[begin:end]) if n in walk[here:end]]  # by their first use in the epoch
        later = [n for n in dict.fromkeys(walk[end : end + 48]) if n not in left]
        assert ahead.wanted(step) == [shards[n] for n in [*left, *later]][:3]  # 350 bytes hold three


def test_the_next_window_comes_early(folder: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path / "c", 4.5 * max(sizes(folder)) / 1e9, shuffle_window=2)
    shards = ShardSet.open(f"file://{folder}", config.data)
    order = training_order(config, shards)
    ahead = Prefetcher(shards.shards("train"), order)
    cache = cache_of(config.data)
    try:
        for step in (0, 4):  # 8 images in a window: steps 0-1, 2-3, 4-5
            ahead.at(step)
            wanted = {cache.path(shard.entry["sha256"]) for shard in ahead.wanted(step)}
            assert len(wanted) == 4  # this window and the next
            for _ in range(400):
                if set(cache.folder.glob("*.tar")) >= wanted:
                    break
                time.sleep(0.05)
            else:
                pytest.fail("they did not come")
    finally:
        ahead.close()


def test_a_server_that_is_gone_is_an_error_where_it_is_read(folder: Path, tmp_path: Path) -> None:
    away = tmp_path / "out"
    shutil.copytree(folder, away)
    config = config_of(tmp_path / "c", 1, shuffle_window=2)
    shards = ShardSet.open(f"file://{away}", config.data)
    tokenizer = train_tokenizer([VOCABULARY], 300)
    steps = train_batches(config, shards, tokenizer, rank=0, world=1, start_step=0, total_steps=10)
    for path in away.glob("*.tar"):
        path.unlink()
    with pytest.raises(ShardError, match=r"\.tar: not there"):
        next(steps)
