"""Label a folder of photos from start to end: sources, store, engine, results. The command line and the flow call it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from tasks.label import Labelled, champion_of, label_images, make_settings
from tasks.params import Drift, Label
from tasks.paths import CHAMPION
from tasks.results import AS_BEFORE, Outputs, Run, refuse_corrected, write_results
from tasks.sources import ImageFile, find_images
from tasks.store import Store
from tasks.threads import cores

DRIFT = Drift()
STORED_AT_ONCE = 64  # images; a kill loses no more than these

Item = TypeVar("Item")


class Job:
    """One run of labelling into one output folder, which it holds until it is closed (`contextlib.closing`).

    Args:
        sources: folders, images, zips, lists of paths, patterns; see tasks/sources.py.
        out: the output folder.
        options: how to label.
        champion: folder of the model to label with.
        outputs: what to write beside tables and report.
        drift: from where on the labels count as drifted.

    Raises:
        UserError: a source is not there, no champion, or another run or a person's corrections hold the folder.
    """

    def __init__(
        self,
        sources: Sequence[str],
        out: Path,
        options: Label,
        champion: Path = CHAMPION,
        outputs: Outputs = AS_BEFORE,
        drift: Drift = DRIFT,
    ) -> None:
        files = find_images(sources, out)
        files = chain([next(files)], files)  # a wrong source is told before anything is written
        refuse_corrected(out)
        self.settings = make_settings(options, champion)
        self.champion = champion_of(self.settings)
        self._sources, self._out, self._outputs = list(sources), out, outputs.after(out)
        self._min_confidence, self._drift = options.min_confidence, drift
        self._started = time.monotonic()
        self._labelled = 0
        self._store = Store(out)
        try:
            self._store.set_source(files)
            self.pending = self._store.pending(self.settings.key)
            self.total = self._store.total()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another run have the output folder."""
        self._store.close()

    def files(self) -> Iterator[ImageFile]:
        """The images still to be labelled, in order; results may be added meanwhile."""
        return self._store.next_pending(self.settings.key)

    def add(self, results: Sequence[Labelled]) -> None:
        """Keep results, at once and for good."""
        self._store.add(results, self.settings.key)
        self._labelled += len(results)

    def label(self, workers: int) -> Iterator[Labelled]:
        """Label on this machine, with `workers` threads; yields each image when it is kept."""
        for results in _in_batches(label_images(self.files(), self.settings, workers), STORED_AT_ONCE):
            self.add(results)
            yield from results

    def finish(self, progress: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Write tables, pictures, report and run.json of what is known by now; returns run.json's content."""
        run = Run(
            self._sources,
            self.settings,
            self.champion,
            self._min_confidence,
            self._outputs,
            self._drift,
            self._labelled,
            seconds=time.monotonic() - self._started,
        )
        return write_results(self._store, self._out, run, cores(), progress)


def label_folder(
    sources: Sequence[str],
    out: Path,
    options: Label | None = None,
    champion: Path = CHAMPION,
    outputs: Outputs = AS_BEFORE,
    workers: int | None = None,
) -> dict[str, Any]:
    """Label sources into `out` without further ado; returns the content of run.json. Raises as Job."""
    with closing(Job(sources, out, options or Label(), champion, outputs)) as job:
        for _ in job.label(workers or cores()):
            pass
        return job.finish()


def _in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one of what is left."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
