"""The engine of labelling: image files in, faces with their expressions out. Needs no TensorFlow, writes nothing.

Threads read, decode and look for faces, image by image; the faces of many images are classified together. The order is that of
the files, and no result depends on the number of threads or on what else is labelled. A file that cannot be read is a
result like any other, never the end of the run.
"""

import errno
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.buckets import is_url
from tasks.champion import CARD, INFO, Champion, load
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS, FACE_SIZE
from tasks.faces import Detector, FaceBox, make_detector
from tasks.files import sha256
from tasks.images import crop_square, encode, normalise, scale_square
from tasks.params import PARAMS, Label
from tasks.paths import CHAMPION
from tasks.photos import Header, RefusedError, decode, read_header
from tasks.sources import ImageFile
from tasks.threads import in_order

# Requests to a bucket at once, per worker. A photo of 1080p keeps that busy for 25 ms or more (tests/benchmarks/bucket_speed.py):
# 4 are enough where a request takes 0.1 s, 8 where it takes 0.2 s.
READERS = 8
MOST_AHEAD = 32 * 10**6  # bytes of an object that is read ahead; of larger ones, no more than workers are in memory
BATCH = 16  # faces that are classified together; larger batches are no faster
THUMBNAIL = 64  # px
THUMBNAIL_QUALITY = 80
ENGINE = [  # checksums of the code that results depend on, as it was when it was imported
    sha256(Path(__file__).with_name(name)) for name in ("faces.py", "images.py", "label.py", "photos.py")
]


class Settings(NamedTuple):
    """All that decides what a file's result is. Plain values: it travels to other processes."""

    champion: str  # folder
    network: str  # checksum and temperature of its network
    detector: str
    detector_options: tuple[tuple[str, Any], ...]
    whole: bool  # images are faces cut out already
    mirror: bool  # average over mirror images
    max_megapixels: float

    @property
    def key(self) -> str:
        """Changes whenever results could: with the network, the detector, an option, or the engine's code."""
        return hashlib.sha256(json.dumps([*self[1:], *ENGINE]).encode()).hexdigest()


class Face(NamedTuple):
    """A face and its expression."""

    box: FaceBox  # rounded to px, of the upright original
    probabilities: tuple[float, ...]  # in EXPRESSIONS' order, rounded to 4 places
    crop: bytes = b""  # PNG, grey, 48x48: what the network saw
    thumbnail: bytes = b""  # JPEG, in colour, THUMBNAIL px: for people

    @property
    def label(self) -> str:
        """The most probable expression."""
        return EXPRESSIONS[self.probabilities.index(self.confidence)]

    @property
    def confidence(self) -> float:
        """The probability of the most probable expression."""
        return max(self.probabilities)


class Labelled(NamedTuple):
    """What is known of an image."""

    file: ImageFile
    status: str  # ok, no_face, unreadable, too_large, unsupported, failed
    reason: str = ""  # why there is no result
    format: str = ""  # JPEG, PNG, ...; "WEBP, turned" if its EXIF says to turn it
    width: int | None = None  # px, upright
    height: int | None = None
    milliseconds: float = 0.0  # to read, decode and find faces
    faces: tuple[Face, ...] = ()
    failure: int | None = None  # errno of disk or network; then the next run tries again


class _Found(NamedTuple):
    """An image whose faces have no probabilities yet, and the faces as the network sees them, uint8, (faces, 48, 48)."""

    result: Labelled
    crops: NDArray[np.uint8]


NO_CROPS: NDArray[np.uint8] = np.empty((0, FACE_SIZE, FACE_SIZE), np.uint8)


def make_settings(options: Label | None = None, champion: Path = CHAMPION) -> Settings:
    """Settings from the section `label` of params.yaml and a champion, which is loaded and checked.

    Raises:
        UserError: no champion, a damaged one, or no detector.
    """
    # Of a folder with one of these, `load` says more.
    if champion != CHAMPION and not any((champion / name).exists() for name in (INFO, CARD)):
        no_folder = "" if champion.is_dir() else ", which is no folder"
        raise UserError(f"no champion in {champion}{no_folder}; check the spelling of --champion")
    if not champion.exists() and not PARAMS.exists():
        raise UserError(f"no champion in {champion}; run ferflow in the folder of the pipeline, or name --champion")
    options = options or Label()
    make_detector(options.detector)
    return Settings(
        str(champion),
        _network(load(champion)),
        options.detector,
        tuple(sorted(options.detector_options().items())),
        options.whole,
        options.mirror,
        options.max_megapixels,
    )


def _network(champion: Champion) -> str:
    return f"{champion.info['files']['model.tflite']} / {champion.info['calibration']['temperature']}"


def champion_of(settings: Settings) -> Champion:
    """The champion of the settings, loaded once.

    Raises:
        UserError: another one lies there by now.
    """
    return _champion(settings.champion, settings.network)


@lru_cache(maxsize=1)
def _champion(folder: str, network: str) -> Champion:
    champion = load(Path(folder), threads=1)  # the threads are ours
    if _network(champion) != network:
        raise UserError(f"{folder} changed meanwhile; the same command labels again with {champion.version}")
    return champion


def label_images(files: Iterable[ImageFile], settings: Settings, workers: int) -> Iterator[Labelled]:
    """Label files with `workers` threads, in the order given; lazily, and holding few images at a time.

    Raises:
        UserError: the champion is not the one of the settings.
    """
    champion = champion_of(settings)
    classify = partial(_classify, champion=champion, mirror=settings.mirror)
    readers = ThreadPoolExecutor(READERS * workers, "reader")  # its threads start when they are first needed
    try:
        found = in_order(partial(_find_requested, settings=settings), _requested(files, readers), workers)
        for results in in_order(classify, _batches(found), workers, ahead=1):
            yield from results
    finally:
        readers.shutdown(wait=False, cancel_futures=True)


Content = tuple[ImageFile, bytes]  # and the file as it was when it was read
Request = tuple[ImageFile, Callable[[], Content]]


def _requested(files: Iterable[ImageFile], readers: ThreadPoolExecutor) -> Iterator[Request]:
    """Files, and what waits for their contents: objects are being read already, as far ahead as the caller goes."""
    for file in files:
        ahead = is_url(file.path) and file.size <= MOST_AHEAD
        yield file, readers.submit(file.read_as_it_is).result if ahead else file.read_as_it_is


def _find_requested(request: Request, settings: Settings) -> _Found:
    file, read = request
    return find_faces(file, settings, read)


def _batches(found: Iterable[_Found]) -> Iterator[list[_Found]]:
    """Several images each, together BATCH faces or a few more; or BATCH images, if there are no faces."""
    batch: list[_Found] = []
    faces = 0
    for each in found:
        batch.append(each)
        faces += len(each.crops)
        if max(len(batch), faces) >= BATCH:
            yield batch
            batch, faces = [], 0
    if batch:
        yield batch


def find_faces(file: ImageFile, settings: Settings, read: Callable[[], Content] | None = None) -> _Found:
    """Read an image, by `read` if it is given, and find its faces; whatever is wrong with it is in the result."""
    started = time.perf_counter()
    try:
        found = _find_faces(*(read or file.read_as_it_is)(), settings)
    except Exception as error:
        found = _Found(refused(file, error), NO_CROPS)
    milliseconds = round((time.perf_counter() - started) * 1000, 1)
    return found._replace(result=found.result._replace(milliseconds=milliseconds))


def refused(file: ImageFile, error: Exception) -> Labelled:
    """What is known of a file that cannot be labelled for this error."""
    match error:
        case RefusedError():
            return Labelled(file, error.status, error.reason)
        case OSError():
            reason = (error.strerror or type(error).__name__).lower()
            return Labelled(file, "unreadable", reason, failure=error.errno or errno.EIO)
        case MemoryError():
            return Labelled(file, "failed", "not enough memory", failure=errno.ENOMEM)
        case _:  # a defect, here or in a library: a row tells of it, and the other files go on
            return Labelled(file, "failed", " ".join(f"{type(error).__name__}: {error}".split()))


def _find_faces(file: ImageFile, content: bytes, settings: Settings) -> _Found:
    header = read_header(content, settings.max_megapixels * 1e6)
    # A form of its own: browsers do not turn WebP as its EXIF says.
    form = f"{header.format}, turned" if header.format == "WEBP" and header.orientation != 1 else header.format
    known = Labelled(file, "ok", "", form, header.width, header.height)
    whole = settings.whole or (header.width, header.height) == (FACE_SIZE, FACE_SIZE)
    view = partial(decode, content, header)
    cuts = cut_middle(view, header) if whole else look(view, header.width, settings)
    faces = tuple(Face(cut.box, (), *cut.pictures()) for cut in cuts)
    crops = np.stack([cut.crop for cut in cuts]) if cuts else NO_CROPS
    return _Found(known._replace(faces=faces, status="ok" if faces else "no_face"), crops)


class Spot(NamedTuple):
    """Where a face is, in px of the upright original."""

    box: FaceBox
    square: tuple[float, float, float]  # what the network is to see of it: left, top, side

    @property
    def rounded(self) -> FaceBox:
        """The box as tables show it."""
        left, top, width, height = map(round, self.box[:4])
        return FaceBox(left, top, width, height, None if self.box.score is None else round(self.box.score, 3))


class Cut(NamedTuple):
    """A face cut out of a picture."""

    box: FaceBox  # rounded to px, of the upright original
    crop: NDArray[np.uint8]  # grey, (48, 48): what the network sees
    square: NDArray[np.uint8]  # BGR, (side, side, 3)

    def pictures(self) -> tuple[bytes, bytes]:
        """The crop as PNG, and a thumbnail as JPEG, THUMBNAIL px large; they take longer than the network."""
        return encode(self.crop, ".png"), encode(scale_square(self.square, THUMBNAIL), ".jpg", THUMBNAIL_QUALITY)


def cut_middle(view: Callable[[float], NDArray[np.uint8]], header: Header) -> list[Cut]:
    """Cut out the largest square in the middle: of a picture that is a face cut out already. `view` as of `look`."""
    side = min(header.width, header.height)
    box = FaceBox((header.width - side) / 2, (header.height - side) / 2, side, side, None)
    return cut_out(view(FACE_SIZE * max(header.width, header.height) / side), header.width, [Spot(box, box[:3])])


def look(view: Callable[[float], NDArray[np.uint8]], width: int, settings: Settings) -> list[Cut]:
    """Find the faces in a picture, and cut them out.

    Args:
        view: makes the picture, BGR, uint8, (H, W, 3), so small that its longer side still has about as many px as asked for.
        width: px, of the original.
        settings: which detector.
    """
    image, spots = find_spots(view, width, settings)
    if spots:
        smallest = min(spot.square[2] for spot in spots) * image.shape[1] / width
        if image.shape[1] < width and smallest < FACE_SIZE:  # the network can use more than the detector
            image = view(max(image.shape) * FACE_SIZE / smallest)
    return cut_out(image, width, spots)


def find_spots(
    view: Callable[[float], NDArray[np.uint8]], width: int, settings: Settings
) -> tuple[NDArray[np.uint8], list[Spot]]:
    """Find the faces in a picture; returns the picture that they were found in, and where they are. Arguments as of `look`."""
    detector = thread_detector(settings.detector, settings.detector_options)
    image = view(detector.long_side)
    scale = width / image.shape[1]
    boxes = [_scaled(box, scale) for box in detector.detect(image)]
    return image, [Spot(box, detector.framing.square(box)) for box in boxes]


def cut_out(image: NDArray[np.uint8], width: int, spots: Sequence[Spot]) -> list[Cut]:
    """Cut faces out of a picture, BGR, uint8, (H, W, 3), of an original that is `width` px wide."""
    zoom = image.shape[1] / width
    squares = [crop_square(image, left * zoom, top * zoom, side * zoom, box.tilt) for box, (left, top, side) in spots]
    return [Cut(spot.rounded, _network_input(square), square) for spot, square in zip(spots, squares, strict=True)]


_local = threading.local()


def thread_detector(name: str, options: tuple[tuple[str, Any], ...]) -> Detector:
    """This thread's detector: OpenCV's hold a state and cannot be shared."""
    if getattr(_local, "made_for", None) != (name, options):
        _local.detector = make_detector(name, **dict(options))
        _local.made_for = (name, options)
    detector: Detector = _local.detector
    return detector


def _scaled(box: FaceBox, scale: float) -> FaceBox:
    return FaceBox(box.x * scale, box.y * scale, box.width * scale, box.height * scale, box.score, box.tilt)


def _network_input(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    return scale_square(cv2.cvtColor(square, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False))


def _classify(found: list[_Found], champion: Champion, mirror: bool) -> list[Labelled]:
    """Give the faces of several images their probabilities."""
    rows = iter(classify(np.concatenate([each.crops for each in found]), champion, mirror))
    return [
        result._replace(faces=tuple(face._replace(probabilities=next(rows)) for face in result.faces))
        for result, _ in found
    ]


def classify(crops: NDArray[np.uint8], champion: Champion, mirror: bool) -> list[tuple[float, ...]]:
    """Seven probabilities, rounded to 4 places, of each of the crops, uint8, (N, 48, 48)."""
    faces = normalise(crops)
    probabilities = champion.predict(faces).astype(np.float64)
    if mirror:
        probabilities = (probabilities + champion.predict(faces[:, :, ::-1])) / 2
    return [tuple(row) for row in probabilities.round(4).tolist()]
