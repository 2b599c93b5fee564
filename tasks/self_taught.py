"""A network that learns from itself: from some epoch on, part of each target is what it used to answer for that face.

People dispute a third of FER2013's labels. Halfway through a training a network knows what holds for most faces, and not yet
single labels by heart: the mean of its answers from that time (temporal ensembling: Laine & Aila 2016, arXiv:1610.02242) says
what else a face may be, where a finished network mostly repeats the label that it was given. With it in the targets, the
second half learns fewer disputed labels by heart (early-learning regularisation: Liu et al. 2020, arXiv:2007.00151).
"""

from typing import Any

from tasks.augment import without_face
from tasks.backend import keras, tf
from tasks.batches import faces_of, steps_per_epoch
from tasks.params import Candidate


class SelfTaught(keras.Model):  # type: ignore[misc]  # Keras tells mypy nothing of it
    """The given network, in training: one variable more, the sum of its answers for each face, float32, (faces, 7)."""

    def __init__(self, network: keras.Model, recipe: Candidate, faces: int, seed: int) -> None:
        """Be the network, with its layers, to be trained on so many faces in the order that the seed gives."""
        super().__init__(network.inputs, network.outputs)
        settings, steps = recipe.self_taught, steps_per_epoch(faces, recipe.batch)
        assert settings is not None
        self.share = settings.share
        self.since, self.until = (round(part * recipe.epochs) * steps for part in (settings.since, settings.until))
        self.order = {"count": faces, "batch": recipe.batch, "seed": seed}
        self.first = without_face(recipe.nothing, recipe.batch)  # of a batch, the first that is a face
        self.answers = keras.Variable(tf.zeros([faces, network.output_shape[-1]]), trainable=False, name="answers")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss by the labels, or later by labels and own answers; the answers of the time between are added up."""
        if training:
            step, first = tf.cast(self.optimizer.iterations.value, tf.int64), self.first
            shown = faces_of(step, **self.order)[first:]
            collected = (self.since <= step) & (step < self.until)
            answered = tf.where(collected, tf.stop_gradient(y_pred[first:]), 0.0)
            self.answers.value.scatter_nd_add(shown[:, tf.newaxis], answered)
            own = tf.gather(self.answers.value, shown)
            times = tf.reduce_sum(own, axis=1, keepdims=True)
            share = tf.where((step >= self.until) & (times > 0), self.share, 0.0)
            learned = (1 - share) * y[first:] + share * tf.math.divide_no_nan(own, times)
            y = tf.concat([y[:first], learned], axis=0)
        return super().compute_loss(x, y, y_pred, sample_weight, training)
