"""One cache folder under several processes and data sets: kills, full disks, equal names, other manifests, damage."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from cogaze.data import remote
from cogaze.data.cache import Cache
from cogaze.data.loader import training_order
from cogaze.data.prefetch import Prefetcher
from cogaze.data.remote import RemoteFolder, cache_of
from cogaze.data.shards import ShardError, ShardSet
from cogaze.settings import DataConfig
from data_prep.build import build
from data_prep.check import check
from tests.data.loading import make_config
from tests.data.test_remote import everything, settings, tars, wait_for
from tests.hand_made import IMAGE_SIZE, record, records

ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    build(records(root / "raw"), root / "out", image_size=IMAGE_SIZE, images_per_shard=4)
    return root / "out"


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose only shard has the name of one of the first's."""
    root = tmp_path_factory.mktemp("another")
    build([record(root / "raw", "x", "sx", "px")], root / "out", image_size=IMAGE_SIZE)
    return root / "out"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(cache: Path, ending: str = ".tar") -> set[str]:
    return {path.name.split(".")[0] for path in cache.glob(f"*{ending}")}


# ------------------------------------------------------------------------------------------------ processes
def _slowly() -> None:
    """In a process of a test: a part of a file takes its time."""
    read = LocalFileSystem.cat_file

    def cat_file(self: Any, *args: Any, **more: Any) -> Any:
        time.sleep(0.003)
        return read(self, *args, **more)

    LocalFileSystem.cat_file = cat_file
    remote.CHUNK = 2048


def _read_in_some_order(url: str, data: DataConfig, seed: int, results: Path) -> None:
    _slowly()
    shards = ShardSet.open(url, data)
    places = [(split, i) for split in shards.splits for i in range(shards.size(split))] * 2
    random.Random(seed).shuffle(places)
    found = {f"{split} {i}": hashlib.sha256(shards.read(split, i).image).hexdigest() for split, i in places}
    (results / f"{seed}.json").write_text(json.dumps(found))


def test_readers_that_are_killed_at_any_moment(folder: Path, tmp_path: Path) -> None:
    """Four readers of a cache of two shards; one after the other is killed and another starts.

    Nothing they leave holds up or misleads the others, and at no moment is a tar there that is not whole.
    """
    local, (cache_dir, results) = ShardSet.open(folder), (tmp_path / "cache", tmp_path / "results")
    results.mkdir()
    limit = 2 * max(tars(folder).values())
    data = settings(cache_dir, cache_gb=limit / 1e9)
    size_of = {sha256(path): path.stat().st_size for path in folder.glob("*.tar")}
    draw = random.Random(0)

    def start(seed: int) -> Any:
        child = FORK.Process(target=_read_in_some_order, args=(f"file://{folder}", data, seed, results), daemon=True)
        child.start()
        return child

    def look() -> None:
        for path in cache_dir.glob("*.tar"):
            try:
                assert path.stat().st_size == size_of[path.stem]
            except FileNotFoundError:  # made room
                continue
        assert cache_of(data).used() <= limit

    readers = [start(seed) for seed in range(4)]
    killed = 0
    for seed in range(4, 12):
        for _ in range(5):
            time.sleep(draw.uniform(0, 0.03))
            look()
        chosen = draw.randrange(4)
        os.kill(readers[chosen].pid, signal.SIGKILL)
        readers[chosen].join(30)
        killed += readers[chosen].exitcode == -signal.SIGKILL
        readers[chosen] = start(seed)
    for reader in readers:
        reader.join(120)
        assert reader.exitcode == 0
    look()
    assert killed >= 6  # not all had ended by themselves
    expected = {
        f"{split} {i}": hashlib.sha256(local.read(split, i).image).hexdigest()
        for split in local.splits
        for i in range(local.size(split))
    }
    found = [json.loads(path.read_text()) for path in results.glob("*.json")]
    assert len(found) >= 4
    assert all(one == expected for one in found)
    assert all(sha256(path) == path.stem for path in cache_dir.glob("*.tar"))


def _hold(cache: Cache, key: str, size: int) -> None:
    with cache.held(key, size) as file:
        assert file is not None
        (cache.folder / "held").touch()
        time.sleep(120)


def test_what_a_killed_reader_held_makes_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000, wait=0.2)
    one, other = (hashlib.sha256(letter * 1000).hexdigest() for letter in (b"a", b"b"))
    cache.fetch(one, 1000, lambda part: part.write_bytes(b"a" * 1000))  # type: ignore[arg-type,return-value]
    child = FORK.Process(target=_hold, args=(cache, one, 1000), daemon=True)
    child.start()
    wait_for((tmp_path / "held").exists)
    with pytest.raises(ShardError, match=r"all of its 0\.00 GB are being read or fetched; raise data\.cache_gb"):
        cache.fetch(other, 1000, lambda part: pytest.fail("there is no room"))
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(30)
    assert cache.fetch(other, 1000, lambda part: part.write_bytes(b"b" * 1000))  # type: ignore[arg-type,return-value]
    assert names(tmp_path) == {other}


FULL = """
import subprocess, sys
from pathlib import Path
from cogaze.data import remote
from cogaze.data.shards import ShardError, ShardSet
from cogaze.settings import DataConfig
remote.CHUNK = 2048
url, cache = sys.argv[1], Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sys.argv[3]}", "none", cache], check=True)
shards = ShardSet.open(url, DataConfig(cache_dir=str(cache), retries=0))
try:
    shards.read("train", 0)
except ShardError as error:
    print(error)
print([path.suffix for path in sorted(cache.iterdir()) if path.stat().st_size])
subprocess.run(["mount", "-o", "remount,size=4m", "none", cache], check=True)
print(shards.read("train", 0).key, [path.suffix for path in sorted(cache.iterdir()) if path.stat().st_size])
"""


def test_a_full_disk(folder: Path, tmp_path: Path) -> None:
    """A real one, of 8 KB; it is an error that says so, and when there is room the same process goes on."""
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("needs a mount of its own (Linux, user name spaces)")
    assert tars(folder)["train-000000.tar"] > 8192
    command = [*inside, sys.executable, "-c", FULL, f"file://{folder}", str(tmp_path), "8192"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    said, left, then = done.stdout.splitlines()
    assert said.startswith(f"{tmp_path}: No space left on device; set data.cache_dir")
    assert left in ("['.part']", "['.index', '.part']", "['.part', '.index']")  # nothing else, nothing that looks whole
    assert then.startswith("train-000000-00000")
    assert "'.tar'" in then
    assert "'.part'" not in then


# ------------------------------------------------------------------------------------------------ several data sets
def test_two_data_sets_with_equal_names(folder: Path, another: Path, tmp_path: Path) -> None:
    assert set(tars(another)) < set(tars(folder))
    data = settings(tmp_path)
    for _ in range(2):
        for place in (folder, another):
            assert everything(ShardSet.open(f"file://{place}", data)) == everything(ShardSet.open(place))
    both = ShardSet.open([f"file://{another}", f"file://{folder}"], data)
    assert everything(both) == everything(ShardSet.open([another, folder]))
    assert names(tmp_path) == {sha256(path) for place in (folder, another) for path in place.glob("*.tar")}


def test_a_data_set_that_was_built_anew(folder: Path, another: Path, tmp_path: Path) -> None:
    """Who has it open goes on with what is in the cache and is refused the rest; who opens it reads the new one."""
    place, data = tmp_path / "place", settings(tmp_path / "cache")
    shutil.copytree(folder, place)
    opened = ShardSet.open(f"file://{place}", data)
    before = opened.read("train", 0)
    shutil.rmtree(place)
    shutil.copytree(another, place)
    assert opened.read("train", 0).image == before.image
    with pytest.raises(ShardError, match=r"train-000001\.(index\.json|tar): not there"):
        opened.read("train", 4)
    now = ShardSet.open(f"file://{place}", data)
    assert everything(now) == everything(ShardSet.open(another))
    assert now.digest != opened.digest
    # what was fetched with the manifest of before is no use to one that names the same shard with another sha256
    path = place / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["shards"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"train-000000\.tar is not the file that the manifest names"):
        ShardSet.open(f"file://{place}", data).read("train", 0)


# ------------------------------------------------------------------------------------------------ a cache gone wrong
def test_a_cache_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    """The error names the folder and the setting, not the shard, which is blameless."""
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        shards = ShardSet.open(f"file://{folder}", settings(place))
        with pytest.raises(ShardError, match=rf"^{place}: Not a directory; set data\.cache_dir .*XDG_CACHE_HOME"):
            shards.read("train", 0)
    small = settings(tmp_path / "small", cache_gb=1e-6)
    with pytest.raises(ShardError, match=r"does not fit in a cache of 0\.00 GB; raise data\.cache_gb"):
        ShardSet.open(f"file://{folder}", small).read("train", 0)
    assert not list((tmp_path / "small").glob("*.part"))


def test_a_tar_cut_off_in_the_cache_is_fetched_again(folder: Path, tmp_path: Path) -> None:
    shards = ShardSet.open(f"file://{folder}", settings(tmp_path))
    before = shards.read("train", 0)
    kept = tmp_path / f"{sha256(folder / 'train-000000.tar')}.tar"
    os.truncate(kept, 3000)
    assert shards.read("train", 0).image == before.image
    assert kept.read_bytes() == (folder / "train-000000.tar").read_bytes()


def test_a_damaged_index_in_the_cache_is_fetched_again(folder: Path, tmp_path: Path) -> None:
    url, data = f"file://{folder}", settings(tmp_path)
    before = everything(ShardSet.open(url, data))
    (kept,) = (p for p in tmp_path.glob("*.index") if p.stem == sha256(folder / "test-000000.index.json"))
    whole = kept.read_bytes()
    for damaged in (whole[:-9], whole.replace(b"[", b"{", 1), b""):
        kept.write_bytes(damaged)
        assert everything(ShardSet.open(url, data)) == before
        assert kept.read_bytes() == whole


def test_damage_in_the_cache_is_not_blamed_on_the_data_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = Path(f"file://{folder}")
    assert check(url)["ok"]
    kept = tmp_path / "cogaze" / "shards" / f"{sha256(folder / 'train-000000.tar')}.tar"
    data = bytearray(kept.read_bytes())
    data[700] ^= 1
    kept.write_bytes(data)
    report = check(url)
    assert report["faults"][0] == {
        "shard": "train-000000", "key": "",
        "fault": f"its copy in the cache of this machine is damaged: remove {kept}",
    }  # fmt: skip
    kept.unlink()
    assert check(url)["ok"]


def test_an_index_that_did_not_fit_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if ".index." in path.name:
            write(path, data[:10])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    shards = ShardSet.open(f"file://{folder}", settings(tmp_path))
    assert shards.read("train", 0).key == "train-000000-00000"
    assert not [path.name for path in tmp_path.iterdir() if ".index" in path.name]


# ------------------------------------------------------------------------------------------------ fetching ahead
@pytest.mark.parametrize("cache", ["cache", "file"])
def test_fetching_ahead_ends_when_it_is_told_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    """Not after a try at every shard of the window, each with its pauses; also where the cache is none."""
    (tmp_path / "file").write_text("x")
    data = {"cache_dir": str(tmp_path / cache), "cache_gb": 1.0, "shuffle_window": 2, "retries": 0}
    config = make_config(batch=2, micro=2, **data)
    shards = ShardSet.open(f"file://{folder}", config.data)
    tried: list[str] = []

    def fetch(self: RemoteFolder, name: str, size: int, key: str, wait: bool = True) -> bool:
        tried.append(name)
        ahead.close()
        raise ShardError("out of reach")

    monkeypatch.setattr(RemoteFolder, "fetch", fetch)
    ahead = Prefetcher(shards.shards("train"), training_order(config, shards))
    assert len(ahead.wanted(0)) > 1
    ahead.at(0)
    ahead._thread.join(30)
    assert not ahead._thread.is_alive()
    assert len(tried) == 1
