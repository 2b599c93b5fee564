"""Means of training that the pipeline does not have, for recipes.py to measure: what proves its worth moves into tasks/.

A network's change takes the model that is to be trained and returns the one that is trained in its place; a data change takes
what is learned from and a function that trains the recipe on such data, and returns other data.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from tasks.backend import keras, tf
from tasks.paths import CHAMPION
from tasks.teach import answers
from tasks.train import Data

layers = keras.layers
SEED = 7
RADIUS = 0.05  # of sharpness-aware steps, the paper's
SHRINK = 8  # channels of a block by those that squeeze-and-excitation keeps
PIXELS = 64  # of a larger input
FOLDS = 3
SHARE = 0.7  # of a teacher's answers, as in params.yaml

Fit = Callable[[Data], keras.Model]


class CutMix(keras.Model):
    """Pastes a piece of another face into each, and mixes their targets by area (Yun et al. 2019, arXiv:1905.04899)."""

    def train_step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """Learn from the batch with the same box of each face replaced by that of its counterpart in the reversed batch."""
        faces, targets = batch
        side = tf.shape(faces)[1]
        centre = tf.random.uniform([2]) * tf.cast(side, tf.float32)
        half = tf.sqrt(tf.random.uniform([])) * tf.cast(side, tf.float32) / 2
        inside = tf.abs(tf.range(side, dtype=tf.float32)[:, tf.newaxis] - centre) < half  # (side, 2): rows, columns
        box = (inside[:, tf.newaxis, 0] & inside[tf.newaxis, :, 1])[..., tf.newaxis]
        share = tf.reduce_mean(tf.cast(box, tf.float32))
        faces = tf.where(box, tf.reverse(faces, [0]), faces)
        logs: dict[str, Any] = super().train_step((faces, (1 - share) * targets + share * tf.reverse(targets, [0])))
        return logs


class SharpnessAware(keras.Model):
    """Steps by the gradient at the worst point nearby: twice the work a step (Foret et al. 2020, arXiv:2010.01412)."""

    def train_step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """Climb, take the gradient there, come back, and step by it."""
        faces, targets = batch
        variables = self.trainable_variables
        gradients, _, _ = self._gradients(faces, targets)
        length = RADIUS / (tf.linalg.global_norm(gradients) + 1e-12)
        climbs = [gradient * length for gradient in gradients]
        for variable, climb in zip(variables, climbs, strict=True):
            variable.assign_add(climb)
        gradients, loss, answered = self._gradients(faces, targets)
        for variable, climb in zip(variables, climbs, strict=True):
            variable.assign_sub(climb)
        self.optimizer.apply(gradients, variables)
        next(metric for metric in self.metrics if metric.name == "loss").update_state(loss)
        logs: dict[str, Any] = self.compute_metrics(faces, targets, answered)
        return logs

    def _gradients(self, faces: tf.Tensor, targets: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            answered = self(faces, training=True)
            loss = self.compute_loss(faces, targets, answered)
        return tape.gradient(loss, [variable.value for variable in self.trainable_variables]), loss, answered


def cut_and_mixed(model: keras.Model) -> keras.Model:
    """The model, trained with cutmix."""
    return CutMix(model.inputs, model.outputs)


def sharpness_aware(model: keras.Model) -> keras.Model:
    """The model, trained with sharpness-aware steps."""
    return SharpnessAware(model.inputs, model.outputs)


def excited(model: keras.Model) -> keras.Model:
    """A residual network whose blocks weigh their channels: squeeze-and-excitation (Hu et al. 2017, arXiv:1709.01507)."""

    def called(layer: keras.Layer, *arguments: Any, **options: Any) -> Any:
        if not isinstance(layer, layers.Add):
            return layer(*arguments, **options)
        [[own, shortcut]] = arguments
        weight = layers.GlobalAveragePooling2D(keepdims=True)(own)
        weight = layers.Conv2D(own.shape[-1] // SHRINK, 1, activation="relu")(weight)
        weight = layers.Conv2D(own.shape[-1], 1, activation="sigmoid")(weight)
        return layer([layers.Multiply()([own, weight]), shortcut])

    return keras.models.clone_model(model, call_function=called)


def enlarged(model: keras.Model) -> keras.Model:
    """The network on faces enlarged to PIXELS."""
    first = next(layer.name for layer in model.layers if isinstance(layer, layers.Conv2D))

    def called(layer: keras.Layer, *arguments: Any, **options: Any) -> Any:
        if layer.name == first:
            arguments = (layers.Resizing(PIXELS, PIXELS)(arguments[0]),)
        return layer(*arguments, **options)

    return keras.models.clone_model(model, call_function=called)


def learning(data: Data, answered: np.ndarray) -> Data:
    """The data with these answers, (N, 7), in the place of most of each label."""
    return data._replace(targets=np.float32(1 - SHARE) * data.targets + np.float32(SHARE) * answered)


def taught(data: Data, _: Fit) -> Data:
    """Taught by the champion."""
    champion = keras.saving.load_model(CHAMPION / "model.keras", compile=False)
    return learning(data, answers(champion, data.views[0]))


def by_strangers(data: Data, fit: Fit) -> np.ndarray:
    """What networks answer for the faces of train that they did not see: float32, (N, 7), by FOLDS trainings."""
    [faces], labels = data.views, data.targets.argmax(axis=1)
    answered = np.zeros_like(data.targets)
    for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(faces, labels):
        answered[unseen] = answers(fit(data._replace(views=[faces[seen]], targets=data.targets[seen])), faces[unseen])
    return answered


def taught_by_strangers(data: Data, fit: Fit) -> Data:
    """Taught by networks that could not learn a face's label by heart."""
    return learning(data, by_strangers(data, fit))


def taught_by_its_like(data: Data, fit: Fit) -> Data:
    """Taught by a network that was trained alike, on all the faces."""
    return learning(data, answers(fit(data), data.views[0]))


def cleaned(data: Data, fit: Fit) -> Data:
    """The faces without those whose label networks that did not see them contradict.

    Confident learning (Northcutt et al. 2019, arXiv:1911.00068): another expression is at least as probable as it is on average
    for the faces that have it as their label.
    """
    [faces], labels, answered = data.views, data.targets.argmax(axis=1), by_strangers(data, fit)
    usual = np.array([answered[labels == each, each].mean() for each in range(data.targets.shape[1])])
    likeliest = np.where(answered >= usual, answered, -1.0).argmax(axis=1)
    kept = (likeliest == labels) | ~(answered >= usual).any(axis=1)
    print(f"{(~kept).sum():,} of {len(kept):,} labels are contradicted", flush=True)
    return data._replace(views=[faces[kept]], targets=data.targets[kept])
