"""The champion's versions are Git's: every commit that changed models/champion/champion.json. Listing, reading, restoring them.

A version is one content of model.tflite. It may have several commits, of which the newest holds it; it is listed once, by the
date of its first.
"""

import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tasks import champion
from tasks.errors import UserError
from tasks.git import changed_files, check_identity, git, head
from tasks.params import PARAMS
from tasks.paths import CHAMPION

TAG = "champion@"  # how gto begins the tags of versions: champion@v0.0.1


class Version(NamedTuple):
    """A version of the champion in Git's history."""

    number: int  # 1 is the oldest
    version: str
    date: datetime  # of its first commit
    commit: str  # the newest that holds it
    data: str
    candidate: str
    val_accuracy: float
    test_accuracy: float
    tags: tuple[str, ...]
    current: bool  # HEAD holds it


class Restored(NamedTuple):
    """What `restore` did."""

    version: Version
    replaced: str  # the version that was current
    commit: str


class _Deployment(NamedTuple):
    """A commit that changed champion.json, and the file's content; None where it was deleted or is no champion's."""

    commit: str
    date: datetime
    info: dict[str, Any] | None


def history(repository: Path = Path()) -> list[Version]:
    """Every version, newest first.

    Args:
        repository: the folder of the pipeline: Git's, or one within it.

    Raises:
        UserError: it is no Git repository, or there was never a champion and this is no folder of the pipeline.
    """
    line = _deployments(repository)
    tags = _tags(repository)
    first: dict[str, _Deployment] = {}
    newest: dict[str, _Deployment] = {}
    for each in _deployments(repository, "--full-history"):  # also those that a merge did not take
        if name := _version_of(each):
            first.setdefault(name, each)
            newest[name] = each
    current = _version_of(line[-1]) if line else None
    versions = []
    for number, name in enumerate(first, start=1):
        info = newest[name].info or {}
        versions.append(
            Version(
                number=number,
                version=name,
                date=first[name].date,
                commit=newest[name].commit,
                data=info["data"]["name"],
                candidate=info["candidate"],
                val_accuracy=info["metrics"]["val"]["accuracy"],
                test_accuracy=info["metrics"]["test"]["accuracy"],
                tags=tuple(tag for tag, version in tags.items() if version == name),
                current=name == current,
            )
        )
    return versions[::-1]


def previous(repository: Path = Path()) -> str:
    """The version that was champion before the current one. What a rollback has left behind does not count.

    Raises:
        UserError: there is none.
    """
    line, _ = _line(repository)
    if len(line) < 2:  # noqa: PLR2004
        _check_whole(repository)
        raise UserError("there is no version before the current one; `ferflow champion` lists them all")
    return line[-2]


def shallow(repository: Path = Path()) -> bool:
    """Whether this clone lacks the beginning of Git's history, and the versions there."""
    return git(repository, "rev-parse", "--is-shallow-repository").strip() == b"true"


def _check_whole(repository: Path) -> None:
    if shallow(repository):
        raise UserError("this clone has the end of Git's history only; first run: git fetch --unshallow")


def rolled_back(repository: Path = Path()) -> set[str]:
    """The versions that somebody went back from, and that have not been champion since.

    Raises:
        UserError: this clone lacks the beginning of Git's history, where more of them may be.
    """
    _check_whole(repository)
    _, left = _line(repository)
    return left


def _line(repository: Path) -> tuple[list[str], set[str]]:
    """The versions that led to the current one, oldest first, and those that rollbacks have left behind."""
    line: list[str] = []
    left: set[str] = set()
    for deployment in _deployments(repository):
        name = _version_of(deployment)
        if name in line:
            place = line.index(name) + 1
            left.update(line[place:])
            del line[place:]
        elif name:
            line.append(name)
            left.discard(name)
    return line, left


def find(wanted: str, versions: Sequence[Version]) -> Version:
    """The version with this name, number or tag (champion@v0.0.2, v0.0.2); UserError with the nearest names if there is none."""
    for version in versions:
        tags = (*version.tags, *(tag.removeprefix(TAG) for tag in version.tags))
        if wanted in (version.version, str(version.number), *tags):
            return version
    names = [version.version for version in versions]
    if not names:
        raise UserError("Git's history holds no champion yet; build one with `dvc repro` and commit models/champion")
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names[:5])}"
    raise UserError(f"no version '{wanted}' of the champion; {hint} (`ferflow champion` lists all)")


def extract(version: Version, folder: Path, repository: Path = Path()) -> None:
    """Write a version's files, byte for byte, into a new folder, and load them to see that they are whole.

    Raises:
        UserError: they are not.
    """
    folder.mkdir(parents=True)
    for name, content in _files(version.commit, repository).items():
        (folder / name).write_bytes(content)
    try:
        champion.load(folder)
    except UserError as error:
        fault = str(error).partition(";")[0].removeprefix(f"{folder}{os.sep}")
        raise UserError(f"{version.version} in commit {version.commit[:7]} is not whole: {fault}") from error


def unrecorded(repository: Path = Path()) -> list[str]:
    """Files of models/champion, relative to the folder of the pipeline, that are not as HEAD has them."""
    folder = repository / CHAMPION
    if folder.exists() and _content(folder) == _files("HEAD", repository):
        return []  # whatever Git's index says: a kill right after a commit leaves it behind
    return [path for _, path in changed_files(CHAMPION, repository)]


def restore(wanted: str, repository: Path = Path()) -> Restored:
    """Make a version the champion again and record it with a commit of models/champion alone; all of it or nothing.

    The champion changes in one step (tasks.champion.install). If Git then refuses the commit, the old one comes back. After a
    kill between the two, the same call finds the wanted files in place and only records them.

    The small edition stays as it is: mostly another network, with a version of its own; and two folders would not change in one
    step.

    Args:
        wanted: name, number or tag of the version.
        repository: as for `history`.

    Raises:
        UserError: the version is unknown, not whole or the current one; models/champion has unrecorded changes (their list); Git
            does not know who commits, or refuses the commit.
    """
    versions = history(repository)
    version = find(wanted, versions)
    current = next((each.version for each in versions if each.current), "none")
    if version.current:
        raise UserError(f"{version.version} is the champion already")
    check_identity(repository)
    folder = repository / CHAMPION
    champion.recover(folder)
    _check_unchanged(version, repository)
    prepared, kept = (folder.with_name(f".champion.{name}.part") for name in ("restored", "kept"))
    try:
        for leftover in (prepared, kept):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        extract(version, prepared, repository)
        shutil.copytree(folder, kept)
        _replace(folder, prepared, kept, f"Champion back to {version.version}", repository)
    finally:
        for leftover in (prepared, kept):
            shutil.rmtree(leftover, ignore_errors=True)
    return Restored(version, current, head(repository))


def _replace(folder: Path, prepared: Path, kept: Path, message: str, repository: Path) -> None:
    """Install and commit; whatever stops it before the commit is made brings the kept champion back."""
    before = head(repository)
    try:
        champion.install(prepared, folder)
        _commit(message, repository)
    except BaseException:
        if head(repository) == before:
            champion.install(kept, folder)
        raise


def _commit(message: str, repository: Path) -> None:
    """Commit models/champion as it lies there, and nothing else.

    It works on an index of its own: what is staged stays staged, and a kill leaves no lock on Git's.
    """
    with tempfile.TemporaryDirectory(prefix="ferflow-") as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git(repository, "read-tree", "HEAD", environment=index)
        git(repository, "add", "--all", "--", str(CHAMPION), environment=index)
        git(repository, "commit", "--quiet", "--message", message, "--", str(CHAMPION), environment=index)
    git(repository, "reset", "--quiet", "--", str(CHAMPION))  # Git's own index learns of it


def _check_unchanged(version: Version, repository: Path) -> None:
    """Refuse to replace what Git does not have; the wanted version itself may lie there, of a run that was killed."""
    changed = unrecorded(repository)
    folder = repository / CHAMPION
    if changed and not (folder.exists() and _content(folder) == _files(version.commit, repository)):
        raise UserError(
            f"{CHAMPION} is not as Git has it: {', '.join(changed)}; commit the change, or undo it with: "
            f"git checkout {CHAMPION} (git clean {CHAMPION} for new files)"
        )


def _deployments(repository: Path, *options: str) -> list[_Deployment]:
    """The commits that changed champion.json, oldest first; of merged branches those that led to what HEAD holds."""
    path = (CHAMPION / champion.INFO).as_posix()
    # Git may be set to show signatures among the lines (log.showSignature), or merged branches, too (log.follow).
    asked = ("log", "--reverse", "--no-show-signature", "--no-follow", "--format=%H %cI", *options, "--", path)
    lines = git(repository, *asked).decode().splitlines()
    commits = [line.split() for line in lines]
    if not commits and not (repository / PARAMS).exists():
        raise UserError(f"no {PARAMS} here; run ferflow in the folder of the pipeline")
    contents = _read([f"{commit}:./{path}" for commit, _ in commits], repository)
    return [
        _Deployment(commit, datetime.fromisoformat(date), _parsed(content))
        for (commit, date), content in zip(commits, contents, strict=True)
    ]


def _tags(repository: Path) -> dict[str, str]:
    """The version that each of gto's tags holds, v1 first; a tag with an exclamation mark takes the other back."""
    names = git(repository, "tag", "--list", f"{TAG}v*", "--sort=version:refname").decode().split()
    names = [name for name in names if not name.endswith("!") and f"{name}!" not in names]
    path = (CHAMPION / champion.INFO).as_posix()
    infos = map(_parsed, _read([f"{name}:./{path}" for name in names], repository))
    return {name: str(info["version"]) for name, info in zip(names, infos, strict=True) if info}


def _version_of(deployment: _Deployment) -> str | None:
    return str(deployment.info["version"]) if deployment.info else None


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    """champion.json's content, if it says what a list of versions shows."""
    try:
        info = json.loads(content or b"")
        _ = info["version"], info["candidate"], info["data"]["name"]
        _ = [float(info["metrics"][split]["accuracy"]) for split in ("val", "test")]
    except (ValueError, KeyError, TypeError):
        return None
    return dict(info)


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _files(commit: str, repository: Path) -> dict[str, bytes]:
    """The content of each file of models/champion in a commit."""
    listed = git(repository, "ls-tree", "-z", "--name-only", commit, f"{CHAMPION.as_posix()}/").decode()
    paths = [path for path in listed.split("\0") if path]
    contents = _read([f"{commit}:./{path}" for path in paths], repository)
    return {Path(path).name: content for path, content in zip(paths, contents, strict=True) if content is not None}


def _read(objects: Sequence[str], repository: Path) -> list[bytes | None]:
    """The content of files such as COMMIT:./PATH, as Git stores it; None for what is not there."""
    answer = git(repository, "cat-file", "--batch", feed="".join(f"{name}\n" for name in objects).encode())
    contents: list[bytes | None] = []
    place = 0
    for _ in objects:
        end = answer.index(b"\n", place)
        header = answer[place:end].split()
        place = end + 1
        if header[-1] == b"missing":
            contents.append(None)
            continue
        size = int(header[-1])
        contents.append(answer[place : place + size])
        place += size + 1
    return contents
