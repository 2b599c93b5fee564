"""Places that change hands in one step, and the lock that ends with its holder."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import av
import pytest
from conftest import ROOT

from tasks import files
from tasks.files import alone, complete_swap, exchange, in_turn, replacing, swap

HOLDER = """
import sys, time
from pathlib import Path
from tasks.files import alone
with alone(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def make(path: Path, content: str, folder: bool) -> None:
    """A file, or a folder with two, one of them deeper."""
    if folder:
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "b").write_text(content)
    (path / "a" if folder else path).write_text(content)


def content(path: Path) -> object:
    if not path.exists():
        return None
    if path.is_file():
        return path.read_text()
    return {str(each.relative_to(path)): each.read_text() for each in sorted(path.rglob("*")) if each.is_file()}


def inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


@pytest.fixture(params=["exchange", "three renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of `swap`; the second one is that of systems and disks without the call."""
    if request.param == "three renames":
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("other_is_folder", [False, True])
@pytest.mark.parametrize("one_is_folder", [False, True])
def test_two_places_change_hands(tmp_path: Path, one_is_folder: bool, other_is_folder: bool) -> None:
    one, other = tmp_path / "one", tmp_path / "there" / "other"
    other.parent.mkdir()
    make(one, "1", one_is_folder)
    make(other, "2", other_is_folder)
    before = [(content(path), inode(path)) for path in (one, other)]
    swap(one, other)
    assert [(content(path), inode(path)) for path in (other, one)] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "there"]
    assert list(other.parent.iterdir()) == [other]
    swap(one, other)
    assert [(content(path), inode(path)) for path in (one, other)] == before


@pytest.mark.usefixtures("way")
def test_what_a_killed_program_left_beside_is_no_obstacle(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path, text in ((one, "1"), (other, "2"), (tmp_path / ".other.part", "half"), (tmp_path / ".one.part", "half")):
        make(path, text, folder=True)
    swap(one, other)
    assert (content(one), content(other)) == ({"a": "2", "deep/b": "2"}, {"a": "1", "deep/b": "1"})


@pytest.mark.parametrize("folder", [False, True])
def test_one_may_be_missing(tmp_path: Path, folder: bool) -> None:
    one, other = tmp_path / "one", tmp_path / "not" / "yet" / "other"
    make(one, "1", folder)
    before = content(one), inode(one)
    swap(one, other)
    assert (content(other), inode(other)) == before
    assert not one.exists()
    swap(one, other)
    assert (content(one), inode(one)) == before
    assert not other.exists()


def test_both_may_be_missing(tmp_path: Path) -> None:
    swap(tmp_path / "one", tmp_path / "other")
    assert not list(tmp_path.iterdir())


def test_exchange_says_why_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    with pytest.raises(FileNotFoundError, match="other") as error:
        exchange(tmp_path / "one", tmp_path / "other")
    assert error.value.filename == str(tmp_path / "other")


def test_an_error_without_a_name_gets_the_files(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as error, replacing(tmp_path / "a.mp4"):
        raise av.error.OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(tmp_path / "a.mp4")


def test_an_error_of_ffmpeg_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as error, replacing(tmp_path / "a.mp4") as temporary:
        raise av.error.OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"file:{temporary}")
    assert error.value.filename == str(tmp_path / "a.mp4")


def test_an_error_names_the_file_and_not_what_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(IsADirectoryError) as error, replacing(tmp_path / "out") as temporary:
        temporary.touch()
    assert error.value.filename == str(tmp_path / "out")


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_swap_that_was_killed_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    make(one, "1", folder=True)
    make(other, "2", folder=True)
    before = content(one), content(other)
    if cut_short(monkeypatch, one, other, renames):
        complete_swap(one, other)
    assert (content(one), content(other)) == (before if renames == 0 else before[::-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def cut_short(monkeypatch: pytest.MonkeyPatch, one: Path, other: Path, renames: int) -> bool:
    """Swap, and stop as a kill would after so many renames; returns whether it was stopped."""
    left, rename = iter(range(renames)), os.rename

    def rename_or_die(source: Path, target: Path) -> None:
        next(left)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "exchange", lambda one, other: False)
        patch.setattr(files.os, "rename", rename_or_die)
        try:
            swap(one, other)
        except StopIteration:
            return True
    return False


def holder(lock: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(lock)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_one_process_alone_holds_the_lock_and_a_kill_frees_it(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "lock"
    first = holder(lock)
    try:
        assert first.stdout
        assert first.stdout.readline() == "True\n"
        with alone(lock) as mine:
            assert not mine
        second = holder(lock)
        assert second.stdout
        assert second.stdout.readline() == "False\n"
        second.kill()
        second.wait()
        first.send_signal(signal.SIGKILL)
        first.wait()
        with alone(lock) as mine:
            assert mine
    finally:
        first.kill()
        first.wait()


def test_the_next_in_turn_waits_until_the_lock_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "lock"
    first = holder(lock)
    assert first.stdout
    first.stdout.readline()
    threading.Timer(0.3, first.kill).start()
    with in_turn(lock), alone(lock) as mine:
        assert first.wait() == -signal.SIGKILL
        assert not mine


def test_the_lock_ends_with_its_block(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "lock"):
        _ = 1 / 0
    with alone(tmp_path / "lock") as mine, alone(tmp_path / "lock") as again:
        assert (mine, again) == (True, False)
