"""Label a video: its frames in, its people and their expressions over time out. Writes nothing, needs no TensorFlow.

A video is a source of frames for the engine that labels photos (tasks/label.py): decoding goes on while threads look for faces,
and the faces of several frames are classified together. Faces are followed from frame to frame as they are found (a track is a
person as far as the video goes), and expressions are smoothed along a track at the end, from both sides.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice, tee
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.champion import Champion
from tasks.expressions import EXPRESSIONS
from tasks.files import sha256
from tasks.label import BATCH, Cut, Face, Settings, champion_of, classify, look
from tasks.params import Footage
from tasks.photos import RefusedError
from tasks.threads import in_order
from tasks.tracks import Seen, Tracker, smoothed
from tasks.videos import Frame, Video, frames

SEGMENT = 64  # frames that are kept together; a kill loses no more than these
AHEAD = 4  # frames a thread, decoded before they are looked at: each takes megabytes
PICTURE = 1.0  # s between the pictures that are kept of a track
BREAK = 1.0  # s without its face after which a band ends
ENGINE = [  # as in tasks/label.py
    sha256(Path(__file__).with_name(name)) for name in ("footage.py", "tracks.py", "videos.py")
]


class How(NamedTuple):
    """All that decides what a video's result is."""

    settings: Settings
    footage: Footage

    @property
    def key(self) -> str:
        """Changes whenever results could."""
        content = [self.settings.key, self.footage.model_dump(), *ENGINE]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Sighting(NamedTuple):
    """A face in a frame."""

    number: int  # of the frame
    time: float  # s from the beginning
    track: int  # 1 and up
    face: Face  # with crop and thumbnail about once a second of a track, else without


class Found(NamedTuple):
    """A frame whose faces have no probabilities yet."""

    number: int
    time: float
    cuts: list[Cut]


class Segment(NamedTuple):
    """Frames in a row."""

    time: float  # of its last one
    sightings: list[Sighting]


@dataclass
class Band:
    """A stretch of time in which a track shows one expression."""

    track: int
    label: str
    start: float  # s
    end: float
    confidence: float = 0.0  # mean
    frames: int = 0
    thumbnail: bytes = b""  # JPEG, where it was surest of those that were kept
    _surest: float = 0.0

    def add(self, face: Face) -> None:
        """Take in its next face."""
        self.frames += 1
        self.confidence += (face.confidence - self.confidence) / self.frames
        if face.thumbnail and face.confidence > self._surest:
            self._surest, self.thumbnail = face.confidence, face.thumbnail


class Watch:
    """Watches one video; iterate over it for its segments, then ask for `problem`.

    Args:
        path: of the file.
        video: what its header says.
        how: to look at it.
        workers: threads.
        known: what was seen before, in order.
        done: the time up to which it was watched before; None: not at all.
    """

    def __init__(
        self, path: str, video: Video, how: How, workers: int, known: Iterable[Sighting] = (), done: float | None = None
    ) -> None:
        self.problem = ""  # why the rest of the file is missing
        self._how, self._workers = how, workers
        footage = how.footage
        self._frames = frames(path, video, footage.every, footage.start, footage.stop, done)
        self._tracker = Tracker()
        self._pictured: dict[int, float] = {}  # when there was the last picture of a track
        for time, sightings in groupby(known, attrgetter("time")):
            for track in self._tracker.update(time, [sighting.face.box for sighting in sightings]):
                self._wants_picture(track, time)

    def __iter__(self) -> Iterator[Segment]:
        """Whole segments, so that a video watched in parts has those of one that was watched at once."""
        watched = self._watched()
        while parts := list(islice(watched, SEGMENT)):
            yield Segment(parts[-1][0], [sighting for _, sightings in parts for sighting in sightings])

    def _watched(self) -> Iterator[tuple[float, list[Sighting]]]:
        """When each frame is, and what is seen in it."""
        champion = champion_of(self._how.settings)
        answer = partial(_classify, champion=champion, mirror=self._how.settings.mirror)
        found = in_order(partial(_look, settings=self._how.settings), self._readable(), self._workers, AHEAD)
        for batch in in_order(answer, _batches(found), self._workers, ahead=1):
            for (number, time, cuts), answers in batch:
                tracks = self._tracker.update(time, [cut.box for cut in cuts])
                faces = [
                    Face(cut.box, probabilities, *(cut.pictures() if self._wants_picture(track, time) else (b"", b"")))
                    for track, cut, probabilities in zip(tracks, cuts, answers, strict=True)
                ]
                yield time, [Sighting(number, time, *each) for each in zip(tracks, faces, strict=True)]

    def _readable(self) -> Iterator[Frame]:
        """The frames up to where the file is damaged: what was read before still counts."""
        try:
            yield from self._frames
        except RefusedError as error:
            self.problem = error.reason

    def _wants_picture(self, track: int, time: float) -> bool:
        """Whether there is none of a track of this second."""
        if time < self._pictured.get(track, -PICTURE) + PICTURE:
            return False
        self._pictured[track] = time
        return True


def _look(frame: Frame, settings: Settings) -> Found:
    return Found(frame.number, frame.time, look(frame.view, frame.width, settings))


def _batches(found: Iterable[Found]) -> Iterator[list[Found]]:
    """Several frames each, together BATCH faces or a few more; or BATCH frames."""
    batch: list[Found] = []
    for each in found:
        batch.append(each)
        if max(len(batch), sum(len(frame.cuts) for frame in batch)) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _classify(batch: list[Found], champion: Champion, mirror: bool) -> list[tuple[Found, list[tuple[float, ...]]]]:
    """Frames with the probabilities of their faces."""
    crops = [cut.crop for frame in batch for cut in frame.cuts]
    rows = iter(classify(np.stack(crops), champion, mirror) if crops else ())
    return [(frame, list(islice(rows, len(frame.cuts)))) for frame in batch]


def steadied(sightings: Iterable[Sighting], seconds: float) -> Iterator[Sighting]:
    """The sightings of a whole video with probabilities that are smoothed along each track (`tasks.tracks.smoothed`)."""
    of_frames, again = tee(list(group) for _, group in groupby(sightings, attrgetter("time")))
    seen = (
        Seen(group[0].time, [each.track for each in group], np.array([each.face.probabilities for each in group]))
        for group in again
    )
    for group, rows in zip(of_frames, smoothed(seen, seconds), strict=True):
        for each, probabilities in zip(group, rows.round(4).tolist(), strict=True):
            yield each._replace(face=each.face._replace(probabilities=tuple(probabilities)))


class People:
    """The tracks of a video as a whole. Memory grows with their number and that of their bands only."""

    def __init__(self) -> None:
        self.bands: list[Band] = []
        self._open: dict[int, Band] = {}
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._pictured: dict[int, dict[str, Face]] = {}  # by track and label, the surest face that has its pictures

    def add(self, sighting: Sighting) -> None:
        """Take in the next sighting, in order of time."""
        track, face = sighting.track, sighting.face
        self._sums[track] = self._sums.get(track, np.zeros(len(EXPRESSIONS))) + face.probabilities
        pictured = self._pictured.setdefault(track, {})
        if face.crop and (face.label not in pictured or pictured[face.label].confidence < face.confidence):
            pictured[face.label] = face
        band = self._open.get(track)
        goes_on = band is not None and sighting.time - band.end <= BREAK
        if band and goes_on:
            band.end = sighting.time
        if not (band and goes_on and band.label == face.label):
            band = self._open[track] = Band(track, face.label, sighting.time, sighting.time)
            self.bands.append(band)
        band.add(face)

    def faces(self) -> tuple[Face, ...]:
        """One face a track, in the order of their numbers: its mean probabilities, and where it showed that label most surely."""
        return tuple(self._face(track) for track in sorted(self._sums))

    def _face(self, track: int) -> Face:
        sums, pictured = self._sums[track], self._pictured[track]
        mean = tuple((sums / sums.sum()).round(4).tolist())
        label = EXPRESSIONS[mean.index(max(mean))]
        shown = pictured.get(label) or max(pictured.values(), key=attrgetter("confidence"))
        return shown._replace(probabilities=mean)
