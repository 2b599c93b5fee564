import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import scores
from tasks.calibration import calibrate, calibration_error, fit_temperature


def random_probabilities(count: int, seed: int = 0, sharpness: float = 1.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(count, 7)).astype(np.float32) * sharpness
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@given(st.floats(0.05, 20), st.integers(0, 1000))
def test_calibration_keeps_order_and_sum(temperature: float, seed: int) -> None:
    probabilities = random_probabilities(5, seed)
    calibrated = calibrate(probabilities, temperature)
    np.testing.assert_allclose(calibrated.sum(axis=1), 1, rtol=1e-4)
    assert (calibrated.argmax(axis=1) == probabilities.argmax(axis=1)).all()


def test_temperature_one_changes_nothing_and_no_face_is_no_error() -> None:
    probabilities = random_probabilities(4)
    np.testing.assert_allclose(calibrate(probabilities, 1.0), probabilities, rtol=1e-5)
    assert calibrate(np.empty((0, 7), np.float32), 2.0).shape == (0, 7)


def test_the_fitted_temperature_undoes_a_known_one() -> None:
    truth = random_probabilities(20_000, sharpness=2.0)
    rng = np.random.default_rng(1)
    labels = np.array([rng.choice(7, p=row / row.sum()) for row in truth.astype(np.float64)])
    assert fit_temperature(calibrate(truth, 0.5), labels) == pytest.approx(2.0, rel=0.05)
    assert calibration_error(truth, labels, 15) < 0.02 < calibration_error(calibrate(truth, 0.5), labels, 15)


def test_scores_of_a_known_answer() -> None:
    labels = np.array([0, 0, 1, 3])
    probabilities = np.full((4, 7), 0.01, np.float32)
    probabilities[range(4), [0, 1, 1, 3]] = 0.94
    measures = scores.score(probabilities, labels, 1.0, 15)
    assert measures["accuracy"] == scores.accuracy(2 * probabilities, labels) == 0.75
    assert measures["largest_share"] == 0.5
    assert measures["lowest_recall"] == 0.5  # an expression never shown has none
    assert measures["mean_recall"] == pytest.approx((0.5 + 1 + 1) / 3, abs=1e-4)
    assert measures["calibration_error"] == pytest.approx(0.19, abs=1e-3)
    classes = {each.expression: each for each in scores.per_class(probabilities, labels)}
    assert (classes["angry"].recall, classes["angry"].precision, classes["angry"].faces) == (0.5, 1.0, 2)
    assert scores.confusion(probabilities, labels)[0].tolist() == [1, 1, 0, 0, 0, 0, 0]
