"""What `ferflow label` prints at its end: the first faces, and what there was in all."""

import csv
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROWS_SHOWN = 10  # of the tables; the rest is in the files
PROBLEMS_SHOWN = 5
TABLES = ("faces.csv", "frames.csv", "images.csv")


def show_run(run: dict[str, Any], out: str | Path) -> None:
    """Print a run from the content of its run.json and its tables in `out`, a folder or the URL of a prefix."""
    from tasks.bucket_out import folder_of
    from tasks.buckets import is_url

    place = str(out).rstrip("/")
    out = folder_of(place) if is_url(out) else Path(out)
    console = Console()
    _show_faces(console, out / "faces.csv", run["faces"]["total"])
    _show_problems(console, out / "images.csv")
    images, faces, champion = run["images"], run["faces"], run["champion"]
    files = "Files" if (out / "frames.csv").exists() else "Images"
    print(f"{files}: {images['total']:,} ({counted(images['status'])}); {_work(images, run['seconds'])}")
    print(f"Faces: {faces['total']:,}", end="")
    if faces["total"]:
        print(f" ({counted(faces['expressions'])});", end="")
        print(f" {faces['review']:,} to review, confidence under {run['min_confidence']:.0%}", end="")
    print(f"\nChampion: {champion['version']}, trained on {champion['trained_on']},", end="")
    print(f" {champion['test_accuracy']:.1%} right on its test faces")
    if run["drift"]["drifted"]:
        print(f"Drift: {run['drift']['reason']} (against {run['drift']['against']})")
    tables = [f"{place}/{name}" for name in TABLES if (out / name).exists()]
    print(f"Look at {place}/report.html; tables: {', '.join(tables)}")


def _work(images: Mapping[str, int], seconds: float) -> str:
    """What this run did, and what it knew already."""
    done = f"{images['labelled']:,} labelled in {seconds:.1f} s"
    return f"{done}, {images['reused']:,} known from before" if images["reused"] else done


def _show_faces(console: Console, path: Path, total: int) -> None:
    table = Table("image", "face", "expression", "confidence", "", box=None)
    for row in _first(path, ROWS_SHOWN):
        review = "review" if row["review"] == "True" else ""
        table.add_row(
            plain(Path(row["path"]).name), row["face"], row["label"], f"{float(row['confidence']):.0%}", review
        )
    if table.row_count:
        console.print(table)
    if total > ROWS_SHOWN:
        print(f"... and {total - ROWS_SHOWN:,} faces more")


def _show_problems(console: Console, path: Path) -> None:
    """Name the first images without a result, or without a whole one, and why."""
    with path.open(newline="", encoding="utf-8") as file:
        problems = (row for row in csv.DictReader(file) if row["reason"])
        for row in islice(problems, PROBLEMS_SHOWN):
            console.print(plain(f"{row['status']}: {row['path']}: {row['reason']}"), soft_wrap=True)
        rest = sum(1 for _ in problems)
    if rest:
        print(f"... and {rest:,} images more with a reason; see {path}")


def _first(path: Path, count: int) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(islice(csv.DictReader(file), count))


def counted(words: Mapping[str, int]) -> str:
    """Counts in words, the largest first."""
    counts = sorted(words.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {word}" for word, count in counts if count)


def plain(text: str) -> Text:
    """Text from outside as rich shows it: brackets are no markup, what a terminal would act on is escaped."""
    return Text("".join(char if char.isprintable() else repr(char)[1:-1] for char in text))
