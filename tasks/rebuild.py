"""Rebuilding the pipeline apart from the workspace, which stays as it is: in a worktree of Git that shares DVC's cache.

`dvc exp run --temp` would do likewise. But it works in a new folder each time, where a killed training starts from its first
epoch, and it ends at the first candidate that fails. Here the folder stays, and a stage is a program of its own.

All paths are relative to the folder of the pipeline, in which the caller runs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from tasks.errors import UserError
from tasks.files import read_json, replacing
from tasks.git import changed_files, check_identity, git, head
from tasks.params import Labels, Params
from tasks.paths import CANDIDATES, DATA_MADE, DVC_LOCK, PROMOTED, RAW, TIMINGS, WEIGHTS
from tasks.processes import environment, follow

STATE = Path(".dvc/tmp/retrain")  # Git does not look there
JOURNAL = STATE / "installation.json"  # of an installation under way, see tasks/install.py
READY = STATE / "ready"  # the worktree was created to the end
BASE = STATE / "base"  # the workspace's dvc.lock that the worktree started from, as Git's tree names it
# DVC writes these two in place, the first for half a second: killed meanwhile, it could not read them any more.
WHOLE = Path(".dvc/tmp/dvc.lock")  # a copy of dvc.lock while a stage runs
RWLOCK = Path(".dvc/tmp/rwlock")  # who reads and writes what
NOTHING_RUN = b"schema: '2.0'\nstages: {}\n"  # dvc.lock before the first stage
MADE = tuple(f"{path}/" for path in (*DATA_MADE, CANDIDATES))  # by stages, for stages
OURS = ("params.yaml", "dvc.yaml", str(DVC_LOCK), "tasks/", "data/", "models/")  # where new files count as changes
NO_MEMORY = (
    "OOM when allocating",
    "MemoryError",
    "bad_alloc",
    "Cannot allocate memory",
    "exited with -9",
    "exited with 137",
)
TOLD = 20  # changed files that a line names
ERROR = "ERROR: "  # how the line begins in which DVC says what is wrong
SAID = "ferflow: "  # how the line begins in which a stage says what is wrong


def apart(state: Path = STATE) -> Path:
    """The folder of the pipeline in the worktree that `state` has."""
    return state / "workspace" / git(Path(), "rev-parse", "--show-prefix").decode().strip()


def unclean() -> list[str]:
    """Files that are not as HEAD has them: changed ones anywhere, and new ones where the pipeline would see them."""
    return [path for state, path in changed_files(Path()) if state != "??" or path.startswith(OURS)]


def check_workspace() -> None:
    """Refuse a workspace with changes that Git does not have, which an installation might overwrite, or without a committer."""
    if changed := unclean():
        more = f" and {len(changed) - TOLD} more" if len(changed) > TOLD else ""
        raise UserError(
            f"the workspace is not as Git has it: {', '.join(changed[:TOLD])}{more}; commit these changes, or undo them "
            "(git status)"
        )
    check_identity(Path())


def out_of_date(folder: Path) -> dict[str, list[str]]:
    """The stages of which data, code, parameters or command changed since they ran, and what of these.

    What one stage makes for another does not count: where it is missing, nothing has changed that would change the champion.

    Raises:
        UserError: DVC cannot say, dvc.yaml being broken, for example.
    """
    _mend_rwlock(folder)
    status = json.loads(dvc("status", "--json", folder=folder))
    changes = {stage: _inputs(entries) for stage, entries in status.items()}
    return {stage: names for stage, names in changes.items() if names}


def _mend_rwlock(folder: Path) -> None:
    """Remove the list of locks if a DVC that was killed left it half-written; a DVC at work has it whole in no time."""
    path = folder / RWLOCK
    if path.exists() and read_json(path) is None:
        time.sleep(1)
        if read_json(path) is None:
            path.unlink(missing_ok=True)


def _inputs(entries: list[Any]) -> list[str]:
    """The names of changed inputs in what `dvc status` says of a stage."""
    names: list[str] = []
    for entry in entries:
        if isinstance(entry, str):  # changed command
            names.append(entry)
            continue
        for path, state in entry.get("changed deps", {}).items():
            if isinstance(state, dict):  # of params.yaml: a state for each key
                names += [f"{path}: {key}" for key in state]
            elif not f"{path}/".startswith(MADE):
                names.append(path)
    return names


def renew(settings: Params) -> Path:
    """Bring the worktree to the workspace's commit and a copy of its data; returns the folder of the pipeline in it.

    What was built there and not installed stays, a killed training's epochs, too: DVC finds out what of it still holds. But
    where the workspace's dvc.lock has changed since, somebody has built something there, and that is taken over instead.
    """
    folder = bring_inputs(settings.ingest.source)
    commit, lock = head(Path()), git(Path(), "ls-tree", "HEAD", str(DVC_LOCK)).decode()
    if BASE.exists() and BASE.read_text(encoding="utf-8") == lock:
        built = [f":(exclude){place}" for place in _built(settings)]
        git(folder, "reset", "--quiet", "--soft", commit)
        git(folder, "checkout", "--force", "--no-overlay", commit, "--", ":/", *built)
        git(folder, "clean", "--quiet", "-d", "--force", "--", ":/", *built)
        git(folder, "clean", "--quiet", "-d", "-x", "--force", "--", str(CANDIDATES), *built)
    else:
        git(folder, "checkout", "--quiet", "--force", "--detach", commit)
        git(folder, "clean", "--quiet", "-d", "--force")
        dvc("checkout", "--force", "--allow-missing", folder=folder)
        BASE.write_text(lock, encoding="utf-8")
    # Once more: newer than what DVC has, where it keeps the raw data, too; and a copy, where Git has brought a link to them.
    _copy_data(settings.ingest.source, folder)
    return folder


def forget() -> None:
    """Let the next `renew` start from what the workspace has."""
    BASE.unlink(missing_ok=True)


def _built(settings: Params) -> list[str]:
    """What the stages write, of which nothing else may be in the worktree: a candidate that is no more has its folder still."""
    candidates = (CANDIDATES / name for name in settings.candidates)
    places = (*DATA_MADE, TIMINGS, *PROMOTED, *candidates)
    return [str(DVC_LOCK), *(place.as_posix() for place in places)]


def bring_inputs(source: str) -> Path:
    """Bring code, parameters and data of the workspace to the worktree, and leave what was built there; returns its folder."""
    folder = worktree()
    git(folder, "checkout", "--force", "--no-overlay", head(Path()), "--", "params.yaml", "dvc.yaml", "tasks", ".dvc")
    _copy_data(source, folder)
    return folder


def _copy_data(source: str, folder: Path) -> None:
    for data in {Path(source), RAW, WEIGHTS}:
        if not data.is_absolute():  # such a path is the same for the worktree
            bring(data, folder)


def bring(data: Path, folder: Path) -> None:
    """Copy a folder of the workspace to the same place in the worktree, and never to, or through a link to, one outside of it.

    Raises:
        UserError: the place is outside.
    """
    place = Path(os.path.normpath(data))
    if place == Path() or not place.parent.resolve().is_relative_to(Path.cwd()):
        raise UserError(
            f"retraining reaches {data} only within {Path.cwd()}; let `ingest.source` in params.yaml name what lies "
            "elsewhere by its absolute path, or let data/ be a folder with a link to it"
        )
    for part in (*reversed(place.parents), place):
        if (folder / part).is_symlink():  # one that Git has, of today or of older days
            (folder / part).unlink()
    copy_changed(place, folder / place)


def worktree(state: Path = STATE) -> Path:
    """The folder of the pipeline in the worktree that `state` has, or now gets: of HEAD, with DVC's cache shared.

    Nobody else may work in it at the same time.
    """
    if not _sound(state):
        _create(state)
    _unlock(apart(state))
    _mend(apart(state))
    _share_settings(apart(state))
    return apart(state)


def _sound(state: Path) -> bool:
    """Whether the worktree is whole and of this repository, which it is not after the workspace was copied or moved."""
    try:
        git_dir = git(apart(state), "rev-parse", "--absolute-git-dir").decode().strip()
    except UserError:
        return False
    shared = git(Path(), "rev-parse", "--path-format=absolute", "--git-common-dir").decode().strip()
    return (state / READY.name).exists() and Path(git_dir).parent == Path(shared) / "worktrees"


def _create(state: Path) -> None:
    (state / READY.name).unlink(missing_ok=True)
    (state / BASE.name).unlink(missing_ok=True)
    place = (state / "workspace").resolve()
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    git(Path(), "worktree", "prune")
    # Twice forced: a Git that was killed leaves the place registered and locked.
    git(Path(), "worktree", "add", "--quiet", "--force", "--force", "--detach", str(place), "HEAD")
    (state / READY.name).touch()


def _share_settings(folder: Path) -> None:
    """Give the worktree DVC's settings of this machine, as they are now, and the workspace's cache and relative remotes."""
    from dvc.config import Config
    from dvc.config_schema import RelPath
    from dvc.exceptions import DvcException

    settings = folder.resolve() / ".dvc"
    local = Path(".dvc", Config.CONFIG_LOCAL)
    (folder / local).unlink(missing_ok=True)
    if local.exists():
        shutil.copy(local, folder / local)  # as secret as it is here: it may hold keys
    try:
        ours = Config(".dvc")
        # Not validated: what they add to may be in a commit that is yet to be checked out.
        with Config(settings, validate=False).edit("local", validate=False) as theirs:
            theirs.update(ours.load_one("local"))
            for name, remote in ours.load_one("repo")["remote"].items():
                if paths := {key: value for key, value in remote.items() if isinstance(value, RelPath)}:
                    theirs["remote"][name] = paths | theirs["remote"].get(name, {})
            # Relative, for DVC writes its settings in ASCII, and the workspace may lie under any name.
            theirs["cache"]["dir"] = RelPath(Path(ours["cache"].get("dir", ".dvc/cache")).resolve())
    except (DvcException, UnicodeError) as error:
        raise UserError(f"DVC's settings in .dvc cannot be brought to {settings}: {error}") from error


def dvc(*arguments: str, folder: Path = Path()) -> str:
    """Run DVC in a folder; returns what it prints, or raises UserError with its last words."""
    command = [sys.executable, "-m", "dvc", *arguments]
    variables = os.environ | environment()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = done.stderr.split(ERROR)[1:]  # each with where to get help, behind an empty line
        reason = errors[-1].partition("\n\n")[0] if errors else _last(done.stderr.splitlines())
        raise UserError(f"dvc {arguments[0]} failed: {' '.join(reason.split())}")
    return done.stdout.strip()


def _unlock(folder: Path) -> None:
    """Remove the locks that a killed Git left: nobody else works in this worktree."""
    for lock in Path(git(folder, "rev-parse", "--absolute-git-dir").decode().strip()).glob("*.lock"):
        lock.unlink()


def copy_changed(source: Path, target: Path) -> None:
    """Make `target` a copy of the folder or file `source`, reading what differs in size or time only."""
    # os.walk, not rglob: a folder that is a link to another disk is data, too.
    found = (Path(place, name) for place, _, names in os.walk(source, followlinks=True) for name in names)
    files = {path.relative_to(source): path for path in found if path.is_file()}
    if source.is_file():
        files = {Path(): source}
    folders = {parent for name in files for parent in name.parents}
    if target.is_symlink():  # what links lead to is not the copy's
        target.unlink()
    for old in (*sorted(target.rglob("*"), reverse=True), target):  # what a folder holds before the folder
        name = old.relative_to(target)
        if old.is_dir() and not old.is_symlink():
            if name not in folders:
                old.rmdir()
        elif name not in files or old.is_dir():
            old.unlink(missing_ok=True)
    for name, path in files.items():
        copy = target / name
        if not copy.exists() or _stamp(copy) != _stamp(path):
            copy.parent.mkdir(parents=True, exist_ok=True)
            with replacing(copy) as temporary:  # never through a link into DVC's cache
                shutil.copy2(path, temporary)


def _stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


def run(folder: Path, command: list[str], tell: Callable[[str], None], hours: float) -> str | None:
    """Run a Python module in the worktree; returns None, or why it failed in a line.

    Args:
        folder: of the pipeline, in the worktree.
        command: the module and its arguments.
        tell: called with every line it prints.
        hours: it may take.
    """
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        tell(line)

    try:
        code = follow([sys.executable, "-m", *command], folder, keep, hours * 3600, environment())
    except TimeoutError:
        return f"took longer than retrain.stage_hours ({hours:g})"
    return None if code == 0 else _reason(lines, code)


def stages(params: Params) -> list[str]:
    """The stages of dvc.yaml before `promote`, in their order: those who teach come before the taught."""
    order = ["ingest", "parse"]
    for labels in get_args(Labels):
        names = [name for name, candidate in params.candidates.items() if candidate.labels == labels]
        order += [f"{stage}@{name}" for name in names for stage in ("train", "evaluate")]
        order += [f"teach@{name}" for name in params.teachers if name in names]
    return order


def fellows(params: Params, name: str) -> list[str]:
    """The candidates that can be trained at the same time as this one: those that learn from the same folder."""
    labels = params.candidate(name).labels
    return [each for each, candidate in params.candidates.items() if candidate.labels == labels]


def reproduce(folder: Path, stage: str, tell: Callable[[str], None], hours: float, pull: bool = False) -> str | None:
    """Let DVC run a stage in the worktree if it is out of date, or with `pull` take a result from its remote; as `run`."""
    lock, whole = folder / DVC_LOCK, folder / WHOLE
    with replacing(whole) as copy:
        copy.write_bytes(lock.read_bytes() if lock.exists() else NOTHING_RUN)
    failure = run(folder, ["tasks.stage", stage, *(["--pull"] if pull else [])], tell, hours)
    if failure:  # DVC, too, may have been killed: by a lack of memory, or after `hours`
        _mend(folder)
    whole.unlink(missing_ok=True)
    return failure


def _mend(folder: Path) -> None:
    """Remove what a DVC that was killed may have left half-written; nobody else works in this worktree."""
    (folder / RWLOCK).unlink(missing_ok=True)
    if (folder / WHOLE).exists():
        os.replace(folder / WHOLE, folder / DVC_LOCK)


def _reason(lines: list[str], code: int) -> str:
    """What a failed program said of it: its own line, or that memory ran out, or its last words."""
    for line in reversed(lines):
        if any(sign in line for sign in NO_MEMORY):
            return "ran out of memory"
        if line.startswith(SAID):
            return line.removeprefix(SAID)
    if code == -signal.SIGKILL:  # nobody else does that
        return "ran out of memory"
    return _last(lines) or f"exit code {code}"


def _last(lines: list[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
