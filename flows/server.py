"""A Prefect server on this computer: found, or started for as long as it is needed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import urlopen

from tasks.errors import UserError
from tasks.files import in_turn
from tasks.processes import end, guarded

HOST = "127.0.0.1"
START = 180.0  # s a server may take; a first start writes its database, 15 s on a quiet machine
SERVER_ENDS = 10.0  # s
LOG = "ferflow-server.log"  # in Prefect's home
STARTING = "ferflow-server.starting"  # there, too; locked while a server starts


@contextmanager
def local_server(port: int | None = None) -> Iterator[subprocess.Popen[str] | None]:
    """Let Prefect use the server that is set, or that is at the port; or start one, which ends with the block.

    Args:
        port: of the server on this computer; None: the one that Prefect's settings name, or Prefect's own port here.

    Yields:
        The server's process, if it was started here.

    Raises:
        UserError: something else is at the port, nothing answers elsewhere, or the server does not start.
    """
    from prefect.settings import get_current_settings, temporary_settings

    settings = get_current_settings()
    here = f"http://{HOST}:{port or settings.server.api.port}/api"
    url = here if port else (settings.api.url or here).rstrip("/")
    with ExitStack() as stack:
        server = None
        with in_turn(settings.home / STARTING):  # two first servers would make one database at once
            if _is_needed(url):
                log = stack.enter_context((settings.home / LOG).open("w", encoding="utf-8"))
                server = stack.enter_context(_server(url, log))
                _wait_for_server(url, {"server": server}, settings.home / LOG)
        stack.enter_context(temporary_settings({"PREFECT_API_URL": url}))
        if server:
            stack.callback(_drain)
        yield server


def _drain() -> None:
    """Let this process say all it has to say of its runs while the server lives: it would try to for minutes afterwards."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all()
    EventsWorker.drain_all()


def _is_needed(url: str) -> bool:
    """Whether a server has to be started at an address: on this computer, where nothing is at its port.

    Raises:
        UserError: something else is at that port, no server answers elsewhere, or that is no address.
    """
    try:
        host, port = urlsplit(url).hostname, urlsplit(url).port
    except ValueError as error:
        raise UserError(f"PREFECT_API_URL is {url}: {error}; such as http://HOST:4200/api") from error
    if host in (HOST, "localhost") and port:
        if _healthy(url):
            return False
        if url != (here := f"http://{host}:{port}/api"):
            raise UserError(f"no Prefect server answers at {url} (PREFECT_API_URL); one on this computer is at {here}")
        if not _is_free(port):
            raise UserError(f"port {port} is used by a program that is no Prefect server; choose another with --port")
        return True
    if not _answers(url):
        raise UserError(f"no Prefect server answers at {url} (PREFECT_API_URL); start it, or unset that")
    return False


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=10) as answer:
            return bool(answer.read().strip() == b"true")
    except (OSError, HTTPException, ValueError):
        return False


def _answers(url: str) -> bool:
    """As _healthy, with the keys and certificates that Prefect's settings may name for a server elsewhere."""
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    with temporary_settings({"PREFECT_API_URL": url}), get_client(sync_client=True) as client:
        return client.api_healthcheck() is None


@contextmanager
def _server(url: str, log: IO[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(urlsplit(url).port)]
    process = guarded(command, env=os.environ | {"PREFECT_API_URL": url}, stdout=log, stderr=log)
    with ending(process, SERVER_ENDS):
        yield process


@contextmanager
def ending(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Ask a program to end when the block has ended, however; after some seconds, or another Ctrl-C, end it."""
    try:
        yield
    finally:
        try:
            process.send_signal(signal.SIGINT)
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end(process)


def _wait_for_server(url: str, watched: dict[str, subprocess.Popen[str]], log: Path) -> None:
    deadline = time.monotonic() + START
    while not _healthy(url):
        check_alive(watched, log)
        if time.monotonic() > deadline:
            raise UserError(f"the Prefect server did not start within {START:.0f} s; see {log}")
        time.sleep(0.2)


def check_alive(watched: dict[str, subprocess.Popen[str]], log: Path) -> None:
    """Raise UserError if one of these programs has ended."""
    for name, process in watched.items():
        if (code := process.poll()) is not None:
            raise UserError(f"Prefect's {name} ended (exit code {code}); see {log}")
