"""A real S3 server on loopback (moto's), behind a proxy that fails as networks do."""

import http.client
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

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


class S3:
    """The server, its proxy, and a client that reaches the server past the proxy."""

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
def serving() -> Iterator[S3]:
    """A server with an empty bucket."""
    import boto3  # here: other tests start without them
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy(host, port)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    client = boto3.client(
        "s3", "us-east-1", endpoint_url=f"http://{host}:{port}", aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_bucket(Bucket=BUCKET, ACL="public-read")  # browsers, too
    yield S3(proxy, client)
    proxy.shutdown()
    server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    logging.getLogger("werkzeug").setLevel("ERROR")
    with serving() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> S3:
    """An empty bucket, credentials for it, and a machine that has never seen it."""
    import s3fs

    s3_server.proxy.calm()
    s3_server.clear()
    s3fs.S3FileSystem.clear_instance_cache()
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "loopback")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "loopback")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.proxy.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("machine")))
    return s3_server
