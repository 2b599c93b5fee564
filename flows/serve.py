"""`ferflow serve`: the deployments of prefect.yaml on this computer, with a Prefect server of its own where none is set.

Three processes: the command, which watches and tells; the server; and the runner (flows/runner.py), which starts the flow
runs. Server and runner are guarded (tasks/processes.py): neither outlives the command, even if that is killed.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from flows.deployments import read_deployments
from flows.runner import SETTINGS, runs
from tasks.errors import UserError
from tasks.files import alone
from tasks.processes import end, guarded

HOST = "127.0.0.1"
START = 180.0  # s a server may take; a first start writes its database, 15 s on a quiet machine
FLOWS_END, SERVER_ENDS = 45.0, 10.0  # s; Prefect itself gives a flow 30 s to end
NEXT_RUNS = 15.0  # s to wait for the scheduler to name the next runs
LOOK = 2.0  # s between looks at the runs


def serve(port: int | None = None) -> None:
    """Serve the deployments of prefect.yaml here until a signal ends it (Ctrl-C, SIGTERM, SIGHUP).

    Args:
        port: of the server on this computer; None: the one that Prefect's settings name, or Prefect's own port here.

    Raises:
        UserError: prefect.yaml cannot be served, the port is another program's, somebody serves already, or server or runner
            ended before their time.
    """
    print("Starting Prefect ...", flush=True)
    try:
        with ExitStack() as stack:
            _heed_signals()
            from prefect.settings import get_current_settings, temporary_settings

            read_deployments()
            settings = get_current_settings()
            stack.enter_context(_only_one(settings.home))
            log = settings.home / "ferflow-serve.log"
            file = stack.enter_context(log.open("w", encoding="utf-8"))
            here = f"http://{HOST}:{port or settings.server.api.port}/api"
            url = here if port else settings.api.url or here
            started = _find_server(url)
            watched = {}
            stack.enter_context(temporary_settings({"PREFECT_API_URL": url}))
            if started:
                watched["server"] = stack.enter_context(_server(url, file))
                _wait_for_server(url, watched, log)
            watched["runner"], ids = stack.enter_context(_runner(url, started, file, log))
            _introduce(started, ids, log)
            try:
                _watch(ids, watched, log)
            except KeyboardInterrupt:
                print("\nStopping ...", flush=True)
                raise
    except KeyboardInterrupt:
        print("Stopped. The next `ferflow serve` goes on with the schedules.")


def _heed_signals() -> None:
    """End in good order on SIGTERM and on a closed terminal (unless nohup ignores that) as on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


# The server


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """A lock on Prefect's home: two would share its database, and take each other's runs."""
    path = home / "ferflow-serve.lock"
    with alone(path) as free:
        if not free:
            folder = path.read_text(encoding="utf-8")
            raise UserError(
                f"another `ferflow serve` runs in {folder}; end it first (or give this one a PREFECT_HOME of its own)"
            )
        path.write_text(str(Path.cwd()), encoding="utf-8")
        yield


def _find_server(url: str) -> bool:
    """Whether a server has to be started at an address: on this computer, where nothing is at its port.

    Raises:
        UserError: something else is at that port; or no server answers elsewhere.
    """
    parts = urlsplit(url)
    if parts.hostname in (HOST, "localhost") and parts.port:
        if _is_free(parts.port):
            return True
        if not _healthy(url):
            raise UserError(
                f"port {parts.port} is used by a program that is no Prefect server; choose another with --port"
            )
    elif not _answers(url):
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
    except (OSError, URLError, ValueError):
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
    environment = SETTINGS | os.environ | {"PREFECT_API_URL": url}
    process = guarded(command, env=environment, stdout=log, stderr=log)
    with _ending(process, SERVER_ENDS):
        yield process


@contextmanager
def _ending(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
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
        _check_alive(watched, log)
        if time.monotonic() > deadline:
            raise UserError(f"the Prefect server did not start within {START:.0f} s; see {log}")
        time.sleep(0.2)


def _check_alive(watched: dict[str, subprocess.Popen[str]], log: Path) -> None:
    for name, process in watched.items():
        if (code := process.poll()) is not None:
            raise UserError(f"Prefect's {name} ended (exit code {code}); see {log}")


# The runner


@contextmanager
def _runner(
    url: str, started: bool, log: IO[str], path: Path
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Start the runner and wait until it serves. Yields it, and the deployments' names by their ids."""
    environment = SETTINGS | os.environ | {"PREFECT_API_URL": url}
    command = [sys.executable, "-m", "flows.runner", *(["--alone"] if started else [])]
    process = guarded(command, env=environment, stdout=subprocess.PIPE, stderr=log)
    with _ending(process, FLOWS_END):
        said = process.stdout.readline() if process.stdout else ""
        if not said:
            raise UserError(f"the deployments could not be registered; see {path}")
        yield process, json.loads(said)


# What the terminal shows


def _introduce(started: bool, ids: dict[str, str], log: Path) -> None:
    """Say where the pages are, and what is served with the next runs."""
    from prefect.settings import get_current_settings

    print(f"Prefect's pages: {get_current_settings().ui_url}" + ("" if started else " (a server that ran already)"))
    nexts = _next_runs(ids)
    width = max(map(len, ids.values()))
    for key, name in ids.items():
        print(f"  {name:{width}}  {nexts.get(key, 'no run planned yet')}")
    print(f"Ctrl-C ends it; schedules outlast that. Log: {log}", flush=True)


def _next_runs(ids: dict[str, str]) -> dict[str, str]:
    """When each deployment runs next, by id, as soon as the scheduler has said so of those with a schedule."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType

    scheduled = {deployment["name"] for deployment in read_deployments() if deployment.get("schedules")}
    waiting = {key for key, name in ids.items() if name in scheduled}
    deadline = time.monotonic() + NEXT_RUNS
    found: dict[str, str] = {}
    with get_client(sync_client=True) as client:
        while waiting - found.keys() and time.monotonic() < deadline:
            time.sleep(0.5)
            for key in waiting - found.keys():
                for run in runs(client, [key], [StateType.SCHEDULED], "EXPECTED_START_TIME_ASC", limit=1):
                    if moment := run.expected_start_time:  # one that fell due while nobody served runs now
                        due = f"{moment.astimezone():%a %d %b, %H:%M}" if moment.timestamp() > time.time() else "now"
                        found[key] = f"next run {due}"
    return found


def _watch(ids: dict[str, str], watched: dict[str, subprocess.Popen[str]], log: Path) -> None:
    """Print a line when a run starts or ends, until server or runner ends."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType

    states = [StateType.RUNNING, StateType.COMPLETED, StateType.FAILED, StateType.CRASHED]
    with get_client(sync_client=True) as client:
        told = {(run.id, run.state_name) for run in runs(client, ids, states)}
        while True:
            time.sleep(LOOK)
            _check_alive(watched, log)
            try:
                found = runs(client, ids, states)
            except httpx.HTTPError:
                continue  # the server is busy, or ended: the next look knows
            news = [run for run in found if (run.id, run.state_name) not in told]
            for run in reversed(news):
                message = f": {run.state.message}" if run.state and run.state.message else ""
                print(
                    f"{time.strftime('%H:%M:%S')} {ids[str(run.deployment_id)]} {run.state_name}{message}", flush=True
                )
            told = {(run.id, run.state_name) for run in found}
