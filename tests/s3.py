"""A real S3 server on loopback, moto's, in a process of its own."""

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port

TIMEOUT = 120  # s, for a machine with other work to do


def environment(url: str) -> dict[str, str]:
    """The variables with which programs find a server and may use it."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class S3:
    """Where the server listens."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def client(self) -> Any:
        """Amazon's own client of the server."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def answers(self) -> bool:
        """Whether the server is there."""
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def s3_server(log: Path) -> Iterator[S3]:
    """An S3 server without a bucket, until the block ends."""
    s3 = S3(free_port())
    program = Path(sys.executable).with_name("moto_server")
    with log.open("w") as file:
        process = subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", s3.url.rpartition(":")[2]], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + TIMEOUT
        while not s3.answers():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "moto's server did not start"
            time.sleep(0.1)
        yield s3
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One S3 server for the session; its variables are in the environment of this process and of all it starts."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log.txt") as server, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in environment(server.url).items():
            patch.setenv(name, value)
        yield server
