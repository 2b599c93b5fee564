"""Raising the recall of expressions that a trained network answers too seldom.

A network that is right as often as it can be hardly ever answers what is rare or looks like something else: disgust for
anger, fear for sadness. Its last biases decide where such faces fall (post-hoc logit adjustment: Menon et al. 2021,
arXiv:2007.07314), so a little added there finds more of them, and costs only answers that were nearly a tie.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tasks.backend import keras
from tasks.calibration import SMALLEST
from tasks.expressions import EXPRESSIONS

MOST = math.log(4)  # is added to an expression's logit: by 4, at most, its probability is multiplied
MARGIN = 1e-3  # in a logit; more than rounding changes
BATCH = 256


def raise_recall(
    network: keras.Model, faces: NDArray[np.float32], labels: NDArray[np.int64], lowest: float
) -> list[str]:
    """Add to the network's last biases what lifts every expression's recall on these faces to `lowest`.

    Returns the expressions that MOST does not lift so far.

    Args:
        network: ends with a softmax of a dense layer, or of the mean of a convolution's maps.
        faces: float32, shape (N, 48, 48, 1); val's, never test's: this is a choice.
        labels: int64, shape (N,).
        lowest: recall, 0 to 1.
    """
    probabilities = network.predict(faces, batch_size=BATCH, verbose=0)
    logits = np.log(np.maximum(probabilities, SMALLEST))
    added = offsets(logits, labels, lowest)
    bias = next(layer.bias for layer in reversed(network.layers) if getattr(layer, "bias", None) is not None)
    bias.assign_add(added)
    right = (logits + added).argmax(axis=1) == labels
    return [EXPRESSIONS[label] for label in np.unique(labels) if right[labels == label].mean() < lowest]


def offsets(logits: NDArray[np.float32], labels: NDArray[np.int64], lowest: float) -> NDArray[np.float32]:
    """What to add to each expression's logits, float32, (7,), so that every one that `labels` has reaches that recall.

    The one with the lowest recall gets just enough, again and again: what one gains, others may lose.

    Args:
        logits: float32, (N, 7).
        labels: int64, (N,).
        lowest: recall, 0 to 1.
    """
    added = np.zeros(logits.shape[1], np.float32)
    while True:
        right = (logits + added).argmax(axis=1) == labels
        recalls = {label: right[labels == label].mean() for label in np.unique(labels) if added[label] < MOST}
        behind = min(recalls, key=lambda label: recalls[label], default=None)
        if behind is None or recalls[behind] >= lowest:
            return added
        own = (logits + added)[labels == behind]
        lacking = np.sort(np.delete(own, behind, axis=1).max(axis=1) - own[:, behind])
        needed = lacking[math.ceil(lowest * len(own)) - 1] + MARGIN
        added[behind] = min(added[behind] + needed, MOST)
