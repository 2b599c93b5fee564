"""An installation is all or nothing: with real Git, hooks that kill at real moments, and a disk that is really full."""

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from conftest import ROOT

from tasks import files
from tasks.errors import UserError
from tasks.files import swap
from tasks.install import PLACES, STALE, install, record, recover
from tasks.params import Labels
from tasks.paths import CHAMPION, LEADERBOARD, SMALL, TIMINGS
from tasks.rebuild import STATE

WORKTREE = STATE / "workspace"
JOURNAL = STATE / "installation.json"
FOLDERS = [place for place in PLACES if not place.suffix]
KILL = """#!/bin/sh
# Git calls this for every change of references: with the moment, and the references on the standard input.
[ "$1" = MOMENT ] && grep -q " WHICH" && kill -9 0
exit 0
"""


def git(*arguments: str, folder: Path = Path()) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def build(folder: Path, word: str, places: tuple[Path, ...] = PLACES) -> None:
    """What stages would write, with a word of its own: in each folder two files, one of them in a folder of its own."""
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if place not in FOLDERS:
            path.write_text(f"{place} {word}")
            continue
        shutil.rmtree(path, ignore_errors=True)
        (path / "deep").mkdir(parents=True)
        (path / f"{word}.json").write_text(word)
        for name in ("model.keras", "faces.parquet", "same.csv"):
            (path / "deep" / name).write_text(f"{place} {word} {name}")


def built(folder: Path = Path()) -> dict[str, bytes]:
    """All files at the places, and their bytes."""
    paths = (path for place in PLACES for path in (folder / place, *sorted((folder / place).rglob("*"))))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def make_repository(places: tuple[Path, ...] = PLACES) -> None:
    """A workspace here with `old` at these places, and its worktree with `new` at all."""
    shutil.copy(ROOT / ".gitignore", ".gitignore")
    Path(".dvc").mkdir()
    Path(".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    Path("dvc.yaml").write_text("stages: {}\n")
    git("init", "-q")
    git("config", "user.name", "tests")
    git("config", "user.email", "tests@localhost")
    build(Path(), "old", places)
    git("add", "--all")
    git("commit", "-q", "-m", "first")
    git("worktree", "add", "-q", "--detach", str(WORKTREE))
    build(WORKTREE, "new")


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (tmp_path / "a workspace").mkdir()
    monkeypatch.chdir(tmp_path / "a workspace")


@pytest.fixture
def repository() -> None:
    make_repository()


def check(expected: dict[str, bytes], tag: str = "") -> None:
    """The workspace has exactly these bytes, no other version tag than this, clean Git, and no journal."""
    assert built() == expected
    assert git("tag").split() == tag.split()
    assert git("status", "--porcelain") == ""
    assert git("diff", "--cached", "--name-only") == ""
    assert not JOURNAL.exists()


def check_the_next_one_works(tag: str) -> None:
    """As after any run: the worktree is brought to HEAD, something is built there, and installed."""
    git("checkout", "-q", "--force", "--detach", git("rev-parse", "HEAD").strip(), folder=WORKTREE)
    build(WORKTREE, "next")
    expected = built(WORKTREE)
    commit = record(WORKTREE, "next")
    assert install(WORKTREE, commit, JOURNAL) == tag.rsplit(maxsplit=1)[-1]
    assert git("rev-parse", "HEAD").strip() == commit
    check(expected, tag)


def forget_time() -> None:
    """Let all locks of Git be so old as they are for who comes later than right after the kill."""
    then = time.time() - STALE - 5
    for lock in (*Path(".git").rglob("*.lock"), *Path(".git").glob("packed-refs.new")):
        os.utime(lock, (then, then))


def test_the_places_are_all_that_the_stages_write() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    parts = [stage.get("do", stage) for stage in stages]
    named = [out for part in parts for kind in ("outs", "metrics", "plots") for out in part.get(kind, [])]
    names = [out if isinstance(out, str) else next(iter(out)) for out in named]
    # A teacher's answers are in a folder that params.yaml names: any of them.
    written = [Path(name.replace("${item}", labels)) for name in names for labels in get_args(Labels)]
    assert Path("models/small") in written
    assert [path for path in written if not any(path.is_relative_to(place) for place in PLACES)] == []


@pytest.mark.usefixtures("repository")
def test_all_of_it_is_installed() -> None:
    old, new = built(), built(WORKTREE)
    commit = record(WORKTREE, "better\n\nby far")
    assert built() == old
    assert install(WORKTREE, commit, JOURNAL) == "champion@v0.0.1"
    assert git("rev-parse", "HEAD", "champion@v0.0.1^{commit}").split() == [commit] * 2
    assert git("log", "-1", "--format=%B").strip() == "better\n\nby far"
    assert git("symbolic-ref", "HEAD").startswith("refs/heads/")
    assert "models/champion/new.json" in git("ls-files").split()
    assert "data/arrays/new.json" not in git("ls-files").split()
    check(new, "champion@v0.0.1")
    assert built(WORKTREE) == old
    check_the_next_one_works("champion@v0.0.1 champion@v0.0.2")


def test_the_first_installation_ever() -> None:
    make_repository(places=())
    new = built(WORKTREE)
    commit = record(WORKTREE, "the first")
    install(WORKTREE, commit, JOURNAL)
    check(new, "champion@v0.0.1")
    assert built(WORKTREE) == {}


def test_a_place_that_the_rebuild_has_no_more_leaves() -> None:
    make_repository()
    shutil.rmtree(WORKTREE / TIMINGS)
    new = built(WORKTREE)
    install(WORKTREE, record(WORKTREE, "less"), JOURNAL)
    assert not TIMINGS.exists()
    check(new, "champion@v0.0.1")


def test_a_pipeline_in_a_folder_of_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its user has staged elsewhere in the repository stays staged."""
    git("init", "-q")
    Path("notes").write_text("first")
    Path("pipeline").mkdir()
    monkeypatch.chdir("pipeline")
    shutil.copy(ROOT / ".gitignore", ".gitignore")
    git("config", "user.name", "tests")
    git("config", "user.email", "tests@localhost")
    build(Path(), "old")
    git("add", "--all", "..")
    git("commit", "-q", "-m", "first")
    Path(".git").mkdir()  # only so that Git does not see the worktree
    worktree = Path("../.git/apart")
    git("worktree", "add", "-q", "--detach", str(worktree))
    Path("../notes").write_text("second")
    git("add", "../notes")
    build(worktree / "pipeline", "new")
    new = built(worktree / "pipeline")
    install(worktree / "pipeline", record(worktree / "pipeline", "new"), Path("../.git/journal"))
    assert built() == new
    assert git("status", "--porcelain") == "M  notes\n"


INSTALL = """
import sys
from pathlib import Path
from tasks.install import install
install(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
"""


def install_and_die(commit: str) -> None:
    """Install in a process that leads its group, which the hook kills."""
    command = [sys.executable, "-c", INSTALL, str(WORKTREE), commit, str(JOURNAL)]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr


@contextlib.contextmanager
def deadly(moment: str, which: str) -> Iterator[None]:
    """While Git changes such references, at this moment of it, kill -9 for all that take part."""
    hook = Path(".git/hooks/reference-transaction")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(KILL.replace("MOMENT", moment).replace("WHICH", which))
    hook.chmod(0o755)
    yield
    hook.unlink()


@pytest.mark.usefixtures("repository")
def test_a_kill_before_head_moves_undoes_it() -> None:
    old, new = built(), built(WORKTREE)
    head = git("rev-parse", "HEAD")
    commit = record(WORKTREE, "new")
    with deadly("prepared", "refs/heads/"):
        install_and_die(commit)
    assert built() == new  # all places have changed hands, but it does not count yet
    assert JOURNAL.exists()
    assert recover(JOURNAL)
    assert git("rev-parse", "HEAD") == head
    check(old)
    assert built(WORKTREE) == new
    assert list(Path(".git").rglob("*.lock"))  # Git left them; nobody knows yet that they are nobody's
    forget_time()
    check_the_next_one_works("champion@v0.0.1")


@pytest.mark.usefixtures("repository")
def test_a_kill_after_head_moved_leaves_the_rest_to_do() -> None:
    new = built(WORKTREE)
    commit = record(WORKTREE, "new")
    with deadly("committed", "refs/heads/"):
        install_and_die(commit)
    assert JOURNAL.exists()
    assert git("status", "--porcelain") != ""  # the index is that of the old commit
    assert recover(JOURNAL)
    assert git("rev-parse", "HEAD").strip() == commit
    check(new, "champion@v0.0.1")
    check_the_next_one_works("champion@v0.0.1 champion@v0.0.2")


@pytest.mark.usefixtures("repository")
def test_a_kill_after_head_moved_and_then_a_commit() -> None:
    """Who finds the workspace so and commits something has the new champion, not the old one again."""
    new = built(WORKTREE)
    commit = record(WORKTREE, "new")
    with deadly("committed", "refs/heads/"):
        install_and_die(commit)
    Path("notes.txt").write_text("mine")
    git("add", "--all")
    git("commit", "-q", "-m", "mine")
    assert recover(JOURNAL)
    check(new, "champion@v0.0.1")
    check_the_next_one_works("champion@v0.0.1 champion@v0.0.2")


@pytest.mark.usefixtures("repository")
def test_a_kill_while_a_kill_is_undone() -> None:
    """The tag's removal is killed: the places are back by then, and the next one takes the tag."""
    old = built()
    commit = record(WORKTREE, "new")
    with deadly("prepared", "refs/heads/"):
        install_and_die(commit)
    forget_time()
    with deadly("prepared", "refs/tags/"):
        command = [sys.executable, "-c", INSTALL.replace("install(Path(sys.argv[1]), sys.argv[2], ", "recover(")]
        command[-1] = command[-1].replace("import install", "import recover")
        done = subprocess.run(
            [*command, "", "", str(JOURNAL)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
            check=False,
        )
        assert done.returncode == -9
    assert git("tag") == "champion@v0.0.1\n"
    forget_time()
    assert recover(JOURNAL)
    check(old)
    check_the_next_one_works("champion@v0.0.1")


class Killed(BaseException):
    """Stands for a kill: nothing of ours runs after it, as `dying` sees to."""


def dying(monkeypatch: pytest.MonkeyPatch, commit: str, calls: int) -> None:
    """Install, and end after so many renames or exchanges, without any of what would follow."""
    left, rename, exchange = iter(range(calls)), os.rename, files.exchange

    def count() -> None:
        if next(left, None) is None:
            raise Killed

    def dead(journal: Path) -> bool:
        return True

    def counted_rename(one: Path, other: Path) -> None:
        count()
        rename(one, other)

    def counted_exchange(one: Path, other: Path) -> bool:
        if not exchange(one, other):
            return False
        exchange(one, other)
        count()
        return exchange(one, other)

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(files.os, "rename", counted_rename)
        patch.setattr(files, "exchange", counted_exchange)
        patch.setattr("tasks.install.recover", dead)
        install(WORKTREE, commit, JOURNAL)
        raise AssertionError("it should have ended before")


SAID_OF_A_FULL_DISK = re.compile("No space left|Out of diskspace|unable to (write|create)|[Ff]ailed to create")
NEW_HERE = (CHAMPION, SMALL, TIMINGS)  # places that may not have been before


@pytest.mark.parametrize("exchanged", range(len(PLACES)))
def test_a_kill_between_two_places(monkeypatch: pytest.MonkeyPatch, exchanged: int) -> None:
    make_repository(tuple(place for place in PLACES if place not in NEW_HERE))
    # And one place that the rebuild does not have.
    (WORKTREE / LEADERBOARD).unlink()
    old, new = built(), built(WORKTREE)
    commit = record(WORKTREE, "new")
    dying(monkeypatch, commit, exchanged)
    assert git("tag") == "champion@v0.0.1\n"
    assert (built() == old) == (exchanged == 0)
    assert recover(JOURNAL)
    check(old)
    assert built(WORKTREE) == new
    check_the_next_one_works("champion@v0.0.1")


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("renames", [0, 1, 2, 10, 13, 24, 30, 31, 32])
def test_a_kill_between_two_renames_where_places_cannot_be_exchanged(
    monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    old, new = built(), built(WORKTREE)
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    dying(monkeypatch, record(WORKTREE, "new"), renames)
    assert recover(JOURNAL)
    check(old)
    assert built(WORKTREE) == new


@pytest.mark.usefixtures("repository")
def test_a_workspace_mended_by_hand_after_a_kill_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    old = built()
    dying(monkeypatch, record(WORKTREE, "new"), len(PLACES) - 1)  # all but the champion
    swap(WORKTREE / CHAMPION, CHAMPION)
    shutil.rmtree(CHAMPION)
    git("checkout", "-q", "--", ".")
    git("clean", "-q", "-d", "--force", "data", "models")
    assert recover(JOURNAL)
    check(old)
    check_the_next_one_works("champion@v0.0.1")


@pytest.mark.usefixtures("repository")
def test_a_commit_meanwhile_is_an_obstacle() -> None:
    old = built()
    commit = record(WORKTREE, "new")
    Path("notes.txt").write_text("mine")
    git("add", "--all")
    git("commit", "-q", "-m", "mine")
    head = git("rev-parse", "HEAD")
    with pytest.raises(UserError, match="somebody committed while"):
        install(WORKTREE, commit, JOURNAL)
    assert git("rev-parse", "HEAD") == head
    check(old)
    check_the_next_one_works("champion@v0.0.1")


@pytest.mark.usefixtures("repository")
def test_a_hook_that_refuses_leaves_everything_as_it_was() -> None:
    old = built()
    hook = Path(".git/hooks/pre-commit")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not on a Sunday\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(UserError, match="git commit failed: not on a Sunday"):
        record(WORKTREE, "new")
    check(old)
    hook.unlink()
    commit = record(WORKTREE, "new")
    refuse = Path(".git/hooks/reference-transaction")
    refuse.write_text('#!/bin/sh\ngrep -q " refs/heads/" && exit 1\nexit 0\n')
    refuse.chmod(0o755)
    with pytest.raises(UserError, match="git update-ref failed"):
        install(WORKTREE, commit, JOURNAL)
    refuse.unlink()
    check(old)
    check_the_next_one_works("champion@v0.0.1")


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("name", ["index.lock", "HEAD.lock", "packed-refs.lock"])
def test_an_old_lock_of_git_is_no_obstacle(name: str) -> None:
    commit = record(WORKTREE, "new")
    with deadly("committed", "refs/heads/"):
        install_and_die(commit)
    new = built()
    (Path(".git") / name).touch()
    forget_time()
    assert recover(JOURNAL)
    check(new, "champion@v0.0.1")
    (Path(".git") / name).touch()
    forget_time()
    check_the_next_one_works("champion@v0.0.1 champion@v0.0.2")


@pytest.mark.usefixtures("repository")
def test_a_fresh_lock_is_somebodys() -> None:
    commit = record(WORKTREE, "new")
    with deadly("committed", "refs/heads/"):
        install_and_die(commit)
    new = built()
    lock = Path(".git/index.lock")
    lock.touch()
    with pytest.raises(UserError, match=r"git reset failed: .*index\.lock"):
        recover(JOURNAL)
    assert lock.exists()
    lock.unlink()
    assert recover(JOURNAL)
    check(new, "champion@v0.0.1")


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("name", ["refs/heads/{branch}.lock", "refs/tags/champion@v0.0.1.lock"])
def test_a_reference_locked_by_somebody_undoes_it(name: str) -> None:
    old = built()
    commit = record(WORKTREE, "new")
    branch = git("symbolic-ref", "--short", "HEAD").strip()
    lock = Path(".git") / name.format(branch=branch)
    lock.touch()
    with pytest.raises(UserError):
        install(WORKTREE, commit, JOURNAL)
    assert lock.exists()
    lock.unlink()
    check(old)
    check_the_next_one_works("champion@v0.0.1")


@pytest.mark.usefixtures("repository")
def test_a_tag_that_somebody_made_by_hand_is_named() -> None:
    old = built()
    commit = record(WORKTREE, "new")
    git("tag", "champion@v0.0.1")
    with pytest.raises(
        UserError, match=r"tag 'champion@v0\.0\.1' already exists, .*; delete it with: git tag --delete"
    ):
        install(WORKTREE, commit, JOURNAL)
    check(old, "champion@v0.0.1")
    git("tag", "--annotate", "--force", "-m", "the first", "champion@v0.0.1", "champion@v0.0.1")
    check_the_next_one_works("champion@v0.0.1 champion@v0.0.2")


@pytest.mark.usefixtures("repository")
def test_a_journal_that_a_power_cut_left_empty_is_of_nothing() -> None:
    """The journal is on the disk before anything changes."""
    old = built()
    JOURNAL.touch()
    assert not recover(JOURNAL)
    check(old)


@pytest.mark.usefixtures("repository")
def test_without_a_journal_there_is_nothing_to_mend() -> None:
    old = built()
    Path(".git/index.lock").touch()
    forget_time()
    assert not recover(JOURNAL)
    assert built() == old
    assert Path(".git/index.lock").exists()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 2 MB of its own, in which the test works."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a file system of its own needs root and the right to mount")
    try:
        with monkeypatch.context() as patch:
            patch.chdir(place)
            yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(pages: int) -> Path:
    """Fill the disk but for so many pages; returns the file that does."""
    filler = Path(".git/filler")
    reserve = Path(".git/reserve")
    reserve.write_bytes(b"x" * 4096 * pages)
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    reserve.unlink()
    return filler


@pytest.mark.usefixtures("disk")
def test_a_full_disk() -> None:
    """With every number of free pages from none on, until there is room: it fails at ever later moments."""
    make_repository()
    old = built()
    for pages in range(60):
        filler = fill(pages)
        try:
            commit = record(WORKTREE, "new")
            new = built(WORKTREE)
            install(WORKTREE, commit, JOURNAL)
            break
        except UserError as error:
            assert SAID_OF_A_FULL_DISK.search(str(error)), error
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        finally:
            filler.unlink()
        recover(JOURNAL)
        check(old)
        git("reset", "-q", "--soft", git("rev-parse", "HEAD").strip(), folder=WORKTREE)
    assert pages > 2
    check(new, "champion@v0.0.1")
    check_the_next_one_works("champion@v0.0.1 champion@v0.0.2")


@pytest.mark.usefixtures("disk")
def test_a_disk_that_fills_between_record_and_install() -> None:
    make_repository()
    old, new, failed = built(), built(WORKTREE), 0
    commit = record(WORKTREE, "new")
    for pages in range(60):
        filler = fill(pages)
        try:
            install(WORKTREE, commit, JOURNAL)
            break
        except (UserError, OSError) as error:
            failed += 1
            assert SAID_OF_A_FULL_DISK.search(str(error)), error
        finally:
            filler.unlink()
        if git("rev-parse", "HEAD").strip() == commit:  # all but the index
            assert recover(JOURNAL)
            break
        recover(JOURNAL)
        check(old)
        assert built(WORKTREE) == new
    assert failed > 1
    check(new, "champion@v0.0.1")
    check_the_next_one_works("champion@v0.0.1 champion@v0.0.2")


def test_the_journal_is_readable_by_who_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what a person needs who has to mend by hand."""
    make_repository()
    head = git("rev-parse", "HEAD").strip()
    commit = record(WORKTREE, "new")
    dying(monkeypatch, commit, 3)
    entry = json.loads(JOURNAL.read_text())
    assert (entry["rebuilt"], entry["old"], entry["new"]) == (str(WORKTREE), head, commit)
