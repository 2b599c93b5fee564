"""Training candidates on other machines: each has a clone of its own, and DVC's remote carries what goes to and fro.

Who retrains pushes what the training reads (`offer`), whoever trains does so in a worktree of the same commit with the same
dvc.lock (`train`), and pushes what came of it with DVC's record of the run. `dvc repro --pull` then takes it from there.

    python -m tasks.elsewhere train@small    # push what this stage wrote
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import params
from tasks.errors import UserError, explained
from tasks.files import in_turn
from tasks.git import git
from tasks.paths import DVC_LOCK, WEIGHTS
from tasks.rebuild import bring, dvc, reproduce, run, worktree
from tasks.timings import read_timings

STATE = Path(".dvc/tmp/train")  # a folder for each candidate, with its worktree


def offer(folder: Path, names: list[str], teachers: list[str]) -> list[str]:
    """Push what the training of these candidates reads; returns those of them whose training is out of date.

    Raises:
        UserError: there is no remote, or it cannot be reached.
    """
    status = json.loads(dvc("status", "--json", *(f"train@{name}" for name in names), folder=folder))
    changed = [name for name in names if f"train@{name}" in status]
    if changed:
        dvc("push", "parse", *(f"teach@{name}" for name in teachers), folder=folder)
    return changed


def train(name: str, commit: str, lock: str, tell: Callable[[str], None], hours: float) -> dict[str, Any]:
    """Train a candidate in a worktree of this clone and push what came of it; returns its timings.

    Killed, the next call goes on after the last finished epoch, if it is for the same data and code.

    Args:
        name: of the candidate.
        commit: that is to be trained.
        lock: the content of dvc.lock, by which DVC finds data in the remote.
        tell: called with every line that the training prints.
        hours: it may take.

    Raises:
        UserError: the commit or the data are not to be had, or the training fails.
    """
    state = STATE / name
    # A retraining that was killed may have asked for the same, and that training is still at work.
    with in_turn(state / "lock"):
        return _train(state, name, commit, lock, tell, hours)


def _train(state: Path, name: str, commit: str, lock: str, tell: Callable[[str], None], hours: float) -> dict[str, Any]:
    _find(commit)
    folder = worktree(state)
    git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    git(folder, "clean", "--quiet", "-d", "--force")
    (folder / DVC_LOCK).write_text(lock, encoding="utf-8")
    bring(WEIGHTS, folder)
    settings = params.load(folder / params.PARAMS)
    dvc("pull", "--force", "parse", *(f"teach@{each}" for each in settings.teachers_of(name)), folder=folder)
    stage = f"train@{name}"
    if failure := reproduce(folder, stage, tell, hours) or run(folder, ["tasks.elsewhere", stage], tell, hours):
        raise UserError(failure)
    timings = read_timings(name, folder)
    git(Path(), "worktree", "remove", "--force", "--force", str((state / "workspace").resolve()))
    return timings


def _find(commit: str) -> None:
    """Raise UserError if this clone does not have the commit, and does not get it where it comes from."""
    try:
        git(Path(), "cat-file", "-e", f"{commit}^{{commit}}")
    except UserError:
        git(Path(), "fetch", "--quiet", "--all")
        try:
            git(Path(), "cat-file", "-e", f"{commit}^{{commit}}")
        except UserError as error:
            raise UserError(
                f"commit {commit[:7]} is not in {Path.cwd()}, nor where that was cloned from; push it"
            ) from error


def share(stage: str) -> None:
    """Push what a stage wrote, what Git keeps of it, too, and the record by which DVC finds it for the same inputs."""
    from dvc.repo import Repo

    with Repo() as repo:
        (loaded,) = repo.stage.collect(stage)
        repo.stage_cache.save(loaded)  # which DVC leaves out where Git keeps outputs that are neither metrics nor plots
        repo.push(stage, run_cache=True)
        for out in loaded.outs:
            out.use_cache = True  # what Git keeps is in DVC's cache by now, too, and is pushed like the rest
        for objects in loaded.get_used_objs().values():
            repo.cloud.push(objects)


@explained
def main() -> None:
    """Push what the stage named on the command line wrote."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and one stage
        raise UserError("usage: python -m tasks.elsewhere STAGE, where STAGE is one of dvc.yaml, such as train@small")
    share(sys.argv[1])


if __name__ == "__main__":
    main()
