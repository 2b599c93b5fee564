"""Makes image files of every unusual and every broken kind that people's folders hold, with what labelling should say of each.

The photo in them shows one face. `write_all` fills a folder; each function writes one group of files.
"""

import importlib.util
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, features

FACE = (178, 63, 90, 113)  # left, top, width, height of the face in the photo in px, as YuNet marks it


class Expected(NamedTuple):
    """What labelling should say of a file."""

    statuses: tuple[str, ...]  # any of these
    content: str = ""  # "photo": the photo, upright, with its face in its place; "crop": a face, labelled whole


PHOTO = Expected(("ok",), "photo")
NO_FACE = Expected(("no_face",))
UNREADABLE = Expected(("unreadable",))
TOO_LARGE = Expected(("too_large",))
UNSUPPORTED = Expected(("unsupported",))


def photo() -> Image.Image:
    """A photo with one face: RGB, 512x384 px."""
    package = importlib.util.find_spec("skimage")
    assert package is not None
    assert package.submodule_search_locations is not None
    with Image.open(Path(package.submodule_search_locations[0]) / "data" / "astronaut.png") as image:
        return image.convert("RGB").crop((0, 0, 512, 384))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as the content of a file of some kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_all(folder: Path) -> dict[str, Expected]:
    """One file of each kind; returns what to expect of each name."""
    groups: tuple[Callable[[Path], dict[str, Expected]], ...] = (
        write_plain,
        write_modes,
        write_several,
        write_turned,
        write_sizes,
        write_damaged,
        write_bombs,
        write_foreign,
    )
    return {name: expected for group in groups for name, expected in group(folder).items()}


def write_plain(folder: Path) -> dict[str, Expected]:
    """Every format that is read, as usual programs write it, also under another format's name."""
    image = photo()
    files = {
        "plain.jpg": encoded(image, "JPEG"),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "plain.png": encoded(image, "PNG"),
        "interlaced.png": _interlaced_png(image),
        "plain.webp": encoded(image, "WEBP"),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "plain.bmp": encoded(image, "BMP"),
        "plain.tif": encoded(image, "TIFF"),
        "lzw.tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "deflate.tiff": encoded(image, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": encoded(image, "TIFF", compression="jpeg"),
        "plain.gif": encoded(image, "GIF"),
        "plain.ppm": encoded(image, "PPM"),
        "plain.pgm": encoded(image.convert("L"), "PPM"),
        "png_named.jpg": encoded(image, "PNG"),
        "jpeg_named.png": encoded(image, "JPEG"),
        "webp_named.jpg": encoded(image, "WEBP"),
        "jpeg_named.heic": encoded(image, "JPEG"),
        "bad_colour_profile.jpg": encoded(image, "JPEG", icc_profile=b"no profile" * 10),
        "bad_colour_profile.png": encoded(image, "PNG", icc_profile=b"no profile" * 10),
        "bad_exif.jpg": encoded(image, "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 60),
        "bad_exif.png": encoded(image, "PNG", exif=b"MM\0*" + b"\xff" * 60),
        "more_behind.jpg": encoded(image, "JPEG") + bytes(5000),
    }
    if features.check("avif"):
        files["plain.avif"] = encoded(image, "AVIF")
    if features.check("jpg_2000"):
        files["plain.jp2"] = encoded(image, "JPEG2000")
    return _written(folder, files, PHOTO)


def write_modes(folder: Path) -> dict[str, Expected]:
    """Pixels other than 8 bits of red, green and blue."""
    image = photo()
    grey, rgba = image.convert("L"), image.convert("RGBA")
    deep_rgb = np.asarray(image)[:, :, ::-1].astype(np.uint16) * 257
    deep_grey = np.asarray(grey).astype(np.uint16) * 257
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    rgba_palette = rgba.quantize(255)
    faint = rgba.copy()
    faint.putalpha(200)
    numbers = _written(
        folder,
        {
            "float.tif": encoded(grey.convert("F"), "TIFF"),
            "int32.tif": encoded(Image.fromarray(np.asarray(grey).astype(np.int32)), "TIFF"),
        },
        Expected(("unsupported", "ok")),
    )
    transparent = _written(folder, {"transparent.png": encoded(_transparent(), "PNG")}, NO_FACE)
    files = {
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(image.convert("CMYK"), "TIFF"),
        "grey.jpg": encoded(grey, "JPEG"),
        "grey.png": encoded(grey, "PNG"),
        "grey16.png": _by_opencv(deep_grey, ".png"),
        "grey16.pgm": b"P5 %d %d 65535\n" % grey.size + deep_grey.astype(">u2").tobytes(),
        "grey16.tif": encoded(Image.fromarray(deep_grey), "TIFF"),
        "rgb16.png": _by_opencv(deep_rgb, ".png"),
        "rgba.png": encoded(rgba, "PNG"),
        "rgba.webp": encoded(rgba, "WEBP"),
        "rgba.tif": encoded(rgba, "TIFF"),
        "faint.png": encoded(faint, "PNG"),
        "la.png": encoded(image.convert("LA"), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette_transparent.png": encoded(rgba_palette, "PNG", transparency=bytes([255] * 255)),
        "palette_one_clear.gif": encoded(palette, "GIF", transparency=255),
        "rgb_one_clear.png": encoded(image, "PNG", transparency=(1, 2, 3)),
        "lab.tif": encoded(_lab(image), "TIFF"),
        "ycbcr.tif": encoded(image.convert("YCbCr"), "TIFF"),
    }
    # Pillow reads no 16-bit colour TIFF; telling so is enough
    deep = _written(folder, {"rgb16.tif": _by_opencv(deep_rgb, ".tif")}, Expected(("ok", "unsupported")))
    bits = _written(folder, {"bits.png": encoded(image.convert("1"), "PNG")}, Expected(("ok", "no_face")))
    return _written(folder, files, PHOTO) | numbers | transparent | deep | bits


def write_several(folder: Path) -> dict[str, Expected]:
    """Files of several pictures: the first counts."""
    first, more = photo(), [Image.new("RGB", (512, 384), colour) for colour in ("red", "blue")]
    several: dict[str, Any] = {"save_all": True, "append_images": more}
    files = {
        "animated.gif": encoded(first, "GIF", duration=100, loop=0, **several),
        "animated.webp": encoded(first, "WEBP", duration=100, **several),
        "animated.png": encoded(first, "PNG", duration=100, **several),
        "pages.tif": encoded(first, "TIFF", **several),
        "several.mpo.jpg": encoded(first, "MPO", **several),
    }
    if features.check("avif"):
        files["animated.avif"] = encoded(first, "AVIF", duration=100, **several)
    return _written(folder, files, PHOTO)


def write_turned(folder: Path) -> dict[str, Expected]:
    """The photo stored in each of EXIF's eight orientations, with the tag that says so."""
    turns = Image.Transpose
    stored = {  # orientation -> how the upright photo was turned before it was stored
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    image = photo()
    files = {}
    for orientation in range(1, 9):
        turned = image.transpose(stored[orientation]) if orientation in stored else image
        exif = Image.Exif()
        exif[0x0112] = orientation
        kinds = ["JPEG"] if orientation not in (3, 5, 6) else ["JPEG", "PNG", "WEBP", "TIFF"]
        for kind in kinds:
            files[f"turned_{orientation}.{kind.lower()}"] = encoded(turned, kind, exif=exif)
        if orientation == 6 and features.check("avif"):
            files["turned_6.avif"] = encoded(turned, "AVIF", exif=exif)
    described = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    files["turned_by_xmp.jpg"] = encoded(image, "JPEG", xmp=described)
    exif[0x0112] = 99
    files["turned_99.jpg"] = encoded(image, "JPEG", exif=exif)
    return _written(folder, files, PHOTO)


def write_sizes(folder: Path) -> dict[str, Expected]:
    """Extreme shapes, and a face cut out already."""
    left, top, width, height = FACE
    middle, half = (left + width // 2, top + height // 2), height // 2
    crop = photo().crop((middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)).resize((48, 48))
    files = {
        f"{width}x{height}.{ending}": encoded(Image.new("RGB", (width, height), "grey"), kind)
        for width, height in ((1, 1), (1, 20000), (30000, 1), (2, 2), (33, 7))
        for ending, kind in (("png", "PNG"), ("jpg", "JPEG"))
    }
    crops = {"crop.png": encoded(crop.convert("L"), "PNG"), "crop.jpg": encoded(crop, "JPEG")}
    return _written(folder, files, NO_FACE) | _written(folder, crops, Expected(("ok",), "crop"))


def write_damaged(folder: Path) -> dict[str, Expected]:
    """Files cut short or overwritten, and files that are no images."""
    jpeg, png = encoded(photo(), "JPEG"), encoded(photo(), "PNG")
    files = {
        "empty.jpg": b"",
        "text.jpg": b"no image\n" * 20,
        "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "noise.jpg": np.random.default_rng(1).bytes(5000),
        "zeros.png": bytes(5000),
        "text_bomb.png": _png(8, 8, _rows(8, 8), (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000)))),
    }
    for name, content in {
        "jpg": jpeg,
        "png": png,
        "webp": encoded(photo(), "WEBP"),
        "gif": encoded(photo(), "GIF"),
        "bmp": encoded(photo(), "BMP"),
        "tif": encoded(photo(), "TIFF"),
    }.items():
        for share in (2, 40, 97):
            files[f"cut_{share}.{name}"] = content[: len(content) * share // 100]
        files[f"cut_header.{name}"] = content[:7]
    files["overwritten.png"] = _overwritten(png)
    recoverable = _written(folder, {"overwritten.jpg": _overwritten(jpeg)}, Expected(("ok", "no_face", "unreadable")))
    # Nothing is lost but the two bytes of the end's mark, or zeros that fill up a BMP's or TIFF's last row.
    whole = _written(folder, {"no_end_mark.jpg": jpeg[:-2]}, Expected(("ok", "unreadable"), "photo"))
    return _written(folder, files, UNREADABLE) | recoverable | whole


def write_bombs(folder: Path) -> dict[str, Expected]:
    """Small files that claim, or hold, more pixels than memory can."""
    jpeg = encoded(Image.new("RGB", (16, 16)), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5  # where a JPEG's header has height and width
    gif = encoded(Image.new("L", (16, 16)), "GIF")
    bmp = encoded(Image.new("RGB", (16, 16)), "BMP")
    files = {
        "30000x30000.png": _png(30000, 30000, _rows(30000, 30000 // 8), bits=1),
        "claims_30000x30000.png": _png(30000, 30000, b"no pixels"),
        "claims_2147483647.png": _png(2**31 - 1, 2**31 - 1, b"no pixels"),
        "claims_65000x65000.jpg": jpeg[:frame] + struct.pack(">HH", 65000, 65000) + jpeg[frame + 4 :],
        "claims_65535x65535.gif": gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:],
        "claims_100000x100000.bmp": bmp[:18] + struct.pack("<ii", 100_000, 100_000) + bmp[26:],
        "claims_60000x60000.tif": _tiff(60000, 60000),
        "claims_99999x99999.ppm": b"P6 99999 99999 255\n\0\0\0",
    }
    # Pillow compares a WebP's canvas with its pictures when it opens it.
    webp = _written(
        folder, {"claims_16384x16384.webp": _extended_webp(16384, 16384)}, Expected(("too_large", "unreadable"))
    )
    return _written(folder, files, TOO_LARGE) | webp


def write_foreign(folder: Path) -> dict[str, Expected]:
    """Known kinds that are not read, and other files under an image's name."""
    preview = photo().resize((256, 192))
    files = {
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "heic_named.jpg": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100),
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "drawing_with_head.svg": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        "new.jxl": b"\xff\x0a" + bytes(100),
        "photoshop_named.jpg": b"8BPS\0\1" + bytes(100),
        "document_named.jpg": b"%PDF-1.7\n" + bytes(100),
        # Cameras' files are TIFFs whose first picture is a small preview, which must not pass for the photo.
        "camera.dng": encoded(preview, "TIFF", tiffinfo={50706: b"\1\4\0\0"}),  # DNGVersion
        "camera.nef": encoded(preview, "TIFF", tiffinfo={254: 1}),  # of a reduced size
        "camera.cr2": _tiff(8, 8, mark=b"CR\2\0\0\0\0\0"),
    }
    return _written(folder, files, UNSUPPORTED)


def _written(folder: Path, files: dict[str, bytes], expected: Expected) -> dict[str, Expected]:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return dict.fromkeys(files, expected)


def _overwritten(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + np.random.default_rng(2).bytes(200) + content[middle + 200 :]


def _by_opencv(pixels: np.ndarray, ending: str) -> bytes:
    return cv2.imencode(ending, pixels)[1].tobytes()


def _transparent() -> Image.Image:
    image = photo().convert("RGBA")
    image.putalpha(0)
    return image


def _lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    assert converted is not None
    return converted


def _rows(height: int, width: int) -> bytes:
    """A PNG's compressed pixels, all black, made row by row."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    return b"".join(packer.compress(row) for _ in range(height)) + packer.flush()


def _png(width: int, height: int, pixels: bytes, *more: tuple[bytes, bytes], bits: int = 8) -> bytes:
    """A grey PNG, of whatever its header claims."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), *more, (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def _interlaced_png(image: Image.Image) -> bytes:
    """Adam7: seven passes, each over a coarser grid than the next."""
    pixels = np.asarray(image)
    packed = zlib.compressobj()
    content = b""
    for left, top, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ):  # fmt: skip
        content += b"".join(packed.compress(b"\0" + row.tobytes()) for row in pixels[top::down, left::across])
    png = bytearray(_png(image.width, image.height, content + packed.flush()))
    png[25], png[28] = 2, 1  # RGB; interlaced
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


def _tiff(width: int, height: int, mark: bytes = b"") -> bytes:
    """A grey TIFF with one strip of 64 pixels, of whatever its header claims; `mark` follows the header."""
    directory = 8 + len(mark)
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: 64}
    tags[273] = directory + 2 + 12 * len(tags) + 4  # where the pixels begin
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", directory) + mark + struct.pack("<H", len(tags)) + entries + bytes(4 + 64)


def _extended_webp(width: int, height: int) -> bytes:
    """A WebP whose extended header claims a size; there is no picture in it."""
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    picture = encoded(Image.new("RGB", (16, 16)), "WEBP")[12:]
    content = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas + picture
    return b"RIFF" + struct.pack("<I", len(content)) + content
