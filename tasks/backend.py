"""TensorFlow and Keras, imported in one place: without their chatter, and only by what trains, evaluates or exports.

In half the processor's time, too. Keras would import plots and wrappers that nothing here uses, with all that these need, and
Python's collector would go through everything again and again, for the last time at the program's end.
"""

import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.quiet import quiet

UNUSED = ("cv2", "matplotlib", "pandas", "sklearn")  # by Keras; tasks that need them import them themselves


@contextmanager
def lean() -> Iterator[None]:
    """Import without what is UNUSED and without collecting garbage; what is imported stays, and is not looked at again."""
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: as if it were not installed
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        for name in hidden:
            del sys.modules[name]


if platform.machine() in ("x86_64", "AMD64"):
    # oneDNN's convolutions are faster; left to itself, TensorFlow takes them only where a processor has instructions made
    # for networks.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

with quiet(), lean():
    import keras
    import tensorflow as tf

    tf.config.list_logical_devices()  # looks for a GPU now and not, noisily, at the first computation

__all__ = ["keras", "tf"]
