"""The network that begins with a face recognizer's weights: it computes what these did, and trains and is kept as others are."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT

from tasks import networks, recognition
from tasks.backend import keras, tf
from tasks.card import write_card
from tasks.champion import CARD, INFO
from tasks.errors import UserError
from tasks.paths import CHAMPION
from tasks.train import plain

BLOCKS = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))  # channels and number, from the input on


@pytest.fixture
def faces(tmp_path, monkeypatch) -> np.ndarray:
    """Some smooth pictures as train's faces."""
    monkeypatch.chdir(tmp_path)
    coarse = np.random.default_rng(5).random((300, 6, 6, 1), np.float32)
    train = tf.image.resize(coarse, (48, 48), "bicubic").numpy().clip(0, 1)
    (tmp_path / "data/arrays").mkdir(parents=True)
    np.save("data/arrays/train.npy", train)
    np.save("data/arrays/train_labels.npy", np.zeros(len(train), np.int64))
    return train


def recognized(faces: np.ndarray) -> np.ndarray:
    """The recognizer's own features, (N, 256), of grey faces, (N, 48, 48, 1), in three colours and by dlib's rules."""
    numbers = recognition._numbers(recognition.find())

    def convolved(maps, outputs, side, stride=1):
        filters, affine = next(numbers), next(numbers)
        kernel = filters[:-outputs].reshape(outputs, maps.shape[-1], side, side).transpose(2, 3, 1, 0)
        scale, shift = affine[:outputs], affine[outputs:]
        return scale * (tf.nn.conv2d(maps, kernel, stride, "SAME") + filters[-outputs:]) + shift

    large = tf.image.resize(faces, (144, 144), "bilinear")
    maps = (tf.repeat(large, 3, axis=-1) * 255 - 114.7) / 256
    maps = tf.nn.max_pool2d(tf.nn.relu(convolved(maps, 32, 7, 2)), 3, 2, "SAME")
    for stage, (outputs, count) in enumerate(BLOCKS):
        for block in range(count):
            down = stage > 0 and block == 0
            inner = convolved(maps, outputs, 3, 2 if down else 1)
            shortcut = tf.nn.avg_pool2d(maps, 2, 2, "SAME") if down else maps
            shortcut = tf.pad(shortcut, [[0, 0], [0, 0], [0, 0], [0, outputs - shortcut.shape[-1]]])
            maps = tf.nn.relu(convolved(tf.nn.relu(inner), outputs, 3) + shortcut)
    return tf.reduce_mean(maps, axis=[1, 2]).numpy()


def test_it_begins_with_what_the_recognizer_computes(faces):
    model = networks.build("face_resnet")
    features = keras.Model(model.input, model.layers[-3].output)  # before dropout and softmax
    framed = np.full_like(
        faces[:4], 114.7 / 255
    )  # in what the network takes for nothing: at the edges it interpolates with that
    framed[:, 3:-3, 3:-3] = faces[7:11, 3:-3, 3:-3]
    expected = recognized(framed)
    assert expected.std() > 0.2
    np.testing.assert_allclose(features.predict(framed, verbose=0), expected, atol=0.005)


def test_it_answers_faces_of_any_size_and_is_kept_in_keras_own_layers(faces, tmp_path):
    model = networks.build("face_resnet", side=None)
    assert model.predict(faces[:2, ::2, ::2], verbose=0).shape == (2, 7)
    networks.save(plain(model, model.get_weights()), tmp_path / "model.keras")
    kept = keras.saving.load_model(tmp_path / "model.keras", custom_objects={})
    np.testing.assert_allclose(kept.predict(faces[:2], verbose=0), model.predict(faces[:2], verbose=0), atol=1e-5)
    assert {type(layer).__module__.partition(".")[0] for layer in kept.layers} == {"keras"}


def test_a_damaged_file_of_the_recognizer_is_told(tmp_path, monkeypatch):
    damaged = tmp_path / "model.dat"
    damaged.write_bytes(b"\x01\x01\x01\x0dloss_metric_2")
    for found in (damaged, None):
        monkeypatch.setattr(recognition, "packaged", lambda package, name, found=found: found)
        with pytest.raises(
            UserError, match=r"resnet_model_v1.dat in the package face_recognition_models, or a damaged one"
        ):
            recognition.find()


@pytest.mark.parametrize(("network", "told"), [("face_resnet", True), ("residual", False)])
def test_a_card_says_with_whose_weights_a_network_began(network, told, tmp_path):
    shutil.copytree(ROOT / CHAMPION, tmp_path, dirs_exist_ok=True)
    info = json.loads((tmp_path / INFO).read_text())
    info["parameters"]["candidate"]["network"] = network
    write_card(tmp_path, info)
    assert ("dlib's face recognizer" in (tmp_path / CARD).read_text()) == told
