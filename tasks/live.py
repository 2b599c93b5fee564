"""The engine of `ferflow live`: the newest frame of a camera, with its faces. No page and no window in it; keeps nothing.

One thread reads the camera and holds its newest frame only. Another takes that frame, finds the faces, names their expressions
and follows them. What came meanwhile is dropped: on a slow machine fewer frames are seen, none of them later.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tasks.cameras import Shots, shrunk
from tasks.champion import INFO
from tasks.expressions import FACE_SIZE
from tasks.label import Face, Settings, champion_of, classify, look, make_settings
from tasks.params import Label
from tasks.paths import CHAMPION, SMALL
from tasks.tracks import LOST, Tracker

DETECTED = (
    320  # px, longer side of what the detector sees: half the time of 480 px, for 1.3 points of its recall (FDDB)
)
SHOWN = 1280  # px, longer side of the picture at most
SMOOTH = 0.4  # s, after which a frame counts 1/e of a new one
RATE_OVER = 2.0  # s, over which frames a second are counted
ENDS = 1.0  # s that a camera may take to let go


class Moment(NamedTuple):
    """A frame that was looked at."""

    number: int  # 1 and up
    time: float  # s, of time.monotonic(), at which the camera gave the frame
    image: NDArray[np.uint8]  # BGR, (H, W, 3)
    faces: dict[int, Face]  # by track, without pictures, their probabilities smoothed along it; from left to right
    rate: float  # frames a second that are looked at
    dropped: int  # frames that came and were not looked at, so far


def default_champion() -> Path:
    """The folder of the model for live pictures: the small edition where there is one."""
    return SMALL if (SMALL / INFO).exists() else CHAMPION


def live_settings(champion: Path) -> Settings:
    """How live pictures are looked at.

    Raises:
        UserError: no champion in that folder, or a damaged one; no detector.
    """
    # Without mirror images: the average along a track steadies labels, too, and shows a change no later.
    return make_settings(Label(long_side=DETECTED, mirror=False), champion)


class Live:
    """Looks at a camera's frames from `with` until the end of the block, or of the camera.

    Args:
        shots: the frames; closed here.
        settings: the detector and the champion.
    """

    def __init__(self, shots: Shots, settings: Settings) -> None:
        self.error: Exception | None = None  # why it ended, if that was not the end of a film
        self._shots, self._settings = shots, settings
        self._stopped = threading.Event()
        self._changed = threading.Condition()  # guards what follows
        self._frame: tuple[float, Callable[[float], NDArray[np.uint8]]] | None = None  # the newest; None once taken
        self._dropped = 0
        self._last_came = False
        self._newest: Moment | None = None
        self._ended = False
        self._times: deque[float] = deque()  # of the moments in the last RATE_OVER seconds
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._look)]

    def __enter__(self) -> Self:
        """Begin."""
        champion_of(self._settings)  # a champion that changed is the caller's to hear of
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and let the camera go."""
        self.stop()
        deadline = time.monotonic() + ENDS  # one that waits for a camera that hangs ends with the program
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Ask it to end; it does after the frame at hand."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether no newer moment will come."""
        return self._ended

    def after(self, number: int, seconds: float | None = None) -> Moment | None:
        """Wait for the newest moment, if its number is greater; None if it has ended before, or after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._number > number, seconds)
            return self._newest if self._number > number else None

    @property
    def _number(self) -> int:
        return self._newest.number if self._newest else 0

    # The thread that reads

    def _read(self) -> None:
        try:
            with closing(self._shots) as shots:
                start: float | None = None
                for due, view in shots:
                    now = time.monotonic()
                    if due is not None:
                        start = now - due if start is None else start
                        self._stopped.wait(max(0.0, start + due - now))
                    if self._stopped.is_set():
                        return
                    self._put(view)
        except Exception as error:  # told by whoever waits for moments
            if not self._stopped.is_set():
                self.error = error
        finally:
            with self._changed:
                self._last_came = True
                self._changed.notify_all()

    def _put(self, view: Callable[[float], NDArray[np.uint8]]) -> None:
        with self._changed:
            self._dropped += self._frame is not None
            self._frame = time.monotonic(), view
            self._changed.notify_all()

    # The thread that looks

    def _look(self) -> None:
        import cv2

        cv2.setNumThreads(1)  # for so small a picture, more only get into each other's way
        try:
            seeing = _Seeing(self._settings)
            while frame := self._take():
                came, view = frame
                image = view(SHOWN)
                self._publish(came, image, seeing.faces(came, image))
        except Exception as error:
            self.error = error
            self._stopped.set()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _take(self) -> tuple[float, Callable[[float], NDArray[np.uint8]]] | None:
        """The newest frame, when there is one; None when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame or self._last_came or self._stopped.is_set())
            frame, self._frame = self._frame, None
            return None if self._stopped.is_set() else frame

    def _publish(self, came: float, image: NDArray[np.uint8], faces: dict[int, Face]) -> None:
        now = time.monotonic()
        self._times.append(now)
        while now - self._times[0] > RATE_OVER:
            self._times.popleft()
        rate = (len(self._times) - 1) / max(now - self._times[0], 1e-3)
        with self._changed:
            self._newest = Moment(self._number + 1, came, image, faces, rate, self._dropped)
            self._changed.notify_all()


class _Seeing:
    """Finds the faces of one frame after the other, with what it remembers of those before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._champion = champion_of(settings)
        self._tracker = Tracker()
        self._smoother = Smoother()
        self._warm_up()

    def _warm_up(self) -> None:
        """Load what the first frames would wait for, so long that their faces would be lost."""
        blank = np.zeros((FACE_SIZE, FACE_SIZE, 3), np.uint8)
        look(partial(shrunk, blank), FACE_SIZE, self._settings)
        classify(blank[np.newaxis, :, :, 0], self._champion, self._settings.mirror)
        self._tracker.update(0.0, [])

    def faces(self, came: float, image: NDArray[np.uint8]) -> dict[int, Face]:
        """The faces of the frame that came then."""
        cuts = look(partial(shrunk, image), image.shape[1], self._settings)
        boxes = [cut.box for cut in cuts]
        tracks = self._tracker.update(came, boxes)
        crops = [cut.crop for cut in cuts]
        probabilities = classify(np.stack(crops), self._champion, self._settings.mirror) if crops else []
        smoothed = self._smoother.update(came, tracks, probabilities)
        return dict(zip(tracks, map(Face, boxes, smoothed), strict=True))


class Smoother:
    """Averages each track's probabilities over its past, later frames counting more (exponentially, whatever their distance).

    Args:
        seconds: after so long, a frame counts 1/e of a new one.
    """

    def __init__(self, seconds: float = SMOOTH) -> None:
        self._seconds = seconds
        self._known: dict[int, tuple[float, NDArray[np.float64]]] = {}  # when each track was seen last, and its average

    def update(
        self, came: float, tracks: Sequence[int], probabilities: Sequence[Sequence[float]]
    ) -> list[tuple[float, ...]]:
        """The averages of a frame's faces, seven each; frames come in the order of time."""
        self._known = {track: known for track, known in self._known.items() if came - known[0] <= LOST}
        for track, row in zip(tracks, probabilities, strict=True):
            new = np.asarray(row, np.float64)
            before, average = self._known.get(track, (came, new))
            self._known[track] = came, average + (1 - np.exp((before - came) / self._seconds)) * (new - average)
        return [tuple(self._known[track][1].tolist()) for track in tracks]
