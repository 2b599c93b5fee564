"""The command line. Packages that take long to load are imported by the commands that need them: help comes at once."""

import csv
import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from flows import champion as champions
from flows import labelling
from flows.summary import plain, show_run
from tasks.errors import INTERRUPTED, UserError, explained
from tasks.paths import CHAMPION, LEADERBOARD, TIMINGS

HELP = """Train facial-expression classifiers on FER2013 and label photographs with the best one.

**The usual order of work**, in the folder of the pipeline:

1. `ferflow doctor` says what is installed, what is there and what is missing.

2. `ferflow fetch` puts FER2013 into data/raw, from Kaggle or from a file you have.

3. `dvc repro` runs the pipeline: data, trainings, measures, champion. Again after any change of params.yaml.

4. `ferflow leaderboard` compares the candidates; `dvc metrics show` and `dvc plots show` say more.

5. `ferflow label PHOTOS --out labels` finds the faces in photos and videos and names their expressions; `ferflow video` has the
   options for videos.

6. `ferflow live` does so with what a camera sees, as it sees it.

7. `ferflow collect labels` turns what you corrected there into rows to train on; `dvc repro` trains on them.

8. `ferflow champion` lists the champion's versions, compares two, goes back to one.

9. `ferflow serve` does all this by itself: labels what arrives, retrains at night, keeps the better champion.

`ferflow demo` shows all of it on drawn faces in a few minutes, without FER2013.
"""
LEADERBOARD_COLUMNS = {  # of the csv and of the timings: heading and format
    "candidate": ("candidate", "{}"),
    "val_accuracy": ("val", "{:.1%}"),
    "test_accuracy": ("test", "{:.1%}"),
    "test_accuracy_mirrored": ("mirrored", "{:.1%}"),
    "parameters": ("parameters", "{:,.0f}"),
    "ms_per_face": ("ms/face", "{:.1f}"),
    "train_minutes": ("minutes", "{:.0f}"),
    "verdict": ("verdict", "{}"),
}

app = typer.Typer(
    help=HELP, rich_markup_mode="markdown", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
console = Console()
app.add_typer(champions.app, name="champion")


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
    """Put FER2013 into data/raw: fer2013.csv, icml_face_data.csv, a folder of images, a zip of either, a tar.gz of the csv.

    Examples: `ferflow fetch` (needs Kaggle's credentials), `ferflow fetch ~/Downloads/fer2013.tar.gz`
    """
    from flows.fetch import fetch
    from tasks.ingest import find_source
    from tasks.params import load

    folder = Path(load().ingest.source)
    place = fetch(source, folder, force, dataset)
    print(f"{place} is in place. Next: dvc repro")
    first = find_source(folder).path
    if first != place:
        print(f"Note: {first} is read in its stead while both are there; move one away.")


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
        table.add_row(check.name, marks[check.state], plain(check.found), plain(check.remedy))
    console.print(table)
    if any(check.bad for check in checks):
        raise typer.Exit(1)


for command in (labelling.label, labelling.video, labelling.live, labelling.collect):
    app.command()(command)


@app.command()
def leaderboard() -> None:
    """Compare the candidates of the last run: accuracy on val (they are chosen by it) and test, size, times, verdict.

    mirrored: on test, averaged over each face and its mirror image. ms/face: in Keras, in batches. minutes: what the training
    took. verdict: champion (models/champion), small edition (models/small), passed, or why not. No row is the small edition where
    the champion is small enough to be both, or no candidate is.
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
    title = "Accuracy on val, by which they are chosen, and on test"
    table = Table(box=None, collapse_padding=True, title=title, title_justify="left")
    for heading, pattern in LEADERBOARD_COLUMNS.values():
        table.add_column(heading, justify="left" if pattern == "{}" else "right", no_wrap=heading != "verdict")
    try:
        for row in rows:
            known = row | read_timings(row["candidate"], workspace)
            table.add_row(*(_formatted(known.get(name), pattern) for name, (_, pattern) in LEADERBOARD_COLUMNS.items()))
    except (KeyError, ValueError) as error:  # in the middle of a merge, for example
        raise UserError(
            f"{path} or {workspace / TIMINGS} is damaged; restore both: git checkout {path} {workspace / TIMINGS}"
        ) from error
    console.print(table)


def _formatted(value: str | float | None, pattern: str) -> Text:
    if value is None:
        return Text("")
    return Text(str(value) if pattern == "{}" else pattern.format(float(value)))


@app.command()
def retrain(
    force: Annotated[
        bool, typer.Option("--force", help="Judge even if nothing has changed since the last time.")
    ] = False,
    push: Annotated[bool, typer.Option("--push", help="Push a new champion's commit and tag.")] = False,
    work_pool: Annotated[
        str | None, typer.Option(help="Whose workers train the candidates; see `ferflow worker`.")
    ] = None,
) -> None:
    """Rebuild what changed, and replace the champion if the outcome is better: once, now, as the schedule does.

    It works apart from the workspace, which must be as Git has it. The challenger and the champion answer for the same faces;
    the section `gate` of params.yaml decides. A better one is installed with a Git commit and a version tag; otherwise
    nothing changes. Interrupted, the same command goes on.

    Examples: `ferflow retrain`, `ferflow serve` (on a schedule)
    """
    from flows.runner import use_settings
    from tasks.params import load

    load()  # Prefect takes seconds to say that this is no folder of the pipeline
    use_settings()
    from flows.server import local_server

    # Not a server of Prefect's choice: Ctrl-C would end that before it has heard of the end of the run.
    with local_server():
        from flows.retrain import retrain

        state = retrain(force, push, work_pool=work_pool, return_state=True)
    if state.is_failed():
        raise UserError(str(state.message))
    console.print(state.message, highlight=False, markup=False, soft_wrap=True)


@app.command()
def serve(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of the Prefect server that is started; else Prefect's, 4200.")
    ] = None,
) -> None:
    """Label what arrives and retrain at night, until Ctrl-C: the deployments of prefect.yaml, with a Prefect server.

    The server is started and ended with this command, unless one runs there already or PREFECT_API_URL names one elsewhere.
    Schedules, time zone, parameters and triggers are those of prefect.yaml; start again after you changed it.
    """
    from flows.runner import use_settings

    use_settings()
    from flows.serve import serve

    serve(port)


@app.command()
def worker(pool: Annotated[str, typer.Argument(help="A work pool of Prefect; made if it is not there.")]) -> None:
    """Train candidates for a retraining that runs elsewhere, one at a time, until Ctrl-C.

    Run it in a clone of the repository on every machine that is to train, with PREFECT_API_URL set to the server's address. Data
    and models go through DVC's remote. The retraining names the pool: `ferflow retrain --work-pool POOL`, or `work_pool` in
    prefect.yaml.

    Example: `ferflow worker training`
    """
    from flows.runner import use_settings
    from tasks.params import load

    load()
    use_settings()
    from flows.candidates import work

    work(pool)


@app.command()
def made(
    rows: Annotated[int, typer.Option(help="Rows, 200 at least.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and rows give the same bytes.")] = 7,
    out: Annotated[Path, typer.Option(help="The csv to write.")] = Path("made_faces.csv"),
) -> None:
    """Write a set of drawn faces in fer2013.csv's form, to try the pipeline without FER2013."""
    from tasks.synthetic import write_made_csv

    write_made_csv(out, rows, seed)
    print(f"{out}: {rows:,} drawn faces. They are for trying things out; a model trained on them knows no real face.")


@app.command()
def demo(
    nights: Annotated[
        bool, typer.Option("--nights", help="Show three nights of scheduled retraining instead, in ./demo-nights.")
    ] = False,
) -> None:
    """Run the whole pipeline on drawn faces in ./demo, then label drawn faces and photos; the workspace stays as it is."""
    if nights:
        from flows.nights import three_nights

        three_nights()
    else:
        _pipeline_demo()


def _pipeline_demo() -> None:
    from flows.demo import DEMO, copy_photos, draw_faces, make_workspace, run

    print(f"1. A scratch copy of the pipeline and a made set in {DEMO}/", flush=True)
    make_workspace(DEMO)
    print("2. dvc repro: data, three short trainings, measures, champion", flush=True)
    run([sys.executable, "-m", "dvc", "repro"], DEMO)
    print("\n3. Leaderboard, on drawn faces")
    _show_leaderboard(DEMO)
    print("\n4. Drawn faces that no training saw, labelled by the champion that was just trained")
    draw_faces(DEMO / "drawn")
    _label_demo(DEMO / "drawn", DEMO / "drawn-labels", DEMO / CHAMPION)
    print("\n5. Photos that installed packages carry, labelled by the champion of this repository")
    copy_photos(DEMO / "photos")
    if CHAMPION.exists():
        _label_demo(DEMO / "photos", DEMO / "photo-labels", CHAMPION)
    else:
        print(f"There is no {CHAMPION} yet: the demonstration's own labels them, and it knows drawn faces only.")
        _label_demo(DEMO / "photos", DEMO / "photo-labels", DEMO / CHAMPION)


def _label_demo(photos: Path, out: Path, champion: Path) -> None:
    from tasks.params import Label
    from tasks.results import AS_BEFORE

    show_run(labelling.label_with_bars([str(photos)], out, Label(), champion, AS_BEFORE), out)


@explained
def main() -> None:
    """The program `ferflow`: a user's mistake ends it with one line and exit code 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr has it: a file's name need not fit the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer ends so without a word
            raise KeyboardInterrupt from end
        raise


if __name__ == "__main__":
    main()
