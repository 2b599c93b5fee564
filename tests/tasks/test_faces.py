"""Face detectors on real photos that installed packages carry."""

import cv2
import numpy as np
import pytest
from conftest import ASTRONAUT, FLOWER

from tasks.errors import UserError
from tasks.faces import FaceBox, Framing, make_detector
from tasks.images import crop_square, scale_square


@pytest.fixture(scope="module")
def astronaut():
    return cv2.imread(str(ASTRONAUT))


def shows_the_astronaut(box, scale=1.0):
    """Eyes and mouth are inside, and the box is not much larger than the face."""
    x, y, width, height = (value / scale for value in box[:4])
    return x < 205 and x + width > 240 and y < 105 and y + height > 140 and width < 130 and height < 150


@pytest.mark.parametrize("name", ["yunet", "haar"])
def test_finds_the_face_in_colour_and_in_grey(name, astronaut):
    detector = make_detector(name)
    for image in (astronaut, cv2.cvtColor(astronaut, cv2.COLOR_BGR2GRAY)):
        boxes = detector.detect(image)
        assert len(boxes) == 1
        assert shows_the_astronaut(boxes[0])


@pytest.mark.parametrize("scale", [0.25, 4])
def test_boxes_are_in_pixels_of_the_original_whatever_its_size(scale, astronaut):
    resized = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    boxes = make_detector("yunet").detect(resized)
    assert len(boxes) == 1
    assert shows_the_astronaut(boxes[0], scale)


def test_finds_a_sharp_face_that_fills_a_large_picture(astronaut):
    close_up = cv2.resize(astronaut[50:190, 165:285], None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    boxes = make_detector("yunet").detect(close_up)
    assert len(boxes) == 1
    assert boxes[0].height > 600


def test_faces_come_from_left_to_right(astronaut):
    boxes = make_detector("yunet").detect(np.hstack([astronaut, astronaut]))
    assert [box.x > 512 for box in boxes] == [False, True]


def test_finds_nothing_where_no_face_is():
    detector = make_detector("yunet")
    assert detector.detect(cv2.imread(str(FLOWER))) == []
    for shape in ((1, 1), (1, 5000), (7, 3, 3)):
        assert detector.detect(np.zeros(shape, np.uint8)) == []


def test_options_reach_the_detector(astronaut):
    assert make_detector("yunet", min_score=0.99).detect(astronaut) == []


def test_an_unknown_detector_is_refused_by_name():
    with pytest.raises(UserError, match="no detector 'dlib'; there are yunet and haar"):
        make_detector("dlib")


@pytest.mark.parametrize("name", ["yunet", "haar"])
def test_framing_gives_the_same_square_for_either_detector(name, astronaut):
    """FER2013 would have cut about 100 px around this face; both framings were measured on FER2013 itself."""
    detector = make_detector(name)
    left, top, side = detector.framing.square(detector.detect(astronaut)[0])
    assert side == pytest.approx(105, abs=12)
    assert left + side / 2 == pytest.approx(224, abs=8)
    assert top + side / 2 == pytest.approx(117, abs=8)


def test_square_is_scaled_around_the_shifted_centre():
    assert Framing(scale=2, shift=0.25).square(FaceBox(10, 20, 40, 40, 1)) == (-10, 10, 80)


def test_square_is_averaged_down_and_keeps_its_place():
    image = np.zeros((96, 192), np.uint8)
    image[:, 96:144] = 200
    crop = scale_square(crop_square(image, left=96, top=0, side=96))
    assert crop.shape == (48, 48)
    assert (crop[:, :24] == 200).all()
    assert (crop[:, 24:] == 0).all()


def test_square_repeats_the_edges_of_the_image():
    image = np.tile(np.arange(10, 58, dtype=np.uint8), (48, 1))
    square = crop_square(image, left=-24, top=-24, side=48)
    assert (square[:, :24] == 10).all()
    assert (square[:, 24:] == np.arange(10, 34)).all()
    assert crop_square(image, left=-500, top=900, side=3).shape == (3, 3)


@pytest.mark.parametrize("degrees", [-90, -30, 15, 90])
def test_a_turned_square_shows_the_face_upright(degrees):
    """A picture turned by OpenCV, and the square that is turned along with it, show the same."""
    rough = np.random.default_rng(0).integers(0, 255, (12, 12), np.uint8)
    picture = cv2.resize(rough, (96, 96), interpolation=cv2.INTER_CUBIC)
    matrix = cv2.getRotationMatrix2D((47.5, 47.5), -degrees, 1.0)  # OpenCV turns the other way
    turned = cv2.warpAffine(picture, matrix, (96, 96))
    difference = crop_square(turned, 30, 30, 36, degrees).astype(float) - picture[30:66, 30:66]
    assert np.abs(difference).mean() < 3


def test_yunet_tells_which_way_a_head_is_tilted(astronaut):
    """Its landmarks tell less than the whole tilt, the less the smaller the face is."""
    matrix = cv2.getRotationMatrix2D((224, 117), -20, 3.0)
    (upright,) = make_detector("yunet").detect(cv2.resize(astronaut[:250], None, fx=3, fy=3))
    (tilted,) = make_detector("yunet").detect(cv2.warpAffine(astronaut, matrix, (512, 512)))
    assert 5 < tilted.tilt - upright.tilt < 25


def test_square_of_a_colour_image_keeps_its_colours():
    image = np.zeros((10, 10, 3), np.uint8)
    image[..., 1] = 7
    assert (scale_square(crop_square(image, 2, 2, 5)) == (0, 7, 0)).all()
