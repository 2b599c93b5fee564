from pathlib import Path

import numpy as np
import pytest
from conftest import CANDIDATES, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks import networks
from tasks import train as stage
from tasks.backend import keras
from tasks.judge import recalls
from tasks.params import Candidate, load
from tasks.recall import MOST, offsets, raise_recall

COUNT = 70


def by_new_odds(probabilities: np.ndarray, added: np.ndarray) -> np.ndarray:
    """Probabilities after so much is added to their logits."""
    odds = probabilities * np.exp(added)
    return odds / odds.sum(axis=1, keepdims=True)


def missed(probabilities: np.ndarray, labels: np.ndarray, lowest: float) -> list[str]:
    """The expressions whose recall is lower."""
    return [name for name, recall in recalls(probabilities.argmax(axis=1), labels).items() if recall < lowest]


@settings(deadline=None, max_examples=40)
@given(
    arrays(np.float32, (COUNT, 7), elements=st.floats(-8, 8, width=32)),
    arrays(np.int64, COUNT, elements=st.integers(0, 6)),
    st.floats(0.0, 0.6),
)
def test_every_expression_reaches_the_recall_or_is_helped_as_far_as_allowed(logits, labels, lowest) -> None:
    added = offsets(logits, labels, lowest)
    helped = np.isclose(added[np.unique(labels)], MOST)
    reached = np.array(list(recalls((logits + added).argmax(axis=1), labels).values()))
    assert ((reached >= lowest) | helped).all()
    assert ((added >= 0) & (added <= MOST)).all()
    assert not added[np.setdiff1d(range(7), labels)].any()


def test_no_more_is_added_than_is_needed() -> None:
    logits = np.array([[1.0, 0.9], [1.0, 0.5], [1.0, 0.0], [1.0, 0.2], [2.0, 0.0]], np.float32)
    labels = np.array([1, 1, 1, 0, 0])
    np.testing.assert_allclose(offsets(logits, labels, 0.0), [0, 0])
    np.testing.assert_allclose(offsets(logits, labels, 0.3), [0, 0.1], atol=2e-3)
    np.testing.assert_allclose(offsets(logits, labels, 0.5), [0, 0.5], atol=2e-3)


def test_what_nothing_reaches_ends_all_the_same() -> None:
    logits, labels = np.zeros((14, 7), np.float32), np.repeat(np.arange(7), 2)
    np.testing.assert_allclose(offsets(logits, labels, 1.0), MOST)
    assert offsets(logits[:0], labels[:0], 0.5).tolist() == [0] * 7


@pytest.fixture
def val() -> tuple[np.ndarray, np.ndarray]:
    faces = np.random.default_rng(7).random((COUNT, 48, 48, 1), np.float32)
    return faces, np.arange(COUNT) % 7


@pytest.mark.parametrize("network", ["residual", "mini_xception"])  # a dense layer last, and a convolution
def test_a_network_answers_by_the_new_odds(network, val) -> None:
    keras.utils.set_random_seed(7)
    keras.config.set_dtype_policy("float32")
    model = networks.build(network)
    before = model.predict(val[0], verbose=0)
    added = offsets(np.log(before), val[1], 0.12)
    assert added.any()
    assert raise_recall(model, *val, 0.12) == missed(by_new_odds(before, added), val[1], 0.12) != []
    np.testing.assert_allclose(model.predict(val[0], verbose=0), by_new_odds(before, added), rtol=1e-4)


def test_a_training_ends_with_the_recall_that_its_recipe_asks_for(tmp_path: Path, monkeypatch, val, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/arrays").mkdir(parents=True)
    for name, array in (("val", val[0]), ("val_labels", val[1])):
        np.save(f"data/arrays/{name}.npy", array)
    targets = np.eye(7, dtype=np.float32)[val[1]]
    monkeypatch.setattr(stage, "load_data", lambda _: stage.Data([val[0]], targets, *val))
    recipe = CANDIDATES["small"] | {"options": {"widths": [4]}, "epochs": 1, "plateau": None, "early_stopping": None}
    answers = {}
    for asked in (0.0, 0.12):
        candidate = Candidate.model_validate(recipe | {"lowest_recall": asked})
        stage.train("small", load(ROOT / "params.yaml").model_copy(update={"candidates": {"small": candidate}}))
        model = keras.saving.load_model("models/candidates/small/model.keras", compile=False)
        answers[asked] = model.predict(val[0], verbose=0)
    added = offsets(np.log(answers[0.0]), val[1], 0.12)
    assert added.any()
    np.testing.assert_allclose(answers[0.12], by_new_odds(answers[0.0], added), rtol=1e-4)
    said = capsys.readouterr().out.splitlines()
    names = ", ".join(missed(answers[0.12], val[1], 0.12))
    assert [line for line in said if "lowest_recall" in line] == [
        f"small: too far below its lowest_recall to be raised to it: {names}"
    ]
