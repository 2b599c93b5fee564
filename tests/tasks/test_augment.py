import cv2
import numpy as np
import pytest

from tasks.augment import augment, mix, nothing
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
        Augment(shade=0.5),
        Augment(blur=2.0),
        Augment(compress=1.0),
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


def test_blur_softens_some_faces_and_sharpens_others() -> None:
    noise = np.random.default_rng(0).uniform(0.3, 0.7, (64, 48, 48, 1)).astype(np.float32)
    spread = augment(noise, SEED, Augment(blur=1.0)).numpy().std(axis=(1, 2, 3)) / noise.std(axis=(1, 2, 3))
    assert (spread < 0.99).mean() > 0.2
    assert (spread > 1.01).mean() > 0.2
    softest = augment(noise, SEED, Augment(blur=1.0)).numpy()[spread.argmin(), ..., 0]
    gaussian = cv2.GaussianBlur(noise[spread.argmin(), ..., 0], (9, 9), 1.0)
    inner = slice(8, -8)  # away from the edges, which the two treat differently
    np.testing.assert_allclose(softest[inner, inner], gaussian[inner, inner], atol=0.05)


def test_compression_is_that_of_a_jpeg_file(faces: np.ndarray) -> None:
    compressed = np.rint(augment(faces, SEED, Augment(compress=1.0)).numpy() * 255)[..., 0]
    for ours, face in zip(compressed, np.rint(faces * 255).astype(np.uint8)[..., 0], strict=True):
        files = [cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for quality in range(20, 91)]
        theirs = np.stack([cv2.imdecode(file, cv2.IMREAD_GRAYSCALE) for file in files]).astype(float)
        distances = np.abs(theirs - ours).mean(axis=(1, 2))
        assert distances.min() < 2.0  # of 255 grey levels
        assert distances.max() > 1.5 * distances.min()  # the file of another quality is another picture


@pytest.mark.parametrize("side", [32, 40])
def test_a_smaller_picture_shows_the_whole_face(faces: np.ndarray, side: int) -> None:
    small = augment(faces, SEED, Augment(), side).numpy()
    assert small.shape == (16, side, side, 1)
    expected = np.stack([cv2.resize(face, (side, side)) for face in faces])[..., np.newaxis]
    np.testing.assert_allclose(small, expected, atol=0.05)


def test_a_crop_shows_the_middle_of_the_face_pixel_by_pixel(faces: np.ndarray) -> None:
    np.testing.assert_allclose(augment(faces, SEED, Augment(), 44, crop=True), faces[:, 2:46, 2:46], atol=1e-5)


def test_mixed_faces_have_their_targets_mixed_alike() -> None:
    numbers = np.arange(64, dtype=np.float32)
    faces = numbers.reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 1), np.float32)
    blended, targets = mix(faces, np.eye(64, dtype=np.float32), SEED, 0.4)
    np.testing.assert_allclose(targets.numpy().sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(blended.numpy()[:, 0, 0, 0], targets.numpy() @ numbers, rtol=1e-4)
    own = np.diag(targets.numpy())
    assert (own >= 0.5 - 1e-6).all()
    assert 0.2 < (own < 0.95).mean() < 0.9  # some are mixed well, some hardly


def test_pictures_of_nothing_have_even_targets_and_the_faces_stay(faces: np.ndarray) -> None:
    targets = np.eye(16, 7, dtype=np.float32)
    pictures, answers = (each.numpy() for each in nothing(tf.constant(faces), tf.constant(targets), SEED, 0.5))
    np.testing.assert_array_equal(pictures[8:], faces[8:])
    np.testing.assert_array_equal(answers[8:], targets[8:])
    np.testing.assert_allclose(answers[:8], 1 / 7, rtol=1e-5)
    assert 0 <= pictures.min() <= pictures.max() <= 1
    assert len({round(float(picture.std()), 4) for picture in pictures[:8]}) == 8
