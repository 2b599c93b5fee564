"""Training candidates on the workers of a Prefect work pool, for a retraining that waits for them.

On each machine, in its own clone, `ferflow worker POOL` takes runs of the flow below; tasks/elsewhere.py does the work. The
retraining (`work_pool: POOL`) makes the deployment, starts a run for each candidate and looks after them.
"""

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Completed, Crashed, Failed

from tasks import elsewhere
from tasks.errors import UserError, explaining
from tasks.files import write_json
from tasks.git import head
from tasks.params import Params
from tasks.paths import CANDIDATES, DVC_LOCK, TIMINGS

FOLDER = "FERFLOW_FOLDER"  # the variable by which a worker's runs know their clone
BEAT = 30  # s between a run's signs of life, the least that Prefect offers
SILENCE = 180.0  # s without one; then nobody is there any more
LOOK = 2.0  # s between looks at the runs


@flow(name="train-candidate")
def train_candidate(name: str, commit: str, lock: str, hours: float) -> State[Any]:
    """Train one candidate; see tasks.elsewhere.train. Ends with its timings, or Failed with what was wrong in a line."""
    try:
        with explaining():
            timings = elsewhere.train(name, commit, lock, get_run_logger().info, hours)
    except UserError as error:
        return Failed(message=str(error))
    return Completed(message=json.dumps(timings))


def work(pool: str) -> None:
    """Become Prefect's worker for a pool (made if it is not there), for runs in this folder, one at a time.

    Raises:
        UserError: Prefect's settings name no server.
    """
    if not get_current_settings().api.url:
        raise UserError("no Prefect server is set; run: prefect config set PREFECT_API_URL=http://HOST:4200/api")
    os.environ[FOLDER] = str(Path.cwd())
    arguments = ["worker", "start", "--pool", pool, "--type", "process", "--limit", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *arguments])


def train_elsewhere(folder: Path, names: list[str], settings: Params, pool: str) -> dict[str, str]:
    """Let a pool's workers train those of the candidates that are out of date; returns by stage why some failed.

    What they trained is in DVC's remote afterwards; `rebuild.reproduce` with `pull` takes it from there.

    Raises:
        UserError: there is no such pool, or no remote.
    """
    with get_client(sync_client=True) as client:
        _check_pool(client, pool)  # before the upload, which may take an hour
        asked = elsewhere.offer(folder, names, settings.teachers_of(names[0]))
        if not asked:
            return {}
        deployment = _deploy(client, pool)
        given = {
            "commit": head(Path()),
            "lock": (folder / DVC_LOCK).read_text(encoding="utf-8"),
            "hours": settings.retrain.stage_hours,
        }
        ended = _look_after(client, pool, {name: _start(deployment, given | {"name": name}) for name in asked})
    done = [name for name, state in ended.items() if state.is_completed()]
    for name in done:
        write_json(folder / TIMINGS / f"{name}.json", json.loads(str(ended[name].message)))
    failed = {name: str(state.message) for name, state in ended.items() if name not in done}
    for name in failed:  # as DVC does before it trains: an older network is not of this recipe
        (folder / CANDIDATES / name / "model.keras").unlink(missing_ok=True)
    return {f"train@{name}": message for name, message in failed.items()}


def _check_pool(client: SyncPrefectClient, pool: str) -> None:
    """Raise UserError if the server has no such work pool."""
    try:
        client.read_work_pool(pool)
    except ObjectNotFound as error:
        raise UserError(f"Prefect has no work pool '{pool}'; `ferflow worker {pool}` on a machine makes it") from error


def _deploy(client: SyncPrefectClient, pool: str) -> UUID:
    """Make the deployment of the flow above for a pool, or bring it up to date; returns its id."""
    return client.create_deployment(
        client.create_flow(train_candidate),
        name=pool,
        description="Trains one candidate for a retraining.",
        work_pool_name=pool,
        entrypoint=f"{Path(__file__).parent.name}/{Path(__file__).name}:train_candidate",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": f"{{{{ ${FOLDER} }}}}"}}],
        job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(BEAT)}},
    )


def _start(deployment: UUID, parameters: dict[str, Any]) -> UUID:
    """Start a run of the deployment, below the flow that is running; returns its id."""
    run = run_deployment(deployment, parameters=parameters, flow_run_name=f"train@{parameters['name']}", timeout=0)
    return run.id  # type: ignore[union-attr]  # no coroutine: this is not async


@dataclass
class _Waited:
    """A run that is waited for, its last sign of life and when that came (`time.monotonic`)."""

    id: UUID
    sign: object = None
    since: float = field(default_factory=time.monotonic)


def _look_after(client: SyncPrefectClient, pool: str, runs: dict[str, UUID]) -> dict[str, State[Any]]:
    """Wait until all runs have ended, or nobody is at work on them; returns their states. Cancels what is left if we end."""
    waiting = {name: _Waited(key) for name, key in runs.items()}
    ended: dict[str, State[Any]] = {}
    try:
        while waiting:
            time.sleep(LOOK)
            with suppress(httpx.HTTPError):  # the server is busy, or starts again
                for name, waited in list(waiting.items()):
                    if state := _end(client, pool, waited):
                        ended[name] = state
                        del waiting[name]
    finally:
        for waited in waiting.values():
            with suppress(httpx.HTTPError, ObjectNotFound):
                client.set_flow_run_state(waited.id, Cancelling())
    return ended


def _end(client: SyncPrefectClient, pool: str, waited: _Waited) -> State[Any] | None:
    """The state in which a run has ended, None if it has not; one without a sign of life for SILENCE is ended here."""
    try:
        run = client.read_flow_run(waited.id)
    except ObjectNotFound:
        return Crashed(message="somebody removed its run")
    if run.state and run.state.is_final():
        return run.state
    sign, now = _sign(client, pool, run), time.monotonic()
    if sign != waited.sign:
        waited.sign, waited.since = sign, now
    elif now - waited.since > SILENCE:
        client.set_flow_run_state(waited.id, Crashed(message=_why_silent(run, pool)), force=True)
        return client.read_flow_run(waited.id).state
    return None


def _sign(client: SyncPrefectClient, pool: str, run: FlowRun) -> object:
    """Something that changes as long as somebody is at work on a run, or there to take it."""
    if run.state and run.state.is_scheduled():
        workers = client.read_workers_for_work_pool(pool)
        return time.monotonic() if any(worker.status == WorkerStatus.ONLINE for worker in workers) else None
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "any_resource": {"id": [f"prefect.flow-run.{run.id}"]},
    }
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    return [run.state_type, *(event["id"] for event in answer.json()["events"])]


def _why_silent(run: FlowRun, pool: str) -> str:
    if run.state and run.state.is_scheduled():
        return f"no worker of the pool '{pool}' is there; `ferflow worker {pool}` starts one"
    return "its worker is gone"
