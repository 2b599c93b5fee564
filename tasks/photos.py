"""Reading the image files that people have: of many forms, turned, damaged, or made to do harm.

The header is read first, and what it claims decides whether the pixels are decoded at all.
"""

import functools
import io
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

JPEGS = ("JPEG", "MPO")  # MPO: several JPEGs in one file, as phones write; Pillow opens it as JPEG, and then says MPO
# Safe to open; EPS and others are not. MPO is opened as JPEG: Pillow has no opener of that name.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
SIGNATURE = 64  # bytes at a file's beginning that tell what it is
UNSUPPORTED: Mapping[str, bytes] = {  # kinds of image that people have and Pillow does not read, by their beginnings
    "HEIC": rb".{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\x00\x00\x00\x0cJXL ",
    "SVG": rb"\s*(<\?xml|<svg|<!DOCTYPE svg)",
    "Camera RAW": rb"FUJIFILMCCD-RAW|.{4}ftypcrx|IIU\x00|IIRO|II\*\x00.{4}CR",
    "PDF": rb"%PDF-",
    "Photoshop's PSD": rb"8BPS",
}
EXIF_ORIENTATION = 0x0112
TIFF_KIND, DNG_VERSION = 254, 50706  # tags; a kind with bit 0 set is a reduced copy of another picture in the file
FIRST_SIDEWAYS = 5  # of EXIF's orientations; those from here on swap width and height
# EXIF's orientation -> cv2's rotation code (0: 90 degrees clockwise, 1: 180, 2: 90 counterclockwise), then a mirroring.
TURNS: Mapping[int, tuple[int | None, bool]] = {
    1: (None, False), 2: (None, True), 3: (1, False), 4: (1, True), 5: (0, True), 6: (0, False), 7: (2, True), 8: (2, False),
}  # fmt: skip


class RefusedError(Exception):
    """An image cannot be labelled: `status` and `reason` are what its row in the tables says."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


class Header(NamedTuple):
    """What an image file says of itself before its pixels are decoded."""

    format: str  # JPEG, PNG, ...
    width: int  # px, upright
    height: int
    orientation: int  # EXIF: 1 is upright, 2 to 8 are its turned and mirrored forms


def read_header(content: bytes, most_pixels: float) -> Header:
    """Look at an image file's header only: cheap, and safe for a small file that claims to be huge.

    Raises:
        RefusedError: not an image, of a kind that is not read, or of more than `most_pixels`.
    """
    image = _open(content)
    width, height = image.size
    check_size(width, height, most_pixels)  # before EXIF is looked for: to find a PNG's, Pillow may decode it
    orientation = _orientation(image, content)
    if orientation >= FIRST_SIDEWAYS:
        width, height = height, width
    return Header(image.format or "", width, height, orientation)


def check_size(width: int, height: int, most_pixels: float, of: str = "") -> None:
    """Refuse more than `most_pixels`, with what they are `of`: " a frame"."""
    if width * height > most_pixels:
        millions = [f"{pixels / 1e6:,.0f}" for pixels in (width * height, most_pixels)]
        size = f"{width} x {height} px: {millions[0]} megapixels{of}"
        raise RefusedError("too_large", f"{size}, the limit is {millions[1]}")


def _open(content: bytes) -> "Image.Image":
    """Open with Pillow, which reads the header only."""
    from PIL import Image, UnidentifiedImageError

    _prepare_pillow()
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        for kind, signature in UNSUPPORTED.items():
            if re.match(signature, content[:SIGNATURE], re.DOTALL):
                raise RefusedError("unsupported", f"{kind} is not read; convert it to JPEG or PNG") from error
        raise RefusedError("unreadable", "not an image, or a damaged one") from error
    except Exception as error:  # Pillow's readers raise whatever a broken byte leads to: SyntaxError, struct.error, ...
        raise RefusedError("unreadable", "a damaged header") from error
    if image.format == "TIFF" and _is_raw(image, content):
        raise RefusedError("unsupported", "Camera RAW is not read; convert it to JPEG or PNG")
    return image


def _is_raw(image: "Image.Image", content: bytes) -> bool:
    """Whether a TIFF is a camera's: Pillow would take the small preview that comes first for the photo."""
    tags = getattr(image, "tag_v2", {})
    kind = tags.get(TIFF_KIND, 0)
    reduced = isinstance(kind, int) and kind & 1
    return bool(reduced or DNG_VERSION in tags or re.match(UNSUPPORTED["Camera RAW"], content[:SIGNATURE], re.DOTALL))


@functools.cache
def _prepare_pillow() -> None:
    """Settings of Pillow that hold for the whole program."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # our own limits are checked before anything is decoded
    warnings.filterwarnings("ignore", module="PIL")  # of odd metadata, which no one here can mend


def _orientation(image: "Image.Image", content: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 if there is none, its metadata is damaged, or Pillow turns the image itself (TIFF)."""
    if image.format == "TIFF" or (image.format == "PNG" and b"eXIf" not in content):
        return 1
    for name in ("xmp", "XML:com.adobe.xmp"):  # where Pillow would look next; browsers do not
        image.info.pop(name, None)
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata is no reason to leave a photo out
        return 1
    return value if value in range(1, 9) else 1


def decode(content: bytes, header: Header, long_side: float) -> NDArray[np.uint8]:
    """Decode an image file to BGR, uint8, shape (H, W, 3), upright; of an animation the first picture.

    It is shrunk to 1/2, 1/4 or 1/8 where that leaves `long_side` px or more. A JPEG is decoded so: fewer pixels are computed.

    Raises:
        RefusedError: damaged, cut short, or with pixels that are no colours.
    """
    import cv2

    fraction = next((each for each in (8, 4, 2) if max(header.width, header.height) >= each * long_side), 1)
    image = _decode_jpeg(content, fraction) if header.format in JPEGS else _decode_other(content, fraction)
    turn, flip = TURNS[header.orientation]
    if turn is not None:
        image = cv2.rotate(image, turn).astype(np.uint8, copy=False)
    return cv2.flip(image, 1).astype(np.uint8, copy=False) if flip else image


def _decode_jpeg(content: bytes, fraction: int) -> NDArray[np.uint8]:
    """By OpenCV, which decodes at a fraction of the size and without Python's lock."""
    import cv2

    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags[fraction] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # of its own limits, such as 2**30 pixels
        image = None
    if image is None:
        raise RefusedError("unreadable", "damaged or cut short")
    return image.astype(np.uint8, copy=False)


def _decode_other(content: bytes, fraction: int) -> NDArray[np.uint8]:
    """By Pillow, which reads every other form, and says so when one is cut short."""
    import cv2

    image = _open(content)
    try:
        image.load()
        if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # a PGM's are 16 bits wide
            raise RefusedError("unsupported", "its pixels are 32-bit numbers; convert it to 8 or 16 bits")
        pixels = np.asarray(_colours(image, fraction))
    except RefusedError:
        raise
    except Exception as error:  # as in _open
        raise RefusedError("unreadable", "damaged or cut short") from error
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)


def _colours(image: "Image.Image", fraction: int) -> "Image.Image":
    """Any image as RGB of a fraction of its size; what is transparent becomes white."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would cut off at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    image = image if fraction == 1 else image.reduce(fraction)
    if mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def decode_grey(content: bytes, most_pixels: int) -> NDArray[np.uint8] | None:
    """Decode the bytes of a JPEG or PNG file to grey, uint8, shape (H, W), turned upright as its EXIF says.

    Returns None if it is neither, is damaged or cut short, or has more than `most_pixels`: that is read in the file's header
    before anything is decoded, so that a small file cannot ask for a huge picture.
    """
    from PIL import Image, ImageOps

    _prepare_pillow()
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
        if image.width * image.height > most_pixels:
            return None
        return np.asarray(ImageOps.exif_transpose(image).convert("L"))
    except Exception:  # Pillow's readers raise whatever a broken byte leads to: OSError, SyntaxError, struct.error, ...
        return None
