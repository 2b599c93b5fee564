"""Reading FER2013 in each of its forms, csv or images, row by row. Nothing is judged here: see tasks/parse.py for that."""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa

from tasks.errors import UserError
from tasks.expressions import FACE_SIZE, LABEL_OF_FOLDER, SPLIT_OF_USAGE, SPLITS
from tasks.photos import decode_grey

COLUMNS = ("emotion", "pixels", "usage")
PADDING = b' \t\r\n"'  # around a cell; no cell of FER2013 has a comma or a quote inside
LONGEST_LINE = 16 << 20  # bytes; a row of FER2013 has 9 kB
EXCERPT = 200  # bytes kept of a line that is no row
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
MOST_BYTES = 64 << 20  # of one image file
MOST_PIXELS = 4096 * 4096  # of one image; it is scaled to 48x48
IGNORED_FOLDERS = ("extra", "__MACOSX")
SPLIT_OF_FOLDER = (
    {split: split for split in SPLITS}
    | {usage.lower(): split for usage, split in SPLIT_OF_USAGE.items()}
    | {"validation": "val", "valid": "val"}
)
BATCH = 512  # rows; 4 MB of csv

SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("file", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("pixels", pa.binary()),
    ]
)


class Row(NamedTuple):
    """A row of the canonical table."""

    row: int  # line in the csv, header = 1; place in sorted order for images
    file: str
    split: str | None  # one of SPLITS, or what the csv says instead; None for a line without the header's columns
    label: str | None  # text as in the csv; likewise
    pixels: bytes | None  # text as in the csv; the line if it has not its columns; None for an unreadable image


def check_header(file: IO[bytes], path: Path) -> list[str]:
    """Read the first line of a csv and return its column names, lower case, without spaces.

    Raises:
        UserError: the file is empty, compressed, not UTF-8, not separated by commas, or has other columns or none.
    """
    line = file.readline(LONGEST_LINE)
    if line.startswith(b"\x1f\x8b"):
        raise UserError(
            f"{path}: compressed by gzip; unpack it: gzip -dc FILE > fer2013.csv, or tar -xzf for a .tar.gz"
        )
    if not line.strip():
        raise UserError(f"{path}: an empty file; download fer2013.csv again")
    try:
        header = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line 1: not UTF-8 text ({error.reason}); save the table as CSV UTF-8") from error
    names = [name.strip(PADDING.decode()).lower() for name in header.split(",")]
    if all(names.count(column) == 1 for column in COLUMNS):
        return names
    expected = "expected the columns emotion,pixels,Usage"
    if all(word in header.lower() for word in COLUMNS) and len(names) < len(COLUMNS):
        raise UserError(f"{path}, line 1: columns are not separated by commas; {expected}")
    if header[:1].isdigit():
        raise UserError(f"{path}, line 1: data where the header should be; put the line emotion,pixels,Usage on top")
    raise UserError(f"{path}, line 1: {expected}, found {header[:80]!r}")


def read_csv(file: IO[bytes], path: Path) -> Iterator[Row]:
    """Yield the rows of a csv with the columns emotion, pixels and Usage, in any order; blank lines are nobody's mistake.

    Every line is a row, so that a stray quote or a broken line cannot take others along and line numbers stay right.

    Raises:
        UserError: what check_header finds, or a line of 16 MiB.
    """
    names = check_header(file, path)
    emotion, pixels, usage = (names.index(column) for column in COLUMNS)
    for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), b""), start=2):
        if len(line) == LONGEST_LINE:
            raise UserError(f"{path}, line {number}: longer than 16 MiB, where a face takes 9 kB; remove the line")
        cells = line.split(b",")
        if len(cells) == len(names):
            split, label = (cells[i].strip(PADDING).decode("utf-8", "replace") for i in (usage, emotion))
            yield Row(number, str(path), SPLIT_OF_USAGE.get(split, split), label, cells[pixels].strip(PADDING))
        elif line.strip():
            yield Row(number, str(path), None, None, line[:EXCERPT].strip())


def place_in_tree(name: str) -> tuple[str, str] | None:
    """(split, label) of an image by its path, .../train/angry/0.jpg or .../angry/Training_0.jpg; None for other files.

    The label is the text that the csv has, or the folder's name if it is no expression.
    """
    path = PurePosixPath(name)
    hidden = any((part.startswith(".") and part != "..") or part in IGNORED_FOLDERS for part in path.parts)
    if hidden or path.suffix.lower() not in IMAGE_ENDINGS or len(path.parts) < 2:  # noqa: PLR2004 - folder and file
        return None
    *above, folder, file = path.parts
    split = SPLIT_OF_USAGE.get(file.split("_")[0]) or SPLIT_OF_FOLDER.get(above[-1].lower() if above else "")
    label = LABEL_OF_FOLDER.get(folder.lower())
    return (split, f"folder {folder}" if label is None else str(label)) if split else None


def in_tree(names: Iterable[str]) -> list[str]:
    """The images of a tree among paths relative to its root, sorted; none unless some lie in an expression's folder."""
    places = {name: place for name in names if (place := place_in_tree(name))}
    is_tree = any(label.isdigit() for _, label in places.values())
    return sorted(places) if is_tree else []


def read_images(names: list[str], root: Path, read: Callable[[str], bytes]) -> Iterator[Row]:
    """Yield a row for each image of `in_tree` below `root`; `read` answers a file's bytes."""
    for number, name in enumerate(names, start=1):
        split, label = place_in_tree(name) or (None, None)
        yield Row(number, f"{root}/{name}", split, label, pixel_text(read(name)))


def read_file(path: Path) -> bytes:
    """The content of an image file; nothing if it is far too large for one."""
    return path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of an image in a zip; nothing if it is damaged or says that it unpacks to far too much."""
    if archive.getinfo(name).file_size > MOST_BYTES:
        return b""
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return b""


def pixel_text(content: bytes) -> bytes | None:
    """The grey 48x48 pixels of an encoded image as the csv writes them; None if it is no image or far too large."""
    grey = decode_grey(content, MOST_PIXELS)
    if grey is None:
        return None
    if grey.shape != (FACE_SIZE, FACE_SIZE):
        import cv2

        grey = cv2.resize(grey, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return " ".join(map(str, grey.ravel().tolist())).encode()


def to_batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """Pack rows into record batches of SCHEMA, 512 at a time: the whole table is never in memory."""
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        numbers, *texts = zip(*batch, strict=True)
        row = pa.Array.from_buffers(pa.int32(), len(batch), [None, pa.py_buffer(np.array(numbers, np.int32))])
        columns = [_text_array(values, field.type) for values, field in zip(texts, list(SCHEMA)[1:], strict=True)]
        yield pa.RecordBatch.from_arrays([row, *columns], schema=SCHEMA)


def _text_array(values: Iterable[str | bytes | None], kind: pa.DataType) -> pa.Array:
    """An Arrow array of texts. pa.array() does the same, but imports pandas first, which takes as long as the stage."""
    contents = [  # a file's name need not be UTF-8
        value.encode(errors="backslashreplace") if isinstance(value, str) else value for value in values
    ]
    valid = np.packbits([content is not None for content in contents], bitorder="little")
    ends = np.cumsum([0, *(len(content or b"") for content in contents)], dtype=np.int32)
    data = b"".join(content or b"" for content in contents)
    return pa.Array.from_buffers(kind, len(contents), [pa.py_buffer(part) for part in (valid, ends, data)])
