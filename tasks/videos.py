"""Reading video files: what they are, and their frames at chosen times.

PyAV (FFmpeg's libraries) reads them. OpenCV's reader, which is FFmpeg's too, does not say when a frame of a phone's variable
rate is shown, nor why a file ends early; and the annotated copy keeps its sound by PyAV.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.photos import RefusedError, check_size

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

ENDINGS = (
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".ogv",
)  # fmt: skip
# Of FFmpeg's formats, those that hold pictures themselves. Others are lists of further files and addresses to open.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,h264,hevc"
SAFELY = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
TIMED = frozenset(("mp4", "matroska", "avi", "asf", "flv"))  # formats that say how long they are
# Not to be entered later: in bare streams no frame says when it is shown, and pieces of MPEG put together begin their clock anew.
NO_ENTRY = frozenset(("h264", "hevc", "mpegvideo", "mpeg", "mpegts"))
USUAL_RATE = 25.0  # frames a second
PLACES = 3  # of a time in seconds
MOST_FAULTS = 1000  # damaged places; after so many, the rest is not looked at
EARLIER = 2.0  # s; twice as much each time
CUT_SHORT = 1.0  # s; a file that ends so long before the end it claims has lost a part
MOST_SHRUNK = (
    640  # px; larger views come in full size: FFmpeg converts a frame in a third of the time if it need not scale it
)
LARGEST_LATER = 7680 * 4320  # px, of a frame larger than the file's header says
LEAST_SIDE = 2  # px; the colours of most videos have half the resolution


class Video(NamedTuple):
    """What a video file says of itself."""

    format: str  # such as H264
    width: int  # px, upright
    height: int
    rate: float  # frames a second, on average; 0 if it does not say
    seconds: float  # 0 if it does not say


class Damage(NamedTuple):
    """Places of a file that cannot be decoded."""

    places: int = 0
    first: float = 0.0  # s, about where; the file's own time


WHOLE = Damage()


class Frame(NamedTuple):
    """A frame, decoded; its colours are converted when it is looked at, at the size that is needed."""

    number: int  # from 0, by the average rate
    time: float  # s from the beginning
    width: int  # px, upright, with square pixels
    height: int
    raw: "av.VideoFrame"
    damage: Damage = WHOLE  # of the file, up to here

    def view(self, long_side: float) -> NDArray[np.uint8]:
        """BGR, uint8, shape (H, W, 3), upright, its longer side `long_side` px; its own, if that is smaller or more is wanted."""
        import cv2

        shrunk = min(1.0, long_side / max(self.width, self.height)) if long_side <= MOST_SHRUNK else 1.0
        size = [max(LEAST_SIDE, round(side * shrunk)) for side in (self.width, self.height)]
        turns = _quarter_turns(self.raw)
        across, down = reversed(size) if turns % 2 else size
        image = _reformatter().reformat(self.raw, across, down, "bgr24", interpolation="AREA", threads=1).to_ndarray()
        # cv2's codes: 0 is a quarter turn clockwise, 1 are two, 2 is one against it
        return (cv2.rotate(image, turns - 1) if turns else image).astype(np.uint8, copy=False)


_local = threading.local()


def _reformatter() -> "av.video.reformatter.VideoReformatter":
    """This thread's converter of colours and sizes: making one takes longer than using it."""
    if not hasattr(_local, "reformatter"):
        from av.video.reformatter import VideoReformatter

        _local.reformatter = VideoReformatter()
    reformatter: VideoReformatter = _local.reformatter
    return reformatter


def _quarter_turns(raw: "av.VideoFrame") -> int:
    """How often a frame must be turned clockwise by 90 degrees to stand upright, as the phone's metadata say."""
    return round(-raw.rotation / 90) % 4


def read_video(path: str, most_pixels: float) -> Video:
    """Open a video file and look at its header and its first frame.

    Raises:
        RefusedError: not a video, damaged, without pictures, or its pictures have more than `most_pixels`.
        OSError: it cannot be read now.
    """
    with opened(path) as (container, stream):
        check_size(stream.width, stream.height, most_pixels, " a frame")  # before anything is decoded
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        first = next(_decoded(container, stream, Reading()), None)
        if first is None:
            raise RefusedError("unreadable", "no frame of it can be decoded")
        width, height = upright_size(first, stream)
        check_size(width, height, most_pixels, " a frame")  # whose pixels may be given as many times wider than high
        return Video(
            stream.codec_context.codec.canonical_name.upper(), width, height, rate, _seconds(container, stream)
        )


def frames(
    path: str,
    video: Video,
    every: float,
    start: float = 0.0,
    stop: float | None = None,
    done: float | None = None,
    damage: Damage = WHOLE,
) -> Iterator[Frame]:
    """The frames that are shown at, or first after, every multiple of `every` seconds (0: all frames), in order of time.

    Args:
        path: of the file.
        video: what `read_video` says of it.
        every: seconds.
        start: seconds; what comes before costs no time if the file has an index, by which it is skipped.
        stop: seconds; where to end.
        done: the time of a frame of an earlier call; those that it would have given next are given.
        damage: of that frame.

    Raises:
        RefusedError: the file is damaged, and its good part came before; or it ends before `start`.
        OSError: it cannot be read on.
    """
    reading = Reading(damage)
    step = 1 / (video.rate or USUAL_RATE)
    exact: float | None = None
    ends = False  # where it is asked to, not where the file does
    given = None if done is None else slot(done, every)
    begin = start if done is None else max(start, done)
    if 0 < video.seconds <= start:
        raise RefusedError("unsupported", f"it ends after {video.seconds:.1f} s, before the part that is asked for")
    with opened(path) as (container, stream):
        origin = _in_seconds(stream.start_time, stream)
        for raw in _decoded_from(begin, origin, container, stream, reading):
            exact = _shown(None if raw.time is None else raw.time - origin, exact, step)
            time = round(exact, PLACES)
            if stop is not None and time >= stop:
                ends = True
                break
            if done is not None and time <= done:
                reading.damage = damage  # what was met again counts once
                continue
            if time < start or slot(time, every) == given:
                continue
            given = slot(time, every)
            yield Frame(round(time * video.rate), time, *upright_size(raw, stream), raw, reading.damage)
        if reading.damage.places:
            first = max(0.0, reading.damage.first - origin)
            raise RefusedError("unreadable", f"{reading.damage.places} damaged places, the first after {first:.1f} s")
        end = max(0.0, reading.end - origin)
        if not ends and video.seconds - end > CUT_SHORT:
            raise RefusedError("unreadable", f"cut short: it ends after {end:.1f} of {video.seconds:.1f} s")


def _shown(said: float | None, before: float | None, step: float) -> float:
    """When a frame is shown, in s, from what its file says and the frame before it: frames come in the order of time.

    What a file says goes back where pieces were put together, and from one frame to the next in AVI files with B frames.
    """
    if before is None:
        return said or 0.0
    return before + step if said is None or said <= before else said


def slot(time: float, every: float) -> float:
    """Which multiple of `every` a time belongs to; without one, each time is its own."""
    return (time + 10**-PLACES) // every if every else time


@contextmanager
def opened(path: str) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """The file, open, and its stream of pictures.

    Raises:
        RefusedError: not a video, or without pictures.
        OSError: it cannot be read now.
    """
    import av

    av.logging.set_level(None)  # libraries' words about damaged files; here the table has them
    if Path(path).stat().st_size == 0:
        raise RefusedError("unreadable", "an empty file")
    try:
        container = av.open(f"file:{path}", options=SAFELY, metadata_errors="backslashreplace")
    except av.error.FFmpegError as error:
        if of_the_disk(error):
            raise
        raise RefusedError("unreadable", "not a video, or a damaged one") from error
    with container:
        stream = next((each for each in container.streams.video if not _is_cover(each)), None)
        if stream is None:
            kind = "only sound" if container.streams.audio else "no pictures"
            raise RefusedError("unsupported", f"{kind} is in it")
        if stream.codec_context is None:
            raise RefusedError("unsupported", "FFmpeg does not know its codec")
        stream.thread_type = "AUTO"
        # Later frames may be larger than the header says. A small file with huge ones shall not take all memory.
        stream.codec_context.options = {"max_pixels": str(max(stream.width * stream.height, LARGEST_LATER))}
        yield container, stream


def of_the_disk(error: Exception) -> bool:
    """Whether what FFmpeg met is no fault of the file, and may be gone the next time."""
    return isinstance(error, OSError) and not isinstance(error, ValueError)


def _is_cover(stream: "VideoStream") -> bool:
    """Whether it is the picture of an album, and not a film."""
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def upright_size(raw: "av.VideoFrame", stream: "VideoStream") -> tuple[int, int]:
    """Width and height as people see it: turned, and with square pixels."""
    width = round(raw.width * (stream.sample_aspect_ratio or 1))
    return (raw.height, width) if _quarter_turns(raw) % 2 else (width, raw.height)


def _seconds(container: "InputContainer", stream: "VideoStream") -> float:
    """How long it says that it is; 0 if its format would have to guess."""
    import av

    if not set(container.format.name.split(",")) & TIMED:
        return 0.0
    if stream.duration:
        return _in_seconds(stream.duration, stream)
    return (container.duration or 0) / av.time_base


def _in_seconds(ticks: int | None, stream: "VideoStream") -> float:
    return float((ticks or 0) * (stream.time_base or 0))


class Reading:
    """How far a file could be read. Times are the file's own, in s."""

    def __init__(self, damage: Damage = WHOLE) -> None:
        self.damage = damage
        self.end = 0.0  # of what was read


def _decoded_from(
    begin: float, origin: float, container: "InputContainer", stream: "VideoStream", reading: Reading
) -> Iterator["av.VideoFrame"]:
    """Its frames, without most of those before `begin` (s after `origin`) where the file can be entered later.

    With an index, a file is entered at a frame that needs no other. Without one it is entered anywhere, and frames up to
    the next such one are lost: then it is entered earlier, and earlier still.
    """
    import av

    if begin <= 0 or container.format.name in NO_ENTRY:
        yield from _decoded(container, stream, reading)
        return
    back, before = 0.0, reading.damage
    while True:
        for place in (begin + origin - back, origin):  # AVI takes no place before the first frame
            try:
                container.seek(int(place * av.time_base))
                break
            except av.error.FFmpegError:  # what cannot be entered at all is read from its beginning
                continue
        decoded = _decoded(container, stream, reading)
        first = next(decoded, None)
        if back > begin + EARLIER or (first is not None and (first.time or 0.0) <= begin + origin):
            break
        back = 2 * back or EARLIER
    reading.damage = before  # without that of frames whose beginning was left out
    if first is not None:
        yield first
        yield from decoded


def _decoded(container: "InputContainer", stream: "VideoStream", reading: Reading) -> Iterator["av.VideoFrame"]:
    """Its frames in order of time, without those that cannot be decoded."""
    import av

    time = 0.0
    packets = container.demux()
    while True:
        try:
            packet = next(packets)
            # Only some formats say how long the pictures last; in others, sound or subtitles may last longer.
            if packet.pts is not None and (packet.stream is stream or not stream.duration):
                reading.end = max(reading.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            for raw in stream.decode(packet) if packet.stream is stream else ():
                time = raw.time or time
                yield raw
        except (StopIteration, av.error.EOFError):
            return
        except av.error.FFmpegError as error:
            if of_the_disk(error):
                raise
            places, first = reading.damage
            reading.damage = Damage(places + 1, first if places else time)
            if places >= MOST_FAULTS:
                return
