"""Photos to tables: one row per face and per image, whatever the files are."""

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.faces import make_detector
from tasks.label import find_images, label_image, label_images, write_labels


def packaged(package, name):
    return Path(importlib.util.find_spec(package).submodule_search_locations[0]) / name


class Brightness:
    """A stand-in for a trained network: calls a bright crop happy and a dark one sad, and remembers what it saw."""

    version = "brightness-1"
    info = {"data": {"name": "none"}}  # noqa: RUF012 - never changed

    def predict(self, faces):
        self.seen = faces
        happy = faces.mean(axis=(1, 2, 3))
        probabilities = np.zeros((len(faces), 7), np.float32)
        probabilities[:, EXPRESSIONS.index("happy")] = happy
        probabilities[:, EXPRESSIONS.index("sad")] = 1 - happy
        return probabilities


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    shutil.copy(packaged("skimage", "data/astronaut.png"), folder / "a.png")
    shutil.copy(packaged("sklearn", "datasets/images/flower.jpg"), folder / "b.jpg")
    (folder / "c.jpg").write_bytes(b"no image")
    (folder / "d.jpg").touch()
    shutil.copy(packaged("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"), folder / "more" / "a.png")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def run(sources, out):
    champion, detector = Brightness(), make_detector()
    paths = find_images(sources, out)
    return list(write_labels(label_images(paths, champion, detector), champion, detector, out))


def rows(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_every_image_has_a_row_and_no_broken_file_ends_the_run(photos, tmp_path):
    run([photos], tmp_path / "out")
    images = rows(tmp_path / "out" / "images.csv")
    assert [(Path(row["path"]).name, row["status"], row["reason"], row["faces"]) for row in images] == [
        ("a.png", "ok", "", "1"),
        ("b.jpg", "no_face", "", "0"),
        ("c.jpg", "unreadable", "not an image, or a damaged one", "0"),
        ("d.jpg", "unreadable", "an empty file", "0"),
        ("a.png", "ok", "", "1"),
    ]
    assert (images[0]["width"], images[0]["height"], images[2]["width"]) == ("512", "512", "")


def test_a_face_has_its_box_its_probabilities_and_its_origin(photos, tmp_path):
    run([photos], tmp_path / "out")
    faces = rows(tmp_path / "out" / "faces.csv")
    assert [(Path(row["path"]).name, row["face"]) for row in faces] == [("a.png", "1"), ("a.png", "1")]
    face = faces[0]
    assert 170 < int(face["x"]) < 190
    assert face["label"] == "happy"
    assert face["confidence"] == face["happy"]
    assert sum(float(face[name]) for name in EXPRESSIONS) == pytest.approx(1, abs=1e-3)
    assert (face["champion"], face["trained_on"], face["detector"]) == ("brightness-1", "none", "yunet")


def test_annotated_copies_keep_the_name_and_mark_the_face_alone(photos, tmp_path):
    run([photos], tmp_path / "out")
    copies = sorted(path.name for path in (tmp_path / "out" / "annotated").iterdir())
    assert copies == ["a-2.png", "a.png", "b.jpg"]
    changed = cv2.imread(str(tmp_path / "out" / "annotated" / "a.png")) != cv2.imread(str(photos / "a.png"))
    rows_changed, columns_changed = np.nonzero(changed.any(axis=2))
    assert rows_changed.min() > 20
    assert rows_changed.max() < 200
    assert columns_changed.min() > 150
    assert columns_changed.max() < 300


def test_network_input_is_the_face_as_training_sees_it(photos):
    champion = Brightness()
    label_image(photos / "a.png", champion, make_detector())
    assert champion.seen.shape == (1, 48, 48, 1)
    assert champion.seen.dtype == np.float32
    assert 0 <= champion.seen.min() < 0.3
    assert 0.7 < champion.seen.max() <= 1


def test_exif_rotation_is_honoured(photos, tmp_path):
    """A photo stored lying on its side, with the tag that says so, gives the face of the upright one."""
    lying = cv2.rotate(cv2.imread(str(photos / "a.png")), cv2.ROTATE_90_COUNTERCLOCKWISE)
    jpeg = cv2.imencode(".jpg", lying)[1].tobytes()
    orientation_6 = bytes.fromhex("ffe1 0022 457869660000 4d4d002a00000008 0001 0112 0003 00000001 00060000 00000000")
    (tmp_path / "lying.jpg").write_bytes(jpeg[:2] + orientation_6 + jpeg[2:])
    result = label_image(tmp_path / "lying.jpg", Brightness(), make_detector())
    assert result.status == "ok"
    assert 170 < result.boxes[0].x < 190


def test_names_that_are_not_utf_8_or_hold_a_newline_have_their_rows(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"new\nline.png", b"latin\xe9.png", "smile 😀.png".encode()):
        shutil.copy(packaged("skimage", "data/astronaut.png"), folder / os.fsdecode(name))
    run([folder], tmp_path / "out")
    found = {os.fsencode(Path(row["path"]).name) for row in rows(tmp_path / "out" / "images.csv")}
    assert found == {b"new\nline.png", b"latin\xe9.png", "smile 😀.png".encode()}


def test_a_file_that_vanishes_meanwhile_is_unreadable(tmp_path):
    result = label_image(tmp_path / "gone.jpg", Brightness(), make_detector())
    assert (result.status, result.reason) == ("unreadable", "No such file or directory")


def test_sources_are_folders_and_files_each_image_once_and_never_the_output(photos):
    run([photos], photos / "out")
    again = find_images([photos / "b.jpg", photos, photos / "notes.txt"], photos / "out")
    assert [path.name for path in again] == ["b.jpg", "a.png", "c.jpg", "d.jpg", "a.png", "notes.txt"]


def test_a_source_that_is_not_there_or_holds_nothing_is_told(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        find_images([tmp_path / "nothing"])
    with pytest.raises(UserError, match="no image"):
        find_images([tmp_path])


def test_an_interrupted_run_leaves_the_old_tables_whole(photos, tmp_path):
    run([photos], tmp_path / "out")
    before = (tmp_path / "out" / "faces.csv").read_bytes()
    champion, detector = Brightness(), make_detector()
    written = write_labels(
        label_images(find_images([photos]), champion, detector), champion, detector, tmp_path / "out"
    )
    next(written)
    written.close()
    assert (tmp_path / "out" / "faces.csv").read_bytes() == before


def test_labelling_never_imports_tensorflow():
    code = "import sys, tasks.label, tasks.champion, tasks.faces; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
