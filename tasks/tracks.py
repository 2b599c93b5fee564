"""Faces followed from frame to frame: which boxes are one person's, and expressions that do not flicker.

A track is a number within its video and nothing more: nobody is recognised, and who leaves for longer than a moment and comes
back is a new track.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.faces import FaceBox

LOST = 1.0  # s that a face may be out of sight and still be the same track
REACH = 0.5  # how far from where it is expected a face may be, in its own sides ...
REACH_A_SECOND = 5.0  # ... and so much more for each second that it was not seen,
REACH_MOST = 2.0  # but no further than this
RESIZE = 0.7  # the most that the logarithm of its side may differ from what is expected
ACCELERATION = 6.0  # sides a second, squared: how quickly people change their motion
GROWTH = 2.0  # a second, of the logarithm of the side: how quickly faces come nearer
JITTER = 0.05  # sides, of a detector's boxes


class _Track:
    """Where a face was, and by its motion where it will be (a Kalman filter of constant velocity; OpenCV's).

    Its state is centre x, centre y, logarithm of the side, and the centre's velocity; lengths are in px. The side has no
    velocity: a face that goes behind another becomes small for a moment.
    """

    def __init__(self, number: int, time: float, seen: NDArray[np.float64]) -> None:
        import cv2

        self.number, self.time = number, time
        self._filter = cv2.KalmanFilter(5, 3, 0, cv2.CV_64F)
        self._filter.measurementMatrix = np.eye(3, 5)
        self._filter.statePost = np.concatenate([seen, np.zeros(2)])[:, np.newaxis]
        side = np.exp(seen[2])
        self._filter.errorCovPost = np.diag([JITTER * side, JITTER * side, JITTER, side, side]) ** 2

    def expected(self, time: float) -> NDArray[np.float64]:
        """Where the face is expected, float64, (3,)."""
        x, y, size, right, down = self._filter.statePost[:, 0]
        step = time - self.time
        return np.array([x + step * right, y + step * down, size])

    def see(self, time: float, seen: NDArray[np.float64]) -> None:
        """Take in where the face was found."""
        step, side = time - self.time, np.exp(seen[2])
        self._filter.transitionMatrix = np.eye(5) + step * (np.eye(5, k=3))
        noise = np.outer(effect := np.array([step**2 / 2, step]), effect) * (ACCELERATION * side) ** 2
        self._filter.processNoiseCov = np.zeros((5, 5))
        for place in (0, 1):  # of a random acceleration to the right and down
            self._filter.processNoiseCov[np.ix_([place, place + 3], [place, place + 3])] = noise
        self._filter.processNoiseCov[2, 2] = (GROWTH * step) ** 2
        self._filter.measurementNoiseCov = np.diag([JITTER * side, JITTER * side, JITTER]) ** 2
        self._filter.predict()
        self._filter.correct(seen[:, np.newaxis])
        self.time = time


class Tracker:
    """Gives the boxes of one frame after the other their tracks' numbers, 1 and up.

    Boxes go to the tracks that expect them nearest, as in SORT (Bewley et al. 2016, arXiv:1602.00763): constant velocity, and
    the assignment with the least sum. Distances stand in for SORT's overlap, because frames may lie far apart in time.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._count = 0

    def update(self, time: float, boxes: Sequence[FaceBox]) -> list[int]:
        """The track of each box of the frame at `time` (s); frames come in the order of time."""
        from scipy.optimize import linear_sum_assignment

        self._tracks = [track for track in self._tracks if time - track.time <= LOST]
        seen = [_measured(box) for box in boxes]
        costs = np.reshape(
            [_cost(track, time, each) for each in seen for track in self._tracks], (len(seen), len(self._tracks))
        )
        taken = {
            int(box): self._tracks[track]
            for box, track in zip(*linear_sum_assignment(np.minimum(costs, 1.0)), strict=True)
            if costs[box, track] < 1.0
        }
        return [self._take(taken.get(index), time, each).number for index, each in enumerate(seen)]

    def _take(self, track: _Track | None, time: float, seen: NDArray[np.float64]) -> _Track:
        if track:
            track.see(time, seen)
            return track
        self._count += 1
        self._tracks.append(_Track(self._count, time, seen))
        return self._tracks[-1]


def _measured(box: FaceBox) -> NDArray[np.float64]:
    return np.array([box.x + box.width / 2, box.y + box.height / 2, np.log(max(box.width * box.height, 1.0)) / 2])


def _cost(track: _Track, time: float, seen: NDArray[np.float64]) -> float:
    """How unlikely it is that the face seen is the track's, 0 to 1; 1 and more if it cannot be."""
    expected = track.expected(time)
    side = np.exp((expected[2] + seen[2]) / 2)
    reach = min(REACH + REACH_A_SECOND * (time - track.time), REACH_MOST)
    away = np.hypot(*(seen[:2] - expected[:2])) / side / reach
    resized = abs(seen[2] - expected[2]) / RESIZE
    return float(max(away, resized))


class Seen(NamedTuple):
    """A frame's faces: when, whose, and what the network says of each."""

    time: float  # s
    tracks: Sequence[int]
    probabilities: NDArray[np.float64]  # (faces, 7)


def smoothed(frames: Iterable[Seen], seconds: float) -> Iterator[NDArray[np.float64]]:
    """The probabilities of each frame's faces, (faces, 7), averaged over the frames around it in which the same track is.

    Frames before and after count alike, by a Gaussian with a standard deviation of `seconds`, out to three of them; memory
    holds no more. 0 averages nothing.
    """
    if seconds <= 0:
        yield from (frame.probabilities for frame in frames)
        return
    reach = 3 * seconds
    around: deque[Seen] = deque()
    waiting: deque[Seen] = deque()

    def average() -> NDArray[np.float64]:
        frame = waiting.popleft()
        while around[0].time < frame.time - reach:
            around.popleft()
        return _average(frame, around, seconds)

    for frame in frames:
        while waiting and waiting[0].time < frame.time - reach:
            yield average()
        around.append(frame)
        waiting.append(frame)
    while waiting:
        yield average()


def _average(frame: Seen, around: Iterable[Seen], seconds: float) -> NDArray[np.float64]:
    sums, weights = np.zeros_like(frame.probabilities), np.zeros((len(frame.tracks), 1))
    places = {track: place for place, track in enumerate(frame.tracks)}
    for other in around:
        weight = np.exp(-(((other.time - frame.time) / seconds) ** 2) / 2)
        for track, probabilities in zip(other.tracks, other.probabilities, strict=True):
            if (place := places.get(track)) is not None:
                sums[place] += weight * probabilities
                weights[place] += weight
    return sums / weights
