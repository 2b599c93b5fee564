"""The commands that label: photos, videos, what a camera sees; and that take back what people corrected."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flows.summary import counted, plain, show_run
from tasks.errors import UserError
from tasks.paths import CHAMPION

if TYPE_CHECKING:
    from tasks.folder import Job
    from tasks.params import Footage, Label
    from tasks.results import Outputs
    from tasks.sources import ImageFile

console = Console()


def label(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Folders, images, zips, lists of paths (.txt), 'patterns/**/*.jpg', s3://bucket/prefix.",
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder for tables, report and pictures; or a URL, s3://bucket.")],
    detector: Annotated[
        Literal["yunet", "haar"] | None, typer.Option(help="yunet finds more and errs less; haar is the classic.")
    ] = None,
    whole: Annotated[
        bool | None, typer.Option("--whole/--detect", help="Each image is a face cut out already (48x48 always is).")
    ] = None,
    mirror: Annotated[
        bool | None, typer.Option(help="Average over each photo's face and its mirror image: more are right, slower.")
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Faces under it are marked for review.")
    ] = None,
    annotate: Annotated[bool | None, typer.Option(help="Copies of the photos with their faces marked.")] = None,
    crops: Annotated[bool | None, typer.Option(help="The faces, 48x48, in a folder per expression.")] = None,
    json_lines: Annotated[bool | None, typer.Option(help="labels.jsonl: a line of JSON an image.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; a result never depends on them.")] = None,
    champion: Annotated[
        Path, typer.Option(help="Folder of the model to label with; models/small has the small edition.")
    ] = CHAMPION,
) -> None:
    """Find the faces in photos and videos and name their expressions.

    Writes report.html to look at, faces.csv (a row a face: box, expression, confidence, seven probabilities), images.csv (a row
    an image: ok, no_face, or why it could not be read), both also as Parquet, and run.json. Of videos, faces.csv has a row for
    each person, and frames.csv what they show at which time; see `ferflow video`.

    A second run on the same output does only what is new or changed. Interrupt it when you like: the same command goes on.
    Options left out are those of params.yaml (section label); pictures once asked for are kept up to date.

    Photos may lie in a bucket, and the output, too: s3://, or whatever else fsspec has a package for. Credentials come from the
    usual places (AWS_ACCESS_KEY_ID, ~/.aws, the machine's role); AWS_ENDPOINT_URL names a server that is not Amazon's.

    Examples: `ferflow label ~/Pictures --out labels`, `ferflow label party.zip --out party --annotate --crops`,
    `ferflow label s3://bucket/photos --out s3://bucket/labels`
    """
    from tasks.params import load_label
    from tasks.results import Outputs

    given = {"detector": detector, "whole": whole, "mirror": mirror, "min_confidence": min_confidence}
    options = load_label({name: value for name, value in given.items() if value is not None})
    show_run(label_with_bars(sources, out, options, champion, Outputs(annotate, crops, json_lines), workers), out)


def video(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Videos, folders of them, 'patterns/*.mp4'.")],
    out: Annotated[str, typer.Option(help="Folder for tables, report and annotated copies; or a URL, s3://bucket.")],
    every: Annotated[
        float | None, typer.Option(min=0, help="Seconds between the frames that are looked at; 0: every frame.")
    ] = None,
    fps: Annotated[float | None, typer.Option(min=0.001, help="The same as frames a second.")] = None,
    start: Annotated[float | None, typer.Option("--from", min=0, help="Seconds to leave out at the beginning.")] = None,
    stop: Annotated[float | None, typer.Option("--to", min=0, help="The second to end at.")] = None,
    annotate: Annotated[
        bool | None, typer.Option(help="Copies of the videos with their faces marked; they keep their sound.")
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Faces under it are marked for review.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; a result never depends on them.")] = None,
    champion: Annotated[Path, typer.Option(help="Folder of the model to label with.")] = CHAMPION,
) -> None:
    """Follow the faces in videos and name their expressions over time.

    Writes frames.csv (a row a face in a frame: time, track, box, expression, confidence, seven probabilities), faces.csv (a row
    a track), images.csv (a row a video), the first two and the last also as Parquet, and report.html with a timeline of every
    track. A track is one person for as long as they are in sight; nobody is recognised.

    Interrupt it when you like: the same command goes on after the last 64 frames that were done. `ferflow label` does the same
    for the videos in its folders, with the section video of params.yaml.

    Examples: `ferflow video party.mp4 --out party`, `ferflow video talks/ --out talks-labels --fps 10 --from 60 --to 120`
    """
    from tasks.params import load_footage, load_label
    from tasks.results import Outputs

    if isinf(max(every or 0.0, start or 0.0, stop or 0.0)):
        raise UserError("--every, --from and --to take a number of seconds, not inf")
    if every is not None and fps is not None:
        raise UserError("--every and --fps say the same; give one of them")
    if start is not None and stop is not None and stop <= start:
        raise UserError(f"--to {stop:g} is not after --from {start:g}")
    given = {"every": 1 / fps if fps else every, "start": start, "stop": stop}
    footage = load_footage({name: value for name, value in given.items() if value is not None})
    options = load_label({} if min_confidence is None else {"min_confidence": min_confidence})
    show_run(label_with_bars(files, out, options, champion, Outputs(annotate), workers, footage, only_videos=True), out)


def label_with_bars(
    sources: list[str],
    out: str | Path,
    options: "Label",
    champion: Path,
    outputs: "Outputs",
    workers: int | None = None,
    footage: "Footage | None" = None,
    only_videos: bool = False,
) -> dict[str, Any]:
    """Label with progress bars; when interrupted, write what is known by then. Returns the content of run.json."""
    from tasks.folder import Job
    from tasks.params import load_drift, load_footage
    from tasks.quiet import quiet
    from tasks.threads import cores

    job = Job(sources, out, options, champion, outputs, load_drift(), footage or load_footage(), only_videos)
    with closing(job), quiet(), _progress() as progress:
        try:
            _work(job, workers or cores(), progress)
        except KeyboardInterrupt:
            job.finish()
            raise
        bar = progress.add_task("Writing", total=job.total, counts=f"{job.total:,} files")
        return job.finish(lambda: progress.advance(bar), partial(_bar, progress, "Copying"))


def _work(job: "Job", workers: int, progress: Progress) -> None:
    """Label what is pending: the images with a bar for all of them, then the videos with a bar each."""
    if job.pending or not job.pending_videos:
        bar = progress.add_task("Labelling", total=job.pending, counts="")
        faces = 0
        for done, result in enumerate(job.label(workers), 1):
            faces += len(result.faces)
            progress.update(bar, completed=done, counts=f"{done:,} of {job.pending:,} images, {faces:,} faces")
    for file in job.videos():
        job.watch(file, workers, _bar(progress, "Watching", file))


def _bar(progress: Progress, what: str, file: "ImageFile") -> Callable[[float, float], None]:
    """A bar for a video; call what is returned with the time that was come to and the video's length, in seconds."""
    from tasks.results import shown

    for task in progress.tasks:
        if task.description == what:  # of the video before: a terminal has lines for a few
            progress.remove_task(task.id)
    bar = progress.add_task(what, total=None, counts=escape(plain(shown(file.shown)).plain))

    def tell(time: float, seconds: float) -> None:
        progress.update(bar, completed=time, total=max(seconds, time) or None)

    return tell


def _progress() -> Progress:
    """Bars with counts and the time left; nothing where the output is no terminal."""
    columns = (
        TextColumn("{task.description:9}"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, disable=not console.is_terminal)


def live(
    camera: Annotated[
        str, typer.Option(help="A camera's number or device, an address (rtsp, http), or a video file in its place.")
    ] = "0",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of the page, on this machine only; else one that is free.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser, where there is one.")] = True,
    window: Annotated[bool, typer.Option("--window", help="A window in place of the page.")] = False,
    champion: Annotated[
        Path | None, typer.Option(help="Folder of the model; else models/small, or models/champion without one.")
    ] = None,
) -> None:
    """Show what a camera sees, with the faces' expressions, until you stop it.

    A page for this machine only: nothing leaves it, and nothing is stored. When the machine is too slow, frames are dropped, and
    the picture stays current.

    Examples: `ferflow live`, `ferflow live --camera rtsp://192.168.1.20/stream`, `ferflow live --camera party.mp4`
    """
    from flows.live import live

    live(camera, port, browser, window, champion)


def collect(
    labels: Annotated[str, typer.Argument(metavar="LABELS", help="An output folder of `ferflow label`.")],
    out: Annotated[
        Path | None, typer.Option(help="The csv to write; else data/raw/extra/NAME.csv, of LABELS' name.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="CSV", help="A corrected copy of its faces.csv, read in its place.")
    ] = None,
) -> None:
    """Turn corrected labels into rows to train on.

    Correct in either way, or both: add a column `corrected` to faces.csv and name an expression in some rows (without that
    column, changed labels count); or move pictures of crops/ (label with --crops) to another expression's folder.
    Names may be English or Portuguese. The csv joins Training, never val or test. Labelling into that folder again is refused
    while corrections lie there: collect them, then remove the table or crops/, and it makes new ones.

    Examples: `ferflow collect labels`, `ferflow collect labels --table corrected.csv --out data/raw/extra/party.csv`
    """
    from tasks.buckets import is_url
    from tasks.collect import collect
    from tasks.parse import EXTRA

    if is_url(labels):
        raise UserError(
            f"{labels} is no folder of this machine; `ferflow label` with this --out fetches what is corrected there, "
            "and names the folder to collect"
        )
    path, counts = collect(Path(labels), out, table)
    first = "" if path.parent.name == EXTRA else f"put it into data/raw/{EXTRA}, then "
    print(f"{path}: {sum(counts.values()):,} faces to train on ({counted(counts)}). Next: {first}dvc repro")
