"""From a trained candidate to the champion's two forms: a .keras file, and a LiteRT file that labelling runs."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks import networks
from tasks.backend import keras, tf
from tasks.champion import KERAS, LITERT, LiteRT
from tasks.errors import UserError
from tasks.quiet import quiet

BATCH = 256
SAMPLES = 300  # faces by which the range of every layer is measured


class Forms(NamedTuple):
    """What became of a model."""

    weights: str  # float16 or float32, in both forms
    arithmetic: str  # of the LiteRT form: int8 or float32
    difference: float  # of the LiteRT form's probabilities from the exact ones, on average


def export(trained: Path, folder: Path, faces: NDArray[np.float32], most: float, most_int8: float) -> Forms:
    """Write the model of `trained` as model.keras and model.tflite into `folder`.

    Weights are rounded to half precision, which halves the files, unless that changes a probability of `faces`, float32,
    (N, 48, 48, 1), by more than `most` in one of the two forms. The LiteRT form then computes in 8-bit integers, three times as
    fast, unless that changes their probabilities by more than `most_int8` on average (quantisation after training, a scale
    per channel: Jacob et al. 2018, https://arxiv.org/abs/1712.05877).

    Raises:
        UserError: probabilities differ by more than `most` in full precision, too.
    """
    model = keras.saving.load_model(trained, compile=False)
    exact, weights = _predict(model, faces), model.get_weights()
    for precision in ("float16", "float32"):
        model.set_weights([each.astype(precision).astype(np.float32) for each in weights])
        networks.save(model, folder / KERAS)
        (folder / LITERT).write_bytes(_litert(model, _half_options() if precision == "float16" else {}))
        answers = LiteRT((folder / LITERT).read_bytes()).predict(faces)
        forms = np.stack([_predict(model, faces), answers])
        difference = float(np.abs(forms - exact).max())  # NaN if one form answers it, and then refused
        if difference <= most:
            small = _litert(model, _int8_options(faces))
            small_difference = float(np.abs(LiteRT(small).predict(faces) - exact).mean())
            if small_difference <= most_int8:
                (folder / LITERT).write_bytes(small)
                return Forms(precision, "int8", small_difference)
            return Forms(precision, "float32", float(np.abs(answers - exact).mean()))
    raise UserError(f"its Keras and LiteRT forms differ by {difference:.2g} in a probability, more than {most:.2g}")


def _predict(model: keras.Model, faces: NDArray[np.float32]) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = model.predict(faces, batch_size=BATCH, verbose=0)
    return probabilities


def _half_options() -> dict[str, Any]:
    return {"optimizations": [tf.lite.Optimize.DEFAULT], "target_spec": {"supported_types": [tf.float16]}}


def _int8_options(faces: NDArray[np.float32]) -> dict[str, Any]:
    def samples() -> Iterator[list[NDArray[np.float32]]]:
        step = max(1, len(faces) // SAMPLES)
        yield from ([face[np.newaxis]] for face in faces[::step])

    # Inputs and outputs stay float32: the rest of the program need not know.
    operations = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": samples,
        "target_spec": {"supported_ops": operations},
    }


def _litert(model: keras.Model, options: dict[str, Any]) -> bytes:
    """The content of a .tflite file of the model."""
    tf.get_logger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LITERT
        # Keras prints the signature of what it exports, and warns of statistics that it does not need.
        with quiet(), redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"):
            model.export(path, format="litert", verbose=False, **options)
        return path.read_bytes()
