"""Random changes to training faces, on whole batches, inside the input pipeline: what a photo does to a face.

Light and camera come first (shade, contrast, blur, JPEG), then the framing: one geometric operation, which also gives the
picture its size. All draws are stateless: the same seed pair gives the same batch, whatever was drawn before. That is what
lets a killed training continue with the very batches it would have seen.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tasks.backend import tf
from tasks.params import Augment

BLOCK = 8  # px, side of JPEG's squares
QUALITIES = (20.0, 90.0)  # of JPEG, the lowest and the highest drawn
# JPEG's quantisation of brightness at quality 50 (ITU-T T.81, annex K.1), row by row.
JPEG_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


def augment(
    faces: tf.Tensor, seed: tf.Tensor, amount: Augment, side: int | None = None, crop: bool = False
) -> tf.Tensor:
    """Return changed copies of `faces`.

    Args:
        faces: float32, shape (N, H, H, 1), in [0, 1].
        seed: int32, shape (2,).
        amount: how far each change may go; zero or False switches it off.
        side: of the result, px; by default that of `faces`.
        crop: show `side` pixels of the face, in place of the whole face made smaller.

    Returns:
        float32, shape (N, side, side, 1), in [0, 1].
    """
    full = faces.shape[1]
    side = side or full
    draws = tf.unstack(tf.random.stateless_uniform([17, tf.shape(faces)[0]], seed, -1.0, 1.0))
    if amount.contrast or amount.brightness or amount.shade:
        faces = _light(faces, draws[6:8] + draws[12:14], amount)
    if amount.blur:
        faces = _blur(faces, draws[14], amount.blur)
    if amount.compress:
        faces = _compress(faces, draws[15:17], amount.compress)
    if side != full or amount.mirror or amount.shift or amount.rotate or amount.zoom or amount.shear:
        faces = _move(faces, draws[:6], amount, side, side if crop else full)
    if amount.erase:
        faces = _erase(faces, draws[8:12], amount.erase)
    return faces


def _move(faces: tf.Tensor, draws: list[tf.Tensor], amount: Augment, side: int, window: int) -> tf.Tensor:
    """Mirror, rotate, zoom, shear and shift about the centre in one projective transform, edges reflected.

    Of the result's `side` pixels, each stands for window / side of the face's.
    """
    full = faces.shape[1]
    sign = tf.sign(draws[0]) if amount.mirror else tf.ones_like(draws[0])
    angle = draws[1] * (amount.rotate * math.pi / 180)
    scale = (1 + draws[2] * amount.zoom) * (window / side)
    shear = draws[3] * amount.shear
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    # Output pixel (x, y) reads input pixel (a x + b y + c, d x + e y + f): rotation and zoom, then shear, then mirror.
    a, b = cos * sign, (cos * shear - sin) * sign
    d, e = sin, sin * shear + cos
    centre, target = (full - 1) / 2, (side - 1) / 2
    c = centre - (a + b) * target + draws[4] * (amount.shift * full)
    f = centre - (d + e) * target + draws[5] * (amount.shift * full)
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=faces,
        transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
        output_shape=[side, side],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _light(faces: tf.Tensor, draws: list[tf.Tensor], amount: Augment) -> tf.Tensor:
    """Scale each face about its mean, shift its brightness, and light it from one side."""
    contrast, brightness, across, down = (draw[:, tf.newaxis, tf.newaxis, tf.newaxis] for draw in draws)
    slope = tf.linspace(-0.5, 0.5, faces.shape[1])
    shade = across * slope[tf.newaxis, :, tf.newaxis] + down * slope[:, tf.newaxis, tf.newaxis]
    mean = tf.reduce_mean(faces, axis=[1, 2, 3], keepdims=True)
    faces = (faces - mean) * (1 + contrast * amount.contrast) + mean + brightness * amount.brightness
    return tf.clip_by_value(faces * (1 + shade * amount.shade), 0.0, 1.0)


def _blur(faces: tf.Tensor, draw: tf.Tensor, widest: float) -> tf.Tensor:
    """Blur each face by a Gaussian, or sharpen it by taking as much of the blur away (unsharp masking)."""
    places = tf.range(faces.shape[1], dtype=tf.float32)
    distance = tf.square(places[:, tf.newaxis] - places)
    sigma = tf.maximum(tf.abs(draw) * widest, 0.1)[:, tf.newaxis, tf.newaxis]  # a tenth of a pixel changes nothing
    weights = tf.exp(distance / (-2 * tf.square(sigma)))
    weights /= tf.reduce_sum(weights, axis=2, keepdims=True)
    soft = (weights @ faces[..., 0] @ tf.transpose(weights, [0, 2, 1]))[..., tf.newaxis]
    sign = tf.sign(draw)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.clip_by_value(faces + sign * (soft - faces), 0.0, 1.0)


def _compress(faces: tf.Tensor, draws: list[tf.Tensor], share: float) -> tf.Tensor:
    """What JPEG's quantisation leaves of `share` of the faces: block cosine transform, rounding, and back."""
    blocks = faces.shape[1] // BLOCK
    transform = tf.constant(np.kron(np.eye(blocks, dtype=np.float32), _cosines()))
    low, high = QUALITIES
    quality = low + (draws[0] + 1) / 2 * (high - low)
    factor = tf.where(quality < 50, 50 / quality, 2 - quality / 50)[:, tf.newaxis, tf.newaxis]  # noqa: PLR2004 - as IJG's
    steps = tf.constant(np.tile(JPEG_TABLE, (blocks, blocks)) / 255) * factor
    coefficients = transform @ (faces[..., 0] - 0.5) @ tf.transpose(transform)
    rounded = tf.round(coefficients / steps) * steps
    compressed = tf.clip_by_value(tf.transpose(transform) @ rounded @ transform + 0.5, 0.0, 1.0)
    chosen = ((draws[1] + 1) / 2 < share)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.where(chosen, compressed[..., tf.newaxis], faces)


def _cosines() -> NDArray[np.float32]:
    """The orthonormal cosine transform of BLOCK values, a row per frequency."""
    frequency, place = np.mgrid[:BLOCK, :BLOCK]
    rows: NDArray[np.float64] = np.cos(np.pi * frequency * (2 * place + 1) / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    return rows.astype(np.float32)


def _erase(faces: tf.Tensor, draws: list[tf.Tensor], share: float) -> tf.Tensor:
    """Fill a square of a quarter to half of the side with the face's mean, in `share` of the faces (Zhong et al. 2017)."""
    side = float(faces.shape[1])
    half = side * (0.25 + (draws[0] + 1) / 8) / 2
    half = tf.where((draws[1] + 1) / 2 < share, half, -1.0)[:, tf.newaxis]
    positions = tf.range(side)[tf.newaxis, :]
    rows = tf.abs(positions - ((draws[2] + 1) / 2 * side)[:, tf.newaxis]) < half
    columns = tf.abs(positions - ((draws[3] + 1) / 2 * side)[:, tf.newaxis]) < half
    hole = (rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :])[..., tf.newaxis]
    return tf.where(hole, tf.reduce_mean(faces, axis=[1, 2, 3], keepdims=True), faces)


def nothing(faces: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, share: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Put pictures without a face in the place of the batch's first ones, to be answered by equal probabilities.

    They teach the network not to be sure of what a detector mistook for a face (outlier exposure: Hendrycks et al. 2018,
    arXiv:1812.04606): noise whose amplitude falls with frequency by a random power from 0 (white) to 2 (clouds; photos have
    1), of any contrast down to a blank.

    Args:
        faces: float32, shape (N, S, S, 1).
        targets: float32, shape (N, 7).
        seed: int32, shape (2,).
        share: of the batch; at least one picture.

    Returns:
        Pictures and targets, of the same shapes.
    """
    count, side = without_face(share, faces.shape[0]), faces.shape[1]
    frequencies = np.fft.fftfreq(side).astype(np.float32)
    radius = np.hypot(frequencies[:, np.newaxis], frequencies) + 1 / side
    power, contrast, brightness = tf.unstack(tf.random.stateless_uniform([3, count, 1, 1], seed))
    noise = tf.signal.fft2d(tf.cast(tf.random.stateless_normal([count, side, side], seed), tf.complex64))
    texture = tf.math.real(tf.signal.ifft2d(noise * tf.cast(radius ** (-2 * power), tf.complex64)))
    texture /= tf.math.reduce_std(texture, axis=[1, 2], keepdims=True)
    pictures = tf.clip_by_value(brightness + contrast * texture / 3, 0.0, 1.0)[..., tf.newaxis]
    even = tf.fill([count, targets.shape[1]], 1 / targets.shape[1])
    return tf.concat([pictures, faces[count:]], axis=0), tf.concat([even, targets[count:]], axis=0)


def without_face(share: float, batch: int) -> int:
    """How many of a batch `nothing` replaces: its first ones, at least one if any."""
    return max(1, round(share * batch)) if share else 0


def mix(faces: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each face, and its target, with another of the batch: mixup (Zhang et al. 2017, arXiv:1710.09412).

    Args:
        faces: float32, shape (N, ...).
        targets: float32, shape (N, 7).
        seed: int32, shape (2,).
        alpha: of the beta distribution that the shares are drawn from; the larger, the more even.

    Returns:
        Blended faces and targets, of the same shapes.
    """
    count = tf.shape(faces)[0]
    gammas = tf.random.stateless_gamma([2, count], seed, alpha=alpha)
    share = tf.math.divide_no_nan(gammas[0], gammas[0] + gammas[1])
    share = tf.maximum(share, 1 - share)

    def blended(values: tf.Tensor) -> tf.Tensor:
        own = tf.reshape(share, [count] + [1] * (len(values.shape) - 1))
        return own * values + (1 - own) * tf.reverse(values, axis=[0])

    return blended(faces), blended(targets)
