"""The order in which a training sees its faces: a function of the seed alone, so that it can be continued anywhere."""

import math
from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from tasks.augment import augment, mix, nothing
from tasks.backend import tf
from tasks.params import Candidate, Size


def training_batches(
    views: list[NDArray[np.float32]], targets: NDArray[np.float32], recipe: Candidate, seed: int, first_epoch: int
) -> tf.data.Dataset:
    """Augmented batches from `first_epoch` to the recipe's last, each a function of (seed, step) alone.

    Args:
        views: arrays of shape (N, ...); of each face one view is drawn at random (itself or its mirror image's features).
        targets: the probabilities to be answered, shape (N, 7).
        recipe: batch size, epochs, augmentation, the pictures' sizes.
        seed: seed of all draws.
        first_epoch: finished epochs to leave out.

    Returns:
        Batches of faces, float32, (batch, ...), and of their targets, float32, (batch, 7).
    """
    count = len(targets)
    steps = steps_per_epoch(count, recipe.batch)
    stacked = tf.constant(np.stack(views)) if len(views) > 1 else tf.constant(views[0])[tf.newaxis]
    expected = tf.constant(targets)

    # No branch here depends on a tensor's value, and to look for one takes a second.
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def batch(step: tf.Tensor, size: Size | None) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = faces_of(step, count, recipe.batch, seed)
        draw = tf.stack([tf.constant(seed, tf.int32), tf.cast(step, tf.int32)])
        view = tf.random.stateless_uniform([recipe.batch], draw, 0, len(views), dtype=tf.int32)
        faces = tf.gather_nd(stacked, tf.stack([view, chosen], axis=1))
        faces, answers = tf.ensure_shape(faces, [recipe.batch, *views[0].shape[1:]]), tf.gather(expected, chosen)
        if recipe.frozen_until is None:
            side, crop = (size.pixels, size.crop) if size else (None, False)
            faces = augment(faces, draw, recipe.augment, side, crop)
        if recipe.nothing:
            faces, answers = nothing(faces, answers, draw, recipe.nothing)
        return mix(faces, answers, draw, recipe.mixup) if recipe.mixup else (faces, answers)

    parts = [  # those that are over, too, as empty ones: a resumed training computes with the same shapes
        tf.data.Dataset.range(max(start, first_epoch) * steps, end * steps).map(
            partial(batch, size=size), num_parallel_calls=2, deterministic=True
        )
        for start, end, size in schedule(recipe)
    ]
    return reduce(tf.data.Dataset.concatenate, parts).prefetch(4)


def faces_of(step: tf.Tensor, count: int, batch: int, seed: int) -> tf.Tensor:
    """Which of `count` faces step `step`, int64, of a training shows: indices, int32, (batch,)."""
    steps = steps_per_epoch(count, batch)
    epoch, position = step // steps, step % steps
    places = tf.cast(position * batch + tf.range(batch, dtype=tf.int64), tf.uint32)
    places = tf.math.floormod(places, tf.constant(count, tf.uint32))
    key = tf.cast(tf.stack([tf.constant(seed, tf.int64), epoch]), tf.uint32)
    return tf.cast(tf.random.experimental.index_shuffle(places, key, tf.constant(count - 1, tf.uint32)), tf.int32)


def schedule(recipe: Candidate) -> list[tuple[int, int, Size | None]]:
    """The parts of a training: first epoch, the one after the last, and the pictures' size (None: whole faces)."""
    ends = [round(size.until * recipe.epochs) for size in recipe.sizes] + [recipe.epochs]
    parts = zip([0, *ends], ends, [*recipe.sizes, None], strict=False)
    return [(start, end, size) for start, end, size in parts if start < end]


def steps_per_epoch(count: int, batch: int) -> int:
    """Full batches that show every face once; the last one is filled from the start of the epoch's order."""
    return math.ceil(count / batch)
