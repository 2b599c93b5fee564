"""What labelling leaves for people: tables, pictures, the report and run.json, all made from the store.

faces.parquet/.csv have a row a face (of a video: a track), images.parquet/.csv a row a file, frames.parquet/.csv a row a face
in a video's frame, labels.jsonl a line a file. Each file is replaced
in one step, by the same bytes however often the labelling was interrupted (but for the milliseconds of each image).
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO
from urllib.parse import quote

from tasks import drift
from tasks.champion import Champion
from tasks.copies import write_copy
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS, label_of
from tasks.files import read_json, replacing, write_json
from tasks.footage import How
from tasks.label import Labelled, Settings
from tasks.params import Drift
from tasks.pictures import Place, annotated_name, moved_crops, own_pictures, viewable, write_pictures
from tasks.report import ReportFace, ReportImage, write_report
from tasks.sources import CROPS, ImageFile
from tasks.store import Store

RUN = "run.json"
CORRECTED = "corrected"  # the column that people add to faces.csv; see tasks/collect.py
DELIMITERS = ",;\t"  # what spreadsheets write; the one that the header has most
REPORT = "report.html"
JSON_LINES = "labels.jsonl"
TABLES = [f"{name}{ending}" for name in ("faces", "images", "frames") for ending in (".csv", ".parquet")]
REPORT_FACES = 10_000  # about as many as a page opens quickly with; they are taken evenly from all

TEXT, INTEGER, NUMBER, FLAG = "string", "int32", "float64", "bool_"  # pyarrow's names of types
FACE_COLUMNS = {
    "path": TEXT, "face": INTEGER, "x": INTEGER, "y": INTEGER, "width": INTEGER, "height": INTEGER, "score": NUMBER,
    "label": TEXT, "confidence": NUMBER, **dict.fromkeys(EXPRESSIONS, NUMBER), "review": FLAG,
    "champion": TEXT, "trained_on": TEXT, "detector": TEXT,
}  # fmt: skip
FRAME_COLUMNS = {  # time: s from the beginning; frame: from 0; track: the number of the face in faces.csv
    "path": TEXT, "time": NUMBER, "frame": INTEGER, "track": INTEGER,
    **{name: FACE_COLUMNS[name] for name in ("x", "y", "width", "height", "score", "label", "confidence", *EXPRESSIONS)},
}  # fmt: skip
TELLING = ("label", "confidence", *EXPRESSIONS)  # what tells whether a label is the network's
IMAGE_COLUMNS = {
    "path": TEXT, "status": TEXT, "reason": TEXT, "format": TEXT, "width": INTEGER, "height": INTEGER,
    "faces": INTEGER, "milliseconds": NUMBER, "annotated": TEXT,
}  # fmt: skip

Row = tuple[Any, ...]


class Outputs(NamedTuple):
    """What is written beside tables and report; None: as by the run before."""

    annotated: bool | None = None
    crops: bool | None = None
    json_lines: bool | None = None

    def after(self, out: Path) -> "Outputs":
        """With False or what the run before in this folder wrote in the place of None."""
        try:
            before = json.loads((out / RUN).read_text(encoding="utf-8"))["outputs"]
            before = {name: bool(before.get(name)) for name in self._fields}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not there, damaged, another program's
            before = {}
        return Outputs(*(before.get(name, False) if value is None else value for name, value in self._asdict().items()))


AS_BEFORE = Outputs()


class Run(NamedTuple):
    """What the results say of the run itself."""

    sources: list[str]
    how: How
    champion: Champion
    min_confidence: float
    outputs: Outputs
    drift: Drift  # limits
    labelled: int  # images and videos, by this run
    seconds: float

    @property
    def settings(self) -> Settings:
        """Those of the photos; what videos are looked at with begins with them."""
        return self.how.settings

    @property
    def keys(self) -> tuple[str, str]:
        """Of what images and videos are labelled with."""
        return self.settings.key, self.how.key


class Counts:
    """Counts over results."""

    def __init__(self) -> None:
        self.status: Counter[str] = Counter()
        self.expressions: Counter[str] = Counter(dict.fromkeys(EXPRESSIONS, 0))
        self.videos = 0
        self.review = 0
        self.confidence = 0.0

    def add(self, result: Labelled, min_confidence: float) -> None:
        """Count an image and its faces."""
        self.status[result.status] += 1
        self.videos += result.file.is_video
        for face in result.faces:
            self.expressions[face.label] += 1
            self.review += face.confidence < min_confidence
            self.confidence += face.confidence


def refuse_others(out: Path, place: Place) -> None:
    """Refuse a place where no run has been, but where there are files that labelling would write over or remove.

    Raises:
        UserError: there are; it names the first.
    """
    content = read_json(out / RUN)
    known = isinstance(content, dict) and "ferflow" in content  # by a run whose store, being damaged, was removed since
    if known or any(place.present([place.mark])):
        return
    if found := [*place.present([*TABLES, JSON_LINES, REPORT, RUN]), *own_pictures(place)]:
        others = f" and {len(found) - 1:,} more" if found[1:] else ""
        raise UserError(
            f"{place.shown} is no output folder of ferflow, but holds {found[0]}{others}, which labelling would write over "
            "or remove; name another --out, or move what is there"
        )


def refuse_corrected(out: Path, place: Place) -> None:
    """Refuse to overwrite what a person corrected and what `ferflow collect` reads: the table, and the crops.

    Raises:
        UserError: the table's column `corrected` is filled in somewhere, or, without that column, a label is not the network's,
            or none can tell; or a crop lies in another expression's folder.
    """
    if moved := moved_crops(place):
        pictures = "1 picture" if len(moved) == 1 else f"{len(moved):,} pictures"
        raise UserError(
            f"{place.shown}/{CROPS} holds {pictures} moved to another folder ({place.shown}/{min(moved)}), which labelling "
            f"would undo; {place.after_sorting}, or name another --out"
        )
    path = out / "faces.csv"
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
        delimiter = max(DELIMITERS, key=header.count)
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
        missing = [name for name in TELLING if name not in names]
        if header and missing and CORRECTED not in names:
            raise UserError(
                f"{place.shown}/faces.csv has no column {missing[0]}, without which none can tell what is corrected; save it "
                "as CSV UTF-8 with all its columns, or remove it if nothing in it is corrected"
            )
        try:
            corrected = any(map(_is_corrected, csv.DictReader(file, names, delimiter=delimiter)))
        except csv.Error as error:
            raise UserError(
                f"{place.shown}/faces.csv is no csv ({error}); mend it, or remove it if nothing in it is corrected"
            ) from error
        if corrected:
            raise UserError(
                f"{place.shown}/faces.csv holds corrections, which labelling would overwrite; "
                f"run `ferflow collect {out}`, then remove that table, or name another --out"
            )


def _is_corrected(row: dict[str, str | None]) -> bool:
    """Whether a person said something in a row of faces.csv, as `ferflow collect` takes it.

    The network's label is the first whose probability is `confidence`; another name of the same expression says nothing new.
    """
    if CORRECTED in row:
        return bool((row[CORRECTED] or "").strip())
    network = next((name for name in EXPRESSIONS if row.get(name) == row.get("confidence")), "")
    said = label_of(row.get("label") or "")
    return any(row.values()) and (said is None or EXPRESSIONS[said] != network)


def write_results(
    store: Store,
    out: Path,
    place: Place,
    run: Run,
    workers: int,
    progress: Callable[[], None],
    copying: Callable[[ImageFile], Callable[[float, float], None]],
) -> dict[str, Any]:
    """Write everything, pictures into `place`; `progress` and `copying` are called as by Job.finish.

    Returns the content of run.json.
    """

    refuse_corrected(out, place)  # again: labelling takes hours, and people sort crops meanwhile

    def counted() -> Iterator[Labelled]:
        for result in store.results(*run.keys):
            progress()
            yield result

    def copy_video(result: Labelled, path: Path) -> None:
        with ExitStack() as stack:
            try:
                source = stack.enter_context(result.file.at_hand(out))
            except OSError:  # an object that is gone
                return
            write_copy(source, run.how.footage, store.sightings(result.file), path, copying(result.file))

    annotated, crops = bool(run.outputs.annotated), bool(run.outputs.crops)
    write_pictures(counted(), place, annotated, crops, workers, run.how.key, copy_video)
    refuse_corrected(out, place)  # and once more: to write pictures takes minutes
    counts = write_tables(store.results(*run.keys), out, place, run)
    write_frames(store, out, run)
    content = describe(run, counts, store.total())
    step = -(-content["faces"]["total"] // REPORT_FACES) or 1
    write_report(out / REPORT, content, _every(step, store, place, run))
    write_json(out / RUN, content)
    return content


def write_tables(results: Iterable[Labelled], out: Path, place: Place, run: Run) -> Counts:
    """Write both tables in both forms, and JSON lines if asked for."""
    counts = Counts()
    origin = (run.champion.version, run.champion.info["data"]["name"])
    with ExitStack() as stack:
        add_face = stack.enter_context(_table(out / "faces", FACE_COLUMNS))
        add_image = stack.enter_context(_table(out / "images", IMAGE_COLUMNS))
        add_line = stack.enter_context(_json_lines(out / JSON_LINES)) if run.outputs.json_lines else None
        for result in results:
            counts.add(result, run.min_confidence)
            rows = face_rows(result, run)
            for row in rows:
                add_face((*row, *origin, _detector(result, run)))
            image = image_row(result, place, run.how.key)
            add_image(image)
            if add_line:
                add_line(image, rows)
    if not run.outputs.json_lines:
        (out / JSON_LINES).unlink(missing_ok=True)
    return counts


def write_frames(store: Store, out: Path, run: Run) -> None:
    """Write the table of the faces in the videos' frames, in both forms; none if there is no video."""
    videos = (result for result in store.results(*run.keys) if result.file.is_video)
    first = next(videos, None)
    if first is None:
        for ending in (".csv", ".parquet"):
            (out / f"frames{ending}").unlink(missing_ok=True)
        return
    with _table(out / "frames", FRAME_COLUMNS) as add:
        for result in chain([first], videos):
            if not result.faces:  # what is kept of a video that failed is of a part, or of what it was before
                continue
            path = shown(result.file.shown)
            for number, time, track, face in store.sightings(result.file):
                add((path, time, number, track, *face.box[:-1], face.label, face.confidence, *face.probabilities))


def face_rows(result: Labelled, run: Run) -> list[Row]:
    """A row per face, in the order of FACE_COLUMNS, without its origin."""
    path = shown(result.file.shown)
    return [
        (
            path,
            number,
            *face.box[:-1],  # the tilt went into the crop
            face.label,
            face.confidence,
            *face.probabilities,
            face.confidence < run.min_confidence,
        )
        for number, face in enumerate(result.faces, 1)
    ]


def image_row(result: Labelled, place: Place, how: str) -> Row:
    """The row of an image, in the order of IMAGE_COLUMNS."""
    picture = annotated_name(result, how) if result.faces else ""
    return (
        shown(result.file.shown), result.status, result.reason, result.format, result.width, result.height,
        len(result.faces), result.milliseconds, picture if picture and place.has(picture) else "",
    )  # fmt: skip


def _detector(result: Labelled, run: Run) -> str:
    """Who found the faces: 'whole' if the image was taken as one."""
    return "whole" if result.faces[0].box.score is None else run.settings.detector


def shown(path: str) -> str:
    r"""A path as text: bytes that are not UTF-8 become \xNN, which every reader of tables and pages takes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _Lines:
    """A file that gets a csv writer's rows with a plain newline; told so, the writer would not quote carriage returns."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        """Write a row that ends in CR LF, the writer's own choice."""
        self._file.write(row.removesuffix("\r\n") + "\n")


@contextmanager
def _table(path: Path, columns: dict[str, str]) -> Iterator[Callable[[Row], None]]:
    """A function that adds a row to a table that is written as CSV and as Parquet; both appear, whole, at the end."""
    with replacing(path.with_suffix(".parquet")) as binary, replacing(path.with_suffix(".csv")) as text:
        with text.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(_Lines(file))
            writer.writerow(columns)
            yield writer.writerow
        _convert(text, binary, columns)


def _convert(text: Path, binary: Path, columns: dict[str, str]) -> None:
    """Write a CSV file's rows as Parquet. Arrow's own reader needs no pandas, whose import takes longer than a photo."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in columns.items()])
    reader = arrow_csv.open_csv(
        pa.OSFile(os.fsencode(text)),  # Arrow's own way to open a path takes only UTF-8
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types=schema, null_values=[""]),
    )
    with reader, pa.OSFile(os.fsencode(binary), "wb") as file, parquet.ParquetWriter(file, schema) as table:
        for batch in reader:
            table.write_batch(batch)


@contextmanager
def _json_lines(path: Path) -> Iterator[Callable[[Row, list[Row]], None]]:
    """A function that adds an image and its faces as a line of JSON; the file appears, whole, at the end."""
    face_columns = list(FACE_COLUMNS)[1:]  # the path is the image's
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:

        def add(image: Row, faces: list[Row]) -> None:
            content = dict(zip(IMAGE_COLUMNS, image, strict=True))
            content["faces"] = [dict(zip(face_columns, row[1:], strict=False)) for row in faces]
            file.write(json.dumps(content, ensure_ascii=False) + "\n")

        yield add


def describe(run: Run, counts: Counts, total: int) -> dict[str, Any]:
    """The content of run.json: what ran, on what, with which champion and settings, and what came of it."""
    done, faces = counts.status.total(), counts.expressions.total()
    confidence = round(counts.confidence / faces, 4) if faces else None
    return {
        "ferflow": version("ferflow"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": done == total,
        "source": [shown(source) for source in run.sources],
        "champion": {
            "version": run.champion.version,
            "trained_on": run.champion.info["data"]["name"],
            "test_accuracy": run.champion.info["metrics"]["test"]["accuracy"],
        },
        "settings": {
            "detector": run.settings.detector,
            "detector_options": dict(run.settings.detector_options),
            "whole": run.settings.whole,
            "mirror": run.settings.mirror,
            "max_megapixels": run.settings.max_megapixels,
            "video": run.how.footage.model_dump(),
        },
        "min_confidence": run.min_confidence,
        "outputs": run.outputs._asdict(),
        "images": {
            "total": total,
            "videos": counts.videos,
            "labelled": run.labelled,
            "reused": done - run.labelled,
            "pending": total - done,
            "status": dict(counts.status.most_common()),
        },
        "faces": {
            "total": faces,
            "review": counts.review,
            "expressions": dict(counts.expressions),
            "mean_confidence": confidence,
        },
        "drift": drift.judge(drift.reference(run.champion.info), counts.expressions, confidence, run.drift),
        "seconds": round(run.seconds, 2),
        "images_per_second": round(run.labelled / run.seconds, 1) if run.labelled else None,
    }


def _every(step: int, store: Store, place: Place, run: Run) -> Iterator[ReportImage]:
    """Every step-th image that has faces, as the report shows it."""
    with_faces = (result for result in store.results(*run.keys) if result.faces)
    for number, result in enumerate(with_faces):
        if number % step == 0:
            image = _report_image(result, place, run)
            yield image._replace(bands=tuple(store.bands(result.file))) if result.file.is_video else image


def _report_image(result: Labelled, place: Place, run: Run) -> ReportImage:
    picture = annotated_name(result, run.how.key)
    marked = place.has(picture)
    if marked:
        href = quote(picture)
    elif viewable(result):
        href = place.href(result.file)
    else:
        href = ""
    faces = (
        ReportFace(number, *face.box[:4], face.probabilities, face.confidence < run.min_confidence, face.thumbnail)
        for number, face in enumerate(result.faces, 1)
    )
    return ReportImage(shown(result.file.shown), href, marked, result.width or 0, result.height or 0, tuple(faces))
