"""`ferflow champion`: the list, the way back, the comparison, on a real Git repository."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from gto.api import register
from typer.testing import CliRunner

from flows.champion import app
from tasks import champion
from tasks.errors import UserError

CHAMPION = Path("models/champion")
INFO = CHAMPION / "champion.json"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def deploy(version: str, temperature: float) -> None:
    info = json.loads(INFO.read_text())
    info |= {"version": version, "calibration": info["calibration"] | {"temperature": temperature}}
    INFO.write_text(json.dumps(info))
    git("add", "--all")
    git("commit", "-q", "-m", version)


def answer(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions, and a few faces that the champion labels right but for every tenth."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / CHAMPION, CHAMPION)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    faces = np.random.default_rng(0).random((40, 48, 48, 1), np.float32)
    labels = champion.load(CHAMPION).predict(faces).argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % 7
    Path("data/arrays").mkdir(parents=True)
    for split in ("val", "test"):
        np.save(f"data/arrays/{split}.npy", faces)
        np.save(f"data/arrays/{split}_labels.npy", labels)
    git("init", "-q")
    git("config", "user.name", "tests")
    git("config", "user.email", "tests@localhost")
    deploy("net-one", 1.0)
    git("tag", "champion@v1")
    deploy("net-two", 2.0)


def test_without_a_command_it_lists_the_versions() -> None:
    lines = answer().splitlines()
    two, one = (line.split() for line in lines[2:4])
    assert (two[:2], two[-1]) == (["2", "net-two"], "current")
    assert (one[:2], one[-1]) == (["1", "net-one"], "champion@v1")
    INFO.write_text(INFO.read_text() + "\n")
    assert "models/champion is not as Git has it: 1 file changed (git status)." in answer()


def test_no_accuracy_is_cut_off_where_lines_are_short(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    measures = json.loads(INFO.read_text())["metrics"]
    for split in ("val", "test"):
        assert answer().count(f"{measures[split]['accuracy']:.1%}") == 2


def test_a_shallow_clone_says_that_its_list_is_not_all() -> None:
    words = "This clone has the end of Git's history only; for older versions first run: git fetch --unshallow"
    assert words not in answer()
    git("clone", "-q", "--depth", "1", Path.cwd().as_uri(), "clone")
    with contextlib.chdir("clone"):
        assert answer().splitlines()[-1] == words


@pytest.mark.parametrize("command", [("rollback", ""), ("compare", ""), ("compare", "1", "")])
def test_an_empty_name_is_no_version(command: tuple[str, ...]) -> None:
    """As a script's variable that is not set gives it."""
    with pytest.raises(UserError, match="no version ''"):
        answer(*command)


def test_rollback_without_a_version_goes_one_back() -> None:
    assert answer("rollback").startswith("models/champion is net-one again, in place of net-two; recorded in commit ")
    assert champion.load(CHAMPION).version == "net-one"
    assert git("status", "--porcelain") == ""
    answer("rollback", "2")
    assert champion.load(CHAMPION).version == "net-two"


def test_the_tags_that_gto_gives_are_those_of_the_help() -> None:
    git("tag", "--delete", "champion@v1")
    for commit in ("HEAD~1", "HEAD"):
        register(".", "champion", commit)
    assert "(v0.0.2, of gto register champion)" in " ".join(answer("--help").split())
    assert answer("rollback", "v0.0.1").startswith("models/champion is net-one again")
    assert answer("rollback", "v0.0.2").startswith("models/champion is net-two again")


def test_compare_with_the_current_one_asks_the_gate() -> None:
    text = answer("compare", "v1")
    assert "40 faces of PublicTest (val)" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["net-one", "net-two", "difference"] in rows
    assert ["accuracy", "90.0%", "90.0%", "+0.0"] in rows
    assert "Difference: +0.00 points, 95% interval +0.00 to +0.00, p = 1" in text
    assert "The gate: net-one would not replace net-two." in text
    assert "- A difference of 0.00 points is less than gate.min_gain (+0.50)." in text


def test_compare_takes_folders_and_asks_the_gate_on_its_own_split_only() -> None:
    shutil.copytree(CHAMPION, "mine")
    text = answer("compare", "mine", "1", "--split", "test")
    assert "40 faces of PrivateTest (test)" in text
    assert "The gate is not asked: it judges on val (gate.split in params.yaml)." in text
    assert "would" not in text


def test_the_gate_may_judge_on_test() -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("split: val", "split: test"))
    text = answer("compare", "v1")
    assert "40 faces of PrivateTest (test)" in text
    assert "The gate: net-one would not replace net-two." in text
    assert "The gate is not asked: it judges on test" in answer("compare", "v1", "--split", "val")


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="no version 'net-tow' of the champion; did you mean net-two"):
        answer("compare", "net-tow")
    git("rm", "-q", "-r", str(CHAMPION))
    git("commit", "-q", "-m", "gone")
    with pytest.raises(UserError, match="no current champion; name two versions"):
        answer("compare", "1")


def test_elsewhere_it_says_where_to_run() -> None:
    with contextlib.chdir("models"):
        for command in ([], ["rollback"], ["rollback", "1"], ["compare", "1"]):
            with pytest.raises(UserError, match=r"no params\.yaml here; run ferflow in the folder of the pipeline"):
                answer(*command)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, flows.champion; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"tensorflow", "numpy", "scipy", "pandas", "pyarrow", "prefect"} & set(done.stdout.split())
