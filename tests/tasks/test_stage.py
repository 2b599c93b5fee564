"""One stage run by a real DVC: what a rebuild says of it where it fails."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.rebuild import run

PIPELINE = f"""
stages:
  write:
    cmd: {sys.executable} write.py
    deps: [write.py]
    outs: [written]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small pipeline, as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], check=True)
    Path("dvc.yaml").write_text(PIPELINE)
    return tmp_path


def reason(code: str) -> str | None:
    Path("write.py").write_text(code)
    return run(Path(), ["tasks.stage", "write"], print, hours=1)


@pytest.mark.usefixtures("folder")
def test_it_runs_what_is_out_of_date_and_says_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert reason("print('epoch 1'); open('written', 'w').write('a')") is None
    assert capfd.readouterr().out == "epoch 1\n"
    assert reason("print('epoch 1'); open('written', 'w').write('a')") is None
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('a'); exit('ferflow: data/raw/a.csv, row 3: bad')", "data/raw/a.csv, row 3: bad"),
        ("print('a'); raise ValueError('some reason')", "ValueError: some reason"),
        ("import os; print('a'); os.kill(os.getpid(), 9)", "ran out of memory"),
        ("print('a'); exit(3)", f"failed to run: {sys.executable} write.py, exited with 3"),
        ("print('a')", "output 'written' does not exist"),
    ],
)
def test_why_it_failed(code: str, said: str) -> None:
    assert reason(code) == said


def test_what_dvc_cannot_read_is_named(folder: Path) -> None:
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages:\n  write")
    assert reason("open('written', 'w')") == "'./dvc.lock' validation failed"
