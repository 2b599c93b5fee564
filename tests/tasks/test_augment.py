import numpy as np
import pytest

from tasks.augment import augment
from tasks.backend import tf
from tasks.params import Augment

SEED = tf.constant([7, 1])


@pytest.fixture
def faces() -> np.ndarray:
    """Smooth random pictures, so that a resampled one can be compared."""
    rough = np.random.default_rng(0).random((16, 6, 6, 1), np.float32)
    return tf.image.resize(rough, (48, 48), method="bicubic").numpy().clip(0, 1)


def test_nothing_asked_nothing_changed(faces: np.ndarray) -> None:
    np.testing.assert_array_equal(augment(faces, SEED, Augment()), faces)


def test_mirror_gives_each_face_or_its_exact_mirror_image(faces: np.ndarray) -> None:
    changed = augment(faces, SEED, Augment(mirror=True)).numpy()
    same = [np.allclose(a, b, atol=1e-5) for a, b in zip(changed, faces, strict=True)]
    mirrored = [np.allclose(a, b[:, ::-1], atol=1e-5) for a, b in zip(changed, faces, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


@pytest.mark.parametrize(
    "amount",
    [
        Augment(rotate=10.0),
        Augment(shift=0.1),
        Augment(zoom=0.2),
        Augment(shear=0.2),
        Augment(contrast=0.3),
        Augment(brightness=0.2),
        Augment(erase=1.0),
    ],
)
def test_each_change_changes_a_little_and_stays_in_range(faces: np.ndarray, amount: Augment) -> None:
    changed = augment(faces, SEED, amount).numpy()
    assert changed.shape == faces.shape
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 1
    difference = np.abs(changed - faces).mean(axis=(1, 2, 3))
    assert (difference > 1e-3).mean() > 0.7
    assert difference.max() < 0.4


def test_rotation_turns_about_the_centre() -> None:
    dot = np.zeros((32, 48, 48, 1), np.float32)
    dot[:, 23:25, 23:25] = 1
    turned = augment(dot, SEED, Augment(rotate=45.0, mirror=True)).numpy()
    np.testing.assert_allclose(turned[:, 20:28, 20:28].sum(axis=(1, 2, 3)), 4, atol=0.5)


def test_a_seed_repeats_and_another_does_not(faces: np.ndarray) -> None:
    amount = Augment(mirror=True, rotate=10.0, erase=0.5)
    np.testing.assert_array_equal(augment(faces, SEED, amount), augment(faces, SEED, amount))
    assert not np.array_equal(augment(faces, SEED, amount), augment(faces, tf.constant([7, 2]), amount))


def test_erase_hits_the_share_it_is_given() -> None:
    faces = np.tile(np.linspace(0, 1, 48, dtype=np.float32)[None, :, None, None], (400, 1, 48, 1))
    changed = augment(faces, SEED, Augment(erase=0.3)).numpy()
    share = (np.abs(changed - faces).max(axis=(1, 2, 3)) > 0).mean()
    assert 0.2 < share < 0.4
