"""Label a video: its frames in, its people and their expressions over time out. Writes nothing, needs no TensorFlow.

A video is a source of frames for the engine that labels photos (tasks/label.py): decoding goes on while threads look for faces,
and the faces of several frames are classified together. Faces are followed from frame to frame as they are found (a track is a
person as far as the video goes). The network is asked about a track several times within the time over which expressions are
smoothed, and not in every frame: that happens at the end, from both sides, and gives each frame its answer.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice, tee
from math import inf
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.champion import Champion
from tasks.expressions import EXPRESSIONS
from tasks.faces import FaceBox
from tasks.files import sha256
from tasks.label import BATCH, Cut, Face, Settings, Spot, champion_of, classify, cut_out, find_spots
from tasks.params import Footage
from tasks.photos import RefusedError
from tasks.threads import in_order
from tasks.tracks import LOST, Seen, Tracker, out_of_sight, smoothed
from tasks.videos import WHOLE, Damage, Frame, Video, frames, slot

SEGMENT = 64  # frames that are kept together; a kill loses no more than these
AHEAD = 4  # frames a thread, decoded before they are looked at: each takes megabytes
ASKED = 2  # times within `smooth` that the network is asked about a track; asked always, 1 label in 100 would differ
PICTURE = 1.0  # s between the pictures that are kept of a track
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
    face: Face  # with crop and thumbnail about once a second of a track, else without; see ASKED for its probabilities


class Found(NamedTuple):
    """A frame, and where its faces are."""

    frame: Frame
    spots: list[Spot]


class Followed(NamedTuple):
    """A frame whose faces have their tracks, and those that the network is to be asked about."""

    number: int
    time: float
    damage: Damage
    boxes: list[FaceBox]
    tracks: list[int]
    cuts: dict[int, Cut]  # by track


class Reached(NamedTuple):
    """How far a video is watched."""

    time: float  # of the last frame
    damage: Damage  # of the file, up to there


class Segment(NamedTuple):
    """Frames in a row."""

    reached: Reached
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
        reached: up to where it was watched before; None: not at all.
    """

    def __init__(
        self,
        path: str,
        video: Video,
        how: How,
        workers: int,
        known: Iterable[Sighting] = (),
        reached: Reached | None = None,
    ) -> None:
        self.problem = ""  # why the rest of the file is missing
        self._how, self._workers = how, workers
        footage = how.footage
        done, damage = reached or (None, WHOLE)
        self._frames = frames(path, video, footage.every, footage.start, footage.stop, done, damage)
        self._tracker = Tracker(out_of_sight(footage.every))
        self._asked: dict[int, float] = {}  # the stretch of time in which the network was asked last about a track
        self._pictured: dict[int, float] = {}  # when there was the last picture of a track
        for time, group in groupby(known, attrgetter("time")):
            sightings = list(group)
            self._tracker.update(time, [sighting.face.box for sighting in sightings])
            for each in sightings:
                if each.face.probabilities:
                    self._asked[each.track] = self._stretch(time)
                if each.face.crop:
                    self._pictured[each.track] = time

    def __iter__(self) -> Iterator[Segment]:
        """Whole segments, so that a video watched in parts has those of one that was watched at once."""
        watched = self._watched()
        while parts := list(islice(watched, SEGMENT)):
            yield Segment(parts[-1][0], [sighting for _, sightings in parts for sighting in sightings])

    def _watched(self) -> Iterator[tuple[Reached, list[Sighting]]]:
        """Each frame's place, and what is seen in it."""
        champion = champion_of(self._how.settings)
        answer = partial(_classify, champion=champion)
        found = in_order(partial(_look, settings=self._how.settings), self._readable(), self._workers, AHEAD)
        for batch in in_order(answer, _batches(map(self._follow, found)), self._workers, ahead=1):
            for followed, answers in batch:
                yield Reached(followed.time, followed.damage), list(self._sightings(followed, answers))

    def _readable(self) -> Iterator[Frame]:
        """The frames up to where the file is damaged: what was read before still counts."""
        try:
            yield from self._frames
        except RefusedError as error:
            self.problem = error.reason

    def _follow(self, found: Found) -> Followed:
        """Give the next frame's faces their tracks, and cut out those about which the network is to be asked."""
        frame, time = found.frame, found.frame.time
        boxes = [spot.rounded for spot in found.spots]
        tracks = self._tracker.update(time, boxes)
        stretch = self._stretch(time)
        asked = {
            track: spot for track, spot in zip(tracks, found.spots, strict=True) if self._asked.get(track) != stretch
        }
        self._asked |= dict.fromkeys(asked, stretch)
        cuts = cut_out(frame.view(inf), frame.width, list(asked.values())) if asked else []
        return Followed(frame.number, time, frame.damage, boxes, tracks, dict(zip(asked, cuts, strict=True)))

    def _stretch(self, time: float) -> float:
        """The stretch of time, `smooth` / ASKED long, that a time belongs to."""
        return slot(time, self._how.footage.smooth / ASKED)

    def _sightings(self, followed: Followed, answers: Mapping[int, tuple[float, ...]]) -> Iterator[Sighting]:
        for box, track in zip(followed.boxes, followed.tracks, strict=True):
            pictured = track in answers and self._wants_picture(track, followed.time)
            pictures = followed.cuts[track].pictures() if pictured else (b"", b"")
            yield Sighting(followed.number, followed.time, track, Face(box, answers.get(track, ()), *pictures))

    def _wants_picture(self, track: int, time: float) -> bool:
        """Whether there is none of a track of this second."""
        if time < self._pictured.get(track, -PICTURE) + PICTURE:
            return False
        self._pictured[track] = time
        return True


def _look(frame: Frame, settings: Settings) -> Found:
    return Found(frame, find_spots(frame.view, frame.width, settings)[1])


def _batches(frames: Iterable[Followed]) -> Iterator[list[Followed]]:
    """Several frames each, with BATCH faces to ask about or a few more; or BATCH frames."""
    batch: list[Followed] = []
    for each in frames:
        batch.append(each)
        if max(len(batch), sum(len(frame.cuts) for frame in batch)) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _classify(batch: list[Followed], champion: Champion) -> list[tuple[Followed, dict[int, tuple[float, ...]]]]:
    """Frames with the probabilities of the faces that were cut out of them, by track.

    Without mirror images: the average along a track is of more pictures of a face.
    """
    crops = [cut.crop for frame in batch for cut in frame.cuts.values()]
    rows = iter(classify(np.stack(crops), champion, mirror=False) if crops else ())
    return [(frame, {track: next(rows) for track in frame.cuts}) for frame in batch]


NOT_ASKED = (np.nan,) * len(EXPRESSIONS)


def steadied(sightings: Iterable[Sighting], seconds: float) -> Iterator[Sighting]:
    """The sightings of a whole video with probabilities that are smoothed along each track (`tasks.tracks.smoothed`)."""
    of_frames, again = tee(list(group) for _, group in groupby(sightings, attrgetter("time")))
    seen = (
        Seen(
            group[0].time,
            [each.track for each in group],
            np.array([each.face.probabilities or NOT_ASKED for each in group]),
        )
        for group in again
    )
    for group, rows in zip(of_frames, smoothed(seen, seconds), strict=True):
        for each, probabilities in zip(group, rows.round(4).tolist(), strict=True):
            yield each._replace(face=each.face._replace(probabilities=tuple(probabilities)))


class People:
    """The tracks of a video as a whole. Memory grows with their number and that of their bands: one face's pictures each."""

    def __init__(self, lost: float = LOST) -> None:
        """Take a track, and a band, to have ended after `lost` s without its face."""
        self._lost = lost
        self.bands: list[Band] = []
        self._faces: dict[int, Face] = {}  # of tracks that have ended
        self._open: dict[int, Band] = {}  # of each other track, the last one
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._pictured: dict[int, dict[str, Face]] = {}  # by track and label, the surest face that has its pictures

    def add(self, sighting: Sighting) -> None:
        """Take in the next sighting, in order of time."""
        track, face = sighting.track, sighting.face
        if track not in self._open:
            self._close(sighting.time - self._lost)
        self._sums[track] = self._sums.get(track, np.zeros(len(EXPRESSIONS))) + face.probabilities
        pictured = self._pictured.setdefault(track, {})
        if face.crop and (face.label not in pictured or pictured[face.label].confidence < face.confidence):
            pictured[face.label] = face
        band = self._open.get(track)
        goes_on = band is not None and sighting.time - band.end <= self._lost
        if band and goes_on:
            band.end = sighting.time
        if not (band and goes_on and band.label == face.label):
            band = self._open[track] = Band(track, face.label, sighting.time, sighting.time)
            self.bands.append(band)
        band.add(face)

    def faces(self) -> tuple[Face, ...]:
        """One face a track, in the order of their numbers: its mean probabilities, and where it showed that label most surely."""
        self._close(inf)
        return tuple(self._faces[track] for track in sorted(self._faces))

    def _close(self, time: float) -> None:
        """Keep one face of each track that was seen last before then."""
        for track in [track for track, band in self._open.items() if band.end < time]:
            self._faces[track] = self._face(track)
            del self._open[track], self._sums[track], self._pictured[track]

    def _face(self, track: int) -> Face:
        sums, pictured = self._sums[track], self._pictured[track]
        mean = tuple((sums / sums.sum()).round(4).tolist())
        label = EXPRESSIONS[mean.index(max(mean))]
        shown = pictured.get(label) or max(pictured.values(), key=attrgetter("confidence"))
        return shown._replace(probabilities=mean)
