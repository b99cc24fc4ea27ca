"""Shards in Google Cloud Storage: what is read is what lies there, through faults and replaced objects, or refused."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cogaze.data import remote
from cogaze.data.shards import ShardError, ShardSet
from data_prep.build import build
from tests.data.gs import BUCKET, Server, gs_server
from tests.data.test_remote import _read_all, everything, in_processes, settings, tars, wait_for
from tests.hand_made import IMAGE_SIZE, records

URL = f"gs://{BUCKET}/made"
TAR = "train-000000.tar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    build(records(root / "raw"), root / "out", image_size=IMAGE_SIZE, images_per_shard=4)
    return root / "out"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with gs_server(tmp_path_factory.mktemp("gs") / "log") as found:
        yield found


@pytest.fixture
def gs(server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with the folder's files unchanged and no faults; nobody has credentials."""
    server.forget()
    server.put("made", sorted(folder.iterdir()))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # no question to a cloud that this machine is not in
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.05))
    monkeypatch.setattr(remote, "CHUNK", 4096)

    async def at_once(seconds: float) -> None:
        """gcsfs' own five tries come before ours."""

    monkeypatch.setattr("gcsfs.retry.asyncio", types.SimpleNamespace(sleep=at_once))
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    return server


# ------------------------------------------------------------------------------------------------ what is read
def test_reads_what_lies_there_and_each_tar_once(folder: Path, gs: Server, tmp_path: Path) -> None:
    local = ShardSet.open(folder)
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    assert shards.digest == local.digest
    assert not gs.sent(".tar")
    assert everything(shards) == everything(local)
    assert everything(ShardSet.open(Path(URL), settings(tmp_path / "cache"))) == everything(local)
    assert gs.sent(".tar") == tars(folder)
    kept = {path.name for path in (tmp_path / "cache").glob("*.tar")}
    assert kept == {f"{hashlib.sha256(path.read_bytes()).hexdigest()}.tar" for path in folder.glob("*.tar")}


def test_processes_that_share_a_cache_fetch_once(
    folder: Path, gs: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in tars(folder):
        gs.fault(name, pause=0.02)  # so that all of them want it while it comes
    everything(ShardSet.open(URL, settings(tmp_path / "other")))  # the client is in use here before the fork
    before = gs.sent(".tar")
    one, other, third = in_processes(3, URL, settings(tmp_path / "cache"))
    assert one == other == third
    assert len(one) == 14
    assert gs.sent(".tar") == {name: 2 * size for name, size in before.items()}
    assert "Traceback" not in capfd.readouterr().err


def test_processes_forked_while_a_thread_fetches(folder: Path, gs: Server, tmp_path: Path) -> None:
    """As the readers of an evaluation are, while training fetches ahead: no lock of the thread goes with them."""
    over = threading.Event()
    rounds: list[int] = []

    def fetch() -> None:
        while not over.is_set():
            everything(ShardSet.open(URL, settings(tmp_path / f"thread-{len(rounds)}")))
            rounds.append(1)

    thread = threading.Thread(target=fetch)
    thread.start()
    try:
        wait_for(lambda: rounds)
        for number in range(4):
            (keys,) = in_processes(1, URL, settings(tmp_path / f"process-{number}"))
            assert len(keys) == 14
    finally:
        over.set()
        thread.join(60)
    assert len(rounds) > 1


def test_the_command_line(folder: Path, gs: Server, tmp_path: Path) -> None:
    """In a process of its own: what gcsfs does when it is imported is part of it, and what it logs."""
    command = [sys.executable, "-m", "cogaze", "data", "check", URL, "--jobs", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert "14 images" in done.stdout
    assert not [word for word in ("gcsfs", "Traceback", "bucket type") if word in done.stderr]
    assert gs.sent(".tar") == tars(folder)


# ------------------------------------------------------------------------------------------------ faults
def test_servers_that_fail_break_off_and_are_slow(folder: Path, gs: Server, tmp_path: Path) -> None:
    gs.fault("manifest.json", fail=2)
    gs.fault("train-000000.index.json", cut=1)
    gs.fault(TAR, fail=20)  # more than three times what the client tries by itself: 6
    gs.fault("train-000001.tar", cut=3)
    gs.fault("test-000000.tar", pause=0.05)
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    assert everything(shards) == everything(ShardSet.open(folder))
    assert gs.sent(".tar") == tars(folder)  # what had arrived was not asked for again


def test_a_server_that_fails_for_good(
    gs: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shards = ShardSet.open(URL, settings(tmp_path / "cache", retries=1))
    gs.fault(TAR, fail=10**6)
    with pytest.raises(ShardError, match=r"train-000000\.tar: 2 tries failed, the last with HttpError.*data\.retries"):
        shards.read("train", 0)
    assert "gcsfs" not in {record.name for record in caplog.records}  # it would show a traceback
    gs.fault(TAR, fail=0)
    assert shards.read("train", 0).key == "train-000000-00000"


def test_a_server_that_does_not_answer(
    folder: Path, gs: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcsfs by itself would wait for ever."""
    monkeypatch.setattr(remote, "SILENCE", 0.3)
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    gs.fault(TAR, hang=8)  # all six tries of gcsfs, and two more
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(shards.read("train", 0).image), daemon=True)
    thread.start()
    thread.join(60)
    gs.forget()
    assert found == [ShardSet.open(folder).read("train", 0).image]


def test_an_object_replaced_while_it_is_read(folder: Path, gs: Server, tmp_path: Path) -> None:
    """The first range is of one generation, those after it of the next."""
    data = (folder / TAR).read_bytes()
    assert len(data) > 2 * 4096
    gs.fault(TAR, then=data)  # written anew, the same bytes
    shards = ShardSet.open(URL, settings(tmp_path / "cache"))
    assert shards.read("train", 0).image == ShardSet.open(folder).read("train", 0).image
    generations = [generation for *_, generation in gs.gets(TAR)]
    assert generations[0] < generations[1] == generations[-1]

    other = bytearray(data)
    other[-600] ^= 1
    gs.fault(TAR, then=bytes(other))
    shards = ShardSet.open(URL, settings(tmp_path / "another"))
    with pytest.raises(ShardError, match=r"train-000000\.tar is not the file that the manifest names .*changed"):
        shards.read("train", 0)
    assert not list((tmp_path / "another").glob("*.tar"))
    assert all(part.stat().st_size == 0 for part in (tmp_path / "another").glob("*.part"))
    gs.put("made", [folder / TAR])
    assert shards.read("train", 0).image == ShardSet.open(folder).read("train", 0).image

    gs.fault(TAR, then=data[:5000])  # shorter: the second range is of what there is, the third of nothing
    shards = ShardSet.open(URL, settings(tmp_path / "third"))
    with pytest.raises(ShardError, match=r"train-000000\.tar: "):
        shards.read("train", 0)
    with pytest.raises(ShardError, match=r"train-000000\.tar: 5000 bytes, the manifest says \d+; copy or build again"):
        ShardSet.open(URL, settings(tmp_path / "third"))


def test_a_killed_download_is_gone_on_with(folder: Path, gs: Server, tmp_path: Path) -> None:
    size = tars(folder)[TAR]
    gs.fault(TAR, stall=True)
    data = settings(tmp_path / "cache")
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_read_all, args=(URL, data, context.Queue()), daemon=True)
    child.start()
    wait_for(lambda: [p for p in (tmp_path / "cache").glob("*.part") if p.stat().st_size == 4096])
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(30)
    gs.fault(TAR, stall=False)
    gs.forget()
    shards = ShardSet.open(URL, data)
    assert shards.read("train", 0).meta == ShardSet.open(folder).read("train", 0).meta
    assert min(start for _, start, *_ in gs.gets(TAR)) == 4096
    assert gs.sent(TAR) == {TAR: size - 4096}


# ------------------------------------------------------------------------------------------------ who may read
def test_a_bucket_that_gives_no_listing(folder: Path, gs: Server, tmp_path: Path) -> None:
    gs.put("made", sorted(folder.iterdir()), "unlisted")
    shards = ShardSet.open("gs://unlisted/made", settings(tmp_path))
    assert everything(shards) == everything(ShardSet.open(folder))


def test_credentials(
    folder: Path, gs: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gs.put("made", sorted(folder.iterdir()), "private")
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: pytest.fail("tried again"))

    def opened(key: Path | None) -> ShardSet:
        if key:
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        return ShardSet.open("gs://private/made", settings(tmp_path / "cache"))

    refused = r"gs://private/made/manifest\.json: refused \(PermissionError: "
    with pytest.raises(ShardError, match=refused + r"Anonymous caller .*; credentials: GOOGLE_APPLICATION_CREDENTIALS"):
        opened(None)
    with pytest.raises(ShardError, match=refused + r"Anonymous .* names .*nothing\.json, which is not there"):
        opened(tmp_path / "nothing.json")
    with pytest.raises(ShardError, match=refused + r"Invalid Credentials.*gcloud auth application-default login"):
        opened(gs.key(tmp_path / "gone.json", "gone"))
    assert "gcsfs" not in {record.name for record in caplog.records}
    assert everything(opened(gs.key(tmp_path / "reader.json"))) == everything(ShardSet.open(folder))


def test_a_token_that_may_not_read(gs: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETCH_RAW_TOKEN_EXPIRY", "false")
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "another"})
    gs.put("made", [], "private")
    with pytest.raises(ShardError, match=r"refused \(PermissionError: Forbidden: .*me@project\.iam does not have"):
        ShardSet.open("gs://private/made", settings(tmp_path, retries=0))


def test_what_is_not_there(gs: Server, tmp_path: Path) -> None:
    places: dict[str, Any] = {"gs://films/nothing": "nothing", "gs://none/made": "none/made"}
    for url, name in places.items():
        with pytest.raises(ShardError, match=rf"{name}/manifest\.json: not there"):
            ShardSet.open(url, settings(tmp_path))
