"""The runner of `ferflow serve`: starts the runs of prefect.yaml's deployments in this folder.

python -m flows.runner [--alone]
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

from flows.deployments import as_served, read_deployments

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.runner import Runner

SETTINGS = {  # of Prefect, where the environment has nothing else: patience for a machine that trains, no word to the outside
    "PREFECT_API_REQUEST_TIMEOUT": "180",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what the server answers while its database is away
    "PREFECT_CLIENT_MAX_RETRIES": "7",  # after 2, 4, ... 128 s: four minutes
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def use_settings() -> None:
    """Put SETTINGS into this process's environment; to be called before Prefect is imported, which reads it then."""
    os.environ.update(SETTINGS | os.environ)


def runs(
    client: "SyncPrefectClient",
    ids: Collection[str],
    states: Collection[Any],
    order: Literal["START_TIME_DESC", "EXPECTED_START_TIME_ASC"] = "START_TIME_DESC",
    limit: int = 50,
) -> "list[FlowRun]":
    """Runs of these deployments in these states, the newest or the next ones first."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.sorting import FlowRunSort

    state = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=list(states)))
    deployment = filters.FlowRunFilterDeploymentId.model_validate({"any_": list(ids)})
    wanted = filters.FlowRunFilter(state=state, deployment_id=deployment)
    return client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort(order), limit=limit)


def main() -> None:
    """Register the deployments, print their names by their ids, and start their runs until SIGINT.

    With --alone, nobody else can have runs of them under way on this server.
    """
    from prefect.runner import Runner

    runner = Runner(name="ferflow", pause_on_shutdown=False)
    ids = {str(runner.add_deployment(deployment)): deployment.name for deployment in map(as_served, read_deployments())}
    if "--alone" in sys.argv:
        _give_up_dead_runs(ids)
    print(json.dumps(ids), flush=True)
    os.dup2(2, 1)  # what flows print goes to the log
    asyncio.run(_run(runner))


async def _run(runner: "Runner") -> None:
    """Start runs until SIGINT; then cancel those under way, so that Prefect knows of their end."""
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    running = asyncio.create_task(runner.start())
    await asyncio.wait({running, asyncio.create_task(interrupted.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if runner.started:
        await runner.astop()
    else:
        running.cancel()
    await running


def _give_up_dead_runs(ids: Collection[str]) -> None:
    """Say of runs that a kill ended that they have: else they show as running, and hold their deployment's slot for ever.

    (When to take it back knew the server that was killed with them: Prefect keeps leases in memory.)
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        for run in runs(client, ids, [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]):
            client.set_flow_run_state(
                run.id, Crashed(message="It ended with the `ferflow serve` that ran it."), force=True
            )


if __name__ == "__main__":
    main()
