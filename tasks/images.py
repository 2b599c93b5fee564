"""From pixels to network input. Training and labelling both go through `normalise`, so they cannot drift apart."""

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.expressions import FACE_SIZE
from tasks.files import replacing


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn grey images into network input.

    Args:
        pixels: uint8, shape (N, H, W), 0 black to 255 white.

    Returns:
        float32, shape (N, H, W, 1), in [0, 1].
    """
    return np.divide(pixels[..., np.newaxis], np.float32(255), dtype=np.float32)


def write_sheet(path: Path, rows: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write a PNG with a line of faces per title; each value is uint8, shape (N, 48, 48), N may differ."""
    from PIL import Image, ImageDraw, ImageFont

    margin = 4
    step = FACE_SIZE + margin
    font = ImageFont.load_default(11)
    title = 2 * margin + max((math.ceil(font.getlength(name)) for name in rows), default=0)
    width = title + step * max((len(faces) for faces in rows.values()), default=0)
    sheet = Image.new("L", (width, margin + step * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for top, (name, faces) in zip(range(margin, sheet.height, step), rows.items(), strict=False):
        pen.text((margin, top + FACE_SIZE // 2), name, "black", font, anchor="lm")
        for left, face in zip(range(title, width, step), faces, strict=False):
            sheet.paste(Image.fromarray(face), (left, top))
    png = io.BytesIO()
    sheet.save(png, "PNG")
    with replacing(path) as temporary:
        temporary.write_bytes(png.getvalue())


def encode(image: NDArray[np.uint8], ending: str, quality: int = 90) -> bytes:
    """An image file's bytes, of a grey or BGR image; `ending` is .jpg, of that quality, or .png."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1] if ending == ".jpg" else []
    _, encoded = cv2.imencode(ending, image, options)
    return encoded.tobytes()


def crop_square(image: NDArray[np.uint8], left: float, top: float, side: float, tilt: float = 0.0) -> NDArray[np.uint8]:
    """Cut a square out of an image.

    Args:
        image: uint8, shape (H, W) or (H, W, 3).
        left: px, of the square's edge; it may reach beyond the image, whose edge pixels are repeated there.
        top: px, likewise.
        side: px.
        tilt: degrees, clockwise, by which the square is turned about its centre; what it shows is upright again.

    Returns:
        uint8, shape (S, S) or (S, S, 3).
    """
    if tilt:
        return _crop_turned(image, left, top, side, tilt)
    length = max(1, round(side))
    rows = np.clip(np.arange(round(top), round(top) + length), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(round(left), round(left) + length), 0, image.shape[1] - 1)
    return image[np.ix_(rows, columns)]


def _crop_turned(image: NDArray[np.uint8], left: float, top: float, side: float, tilt: float) -> NDArray[np.uint8]:
    import cv2

    angle = math.radians(tilt)
    margin = side * (abs(math.cos(angle)) + abs(math.sin(angle)) - 1) / 2  # to the upright square around the turned one
    corner = round(left - margin), round(top - margin)
    around = crop_square(image, *corner, side + 2 * margin + 1)
    length = max(1, round(side))
    middle = left + (side - 1) / 2 - corner[0], top + (side - 1) / 2 - corner[1]
    matrix = cv2.getRotationMatrix2D(middle, tilt, 1.0)
    to_middle = [[0, 0, (length - 1) / 2 - middle[0]], [0, 0, (length - 1) / 2 - middle[1]]]
    turned = cv2.warpAffine(
        around, np.add(matrix, to_middle), (length, length), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return turned.astype(np.uint8, copy=False)


def scale_square(square: NDArray[np.uint8], side: int = FACE_SIZE) -> NDArray[np.uint8]:
    """Scale a square, uint8, (S, S) or (S, S, 3), to `side` px."""
    import cv2

    # Averaging over areas keeps a large face from aliasing; enlarging, it would leave blocks.
    method = cv2.INTER_AREA if len(square) > side else cv2.INTER_CUBIC
    return cv2.resize(square, (side, side), interpolation=method).astype(np.uint8, copy=False)
