"""What dlib's face recognizer has learned of faces, for a network of its plan to begin with.

The recognizer (King 2017, "High quality face recognition with deep metric learning") was trained to tell apart the people in
three million pictures; its weights are in the public domain (CC0).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve

from tasks.backend import keras, tf
from tasks.errors import UserError
from tasks.files import packaged, sha256

PACKAGE = "face_recognition_models"  # carries the file; dlib itself, which would have to be compiled, is not needed
FILE = "models/dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
# dlib writes a layer's name, then its numbers as a tensor (version 2). Each integer has the number of its bytes before it.
TENSOR = re.compile(rb"(?:con_4|affine_)\x01\x02([\x01-\x08])")
FIRST_SIDE = 7  # px, of the first kernels; all others have 3
SINGLE_DIMENSIONS = 6  # bytes of three further dimensions, which are 1


def find() -> Path:
    """The recognizer's file in the installed package.

    Raises:
        UserError: the package is missing, or its file is damaged.
    """
    path = packaged(PACKAGE, FILE)
    if path is None or sha256(path) != SHA256:
        raise UserError(f"no {FILE} in the package {PACKAGE}, or a damaged one; install the package again")
    return path


def begin(model: keras.Model, faces: NDArray[np.float32]) -> None:
    """Give a network of the recognizer's plan the recognizer's weights.

    The recognizer scales and shifts each convolution's maps by constants. Here they are normalised, so the same function needs
    the maps' means and variances, which are those of some faces (as in data-dependent initialisation: Krähenbühl et al. 2015,
    arXiv:1511.06856). Normalised maps do not depend on their kernel's scale, which becomes He's: an optimizer's step is then as
    large for them as for a network that begins at random.

    Args:
        model: has a convolution without bias, then a normalisation, for each of the recognizer's.
        faces: float32, shape (N, 48, 48, 1).
    """
    numbers = _numbers(find())
    maps = {id(model.input): tf.constant(faces)}
    for layer in model.layers[1:]:
        inputs: Any = tf.nest.map_structure(lambda tensor: maps[id(tensor)], layer.input)
        if isinstance(layer, keras.layers.Conv2D):
            kernel = _kernel(next(numbers), layer.kernel.shape)
            gain = np.sqrt(2 / kernel[..., 0].size) / kernel.std()
            layer.kernel.assign(gain * kernel)
        elif isinstance(layer, keras.layers.BatchNormalization):
            mean, variance = (moment.numpy() for moment in tf.nn.moments(tf.cast(inputs, tf.float32), [0, 1, 2]))
            scale, shift = np.split(next(numbers), 2)
            scale = scale / gain
            layer.set_weights([scale * np.sqrt(variance + layer.epsilon), shift + scale * mean, mean, variance])
        maps[id(layer.output)] = layer(inputs)


def _numbers(path: Path) -> Iterator[NDArray[np.float32]]:
    """From the input on, each convolution's kernel and biases, then the scales and shifts of its maps."""
    content = path.read_bytes()
    for found in TENSOR.finditer(content):
        start = found.end() + found[1][0]
        count = int.from_bytes(content[found.end() : start], "little")
        yield np.frombuffer(content, "<f4", count, start + SINGLE_DIMENSIONS)


def _kernel(numbers: NDArray[np.float32], shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """dlib's kernel as Keras has it, (height, width, inputs, outputs), without its biases, which are next to nothing."""
    height, width, inputs, outputs = shape
    if inputs > 1:
        return numbers[:-outputs].reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)
    # The first one. What it does to three colours it does to grey by the sum, and to repeated pixels it does what it does to
    # interpolated ones if it averages as many as there are of each: an odd number of times, that is linear interpolation.
    coloured = numbers[:-outputs].reshape(outputs, 3, FIRST_SIDE, FIRST_SIDE).transpose(2, 3, 1, 0)
    times = height - FIRST_SIDE + 1
    average = np.full((times, times, 1, 1), 1 / times**2, np.float32)
    kernel: NDArray[np.float32] = convolve(coloured.sum(axis=2, keepdims=True), average, method="direct")
    return kernel
