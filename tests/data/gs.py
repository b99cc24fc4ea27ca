"""A server of Google Cloud Storage's JSON API in a process of its own, that fails, breaks off, is slow, and counts.

What cloud.google.com/storage/docs/json_api says of metadata, listing in pages, media with ranges, generations and
checksums, as far as reading needs it, and of OAuth the one answer that a service account asks for. Tests speak to it at
/test: objects, faults and what was sent. A bucket named `private` asks for a token, `unlisted` gives objects and no
listing; the others are open to all.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "films"
TOKEN = "of-the-test"
PAGE = 5  # names a page of a listing, so that there are several


# ------------------------------------------------------------------------------------------------ for the tests
@dataclass(frozen=True)
class Server:
    port: int

    def ask(self, **what: Any) -> Any:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        link.request("POST", "/test", json.dumps(what))
        answer = json.loads(link.getresponse().read())
        link.close()
        return answer

    def put(self, folder: str, files: list[Path], bucket: str = BUCKET) -> None:
        """Files into a bucket, each a new generation of its object."""
        for path in files:
            data = base64.b64encode(path.read_bytes()).decode()
            self.ask(do="put", bucket=bucket, name=f"{folder}/{path.name}", data=data)

    def fault(self, name: str, **faults: Any) -> None:
        """What happens to reads of the media of one file.

        `fail`: answers 503; `cut`: half of the body, then closed; `hang`: no answer until all is forgotten; these
        count down. `pause`: s before each answer.
        `stall`: requests after the first wait until it is false, for nothing. `then`: bytes that replace the object,
        as another generation, after the first answer.
        """
        if "then" in faults:
            faults["then"] = base64.b64encode(faults["then"]).decode()
        self.ask(do="fault", name=name, faults=faults)

    def key(self, path: Path, account: str = "reader") -> Path:
        """Write the key file of a service account; of any but `reader` the server knows nothing."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path.write_text(json.dumps({
            "type": "service_account", "project_id": "p", "private_key_id": "1",
            "private_key": private.private_bytes(*kinds).decode(), "client_email": f"{account}@p.iam",
            "token_uri": f"http://127.0.0.1:{self.port}/token",
        }))  # fmt: skip
        return path

    def forget(self) -> None:
        """Every fault and what was sent until now."""
        self.ask(do="forget")

    def gets(self, ending: str) -> list[tuple[str, int, int, int]]:
        """Name, first byte, bytes and generation of each answer that was sent whole, of objects that end so."""
        return [(n, *rest) for n, *rest in self.ask(do="gets") if n.endswith(ending)]

    def sent(self, ending: str) -> dict[str, int]:
        """Bytes sent of each object whose name ends so."""
        found: dict[str, int] = {}
        for name, _, size, _ in self.gets(ending):
            found[name] = found.get(name, 0) + size
        return found


@contextmanager
def gs_server(log: Path) -> Iterator[Server]:
    with open(log, "wb") as out:
        command = [sys.executable, "-m", "tests.data.gs"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, cwd=Path(__file__).parents[2])
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Server(int(line))
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


# ------------------------------------------------------------------------------------------------ the server
@dataclass
class Object:
    data: bytes
    generation: int

    def facts(self, bucket: str, name: str) -> dict[str, Any]:
        return {
            "kind": "storage#object", "id": f"{bucket}/{name}/{self.generation}", "name": name, "bucket": bucket,
            "generation": str(self.generation), "metageneration": "1", "contentType": "application/octet-stream",
            "storageClass": "STANDARD", "size": str(len(self.data)), "md5Hash": md5(self.data),
            "crc32c": crc32c(self.data), "etag": f"C{self.generation}=", "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip


@dataclass
class State:
    buckets: dict[str, dict[str, Object]] = field(default_factory=dict)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the last part of an object's name
    gets: list[tuple[str, int, int, int]] = field(default_factory=list)
    generation: int = 1_700_000_000_000_000
    lock: Any = field(default_factory=threading.Lock)

    def put(self, bucket: str, name: str, data: bytes) -> None:
        self.generation += 1
        self.buckets.setdefault(bucket, {})[name] = Object(data, self.generation)

    def count_down(self, name: str, what: str) -> bool:
        with self.lock:
            faults = self.faults.get(name, {})
            left = faults.get(what, 0)
            if left:
                faults[what] = left - 1
            return bool(left)


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def crc32c(data: bytes) -> str:
    import google_crc32c

    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out one after the other, at once
    state = State()

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def say(self, what: Any) -> None:
        self.answer(200, json.dumps(what).encode())

    def error(self, status: int, message: str, reason: str) -> None:
        errors = [{"message": message, "domain": "global", "reason": reason}]
        self.answer(status, json.dumps({"error": {"code": status, "message": message, "errors": errors}}).encode())

    def allowed(self, bucket: str, what: str) -> bool:
        given = self.headers.get("Authorization")
        if (bucket == "private" and given != f"Bearer {TOKEN}") or (bucket == "unlisted" and what == "list"):
            who, status = ("Anonymous caller", 401) if given is None else ("me@project.iam", 403)
            text = f"{who} does not have storage.objects.{what} access to the Google Cloud Storage object. Permission "
            text += f"'storage.objects.{what}' denied on resource (or it may not exist)."
            self.error(status, text, "required" if given is None else "forbidden")
            return False
        return True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        found = re.fullmatch(r"/(?:download/)?storage/v1/b/([^/]+)/o(?:/([^/]+))?", parts.path)
        if not found:
            self.error(404, "Not Found", "notFound")
            return
        bucket, name = found[1], unquote(found[2] or "")
        if not self.allowed(bucket, "get" if name else "list"):
            return
        if bucket not in self.state.buckets:
            self.error(404, "The specified bucket does not exist.", "notFound")
        elif not name:
            self.list(bucket, query)
        elif not (there := self.state.buckets[bucket].get(name)):
            self.error(404, f"No such object: {bucket}/{name}", "notFound")
        elif query.get("generation", str(there.generation)) != str(there.generation):
            self.error(404, f"No such object: {bucket}/{name}#{query['generation']}", "notFound")
        elif query.get("alt") == "media":
            self.media(bucket, name, there)
        else:
            self.say(there.facts(bucket, name))

    def list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        names = sorted(n for n in self.state.buckets[bucket] if n.startswith(prefix))
        names = [n for n in names if n > query.get("pageToken", "")]
        page = min(int(query.get("maxResults", PAGE)), PAGE)
        for name in names[:page]:
            rest = name.removeprefix(prefix)
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.state.buckets[bucket][name].facts(bucket, name))
        more = {"nextPageToken": names[page - 1]} if len(names) > page else {}
        self.say({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes), **more})

    def media(self, bucket: str, name: str, there: Object) -> None:
        state, last = self.state, name.rsplit("/", 1)[-1]
        faults = state.faults.setdefault(last, {})
        time.sleep(faults.get("pause", 0))
        if faults.get("stall") and any(last == other for other, *_ in state.gets):
            while faults.get("stall"):
                time.sleep(0.02)
            self.close_connection = True
            return
        if state.count_down(last, "hang"):
            while state.faults.get(last) is faults:
                time.sleep(0.02)
            self.close_connection = True
            return
        if state.count_down(last, "fail"):
            self.error(503, "We encountered an internal error. Please try again.", "backendError")
            return
        size, body, status = len(there.data), there.data, 200
        headers = {
            "Content_Type": "application/octet-stream", "ETag": f"C{there.generation}=", "Accept_Ranges": "bytes",
            "X_Goog_Generation": str(there.generation),
            "X_Goog_Hash": f"crc32c={crc32c(there.data)},md5={md5(there.data)}",
        }  # fmt: skip
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
            if start >= size:
                self.error(416, "The requested range cannot be satisfied.", "requestedRangeNotSatisfiable")
                return
            body, status = there.data[start : end + 1], 206
            headers["Content_Range"] = f"bytes {start}-{end}/{size}"
        if state.count_down(last, "cut"):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.answer(status, body, **headers)
        with state.lock:
            state.gets.append((last, start, len(body), there.generation))
            if "then" in faults:
                state.put(bucket, name, base64.b64decode(faults.pop("then")))

    def token(self, assertion: str) -> None:
        """For a signed claim of who asks. Nobody checks the signature here."""
        claim = assertion.split(".")[1]
        who = json.loads(base64.urlsafe_b64decode(claim + "=" * (-len(claim) % 4)))["iss"]
        if who == "reader@p.iam":
            self.say({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
        else:
            gone = {"error": "invalid_grant", "error_description": "Invalid grant: account not found"}
            self.answer(400, json.dumps(gone).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/token":
            self.token(parse_qs(body)["assertion"][0])
            return
        what, state = json.loads(body), self.state
        with state.lock:
            if what["do"] == "put":
                state.put(what["bucket"], what["name"], base64.b64decode(what["data"]))
            elif what["do"] == "fault":
                state.faults.setdefault(what["name"], {}).update(what["faults"])
            elif what["do"] == "forget":
                state.faults.clear()
                state.gets.clear()
            self.say(state.gets)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever(0.05)
