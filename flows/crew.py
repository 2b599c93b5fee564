"""Who works on the shards of the label flow: threads of its own process, or the workers of a Dask cluster.

A cluster is named by `local:N`, N worker processes on this machine for this run, or by its scheduler's address. Dask gives the
shards of a worker that died to others; their task runs in Prefect begin anew.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.shards import Shard
from tasks.errors import UserError
from tasks.label import Labelled
from tasks.threads import cores

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner

LOCAL = "local:"
ANSWERING = 10  # s, for the scheduler to answer
ALONE = 60.0  # s, that a cluster may be without a worker: some start late, or again
LOOKING = 1.0  # s, between two looks whether there are any
QUIET = {"DASK_LOGGING__DISTRIBUTED": "warning"}  # environment of Dask's processes
# Dask has its workers give memory back at once. A photo's is asked for again at once: that takes as long as finding its faces.
KEEP_MEMORY = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}
GOES_ON = "the same flow goes on from where it was"

ShardTask = Task[[Shard], list[Labelled]]
Awaited = TypeVar("Awaited")


@contextmanager
def crew(cluster: str | None) -> Iterator["Crew"]:
    """The workers of a cluster, or threads, as many as there are cores, where none is named.

    Raises:
        UserError: the cluster cannot be reached; later: it went away, or lost all of its workers.
    """
    if not cluster:
        with ThreadPoolTaskRunner[Any](max_workers=cores()) as threads:
            yield Crew(threads)
    else:
        with _connected(cluster) as runner:
            yield DaskCrew(runner, cluster)


class Crew:
    """Works on shards on threads."""

    def __init__(self, runner: TaskRunner[Any]) -> None:
        self._runner = runner
        self._under_way: dict[PrefectFuture[list[Labelled]], Shard] = {}  # Dask forgets what nobody holds
        self._finished: SimpleQueue[PrefectFuture[list[Labelled]]] = SimpleQueue()

    @property
    def size(self) -> int:
        """How many shards it works on at the same time."""
        return cores()

    @property
    def under_way(self) -> int:
        """How many shards it has been given, and has not given back."""
        return len(self._under_way)

    def give(self, shard: Shard, task: ShardTask) -> None:
        """Have a task label a shard."""
        future = self._runner.submit(task, {"shard": shard})
        self._under_way[future] = shard
        future.add_done_callback(self._finished.put)

    def take(self) -> list[Labelled]:
        """Wait for the next shard that is finished, whichever it is; returns its rows.

        Raises:
            UserError: the images are not to be labelled like that.
        """
        future = self._next()
        return self._result(future, self._under_way.pop(future))

    def _next(self) -> PrefectFuture[list[Labelled]]:
        return self._finished.get()

    def _result(self, future: PrefectFuture[list[Labelled]], _shard: Shard) -> list[Labelled]:
        return future.result()


class DaskCrew(Crew):
    """Works on shards on a Dask cluster; it may grow and shrink meanwhile."""

    def __init__(self, runner: "DaskTaskRunner", cluster: str) -> None:
        super().__init__(runner)
        self._client: Any = runner.client
        self._cluster = cluster

    @property
    def size(self) -> int:
        """The threads of all workers; 1 where there is none yet."""
        return max(sum(self._threads().values()), 1)

    def give(self, shard: Shard, task: ShardTask) -> None:
        """Have a task label a shard."""
        with self._answering():
            super().give(shard, task)

    def _threads(self) -> dict[str, int]:
        """Each worker's; asks the scheduler."""
        with self._answering():
            return dict(self._client.nthreads())

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell of a scheduler that does not answer any more."""
        try:
            yield
        except (OSError, CancelledError) as error:
            raise UserError(
                f"the Dask scheduler at {self._cluster} went away; start it and its workers: {GOES_ON}"
            ) from error

    def _next(self) -> PrefectFuture[list[Labelled]]:
        return self._unless_alone(lambda: self._finished.get(timeout=LOOKING))

    def _unless_alone(self, wait: Callable[[], Awaited]) -> Awaited:
        """What `wait` returns; called again each time it gives up, until there has been no worker for ALONE s."""
        alone_since: float | None = None
        while True:
            try:
                return wait()
            except (Empty, TimeoutError):
                now = time.monotonic()
            if self._threads():
                alone_since = None
            elif alone_since is None:
                alone_since = now
            elif now - alone_since > ALONE:
                raise UserError(
                    f"no worker at {self._cluster} for {ALONE:.0f} s; start some (dask worker ADDRESS --nthreads 1): {GOES_ON}"
                )

    def _result(self, future: PrefectFuture[list[Labelled]], shard: Shard) -> list[Labelled]:
        from distributed import KilledWorker

        try:
            with self._answering():
                # What a worker has finished may die with it: another one does it again. A look interrupts the fetch. An error
                # of the task's own is raised below: it may be a TimeoutError, too.
                self._unless_alone(lambda: future.result(timeout=ALONE, raise_on_failure=False))
        except KilledWorker as error:
            raise UserError(
                f"{error.allowed_failures + 1} workers at {self._cluster} died over the same images, from {shard.files[0].shown} "
                f"to {shard.files[-1].shown}; their logs say why, too little memory is likely: {GOES_ON}"
            ) from error
        results = super()._result(future, shard)
        shard.check_seen(results)
        return results


@contextmanager
def _connected(cluster: str) -> Iterator["DaskTaskRunner"]:
    """A started task runner for a cluster that answers."""
    import dask
    from distributed import LocalCluster
    from prefect_dask.task_runners import DaskTaskRunner

    logging.getLogger("distributed").setLevel(logging.WARNING)
    connection = {"timeout": ANSWERING}
    if cluster.startswith(LOCAL):
        local = {"n_workers": _count(cluster), "threads_per_worker": 1, "dashboard_address": None, "env": QUIET}
        given = DaskTaskRunner(cluster_class=LocalCluster, cluster_kwargs=local, client_kwargs=connection)
    else:
        given = DaskTaskRunner(address=cluster, client_kwargs=connection)
    with dask.config.set(KEEP_MEMORY), _telling_why(), given as runner:
        try:
            runner.client  # noqa: B018 - connects
        except TypeError as error:  # an address of TLS, and nothing to use it with
            raise UserError(f"{cluster}: {error}; set Dask's distributed.comm.tls") from error
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler answers at {cluster}; give its address, such as tcp://HOST:8786, or local:2"
            ) from error
        yield runner


@contextmanager
def _telling_why() -> Iterator[None]:
    """Let the reason for an end be told where Dask's client then fails to close: in the midst of connecting anew, it does."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, UserError):
            raise error.__context__ from None
        raise


def _count(cluster: str) -> int:
    number = cluster.removeprefix(LOCAL)
    if not number.isdecimal() or int(number) < 1:
        raise UserError(f"cluster {cluster}: not a number of worker processes; such as local:{cores()}")
    return int(number)
