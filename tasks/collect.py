"""A person's corrections of labelled faces become rows to train on, in the form that tasks/extra.py takes: `ferflow collect`.

A correction is a row of faces.csv whose column `corrected` names an expression (without that column: whose label is no longer
the network's), or a picture below crops/ that was moved to another expression's folder. The pixels are those the network saw.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS, label_of
from tasks.extra import copies_that_disagree, read_extra, refuse, unusable
from tasks.files import replacing
from tasks.label import Face, Labelled
from tasks.params import load
from tasks.parse import EXTRA
from tasks.pictures import crop_names, face_and_label
from tasks.results import CORRECTED, DELIMITERS, shown
from tasks.sources import CROPS, STORE
from tasks.store import Store
from tasks.tables import Row, pixel_text

FACES = "faces.csv"
TOLERANCE = 0.01  # in numbers that a spreadsheet may have rounded

Place = tuple[str, str]  # of a face: its image's path and its number there, as the table has them


class Said(NamedTuple):
    """What a person says of a face, and where."""

    label: int  # index in EXPRESSIONS
    where: str


class Picture(NamedTuple):
    """A picture below crops/."""

    said: Said  # by the folder it lies in
    label: str  # the network's, as its name has it; a run that was killed may have left pictures of an older one


class Line(NamedTuple):
    """A row of the table that may be a correction."""

    said: Said
    sure: bool  # from the column `corrected`; else it is one only if its label is not the network's
    cells: dict[str, str]


def collect(labels: Path, out: Path | None = None, table: Path | None = None) -> tuple[Path, dict[str, int]]:
    """Write what is corrected in an output folder of `ferflow label` as a csv of training rows.

    Args:
        labels: the output folder.
        out: the csv; else extra/NAME.csv in the data set's folder, of the output folder's name.
        table: a corrected copy of its faces.csv, read in its place.

    Returns:
        The csv's path and how many faces each expression has in it.

    Raises:
        UserError: nothing is corrected, corrections that contradict each other or match no result, an `out` that would lose
            faces, or a run is still labelling into the folder, or another version of ferflow did. Nothing is written then.
    """
    if not (labels / STORE).is_file():
        raise UserError(f"{labels} is no output folder of `ferflow label`; name the folder that was its --out")
    gone = table is None and not (labels / FACES).exists()  # after a `collect`, and crops may have been moved since
    table = table or labels / FACES
    lines, problems = ({}, []) if gone else read_lines(table)
    pictures, misplaced = find_pictures(labels / CROPS)
    problems += misplaced
    with closing(Store(labels, keep=True)) as store:
        corrected, unmatched = match(store.known(), lines, pictures)
    problems += unmatched
    rows = [row for _, row in sorted(corrected.items())]
    problems += [f"{bad.file}: {bad.reason} ({bad.value!r})" for bad in unusable(rows)]
    problems += copies_that_disagree(rows)
    refuse(problems, "Nothing was written: mend these or remove them")
    if not rows:
        names = ", ".join(EXPRESSIONS)
        raise UserError(
            f"nothing is corrected in {labels}. Add a column `corrected` to {table} and name an expression in some rows "
            f"({names}), or label with --crops and move pictures to another folder of {labels / CROPS}"
        )
    out = out or Path(load().ingest.source) / EXTRA / f"{labels.resolve().name.lstrip('.') or 'labels'}.csv"
    write_extra(rows, out)
    counts = Counter(row.label for row in rows)
    return out, {name: counts[str(label)] for label, name in enumerate(EXPRESSIONS)}


def read_lines(path: Path) -> tuple[dict[Place, Line], list[str]]:
    """The rows of a table that may be corrections, by face, and what is wrong with others.

    Raises:
        UserError: the file is no such table.
    """
    lines: dict[Place, Line] = {}
    problems = []
    for row, cells in _cells(path):
        sure = CORRECTED in cells
        name = cells[CORRECTED if sure else "label"].strip()
        where = f"{path}, row {row}"
        label = label_of(name)
        if label is None and not (sure and not name):
            problems.append(f"{where}: {name!r} is no expression")
        elif label is not None:
            line = Line(Said(label, where), sure, cells)
            first = lines.setdefault((cells["path"], cells["face"].strip()), line)
            if first.said.label != label:
                problems.append(_contradiction(first.said, line.said))
    return lines, problems


def _cells(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row of a csv, whatever its delimiter, with its line, header = 1; columns by name, in lower case."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            rows = csv.reader(file, delimiter=max(DELIMITERS, key=header.count))
            names = [name.strip().lower() for name in next(csv.reader([header], rows.dialect), [])]
            if not {"path", "face"} <= set(names) or not {CORRECTED, "label"} & set(names):
                raise UserError(
                    f"{path}, line 1: expected the columns path, face and corrected or label, as in {FACES}"
                )
            for cells in rows:
                if any(cells):
                    yield rows.line_num + 1, dict.fromkeys(names, "") | dict(zip(names, cells, strict=False))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save the table as CSV UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}, row {rows.line_num + 1}: no csv ({error}); save the table as CSV UTF-8") from error


def find_pictures(crops: Path) -> tuple[dict[str, list[Picture]], list[str]]:
    """The pictures of each face, by what their names say of it, and those in folders that are no expression's."""
    pictures: dict[str, list[Picture]] = {}
    problems = []
    for path in sorted(crops.rglob("*")):
        if path.suffix.lower() == ".png" and not path.name.startswith("."):
            label = label_of(path.parent.name)
            if label is None:
                problems.append(f"{path}: the folder {path.parent.name} is no expression's")
            else:
                face, network = face_and_label(path.name)
                pictures.setdefault(face, []).append(Picture(Said(label, str(path)), network))
    return pictures, problems


def match(
    known: Iterable[Labelled], lines: dict[Place, Line], pictures: dict[str, list[Picture]]
) -> tuple[dict[tuple[str, int], Row], list[str]]:
    """Find the faces that table and pictures speak of; empties both.

    Returns:
        A row of Training for each corrected face, by image path and number, and what contradicts itself or matches no face.
    """
    corrected = {}
    problems = []
    for result in known:
        path = shown(result.file.shown)
        for number, (face, name) in enumerate(zip(result.faces, crop_names(result), strict=True), 1):
            line = lines.pop((path, str(number)), None)
            if line and not _is_of(line, face):
                problems.append(f"{line.said.where}: {path}, face {number} is another face by now")
                continue
            found = pictures.pop(face_and_label(Path(name).name)[0], [])
            said = [*_from_line(line, face), *_from_pictures(found)]
            other = next((each for each in said if each.label != said[0].label), None)
            if other:
                problems.append(_contradiction(said[0], other))
            elif said:
                row = Row(number, said[0].where, "train", str(said[0].label), pixel_text(face.crop))
                corrected[path, number] = row
    problems += [
        f"{line.said.where}: no face {face} of {path!r} in the results" for (path, face), line in lines.items()
    ]
    problems += [f"{each.said.where}: no picture of these results" for found in pictures.values() for each in found]
    return corrected, problems


def _is_of(line: Line, face: Face) -> bool:
    """Whether a table's row has the box and confidence of a face, as far as it has numbers in their place."""
    box = face.box
    known = {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "confidence": face.confidence}
    return all(_agrees(line.cells.get(name, ""), value, name == "confidence") for name, value in known.items())


def _agrees(cell: str, value: float, share: bool) -> bool:
    """Whether a cell says a number; spreadsheets write decimal commas, and may take 0.912 for 912: no share, and passed over."""
    try:
        said = float(cell.replace(",", "."))
    except ValueError:
        return True
    return (share and said > 1) or abs(said - value) <= TOLERANCE


def _from_line(line: Line | None, face: Face) -> list[Said]:
    return [line.said] if line and (line.sure or EXPRESSIONS[line.said.label] != face.label) else []


def _from_pictures(found: list[Picture]) -> list[Said]:
    """What the pictures that were moved say, and their copies: one in the network's folder is a contradiction, too."""
    moved = {each.label for each in found if EXPRESSIONS[each.said.label] != each.label}
    return [each.said for each in found if each.label in moved]


def _contradiction(first: Said, second: Said) -> str:
    says = (f"{said.where} says {EXPRESSIONS[said.label]}" for said in (first, second))
    return " but ".join(says)


def write_extra(rows: list[Row], out: Path) -> None:
    """Write rows in fer2013.csv's form, in place of a file that has no other faces; UserError if it has."""
    if out.exists():
        lost = {row.pixels for row in read_extra(out)} - {row.pixels for row in rows}
        if lost:
            faces = f"{len(lost):,} face" + "s" * (len(lost) > 1)
            raise UserError(f"{out} has {faces} more than these corrections; name another --out, or remove it first")
    with replacing(out) as temporary, temporary.open("wb") as file:
        file.write(b"emotion,pixels,Usage\n")
        file.writelines(b"%s,%s,Training\n" % ((row.label or "").encode(), row.pixels) for row in rows)
