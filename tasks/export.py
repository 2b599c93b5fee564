"""From a trained candidate to the champion's two forms: a .keras file and a LiteRT file of the same weights."""

import logging
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks import networks
from tasks.backend import keras, tf
from tasks.champion import KERAS, LITERT, LiteRT
from tasks.errors import UserError
from tasks.quiet import quiet

BATCH = 256


def export(trained: Path, folder: Path, faces: NDArray[np.float32], most: float) -> str:
    """Write the model of `trained` as model.keras and model.tflite into `folder`.

    Weights are rounded to half precision, which halves the files, unless that changes a probability of `faces`, float32,
    (N, 48, 48, 1), by more than `most` in one of the two forms.

    Returns:
        The precision of the weights, "float16" or "float32".

    Raises:
        UserError: probabilities differ by more than `most` in full precision, too.
    """
    model = keras.saving.load_model(trained, compile=False)
    exact, weights = _predict(model, faces), model.get_weights()
    for precision in ("float16", "float32"):
        model.set_weights([each.astype(precision).astype(np.float32) for each in weights])
        networks.save(model, folder / KERAS)
        _write_litert(model, folder / LITERT, precision == "float16")
        forms = np.stack([_predict(model, faces), LiteRT((folder / LITERT).read_bytes()).predict(faces)])
        difference = float(np.abs(forms - exact).max())  # NaN if one form answers it, and then refused
        if difference <= most:
            return precision
    raise UserError(f"its Keras and LiteRT forms differ by {difference:.2g} in a probability, more than {most:.2g}")


def _predict(model: keras.Model, faces: NDArray[np.float32]) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = model.predict(faces, batch_size=BATCH, verbose=0)
    return probabilities


def _write_litert(model: keras.Model, path: Path, half: bool) -> None:
    options = {}
    if half:
        options = {"optimizations": [tf.lite.Optimize.DEFAULT], "target_spec": {"supported_types": [tf.float16]}}
    tf.get_logger().setLevel(logging.ERROR)
    with quiet(), redirect_stdout(StringIO()):  # Keras prints the signature of what it exports
        model.export(path, format="litert", verbose=False, **options)
