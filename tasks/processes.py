"""Programs that end with the process that started them, however that ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# A shell starts the program and leaves a guard beside it, in the same process group. The guard reads from a pipe whose other end
# is ours alone: when we close it or die, even by kill -9, it reads the end of the file and kills the group.
GUARD = 'exec 3<&0 </dev/null; { cat; kill -KILL 0; } <&3 >/dev/null 2>&1 & exec "$@" 3<&-'


def guarded(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a program in a process group of its own that does not outlive this process; `options` are Popen's."""
    return subprocess.Popen(
        ["sh", "-c", GUARD, "sh", *command], stdin=subprocess.PIPE, start_new_session=True, text=True, **options
    )


def end(process: subprocess.Popen[str]) -> None:
    """End what `guarded` started, with all that it started, at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin:
        process.stdin.close()
    process.wait()


def follow(
    command: Sequence[str], folder: Path, tell: Callable[[str], None], seconds: float, environment: Mapping[str, str]
) -> int:
    """Run a program in `folder` and `tell` each line that it prints; returns its exit code, negative after a signal.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        tell: called with every line of its output and errors, as it comes.
        seconds: it may take; then it is ended.
        environment: variables in addition to this process's.

    Raises:
        TimeoutError: it was ended so.
    """
    process = guarded(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
    )
    late = threading.Event()

    def watch() -> None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            late.set()
        end(process)  # and what it left in the background, which may hold its output open

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for line in process.stdout or ():
            tell(line.rstrip())
        watcher.join()
    except BaseException:
        end(process)
        raise
    if late.is_set():
        raise TimeoutError
    return process.returncode


def environment() -> dict[str, str]:
    """Variables for the pipeline's programs: this Python's first on the path, output as it comes, nobody's analytics."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {"PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}
