from pathlib import Path

import numpy as np
import pytest
from conftest import CANDIDATES

from tasks import networks
from tasks import train as stage
from tasks.backend import keras
from tasks.batches import faces_of
from tasks.checkpoint import Checkpoint
from tasks.params import Candidate
from tasks.self_taught import SelfTaught
from tasks.teach import targets

SEED, COUNT = 7, 10  # faces: three batches of four an epoch, two of them shown twice
STEPS = 3
RECIPE = Candidate.model_validate(
    CANDIDATES["small"]
    | {
        "epochs": 4,
        "batch": 4,
        "optimizer": {"name": "sgd", "learning_rate": 1e-12},  # so that answers stay as they are
        "plateau": None,
        "self_taught": {"since": 0.25, "until": 0.75, "share": 0.4},
    }
)


@pytest.fixture
def data() -> stage.Data:
    keras.utils.set_random_seed(SEED)
    keras.config.set_dtype_policy("float32")
    labels = np.arange(COUNT) % 7
    faces = np.random.default_rng(SEED).random((COUNT, 48, 48, 1), np.float32)
    return stage.Data([faces], targets(labels, RECIPE), faces, labels)


def fit(data: stage.Data, recipe: Candidate, folder: Path, *callbacks: keras.callbacks.Callback) -> SelfTaught:
    """A training in which only a dense layer learns, or as far as it came before a callback interrupted it."""
    keras.utils.set_random_seed(SEED)
    inputs = keras.Input((48, 48, 1))
    network = keras.Model(inputs, keras.layers.Dense(7, activation="softmax")(keras.layers.Flatten()(inputs)))
    model = SelfTaught(network, recipe, COUNT, SEED)
    stage.fit(model, data, recipe, SEED, Checkpoint(folder / "tiny/epochs.npz", "", list(callbacks), 1.0))
    return model


def shown(epoch: int) -> np.ndarray:
    """The faces of an epoch."""
    return np.concatenate([faces_of(epoch * STEPS + step, COUNT, RECIPE.batch, SEED) for step in range(STEPS)])


def cross_entropy(expected: np.ndarray, answered: np.ndarray) -> float:
    return float(-(expected * np.log(answered)).sum(axis=1).mean())


def test_the_mean_answer_of_some_epochs_is_part_of_later_targets(data: stage.Data, tmp_path: Path) -> None:
    model = fit(data, RECIPE, tmp_path)
    losses = [log["loss"] for log in Checkpoint(tmp_path / "tiny/epochs.npz", "", [], 1.0).logs]
    answers = model.predict(data.views[0], verbose=0)
    times = np.bincount(np.concatenate([shown(1), shown(2)]), minlength=COUNT)
    np.testing.assert_allclose(model.answers.numpy(), times[:, np.newaxis] * answers, rtol=1e-4)
    for epoch, share in enumerate((0.0, 0.0, 0.0, 0.4)):
        faces = shown(epoch)
        expected = (1 - share) * data.targets[faces] + share * answers[faces]
        assert losses[epoch] == pytest.approx(cross_entropy(expected, answers[faces]), rel=1e-4)


def test_a_picture_without_a_face_says_nothing_of_the_face_whose_place_it_takes(
    data: stage.Data, tmp_path: Path
) -> None:
    model = fit(data, RECIPE.model_copy(update={"nothing": 0.25}), tmp_path)
    faces = np.concatenate([shown(epoch).reshape(STEPS, -1)[:, 1:].ravel() for epoch in (1, 2)])
    times = np.bincount(faces, minlength=COUNT)
    np.testing.assert_allclose(model.answers.numpy().sum(axis=1), times, rtol=1e-4)
    assert times.min() == 0  # such a face has its label alone: the loss was a number


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_killed_training_goes_on_with_the_answers_it_had(data: stage.Data, tmp_path: Path, epoch: int) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": RECIPE.optimizer.model_copy(update={"learning_rate": 0.1})})
    whole = fit(data, recipe, tmp_path / "whole")

    def stop(begun: int, logs: object) -> None:
        if begun == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(data, recipe, tmp_path / "killed", keras.callbacks.LambdaCallback(on_epoch_begin=stop))
    continued = fit(data, recipe, tmp_path / "killed")
    for ours, theirs in zip(continued.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_network_itself_learns_and_is_saved_without_what_it_answered(data: stage.Data) -> None:
    network = networks.build("vgg_like", widths=[4])
    model = SelfTaught(network, RECIPE, COUNT, SEED)
    assert len(model.get_weights()) == len(network.get_weights()) + 1
    model.set_weights([value + 1 for value in model.get_weights()])
    faces = data.views[0]
    plain = stage.plain(network, network.get_weights())
    np.testing.assert_allclose(plain.predict(faces, verbose=0), model.predict(faces, verbose=0), atol=1e-6)
