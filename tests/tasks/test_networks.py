import numpy as np
import pytest

from tasks import networks
from tasks.backend import keras, tf
from tasks.errors import UserError

SOURCES = {"modelo_01": 5_905_863, "mini_xception": 58_423}  # parameters, by the tutorial and by package fer


@pytest.mark.parametrize("name", [name for name in networks.NETWORKS if name != "vgg16"])
def test_every_network_answers_probabilities(name: str) -> None:
    model = networks.build(name)
    answers = model.predict(np.zeros((2, 48, 48, 1), np.float32), verbose=0)
    assert answers.shape == (2, 7)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("name", "parameters"), SOURCES.items())
def test_published_networks_have_their_published_size(name: str, parameters: int) -> None:
    assert networks.build(name).count_params() == parameters


def test_vgg16_loads_weights_from_a_file_and_repeats_grey(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/weights").mkdir(parents=True)
    trunk = keras.applications.VGG16(include_top=False, weights=None, input_shape=(48, 48, 3))
    trunk.save_weights("data/weights/vgg16_notop.weights.h5")
    model = networks.build("vgg16")
    grey = np.full((1, 48, 48, 1), 0.5, np.float32)
    repeated = np.repeat(grey * 255 - networks.VGG16_MEAN, 3, axis=-1)
    features = keras.Model(model.input, model.get_layer("block5_pool").output)
    np.testing.assert_allclose(features.predict(grey, verbose=0), trunk.predict(repeated, verbose=0), rtol=1e-4)


def test_a_file_that_does_not_hold_vgg16_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/weights").mkdir(parents=True)
    (tmp_path / "data/weights/vgg16.h5").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"data/weights/vgg16.h5: not VGG16's weights without its top, or not all"):
        networks.build("vgg16")


def test_unknown_networks_and_options_are_named() -> None:
    with pytest.raises(UserError, match=r"names the network 'resnet'; tasks/networks.py has modelo_01"):
        networks.build("resnet")
    with pytest.raises(UserError, match=r"options of the network 'residual': .* unexpected keyword argument 'width'"):
        networks.build("residual", width=3)
    with pytest.raises(UserError, match=r"options of the network 'residual': .* unexpected keyword argument 'side'"):
        networks.build("residual", **{"side": 64})
    with pytest.raises(UserError, match=r"options of the network 'vgg_like': .*would be zero or negative") as error:
        networks.build("vgg_like", widths=[4] * 7)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("side", [48, None])
@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        ("residual", {"widths": [8, 8, 8]}, "3 widths and 4 blocks; it needs as many of both"),
        ("residual", {"widths": [], "blocks": []}, "0 widths and 0 blocks; it needs as many of both, one at least"),
        ("residual", {"widths": 8}, "has no len"),
        ("vgg_like", {"dropout": 1.5}, "Invalid value received for argument"),
    ],
)
def test_an_impossible_option_is_told_whatever_sizes_faces_have(side, network, options, words) -> None:
    with pytest.raises(UserError, match=rf"options of the network '{network}': .*{words}"):
        networks.build(network, side, **options)


@pytest.mark.parametrize("content", [b"", b"PK\3\4half of it"])
def test_a_damaged_network_is_told(content, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "models/candidates/small/model.keras"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=r"small/model\.keras is damaged; train it anew with: dvc repro --force train@small"
    ):
        networks.load_trained("small")


def test_a_network_made_for_one_size_says_so() -> None:
    assert networks.build("residual", None).input_shape == (None, None, None, 1)
    with pytest.raises(UserError, match="the network 'modelo_01' is made for one size of face; it can have no `sizes`"):
        networks.build("modelo_01", None)


def test_fused_normalisation_computes_what_keras_computes() -> None:
    maps = np.random.default_rng(0).normal(3, 2, (8, 6, 6, 5)).astype(np.float32)
    fused, plain = networks.FusedBatchNormalization(), keras.layers.BatchNormalization()
    for _ in range(3):
        np.testing.assert_allclose(fused(maps, training=True), plain(maps, training=True), atol=1e-4)
    # The fused kernel's moving variance is the unbiased one: N / (N - 1), here 288 / 287.
    for ours, theirs in zip(fused.variables, plain.variables, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=5e-3)
    plain.set_weights(fused.get_weights())
    np.testing.assert_allclose(fused(maps), plain(maps), atol=1e-4)


def test_fused_normalisation_has_keras_gradients() -> None:
    maps = tf.constant(np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32))
    gradients = []
    for layer in (networks.FusedBatchNormalization(), keras.layers.BatchNormalization()):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            loss = tf.reduce_sum(layer(maps, training=True) ** 3)
        gradients.append(tape.gradient(loss, maps))
    np.testing.assert_allclose(*gradients, atol=1e-3)


def test_multiply_adds_of_a_known_network() -> None:
    inputs = keras.Input((48, 48, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = keras.layers.SeparableConv2D(8, 3, strides=2, padding="same")(x)
    outputs = keras.layers.Dense(7)(keras.layers.Flatten()(x))
    expected = 48 * 48 * 9 * 4 + 24 * 24 * (9 * 4 + 4 * 8) + 24 * 24 * 8 * 7
    assert networks.multiply_adds(keras.Model(inputs, outputs)) == expected


def test_a_model_saved_twice_has_the_same_bytes_and_loads(tmp_path) -> None:
    model = networks.build("modelo_02")
    networks.save(model, tmp_path / "one.keras")
    networks.save(model, tmp_path / "two.keras")
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.keras", "two.keras"]
    faces = np.random.default_rng(0).random((2, 48, 48, 1), np.float32)
    loaded = keras.saving.load_model(tmp_path / "one.keras")
    np.testing.assert_array_equal(loaded.predict(faces, verbose=0), model.predict(faces, verbose=0))
