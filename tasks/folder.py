"""Label a folder of photos and videos from start to end: sources, store, engines, results. Command line and flow call it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from tasks.bucket_out import BucketOut, folder_of
from tasks.buckets import is_url
from tasks.errors import UserError
from tasks.footage import Band, How, People, Sighting, Watch, steadied
from tasks.label import READERS, Labelled, champion_of, label_images, make_settings, refused
from tasks.params import Drift, Footage, Label
from tasks.paths import CHAMPION
from tasks.photos import RefusedError
from tasks.pictures import Folder, Place
from tasks.results import AS_BEFORE, Outputs, Run, refuse_corrected, refuse_others, write_results
from tasks.sources import ImageFile, NoImageError, find_images
from tasks.store import Store
from tasks.threads import cores
from tasks.tracks import out_of_sight
from tasks.videos import ENDINGS as VIDEOS
from tasks.videos import Video, read_video

DRIFT = Drift()
FOOTAGE = Footage()
STORED_AT_ONCE = 64  # images; a kill loses no more than these

Item = TypeVar("Item")


def _quietly(_time: float, _seconds: float) -> None:
    """For those who want no news of a video's progress."""


class Job:
    """One run of labelling into one output folder, which it holds until it is closed (`contextlib.closing`).

    Args:
        sources: folders, images, zips, lists of paths, patterns; see tasks/sources.py.
        out: the output folder, or the URL of a prefix of a bucket; a folder of this machine then stands for it.
        options: how to label.
        champion: folder of the model to label with.
        outputs: what to write beside tables and report.
        drift: from where on the labels count as drifted.
        footage: how to look at videos.
        only_videos: leave images out.

    Raises:
        UserError: a source is not there, no champion, or another run, a person's corrections or other files hold the folder.
    """

    def __init__(
        self,
        sources: Sequence[str],
        out: str | Path,
        options: Label,
        champion: Path = CHAMPION,
        outputs: Outputs = AS_BEFORE,
        drift: Drift = DRIFT,
        footage: Footage = FOOTAGE,
        only_videos: bool = False,
    ) -> None:
        if out == "":
            raise UserError("--out is empty; name a folder")  # as a script's variable that is not set gives it
        url = str(out) if is_url(out) else ""
        self.out = folder_of(url) if url else Path(out)
        files = find_images(sources, self.out, url)
        if only_videos:
            files = _videos(files, sources)
        files = chain([next(files)], files)  # a wrong source is told before anything is written
        self._stack = ExitStack()
        try:
            self._bucket = self._stack.enter_context(closing(BucketOut(url))) if url else None
            self._place: Place = self._bucket or Folder(self.out)
            refuse_others(self.out, self._place)
            try:
                refuse_corrected(self.out, self._place)
            except UserError:
                self._gather(files)
                raise
            self.settings = make_settings(options, champion)
            self.champion = champion_of(self.settings)
            self.how = How(self.settings, footage)
            self._sources, self._outputs = list(sources), outputs.after(self.out)
            self._min_confidence, self._drift = options.min_confidence, drift
            self._started = time.monotonic()
            self._store = self._stack.enter_context(closing(Store(self.out)))
            if self._bucket:
                self._bucket.open(self._store)
            self._store.set_source(files)
            self.pending = self._store.pending(self.settings.key)
            self.pending_bytes = self._store.pending_bytes(self.settings.key)
            self.pending_videos = self._store.pending(self.how.key, videos=True)
            self.total = self._store.total()
        except BaseException:
            self.close()
            raise

    def _gather(self, files: Iterable[ImageFile]) -> None:
        """Bring what a bucket knows of files into the folder that stands for it, for `ferflow collect`, which reads there."""
        if self._bucket:
            with closing(Store(self.out, keep=True)) as store:
                self._bucket.open(store)
                store.add_source(files)

    def close(self) -> None:
        """Let another run have the output folder."""
        self._stack.close()

    def files(self) -> Iterator[ImageFile]:
        """The images still to be labelled, in order; results may be added meanwhile."""
        return self._store.next_pending(self.settings.key)

    def add(self, results: Sequence[Labelled]) -> None:
        """Keep results, at once and for good."""
        self._store.add(results, self.settings.key)
        if self._bucket:
            self._bucket.keep()

    def label(self, workers: int) -> Iterator[Labelled]:
        """Label on this machine, with `workers` threads; yields each image when it is kept."""
        for results in _in_batches(label_images(self.files(), self.settings, workers), STORED_AT_ONCE):
            self.add(results)
            yield from results

    def videos(self) -> Iterator[ImageFile]:
        """The videos still to be watched, in order."""
        return self._store.next_pending(self.how.key, videos=True)

    def watch(self, file: ImageFile, workers: int, progress: Callable[[float, float], None] = _quietly) -> Labelled:
        """Watch a video from where it was left, keep its result, and return it.

        `progress` is told the time that was come to and the video's length, both in seconds, after each segment.
        """
        started = time.monotonic()
        try:
            with file.at_hand(self.out) as path:
                video = _header(file, path, self.settings.max_megapixels * 1e6)
                problem = self._watch(file, path, video, workers, progress)
        except UserError:
            raise
        except Exception as error:
            result = refused(file, error)
            self._store.add([result], self.how.key)
        else:
            result = self._finish(file, video, problem, started)
        if self._bucket:
            self._bucket.keep()
        return result

    def _watch(
        self, file: ImageFile, path: str, video: Video, workers: int, progress: Callable[[float, float], None]
    ) -> str:
        """Keep what is seen of a video from where it was left, segment by segment; returns why a part of it is missing."""
        reached = self._store.watched(file, self.how.key)
        watch = Watch(path, video, self.how, workers, self._store.sightings(file), reached)
        for segment in watch:
            self._store.add_segment(file, segment, self.how.key)
            progress(segment.reached.time, video.seconds)
        return watch.problem

    def _finish(self, file: ImageFile, video: Video, problem: str, started: float) -> Labelled:
        """Make what was seen of a video its result; `started` is of time.monotonic()."""
        people = People(out_of_sight(self.how.footage.every))

        def steady() -> Iterator[Sighting]:
            for sighting in steadied(self._store.sightings(file), self.how.footage.smooth):
                people.add(sighting)
                yield sighting

        def outcome() -> tuple[Labelled, list[Band]]:
            status = "ok" if people.bands else "no_face"
            milliseconds = round((time.monotonic() - started) * 1000, 1)
            size = video.format, video.width, video.height
            return Labelled(file, status, problem, *size, milliseconds, people.faces()), people.bands

        return self._store.finish_video(file, steady(), outcome, self.how.key)

    def finish(
        self,
        progress: Callable[[], None] = lambda: None,
        copying: Callable[[ImageFile], Callable[[float, float], None]] = lambda _: _quietly,
    ) -> dict[str, Any]:
        """Write tables, pictures, report and run.json of what is known by now; returns run.json's content.

        `progress` is called for each file; `copying` for a video before its annotated copy, and what it returns as in `watch`.
        """
        run = Run(
            self._sources,
            self.how,
            self.champion,
            self._min_confidence,
            self._outputs,
            self._drift,
            self._store.added(),
            seconds=time.monotonic() - self._started,
        )
        if not self._bucket:
            return write_results(self._store, self.out, self._place, run, cores(), progress, copying)
        self._bucket.keep(last=True)
        self._bucket.fetch("faces.csv")  # a person may have corrected it meanwhile
        content = write_results(self._store, self.out, self._place, run, READERS * cores(), progress, copying)
        self._bucket.publish()
        return content


def label_folder(
    sources: Sequence[str],
    out: str | Path,
    options: Label | None = None,
    champion: Path = CHAMPION,
    outputs: Outputs = AS_BEFORE,
    workers: int | None = None,
    footage: Footage = FOOTAGE,
) -> dict[str, Any]:
    """Label sources into `out` without further ado; returns the content of run.json. Raises as Job."""
    with closing(Job(sources, out, options or Label(), champion, outputs, footage=footage)) as job:
        for _ in job.label(workers or cores()):
            pass
        for file in job.videos():
            job.watch(file, workers or cores())
        return job.finish()


def _videos(files: Iterable[ImageFile], sources: Sequence[str]) -> Iterator[ImageFile]:
    """The videos among the files, at least one."""
    found = False
    for file in files:
        if file.is_video:
            found = True
            yield file
    if not found:
        raise NoImageError(f"no video in {', '.join(sources)}; looked for {' '.join(VIDEOS)}")


def _header(file: ImageFile, path: str, most_pixels: float) -> Video:
    if file.member:
        raise RefusedError("unsupported", "a video inside a zip archive; unpack it")
    return read_video(path, most_pixels)


def _in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one of what is left."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
