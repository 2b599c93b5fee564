import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from tasks.errors import UserError, explained


def code_after(failure: BaseException) -> int | str | None:
    @explained
    def main() -> None:
        raise failure

    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code


def test_a_users_mistake_is_one_line() -> None:
    assert code_after(UserError("no such thing")) == "ferflow: no such thing"  # Python prints a text and exits with 1


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_after(KeyboardInterrupt()) == 130
    assert "same command continues" in capsys.readouterr().err


def test_ctrl_c_while_packages_are_imported_is_one_line_too() -> None:
    program = "import tasks, os, signal; os.kill(os.getpid(), signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "ferflow: interrupted; the same command continues where it stopped\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on the disk while writing data/x"),
        (errno.EDQUOT, "no space left"),
        (errno.EACCES, "no permission for data/x"),
        (errno.EROFS, "data/x is on a read-only file system"),
        (errno.EFBIG, "data/x would pass the size limit"),
        (errno.ENOENT, "data/x: no such file or directory"),
        (errno.EISDIR, "data/x: is a directory"),
        (errno.ENAMETOOLONG, "data/x: file name too long"),
    ],
)
def test_what_disks_refuse_is_explained(number: int, words: str) -> None:
    line = code_after(OSError(number, "as the system says", "data/x"))
    assert isinstance(line, str) and words in line and "\n" not in line


def test_a_folder_that_cannot_be_copied_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("one", "two"):
        (tmp_path / "folder" / name).symlink_to("nowhere")
    with pytest.raises(shutil.Error) as failure:
        shutil.copytree(tmp_path / "folder", tmp_path / "copy")
    line = code_after(failure.value)
    assert isinstance(line, str) and "/folder/" in line and " cannot be copied: [Errno 2] No such file" in line
    assert "\n" not in line


@pytest.mark.parametrize("failure", [OSError("no number"), OSError(errno.ENOENT, "no file name"), ZeroDivisionError()])
def test_a_defect_keeps_its_stack_trace(failure: Exception) -> None:
    @explained
    def main() -> None:
        raise failure

    with pytest.raises(type(failure)):
        main()
