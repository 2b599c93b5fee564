"""`ferflow champion`: the champion's versions, the way back to one, and two of them on the same faces."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from flows.summary import plain
from tasks.paths import CHAMPION

if TYPE_CHECKING:
    from tasks.judge import Comparison
    from tasks.versions import Version

SPLIT_NAMES = {"val": "PublicTest (val)", "test": "PrivateTest (test)"}

app = typer.Typer(rich_markup_mode="markdown")
console = Console()


@app.callback(invoke_without_command=True)
def champion(context: typer.Context) -> None:
    """List the versions of the champion, go back to one, compare two.

    Without a command, the list: a row for every champion that Git's history holds, newest first. The commands take a version
    by its name, its number, or its tag (v0.0.2, of `gto register champion`).

    Examples: `ferflow champion`, `ferflow champion rollback`, `ferflow champion compare 1`
    """
    if context.invoked_subcommand is None:
        _show_versions()


def _show_versions() -> None:
    from tasks.errors import UserError
    from tasks.versions import history, shallow, unrecorded

    versions = history()
    if not versions:
        raise UserError(f"Git's history holds no champion yet; build one with `dvc repro` and commit {CHAMPION}")
    table = Table(
        box=None,
        collapse_padding=True,
        pad_edge=False,
        title="Champions by Git's history; val and test: accuracy",
        title_justify="left",
    )
    for heading in ("", "version", "since", "trained on", "val", "test", "tag", ""):
        foldable = heading in ("since", "trained on", "tag")  # rather than figures cut off, where a line is short
        table.add_column(heading, justify="right" if heading in ("", "val", "test") else "left", no_wrap=not foldable)
    table.columns[-1].justify = "left"
    for version in versions:
        table.add_row(*map(plain, _row(version)))
    console.print(table)
    if shallow():
        print("This clone has the end of Git's history only; for older versions first run: git fetch --unshallow")
    if changed := unrecorded():
        files = "1 file" if len(changed) == 1 else f"{len(changed)} files"
        console.print(f"{CHAMPION} is not as Git has it: {files} changed (git status).", highlight=False)


def _row(version: "Version") -> tuple[str, ...]:
    return (
        str(version.number),
        version.version,
        f"{version.date.astimezone():%Y-%m-%d %H:%M}",
        version.data,
        f"{version.val_accuracy:.1%}",
        f"{version.test_accuracy:.1%}",
        " ".join(version.tags),
        "current" if version.current else "",
    )


@app.command()
def rollback(
    version: Annotated[
        str | None, typer.Argument(help="Version, number or tag; none: the one before the current.")
    ] = None,
) -> None:
    """Make an older version the champion again, exactly as it was, and record it with a Git commit.

    All or nothing: if the commit fails, the champion is what it was. Only models/champion changes; whatever else is changed
    or staged stays so, and the small edition, models/small, what it is. The way forward again is the same command with the newer
    version.

    Examples: `ferflow champion rollback`, `ferflow champion rollback vgg_like-ef5752db`
    """
    from tasks.versions import previous, restore

    done = restore(previous() if version is None else version)
    console.print(
        f"{CHAMPION} is {done.version.version} again, in place of {done.replaced}; recorded in commit {done.commit[:7]}.",
        highlight=False,
        soft_wrap=True,
    )
    console.print("dvc.lock still names the other: `dvc repro` would promote it again.", highlight=False)


@app.command()
def compare(
    one: Annotated[str, typer.Argument(metavar="A", help="Version, number, tag, or a champion's folder.")],
    other: Annotated[str | None, typer.Argument(metavar="B", help="Likewise; none: the current version.")] = None,
    split: Annotated[
        Literal["val", "test"] | None, typer.Option(help="Faces to compare on; none: gate.split of params.yaml.")
    ] = None,
) -> None:
    """Let two champions label the same faces, and say what the gate of params.yaml would: may A replace B?

    Shows accuracies, their difference with its 95% interval (bootstrap) and p (McNemar's exact test), recall of every
    expression, size, and time. Needs data/arrays (`dvc repro parse`, or `dvc pull`).

    Examples: `ferflow champion compare 1`, `ferflow champion compare models/champion 2 --split test`
    """
    from tasks import judge, params
    from tasks.parse import load_split

    gate = params.load().gate
    split = split or gate.split
    faces, labels = load_split(split)
    with tempfile.TemporaryDirectory(prefix="ferflow-") as scratch:
        folders = _folder(one, Path(scratch) / "one"), _folder(other, Path(scratch) / "other")
        comparison = judge.compare(*folders, faces, labels)
    _show_comparison(comparison, split)
    if split != gate.split:
        print(f"The gate is not asked: it judges on {gate.split} (gate.split in params.yaml).")
        return
    decision = judge.decide(comparison, gate)
    print(
        f"The gate: {comparison.one.version} would {'' if decision.promote else 'not '}replace {comparison.other.version}."
    )
    for reason in decision.reasons[1:]:  # the first says what the table shows
        console.print(f"- {reason}", highlight=False, soft_wrap=True)


def _folder(wanted: str | None, scratch: Path) -> Path:
    """The folder of a champion: a given one, or a version of Git's history written to `scratch`."""
    from tasks.champion import INFO
    from tasks.errors import UserError
    from tasks.versions import extract, find, history

    if wanted and (Path(wanted) / INFO).exists():
        return Path(wanted)
    versions = history()
    current = next((each for each in versions if each.current), None)
    version = current if wanted is None else find(wanted, versions)
    if version is None:
        raise UserError("Git's history holds no current champion; name two versions (`ferflow champion` lists them)")
    extract(version, scratch)
    return scratch


def _show_comparison(comparison: "Comparison", split: str) -> None:
    one, other = comparison.one, comparison.other
    title = f"{comparison.faces:,} faces of {SPLIT_NAMES[split]}"
    table = Table("", box=None, title=title, title_justify="left")
    for heading in (plain(one.version), plain(other.version), "difference"):
        table.add_column(heading, justify="right")
    table.add_row("accuracy", *_shares(one.accuracy, other.accuracy))
    for name, recall in one.recall.items():
        table.add_row(f"recall of {name}", *_shares(recall, other.recall[name]))
    table.add_row("MB", *_numbers(one.megabytes, other.megabytes, 1))
    table.add_row("ms a face", *_numbers(one.milliseconds, other.milliseconds, 2))
    console.print(table)
    low, high = comparison.interval
    print(f"Right only by {one.version}: {comparison.only_one:,}; only by {other.version}: {comparison.only_other:,}")
    print(f"Difference: {100 * comparison.difference:+.2f} points,", end="")
    print(f" 95% interval {100 * low:+.2f} to {100 * high:+.2f}, p = {comparison.p:.2g}")


def _shares(one: float, other: float) -> tuple[str, str, str]:
    return f"{one:.1%}", f"{other:.1%}", f"{100 * (one - other):+.1f}"


def _numbers(one: float, other: float, digits: int) -> tuple[str, str, str]:
    return f"{one:.{digits}f}", f"{other:.{digits}f}", f"{one - other:+.{digits}f}"
