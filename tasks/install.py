"""Installing what was rebuilt as one transaction: artifacts, dvc.lock, a Git commit and a version tag, or nothing at all.

Whatever takes room on the disk is there before anything changes: the artifacts in the worktree, the commit among Git's objects.
What follows are renames, a place at a time, and last HEAD moves: then it counts. A journal lets `recover` take back what a
kill before that leaves, and complete what one after it does.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.files import complete_swap, read_json, swap, write_json
from tasks.git import git, head
from tasks.paths import CANDIDATES, DATA_MADE, DVC_LOCK, PROMOTED, TIMINGS

# All that stages write. The champion comes last: whoever labels meanwhile has the old one whole or the new one.
PLACES = (*DATA_MADE, CANDIDATES, TIMINGS, DVC_LOCK, *PROMOTED)
LINK = "120000 "  # how Git lists a symbolic link
STALE = 60  # s; Git holds a lock for less


def record(rebuilt: Path, message: str) -> str:
    """Commit what was rebuilt, in its own worktree; returns the commit. Git's hooks may refuse it (UserError)."""
    # Stages write no links: in place of one that Git has is a copy of the data that it leads to.
    listed = os.fsdecode(git(rebuilt, "ls-files", "--stage", "-z")).split("\0")
    links = [line.partition("\t")[2] for line in listed if line.startswith(LINK)]
    git(rebuilt, "add", "--all", "--", ".", *(f":(exclude,literal){name}" for name in links))
    git(rebuilt, "commit", "--quiet", "--allow-empty", "--message", message)
    return head(rebuilt)


def install(rebuilt: Path, commit: str, journal: Path) -> str:
    """Exchange the workspace's artifacts for those of a worktree and move HEAD to their commit; returns its version tag.

    Args:
        rebuilt: the folder of the pipeline in the worktree, in which `commit` is checked out.
        commit: a child of the workspace's HEAD.
        journal: a file that outlives a kill; the same for `recover`.

    Raises:
        UserError: somebody committed meanwhile, or Git fails; nothing has changed then.
        OSError: likewise.
    """
    old = head(Path())
    if git(Path(), "rev-parse", f"{commit}^").decode().strip() != old:
        raise UserError("somebody committed while the pipeline was rebuilt; the next run takes that into account")
    _unlock()
    inodes = {str(place): (_inode(rebuilt / place), _inode(place)) for place in PLACES}
    write_json(journal, {"rebuilt": str(rebuilt), "old": old, "new": commit, "inodes": inodes})
    os.sync()  # a rename may outlive a power cut that the content does not
    try:
        tag = _register(commit)
        for place in PLACES:
            swap(rebuilt / place, place)
        git(Path(), "update-ref", "-m", "ferflow: a new champion", "HEAD", commit, old)
    except BaseException:
        recover(journal)
        raise
    with suppress(UserError):  # Git's index is in use; all else is done, and the next run mends that
        recover(journal)
    return tag


def check_disk(state: Path) -> None:
    """Raise UserError if a place is on another disk than the worktree, which is in the folder `state`: no rename goes there."""
    disk = state.stat().st_dev
    for place in PLACES:
        for part in (place, *place.parents):
            if part.exists() and part.stat().st_dev != disk:
                raise UserError(f"{part} is on another disk than {state}; retraining needs them on one")


def recover(journal: Path) -> bool:
    """Bring the workspace to one side of an installation: all of it if HEAD has moved, else nothing. True if there was one."""
    if not journal.exists():
        return False
    entry: dict[str, Any] | None = read_json(journal)
    if not entry:  # nothing was changed before the journal was on the disk
        journal.unlink()
        return False
    _unlock()
    if git(Path(), "merge-base", "HEAD", entry["new"]).decode().strip() == entry["new"]:
        git(Path(), "reset", "--quiet", "--", ".")  # the index, as HEAD and the files are; not what is staged elsewhere
    else:
        for place, (new, old) in entry["inodes"].items():
            theirs, ours = Path(entry["rebuilt"]) / place, Path(place)
            complete_swap(theirs, ours)
            if (_inode(ours), _inode(theirs)) == (new, old):
                swap(theirs, ours)
        if tags := _versions(entry["new"]):
            git(Path(), "tag", "--delete", *tags)
    journal.unlink()
    return True


def _register(commit: str) -> str:
    """Tag the commit as the champion's next version, with gto."""
    from gto.api import register
    from gto.exceptions import GTOException, TagExists
    from scmrepo.exceptions import SCMError

    top = git(Path(), "rev-parse", "--show-toplevel").decode().strip()
    try:
        register(top, "champion", commit)
    except TagExists as error:
        raise UserError(
            f"{error}, and gto does not count it, for it has no message; delete it with: git tag --delete, or keep it with: "
            "git tag --annotate --force"
        ) from error
    except (GTOException, SCMError, OSError) as error:
        raise UserError(f"gto could not tag the version: {error.__cause__ or error}") from error
    return _versions(commit)[0]


def _versions(commit: str) -> list[str]:
    """The champion's tags of a commit; a hook may have given it others."""
    return git(Path(), "tag", "--list", "champion@*", "--points-at", commit).decode().split()


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _unlock() -> None:
    """Remove the locks of a Git that was killed with us: of the index, of HEAD, of branches and tags, and a half packed list."""
    for folder in {Path(git(Path(), "rev-parse", name).decode().strip()) for name in ("--git-dir", "--git-common-dir")}:
        for lock in (*folder.glob("*.lock"), *(folder / "refs").rglob("*.lock"), *folder.glob("packed-refs.new")):
            with suppress(FileNotFoundError):  # its Git lives, and has just removed it
                if abs(time.time() - lock.stat().st_mtime) > STALE:
                    lock.unlink()
