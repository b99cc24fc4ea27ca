"""Shard folders behind a URL: s3://, gs://, https:// and file:// through fsspec, with retries, resumed and checked.

    s3://bucket/mimic/  manifest.json     read whenever the data set is opened
                        *.index.json      read when first needed, then kept
                        *.tar             fetched whole into the node's cache when first read (`cogaze.data.cache`)

A tar is fetched in ranges. A range that fails is asked for again after a pause that doubles, and what has arrived
stays, over a crash too. A tar enters the cache only with the sha256 of the manifest; one that was changed behind our
back is refused. Addresses of servers and credentials are the clients' own business (AWS_ENDPOINT_URL, ~/.aws,
GOOGLE_APPLICATION_CREDENTIALS, fsspec's own configuration).
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cogaze.data.cache import Cache
from cogaze.data.index import MANIFEST, MAX_MANIFEST_BYTES, parse_manifest
from cogaze.data.schema import ShardError
from cogaze.settings import DataConfig

SCHEMES = ("s3", "gs", "https", "http", "file")
CHUNK = 16 << 20  # bytes asked for at once: what a broken connection costs
PAUSES = 0.5, 30.0  # seconds before the second try, doubling up to the other
SILENCE = 30.0  # seconds without a byte until a connection is given up
# What another try does not mend; the clients have kinds of their own for missing credentials.
FINAL = (FileNotFoundError, PermissionError, ImportError, NotADirectoryError, IsADirectoryError)
FINAL_NAMES = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "InvalidURL")
CREDENTIALS = {  # where each client looks for them, for the message that they are missing or not enough
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (a key file), or run `gcloud auth application-default login`",
}

T = TypeVar("T")

# A forked process makes clients of its own and drops those it was born with; to be dropped, one closes its connections
# in a loop that did not come along, and complains. So none is ever dropped.
_clients: set[Any] = set()

# gcsfs asks through gRPC, for every range, what kind of bucket it reads from, with a warning where that is not allowed;
# and gRPC does not survive a fork. Only its zonal buckets need it, for which one sets this variable to true.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# It also logs a traceback of everything that it raises.
logging.getLogger("gcsfs").addFilter(lambda record: not record.exc_info)


def as_url(folder: str | Path) -> str | None:
    """The URL of a remote shard folder, without a slash at its end; None for a folder of this machine.

    Raises ShardError for a kind of URL that is not read, and for one with a password. A `Path` that was made from a URL
    has lost slashes; that is made good.
    """
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])(.*)", str(folder))
    if not found:
        return None
    scheme, rest = found[1].lower(), found[2].rstrip("/")
    if scheme not in SCHEMES:
        raise ShardError(f"{scheme}:// is not read; shards lie in a folder, or at {'://, '.join(SCHEMES)}://")
    if "@" in rest.split("/")[0] or "?" in rest or "#" in rest:
        raise ShardError(
            f"a {scheme}:// URL of shards holds a password, a question mark or a hash, and would stand in config.yaml "
            "so; credentials belong in the environment or in the client's own files"
        )
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"


def cache_of(data: DataConfig) -> Cache:
    """The cache that the settings describe. `data.cache_dir` may name variables of the environment.

    Raises ShardError for a variable that is not set.
    """
    folder = os.path.expandvars(data.cache_dir) if data.cache_dir else ""
    if "$" in folder:
        raise ShardError(f"data.cache_dir {data.cache_dir}: no such variable in the environment")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Cache(Path(folder or f"{base}/cogaze/shards").expanduser(), int(data.cache_gb * 1e9))


def remote_folder(folder: str | Path, data: DataConfig | None = None) -> RemoteFolder | None:
    """The folder at a URL, None for one of this machine; `data` has the settings of cache and retries.

    Raises ShardError for a URL that is not read.
    """
    url, data = as_url(folder), data or DataConfig()
    return RemoteFolder(url, cache_of(data), data.retries) if url else None


@dataclass(frozen=True)
class RemoteFolder:
    """A shard folder at a URL (`index.Place`). Holds nothing open; pickles and forks."""

    url: str
    cache: Cache
    retries: int

    def manifest(self) -> dict[str, Any]:
        """The parsed manifest, always the one that is there now. Raises ShardError."""
        return parse_manifest(self._small(MANIFEST, MAX_MANIFEST_BYTES), f"{self.url}/{MANIFEST}")

    def look_at(self, manifest: Mapping[str, Any]) -> None:
        """Raise ShardError where a shard is missing or has another size, as far as the server lists its files."""
        if self.url.startswith("http"):  # a web server's list of files, if it has one, is for people
            return
        try:
            sizes = {os.path.basename(row["name"]): row["size"] for row in self._try(self.url, _list)}
        except PermissionError:  # reading without listing is a common policy
            return
        for entry in manifest["shards"]:
            tar, index = f"{entry['name']}.tar", f"{entry['name']}.index.json"
            for name in (tar, index):
                if name not in sizes:
                    raise ShardError(f"{self.url}/{name}: not there, but the manifest names it; copy or build again")
            if sizes[tar] != entry["bytes"]:
                raise ShardError(
                    f"{self.url}/{tar}: {sizes[tar]} bytes, the manifest says {entry['bytes']}; copy or build again"
                )

    def path(self, sha256: str) -> Path:
        return self.cache.path(sha256)

    def index(self, name: str, limit: int, sha256: str) -> bytes:
        """A whole index. Raises ShardError, also for one of more than `limit` bytes or with another sha256."""
        kept = self.cache.index(sha256)
        with suppress(OSError):
            data = kept.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        data = self._small(name, limit)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ShardError(_changed(f"{self.url}/{name}"))
        aside = kept.with_name(f"{kept.name}.{os.getpid()}")
        with suppress(OSError):  # next time it is asked for again
            try:
                self.cache.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                aside.write_bytes(data)
                os.replace(aside, kept)
            finally:
                aside.unlink(missing_ok=True)  # a full disk leaves a part of it
        return data

    @contextmanager
    def held(self, name: str, size: int, sha256: str) -> Iterator[int]:
        """An open file of the tar, fetched first where it is not here; it stays here for as long as it is open."""
        while True:
            with self.cache.held(sha256, size) as file:
                if file is not None:
                    yield file
                    return
            self.fetch(name, size, sha256)  # another may remove it before it is opened, hence the loop

    def fetch(self, name: str, size: int, sha256: str, wait: bool = True) -> bool:
        """Bring a tar into the cache. False, at once, where another process is at it and `wait` is false.

        Raises ShardError: out of reach, changed, or no room in the cache.
        """
        return self.cache.fetch(sha256, size, lambda part: self._download(name, size, sha256, part), wait)

    # -------------------------------------------------------------------------------------------- over the network
    def _download(self, name: str, size: int, sha256: str, part: Path) -> None:
        url = f"{self.url}/{name}"
        there = self._try(url, _size)
        if there is not None and there != size:
            raise ShardError(
                f"{url}: {there} bytes, the manifest says {size}: it was changed after the build; copy or build again"
            )
        # Twice: what an earlier run has left may be of another object, and bits do flip on the way.
        for _ in range(2):
            if self._append(url, size, part) == sha256:
                return
            part.write_bytes(b"")
        raise ShardError(_changed(url))

    def _append(self, url: str, size: int, part: Path) -> str:
        """Complete `part` and return its sha256 (hex)."""
        digest = hashlib.sha256()
        with open(part, "r+b") as file:
            while block := file.read(1 << 20):
                digest.update(block)
            done = file.tell()
            if done > size:
                file.truncate(0)
                return ""
            while done < size:
                end = min(done + CHUNK, size)

                def ask(fs: Any, path: str, start: int = done, end: int = end) -> bytes:
                    data = bytes(fs.cat_file(path, start=start, end=end))
                    if len(data) > end - start:  # a server that does not know ranges sends everything
                        data = data[start:size]
                    if not data:
                        raise OSError("the server sent nothing")
                    return data

                data = self._try(url, ask)
                file.write(data)
                file.flush()  # what has arrived is there after a crash
                digest.update(data)
                done += len(data)
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _small(self, name: str, limit: int) -> bytes:
        url = f"{self.url}/{name}"
        there = self._try(url, _size)  # before it would come into memory
        data = b"" if (there or 0) > limit else self._try(url, lambda fs, path: bytes(fs.cat_file(path)))
        if max(there or 0, len(data)) > limit:
            raise ShardError(f"{url}: larger than it may be; build again")
        return data

    def _try(self, url: str, ask: Callable[[Any, str], T]) -> T:
        """`ask(file system, path)`, with pauses and again where it fails. Raises ShardError."""
        for number in range(self.retries + 1):
            if number:
                time.sleep(min(PAUSES[0] * 2 ** (number - 1), PAUSES[1]) * random.uniform(0.5, 1.0))
            try:
                # asked for each time: fsspec keeps them, and knows that none may go through a fork
                from fsspec.core import url_to_fs

                client, path = url_to_fs(url, use_listings_cache=False, **_patience(url.split(":")[0]))
                _clients.add(client)
                return ask(client, path)
            except Exception as error:  # clients raise whatever their libraries do
                last = _meant(url, error)
                if isinstance(last, PermissionError) and ask is _list:
                    raise last from None
                if isinstance(last, FINAL) or type(last).__name__ in FINAL_NAMES:
                    raise ShardError(_final(url, last)) from None
        said = f"{type(last).__name__}: {str(last) or 'no answer':.300}"
        raise ShardError(
            f"{url}: {self.retries + 1} tries failed, the last with {said}; "
            "is the server up? data.retries allows for more"
        )


def _patience(scheme: str) -> dict[str, Any]:
    """A client's options for how long it waits, where fsspec's configuration has none.

    gcsfs would wait for ever, and aiohttp end what takes more than five minutes, however well it goes. s3fs is fine.
    """
    if scheme not in ("gs", "http", "https"):
        return {}
    import aiohttp
    from fsspec.config import conf

    limit = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
    if scheme == "gs":
        return {"requests_timeout": conf.get("gs", {}).get("requests_timeout", limit)}
    said = [conf.get(name, {}).get("client_kwargs", {}) for name in ("http", "https")]  # the client knows both names
    return {"client_kwargs": {"timeout": limit, **said[0], **said[1]}}


def _size(fs: Any, path: str) -> int | None:
    size = fs.info(path).get("size")
    return None if size is None else int(size)


def _list(fs: Any, path: str) -> list[dict[str, Any]]:
    return list(fs.ls(path, detail=True))


def _meant(url: str, error: Exception) -> Exception:
    """A client's error, or the built-in one for what the server has answered."""
    if url.startswith("http") and isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # asked for a size, that client calls everything so: a 503, a closed door, a refusal
    status = getattr(error, "status", getattr(error, "code", None))  # aiohttp's name, gcsfs' name
    if status in (404, 410):
        return FileNotFoundError(url)
    if status in (401, 403) or str(error).startswith("Forbidden: "):  # gcsfs' words for 403
        return PermissionError(" ".join(str(error).split()))
    return error


def _final(url: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"{url}: its client is not installed ({error!s:.200}); run `pip install 'cogaze[remote]'`"
    if isinstance(error, FileNotFoundError):
        return f"{url}: not there"
    places = CREDENTIALS.get(url.split(":")[0], "fsspec's configuration, see docs/remote.md")
    key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    if url.startswith("gs:") and key and not os.path.isfile(key):  # gcsfs then asks without any, and says nothing
        places = f"GOOGLE_APPLICATION_CREDENTIALS names {key}, which is not there"
    return f"{url}: refused ({type(error).__name__}: {error!s:.200}); credentials: {places}"


def _changed(url: str) -> str:
    return (
        f"{url} is not the file that the manifest names (sha256 differs): it was changed after the build, or "
        "damaged; copy or build again"
    )
