"""Temperature scaling: probabilities that mean what they say (Guo et al. 2017, arXiv:1706.04599)."""

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-7  # below it a probability says nothing; keeps logarithms finite
TEMPERATURES = (0.05, 20.0)  # bounds of the search


def calibrate(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Soften (temperature > 1) or sharpen (< 1) probabilities, float32, (N, 7); their order stays.

    Works on probabilities, because a softmax's logits are their logarithms up to a constant.
    """
    logits = np.log(np.maximum(probabilities, np.float32(SMALLEST))) / np.float32(temperature)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    scaled: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature with the smallest log loss; fit it on val, never on what it is then measured on."""
    # Imported here: labelling calibrates but never fits, and starts a second sooner without scikit-learn.
    from scipy.optimize import minimize_scalar
    from sklearn.metrics import log_loss

    classes = np.arange(probabilities.shape[1])

    def loss(log_temperature: float) -> float:
        return float(log_loss(labels, calibrate(probabilities, float(np.exp(log_temperature))), labels=classes))

    best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return round(float(np.exp(best.x)), 4)


def calibration_error(probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over equal-width bins, weighted by faces."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(places, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
