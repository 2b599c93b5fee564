"""`ferflow serve`: the deployments of prefect.yaml on this computer, with a Prefect server of its own where none is set.

Three processes: the command, which watches and tells; the server; and the runner (flows/runner.py), which starts the flow
runs. Server and runner are guarded (tasks/processes.py): neither outlives the command, even if that is killed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from flows.deployments import read_deployments
from flows.runner import runs
from flows.server import check_alive, ending, local_server
from tasks.errors import UserError
from tasks.files import alone
from tasks.processes import guarded

FLOWS_END = 45.0  # s; Prefect itself gives a flow 30 s to end
NEXT_RUNS = 15.0  # s to wait for the scheduler to name the next runs
LOOK = 2.0  # s between looks at the runs
GONE = 200.0  # s without an answer; Prefect tries for four minutes by itself, so that one look without is enough


def serve(port: int | None = None) -> None:
    """Serve the deployments of prefect.yaml here until a signal ends it (Ctrl-C, SIGTERM, SIGHUP).

    Args:
        port: of the server on this computer; None: the one that Prefect's settings name, or Prefect's own port here.

    Raises:
        UserError: prefect.yaml cannot be served, the port is another program's, somebody serves already, or server or runner
            ended before their time, or the server, of others, no longer answers.
    """
    print("Starting Prefect ...", flush=True)
    try:
        with ExitStack() as stack:
            _heed_signals()
            from prefect.settings import get_current_settings

            read_deployments()
            settings = get_current_settings()
            stack.enter_context(_only_one(settings.home))
            log = settings.home / "ferflow-serve.log"
            file = stack.enter_context(log.open("w", encoding="utf-8"))
            server = stack.enter_context(local_server(port))
            runner, ids = stack.enter_context(_runner(server is not None, file))
            watched = {"runner": runner} | ({"server": server} if server else {})
            _introduce(server is not None, ids, log)
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


# The runner


@contextmanager
def _runner(started: bool, log: IO[str]) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Start the runner and wait until it serves. Yields it, and the deployments' names by their ids."""
    from prefect.settings import get_current_settings

    environment = os.environ | {"PREFECT_API_URL": str(get_current_settings().api.url)}
    command = [sys.executable, "-m", "flows.runner", *(["--alone"] if started else [])]
    process = guarded(command, env=environment, stdout=subprocess.PIPE, stderr=log)
    with ending(process, FLOWS_END):
        said = process.stdout.readline() if process.stdout else ""
        if not said:
            raise UserError(f"the deployments could not be registered; see {log.name}")
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
        answered = time.monotonic()
        while True:
            time.sleep(LOOK)
            check_alive(watched, log)
            try:
                found = runs(client, ids, states)
            except httpx.HTTPError as error:
                if time.monotonic() - answered > GONE:  # one that another command had started ends with that
                    raise UserError(
                        f"no Prefect server answers at {client.api_url} any more; start this again"
                    ) from error
                continue
            answered = time.monotonic()
            news = [run for run in found if (run.id, run.state_name) not in told]
            for run in reversed(news):
                message = f": {run.state.message}" if run.state and run.state.message else ""
                print(
                    f"{time.strftime('%H:%M:%S')} {ids[str(run.deployment_id)]} {run.state_name}{message}", flush=True
                )
            told = {(run.id, run.state_name) for run in found}
