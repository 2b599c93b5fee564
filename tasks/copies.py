"""Annotated copies of videos: the faces marked in every frame, the sound as it was."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import groupby
from math import inf
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.expressions import COLOURS
from tasks.faces import FaceBox
from tasks.files import replacing
from tasks.footage import Sighting
from tasks.params import Footage
from tasks.photos import RefusedError
from tasks.pictures import mark
from tasks.videos import NO_ENTRY, Frame, frames, of_the_disk, opened, read_video

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer

QUALITY = {"preset": "veryfast", "crf": "23"}  # of x264
LEAST_MP3 = 16_000  # samples a second, of MP3 in an MP4 file
SOUNDS = frozenset(("aac", "mp3", "ac3", "eac3", "opus"))  # what an MP4 file can hold
RATES = frozenset((8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000))  # of AAC
USUAL_RATE = 48_000
TICKS = 90_000  # of a second, MP4's usual ones
HOLD = 0.1  # s that a box stays where its face was last seen, beyond the time between two looks


class Overlay:
    """Where the faces are at any time, for times that only grow: boxes move evenly between two looks."""

    def __init__(self, sightings: Iterable[Sighting], every: float) -> None:
        self._looks = groupby(sightings, attrgetter("time"))
        self._hold = every + HOLD
        self._before: dict[int, Sighting] = {}
        self._after = self._next()

    def at(self, time: float) -> Iterator[tuple[FaceBox, Sighting]]:
        """Each face that is to be marked: its box, and the sighting that says what it shows."""
        while self._after and next(iter(self._after.values())).time <= time:
            self._before, self._after = self._after, self._next()
        for track, seen in self._before.items():
            if time - seen.time > self._hold:
                continue
            later = self._after.get(track)
            if later is None or later.time - seen.time > self._hold:
                yield seen.face.box, seen
            else:
                share = (time - seen.time) / (later.time - seen.time)
                yield _between(seen.face.box, later.face.box, share), seen

    def _next(self) -> dict[int, Sighting]:
        _, sightings = next(self._looks, (0.0, ()))
        return {sighting.track: sighting for sighting in sightings}


def _between(start: FaceBox, end: FaceBox, share: float) -> FaceBox:
    x, y, width, height = (a + share * (b - a) for a, b in zip(start[:4], end[:4], strict=True))
    return FaceBox(x, y, width, height, start.score)


def write_copy(
    source: str,
    footage: Footage,
    sightings: Iterable[Sighting],
    out: Path,
    progress: Callable[[float, float], None],
) -> None:
    """Write an MP4 file (H.264) with the faces marked, of the part that was watched.

    What of the source is damaged is left out, as it was when it was watched; if it can no longer be read, or MP4 cannot hold it,
    there is no copy. `progress` is told the time of each frame, and the end's.
    """
    import av

    try:
        video = read_video(source, inf)
    except (OSError, RefusedError):
        return
    overlay = Overlay(sightings, footage.every)
    width, height = video.width // 2 * 2, video.height // 2 * 2  # H.264 halves them
    with (
        _nothing_if_impossible(),
        replacing(out) as temporary,
        opened(source) as (container, pictures),
        av.open(f"file:{temporary}", "w", format="mp4", options={"movflags": "faststart"}) as copy,
    ):
        stream = copy.add_stream("libx264", round(video.rate) or None, options=QUALITY)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        begin = float((pictures.start_time or 0) * (pictures.time_base or 0)) + footage.start
        sound = _Sound(container, copy, footage, begin)
        with suppress(RefusedError):
            for frame in frames(source, video, 0.0, footage.start, footage.stop):
                sound.copy_until(frame.time)
                picture = av.VideoFrame.from_ndarray(_marked(frame, overlay, width, height), "bgr24")
                picture.pts, picture.time_base = round((frame.time - footage.start) * TICKS), Fraction(1, TICKS)
                copy.mux(stream.encode(picture))
                progress(frame.time, footage.stop or video.seconds)
        copy.mux(stream.encode(None))
        sound.copy_until(inf)


@contextmanager
def _nothing_if_impossible() -> Iterator[None]:
    """Suppress what FFmpeg refuses of this file: tables and other copies do not depend on it."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        if of_the_disk(error):
            raise


def _marked(frame: Frame, overlay: Overlay, width: int, height: int) -> NDArray[np.uint8]:
    """The frame with its faces marked, in the copy's size: a stream may change its own."""
    import cv2

    image = frame.view(max(frame.width, frame.height))
    for box, (_, _, track, face) in overlay.at(frame.time):
        mark(image, box, f"{track} {face.label} {face.confidence:.0%}", COLOURS[face.label])
    if 0 <= image.shape[1] - width <= 1 and 0 <= image.shape[0] - height <= 1:
        return image[:height, :width]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


class _Sound:
    """A video's first stream of sound, to be copied in step with its frames: as it is, or as AAC if MP4 cannot hold it."""

    def __init__(self, container: "InputContainer", copy: "OutputContainer", footage: Footage, begin: float) -> None:
        import av

        stream = next((each for each in container.streams.audio if each.codec_context), None)  # others are unknown
        self._copy = copy
        self._packets: Iterator[tuple[float, av.Packet[AudioStream]]] = iter(())
        if stream is not None:
            packets = _heard(container, stream, footage, begin)
            if _fits(stream):
                self._packets = _as_it_is(packets, copy.add_stream_from_template(stream, opaque=True), footage)
            else:
                to = copy.add_stream("aac", stream.rate if stream.rate in RATES else USUAL_RATE)
                self._packets = _as_aac(packets, to, footage)
        self._next = next(self._packets, None)

    def copy_until(self, time: float) -> None:
        """Copy what is heard before `time`, in seconds of the source."""
        while self._next is not None and self._next[0] < time:
            self._copy.mux(self._next[1])
            self._next = next(self._packets, None)


def _fits(stream: "AudioStream") -> bool:
    """Whether an MP4 file can hold the sound as it is."""
    codec = stream.codec_context.codec.canonical_name
    return codec in SOUNDS and not (codec == "mp3" and stream.rate < LEAST_MP3)


def _heard(
    container: "InputContainer", stream: "AudioStream", footage: Footage, begin: float
) -> "Iterator[tuple[float, av.Packet[AudioStream]]]":
    """Times and packets of the part that is wanted, up to where the file is damaged; `begin`: by the file's own clock.

    Times grow, as those of frames do: where pieces were put together, the next one follows.
    """
    import av

    time, length = -inf, 0.0
    with suppress(av.error.FFmpegError):
        if footage.start and container.format.name not in NO_ENTRY:
            container.seek(round(begin * av.time_base))
        for packet in container.demux(stream):
            if packet.pts is None:
                continue
            said = float(packet.pts * packet.time_base) - begin + footage.start
            time = said if said > time else time + length
            length = float(max(packet.duration or 0, 1) * packet.time_base)
            if footage.stop is not None and time >= footage.stop:
                return
            if time >= footage.start:
                yield time, packet


def _as_it_is(
    packets: "Iterator[tuple[float, av.Packet[AudioStream]]]", to: "AudioStream", footage: Footage
) -> "Iterator[tuple[float, av.Packet[AudioStream]]]":
    """The packets, moved to the copy's beginning."""
    for time, packet in packets:
        packet.pts = packet.dts = round((time - footage.start) / packet.time_base)
        packet.stream = to
        yield time, packet


def _as_aac(
    packets: "Iterator[tuple[float, av.Packet[AudioStream]]]", to: "AudioStream", footage: Footage
) -> "Iterator[tuple[float, av.Packet[AudioStream]]]":
    """The same sound, encoded anew; times are those of what goes in."""
    import av

    time, begun = footage.start, -1
    with suppress(av.error.FFmpegError):
        for time, packet in packets:
            for frame in packet.decode():
                if begun < 0:
                    said = float((packet.pts or 0) * packet.time_base)
                    # Decoders leave out what some codecs need to get going: then it is heard later than the packet says.
                    late = (said if frame.time is None else frame.time) - said
                    begun = max(round((time + late - footage.start) * frame.sample_rate), 0)
                frame.pts, begun = begun, begun + frame.samples
                frame.time_base = Fraction(1, frame.sample_rate)
                yield from ((time, encoded) for encoded in to.encode(frame))
    yield from ((time, encoded) for encoded in to.encode(None))
