"""The engine: what it finds in real photos, whatever their size, and that nothing but the photo decides it."""

import errno
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ASTRONAUT, CHAMPION

from tasks.champion import load
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.faces import FaceBox
from tasks.images import normalise
from tasks.label import find_faces, label_images, make_settings
from tasks.params import Label
from tasks.sources import find_images
from tasks.synthetic import draw_face

EVERYTHING_BUT_TIME = {"milliseconds": 0.0}


def settings(**options):
    return make_settings(Label(**options), CHAMPION)


def label(source, workers=2, **options):
    files = find_images([str(source)], source.parent / "nowhere")
    return list(label_images(files, settings(**options), workers))


def label_one(image, folder, ending=".png", **options):
    path = folder / f"image{ending}"
    cv2.imwrite(str(path), image)
    (result,) = label(path, **options)
    return result


@pytest.fixture(scope="module")
def astronaut():
    return cv2.imread(str(ASTRONAUT))


def test_every_image_has_a_result_and_a_broken_one_does_not_end_the_run(photos):
    results = label(photos)
    assert [(result.file.shown.removeprefix(f"{photos}/"), result.status, result.reason) for result in results] == [
        ("a.png", "ok", ""),
        ("b.jpg", "no_face", ""),
        ("c.jpg", "unreadable", "not an image, or a damaged one"),
        ("d.jpg", "unreadable", "an empty file"),
        ("more/a.jpg", "ok", ""),
    ]
    assert [len(result.faces) for result in results] == [1, 0, 0, 0, 1]
    assert [result.width for result in results] == [512, 640, None, None, 512]


def asked_twice(crop):
    """The champion's mean answer for a crop and its mirror image."""
    return load(CHAMPION).predict(normalise(np.stack([crop, crop[:, ::-1]]))).mean(axis=0)


def test_a_face_has_its_box_its_probabilities_and_its_pictures(photos):
    face = label(photos)[0].faces[0]
    assert 170 < face.box.x < 190
    assert face.box.score > 0.7
    assert len(face.probabilities) == len(EXPRESSIONS)
    assert sum(face.probabilities) == pytest.approx(1, abs=1e-3)
    assert face.label == "happy"
    assert face.confidence == face.probabilities[EXPRESSIONS.index("happy")]
    crop = cv2.imdecode(np.frombuffer(face.crop, np.uint8), cv2.IMREAD_UNCHANGED)
    assert crop.shape == (48, 48)
    assert crop.min() < 60
    assert crop.max() > 180
    assert cv2.imdecode(np.frombuffer(face.thumbnail, np.uint8), cv2.IMREAD_COLOR).shape == (64, 64, 3)


def test_the_probabilities_are_the_champions_for_the_crop(photos):
    face = label(photos)[0].faces[0]
    crop = cv2.imdecode(np.frombuffer(face.crop, np.uint8), cv2.IMREAD_UNCHANGED)
    assert face.probabilities == pytest.approx(asked_twice(crop), abs=1e-4)


def test_nothing_but_the_photo_decides(photos):
    """Neither the number of threads nor what else is labelled."""
    together = [result._replace(**EVERYTHING_BUT_TIME) for result in label(photos, workers=3)]
    assert together == [result._replace(**EVERYTHING_BUT_TIME) for result in label(photos, workers=1)]
    alone = label(photos / "more" / "a.jpg")[0]
    assert alone.faces == together[-1].faces


@pytest.mark.parametrize("factor", [0.22, 16])
def test_faces_of_20_px_and_photos_of_67_megapixels(factor, astronaut, tmp_path):
    size = round(512 * factor)
    photo = cv2.resize(astronaut, (size, size), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    if factor < 1:
        photo = cv2.copyMakeBorder(photo, 100, 100, 200, 200, cv2.BORDER_REPLICATE)
    result = label_one(photo, tmp_path, ".jpg")
    assert len(result.faces) == 1
    assert result.faces[0].box.width == pytest.approx(93 * factor, rel=0.15)
    assert result.faces[0].label == "happy"


def test_a_small_face_in_a_large_photo_is_cut_from_the_original(astronaut, tmp_path):
    """At the size that the detector sees, this face has 25 px; its crop must still show what 48 px can."""
    photo = cv2.copyMakeBorder(astronaut, 0, 1536, 800, 800, cv2.BORDER_REPLICATE)
    (face,) = label_one(photo, tmp_path, ".jpg").faces
    (sharp,) = label_one(astronaut, tmp_path, ".png").faces
    crops = [cv2.imdecode(np.frombuffer(each.crop, np.uint8), cv2.IMREAD_UNCHANGED) for each in (face, sharp)]
    detail = [cv2.Laplacian(crop, cv2.CV_64F).std() for crop in crops]
    assert detail[0] > 0.75 * detail[1]


def test_an_image_of_48_px_is_a_face_cut_out_already(tmp_path):
    drawn = draw_face("happy", np.random.default_rng(1))
    result = label_one(drawn, tmp_path)
    assert result.faces[0].box == FaceBox(0, 0, 48, 48, None)
    assert result.faces[0].probabilities == pytest.approx(asked_twice(drawn), abs=1e-4)


def test_any_image_is_one_by_option(astronaut, tmp_path):
    (face,) = label_one(astronaut[60:180], tmp_path, whole=True).faces
    assert face.box == FaceBox(196, 0, 120, 120, None)


@pytest.mark.parametrize("shape", [(288, 384), (150, 200), (133, 400), (270, 480)])
def test_of_an_oblong_one_the_middle_is_seen_as_sharp_as_by_itself(shape, astronaut, tmp_path):
    height, width = shape
    middle = cv2.resize(astronaut[60:180, 165:285], (height, height), interpolation=cv2.INTER_CUBIC)
    sides = (width - height) // 2, width - height - (width - height) // 2
    oblong = cv2.copyMakeBorder(middle, 0, 0, *sides, cv2.BORDER_CONSTANT)
    (face,) = label_one(oblong, tmp_path, whole=True).faces
    (alone,) = label_one(middle, tmp_path, whole=True).faces
    assert face.box[:4] == pytest.approx((sides[0], 0, height, height), abs=1)
    assert face.probabilities == pytest.approx(alone.probabilities, abs=0.05)


def test_mirror_averages_the_answers_for_both_sides(astronaut, tmp_path):
    crop = astronaut[60:180, 165:285]
    left, right, both = (
        label_one(image, tmp_path, whole=True, mirror=mirror).faces[0].probabilities
        for image, mirror in ((crop, False), (crop[:, ::-1], False), (crop, True))
    )
    assert both == pytest.approx([(one + other) / 2 for one, other in zip(left, right, strict=True)], abs=1e-3)
    assert both != left


def test_haar_with_its_options(photos):
    (face,) = label(photos / "a.png", detector="haar")[0].faces
    assert face.label == "happy"
    assert not label(photos / "a.png", detector="haar", haar={"min_size": 300})[0].faces


def test_a_file_that_vanishes_meanwhile_is_tried_again(photos):
    files = list(find_images([str(photos / "a.png")], photos / "nowhere"))
    (photos / "a.png").unlink()
    result = find_faces(files[0], settings()).result
    assert (result.status, result.reason, result.failure) == (
        "unreadable",
        "no such file or directory",
        errno.ENOENT,
    )


@pytest.mark.parametrize(
    ("error", "reason", "failure"),
    [
        (cv2.error("OpenCV:\n assertion"), "error: OpenCV: assertion", None),
        (MemoryError(), "not enough memory", errno.ENOMEM),
    ],
)
def test_a_defect_met_by_one_image_does_not_end_the_run(error, reason, failure, photos, monkeypatch):
    from tasks import label as engine

    decode = engine.decode

    def decode_all_but_one(content, header, long_side):
        if (header.width, header.height) == (640, 427):
            raise error
        return decode(content, header, long_side)

    monkeypatch.setattr(engine, "decode", decode_all_but_one)
    results = label(photos)
    assert [result.status for result in results] == ["ok", "failed", "unreadable", "unreadable", "ok"]
    assert (results[1].reason, results[1].failure) == (reason, failure)


def test_the_key_of_settings_changes_with_what_decides():
    keys = {settings(**options).key for options in ({}, {"mirror": False}, {"detector": "haar"}, {"long_side": 320})}
    assert len(keys) == 4
    assert settings(min_confidence=0.9).key == settings().key


def test_only_for_the_pipelines_own_folder_a_champion_is_to_be_built(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").touch()
    Path("models/small").mkdir(parents=True)
    for folder, message in {
        "models/champoin": "no champion in models/champoin, which is no folder; check the spelling of --champion",
        "models/small": "no champion in models/small; check the spelling of --champion",
        "models/champion": "no champion in models/champion; build one with: dvc repro",
    }.items():
        with pytest.raises(UserError) as refused:
            make_settings(champion=Path(folder))
        assert str(refused.value) == message


LABEL = """
import sys
from pathlib import Path
from tasks.folder import label_folder
run = label_folder([sys.argv[1]], sys.argv[2], champion=Path(sys.argv[3]))
sys.exit("tensorflow" in sys.modules or run["faces"]["total"] != 1)
"""


def test_labelling_never_imports_tensorflow(tmp_path):
    subprocess.run([sys.executable, "-c", LABEL, ASTRONAUT, tmp_path / "out", CHAMPION], check=True)
