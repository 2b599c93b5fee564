import subprocess
import sys

PROGRAM = """
import sys
from tasks.backend import UNUSED, keras

print(sorted(set(UNUSED) & set(sys.modules)))
import cv2, matplotlib, pandas, sklearn
print(keras.layers.Dense(7)(keras.ops.ones((1, 2))).shape)
"""


def test_keras_comes_without_what_is_unused_and_that_can_be_imported_later() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "(1, 7)"]
