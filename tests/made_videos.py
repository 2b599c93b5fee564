"""Videos that tests make: photos of real faces that move over a plain ground."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from conftest import ASTRONAUT, HOPPER
from numpy.typing import NDArray

TICKS = 1000  # of a second
GROUND = (90, 110, 100)
TONE = 440  # Hz, of the sound


def smiling() -> NDArray[np.uint8]:
    """A face that the champion calls happy, BGR, square."""
    return cv2.imread(str(ASTRONAUT))[0:230, 110:340]


def serious() -> NDArray[np.uint8]:
    """Another person's face, BGR, square."""
    return cv2.imread(str(HOPPER))[20:420, 60:460]


class Actor(NamedTuple):
    """A face at a place: px, of the square picture around it."""

    face: NDArray[np.uint8]
    left: float
    top: float
    side: float


Scene = Callable[[float], Iterable[Actor]]  # who is where at a time in seconds


def draw(actors: Iterable[Actor], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame, BGR, uint8, of (width, height); what lies beyond its edges is cut off. The later actor is in front."""
    width, height = size
    image = np.full((height, width, 3), GROUND, np.uint8)
    for face, left, top, length in actors:
        x, y, side = round(left), round(top), round(length)
        picture = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        shown = picture[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
        image[max(0, y) : max(0, y) + shown.shape[0], max(0, x) : max(0, x) + shown.shape[1]] = shown
    return image


def write_video(
    path: Path,
    scene: Scene,
    seconds: float = 4.0,
    rate: int | Fraction = 25,
    size: tuple[int, int] = (640, 360),
    codec: str = "libx264",
    turned: int = 0,
    times: Sequence[float] = (),
    sound: str = "",
    sound_rate: int = 44100,
    sound_at: float = 0.0,
    title: str = "",
) -> Path:
    """Write a video.

    Args:
        times: of its frames, in place of even ones.
        turned: degrees, as phones note it.
        sound: the codec of a tone, if there shall be one.
        sound_rate: Hz, of its samples.
        sound_at: s, when it begins.
        title: written in Latin-1, as old programs do.
    """
    with av.open(str(path), "w", metadata_encoding="latin-1") as container:
        if title:
            container.metadata["title"] = title
        stream: Any = container.add_stream(codec, rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"g": "25"} | ({"preset": "ultrafast"} if codec == "libx264" else {})
        stream.codec_context.time_base = Fraction(1, TICKS)
        if turned:
            stream.set_display_rotation(turned)
        tone: Any = container.add_stream(sound, sound_rate) if sound else None
        for time in times or [index / rate for index in range(round(seconds * rate))]:
            frame = av.VideoFrame.from_ndarray(draw(scene(time), size), "bgr24")
            frame.pts, frame.time_base = round(time * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone:
            _add_tone(container, tone, seconds, sound_at)
    return path


def damaged(path: Path, *places: float) -> Path:
    """Write zeros over some of a file; each place is a share of its length."""
    content = bytearray(path.read_bytes())
    for place in places:
        begin = round(place * len(content))
        content[begin : begin + 3000] = bytes(3000)
    path.write_bytes(content)
    return path


def write_sound(path: Path, seconds: float = 2.0) -> Path:
    """Write a file that holds only sound."""
    with av.open(str(path), "w") as container:
        _add_tone(container, container.add_stream("aac", 44100), seconds)
    return path


def _add_tone(container: Any, stream: Any, seconds: float, begin: float = 0.0) -> None:
    size, rate = 1024, stream.rate
    for start in range(0, round(seconds * rate), size):
        wave = np.sin(2 * np.pi * TONE * np.arange(start, start + size) / rate).astype(np.float32)
        planar = stream.format.name == "fltp"
        samples = wave if planar else (wave * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], "fltp" if planar else "s16", "mono")
        frame.sample_rate, frame.pts = rate, start + round(begin * rate)
        frame.time_base = Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
