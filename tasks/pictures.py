"""Pictures of what was found: copies of the photos with their faces marked, and crops sorted into a folder per expression.

A picture's name holds a checksum of what it shows. So a picture that is there already is right, and one that no result asks for
is out of date. A crop's name ends with the network's label, too: in the folder of another expression, a person has put it there.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from tasks.buckets import is_url
from tasks.expressions import COLOURS, EXPRESSIONS, FACE_SIZE, label_of
from tasks.faces import FaceBox
from tasks.files import replacing
from tasks.images import encode
from tasks.label import Labelled
from tasks.photos import RefusedError, decode, read_header
from tasks.sources import ANNOTATED, CROPS, STORE, ImageFile
from tasks.threads import in_order

LONG_SIDE = 1600  # px, of an annotated copy at most
SHOWN_BY_BROWSERS = frozenset(("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "AVIF"))
PLAYED_BY_BROWSERS = frozenset(("H264", "VP8", "VP9", "AV1"))
PLAYED_ENDINGS = (".mp4", ".m4v", ".mov", ".webm")
LONGEST_STEM = 80  # characters of the photo's name in the picture's
STEM_BYTES = 200  # that these may take; disks allow 255 for all of a name, some of which replacing() needs
OURS = re.compile(  # names that pictures get, and what a kill leaves of them
    rf"({ANNOTATED}/\.?[\w.-]*-[0-9a-f]{{8}}\.(jpg|mp4)"
    rf"|{CROPS}/({'|'.join(EXPRESSIONS)})/\.?[\w.-]*-[0-9a-f]{{8}}-\d+-({'|'.join(EXPRESSIONS)})\.png)(\.part)?"
)


def annotated_name(result: Labelled, how: str) -> str:
    """The path of the annotated copy, relative to the output folder; `how`: the key of what videos are looked at with."""
    drawn = repr([(face.box, face.label, face.confidence) for face in result.faces])
    if result.file.is_video:  # whose faces stand for tracks: which frames the copy has, they do not tell
        return f"{ANNOTATED}/{_stem(result)}-{_checksum(result, drawn + how)}.mp4"
    return f"{ANNOTATED}/{_stem(result)}-{_checksum(result, drawn)}.jpg"


def crop_names(result: Labelled) -> list[str]:
    """The paths of the crops of an image's faces, relative to the output folder."""
    return [
        f"{CROPS}/{face.label}/{_stem(result)}-{_checksum(result, repr(face.crop))}-{number}-{face.label}.png"
        for number, face in enumerate(result.faces, 1)
    ]


def face_and_label(name: str) -> tuple[str, str]:
    """What a crop's name without its folder says: which face it is, and the network's label; "" if it is no crop's name."""
    face, _, label = name.removesuffix(".png").rpartition("-")
    return (face, label) if label in EXPRESSIONS else (name, "")


class Place(Protocol):
    """Where pictures go: an output folder, or a prefix of a bucket. Names are paths relative to it, with slashes."""

    shown: str  # its path or URL
    mark: str  # the file that every run puts there first: what labelling finds without it is not its own
    after_sorting: str  # what to do with crops that a person has sorted

    def has(self, name: str) -> bool:
        """Whether there is such a picture."""

    def names(self, folder: str) -> Iterable[str]:
        """Those in a folder and below it."""

    def present(self, names: Iterable[str]) -> Iterator[str]:
        """Which of some files that are no pictures are there; of a table in parts, its parts."""

    def put(self, name: str, content: bytes) -> None:
        """Write a picture, whole. Safe on several threads."""

    def make(self, name: str, write: Callable[[Path], None]) -> None:
        """Let a function write a picture into a file, or leave it."""

    def remove(self, name: str) -> None:
        """Remove a picture."""

    def href(self, file: ImageFile) -> str:
        """The URL of a photo or video relative to the place, percent-encoded; "" if a page there cannot open it."""


class Folder:
    """An output folder, as a place for pictures."""

    mark = STORE

    def __init__(self, path: Path) -> None:
        self._path, self.shown = path, str(path)
        self.after_sorting = f"run `ferflow collect {path}`, then remove {path / CROPS}"

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self._path / name).exists()

    def names(self, folder: str) -> Iterator[str]:
        """The files in a folder and below it."""
        files = (path for path in (self._path / folder).rglob("*") if path.is_file())
        return (path.relative_to(self._path).as_posix() for path in files)

    def present(self, names: Iterable[str]) -> Iterator[str]:
        """Which of some files are there."""
        return filter(self.has, names)

    def put(self, name: str, content: bytes) -> None:
        """Write a file, atomically."""
        with replacing(self._path / name) as temporary:
            temporary.write_bytes(content)

    def make(self, name: str, write: Callable[[Path], None]) -> None:
        """Let a function write the file, atomically."""
        write(self._path / name)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._path / name).unlink()

    def href(self, file: ImageFile) -> str:
        """From the folder to the file; "" to an object of a bucket."""
        return "" if is_url(file.path) else quote(os.fsencode(os.path.relpath(file.path, self._path.absolute())))


def moved_crops(place: Place) -> list[str]:
    """The names of the crops that a person has put into another folder than that of the network's label."""
    crops = (PurePosixPath(name) for name in place.names(CROPS) if name.endswith(".png"))
    return [str(crop) for crop in crops if _is_moved(crop)]


def _is_moved(crop: PurePosixPath) -> bool:
    """Whether a crop's folder is another expression's; a folder with another name of the same one says nothing new."""
    label = face_and_label(crop.name)[1]
    return bool(label) and label_of(crop.parent.name) != label_of(label)


def own_pictures(place: Place) -> Iterator[str]:
    """The names of the pictures that labelling takes for its own, which it removes when no result asks for them."""
    return (name for folder in (ANNOTATED, CROPS) for name in list(place.names(folder)) if OURS.fullmatch(name))


def _stem(result: Labelled) -> str:
    """The photo's name without what some file systems or programs refuse; not a hidden one, which nobody sorts or collects."""
    stem = re.sub(r"[^\w.-]+", "_", Path(result.file.shown).stem).lstrip(".")[:LONGEST_STEM]
    return stem.encode()[:STEM_BYTES].decode(errors="ignore")


def _checksum(result: Labelled, content: str) -> str:
    identity = f"{result.file.key} {result.file.size} {result.file.stamp} {content}"
    return hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:8]


def viewable(result: Labelled) -> bool:
    """Whether a browser can show the photo or video itself: it lies in a file of its own, in a form that browsers know."""
    if result.file.is_video:
        return result.format in PLAYED_BY_BROWSERS and result.file.path.lower().endswith(PLAYED_ENDINGS)
    return not result.file.member and result.format in SHOWN_BY_BROWSERS


def write_pictures(
    results: Iterable[Labelled],
    place: Place,
    annotated: bool,
    crops: bool,
    workers: int,
    how: str,
    copy_video: Callable[[Labelled, Path], None],
) -> None:
    """Write the pictures that are not there yet, on threads, then remove those out of date.

    Without `annotated`, only photos that a browser cannot show get a copy: the report opens it. `copy_video` writes a video's,
    whose name depends on `how`.
    """
    expected: set[str] = set()

    def missing() -> Iterator[tuple[Labelled, list[str]]]:
        for result in results:
            names = crop_names(result) if crops else []
            if result.faces and (annotated or not (viewable(result) or result.file.is_video)):
                names.append(annotated_name(result, how))
            expected.update(names)
            if absent := [name for name in names if not place.has(name)]:
                if result.file.is_video and absent[-1] == annotated_name(result, how):
                    place.make(absent.pop(), partial(copy_video, result))
                yield result, absent

    for _ in in_order(partial(_write_missing, place=place), missing(), workers):
        pass
    for name in own_pictures(place):  # remove those of earlier runs that no result asks for, and nobody's photos
        if name not in expected and not _is_moved(PurePosixPath(name)):  # by a person, while the pictures were written
            place.remove(name)


def _write_missing(missing: tuple[Labelled, list[str]], place: Place) -> None:
    result, names = missing
    crops = dict(zip(crop_names(result), result.faces, strict=True))
    for name in names:
        content = crops[name].crop if name in crops else annotated_copy(result)
        if content:
            place.put(name, content)


def annotated_copy(result: Labelled) -> bytes:
    """The photo as JPEG, at most LONG_SIDE px large, with its faces marked; empty if it can no longer be read."""
    try:
        content = result.file.read()
        image = decode(content, read_header(content, np.inf), LONG_SIDE)
    except (OSError, RefusedError):
        return b""
    return encode(annotate(image, result), ".jpg")


def annotate(image: NDArray[np.uint8], result: Labelled) -> NDArray[np.uint8]:
    """Draw a box, the expression and its confidence around each face; `image` may be smaller than the original."""
    import cv2

    scale = min(1.0, LONG_SIDE / max(image.shape))
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    shrunk = image.shape[1] / (result.width or image.shape[1])
    for face in result.faces:
        left, top, width, height = (value * shrunk for value in face.box[:4])
        box = FaceBox(left, top, width, height, face.box.score)
        mark(image, box, f"{face.label} {face.confidence:.0%}", COLOURS[face.label])
    return image


def mark(image: NDArray[np.uint8], box: FaceBox, text: str, colour: str) -> None:
    """Draw, into the image, a box and, on a bar of its colour above it (inside it at the image's upper edge), the text."""
    import cv2

    bgr = tuple(bytes.fromhex(colour[1:]))[::-1]
    pen = max(1, round(max(image.shape[:2]) / 400))
    left, top, right, bottom = (round(each) for each in (box.x, box.y, box.x + box.width, box.y + box.height))
    cv2.rectangle(image, (left, top), (right, bottom), bgr, pen, cv2.LINE_AA)
    scale = max(box.width, FACE_SIZE) / 170  # a text of about the width of the face
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, pen)
    bar = 2 * height
    top = max(top, bar)
    cv2.rectangle(image, (left, top - bar), (left + width + height, top), bgr, cv2.FILLED)
    where = (left + height // 2, top - height // 2)
    cv2.putText(image, text, where, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), pen, cv2.LINE_AA)
