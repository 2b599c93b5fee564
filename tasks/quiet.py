"""Silence for libraries in C++ that write to the terminal past Python's logging."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_blocks = 0  # that are running, on any thread
_stderr = -1  # what descriptor 2 is when none is


@contextmanager
def quiet() -> Iterator[None]:
    """Send what C++ code writes to stderr nowhere while the block runs; FERFLOW_VERBOSE=1 lets it through.

    For moments known to chatter (TensorFlow's import: CUDA that is not there, oneDNN that is). Exceptions pass as usual. Blocks
    may overlap: stderr is back when the last one has ended.
    """
    if os.environ.get("FERFLOW_VERBOSE"):
        yield
        return
    _begin()
    try:
        yield
    finally:
        _end()


def _begin() -> None:
    global _blocks, _stderr  # noqa: PLW0603 - there is one descriptor 2
    with _lock:
        if _blocks == 0:
            sys.stderr.flush()
            _stderr = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        _blocks += 1


def _end() -> None:
    global _blocks  # noqa: PLW0603
    with _lock:
        _blocks -= 1
        if _blocks == 0:
            os.dup2(_stderr, 2)
            os.close(_stderr)
