"""A bucket of a real S3 server on loopback, behind a proxy that fails as networks do."""

import http.client
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from s3 import environment, s3_server

BUCKET = "pictures"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

Fault = Callable[[str, str], str | None]  # of method and path with query; what to do in place of answering well


class Proxy(ThreadingHTTPServer):
    """Passes requests on and notes them; `fault` says which it spoils, and how:

    "503", "403"; "reset": the connection breaks before an answer; "cut": in the middle of it; "stall": it stays there.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.server = (host, port)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.one_at_a_time = threading.Lock()  # what `fault` does is done before further requests pass
        self.calm()

    def calm(self) -> None:
        """Answer well and at once from now on, with a clean slate."""
        self.fault: Fault = lambda method, path: None
        self.page: int | None = None  # objects of a listing's page
        self.delay = 0.0  # s before an object is sent
        self.requests: list[tuple[str, str]] = []
        self.busy = self.busiest = 0

    def read(self) -> list[str]:
        """The keys of the objects that were asked for whole, in order."""
        paths = [urlsplit(path) for method, path in self.requests if method == "GET"]
        return [unquote(path.path).removeprefix(f"/{BUCKET}/") for path in paths if "list-type" not in path.query]

    def listings(self) -> int:
        """How many pages of listings were asked for."""
        return sum("list-type" in path for _, path in self.requests)

    def handle_error(self, *_: Any) -> None:
        """Clients that break connections are no news here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy  # type: ignore[assignment]

    def handle_any(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path))
        with self.server.one_at_a_time:
            fault = self.server.fault(self.command, self.path)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault in ("503", "403"):
            self.answer(int(fault), {}, SLOW_DOWN if fault == "503" else DENIED)
        else:
            self.answer(*self.pass_on(content), fault=fault)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

    def pass_on(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        listing = "list-type" in self.path
        if self.server.delay and self.command == "GET" and not listing:
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
            time.sleep(self.server.delay)
            self.server.busy -= 1
        connection = http.client.HTTPConnection(*self.server.server)
        path = f"{self.path}&max-keys={self.server.page}" if listing and self.server.page else self.path
        connection.request(self.command, path, content, dict(self.headers))
        answer = connection.getresponse()
        headers = {
            name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "date", "server")
        }
        body = answer.read()
        connection.close()
        return answer.status, headers, body

    def answer(self, status: int, headers: dict[str, str], body: bytes, fault: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault in ("cut", "stall"):
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        self.wfile.flush()
        if fault == "stall":
            time.sleep(5)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


class Bucket:
    """A bucket, the network before it, and a client that reaches the server past that."""

    def __init__(self, proxy: Proxy, client: Any) -> None:
        self.proxy, self.client = proxy, client

    def put(self, key: str, content: bytes) -> str:
        """Write an object; returns its URL."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def clear(self) -> None:
        for key in self.keys():
            self.delete(key)


@contextmanager
def serving(log: Path) -> Iterator[Bucket]:
    """A server with an empty bucket, until the block ends."""
    with s3_server(log) as server:
        address = urlsplit(server.url)
        proxy = Proxy(str(address.hostname), address.port or 0)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        client = server.client()
        client.create_bucket(Bucket=BUCKET, ACL="public-read")  # browsers, too
        yield Bucket(proxy, client)
        proxy.shutdown()


@pytest.fixture(scope="session")
def bucket_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with serving(tmp_path_factory.mktemp("bucket") / "log.txt") as bucket:
        yield bucket


@pytest.fixture
def bucket(
    bucket_of_session: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Bucket:
    """An empty bucket, credentials for it, and a machine that has never seen it."""
    import s3fs

    bucket_of_session.proxy.calm()
    bucket_of_session.clear()
    s3fs.S3FileSystem.clear_instance_cache()
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    for name, value in environment(bucket_of_session.proxy.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("machine")))
    return bucket_of_session
