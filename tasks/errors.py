"""A user's mistake becomes one clear line and an exit code, never a stack trace."""

import errno
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import ParamSpec

P = ParamSpec("P")
INTERRUPTED = 130  # the exit code that shells give to Ctrl-C
INTERRUPTION = "ferflow: interrupted; the same command continues where it stopped"


class UserError(Exception):
    """Something the user can mend. Its text says what is wrong, where, and what to do."""


def explained(main: Callable[P, None]) -> Callable[P, None]:
    """Wrap a program's main(): print expected failures as one line on stderr and exit with 1 (130 for Ctrl-C)."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with explaining():
                main(*args, **kwargs)
        except UserError as error:
            sys.exit(f"ferflow: {error}")
        except KeyboardInterrupt:
            print(INTERRUPTION, file=sys.stderr)
            sys.exit(INTERRUPTED)

    return wrapped


def explain_interruption() -> None:
    """Let Ctrl-C be one line where no main() runs yet, too: importing TensorFlow takes seconds. Python exits by SIGINT then."""
    otherwise = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(INTERRUPTION, file=sys.stderr)
        else:
            otherwise(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def explaining() -> Iterator[None]:
    """Turn failures of disks and permissions into a UserError."""
    try:
        yield
    except shutil.Error as error:  # of a folder that was copied: source, target and reason of each file that failed
        name, _, reason = error.args[0][0]
        raise UserError(f"{name} cannot be copied: {reason}") from error
    except OSError as error:
        if line := explain(error):
            raise UserError(line) from error
        raise


def explain(error: OSError) -> str | None:
    """One line for the failures of disks and permissions; None for what only a developer can explain."""
    where = error.filename or "a file"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"no space left on the disk while writing {where}; free some and run the same command again"
        case errno.EACCES | errno.EPERM:
            return f"no permission for {where}; check its owner and mode (ls -l)"
        case errno.EROFS:
            return f"{where} is on a read-only file system"
        case errno.EFBIG:
            return f"{where} would pass the size limit set for files (ulimit -f)"
        case (
            errno.ENOENT | errno.ENOTDIR | errno.EISDIR | errno.EEXIST | errno.ELOOP | errno.EIO | errno.ENAMETOOLONG
        ) if error.filename:
            return f"{where}: {os.strerror(error.errno).lower()}"
    return None
