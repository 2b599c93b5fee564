import math
import os
import platform
import subprocess
import sys

import pytest

from tasks import precision
from tasks.backend import keras

PROGRAM = "from tasks.precision import faster, seconds; print(*seconds('bfloat16'), faster())"


@pytest.mark.parametrize(("asked", "policy"), [("float32", "float32"), ("bfloat16", "mixed_bfloat16")])
def test_a_recipe_that_names_its_numbers_has_them(asked: str, policy: str) -> None:
    assert precision.use(asked) == asked
    assert keras.config.dtype_policy().name == policy


def test_the_fastest_is_one_of_both_and_the_same_again() -> None:
    chosen = precision.use("fastest")
    assert keras.config.dtype_policy().compute_dtype == chosen
    assert precision.use("fastest") == chosen


@pytest.mark.parametrize(
    ("full", "half", "chosen"),
    [(2.0, 1.0, "bfloat16"), (1.0, 1.8, "float32"), (1.1, 1.0, "float32"), (1.0, math.inf, "float32")],
)
def test_bfloat16_must_be_faster_by_more_than_noise(monkeypatch, full: float, half: float, chosen: str) -> None:
    times = {"float32": full, "bfloat16": half}
    monkeypatch.setattr(precision, "seconds", lambda *dtypes: [times[dtype] for dtype in dtypes])
    assert precision.faster() == chosen


@pytest.mark.parametrize(("half", "rounds"), [(0.5, 6), (1.8, 6), (16.0, 2), (math.inf, 2)])
def test_what_is_hopeless_is_not_measured_again(monkeypatch, half: float, rounds: int) -> None:
    times, measured = {"float32": 1.0, "bfloat16": half}, []
    monkeypatch.setattr(precision, "convolution", lambda shape, dtype: dtype)
    monkeypatch.setattr(precision, "_time", lambda dtype: measured.append(dtype) or times[dtype])
    assert precision.seconds("float32", "bfloat16") == [1.0, half]
    assert measured == ["float32", "bfloat16"] * rounds


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN can be held back on x86 alone")
def test_where_the_processor_lacks_bfloat16_it_is_float32() -> None:
    command, older = [sys.executable, "-c", PROGRAM], {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(command, env=os.environ | older, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "float32"
    assert float(done.stdout.split()[0]) > 0


def test_looking_for_the_fastest_says_nothing() -> None:
    """Where a processor has no AVX-512, oneDNN would say that it leaves bfloat16 to others."""
    command = [sys.executable, "-c", "from tasks.precision import use; use('fastest')"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
