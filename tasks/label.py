"""From photos to tables: find the faces in each image, name their expressions. Needs no TensorFlow.

`write_labels` fills an output folder: faces.csv (one row a face), images.csv (one row an image, with its status), and
annotated/ (a copy of each image with its faces marked). A file that cannot be read is a row, never the end of the run.
"""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UserError
from tasks.expressions import COLOURS, EXPRESSIONS, FACE_SIZE
from tasks.faces import Detector, FaceBox
from tasks.files import replacing
from tasks.images import crop_face, decode_colour, normalise

ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
ANNOTATED = "annotated"
FACE_COLUMNS = ("path", "face", "x", "y", "width", "height", "score", "label", "confidence", *EXPRESSIONS)
IMAGE_COLUMNS = ("path", "status", "reason", "width", "height", "faces")


class Classifier(Protocol):
    """What labelling needs of a champion; see tasks/champion.py."""

    version: str
    info: dict[str, Any]

    def predict(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated probabilities, (N, 7), of faces, (N, 48, 48, 1), in [0, 1]."""
        ...


class LabelledImage(NamedTuple):
    """An image and what was found in it."""

    path: Path
    status: str  # ok, no_face, unreadable
    reason: str = ""  # why it is unreadable
    image: NDArray[np.uint8] | None = None  # BGR, (H, W, 3); None if unreadable
    boxes: tuple[FaceBox, ...] = ()
    probabilities: NDArray[np.float32] = np.empty((0, len(EXPRESSIONS)), np.float32)  # (faces, 7)

    @property
    def labels(self) -> list[str]:
        """The most probable expression of each face."""
        return [EXPRESSIONS[i] for i in self.probabilities.argmax(axis=1)]


def find_images(sources: Iterable[Path], out: Path | None = None) -> list[Path]:
    """Image files in `sources`, sorted within each: files as they are, folders with all below them, by file ending.

    Each file is listed once, and none from the output folder `out`, which may lie inside a source.

    Raises:
        UserError: a source does not exist, or there is no image in any.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        if source.is_dir():
            below = (path for path in source.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
            files = sorted(path for path in below if out is None or out.resolve() not in path.resolve().parents)
        elif source.exists():
            files = [source]
        else:
            raise UserError(f"no file or folder {source}")
        for path in files:
            found.setdefault(path.resolve(), path)
    if not found:
        raise UserError(f"no image ({' '.join(sorted(ENDINGS))}) in {', '.join(map(str, sources))}")
    return list(found.values())


def label_images(paths: Iterable[Path], champion: Classifier, detector: Detector) -> Iterator[LabelledImage]:
    """Label images one after the other, in the order given."""
    for path in paths:
        yield label_image(path, champion, detector)


def label_image(path: Path, champion: Classifier, detector: Detector) -> LabelledImage:
    """Find the faces of one image and classify them; a file that cannot be read has the status 'unreadable'."""
    import cv2

    try:
        content = path.read_bytes()
    except OSError as error:
        return LabelledImage(path, "unreadable", error.strerror or type(error).__name__)
    image = decode_colour(content)
    if image is None:
        return LabelledImage(path, "unreadable", "not an image, or a damaged one" if content else "an empty file")
    boxes = tuple(detector.detect(image))
    if not boxes:
        return LabelledImage(path, "no_face", "", image)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False)
    crops = np.stack([crop_face(grey, *detector.framing.square(box)) for box in boxes])
    return LabelledImage(path, "ok", "", image, boxes, champion.predict(normalise(crops)))


def write_labels(
    results: Iterable[LabelledImage], champion: Classifier, detector: Detector, out: Path
) -> Iterator[LabelledImage]:
    """Write each result as it passes by, and hand it on; the two tables appear when the last one has passed.

    Every face's row says which champion labelled it, on which data that was trained, and which detector found the face.
    """
    origin = (champion.version, champion.info["data"]["name"], detector.name)
    names = _Names()
    with (
        _table(out / "faces.csv", (*FACE_COLUMNS, "champion", "trained_on", "detector")) as faces,
        _table(out / "images.csv", (*IMAGE_COLUMNS, "annotated")) as images,
    ):
        for result in results:
            picture = ""
            if result.image is not None:
                picture = f"{ANNOTATED}/{names.unused(result.path)}"
                write_annotated(result, out / picture)
            faces.writerows((*row, *origin) for row in face_rows(result))
            images.writerow((*image_row(result), picture))
            yield result


@contextmanager
def _table(path: Path, columns: Iterable[str]) -> Iterator[Any]:
    """A csv writer whose file appears, whole, at the end; names of files may hold bytes that are not UTF-8."""
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        yield writer


def face_rows(result: LabelledImage) -> list[tuple[Any, ...]]:
    """One row of FACE_COLUMNS per face: box in pixels, probabilities in EXPRESSIONS' order."""
    rows = []
    for number, (box, label, shares) in enumerate(
        zip(result.boxes, result.labels, result.probabilities, strict=True), 1
    ):
        place = [round(value) for value in box[:4]]
        probabilities = [f"{share:.4f}" for share in shares]
        rows.append((result.path, number, *place, f"{box.score:.3f}", label, max(probabilities), *probabilities))
    return rows


def image_row(result: LabelledImage) -> tuple[Any, ...]:
    """The row of IMAGE_COLUMNS; the size is empty if the image is unreadable."""
    height, width = ("", "") if result.image is None else result.image.shape[:2]
    return result.path, result.status, result.reason, width, height, len(result.boxes)


class _Names:
    """File names for annotated copies: the original's, numbered where two folders hold the same one."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def unused(self, path: Path) -> str:
        ending = path.suffix if path.suffix.lower() in ENDINGS else f"{path.suffix}.jpg"
        name, number = path.stem + ending, 1
        while name in self._used:
            number += 1
            name = f"{path.stem}-{number}{ending}"
        self._used.add(name)
        return name


def write_annotated(result: LabelledImage, path: Path) -> None:
    """Write a copy of the image with a box, the expression and its confidence around each face."""
    import cv2

    if result.image is None:
        return
    image = result.image.copy()
    for box, label, shares in zip(result.boxes, result.labels, result.probabilities, strict=True):
        _mark(image, box, f"{label} {shares.max():.0%}", COLOURS[label])
    _, encoded = cv2.imencode(path.suffix, image)
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _mark(image: NDArray[np.uint8], box: FaceBox, text: str, colour: str) -> None:
    """Draw a box and, on a bar of its colour above it (inside it at the image's upper edge), the text."""
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
