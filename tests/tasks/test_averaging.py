import numpy as np
import pytest
from conftest import CANDIDATES

from tasks import networks
from tasks import train as stage
from tasks.averaging import renormalise
from tasks.backend import keras
from tasks.batches import training_batches
from tasks.checkpoint import Checkpoint
from tasks.params import Candidate

SEED, COUNT = 7, 16
RECIPE = Candidate.model_validate(
    CANDIDATES["small"] | {"epochs": 8, "batch": 4, "plateau": None, "schedule": "cosine", "early_stopping": None}
)
AVERAGED = RECIPE.model_copy(update={"averaged": 0.5})
STEPS = 4 * RECIPE.epochs


@pytest.fixture
def data() -> stage.Data:
    keras.utils.set_random_seed(SEED)
    keras.config.set_dtype_policy("float32")
    faces = np.random.default_rng(SEED).random((COUNT, 48, 48, 1), np.float32)
    labels = np.arange(COUNT) % 7
    return stage.Data([faces], np.eye(7, dtype=np.float32)[labels], faces, labels)


def test_the_rate_is_that_of_a_cosine_until_it_is_held() -> None:
    usual, held = (stage.make_optimizer(recipe, STEPS)._learning_rate for recipe in (RECIPE, AVERAGED))
    rates = [[float(rate(np.float32(step))) for step in range(STEPS)] for rate in (usual, held)]
    assert rates[1][: STEPS // 2] == rates[0][: STEPS // 2]
    assert rates[1][STEPS // 2 :] == [rates[0][STEPS // 2]] * (STEPS // 2)


def test_no_rate_of_the_warm_up_is_held() -> None:
    for averaged in (0.0, 0.02):
        recipe = RECIPE.model_copy(update={"averaged": averaged})
        rate = stage.make_optimizer(recipe, 1000 * STEPS)._learning_rate
        assert float(rate(np.float32(500 * STEPS))) == pytest.approx(recipe.optimizer.learning_rate)


def test_what_is_left_of_a_training_is_the_mean_of_its_last_weights(data, tmp_path) -> None:
    passed = []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: passed.append(model.get_weights()[0]))
    model = networks.build(AVERAGED.network, **AVERAGED.options)
    checkpoint = Checkpoint(tmp_path / "epochs.npz", "", [keep], 1.0, AVERAGED.first_averaged)
    stage.fit(model, data, AVERAGED, SEED, checkpoint)
    np.testing.assert_allclose(checkpoint.kept[0], np.mean(passed[4:], axis=0), atol=1e-6)
    assert np.abs(checkpoint.kept[0] - passed[-1]).max() > 1e-3


def test_cut_before_there_is_anything_to_average_the_last_weights_are_kept(data, tmp_path) -> None:
    model = networks.build(AVERAGED.network, **AVERAGED.options)
    checkpoint = Checkpoint(tmp_path / "epochs.npz", "", [], 0.0, AVERAGED.first_averaged)
    stage.fit(model, data, AVERAGED, SEED, checkpoint)
    assert (checkpoint.epochs, checkpoint.stopped) == (1, "max_minutes")
    np.testing.assert_array_equal(checkpoint.kept[0], model.get_weights()[0])


@pytest.mark.parametrize("content", [b"", b"PK\3\4half of it"])
def test_a_damaged_checkpoint_is_told_and_the_training_begins_anew(content, data, tmp_path, capsys) -> None:
    (tmp_path / "epochs.npz").write_bytes(content)
    checkpoint = Checkpoint(tmp_path / "epochs.npz", "", [], 1.0)
    assert checkpoint.epochs == 0
    assert "epochs.npz is damaged" in capsys.readouterr().out


def test_statistics_of_normalisation_are_the_mean_of_the_batches_own(data) -> None:
    inputs = keras.Input((48, 48, 1))
    model = keras.Model(inputs, networks.FusedBatchNormalization()(inputs))
    batches = list(training_batches(data.views, data.targets, RECIPE, SEED, RECIPE.epochs - 1))
    renormalise(model, batches)
    norm = model.layers[-1]
    np.testing.assert_allclose(norm.moving_mean, np.mean([np.mean(faces) for faces, _ in batches]), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.mean([np.var(faces) for faces, _ in batches]), rtol=1e-2)
    assert norm.momentum == 0.99
