"""Programs end with whoever started them: in time, by kill -9, and without anything left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from tasks.processes import end, follow, guarded

# A child with a child of its own in the background; both write their number first.
FAMILY = """
sh -c 'echo $$ > grandchild; exec sleep 60' &
echo $$ > child
while ! [ -s grandchild ]; do sleep 0.02; done
echo ready
sleep 60
"""


def told(command: list[str], folder: Path, seconds: float = 30, **environment: str) -> tuple[int, list[str]]:
    lines: list[str] = []
    return follow(command, folder, lines.append, seconds, environment), lines


def numbers(folder: Path) -> list[int]:
    """The process numbers of the family, once both have written them."""
    files = [folder / "child", folder / "grandchild"]
    wait_until(lambda: all(file.exists() and file.read_text().strip() for file in files))
    return [int(file.read_text()) for file in files]


def lives(number: int) -> bool:
    """Whether a process runs; one that ended and was not asked for yet does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def group(number: int) -> list[int]:
    """The living members of a process group."""
    members = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and lives(int(folder.name)):
            try:
                if os.getpgid(int(folder.name)) == number:
                    members.append(int(folder.name))
            except ProcessLookupError:
                pass
    return members


def wait_until(true: object, seconds: float = 5) -> None:
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_exit_code_and_every_line_come_back(tmp_path: Path) -> None:
    code, lines = told(["sh", "-c", 'echo "one  "; echo two >&2; pwd; echo "$WORD"; exit 3'], tmp_path, WORD="three")
    assert (code, lines) == (3, ["one", "two", str(tmp_path), "three"])
    assert told(["true"], tmp_path) == (0, [])
    assert told(["sh", "-c", "kill -9 $$"], tmp_path) == (-9, [])


def test_lines_come_as_they_are_printed(tmp_path: Path) -> None:
    def answer(line: str) -> None:
        (tmp_path / line).touch()

    waits = "echo first; while ! [ -e first ]; do sleep 0.05; done; printf '\\377 no text'"
    assert follow(["sh", "-c", waits], tmp_path, answer, 10, {}) == 0
    assert (tmp_path / "\N{REPLACEMENT CHARACTER} no text").exists()


def test_names_with_spaces_and_quotes_reach_the_program_as_they_are(tmp_path: Path) -> None:
    odd = 'it\'s $HOME/a "b" *'
    program = tmp_path / "a program"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    assert told([str(program), odd, "", "-x"], tmp_path) == (0, [odd, "", "-x"])


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    code, lines = told([str(tmp_path / "missing")], tmp_path)
    assert code == 127
    assert "missing" in lines[0]


def test_a_child_that_reads_gets_the_end_of_the_file(tmp_path: Path) -> None:
    assert told(["sh", "-c", "cat; echo done"], tmp_path, seconds=5) == (0, ["done"])


def test_a_time_limit_ends_the_whole_family(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        told(["sh", "-c", FAMILY], tmp_path, seconds=0.5)
    assert time.monotonic() - start < 3
    child, grandchild = numbers(tmp_path)
    wait_until(lambda: not lives(child) and not lives(grandchild) and not group(child))


def test_a_background_program_ends_with_the_program(tmp_path: Path) -> None:
    start = time.monotonic()
    assert told(["sh", "-c", "sleep 60 & echo $! > grandchild; echo $$ > child; echo last"], tmp_path) == (0, ["last"])
    assert time.monotonic() - start < 3
    child, grandchild = numbers(tmp_path)
    wait_until(lambda: not lives(grandchild) and not group(child))


def test_an_error_of_the_listener_ends_the_program(tmp_path: Path) -> None:
    def fail(line: str) -> None:
        raise OSError(line)

    with pytest.raises(OSError, match="ready"):
        follow(["sh", "-c", FAMILY], tmp_path, fail, 30, {})
    child, grandchild = numbers(tmp_path)
    wait_until(lambda: not lives(child) and not lives(grandchild) and not group(child))


FOLLOWS = "import sys; from pathlib import Path; from tasks.processes import follow\n"
FOLLOWS += "follow(['sh', '-c', sys.argv[1]], Path(sys.argv[2]), print, 60, {})"
GUARDS = "import sys, time; from pathlib import Path; from tasks.processes import guarded\n"
GUARDS += "process = guarded(['sh', '-c', sys.argv[1]], cwd=sys.argv[2]); time.sleep(60)"


@pytest.mark.parametrize("program", [FOLLOWS, GUARDS], ids=["follow", "guarded"])
def test_kill_9_of_the_parent_ends_the_family(tmp_path: Path, program: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", program, FAMILY, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        child, grandchild = numbers(tmp_path)
        time.sleep(0.2)
        assert lives(child)
        assert lives(grandchild)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until(lambda: not lives(child) and not lives(grandchild) and not group(child), seconds=2)


def test_a_program_that_ends_leaves_no_guard(tmp_path: Path) -> None:
    code, lines = told(["sh", "-c", "echo $$"], tmp_path)
    assert code == 0
    wait_until(lambda: not group(int(lines[0])))
    assert not Path(f"/proc/{lines[0]}").exists()  # no zombie either


def test_end_ends_what_is_guarded(tmp_path: Path) -> None:
    process = guarded(["sh", "-c", FAMILY], cwd=tmp_path, stdout=subprocess.DEVNULL)
    child, grandchild = numbers(tmp_path)
    assert child == process.pid
    assert os.getpgid(grandchild) == child
    end(process)
    assert process.returncode == -9
    wait_until(lambda: not lives(grandchild) and not group(child))
    end(process)  # once more does nothing
