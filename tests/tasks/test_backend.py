import os
import platform
import subprocess
import sys

import pytest

IMPORTS = """
import sys
from tasks.backend import UNUSED, keras

print(sorted(set(UNUSED) & set(sys.modules)))
import cv2, matplotlib, pandas, sklearn
print(keras.layers.Dense(7)(keras.ops.ones((1, 2))).shape)
"""
CONVOLUTION = """
from tasks.precision import convolution

convolution((8, 12, 12, 16), "float32")()
"""


def run(program: str, **environment: str) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout


def test_keras_comes_without_what_is_unused_and_that_can_be_imported_later() -> None:
    assert run(IMPORTS).splitlines() == ["[]", "(1, 7)"]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="asked for on x86 alone")
@pytest.mark.parametrize("chosen", [{}, {"TF_ENABLE_ONEDNN_OPTS": "0"}])
def test_convolutions_are_onednns_on_every_processor_unless_someone_says_no(chosen, monkeypatch) -> None:
    # This process has it, if another test imported the backend.
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    assert ("backward_weights" in run(CONVOLUTION, ONEDNN_VERBOSE="1", **chosen)) == (not chosen)
