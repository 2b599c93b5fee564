"""Stage `parse`: pixel strings become normalised arrays, and whatever cannot be used is written down with its reason.

    python -m tasks.parse

Reads data/ingested/, writes data/arrays/: for each split SPLIT.npy (float32, (N, 48, 48, 1), in [0, 1], can be memory-mapped),
SPLIT_labels.npy (int64, (N,)) and SPLIT_rows.npy (int32, (N,), lines of the csv); and data/quality/: rejected.csv, quality.json,
samples.png. Train loses exact copies of val and test images and copies within itself; val and test stay as they are. Of copies
with different labels, a person's own row (tasks/extra.py) wins; the data set's leave altogether.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from tasks.errors import UserError, explained
from tasks.expressions import EXPRESSIONS, FACE_SIZE, SPLIT_OF_USAGE, SPLITS
from tasks.files import replacing, write_json
from tasks.images import normalise, write_sheet
from tasks.params import load
from tasks.paths import ARRAYS, INGESTED, QUALITY
from tasks.pixels import PIXELS, PixelReader

EXTRA = "extra"  # the folder, below that of the data set, of a person's own rows: tasks/extra.py
LABELS = tuple(str(label) for label in range(len(EXPRESSIONS)))
BLANK_DEVIATION = 1.0  # grey levels; an image whose pixels deviate less shows nothing
BLANK_RANGE = 48  # a wider range over 2,304 pixels deviates by 1 at least; looked at first because it is cheap
SAMPLES = 14  # faces per expression on the sheet
EXCERPT = 40  # characters of an offending value that are worth keeping
CHUNK = 128  # faces normalised at once: 1 MB, which stays in a processor's cache until it is written


class Rejected(NamedTuple):
    """A row that cannot be used."""

    row: int
    file: str
    reason: str
    value: str


class Faces(NamedTuple):
    """Usable rows of one or all splits."""

    pixels: NDArray[np.uint8]  # (N, 2304)
    labels: NDArray[np.int64]  # (N,)
    splits: NDArray[np.str_]  # (N,), of SPLITS
    rows: NDArray[np.int32]  # (N,)
    own: NDArray[np.bool_]  # (N,), whether a person has added the row to the data set

    def only(self, chosen: NDArray[np.bool_] | slice) -> "Faces":
        """The rows where `chosen`, shape (N,), is true, or those of a slice."""
        return Faces._make(column[chosen] for column in self)


def parse_rows(batches: Iterable[pa.RecordBatch], rows: int) -> tuple[Faces, list[Rejected]]:
    """Split the ingested table, of so many rows, into usable faces and rejected rows, both in the table's order."""
    reader = PixelReader()
    # Of the full size from the start: the faces are the bulk of the memory, and joining parts would need it twice.
    pixels, labels = np.empty((rows, PIXELS), np.uint8), np.empty(rows, np.int64)
    faces = Faces(pixels, labels, np.empty(rows, "U5"), np.empty(rows, np.int32), np.empty(rows, bool))
    count, rejected = 0, []
    for batch in batches:
        usable, unusable = _parse_batch(batch, reader)
        place = slice(count, count + len(usable.rows))
        faces.pixels[place], faces.labels[place], faces.splits[place], faces.rows[place], faces.own[place] = usable
        count = place.stop
        rejected += unusable
    return faces.only(slice(count)), rejected


def _parse_batch(batch: pa.RecordBatch, reader: PixelReader) -> tuple[Faces, list[Rejected]]:
    rows, files, splits, labels, texts = (column.to_pylist() for column in batch)
    pixels, faults = reader.read(texts)
    faults = _blank(pixels) | faults | _misplaced(splits, labels, texts)  # a row's last fault in this order is told
    rejected = [Rejected(rows[i], files[i], reason, value[:EXCERPT]) for i, (reason, value) in sorted(faults.items())]
    usable = [i for i in range(len(rows)) if i not in faults]
    faces = Faces(
        pixels[usable] if faults else pixels,
        np.array([LABELS.index(labels[i]) for i in usable], np.int64),
        np.array([splits[i] for i in usable], "U5"),
        np.array([rows[i] for i in usable], np.int32),
        np.array([files[i].split("/")[-2:-1] == [EXTRA] for i in usable], bool),
    )
    return faces, rejected


def _blank(pixels: NDArray[np.uint8]) -> dict[int, tuple[str, str]]:
    """Reason and value of the faces, (N, 2304), that show nothing, by index."""
    flat = np.flatnonzero(pixels.max(axis=1) - pixels.min(axis=1) < BLANK_RANGE)
    blank = [int(i) for i in flat if pixels[i].std() < BLANK_DEVIATION]
    return {i: ("blank image", f"all pixels near {pixels[i, 0]}") for i in blank}


def _misplaced(
    splits: list[str | None], labels: list[str | None], texts: list[bytes | None]
) -> dict[int, tuple[str, str]]:
    """Reason and value of the rows without a known split and label, by index."""
    faults = {}
    for i, (split, label, text) in enumerate(zip(splits, labels, texts, strict=True)):
        if split is None:
            faults[i] = "wrong number of columns", (text or b"").decode("utf-8", "replace")
        elif split not in SPLITS:
            faults[i] = "unknown usage", split
        elif label not in LABELS:
            faults[i] = "unknown label", str(label)
    return faults


def _key(face: NDArray[np.uint8]) -> bytes:
    """Equal for equal faces only; shorter than the face, so that a table of keys costs no memory."""
    return hashlib.sha256(face.data).digest()


def without_twins(faces: Faces) -> tuple[Faces, dict[str, int]]:
    """Drop from train what val or test also show, copies of a kept face, and faces whose copies disagree on the label.

    A person's own row wins over others that disagree with it, which `corrected` then counts: it was written to correct them.

    Returns:
        The remaining faces in their order, and how many train rows each rule dropped.
    """
    twins: dict[bytes, list[int]] = {}
    for i, face in enumerate(faces.pixels):
        twins.setdefault(_key(face), []).append(i)
    train = faces.splits == "train"
    keep = np.ones(len(faces.rows), bool)
    dropped = {"in_val_or_test": 0, "copy_in_train": 0, "labels_disagree": 0}
    for group in twins.values():
        ours = [i for i in group if train[i]]
        if len(group) == 1 or not ours:
            continue
        own = [i for i in ours if faces.own[i]]
        if len(ours) < len(group):
            reason, drop = "in_val_or_test", ours
        elif len(set(faces.labels[ours].tolist())) == 1:
            reason, drop = "copy_in_train", ours[1:]
        elif len(set(faces.labels[own].tolist())) == 1:
            reason, drop = "corrected", [i for i in ours if i != own[0]]
        else:
            reason, drop = "labels_disagree", ours
        keep[drop] = False
        dropped[reason] = dropped.get(reason, 0) + len(drop)
    return faces.only(keep), dropped


def copies_kept(faces: Faces) -> dict[str, int]:
    """Rows of val and test that repeat an earlier row of their split, and rows of test that val shows too; all stay."""
    val, test = ([_key(face) for face in faces.pixels[faces.splits == split]] for split in ("val", "test"))
    in_val = set(val)
    return {
        "val": len(val) - len(in_val),
        "test": len(test) - len(set(test)),
        "test_also_in_val": sum(key in in_val for key in test),
    }


def quality(faces: Faces, rejected: list[Rejected], rows: int, dropped: dict[str, int]) -> dict[str, Any]:
    """The counts of the quality report: rows, rejects by reason, twins, faces per split and expression.

    Args:
        faces: those that stay.
        rejected: rows that cannot be used.
        rows: in the ingested table.
        dropped: what without_twins counted.
    """
    reasons = [row.reason for row in rejected]
    classes = len(EXPRESSIONS)
    counts = {split: np.bincount(faces.labels[faces.splits == split], minlength=classes).tolist() for split in SPLITS}
    return {
        "rows": rows,
        "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "rejected_share": round(len(rejected) / rows, 6),
        "dropped_from_train": dropped,
        "copies_kept": copies_kept(faces),
        "faces": {split: dict(zip(EXPRESSIONS, counts[split], strict=True)) for split in SPLITS},
    }


def check(report: dict[str, Any], rejected: list[Rejected], most: float) -> None:
    """Refuse a table with too many unusable rows, or a split with none left.

    Raises:
        UserError: says how many, the first one, and where the others are listed.
    """
    if len(rejected) > most * report["rows"]:
        first = rejected[0]
        raise UserError(
            f"{first.file}: {len(rejected):,} of {report['rows']:,} rows ({report['rejected_share']:.1%}) cannot be used, "
            f"more than parse.max_rejected in params.yaml allows ({most:.1%}). The first is row {first.row}: {first.reason} "
            f"({first.value}). All are in {QUALITY / 'rejected.csv'}"
        )
    empty = [split for split in SPLITS if not sum(report["faces"][split].values())]
    if empty:
        usages = ", ".join(usage for usage, split in SPLIT_OF_USAGE.items() if split in empty)
        raise UserError(f"no usable row of {usages}; FER2013 has Training, PublicTest and PrivateTest: is it whole?")


def missing(report: dict[str, Any]) -> list[str]:
    """A line for each split that lacks expressions: what they are, and what that means."""
    lines = []
    for split in SPLITS:
        names = [name for name, count in report["faces"][split].items() if not count]
        meaning = "networks cannot learn that" if split == "train" else "how well networks do there is not measured"
        lines += [f"no face of {split} shows {', '.join(names)}: {meaning}"] if names else []
    return lines


def write_rejected(rejected: list[Rejected], path: Path) -> None:
    """Write rejected rows as a csv with the columns of Rejected."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Rejected._fields)
        writer.writerows(rejected)


def write_arrays(faces: Faces) -> None:
    """Write each split's three arrays, none unless all fit, and nothing of other sizes: a reader may map them into memory."""
    with ExitStack() as stack:

        def create(name: str) -> IO[bytes]:
            temporary = stack.enter_context(replacing(ARRAYS / name))
            return stack.enter_context(temporary.open("wb"))

        for split in SPLITS:
            indices = np.flatnonzero(faces.splits == split)
            shape = (len(indices), FACE_SIZE, FACE_SIZE, 1)
            write_npy(create(f"{split}.npy"), np.dtype(np.float32), shape, _network_input(faces, indices))
            for suffix, column in (("labels", faces.labels[indices]), ("rows", faces.rows[indices])):
                write_npy(create(f"{split}_{suffix}.npy"), column.dtype, column.shape, [column])


def _network_input(faces: Faces, indices: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """The faces at `indices`, normalised, some at a time."""
    for start in range(0, len(indices), CHUNK):
        yield normalise(faces.pixels[indices[start : start + CHUNK]].reshape(-1, FACE_SIZE, FACE_SIZE))


def write_npy(file: IO[bytes], dtype: Any, shape: tuple[int, ...], chunks: Iterable[NDArray[Any]]) -> None:
    """What np.save writes, without the whole array in memory, and with the error number when the disk is full."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for chunk in chunks:
        file.write(chunk.data)


def load_split(split: str, workspace: Path = Path()) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A split's faces, float32, (N, 48, 48, 1), mapped into memory read-only, and labels, int64, (N,).

    Raises:
        UserError: there are none, or damaged ones.
    """
    path = workspace / ARRAYS / f"{split}.npy"
    try:
        return np.load(path, mmap_mode="r"), np.load(path.with_stem(f"{split}_labels"))
    except (FileNotFoundError, EOFError, ValueError) as error:  # the last two: no whole file of NumPy's
        raise UserError(f"no {path}, or a damaged one; build it with: dvc repro parse") from error


def write_samples(faces: Faces, path: Path) -> None:
    """Write a sheet of train faces, a row per expression, evenly spread over the file."""
    pictures = []
    for label in range(len(EXPRESSIONS)):
        rows = np.flatnonzero((faces.splits == "train") & (faces.labels == label))
        chosen = rows[np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int)]
        pictures.append(faces.pixels[chosen].reshape(-1, FACE_SIZE, FACE_SIZE))
    write_sheet(path, dict(zip(EXPRESSIONS, pictures, strict=True)))


def open_table(path: Path) -> pyarrow.parquet.ParquetFile:
    """Open the ingested table; UserError if there is none, or it is damaged."""
    try:
        return pyarrow.parquet.ParquetFile(path, memory_map=True)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise UserError(f"no {path}, or a damaged one; build it with: dvc repro ingest") from error


@explained
def main() -> None:
    """Read data/ingested, write data/arrays and data/quality."""
    most_rejected = load().parse.max_rejected
    table = open_table(INGESTED / "faces.parquet")
    parsed, rejected = parse_rows(table.iter_batches(batch_size=512, use_threads=False), table.metadata.num_rows)
    faces, dropped = without_twins(parsed)
    report = quality(faces, rejected, table.metadata.num_rows, dropped)
    write_rejected(rejected, QUALITY / "rejected.csv")
    write_json(QUALITY / "quality.json", report)
    check(report, rejected, most_rejected)
    write_samples(faces, QUALITY / "samples.png")
    write_arrays(faces)
    print(f"{len(faces.rows):,} faces; {len(rejected):,} rows rejected; {sum(dropped.values()):,} dropped from train")
    if "corrected" in dropped:
        print(f"{dropped['corrected']:,} of these for rows of {EXTRA}/ that show the same face and correct its label")
    for line in missing(report):
        print(line)


if __name__ == "__main__":
    main()
