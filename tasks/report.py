"""The page of a labelling: report.html, one file that opens without a server. Its parts are in tasks/page/.

Everything goes into the file: style, script, and as JSON what was labelled, with the faces as small JPEG pictures. Only photos
stay outside. File names are others' text: they are JSON without "<", the script shows them as text only, and the page's policy
lets no script run but its own, known by checksum.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tasks.expressions import COLOURS, EXPRESSIONS, PORTUGUESE
from tasks.files import replacing
from tasks.footage import Band

PARTS = Path(__file__).parent / "page"
# In this order: the last one starts the page.
SCRIPTS = ("common.js", "gallery.js", "timeline.js", "dialog.js", "page.js")
WHOLE = 10_000  # probabilities are integers in ten-thousandths
KEY_FRAME = 0.5  # s that a band lasts at least to have its picture in the page
LABELS_IN_PORTUGUESE = {
    name.capitalize(): word.capitalize() for name, word in zip(EXPRESSIONS, PORTUGUESE, strict=True)
}


class ReportFace(NamedTuple):
    """One face: its box in px of the upright original, and seven probabilities in the order of EXPRESSIONS."""

    number: int  # 1 and up, in its image
    x: float
    y: float
    width: float
    height: float
    probabilities: tuple[float, ...]
    review: bool
    thumbnail: bytes  # JPEG, square


class ReportImage(NamedTuple):
    """One image or video that has at least one face."""

    name: str  # text to show
    href: str  # URL relative to the page, or a file URL; percent-encoded; "" if there is no picture to open
    marked: bool  # boxes are drawn in the picture at href already
    width: int  # px, upright original
    height: int
    faces: tuple[ReportFace, ...]
    bands: tuple[Band, ...] | None = None  # of a video


def write_report(path: Path, run: dict[str, Any], images: Iterable[ReportImage]) -> None:
    """Write the page atomically, image by image: memory does not grow with their number.

    Args:
        path: the page to write, such as out/report.html.
        run: the content of run.json.
        images: the images of which the page shows the faces, in the order of files.

    Raises:
        OSError: what the disk refuses.
        ValueError: a number that is no number.
    """
    before, after = _template(run)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as page:
        page.write(before)
        separator = "[\n"
        for image in images:
            page.write(separator + page_json(_row(image)))
            separator = ",\n"
        page.write("\n]" if separator == ",\n" else "[]")
        page.write(after)


def _template(run: dict[str, Any]) -> tuple[str, str]:
    """The page up to the faces, and from there to its end."""
    style = part("page.css")
    script = "\n".join(map(part, SCRIPTS))
    known = {
        "run": run,
        "expressions": EXPRESSIONS,
        "colours": [COLOURS[name] for name in EXPRESSIONS],
        "portuguese": json.loads(part("portuguese.json")) | LABELS_IN_PORTUGUESE,
    }
    parts = {
        "style": style,
        "style_checksum": checksum(style),
        "script": script,
        "script_checksum": checksum(script),
        "run": page_json(known),
    }
    before, _, after = part("page.html").partition("{{images}}")
    # In one pass, so that braces in what is put in stay as they are.
    return tuple(re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], half) for half in (before, after))  # type: ignore[return-value]


def part(name: str) -> str:
    """A file of tasks/page/."""
    return (PARTS / name).read_text(encoding="utf-8")


def checksum(text: str) -> str:
    """What a Content-Security-Policy calls an inline style or script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _row(image: ReportImage) -> list[Any]:
    """An image as page.js reads it: lists, boxes to a tenth of a px, probabilities in ten-thousandths."""
    row = [image.name, image.href, int(image.marked), image.width, image.height, [_face(face) for face in image.faces]]
    return row if image.bands is None else [*row, [_band(band) for band in image.bands]]


def _band(band: Band) -> list[Any]:
    picture = base64.b64encode(band.thumbnail if band.end - band.start >= KEY_FRAME else b"").decode()
    return [
        band.track, EXPRESSIONS.index(band.label), band.start, band.end, round(band.confidence * WHOLE), picture,
    ]  # fmt: skip


def _face(face: ReportFace) -> list[Any]:
    box = [round(float(length), 1) for length in (face.x, face.y, face.width, face.height)]
    picture = base64.b64encode(face.thumbnail).decode()
    return [face.number, *box, int(face.review), picture, *(round(p * WHOLE) for p in face.probabilities)]


def page_json(content: Any) -> str:
    """JSON in ASCII that cannot end the element it stands in."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
