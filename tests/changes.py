"""What a camera, a file or another framing does to a face, and what leaves its expression: used by tests and benchmarks."""

from collections.abc import Callable

import cv2
import numpy as np

from tasks.images import normalise

Change = Callable[[np.ndarray], np.ndarray]


def each(change: Change) -> Change:
    """Apply a change of one grey picture, uint8, to faces, float32, (N, 48, 48, 1), in [0, 1]."""

    def changed(faces: np.ndarray) -> np.ndarray:
        pictures = np.rint(faces[..., 0] * 255).astype(np.uint8)
        return normalise(np.stack([change(picture) for picture in pictures]))

    return changed


def moved(degrees: float = 0.0, down: float = 0.0, right: float = 0.0, zoom: float = 1.0) -> Change:
    """A picture turned about its centre, enlarged and moved by so many pixels, its edge repeated."""
    matrix = cv2.getRotationMatrix2D((23.5, 23.5), degrees, zoom) + np.array([[0, 0, right], [0, 0, down]])
    return lambda picture: cv2.warpAffine(picture, matrix, (48, 48), borderMode=cv2.BORDER_REPLICATE)


def jpeg(quality: int) -> Change:
    """A picture as a JPEG file leaves it."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return lambda picture: cv2.imdecode(cv2.imencode(".jpg", picture, options)[1], cv2.IMREAD_GRAYSCALE)


def halved(picture: np.ndarray) -> np.ndarray:
    """A picture of half the resolution, enlarged again."""
    return cv2.resize(cv2.resize(picture, (24, 24), interpolation=cv2.INTER_AREA), (48, 48))


CHANGES: dict[str, Change] = {  # of faces, float32, (N, 48, 48, 1), in [0, 1]
    "mirrored": lambda faces: faces[:, :, ::-1],
    "darker": lambda faces: np.clip(faces * 0.7, 0, 1),
    "brighter": lambda faces: np.clip(faces + 0.15, 0, 1),
    "less contrast": lambda faces: (faces - 0.5) * 0.6 + 0.5,
    "more contrast": lambda faces: np.clip((faces - 0.5) * 1.4 + 0.5, 0, 1),
    "two pixels down": each(moved(down=2)),
    "two pixels left": each(moved(right=-2)),
    "turned left": each(moved(degrees=8)),
    "turned right": each(moved(degrees=-8)),
    "larger": each(moved(zoom=1.12)),
    "smaller": each(moved(zoom=0.88)),
    "JPEG, quality 40": each(jpeg(40)),
    "half the resolution": each(halved),
}
