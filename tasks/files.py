"""Writing files whole or not at all, changing places in one step, and the checksums that tell them apart."""

import ctypes
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` on success, remove it on failure.

    A reader sees the old content or the new one, never half of it. An OSError names `path`, not the temporary name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")  # always the same: what a kill leaves, the next run replaces
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        named = str(error.filename or temporary).removeprefix("file:")  # FFmpeg's names begin so
        if error.errno and named == str(temporary):
            raise type(error)(error.errno, error.strerror, str(path)) from error  # PyAV's let no name be set
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically, floats as they are."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote; None where there is nothing, or nothing whole: a power cut may leave a name without content."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged(package: str, name: str) -> Path | None:
    """A file that an installed package carries, found without importing the package; None if it is not there."""
    found = importlib.util.find_spec(package)
    folders = (found.submodule_search_locations or []) if found else []
    return next((Path(each) / name for each in folders if (Path(each) / name).is_file()), None)


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically; False where the system cannot (only Linux's C library offers it, Python does not).

    Raises:
        OSError: it can, but not these two.
    """
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL):  # an old kernel; a file system that does not offer it
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))


def swap(one: Path, other: Path) -> None:
    """Let two paths, of which one may be missing, change places: in one step where the system offers it."""
    if not one.exists():
        one, other = other, one
    if not one.exists():
        return
    if not other.exists():
        other.parent.mkdir(parents=True, exist_ok=True)
        os.rename(one, other)
    elif not exchange(one, other):
        os.rename(other, _aside(one))
        os.rename(one, other)
        os.rename(_aside(one), one)


def complete_swap(one: Path, other: Path) -> None:
    """Do what is left of a `swap` of these two that a kill ended between two renames."""
    if _aside(one).exists():
        if one.exists():
            os.rename(one, other)
        os.rename(_aside(one), one)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.aside")


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Hold a lock on a file, which ends with the process however that ends; yields whether nobody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold the lock of `alone` once nobody else does; until then, wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
