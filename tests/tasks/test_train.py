import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import CANDIDATES, ROOT

from tasks import networks, precision
from tasks import train as stage
from tasks.backend import keras
from tasks.batches import schedule, training_batches
from tasks.checkpoint import Checkpoint
from tasks.errors import UserError, explaining
from tasks.expressions import EXPRESSIONS
from tasks.images import normalise
from tasks.params import Candidate, Optimizer, Size, load
from tasks.synthetic import draw_face
from tasks.teach import targets

RECIPE = Candidate.model_validate(CANDIDATES["small"] | {"epochs": 3, "batch": 4})


def numbered(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces whose every pixel is their own number, and targets."""
    faces = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 48, 48, 1), np.float32)
    return faces, targets(np.arange(count) % 7, RECIPE)


def data(faces: np.ndarray, answers: np.ndarray) -> stage.Data:
    """To train on and to choose by the same faces."""
    return stage.Data([faces], answers, faces, answers.argmax(axis=1))


def seen(first_epoch: int, count: int = 10) -> list[np.ndarray]:
    """The numbers of the faces in each batch."""
    faces, answers = numbered(count)
    batches = training_batches([faces], answers, RECIPE, 7, first_epoch)
    return [batch[:, 0, 0, 0] for batch, _ in batches.as_numpy_iterator()]


def test_every_epoch_shows_every_face_in_another_order() -> None:
    batches = seen(0)
    assert len(batches) == 9  # three epochs of three batches of four: ten faces, and two again
    epochs = [np.concatenate(batches[start : start + 3]) for start in (0, 3, 6)]
    for epoch in epochs:
        assert set(epoch) == set(range(10))
    assert not np.array_equal(epochs[0], epochs[1])


def test_batches_from_a_later_epoch_are_those_of_the_whole_run() -> None:
    for ours, theirs in zip(seen(1), seen(0)[3:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert seen(3) == []  # killed after the last one


def test_pictures_grow_as_the_schedule_says() -> None:
    sizes = [Size(until=0.4, pixels=16), Size(until=0.7, pixels=24, crop=True)]
    recipe = RECIPE.model_copy(update={"epochs": 5, "sizes": sizes})
    assert [(start, end) for start, end, _ in schedule(recipe)] == [(0, 2), (2, 4), (4, 5)]
    faces, answers = numbered(10)
    sides = [batch.shape[1] for batch, _ in training_batches([faces], answers, recipe, 7, 0).as_numpy_iterator()]
    assert sides == [16] * 6 + [24] * 6 + [48] * 3
    later = [batch.shape[1] for batch, _ in training_batches([faces], answers, recipe, 7, 3).as_numpy_iterator()]
    assert later == sides[9:]


class Counted(keras.Model):
    """A network that counts how often its training step is traced."""

    traced = 0

    def compute_loss(self, *given, training=True, **named):
        self.traced += training
        return super().compute_loss(*given, training=training, **named)


def test_the_training_step_is_traced_once(tmp_path: Path) -> None:
    """Twice, if it makes variables: that is seconds of every start."""
    keras.config.set_dtype_policy("float32")
    network = networks.build("vgg_like", 48, widths=[4, 4, 4])
    model = Counted(network.inputs, network.outputs)
    stage.fit(model, data(*numbered(8)), RECIPE, 7, Checkpoint(tmp_path / "epochs.npz", "fingerprint", [], 1.0))
    assert model.traced == 1


def test_a_network_trained_on_several_sizes_is_saved_for_one(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"sizes": [Size(until=0.5, pixels=32)], "mixup": 0.2})
    keras.config.set_dtype_policy("float32")
    faces, answers = numbered(8)
    model = networks.build("residual", None, widths=[4, 8], blocks=[1, 1])
    checkpoint = Checkpoint(tmp_path / "tiny" / "epochs.npz", "fingerprint", [], 1.0)
    stage.fit(model, data(faces / 8, answers), recipe, 7, checkpoint)
    assert checkpoint.epochs == 3
    assert stage.plain(model, model.get_weights()).input_shape == (None, 48, 48, 1)


def test_targets_belong_to_their_faces() -> None:
    faces, answers = numbered(10)
    for batch, expected in training_batches([faces], answers, RECIPE, 7, 0).as_numpy_iterator():
        np.testing.assert_array_equal(answers[batch[:, 0, 0, 0].astype(int)], expected)


def test_two_views_are_drawn_both() -> None:
    faces, answers = numbered(40)
    batches = training_batches([faces, -faces - 1], answers, RECIPE, 7, 0)
    signs = np.concatenate([np.sign(batch[:, 0, 0, 0] + 0.5) for batch, _ in batches.as_numpy_iterator()])
    assert 0.3 < (signs > 0).mean() < 0.7


def fit(folder: Path, recipe: Candidate, max_minutes: float = 1.0) -> Checkpoint:
    """Train a very small network on eight faces."""
    faces, answers = numbered(8)
    keras.config.set_dtype_policy("float32")
    checkpoint = Checkpoint(folder / "tiny" / "epochs.npz", "fingerprint", [], max_minutes)
    stage.fit(networks.build("vgg_like", widths=[4]), data(faces / 8, answers), recipe, 7, checkpoint)
    return checkpoint


def test_a_loss_that_is_no_number_ends_training_with_one_line(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": Optimizer(name="sgd", learning_rate=1e38)})
    with pytest.raises(UserError, match=r"tiny: the loss is no longer a number in epoch 1; lower the learning rate"):
        fit(tmp_path, recipe)
    assert not (tmp_path / "tiny" / "epochs.npz").exists()


def test_max_minutes_cuts_a_training_short_and_says_so(tmp_path: Path) -> None:
    checkpoint = fit(tmp_path, RECIPE, max_minutes=1e-9)
    assert checkpoint.epochs == 1
    assert checkpoint.stopped == "max_minutes"
    assert Checkpoint(checkpoint.path, "fingerprint", [], 1.0).epochs == 1
    assert Checkpoint(checkpoint.path, "another", [], 1.0).epochs == 0


def test_a_training_goes_on_in_the_numbers_it_began_with(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "load_data", lambda _: data(*numbered(8)))
    recipe = RECIPE.model_copy(update={"precision": "fastest", "epochs": 1})
    params = load(ROOT / "params.yaml").model_copy(update={"candidates": {"small": recipe}})
    monkeypatch.setattr(precision, "faster", lambda: "bfloat16")
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(stage, "plain", Mock(side_effect=KeyboardInterrupt))
        stage.train("small", params)
    monkeypatch.setattr(precision, "faster", lambda: "float32")  # as it may be on another machine, or by chance
    stage.train("small", params)
    said = capsys.readouterr().out
    assert said.count("small: computing in bfloat16\n") == 2
    assert "small: continuing after epoch 1 of 1\n" in said


def test_a_repository_without_a_commit_is_told_before_anything_is_computed(tmp_path, monkeypatch) -> None:
    """As one has it who unpacks a release and begins a repository of it."""
    monkeypatch.chdir(tmp_path)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True)
    with pytest.raises(UserError, match=r"Git says: Empty git repo\. If there is none yet, make one: git add --all"):
        stage.make_callbacks("small", RECIPE)
    author = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    subprocess.run(["git", *author, "commit", "-q", "-m", "a commit"], check=True)
    assert stage.make_callbacks("small", RECIPE)


def test_the_fast_recipe_learns_the_made_set(tmp_path: Path) -> None:
    """In half a minute on two cores that do nothing else."""
    rng = np.random.default_rng(0)
    labels = np.arange(2100) % 7
    faces = normalise(np.stack([draw_face(EXPRESSIONS[label], rng) for label in labels]))
    made = stage.Data([faces[:1750]], targets(labels[:1750], RECIPE), faces[1750:], labels[1750:])
    narrow = {"epochs": 8, "batch": 32, "options": {"widths": [16, 32, 64, 128], "blocks": [1, 1, 1, 1]}}
    recipe = load(ROOT / "params.yaml").candidate("large_untaught").model_copy(update=narrow)
    keras.utils.set_random_seed(7)
    precision.use(recipe.precision)
    checkpoint = Checkpoint(tmp_path / "small" / "epochs.npz", "fingerprint", [], max_minutes=15.0)
    stage.fit(networks.build(recipe.network, None, **recipe.options), made, recipe, 7, checkpoint)
    assert max(log["val_accuracy"] for log in checkpoint.logs) >= 0.9


def test_the_plain_model_is_float32_and_answers_the_same() -> None:
    keras.config.set_dtype_policy("float32")
    model = networks.build("residual", widths=[4, 8], blocks=[1, 1])
    plain = stage.plain(model, model.get_weights())
    assert not any(isinstance(layer, networks.FusedBatchNormalization) for layer in plain.layers)
    faces = np.random.default_rng(0).random((3, 48, 48, 1), np.float32)
    np.testing.assert_allclose(plain.predict(faces, verbose=0), model.predict(faces, verbose=0), atol=1e-6)


def test_a_trunk_is_cut_where_asked_and_its_features_computed_once(tmp_path, capsys) -> None:
    keras.config.set_dtype_policy("float32")
    model = networks.build("modelo_02")
    name = model.layers[6].name
    trunk, head = stage.split_at(model, name)
    faces, answers = numbered(5)
    once = stage.frozen(trunk, data(faces, answers), True, tmp_path)
    again = stage.frozen(trunk, data(faces, answers), True, tmp_path)
    assert capsys.readouterr().out.count("computing frozen features") == 3  # train, mirrored, val
    np.testing.assert_array_equal(once.views[1], again.views[1])
    whole = model.predict(faces, verbose=0)
    np.testing.assert_allclose(head.predict(once.views[0], verbose=0), whole, atol=1e-5)
    with pytest.raises(UserError, match="frozen_until names 'block9'; the network's layers are"):
        stage.split_at(model, "block9")
    with pytest.raises(UserError, match="frozen_until names 'expression', where the network cannot be cut"):
        stage.split_at(model, "expression")


def test_pictures_too_small_for_a_network_are_told_before_it_trains() -> None:
    recipe = RECIPE.model_copy(update={"sizes": [Size(until=0.5, pixels=32), Size(until=0.9, pixels=16)]})
    stage.check_sizes(networks.build("vgg_like", None, widths=[4] * 4), recipe)
    with pytest.raises(
        UserError, match=r"'vgg_like' halves pictures more often than those of 16 px \(`sizes`\) can be"
    ):
        stage.check_sizes(networks.build("vgg_like", None, widths=[4] * 5), recipe)


def test_features_that_do_not_fit_on_the_disk_leave_nothing_and_damaged_ones_are_made_anew(tmp_path) -> None:
    keras.config.set_dtype_policy("float32")
    faces, answers = numbered(5)
    trunk = networks.build("vgg_like", widths=[4])
    (tmp_path / ".train.npy.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"no space left on the disk while writing .*/train\.npy"), explaining():
        stage.frozen(trunk, data(faces, answers), False, tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "train.npy").touch()
    features = stage.frozen(trunk, data(faces, answers), False, tmp_path).views[0]
    np.testing.assert_array_equal(features, trunk.predict(faces, verbose=0))
    np.testing.assert_array_equal(features, np.load(tmp_path / "train.npy"))


def test_wrong_optimizer_options_are_named() -> None:
    recipe = RECIPE.model_copy(
        update={"optimizer": Optimizer(name="sgd", learning_rate=0.1, options={"momentun": 0.9})}
    )
    with pytest.raises(UserError, match=r"options of the optimizer 'sgd': .*momentun"):
        stage.make_optimizer(recipe, 10)


def test_the_committed_recipes_have_their_optimizers_and_pictures_large_enough() -> None:
    keras.config.set_dtype_policy("float32")
    for recipe in load(ROOT / "params.yaml").candidates.values():
        stage.make_optimizer(recipe, 100)
        if recipe.sizes:
            stage.check_sizes(networks.build(recipe.network, None, **recipe.options), recipe)


def test_muon_orthogonalises_kernels_and_leaves_the_rest_to_adam() -> None:
    keras.config.set_dtype_policy("float32")
    kernel = keras.Variable(np.zeros((3, 3, 4, 8), np.float32))
    bias = keras.Variable(np.zeros(8, np.float32))
    optimizer = stage.ConvolutionMuon(0.1, weight_decay=None, adam_weight_decay=None, ns_steps=10)
    gradient = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32)
    optimizer.apply_gradients([(gradient, kernel), (np.ones(8, np.float32), bias)])
    singular = np.linalg.svd(kernel.numpy().reshape(-1, 8), compute_uv=False)
    assert singular.min() > 0.5 * singular.max()  # a gradient of noise has a ratio of 0.4; Newton-Schulz evens it
    np.testing.assert_allclose(bias.numpy(), -0.1, rtol=1e-3)  # Adam's first step
