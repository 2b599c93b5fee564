"""The command line. Packages that take long to load are imported by the commands that need them: help comes at once."""

import csv
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from rich.text import Text

from tasks.errors import UserError, explained
from tasks.paths import CHAMPION, LEADERBOARD

if TYPE_CHECKING:
    from tasks.label import LabelledImage

HELP = """Train facial-expression classifiers on FER2013 and label photographs with the best one.

**The usual order of work**, in the folder of the pipeline:

1. `ferflow doctor` says what is installed, what is there and what is missing.

2. `ferflow fetch` puts FER2013 into data/raw, from Kaggle or from a file you have.

3. `dvc repro` runs the pipeline: data, trainings, measures, champion. Again after any change of params.yaml.

4. `ferflow leaderboard` compares the candidates; `dvc metrics show` and `dvc plots show` say more.

5. `ferflow label PHOTOS --out labels` finds the faces in photos and names their expressions.

`ferflow demo` shows all of it on drawn faces in a few minutes, without FER2013.
"""
ROWS_SHOWN = 20  # of the table of faces; the rest is in the csv
LEADERBOARD_COLUMNS = {  # of the csv and of the timings: heading and format
    "candidate": ("candidate", "{}"),
    "val_accuracy": ("val", "{:.1%}"),
    "test_accuracy": ("test", "{:.1%}"),
    "parameters": ("parameters", "{:,.0f}"),
    "ms_per_face": ("ms/face", "{:.1f}"),
    "train_minutes": ("minutes", "{:.0f}"),
    "verdict": ("verdict", "{}"),
}

app = typer.Typer(
    help=HELP, rich_markup_mode="markdown", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
console = Console()


@app.command()
def fetch(
    source: Annotated[
        str | None, typer.Argument(help="A file, a folder of images or an address; none: Kaggle.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Kaggle data set, such as msambare/fer2013, in place of the competition's csv.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another file of the same name.")] = False,
) -> None:
    """Put FER2013 into data/raw: fer2013.csv, icml_face_data.csv, a folder of images, a zip or tar.gz of these.

    Examples: `ferflow fetch` (needs Kaggle's credentials), `ferflow fetch ~/Downloads/fer2013.tar.gz`
    """
    from flows.fetch import fetch
    from tasks.ingest import find_source
    from tasks.params import load

    folder = Path(load().ingest.source)
    place = fetch(source, folder, force, dataset)
    console.print(f"{place} is in place. Next: dvc repro", highlight=False)
    first = find_source(folder).path
    if first != place:
        console.print(f"Note: {first} is read in its stead while both are there; move one away.", highlight=False)


@app.command()
def doctor() -> None:
    """Say what is installed, what data and champion are there, what is missing and what to do about it.

    Exits with 1 if something that labelling needs is missing, or anything is broken.
    """
    from flows.doctor import examine

    marks = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "problem": "[red]problem[/]"}
    table = Table("", "", Column("found", overflow="fold"), Column("what to do", overflow="fold"), box=None)
    checks = list(examine())
    for check in checks:
        table.add_row(check.name, marks[check.state], _plain(check.found), _plain(check.remedy))
    console.print(table)
    if any(check.bad for check in checks):
        raise typer.Exit(1)


@app.command()
def label(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Image files, and folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables and the annotated copies.")],
    detector: Annotated[
        Literal["yunet", "haar"], typer.Option(help="yunet finds more and errs less; haar is the classic.")
    ] = "yunet",
    champion: Annotated[Path, typer.Option(help="Folder of the model to label with.")] = CHAMPION,
) -> None:
    """Find the faces in photos and name their expressions.

    Writes faces.csv (a row per face: box, label, confidence, seven probabilities), images.csv (a row per image: ok, no_face
    or unreadable) and annotated/. One broken file never ends the run.

    Example: `ferflow label ~/Pictures holiday.jpg --out labels`
    """
    _label(sources, out, detector, champion)


def _label(sources: list[Path], out: Path, detector_name: str, champion_folder: Path) -> None:
    from tasks.champion import load
    from tasks.faces import make_detector
    from tasks.label import find_images, label_images, write_labels

    paths = find_images(sources, out)
    champion, detector = load(champion_folder), make_detector(detector_name)
    started = time.monotonic()
    written = write_labels(label_images(paths, champion, detector), champion, detector, out)
    silent = not console.is_terminal
    results = [each._replace(image=None) for each in track(written, "Labelling", len(paths), disable=silent)]
    _show_labels(results, time.monotonic() - started)
    data, accuracy = champion.info["data"]["name"], champion.info["metrics"]["test"]["accuracy"]
    print(f"Champion: {champion.version}, trained on {data}, {accuracy:.1%} right on its test faces.")
    print(f"Tables: {out / 'faces.csv'}, {out / 'images.csv'}. Pictures: {out / 'annotated'}/")


def _show_labels(results: "list[LabelledImage]", seconds: float) -> None:
    """Print the first faces, and how many images and expressions there were."""
    table = Table("image", "face", "expression", "confidence", box=None)
    rows = [
        (result.path.name, str(number), expression, f"{shares.max():.0%}")
        for result in results
        for number, (expression, shares) in enumerate(zip(result.labels, result.probabilities, strict=True), 1)
    ]
    for row in rows[:ROWS_SHOWN]:
        table.add_row(*map(_plain, row))
    if rows:
        console.print(table)
    if len(rows) > ROWS_SHOWN:
        print(f"... and {len(rows) - ROWS_SHOWN:,} faces more")
    statuses = _counts(result.status for result in results)
    print(f"{len(results):,} images in {seconds:.1f} s ({statuses}), {len(rows):,} faces", end="")
    print(f": {_counts(row[2] for row in rows)}" if rows else "")


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in Counter(words).most_common())


def _plain(text: str) -> Text:
    """Text from outside as rich shows it: brackets are no markup, bytes that are not UTF-8 become question marks."""
    return Text(text.encode("utf-8", "replace").decode())


@app.command()
def leaderboard() -> None:
    """Compare the candidates of the last run: accuracy on val (they are chosen by it) and test, size, times, verdict.

    ms/face: in Keras, in batches. minutes: what the training took.
    """
    _show_leaderboard(Path())


def _show_leaderboard(workspace: Path) -> None:
    from tasks.timings import read_timings

    path = workspace / LEADERBOARD
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise UserError(f"no {path} yet; `dvc repro` makes it") from error
    table = Table(box=None, title="Accuracy on val, by which they are chosen, and on test", title_justify="left")
    for heading, pattern in LEADERBOARD_COLUMNS.values():
        table.add_column(heading, justify="left" if pattern == "{}" else "right", no_wrap=heading == "candidate")
    for row in rows:
        known = row | read_timings(row["candidate"], workspace)
        table.add_row(*(_formatted(known.get(name), pattern) for name, (_, pattern) in LEADERBOARD_COLUMNS.items()))
    console.print(table)


def _formatted(value: str | float | None, pattern: str) -> Text:
    if value is None:
        return Text("")
    return Text(str(value) if pattern == "{}" else pattern.format(float(value)))


@app.command()
def made(
    rows: Annotated[int, typer.Option(help="Rows, 200 at least.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed and rows give the same bytes.")] = 7,
    out: Annotated[Path, typer.Option(help="The csv to write.")] = Path("made_faces.csv"),
) -> None:
    """Write a set of drawn faces in fer2013.csv's form, to try the pipeline without FER2013."""
    from tasks.synthetic import write_made_csv

    write_made_csv(out, rows, seed)
    print(f"{out}: {rows:,} drawn faces. They are for trying things out; a model trained on them knows no real face.")


@app.command()
def demo() -> None:
    """Run the whole pipeline on drawn faces in ./demo, then label four photos; the workspace stays as it is."""
    from flows.demo import DEMO, copy_photos, make_workspace, run

    print(f"1. A scratch copy of the pipeline and a made set in {DEMO}/", flush=True)
    make_workspace(DEMO)
    print("2. dvc repro: data, three short trainings, measures, champion", flush=True)
    run([sys.executable, "-m", "dvc", "repro"], DEMO)
    print("\n3. Leaderboard, on drawn faces")
    _show_leaderboard(DEMO)
    champion = CHAMPION
    if not champion.exists():
        champion = DEMO / CHAMPION
        print(
            f"\nThere is no {CHAMPION} yet: the demonstration's own labels the photos, and it knows drawn faces only."
        )
    print("\n4. Photos that installed packages carry")
    copy_photos(DEMO / "photos")
    _label([DEMO / "photos"], DEMO / "labels", "yunet", champion)
    print(f"\nLook at {DEMO / 'labels' / 'annotated'}/ and {DEMO / LEADERBOARD.with_suffix('.png')}.")


@explained
def main() -> None:
    """The program `ferflow`: a user's mistake ends it with one line and exit code 1."""
    app()


if __name__ == "__main__":
    main()
