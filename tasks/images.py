"""From pixels to network input. Training and labelling both go through `normalise`, so they cannot drift apart."""

import io
import math
import warnings
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


def decode_grey(content: bytes, most_pixels: int) -> NDArray[np.uint8] | None:
    """Decode the bytes of a JPEG or PNG file to grey, uint8, shape (H, W), turned upright as its EXIF says.

    Returns None if it is neither, is damaged or cut short, or has more than `most_pixels`: that is read in the file's header
    before anything is decoded, so that a small file cannot ask for a huge picture.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
        if image.width * image.height > most_pixels:
            return None
        return np.asarray(ImageOps.exif_transpose(image).convert("L"))
    except Exception:  # Pillow's readers raise whatever a broken byte leads to: OSError, SyntaxError, struct.error, ...
        return None


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


def decode_colour(content: bytes) -> NDArray[np.uint8] | None:
    """Decode an image file's bytes to BGR, uint8, shape (H, W, 3), turned upright as its EXIF says; None if unreadable."""
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:  # of its own limits, such as 2**30 pixels
        return None
    return None if image is None else image.astype(np.uint8, copy=False)


def crop_face(image: NDArray[np.uint8], left: float, top: float, side: float) -> NDArray[np.uint8]:
    """Cut a square out of an image and scale it to network size.

    Args:
        image: grey, uint8, shape (H, W).
        left: px, of the square's edge; it may reach beyond the image, whose edge pixels are repeated there.
        top: px, likewise.
        side: px.

    Returns:
        uint8, shape (48, 48).
    """
    import cv2

    length = max(1, round(side))
    rows = np.clip(np.arange(round(top), round(top) + length), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(round(left), round(left) + length), 0, image.shape[1] - 1)
    square = image[np.ix_(rows, columns)]
    # Averaging over areas keeps a large face from aliasing; enlarging, it would leave blocks.
    method = cv2.INTER_AREA if length > FACE_SIZE else cv2.INTER_CUBIC
    return cv2.resize(square, (FACE_SIZE, FACE_SIZE), interpolation=method).astype(np.uint8, copy=False)
