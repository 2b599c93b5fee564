"""The flow that labels folders of photos: what `ferflow label` does, shard by shard as Prefect tasks.

From Python: `from flows.label import label_photos; label_photos(["photos"], "labels")`. On a schedule: the deployment `label` in
prefect.yaml. The folder `out` is the same as the command line's: either continues what the other began.

A shard's results go to the output folder's store as soon as those of the shards before it are there. Until then Prefect keeps
them as a file; so a flow that is killed has lost the shards under way, and no others.
"""

import errno
import hashlib
import math
import os
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.events import emit_event
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from tasks.buckets import inside, is_url
from tasks.drift import Reference, reference
from tasks.errors import UserError, explaining
from tasks.folder import Job
from tasks.label import Labelled, Settings, label_images
from tasks.params import load_drift, load_footage, load_label
from tasks.paths import CHAMPION
from tasks.results import REPORT, Outputs
from tasks.sources import ImageFile, NoImageError
from tasks.threads import cores

SMALLEST, LARGEST = 32, 256  # images in a shard: a task costs as much as one or two; a kill loses a shard per core
SHARDS_LEFT = 4  # per core: a shard is this part of what is left, so that the cores end together
AHEAD = 2  # shards per core that wait or run; more would fill the memory with results
DRIFTED = "ferflow.labels.drifted"  # an event
DRIFT_WORDS = {True: "**yes**: ", False: "no: ", None: ""}  # before the reason
RETRY_AFTER = [1.0, 5.0, 20.0]  # s
MAY_PASS = {  # failures of disk and network that another attempt may not meet
    *(errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET),
}


@flow(name="label", task_runner=ThreadPoolTaskRunner[Any](max_workers=cores()))  # type: ignore[arg-type]  # Prefect's slip
def label_photos(
    sources: list[str],
    out: str,
    champion: str = str(CHAMPION),
    options: dict[str, Any] | None = None,
    annotate: bool | None = None,
    crops: bool | None = None,
    json_lines: bool | None = None,
) -> dict[str, Any] | State[Any]:
    """Label what is new in sources into `out`.

    Returns the content of run.json; where there is no image yet, Completed with a line that says so; or Failed with one that
    says what is wrong.

    Args:
        sources: folders, images, zips, lists of paths, patterns, relative to the folder the flow runs in; URLs of buckets.
        out: the output folder, or the URL of a prefix.
        champion: folder of the model to label with.
        options: keys of the section `label` of params.yaml that win over it.
        annotate: copies of the photos with their faces marked; None: as by the run before.
        crops: the faces in a folder per expression; None: as by the run before.
        json_lines: also labels.jsonl; None: as by the run before.
    """
    try:
        label = load_label(options or {})
        outputs = Outputs(annotate, crops, json_lines)
        drift, footage = load_drift(), load_footage()
        with explaining(), closing(Job(sources, out, label, Path(champion), outputs, drift, footage)) as job:
            run = run_shards(job, out)
            show(run, out, reference(job.champion.info))
            warn_of_drift(run, out)
    except NoImageError as error:
        return Completed(message=str(error))
    except UserError as error:
        return Failed(message=str(error))
    return run


def run_shards(job: Job, out: str) -> dict[str, Any]:
    """Label what is pending, and write the results; when interrupted, those of what is known by then."""
    sizes = shard_sizes(job.pending, cores())
    pending = job.pending + job.pending_videos
    get_run_logger().info(
        f"{job.total:,} images, {job.total - pending:,} known, {job.pending:,} to label in {len(sizes):,} shards"
        + (f", {job.pending_videos:,} videos to watch" if job.pending_videos else "")
    )
    progress = create_progress_artifact(0.0 if pending else 100.0, "label-progress", f"Labelling into {out}")
    kept, done = results_folder(job.out), 0
    try:
        for shard, results in label_shards(job, sizes, kept):
            job.add(results)
            (kept / shard_key(shard, job.settings)).unlink(missing_ok=True)
            done += len(shard)
            update_progress_artifact(cast("UUID", progress), 100 * done / pending)
        for file in job.videos():  # not in shards: each keeps all cores busy, and goes on where a killed run left it
            job.watch(file, cores())
            done += 1
            update_progress_artifact(cast("UUID", progress), 100 * done / pending)
    except (KeyboardInterrupt, TerminationSignal):
        job.finish()
        raise
    shutil.rmtree(kept, ignore_errors=True)  # what killed runs left and no shard asked for
    return job.finish()


def shard_sizes(pending: int, workers: int) -> list[int]:
    """How many images each shard has: a part of what is left, so fewer and fewer.

    What is left after the first shards is cut as it would have been: a run that goes on for a killed one finds its results.
    """
    sizes = []
    while pending > 0:
        size = min(max(math.ceil(pending / (SHARDS_LEFT * workers)), SMALLEST), LARGEST, pending)
        sizes.append(size)
        pending -= size
    return sizes


def label_shards(job: Job, sizes: list[int], kept: Path) -> Iterator[tuple[list[ImageFile], list[Labelled]]]:
    """Label what is pending in shards of these sizes, in order; yields each shard with a row for each of its images."""
    shard_task = label_shard.with_options(result_storage=kept)
    files = job.files()
    submitted: deque[tuple[list[ImageFile], PrefectFuture[list[Labelled]]]] = deque()

    def next_finished() -> tuple[list[ImageFile], list[Labelled]]:
        shard, future = submitted.popleft()
        results = future.result()
        known = {result.file.key for result in results}
        failed = [
            file for file in shard if file.key not in known
        ]  # here, so that no failure is kept as a task's result
        return shard, [*results, *label_images(failed, job.settings, workers=1)]

    for size in sizes:
        shard = list(islice(files, size))
        # quote: Prefect need not look for results of other tasks in it
        future = shard_task.submit(quote(shard), job.settings, return_state=False)
        submitted.append((shard, future))
        if len(submitted) >= AHEAD * cores():
            yield next_finished()
    while submitted:
        yield next_finished()


def results_folder(out: Path) -> Path:
    """Where Prefect keeps the results of an output folder's shards until they are stored.

    Not inside `out`: they are pickles, and who may write them runs code in the next flow.
    """
    name = hashlib.sha256(os.fsencode(out.resolve())).hexdigest()[:16]
    return get_current_settings().results.local_storage_path / "ferflow" / name


def shard_key(files: list[ImageFile], settings: Settings) -> str:
    """Changes with anything that a shard's results depend on."""
    content = repr((settings.key, [(file.key, file.size, file.stamp) for file in files]))
    return hashlib.sha256(content.encode()).hexdigest()


def _cache_key(_: TaskRunContext, parameters: dict[str, Any]) -> str:
    return shard_key(parameters["files"], parameters["settings"])


@task(cache_key_fn=_cache_key, persist_result=True, result_serializer="pickle", cache_result_in_memory=False)
def label_shard(files: list[ImageFile], settings: Settings) -> list[Labelled]:
    """Label some images on one thread. Those that could not be read now are left out: what is returned is kept."""
    results = list(label_images(files, settings, workers=1))
    failed = [result.file for result in results if result.failure in MAY_PASS]
    if failed:
        results += label_again(failed, settings)
    return [result for result in results if result.failure is None]


def _may_pass(_: Any, __: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, OSError) and state.data.errno in MAY_PASS


@task(retries=len(RETRY_AFTER), retry_delay_seconds=RETRY_AFTER, retry_condition_fn=_may_pass, persist_result=False)
def label_again(files: list[ImageFile], settings: Settings) -> list[Labelled]:
    """Label images that failed for a reason that may pass.

    Raises:
        OSError: one failed so again; the last attempt returns what there is.
    """
    results = list(label_images(files, settings, workers=1))
    context = TaskRunContext.get()
    last = context is None or context.task_run.run_count > label_again.retries
    for result in results:
        if result.failure in MAY_PASS and not last:
            raise OSError(result.failure, result.reason, result.file.shown)
    return results


def warn_of_drift(run: dict[str, Any], out: str) -> None:
    """Say in the log and by the event DRIFTED that the labels have drifted; not again if this run labelled nothing."""
    if not (run["drift"]["drifted"] and run["images"]["labelled"]):
        return
    get_run_logger().warning(f"The labels in {out} have drifted: {run['drift']['reason']}")
    resource = {"prefect.resource.id": "ferflow.labels", "prefect.resource.name": out}
    emit_event(DRIFTED, resource, payload={"drift": run["drift"], "champion": run["champion"]["version"]})


def show(run: dict[str, Any], out: str, expected: Reference) -> None:
    """Leave a run's essentials in Prefect as artifacts: the expressions, a link to the report, and counts."""
    found, total, in_all = run["faces"]["expressions"], run["faces"]["total"], sum(expected.expressions.values())
    create_table_artifact(
        [
            {
                "expression": name,
                "faces": count,
                "share": f"{count / max(total, 1):.1%}",
                f"share in {expected.name}": f"{expected.expressions[name] / max(in_all, 1):.1%}",
            }
            for name, count in found.items()
        ],
        "label-expressions",
        f"Expressions of {total:,} faces in {out}",
    )
    page = inside(out, REPORT) if is_url(out) else str(Path(out, REPORT).resolve())
    create_link_artifact(
        page if is_url(out) else Path(page).as_uri(),
        page,
        "label-report",
        "Browsers open a file's link only if you paste it.",
    )
    create_markdown_artifact(_summary(run), "label-run", f"The last run into {out}")


def _summary(run: dict[str, Any]) -> str:
    images, drift, speed = run["images"], run["drift"], run["images_per_second"]
    lines = {
        "images": f"{images['total']:,}: {images['labelled']:,} labelled now, {images['reused']:,} known from before",
        "status": ", ".join(f"{count:,} {status}" for status, count in images["status"].items()),
        "faces": f"{run['faces']['total']:,}, {run['faces']['review']:,} to review",
        "drift": f"{DRIFT_WORDS[drift['drifted']]}{drift['reason']}",
        "PSI": "none" if drift["psi"] is None else f"{drift['psi']:.2f} against {drift['against']}",
        "mean confidence": f"{_share(drift['mean_confidence'])}; {_share(drift['champion_mean_confidence'])} the champion's own",
        "images a second": "none labelled" if speed is None else f"{speed:,.1f}",
        "champion": f"{run['champion']['version']}, trained on {run['champion']['trained_on']}",
    }
    return "\n".join(("| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in lines.items())))


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"
