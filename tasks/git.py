"""Git, run as a program: what it prints, or one line that says why it failed."""

import os
import subprocess
from pathlib import Path

from tasks.errors import UserError

EXCERPT = 300  # characters of what Git or a hook says that are worth keeping
# Git sets these for its hooks: in a program that a hook starts, they would lead Git to the hook's repository, wherever it runs.
OF_HOOKS = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX"}


def outside_hooks() -> dict[str, str]:
    """This process's variables, without those by which Git's hooks name their repository."""
    return {name: value for name, value in os.environ.items() if name not in OF_HOOKS}


def git(repository: Path, *arguments: str, feed: bytes = b"", environment: dict[str, str] | None = None) -> bytes:
    """Run Git in a repository; returns its output.

    Args:
        repository: Git's folder, or one within it.
        arguments: of Git.
        feed: its standard input.
        environment: variables in addition to this process's; those of Git's hooks are left out.

    Raises:
        UserError: Git is not installed, or fails; with what it says.
    """
    # No optional locks: looking at the state of a repository must not stand in the way of who changes it.
    command = ["git", "--no-optional-locks", "-C", str(repository), *arguments]
    try:
        done = subprocess.run(
            command, input=feed, capture_output=True, check=False, env=outside_hooks() | (environment or {})
        )
    except FileNotFoundError as error:
        raise UserError("git is not installed; ferflow keeps the champion's versions in its history") from error
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        raise UserError(f"git {arguments[0]} failed: {words[:EXCERPT] or f'exit code {done.returncode}'}")
    return done.stdout


def head(repository: Path) -> str:
    """The commit that is checked out."""
    return git(repository, "rev-parse", "HEAD").decode().strip()


def changed_files(place: Path, repository: Path = Path()) -> list[tuple[str, str]]:
    """What at a place is not as HEAD has it, new files included: Git's two letters, and the path from `repository`."""
    asked = ("status", "--porcelain", "-z", "--untracked-files=all", "--no-renames", "--", str(place))
    top = git(repository, "rev-parse", "--show-prefix").decode().strip()
    lines = git(repository, *asked).decode(errors="replace").split("\0")  # names need not be UTF-8
    return [(line[:2], line[3:].removeprefix(top)) for line in lines if line]


def check_identity(repository: Path) -> None:
    """Raise UserError if Git does not know who commits, by name and address (gto's tags need both)."""
    try:
        for name in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
            if b"<>" in git(repository, "var", name):
                raise UserError("no address")
    except UserError as error:
        raise UserError(
            "Git does not know who you are, and the change is recorded by a commit; first run: "
            'git config user.name "Your Name"; git config user.email you@example.com'
        ) from error
