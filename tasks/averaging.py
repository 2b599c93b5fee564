"""Averaging the weights of a training's last epochs: one network about as good as an ensemble of those epochs' networks.

Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407): with the rate held, not lowered to nothing, the weights
wander about a valley's floor, and the mean of where they were lies nearer to its middle than any of them.
"""

from collections.abc import Iterable
from typing import Any

from tasks.backend import keras, tf


class Held(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras tells mypy nothing of it
    """Another schedule up to some step, and from there on its rate of that step."""

    def __init__(self, rate: keras.optimizers.schedules.LearningRateSchedule, since: int) -> None:
        self.rate, self.since = rate, since

    def __call__(self, step: Any) -> Any:
        """The rate of a step."""
        return self.rate(keras.ops.minimum(step, keras.ops.cast(self.since, step.dtype)))

    def get_config(self) -> dict[str, Any]:
        """What makes an equal one."""
        return {"rate": self.rate, "since": self.since}


def renormalise(model: keras.Model, batches: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> None:
    """Set the statistics of normalisation to the mean of these batches' own: those collected were of other weights."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momentum = tf.Variable(0.0)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def see(faces: tf.Tensor) -> None:
        model(faces, training=True)

    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = momentum
    for number, (faces, _) in enumerate(batches):
        momentum.assign(number / (number + 1))
        see(faces)
    for norm, value in zip(norms, usual, strict=True):
        norm.momentum = value
