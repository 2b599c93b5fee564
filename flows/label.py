"""The flow that labels folders of photos: what `ferflow label` does, shard by shard as Prefect tasks.

From Python: `from flows.label import label_photos; label_photos(["photos"], "labels")`. On a schedule: the deployment `label` in
prefect.yaml. The folder `out` is the same as the command line's: either continues what the other began.

A shard's results go to the output folder's store as soon as they are there; so a flow that is killed has lost the shards under
way, and no others. Only this process writes there: workers of a cluster read images and answer.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import TerminationSignal
from prefect.states import Completed, Failed

from flows.crew import crew
from flows.shards import cut, label_shard
from tasks.buckets import inside, is_url
from tasks.drift import Reference, reference
from tasks.errors import UserError, explaining
from tasks.folder import Job
from tasks.label import Labelled
from tasks.params import load_drift, load_footage, load_label
from tasks.paths import CHAMPION
from tasks.results import REPORT, Outputs
from tasks.sources import NoImageError
from tasks.threads import cores

AHEAD = 2  # shards per worker that wait or run; more would fill the memory with results
DRIFTED = "ferflow.labels.drifted"  # an event
DRIFT_WORDS = {True: "**yes**: ", False: "no: ", None: ""}  # before the reason


@flow(name="label")
def label_photos(
    sources: list[str],
    out: str,
    champion: str = str(CHAMPION),
    options: dict[str, Any] | None = None,
    annotate: bool | None = None,
    crops: bool | None = None,
    json_lines: bool | None = None,
    cluster: str | None = None,
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
        cluster: a Dask cluster for the images: its scheduler's address (tcp://HOST:8786), or `local:N`, N worker processes on
            this machine for this run; None: threads of this process, which also watch the videos.
    """
    try:
        label = load_label(options or {})
        outputs = Outputs(annotate, crops, json_lines)
        drift, footage = load_drift(), load_footage()
        with explaining(), closing(Job(sources, out, label, Path(champion), outputs, drift, footage)) as job:
            run = run_shards(job, out, cluster)
            show(run, out, reference(job.champion.info))
            warn_of_drift(run, out)
    except NoImageError as error:
        return Completed(message=str(error))
    except UserError as error:
        return Failed(message=str(error))
    return run


def run_shards(job: Job, out: str, cluster: str | None = None) -> dict[str, Any]:
    """Label what is pending, and write the results; when interrupted, those of what is known by then."""
    pending = job.pending + job.pending_videos
    get_run_logger().info(
        f"{job.total:,} images, {job.total - pending:,} known, {job.pending:,} to label ({job.pending_bytes / 1e6:,.0f} MB)"
        + (f" on {cluster}" if cluster else "")
        + (f", {job.pending_videos:,} videos to watch" if job.pending_videos else "")
    )
    progress = create_progress_artifact(0.0 if pending else 100.0, "label-progress", f"Labelling into {out}")
    done = 0
    try:
        for results in label_shards(job, cluster):
            job.add(results)
            done += len(results)
            update_progress_artifact(cast("UUID", progress), 100 * done / pending)
        for file in job.videos():  # not in shards: each keeps all cores busy, and goes on where a killed run left it
            job.watch(file, cores())
            done += 1
            update_progress_artifact(cast("UUID", progress), 100 * done / pending)
    except (KeyboardInterrupt, TerminationSignal):
        job.finish()
        raise
    return job.finish()


def label_shards(job: Job, cluster: str | None) -> Iterator[list[Labelled]]:
    """Label the pending images in shards; yields the rows of each shard, a row for each of its images, as it is finished.

    Raises:
        UserError: the cluster is gone, or cannot label like this machine.
    """
    with crew(cluster) as workers:
        for shard in cut(job.files(), job.pending, job.pending_bytes, job.settings, lambda: workers.size):
            workers.give(shard, label_shard)
            while workers.under_way >= AHEAD * workers.size:
                yield workers.take()
        while workers.under_way:
            yield workers.take()


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
    if is_url(out):
        link = page = inside(out, REPORT)
    else:
        page = str(Path(out, REPORT).resolve())
        link = Path(page).as_uri()
    create_link_artifact(link, page, "label-report", "Browsers open a file's link only if you paste it.")
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
