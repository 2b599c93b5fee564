"""Random changes to training faces: one geometric operation and one of light, on whole batches, inside the input pipeline.

All draws are stateless: the same seed pair gives the same batch, whatever was drawn before. That is what lets a killed
training continue with the very batches it would have seen.
"""

import math

from tasks.backend import tf
from tasks.params import Augment


def augment(faces: tf.Tensor, seed: tf.Tensor, amount: Augment) -> tf.Tensor:
    """Return changed copies of `faces`.

    Args:
        faces: float32, shape (N, H, W, 1), in [0, 1].
        seed: int32, shape (2,).
        amount: how far each change may go; zero or False switches it off.

    Returns:
        float32, shape (N, H, W, 1), in [0, 1].
    """
    draws = tf.unstack(tf.random.stateless_uniform([12, tf.shape(faces)[0]], seed, -1.0, 1.0))
    if amount.mirror or amount.shift or amount.rotate or amount.zoom or amount.shear:
        faces = _move(faces, draws[:6], amount)
    if amount.contrast or amount.brightness:
        faces = _light(faces, draws[6:8], amount)
    if amount.erase:
        faces = _erase(faces, draws[8:12], amount.erase)
    return faces


def _move(faces: tf.Tensor, draws: list[tf.Tensor], amount: Augment) -> tf.Tensor:
    """Mirror, rotate, zoom, shear and shift about the centre in one projective transform, edges reflected."""
    shape = tf.shape(faces)
    centre_y, centre_x = (tf.cast(shape[1] - 1, tf.float32) / 2, tf.cast(shape[2] - 1, tf.float32) / 2)
    sign = tf.sign(draws[0]) if amount.mirror else tf.ones_like(draws[0])
    angle = draws[1] * (amount.rotate * math.pi / 180)
    scale = 1 + draws[2] * amount.zoom
    shear = draws[3] * amount.shear
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    # Output pixel (x, y) reads input pixel (a x + b y + c, d x + e y + f): rotation and zoom, then shear, then mirror.
    a, b = cos * sign, (cos * shear - sin) * sign
    d, e = sin, sin * shear + cos
    c = centre_x - a * centre_x - b * centre_y + draws[4] * amount.shift * tf.cast(shape[2], tf.float32)
    f = centre_y - d * centre_x - e * centre_y + draws[5] * amount.shift * tf.cast(shape[1], tf.float32)
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=faces,
        transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
        output_shape=shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _light(faces: tf.Tensor, draws: list[tf.Tensor], amount: Augment) -> tf.Tensor:
    """Scale each face about its mean and shift its brightness."""
    contrast = (1 + draws[0] * amount.contrast)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    brightness = (draws[1] * amount.brightness)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    mean = tf.reduce_mean(faces, axis=[1, 2, 3], keepdims=True)
    return tf.clip_by_value((faces - mean) * contrast + mean + brightness, 0.0, 1.0)


def _erase(faces: tf.Tensor, draws: list[tf.Tensor], share: float) -> tf.Tensor:
    """Fill a square of a quarter to half of the side with the face's mean, in `share` of the faces (Zhong et al. 2017)."""
    shape = tf.shape(faces)
    side = tf.cast(shape[1], tf.float32)
    half = side * (0.25 + (draws[0] + 1) / 8) / 2
    half = tf.where((draws[1] + 1) / 2 < share, half, -1.0)[:, tf.newaxis]
    positions = tf.range(side)[tf.newaxis, :]
    rows = tf.abs(positions - ((draws[2] + 1) / 2 * side)[:, tf.newaxis]) < half
    columns = tf.abs(positions - ((draws[3] + 1) / 2 * side)[:, tf.newaxis]) < half
    hole = (rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :])[..., tf.newaxis]
    return tf.where(hole, tf.reduce_mean(faces, axis=[1, 2, 3], keepdims=True), faces)
