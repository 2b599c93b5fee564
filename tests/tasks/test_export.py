from pathlib import Path

import numpy as np
import pytest

from tasks import networks
from tasks.backend import keras
from tasks.champion import LiteRT
from tasks.errors import UserError
from tasks.export import export

FACES = np.random.default_rng(0).random((20, 48, 48, 1), np.float32)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    networks.save(networks.build("vgg_like", widths=[8, 16]), tmp_path / "model.keras")
    return tmp_path / "model.keras"


def test_half_precision_where_it_holds_and_full_where_not(trained: Path, tmp_path: Path) -> None:
    sizes, exact = {}, keras.saving.load_model(trained).predict(FACES, verbose=0)
    for most, precision in ((0.02, "float16"), (1e-5, "float32")):
        folder = tmp_path / precision
        folder.mkdir()
        forms = export(trained, folder, FACES, most, most_int8=0.0)
        assert (forms.weights, forms.arithmetic) == (precision, "float32")
        for answers in (
            keras.saving.load_model(folder / "model.keras").predict(FACES, verbose=0),
            LiteRT((folder / "model.tflite").read_bytes()).predict(FACES),
        ):
            np.testing.assert_allclose(answers, exact, atol=most)
        sizes[precision] = (folder / "model.tflite").stat().st_size
    assert sizes["float16"] < 0.7 * sizes["float32"]


def test_eight_bits_where_they_hold(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    forms = export(trained, folder, FACES, 0.02, most_int8=0.05)
    assert (forms.weights, forms.arithmetic) == ("float16", "int8")
    answers = LiteRT((folder / "model.tflite").read_bytes()).predict(FACES)
    exact = keras.saving.load_model(trained).predict(FACES, verbose=0)
    assert np.abs(answers - exact).mean() == pytest.approx(forms.difference)
    assert sorted(path.name for path in folder.iterdir()) == ["model.keras", "model.tflite"]


def test_eight_bits_answer_alike_whatever_the_batch(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(trained, tmp_path / "out", FACES, 0.02, most_int8=0.05)
    network = LiteRT((tmp_path / "out" / "model.tflite").read_bytes())
    alone = np.concatenate([network.predict(face[np.newaxis]) for face in FACES])
    np.testing.assert_array_equal(network.predict(FACES), alone)


def test_forms_that_never_agree_are_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"forms differ by .* in a probability, more than"):
        export(trained, tmp_path / "out", FACES, most=-1.0, most_int8=0.01)


def test_one_form_that_answers_no_number_is_refused(trained: Path, tmp_path: Path, monkeypatch) -> None:
    answers = np.full((len(FACES), 7), np.nan, np.float32)
    monkeypatch.setattr(LiteRT, "predict", lambda self, faces: answers)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="forms differ by nan"):
        export(trained, tmp_path / "out", FACES, most=0.02, most_int8=0.01)
