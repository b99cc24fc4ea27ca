"""Shards at https:// and http://: web servers with and without ranges, that are down for a while, or keep a door."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import fsspec
import pytest

from cogaze.data import remote
from cogaze.data.shards import ShardError, ShardSet
from data_prep.build import build
from tests.data.test_remote import everything, settings, tars
from tests.hand_made import IMAGE_SIZE, records

TAR = "train-000000.tar"


class Web(SimpleHTTPRequestHandler):
    """Knows no ranges, as many a small web server."""

    asked: defaultdict[str, list[str]]  # method -> paths
    fail: defaultdict[str, int]  # method -> how many of the next requests for a tar get 503
    hang: defaultdict[str, int]  # method -> how many of the next requests for a tar get no answer
    over: threading.Event  # the end of the waiting
    closed = 0  # the status that all get who do not say who they are

    def do_GET(self) -> None:
        self.asked[self.command].append(self.path)
        if self.path.endswith(".tar") and self.fail[self.command]:
            self.fail[self.command] -= 1
            self.send_error(503)
        elif self.path.endswith(".tar") and self.hang[self.command]:
            self.hang[self.command] -= 1
            self.over.wait()
            self.close_connection = True
        elif self.closed and self.headers.get("Authorization") != "Bearer of-the-test":
            self.send_error(self.closed)
        elif self.command == "HEAD":
            super().do_HEAD()
        else:
            super().do_GET()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *ignored: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    build(records(root / "raw"), root / "out", image_size=IMAGE_SIZE, images_per_shard=4)
    return root / "out"


@pytest.fixture
def web(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Web]]:
    """Its address is `web.url`."""

    class Here(Web):
        asked, fail, hang = defaultdict(list), defaultdict(int), defaultdict(int)
        over = threading.Event()

    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.05))
    monkeypatch.setattr(remote, "CHUNK", 4096)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Here, directory=str(folder.parent)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    Here.url = f"http://127.0.0.1:{server.server_address[1]}/out"  # type: ignore[attr-defined]
    yield Here
    server.shutdown()
    server.server_close()


def test_a_server_without_ranges(folder: Path, web: type[Web], tmp_path: Path) -> None:
    url = web.url  # type: ignore[attr-defined]
    data = (folder / "test-000000.tar").read_bytes()
    (tmp_path / "cache").mkdir()
    part = tmp_path / "cache" / f"{hashlib.sha256(data).hexdigest()}.{len(data)}.part"
    part.write_bytes(data[:5000])  # to be gone on with, though all of it comes again
    shards = ShardSet.open(url, settings(tmp_path / "cache"))
    assert everything(shards) == everything(ShardSet.open(folder))
    assert web.asked["GET"].count("/out/test-000000.tar") == 1
    with pytest.raises(ShardError, match=r"/nothing/manifest\.json: not there"):
        ShardSet.open(url.replace("/out", "/nothing"), settings(tmp_path / "cache"))


def test_a_server_that_is_down_for_a_while(folder: Path, web: type[Web], tmp_path: Path) -> None:
    """Whatever it is asked then: that the size of a file cannot be had is no sign that it is not there."""
    shards = ShardSet.open(web.url, settings(tmp_path / "cache"))  # type: ignore[attr-defined]
    web.fail |= {"GET": 3, "HEAD": 2}
    assert everything(shards) == everything(ShardSet.open(folder))
    assert (web.fail["GET"], web.fail["HEAD"]) == (0, 0)
    shards = ShardSet.open(web.url, settings(tmp_path / "other"))  # type: ignore[attr-defined]
    web.fail |= {"GET": 100, "HEAD": 100}
    with pytest.raises(ShardError, match=r"train-000000\.tar: 4 tries failed, the last with ClientResponseError: 503"):
        shards.read("train", 0)


def test_a_server_that_does_not_answer(
    folder: Path, web: type[Web], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up and asked again; fsspec's configuration has the last word on when."""
    for number, limit in enumerate((None, aiohttp.ClientTimeout(total=0.3))):
        monkeypatch.setattr(remote, "SILENCE", 0.3 if limit is None else 60.0)
        monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": {"timeout": limit} if limit else {}})
        shards = ShardSet.open(web.url, settings(tmp_path / str(number)))  # type: ignore[attr-defined]
        web.hang |= {"GET": 2, "HEAD": 1}
        found: list[object] = []
        reading = threading.Thread(target=lambda: found.append(everything(shards)), daemon=True)  # noqa: B023
        reading.start()
        reading.join(30)
        assert found == [everything(ShardSet.open(folder))]
        assert (web.hang["GET"], web.hang["HEAD"]) == (0, 0)
    web.over.set()


def test_a_server_that_went_away(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.data.s3 import free_port

    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.05))
    with pytest.raises(ShardError, match=r"manifest\.json: 4 tries failed, the last with ClientConnectorError"):
        ShardSet.open(f"http://127.0.0.1:{free_port()}/out", settings(tmp_path))


@pytest.mark.parametrize("status", [401, 403])
def test_a_door(folder: Path, web: type[Web], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """As docs/remote.md says: what the client is to send stands in fsspec's configuration, read when it starts."""
    url = web.url  # type: ignore[attr-defined]
    shards = ShardSet.open(url, settings(tmp_path / "cache"))
    web.closed = status
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: pytest.fail("tried again"))
    for read in (lambda: ShardSet.open(url, settings(tmp_path)), lambda: shards.read("train", 0)):
        with pytest.raises(ShardError, match=rf"refused \(PermissionError: {status}, .*; credentials: fsspec's"):
            read()
    said = {"client_kwargs": {"headers": {"Authorization": "Bearer of-the-test"}}}
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "web.json").write_text(json.dumps({"http": said, "https": said}))
    conf: dict[str, dict[str, object]] = {}
    fsspec.config.set_conf_files(str(tmp_path / "conf"), conf)
    monkeypatch.setitem(fsspec.config.conf, "http", conf["http"])
    assert everything(ShardSet.open(url, settings(tmp_path / "cache"))) == everything(ShardSet.open(folder))
    assert len(list((tmp_path / "cache").glob("*.tar"))) == len(tars(folder))
