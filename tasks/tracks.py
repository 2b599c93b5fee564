"""Faces followed from frame to frame: which boxes are one person's, and expressions that do not flicker.

A track is a number within its video and nothing more: nobody is recognised, and who leaves for longer than a moment and comes
back is a new track.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
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


class Place(NamedTuple):
    """Where a face is, and how large."""

    x: float  # px, of its centre
    y: float
    size: float  # logarithm of the side in px


class _Track:
    """Where a face was, and by its motion where it will be: a Kalman filter of constant velocity.

    The size has no velocity: a face that goes behind another becomes small for a moment. Both directions have the same noise, so
    that one covariance of centre and velocity serves both, and the filter is a handful of numbers; cv2.KalmanFilter, on
    matrices, takes many times as long.
    """

    def __init__(self, number: int, time: float, seen: Place) -> None:
        self.number, self.time = number, time
        self._x, self._y, self._size = seen
        self._right = self._down = 0.0
        side = math.exp(self._size)
        self._place, self._both, self._speed = (JITTER * side) ** 2, 0.0, side**2  # covariance
        self._resized = JITTER**2  # variance of the logarithm of the side

    def expected(self, time: float) -> Place:
        """Where the face is expected."""
        step = time - self.time
        return Place(self._x + step * self._right, self._y + step * self._down, self._size)

    def see(self, time: float, seen: Place) -> None:
        """Take in where the face was found."""
        step, side = time - self.time, math.exp(seen.size)
        expected = self.expected(time)
        push = (ACCELERATION * side) ** 2  # variance of a random acceleration
        place = self._place + step * (2 * self._both + step * self._speed) + push * step**4 / 4
        both = self._both + step * self._speed + push * step**3 / 2
        speed = self._speed + push * step**2
        noise = (JITTER * side) ** 2
        gain, speed_gain = place / (place + noise), both / (place + noise)
        right, down = seen.x - expected.x, seen.y - expected.y
        self._x, self._y = expected.x + gain * right, expected.y + gain * down
        self._right += speed_gain * right
        self._down += speed_gain * down
        self._place, self._both, self._speed = (1 - gain) * place, (1 - gain) * both, speed - speed_gain * both
        resized = self._resized + (GROWTH * step) ** 2
        self._size += resized / (resized + JITTER**2) * (seen.size - self._size)
        self._resized = resized * JITTER**2 / (resized + JITTER**2)
        self.time = time


def out_of_sight(every: float) -> float:
    """How long, in s, a face may be so if it is looked for every so many s: LOST, or one look and the half of another."""
    return max(LOST, 1.5 * every)


class Tracker:
    """Gives the boxes of one frame after the other their tracks' numbers, 1 and up.

    Boxes go to the tracks that expect them nearest, as in SORT (Bewley et al. 2016, arXiv:1602.00763): constant velocity, and
    the assignment with the least sum. Distances stand in for SORT's overlap, because frames may lie far apart in time.
    """

    def __init__(self, lost: float = LOST) -> None:
        """Forget a track after `lost` s out of sight."""
        self._lost = lost
        self._tracks: list[_Track] = []
        self._count = 0

    def update(self, time: float, boxes: Sequence[FaceBox]) -> list[int]:
        """The track of each box of the frame at `time` (s); frames come in the order of time."""
        from scipy.optimize import linear_sum_assignment

        self._tracks = [track for track in self._tracks if time - track.time <= self._lost]
        seen = [_measured(box) for box in boxes]
        costs = _costs(self._tracks, time, seen)
        taken = {
            int(box): self._tracks[track]
            for box, track in zip(*linear_sum_assignment(np.minimum(costs, 1.0)), strict=True)
            if costs[box, track] < 1.0
        }
        return [self._take(taken.get(index), time, each).number for index, each in enumerate(seen)]

    def _take(self, track: _Track | None, time: float, seen: Place) -> _Track:
        if track:
            track.see(time, seen)
            return track
        self._count += 1
        self._tracks.append(_Track(self._count, time, seen))
        return self._tracks[-1]


def _measured(box: FaceBox) -> Place:
    return Place(box.x + box.width / 2, box.y + box.height / 2, math.log(max(box.width * box.height, 1.0)) / 2)


def _costs(tracks: Sequence[_Track], time: float, faces: Sequence[Place]) -> NDArray[np.float64]:
    """How unlikely it is that a face is a track's, (faces, tracks), 0 to 1; 1 and more if it cannot be."""
    seen = np.array(faces).reshape(-1, 1, 3)
    expected = np.array([track.expected(time) for track in tracks]).reshape(-1, 3)
    unseen = np.array([time - track.time for track in tracks])
    reach = np.minimum(REACH + REACH_A_SECOND * unseen, REACH_MOST)
    apart = seen - expected
    side = np.exp((seen[..., 2] + expected[:, 2]) / 2)
    away = np.hypot(apart[..., 0], apart[..., 1]) / side / reach
    costs: NDArray[np.float64] = np.maximum(away, np.abs(apart[..., 2]) / RESIZE)
    return costs


class Seen(NamedTuple):
    """A frame's faces: when, whose, and what the network says of each."""

    time: float  # s
    tracks: Sequence[int] | NDArray[np.int64]
    probabilities: NDArray[np.float64]  # (faces, 7); NaN for a face that it was not asked about


def smoothed(frames: Iterable[Seen], seconds: float) -> Iterator[NDArray[np.float64]]:
    """The probabilities of each frame's faces, (faces, 7), averaged over the frames around it in which the same track is.

    Frames before and after count alike, by a Gaussian with a standard deviation of `seconds`, out to three of them; memory
    holds no more. 0 averages nothing. NaN remains only where a track has no answer within that reach.
    """
    if seconds <= 0:
        yield from (frame.probabilities for frame in frames)
        return
    reach = 3 * seconds
    around: deque[Seen] = deque()  # answers only
    waiting: deque[Seen] = deque()

    def average() -> NDArray[np.float64]:
        frame = waiting.popleft()
        while around and around[0].time < frame.time - reach:
            around.popleft()
        return _average(frame, around, seconds)

    for frame in frames:
        while waiting and waiting[0].time < frame.time - reach:
            yield average()
        known = ~np.isnan(frame.probabilities[:, 0])
        if known.any():
            around.append(Seen(frame.time, np.asarray(frame.tracks)[known], frame.probabilities[known]))
        waiting.append(frame)
    while waiting:
        yield average()


def _average(frame: Seen, around: Collection[Seen], seconds: float) -> NDArray[np.float64]:
    if not around:
        return frame.probabilities
    times = np.repeat([other.time for other in around], [len(other.tracks) for other in around])
    tracks = np.concatenate([other.tracks for other in around])
    weights = np.exp(-(((times - frame.time) / seconds) ** 2) / 2) * (np.reshape(frame.tracks, (-1, 1)) == tracks)
    with np.errstate(invalid="ignore"):
        average: NDArray[np.float64] = (
            weights @ np.concatenate([other.probabilities for other in around]) / weights.sum(axis=1, keepdims=True)
        )
    return average
