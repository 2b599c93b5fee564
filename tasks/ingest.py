"""Stage `ingest`: whatever form of FER2013 lies in data/raw/ becomes one table.

    python -m tasks.ingest

Accepts fer2013.csv (columns emotion,pixels,Usage), icml_face_data.csv (emotion, Usage, pixels), a tree of 48x48 images
(train/angry/*.jpg), or a zip of any of these, told apart by content. Writes data/ingested/faces.parquet: row (int32, the
line in the csv, header = 1; the place in sorted order for images), file, split, label, pixels (text, as in the csv).
Nothing is judged here: a row that makes no sense goes through as it is, and `parse` says what is wrong with it.

A team's own rows, data/raw/extra/*.csv, follow as train and are judged first: tasks/extra.py. Their numbers go on where those
before end, so that a number means one row of the table; source.json has each file's offset, its line = row - offset.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import pyarrow.parquet

from tasks.errors import UserError, explained
from tasks.expressions import LABEL_OF_FOLDER
from tasks.extra import check_extra, find_extra, read_extra
from tasks.files import replacing, write_json
from tasks.params import load
from tasks.parse import EXTRA
from tasks.paths import INGESTED
from tasks.tables import (
    IGNORED_FOLDERS,
    SCHEMA,
    SPLIT_OF_FOLDER,
    Row,
    check_header,
    in_tree,
    read_csv,
    read_file,
    read_images,
    read_member,
    to_batches,
)

CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")  # in the order of preference
BUFFER = 1 << 20  # bytes read at once
MOST_UNPACKED = 2 << 30  # bytes of a csv in a zip; FER2013 has 0.3 GB
KAGGLE = "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge"

NOTHING_FOUND = f"""no FER2013 in {{folder}}.
  Looked for  fer2013.csv, icml_face_data.csv, a folder of images (train/angry/*.jpg), or a zip of one of these.
  Get it      from {KAGGLE}
              with a Kaggle account: `ferflow fetch` downloads it when Kaggle's credentials are set up,
              `ferflow fetch FILE` puts a downloaded file in place. It cannot be redistributed, so it is not part of ferflow.
  Or try      `make demo`: the whole pipeline on a made set, in a scratch copy, in a few minutes."""


class Source(NamedTuple):
    """Where the faces are: a csv or a tree of images, plain or in a zip."""

    path: Path
    form: Literal["csv", "images"]
    zipped: bool = False
    member: str = ""  # the csv inside the zip

    @property
    def name(self) -> str:
        """How the data set is called in metrics and cards: the name of its file or folder."""
        return Path(self.member or self.path).stem


def find_source(folder: Path) -> Source:
    """The one data set in `folder`; fer2013.csv before icml_face_data.csv before others in alphabetical order.

    Raises:
        UserError: nothing there, or nothing that can be used; says what is wrong with the first file. A broken file of
            one of the two names is never passed over for another.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file; `ingest.source` in params.yaml names the folder that holds it")
    if not folder.is_dir():
        raise UserError(NOTHING_FOUND.format(folder=folder))
    paths = [path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in IGNORED_FOLDERS]
    paths.sort(key=lambda path: (*(path.name != name for name in CSV_NAMES), path.suffix != ".csv", path.name))
    problems = []
    for path in paths:
        try:
            source = _recognise(path)
        except UserError as error:
            if path.name in CSV_NAMES:
                raise
            problems.append(error)
        else:
            if source:
                return source
    if _image_files(folder):
        return Source(folder, "images")
    raise problems[0] if problems else UserError(NOTHING_FOUND.format(folder=folder))


def _recognise(path: Path) -> Source | None:
    """What the file or folder holds; None if it is nothing of ours, UserError if it might be, but cannot be used."""
    if path.is_dir():
        if path.name.lower() in SPLIT_OF_FOLDER or path.name.lower() in LABEL_OF_FOLDER:
            return None  # a part of a tree whose root is above
        nested = [path / name for name in CSV_NAMES if (path / name).is_file()]
        return _recognise(nested[0]) if nested else Source(path, "images") if _image_files(path) else None
    with path.open("rb") as file:
        beginning = file.read(4)
        file.seek(0)
        if beginning.startswith(b"PK\x03\x04"):
            return _recognise_zip(path)
        if path.suffix.lower() in (".csv", ".txt") or beginning.startswith(b"\x1f\x8b"):
            check_header(file, path)
            return Source(path, "csv")
    return None


def _recognise_zip(path: Path) -> Source:
    with _opened_zip(path) as archive:
        names = archive.namelist()
        tables = [name for name in names if name.endswith(".csv") and not name.startswith("__MACOSX/")]
        tables.sort(key=lambda member: (*(PurePosixPath(member).name != name for name in CSV_NAMES), member))
        problems = []
        for member in tables:
            try:
                _check_member(archive, member, path)
                return Source(path, "csv", True, member)
            except UserError as error:
                if PurePosixPath(member).name in CSV_NAMES:
                    raise
                problems.append(error)  # a list of something else
        if in_tree(names):
            return Source(path, "images", True)
    raise (
        problems[0]
        if problems
        else UserError(
            f"{path}: a zip without fer2013.csv, icml_face_data.csv or images in folders such as train/angry"
        )
    )


def _check_member(archive: zipfile.ZipFile, member: str, path: Path) -> None:
    if archive.getinfo(member).file_size > MOST_UNPACKED:
        raise UserError(f"{path}/{member}: says that it unpacks to more than 2 GiB; FER2013 has 0.3 GB")
    with archive.open(member) as file:
        check_header(file, path / member)


@contextmanager
def _opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; what zipfile finds wrong with it becomes a UserError. Nothing is ever extracted to its own path."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: a damaged zip ({error}); download it again") from error
    except RuntimeError as error:  # what zipfile raises for passwords and for compressions it does not know
        raise UserError(f"{path}: {error}; unpack it into data/raw yourself") from error


def _image_files(folder: Path) -> list[str]:
    """Paths of a tree's images relative to `folder`, sorted. Links to folders are not followed, so that none can loop."""
    names = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in IGNORED_FOLDERS]
        names += [path.relative_to(folder).as_posix() for path in map(Path(place).joinpath, files) if path.is_file()]
    return in_tree(names)


def _raise(error: OSError) -> None:
    raise error


def read(source: Source) -> Iterator[Row]:
    """The rows of a source, one after the other.

    Raises:
        UserError: a csv or zip that cannot be read to its end, or has no row.
    """
    if not source.zipped and source.form == "csv":
        with source.path.open("rb", buffering=BUFFER) as file:
            yield from read_csv(file, source.path)
    elif not source.zipped:
        yield from read_images(_image_files(source.path), source.path, lambda name: read_file(source.path / name))
    else:
        with _opened_zip(source.path) as archive:
            if source.form == "images":
                yield from read_images(in_tree(archive.namelist()), source.path, partial(read_member, archive))
            else:
                # Buffered: a line of a zip's own reader may end before its end.
                with archive.open(source.member) as packed, io.BufferedReader(packed, BUFFER) as lines:  # type: ignore
                    yield from read_csv(lines, source.path / source.member)


class Part(NamedTuple):
    """Where one file's rows are in the table."""

    file: str
    rows: int
    offset: int  # a row's number is its line, or an image's place, and this


def write_table(source: Source, path: Path, extra: Sequence[Path] = ()) -> list[Part]:
    """Write a source's rows, then those of files of extra rows, as parquet; returns a part for each.

    Raises:
        UserError: the source has no row, or cannot be read to its end.
    """
    parts: list[Part] = []
    offset = 0
    # Uncompressed: the table is read once, by the next stage, and compressing it costs more than writing it.
    options = {"compression": "none", "use_dictionary": ["file", "split", "label"], "write_statistics": ["row"]}
    with replacing(path) as temporary:
        with temporary.open("wb") as file, pyarrow.parquet.ParquetWriter(file, SCHEMA, **options) as writer:
            for place in (source.path, *extra):
                count, last = 0, offset
                for batch in to_batches(read_extra(place, offset) if parts else read(source)):
                    writer.write_batch(batch)
                    count += batch.num_rows
                    last = batch.column("row")[-1].as_py()
                parts.append(Part(str(place), count, offset))
                offset = last
        if not parts[0].rows:
            raise UserError(f"{source.path}: a header and no row below it; download fer2013.csv again")
    return parts


def describe(source: Source, parts: list[Part]) -> dict[str, Any]:
    """The content of source.json: the data set, and the files of extra rows if there are any."""
    content = {"data": source.name, "form": source.form, "rows": parts[0].rows}
    return content | ({"extra": [part._asdict() for part in parts[1:]]} if parts[1:] else {})


@explained
def main() -> None:
    """Read data/raw, write data/ingested."""
    folder = Path(load().ingest.source)
    source, extra = find_source(folder), find_extra(folder)
    check_extra(extra)
    parts = write_table(source, INGESTED / "faces.parquet", extra)
    write_json(INGESTED / "source.json", describe(source, parts))
    print(f"{source.path}: {parts[0].rows:,} rows ({source.form})")
    if extra:
        print(
            f"{folder / EXTRA}: {sum(part.rows for part in parts[1:]):,} rows more for training from {len(extra)} csv"
        )


if __name__ == "__main__":
    main()
