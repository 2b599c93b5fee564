"""How good probabilities are: the measures of every evaluation."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from tasks.calibration import calibrate, calibration_error
from tasks.expressions import EXPRESSIONS

Probabilities = NDArray[np.float32]  # (N, 7), rows sum to 1
Labels = NDArray[np.int64]  # (N,), 0 to 6

LABELS = list(range(len(EXPRESSIONS)))


class ClassScores(NamedTuple):
    """One expression's precision, recall, F1 (0 to 1) and number of faces."""

    expression: str
    precision: float
    recall: float
    f1: float
    faces: int


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Share of faces whose highest value is their label's, rounded to four digits; sums of probabilities do, too."""
    return round(float((probabilities.argmax(axis=1) == labels).mean()), 4)


def score(probabilities: Probabilities, labels: Labels, temperature: float, bins: int) -> dict[str, float]:
    """The headline measures of one split, rounded to four digits.

    `log_loss` and `calibration_error` are of calibrated probabilities, `..._raw` of the network's own. `largest_share` is
    the share of faces that get the most frequent answer: near 1, the network has collapsed. Means and the lowest recall are of
    expressions that the split shows: others have no recall.
    """
    calibrated = calibrate(probabilities, temperature)
    classes = [each for each in per_class(probabilities, labels) if each.faces]
    answers = np.bincount(probabilities.argmax(axis=1), minlength=len(LABELS))
    measures = {
        "accuracy": accuracy(probabilities, labels),
        "macro_f1": float(np.mean([each.f1 for each in classes])),
        "mean_recall": float(np.mean([each.recall for each in classes])),
        "lowest_recall": min(each.recall for each in classes),
        "largest_share": float(answers.max() / len(labels)),
        "log_loss": float(log_loss(labels, calibrated, labels=LABELS)),
        "calibration_error": calibration_error(calibrated, labels, bins),
        "calibration_error_raw": calibration_error(probabilities, labels, bins),
    }
    return {name: round(value, 4) for name, value in measures.items()}


def per_class(probabilities: Probabilities, labels: Labels) -> list[ClassScores]:
    """Precision, recall and F1 of each expression, in FER2013's order; 0 where one was never answered or never shown."""
    columns = precision_recall_fscore_support(labels, probabilities.argmax(axis=1), labels=LABELS, zero_division=0)
    return [
        ClassScores(EXPRESSIONS[i], round(float(p), 4), round(float(r), 4), round(float(f), 4), int(n))
        for i, (p, r, f, n) in enumerate(zip(*columns, strict=True))
    ]


def confusion(probabilities: Probabilities, labels: Labels) -> NDArray[np.int64]:
    """Counts, shape (7, 7): rows are the true expressions, columns the answered ones, both in FER2013's order."""
    matrix: NDArray[np.int64] = confusion_matrix(labels, probabilities.argmax(axis=1), labels=LABELS)
    return matrix
