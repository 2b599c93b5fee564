"""Silence for libraries in C++ that write to the terminal past Python's logging."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Send what C++ code writes to stderr nowhere while the block runs; FERFLOW_VERBOSE=1 lets it through.

    For moments known to chatter (TensorFlow's import: CUDA that is not there, oneDNN that is). Exceptions pass as usual.
    """
    if os.environ.get("FERFLOW_VERBOSE"):
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)
