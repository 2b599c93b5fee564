"""A team's own labelled rows: data/raw/extra/*.csv, in fer2013.csv's form. They join Training, never val or test.

What `parse` would reject is refused here already, whole and with its reason: one's own rows can be mended. The same goes for
copies of a face with two labels. Of a face that the data set's Training shows, too, `parse` keeps the row here: whoever wrote
it has looked at that face. `ferflow collect` writes such files, see tasks/collect.py.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from tasks.errors import UserError
from tasks.expressions import SPLIT_OF_USAGE
from tasks.parse import EXTRA, Rejected, parse_rows
from tasks.tables import BATCH, LONGEST_LINE, Row, read_csv, to_batches

NOT_OURS = {split: usage for usage, split in SPLIT_OF_USAGE.items() if split != "train"}
TOLD = 3  # problems that an error names


def find_extra(folder: Path) -> list[Path]:
    """The files of extra rows below the folder of the data set, in the order of their names."""
    paths = (folder / EXTRA).iterdir() if (folder / EXTRA).is_dir() else ()
    return sorted(path for path in paths if path.suffix.lower() == ".csv" and path.name[0] != "." and not path.is_dir())


def read_extra(path: Path, offset: int = 0) -> Iterator[Row]:
    """The rows of one file; a row's number is `offset` more than its line, header = 1.

    Raises:
        UserError: it is empty, or what read_csv finds.
    """
    with path.open("rb") as file:
        if not file.readline(LONGEST_LINE).strip():
            raise UserError(f"{path}: an empty file; remove it, or give it the header emotion,pixels,Usage and rows")
        file.seek(0)
        for row in read_csv(file, path):
            yield row._replace(row=row.row + offset)


def check_extra(paths: Iterable[Path]) -> None:
    """Look at every row of these files, some at a time.

    Raises:
        UserError: a file that is no such table or has no row; or rows that cannot be used, or contradict each other, the first
            of them with reasons.
    """
    problems, placed = [], []
    for path in paths:
        rows = read_extra(path)
        chunk = list(islice(rows, BATCH))
        if not chunk:
            raise UserError(f"{path}: a header and no row below it; remove the file")
        while chunk:
            problems += [f"{bad.file}, row {bad.row}: {bad.reason} ({bad.value!r})" for bad in unusable(chunk)]
            for row in chunk:  # of the pixels, which are many, a checksum does
                digest = hashlib.sha256(row.pixels or b"").digest()
                placed.append(row._replace(file=f"{row.file}, row {row.row}", pixels=digest))
            chunk = list(islice(rows, BATCH))
    refuse(
        problems or copies_that_disagree(placed), "Extra rows are taken all or not at all: mend these or remove them"
    )


def unusable(rows: Sequence[Row]) -> list[Rejected]:
    """The rows that parse would reject, or that would join another split than train, in order."""
    other = [
        Rejected(row.row, row.file, "Usage is not Training", usage)
        for row in rows
        if (usage := NOT_OURS.get(row.split or ""))
    ]
    ours = [row for row in rows if row.split not in NOT_OURS]
    return sorted(other + parse_rows(to_batches(ours), len(ours))[1])


def copies_that_disagree(rows: Iterable[Row]) -> list[str]:
    """Rows of the same face that contradict each other, by their `file`: parse would drop them all."""
    firsts: dict[bytes | None, Row] = {}
    pairs = ((firsts.setdefault(row.pixels, row), row) for row in rows)
    return [
        f"{first.file} and {row.file}: copies of the same face with two labels"
        for first, row in pairs
        if first.label != row.label
    ]


def refuse(problems: Sequence[str], advice: str) -> None:
    """Raise a UserError that names the first problems, how many more there are, and what to do; nothing if there is none."""
    if problems:
        more = f"; and {len(problems) - TOLD:,} more" if len(problems) > TOLD else ""
        raise UserError(f"{'; '.join(problems[:TOLD])}{more}. {advice}")
