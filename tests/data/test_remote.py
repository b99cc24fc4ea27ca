"""Shards behind a URL: what is read is what lies there, fetched once a node, through faults, or refused."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cogaze.cli import main
from cogaze.data import remote
from cogaze.data.remote import RemoteFolder, as_url, cache_of
from cogaze.data.shards import ShardError, ShardSet
from cogaze.settings import DataConfig
from data_prep.build import build
from data_prep.check import check
from tests.data.s3 import BUCKET, Proxy, proxy, put, s3_server
from tests.hand_made import IMAGE_SIZE, records

URL = f"s3://{BUCKET}/made"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    build(records(root / "raw"), root / "out", image_size=IMAGE_SIZE, images_per_shard=4)
    return root / "out"


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with s3_server(tmp_path_factory.mktemp("moto") / "log") as port:
        yield port


@pytest.fixture
def s3(server: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, which holds the folder's files unchanged."""
    put(server, "made", sorted(folder.iterdir()))
    with proxy(server) as state:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{state.port}",
            "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",  # tries are ours to make
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(remote, "PAUSES", (0.01, 0.05))
        monkeypatch.setattr(remote, "CHUNK", 4096)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # it knows the proxy before
        yield state


def settings(cache: Path, **more: Any) -> DataConfig:
    return DataConfig(cache_dir=str(cache), **{"retries": 3, **more})


def everything(shards: ShardSet) -> list[Any]:
    return [shards.members(split, i)[0:1] + shards.members(split, i)[2:]
            for split in shards.splits for i in range(shards.size(split))]  # fmt: skip


def tars(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.tar")}


# ------------------------------------------------------------------------------------------------ what is read
def test_reads_what_lies_there_and_each_tar_once(folder: Path, s3: Proxy, tmp_path: Path) -> None:
    local = ShardSet.open(folder)
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    assert shards.digest == local.digest
    assert shards.splits == local.splits
    assert not s3.sent(".tar")  # opening fetches no tar
    assert everything(shards) == everything(local)
    assert shards.read("test", 0).meta == local.read("test", 0).meta == shards.read_meta("test", 0)
    assert s3.sent(".tar") == tars(folder)
    indices = s3.sent(".index.json")
    again = ShardSet.open(Path(URL), settings(tmp_path / "cache"))  # a Path loses a slash of the URL
    assert everything(again) == everything(local)
    assert s3.sent(".tar") == tars(folder)
    assert s3.sent(".index.json") == indices
    cache = tmp_path / "cache"
    assert cache.stat().st_mode & 0o077 == 0  # there are reports in it
    names = {path.name for path in cache.iterdir() if path.suffix == ".tar"}
    assert names == {f"{hashlib.sha256(path.read_bytes()).hexdigest()}.tar" for path in folder.glob("*.tar")}


def test_a_url_and_a_folder_are_one_data_set(folder: Path, s3: Proxy, tmp_path: Path) -> None:
    from tests.hand_made import record

    build([record(tmp_path / "raw", "x", "sx", "px")], tmp_path / "more", image_size=IMAGE_SIZE)
    both = ShardSet.open([tmp_path / "more", URL], settings(tmp_path / "cache"))
    assert both.size("train") == 10
    assert both.read("train", 0).meta["image_id"] == "x"
    assert both.read("train", 9).meta == ShardSet.open(folder).read("train", 8).meta
    with pytest.raises(ShardError, match=r"s3://films/made: holds the same shards as"):
        ShardSet.open([folder, URL], settings(tmp_path / "cache"))
    with pytest.raises(ShardError, match=r"no split 'val' in .*more, s3://films/made; there are: train"):
        both.size("val")


def test_a_slow_disk_read_through_a_cache(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "Röntgen 胸部"
    place.symlink_to(folder)
    shards = ShardSet.open(f"file://{place}", settings(tmp_path / "cache"))
    assert everything(shards) == everything(ShardSet.open(folder))
    assert len(list((tmp_path / "cache").glob("*.tar"))) == len(tars(folder))


def test_check_stats_and_show_take_a_url(
    folder: Path, s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def said(*words: str) -> dict[str, Any]:
        assert main.run(["data", *words, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    fast = said("check", URL, "--fast")
    assert (fast["ok"], fast["images"]) == (True, 14)
    assert not s3.sent(".tar")
    whole = said("check", URL, "--jobs", "1")
    assert (whole["ok"], whole["images"], whole["studies"]) == (True, 14, 8)
    assert said("stats", URL)["splits"].keys() == {"train", "validate", "test"}
    assert main.run(["data", "check", URL, "--fast"]) == 0
    assert f"{URL}: 14 images" in capsys.readouterr().out
    assert main.run(["data", "stats", URL, "--out", str(tmp_path / "stats.html")]) == 0
    assert f"14 images of {URL}\n" in capsys.readouterr().out
    assert main.run(["data", "check", "https://me:secret@host/x"]) == 1
    assert "secret" not in "".join(capsys.readouterr())
    assert main.run(["data", "show", URL, "--out", str(tmp_path / "sheet.html"), "-n", "2"]) == 0
    assert "data:image" in (tmp_path / "sheet.html").read_text()
    assert s3.sent(".tar") == tars(folder)


# ------------------------------------------------------------------------------------------------ one a node
def _read_all(url: str, data: DataConfig, queue: Any) -> None:
    try:
        shards = ShardSet.open(url, data)
        queue.put([shards.read(split, i).key for split in shards.splits for i in range(shards.size(split))])
    except ShardError as error:
        queue.put(str(error))


def in_processes(number: int, url: str, data: DataConfig) -> list[Any]:
    """What as many forked processes put into their queue, each reading everything."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_read_all, args=(url, data, queue), daemon=True) for _ in range(number)]
    for child in children:
        child.start()
    found = [queue.get(timeout=120) for _ in children]
    for child in children:
        child.join(30)
    return found


def test_processes_that_share_a_cache_fetch_once(
    folder: Path, s3: Proxy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in tars(folder):
        s3.faults[name].pause = 0.02  # so that all of them want it while it comes
    everything(ShardSet.open(URL, settings(tmp_path / "other")))  # the client is in use here before the fork
    s3.gets.clear()
    one, other, third = in_processes(3, URL, settings(tmp_path / "cache"))
    assert one == other == third
    assert len(one) == 14
    assert s3.sent(".tar") == tars(folder)
    assert "Traceback" not in capfd.readouterr().err  # of clients that went through a fork


def _keeps(clients: list[Any], queue: Any) -> None:
    ShardSet.open(URL, settings(Path("/nowhere")))  # with clients of its own
    queue.put([client() is not None for client in clients])


def test_clients_from_before_a_fork_are_left_alone(s3: Proxy) -> None:
    """A dropped one would close its connections in a loop that is not there any more."""
    ShardSet.open(URL, settings(Path("/nowhere")))
    clients = [weakref.ref(client) for client in remote._clients]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_keeps, args=(clients, queue), daemon=True)
    child.start()
    kept = queue.get(timeout=60)
    child.join(30)
    assert kept
    assert all(kept)


def test_a_killed_download_is_gone_on_with(folder: Path, s3: Proxy, tmp_path: Path) -> None:
    """The first process dies while the second range is on its way; the next one asks for that range, and no other."""
    name = "train-000000.tar"
    size = tars(folder)[name]
    assert size > 2 * 4096
    s3.faults[name].stall = threading.Event()
    data = settings(tmp_path / "cache")
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_read_all, args=(URL, data, context.Queue()), daemon=True)
    child.start()
    (part,) = wait_for(lambda: [p for p in (tmp_path / "cache").glob("*.part") if p.stat().st_size == 4096])
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(30)
    assert part.name.split(".")[1] == str(size)
    s3.faults[name].stall.set()
    s3.faults[name].stall = None
    time.sleep(0.2)  # the answer to the dead
    s3.gets.clear()
    shards = ShardSet.open(URL, data)
    assert shards.read("train", 0).meta == ShardSet.open(folder).read("train", 0).meta
    starts = [start for got, start, _ in s3.gets if got == name]
    assert min(starts) == 4096
    assert s3.sent(name) == {name: size - 4096}


def wait_for(look: Any) -> Any:
    for _ in range(600):
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


# ------------------------------------------------------------------------------------------------ faults
def test_servers_that_fail_and_break_off(folder: Path, s3: Proxy, tmp_path: Path) -> None:
    s3.faults["manifest.json"].fail = 2
    s3.faults["train-000000.index.json"].cut = 1
    s3.faults["train-000000.tar"].fail = 3  # as many as data.retries in a row
    s3.faults["train-000001.tar"].cut = 3
    s3.faults["test-000000.tar"].pause = 0.05
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    assert everything(shards) == everything(ShardSet.open(folder))
    assert s3.sent(".tar") == tars(folder)  # what had arrived was not asked for again


def test_a_server_that_fails_for_good(folder: Path, s3: Proxy, tmp_path: Path) -> None:
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    s3.faults["train-000000.tar"].fail = 10**6
    with pytest.raises(ShardError, match=r"train-000000\.tar: 4 tries failed, the last with .*data\.retries") as error:
        shards.read("train", 0)
    assert "\n" not in str(error.value)
    assert shards.read("test", 0).key == "test-000000-00000"
    s3.faults["train-000000.tar"].fail = 0
    assert shards.read("train", 0).key == "train-000000-00000"  # and nothing is left locked


def test_a_shard_that_changed_behind_our_back(server: int, folder: Path, s3: Proxy, tmp_path: Path) -> None:
    other = tmp_path / "train-000000.tar"
    data = bytearray((folder / other.name).read_bytes())
    data[600] ^= 1
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    other.write_bytes(data)
    put(server, "made", [other])  # of the same size: only the sha256 tells
    with pytest.raises(ShardError, match=r"train-000000\.tar is not the file that the manifest names .*changed"):
        shards.read("train", 0)
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix == ".tar"]
    assert all(p.stat().st_size == 0 for p in (tmp_path / "cache").glob("*.part"))
    other.write_bytes(data + b"more")
    put(server, "made", [other])
    with pytest.raises(ShardError, match=r"bytes, the manifest says"):
        shards.read("train", 0)
    with pytest.raises(ShardError, match=r"train-000000\.tar: .* bytes, the manifest says .*; copy or build again"):
        ShardSet.open(URL, settings(tmp_path / "cache"))
    (fault,) = check(Path(URL))["faults"]
    assert "train-000000.tar" in fault["fault"]


def test_an_index_and_a_manifest_that_changed(server: int, folder: Path, s3: Proxy, tmp_path: Path) -> None:
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    index = tmp_path / "train-000000.index.json"
    index.write_bytes((folder / index.name).read_bytes().replace(b"false", b"true "))
    put(server, "made", [index])
    with pytest.raises(ShardError, match=r"train-000000\.index\.json is not the file that the manifest names"):
        shards.read("train", 0)
    manifest = tmp_path / "manifest.json"
    content = json.loads((folder / "manifest.json").read_bytes())
    manifest.write_text(json.dumps({**content, "shards": [{**content["shards"][0], "name": "train-000009"}]}))
    put(server, "made", [manifest])
    with pytest.raises(ShardError, match=r"train-000009\.tar: not there, but the manifest names it"):
        ShardSet.open(URL, settings(tmp_path / "cache"))
    manifest.write_text("{")
    put(server, "made", [manifest])
    with pytest.raises(ShardError, match=r"s3://films/made/manifest\.json: cannot be read"):
        ShardSet.open(URL, settings(tmp_path / "cache"))


def test_an_index_and_a_manifest_that_are_far_too_large(
    server: int, folder: Path, s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not fetched to be found too large."""
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    index = tmp_path / "train-000000.index.json"
    index.write_bytes(b"[" * 1_000_000)
    put(server, "made", [index])
    with pytest.raises(ShardError, match=r"train-000000\.index\.json: larger than it may be"):
        shards.read("train", 0)
    monkeypatch.setattr(remote, "MAX_MANIFEST_BYTES", 1000)
    s3.gets.clear()
    with pytest.raises(ShardError, match=r"manifest\.json: larger than it may be"):
        ShardSet.open(URL, settings(tmp_path / "cache"))
    assert not s3.sent(".json")


def test_what_an_older_object_left_is_not_built_on(folder: Path, s3: Proxy, tmp_path: Path) -> None:
    path = folder / "test-000000.tar"
    data = path.read_bytes()
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"{hashlib.sha256(data).hexdigest()}.{len(data)}.part").write_bytes(b"another object" * 100)
    shards = ShardSet.open(URL, settings(cache))
    assert shards.read("test", 0).image == ShardSet.open(folder).read("test", 0).image


# ------------------------------------------------------------------------------------------------ refusals
def test_urls() -> None:
    assert as_url("shards/mimic") is as_url(Path("/data/s3/x")) is as_url("C:x") is None
    assert as_url("s3://bucket/a/b/") == as_url(Path("s3://bucket/a/b")) == "s3://bucket/a/b"
    assert as_url("file:///data/x") == as_url(Path("file:///data/x")) == "file:///data/x"
    assert as_url("HTTPS://h:8/x") == "https://h:8/x"
    with pytest.raises(ShardError, match=r"ftp:// is not read"):
        as_url("ftp://host/x")
    for url in ("https://me:secret@host/x", "https://host/x?token=secret"):
        with pytest.raises(ShardError, match="credentials belong") as error:
            as_url(url)
        assert "secret" not in str(error.value)


def test_a_missing_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)  # it may have been in use
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ShardError, match=r"its client is not installed .*pip install 'cogaze\[remote\]'"):
        ShardSet.open("gs://bucket/x", settings(tmp_path))


def test_a_bucket_without_credentials(s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: pytest.fail("tried again"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ShardError, match=r"s3://films/made/manifest\.json: refused \(NoCredentialsError"):
        ShardSet.open(URL, settings(tmp_path))


def test_the_cache_folder_may_name_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    assert cache_of(DataConfig(cache_dir="$SCRATCH/c", cache_gb=2)).folder == tmp_path / "c"
    assert cache_of(DataConfig(cache_gb=2)).limit == 2_000_000_000
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_of(DataConfig()).folder == tmp_path / "cogaze" / "shards"
    with pytest.raises(ShardError, match=r"data\.cache_dir \$NOWHERE/c: no such variable"):
        cache_of(DataConfig(cache_dir="$NOWHERE/c"))


def test_a_folder_of_a_url_pickles(folder: Path, tmp_path: Path) -> None:
    import pickle

    shards = ShardSet.open(f"file://{folder}", settings(tmp_path))
    twin = pickle.loads(pickle.dumps(shards))
    assert twin.read("train", 3).meta == shards.read("train", 3).meta
    assert isinstance(twin.remotes[0], RemoteFolder)
