"""Shards of images: how they are cut, and the Prefect tasks that label one, on a thread or on another machine's worker."""

import errno
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from tasks.errors import UserError
from tasks.label import Labelled, Settings, champion_of, label_images
from tasks.sources import ImageFile

AN_IMAGE = 50_000  # bytes: one costs as much time as so many bytes more of it (tests/benchmarks/scale.py)
SMALLEST, LARGEST = 5 * 10**6, 400 * 10**6  # bytes of a shard: a task costs time, a kill loses a shard per worker
SHARDS_LEFT = 2  # per worker: a shard is this part of what is left, so that the workers end together
RETRY_AFTER = [1.0, 5.0, 20.0]  # s
MAY_PASS = {  # failures of disk and network that another attempt may not meet
    *(errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET),
}


class Shard:
    """Some images, and how to label them.

    A plain class: in collections, tuples and dataclasses Prefect and Dask look for futures, item by item.
    """

    def __init__(self, files: list[ImageFile], settings: Settings) -> None:
        self.files = files
        # Workers are in folders of their own.
        self.settings = settings._replace(champion=os.path.abspath(settings.champion))  # noqa: PTH100
        self.key = settings.key

    def check_engine(self) -> None:
        """Refuse to label with another engine or champion than the flow's.

        Raises:
            UserError: there is another; names this machine.
        """
        try:
            if self.settings.key != self.key:
                raise UserError("another version of ferflow than the flow's; install the same")
            champion_of(self.settings)
        except UserError as error:
            raise UserError(f"on {platform.node()}: {error}") from error

    def check_seen(self, results: Iterable[Labelled]) -> None:
        """Refuse results of a worker that does not see the files that are here.

        Raises:
            UserError: it did not find one of them.
        """
        for result in results:
            if result.failure == errno.ENOENT and result.file.exists():
                image = Path(result.file.path, result.file.member)
                raise UserError(
                    f"{image} is here, but not where a worker runs; put the images on a folder that all of them share"
                )


def cut(
    files: Iterable[ImageFile], count: int, size: int, settings: Settings, workers: Callable[[], int]
) -> Iterator[Shard]:
    """Cut files into shards of about the same work each: a part of what is left, so less and less.

    Args:
        files: in order.
        count: of the files.
        size: of the files, together, in bytes.
        settings: how to label them.
        workers: how many there are now; asked before each shard.
    """
    left = size + count * AN_IMAGE
    shard: list[ImageFile] = []
    work, enough = 0, _share(left, workers())
    for file in files:
        shard.append(file)
        work += max(file.size, 0) + AN_IMAGE
        if work >= enough:
            yield Shard(shard, settings)
            left -= work
            shard, work, enough = [], 0, _share(left, workers())
    if shard:
        yield Shard(shard, settings)


def _share(left: int, workers: int) -> float:
    return min(max(left / (SHARDS_LEFT * workers), SMALLEST), LARGEST)


@task(cache_policy=NO_CACHE, persist_result=False)
def label_shard(shard: Shard) -> list[Labelled]:
    """Label some images on one thread; a row for each, also for those that cannot be read."""
    shard.check_engine()
    results = list(label_images(shard.files, shard.settings, workers=1))
    failed = [result.file for result in results if result.failure in MAY_PASS]
    if failed:
        results = [result for result in results if result.failure not in MAY_PASS]
        results += label_again(Shard(failed, shard.settings))
    return results


def _may_pass(_: Any, __: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, OSError) and state.data.errno in MAY_PASS


@task(
    retries=len(RETRY_AFTER),
    retry_delay_seconds=RETRY_AFTER,
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def label_again(shard: Shard) -> list[Labelled]:
    """Label images that failed for a reason that may pass.

    Raises:
        OSError: one failed so again; the last attempt returns what there is.
    """
    results = list(label_images(shard.files, shard.settings, workers=1))
    context = TaskRunContext.get()
    last = context is None or context.task_run.run_count > label_again.retries
    for result in results:
        if result.failure in MAY_PASS and not last:
            raise OSError(result.failure, result.reason, result.file.shown)
    return results
