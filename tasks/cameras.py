"""Where live pictures come from: a camera of this computer, a camera with an address, or a video file in its place."""

import platform
import re
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UserError
from tasks.params import Label
from tasks.photos import RefusedError
from tasks.videos import Frame, frames, read_video, upright_size

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

DEVICE = re.compile(r"(?:/dev/video)?(\d+)")
SIZE = (640, 480)  # px, asked of a camera of this computer; it gives what it has nearest to that
SCHEMES = ("rtsp", "rtsps", "http", "https")
OPENS = 10.0  # s that a camera with an address may take to answer ...
READS = 5.0  # ... and to send the next piece
OPTIONS = {
    "protocol_whitelist": "rtsp,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto",  # no file, whatever a playlist says
    "rtsp_transport": "tcp",  # lost packets would leave grey blocks
}
AT_ONCE = {"fflags": "nobuffer"}  # leaves out the frames by which a stream was recognised: they are seconds old


class Shot(NamedTuple):
    """A frame as it comes."""

    due: float | None  # s, of the film, at which it is to be shown; None: it is new when it comes
    view: Callable[[float], NDArray[np.uint8]]  # the picture, BGR, (H, W, 3), its longer side so many px at most


Shots = Generator[Shot, None, None]  # ends, or raises UserError, when no more can come; closing it lets the camera go


def open_camera(source: str) -> Shots:
    """Open a source of frames, so that what is wrong with it is known now.

    Args:
        source: the number of a camera, such as 0, or its device; an address of one (rtsp, http); or a video file.

    Raises:
        UserError: there is no such thing, it is busy, or it gives no pictures.
    """
    if device := DEVICE.fullmatch(source):
        return _device(int(device[1]))
    if "://" in source:
        return _address(source)
    return _film(source)


def shown_name(source: str) -> str:
    """The source as it may be shown: without the password that an address may hold.

    Raises:
        UserError: an address that is none.
    """
    if "://" not in source:
        return f"camera {device[1]}" if (device := DEVICE.fullmatch(source)) else Path(source).name
    try:
        parts = urlsplit(source)
    except ValueError as error:  # brackets that hold no number of a machine
        raise UserError(f"--camera is no address of a camera: {str(error).lower()}") from error
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def shrunk(image: NDArray[np.uint8], long_side: float) -> NDArray[np.uint8]:
    """The picture, uint8, (H, W, 3), with a longer side of `long_side` px or, if that is smaller, its own."""
    import cv2

    scale = min(1.0, long_side / max(image.shape))
    if scale == 1:
        return image
    size = [max(1, round(side * scale)) for side in (image.shape[1], image.shape[0])]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _small(frame: Frame, long_side: float) -> NDArray[np.uint8]:
    return shrunk(frame.view(long_side), long_side)  # views of more than some px come in full size


# A camera of this computer


def _device(number: int) -> Shots:
    import cv2

    linux = platform.system() == "Linux"
    if linux and not Path(f"/dev/video{number}").exists():
        there = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        raise UserError(
            f"no camera {number}: " + (f"there are {there}" if there else "this machine has none")
            + "; --camera also takes an address (rtsp://...) or a video file"
        )  # fmt: skip
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it warns on the terminal of what is told below
    capture = cv2.VideoCapture(number, cv2.CAP_V4L2 if linux else cv2.CAP_ANY)
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, SIZE[0])
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, SIZE[1])
    taken, first = capture.read()
    if not taken:
        capture.release()
        raise UserError(
            f"camera {number} gives no picture: another program may be using it, or you may not (on Linux: group video)"
        )

    def shots() -> Shots:
        try:
            taken, image = True, first
            while taken:
                yield Shot(None, partial(shrunk, image.astype(np.uint8, copy=False)))
                taken, image = capture.read()
        finally:
            capture.release()
        raise UserError(f"camera {number} has gone: it gives no more pictures")

    return shots()


# A camera with an address


def _address(url: str) -> Shots:
    import av

    name = shown_name(url)
    if urlsplit(url).scheme not in SCHEMES:
        raise UserError(f"{name}: no address of a camera; they begin with {', '.join(SCHEMES)}")
    av.logging.set_level(None)  # of damaged pieces, which are left out

    def opened(options: dict[str, str]) -> "InputContainer":
        try:
            return av.open(url, options=options, timeout=(OPENS, READS), metadata_errors="backslashreplace")
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(f"{name}: {_reason(error)}; check the address, and that the camera is on") from error

    container = opened(OPTIONS | AT_ONCE)
    is_film = container.duration is not None
    if is_film:  # seen from its first frame
        container.close()
        container = opened(OPTIONS)
    if not container.streams.video:
        container.close()
        raise UserError(f"{name}: it sends no pictures")

    def shots() -> Shots:
        stream = container.streams.video[0]
        try:
            with container:
                for raw in _received(container):
                    frame = Frame(0, 0.0, *upright_size(raw, stream), raw)
                    yield Shot(raw.time if is_film else None, partial(_small, frame))
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(f"{name} has gone: {_reason(error)}") from error
        if not is_film:
            raise UserError(f"{name} has gone: it sends no more pictures")

    return shots()


def _received(container: "InputContainer") -> "Iterator[av.VideoFrame]":
    import av

    stream = container.streams.video[0]
    stream.thread_type = "SLICE"  # threads that take a frame each would hold frames back
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue  # a damaged piece; the next one may be whole


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


# A video file in a camera's place


def _film(path: str) -> Shots:
    if not Path(path).is_file():
        raise UserError(f"no file {path}; --camera takes a number (0), an address (rtsp://...) or a video file")
    try:
        video = read_video(path, Label().max_megapixels * 1e6)
    except RefusedError as error:
        raise UserError(f"{path}: {error.reason}") from error

    def shots() -> Shots:
        try:
            for frame in frames(path, video, every=0):
                yield Shot(frame.time, partial(_small, frame))
        except RefusedError as error:
            raise UserError(f"{path}: {error.reason}") from error

    return shots()
