"""A real S3 server in a process of its own, and a proxy before it that is slow, breaks off, fails, and counts."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "films"
# moto looks at who asks before it lets an object be replaced, not at the signature
SIGNED = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@dataclass
class Faults:
    """What the proxy does to the GETs of one object: `fail` and `cut` count down; `pause` is s before each answer."""

    fail: int = 0  # answers 500
    cut: int = 0  # sends half of the body, then closes
    pause: float = 0.0
    stall: threading.Event | None = None  # the answers after the first wait for it


@dataclass
class Proxy:
    port: int = 0
    faults: defaultdict[str, Faults] = field(default_factory=lambda: defaultdict(Faults))  # by file name
    gets: list[tuple[str, int, int]] = field(default_factory=list)  # name, first byte, bytes sent (whole answers)

    def sent(self, ending: str) -> dict[str, int]:
        """Bytes sent of each object whose name ends so."""
        found: dict[str, int] = {}
        for name, _, size in self.gets:
            if name.endswith(ending):
                found[name] = found.get(name, 0) + size
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def put(port: int, folder: str, files: list[Path]) -> None:
    """Files into the bucket under `folder`, past the proxy."""
    server = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for path in files:
        server.request("PUT", f"/{BUCKET}/{folder}/{path.name}", path.read_bytes(), {"Authorization": SIGNED})
        answer = server.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
    server.close()


@contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """The port of a moto server with an empty bucket."""
    port = free_port()
    with open(log, "wb") as out:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        for _ in range(300):
            try:
                server = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                server.request("PUT", f"/{BUCKET}")
                assert server.getresponse().status == 200
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        else:
            raise AssertionError(log.read_text())
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    state = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body go out one after the other, at once

        def log_message(self, *ignored: object) -> None:
            pass

        def do_GET(self) -> None:
            name = self.path.split("?")[0].rsplit("/", 1)[-1]
            faults = state.faults[name]
            time.sleep(faults.pause)
            if faults.stall and any(name == other for other, *_ in state.gets):
                faults.stall.wait(60)
            if self.command == "GET" and faults.fail:
                faults.fail -= 1
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            server = http.client.HTTPConnection("127.0.0.1", target, timeout=30)
            server.request(self.command, self.path, headers=dict(self.headers))
            answer = server.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                    self.send_header(key, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if self.command == "GET" and faults.cut:
                faults.cut -= 1
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                return
            self.wfile.write(body)
            if self.command == "GET":
                asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0]
                state.gets.append((name, int(asked), len(body)))

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
