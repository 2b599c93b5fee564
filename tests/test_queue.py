"""Recipes tried side by side, with the README's commands: DVC's queue of experiments and its workers."""

import shutil
import time
from pathlib import Path

import pytest
import yaml
from conftest import Workspace, programs_in

TIMEOUT = 600  # s, for a machine with other work to do


def run(workspace: Workspace, *command: str) -> str:
    done = workspace.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start_workers(workspace: Workspace, jobs: int) -> None:
    """Its output goes to a file: DVC's workers keep it open, and a pipe would only end with them."""
    started = workspace.start("dvc", "queue", "start", "--jobs", str(jobs))
    assert started.wait(TIMEOUT) == 0, (workspace.folder / "log.txt").read_text()


@pytest.fixture
def workspace(built: list[Workspace], tmp_path: Path) -> Workspace:
    """A built workspace whose data DVC keeps: each experiment runs in a folder of its own, which has what Git and DVC have."""
    workspace = Workspace(Path(shutil.copytree(built[0].folder, tmp_path / "workspace")))
    run(workspace, "git", "config", "user.name", "tests")
    run(workspace, "git", "config", "user.email", "tests@localhost")
    run(workspace, "dvc", "add", "data/raw")
    run(workspace, "git", "add", "--all")
    run(workspace, "git", "commit", "--quiet", "--message", "built")
    return workspace


def test_two_recipes_are_trained_side_by_side_and_one_is_taken(workspace: Workspace) -> None:
    before = workspace.lock()["train@small"]["outs"]
    recipes = {
        "slower": "candidates.small.optimizer.learning_rate=0.001",
        "wider": "candidates.small.options.widths=[8,16,32]",
    }
    for name, recipe in recipes.items():
        run(workspace, "dvc", "exp", "run", "--queue", "--name", name, "-S", recipe, "evaluate@small")
    try:
        deadline = time.monotonic() + TIMEOUT
        start_workers(workspace, 1)
        while "Worker status: 0 active, 0 idle" in run(workspace, "dvc", "queue", "status"):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        start_workers(workspace, 2)  # one more. Two at the same moment may lose what one is told: it would never end
        while (status := run(workspace, "dvc", "queue", "status")).count("Success") < len(recipes):
            assert "Failed" not in status, run(workspace, "dvc", "queue", "logs", "slower")
            assert time.monotonic() < deadline
            time.sleep(1)
    finally:
        run(workspace, "dvc", "queue", "stop", "--kill")
    assert workspace.lock()["train@small"]["outs"] == before  # the workspace is as it was
    shown = run(workspace, "dvc", "exp", "show", "--md")
    assert all(name in shown for name in recipes)
    run(workspace, "dvc", "exp", "apply", "wider")
    recipe = yaml.safe_load((workspace.folder / "params.yaml").read_text())["candidates"]["small"]
    assert recipe["options"]["widths"] == [8, 16, 32]
    assert workspace.lock()["train@small"]["outs"] != before
    assert "Running stage" not in workspace.repro("evaluate@small")
    while programs_in(workspace.folder):  # its workers end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.5)
