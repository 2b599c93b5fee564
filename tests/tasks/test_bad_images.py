"""Broken and unusual images through the whole engine: one row each, the right status, and the face where it is."""

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from bad_images import FACE, write_all, write_bombs, write_plain, write_turned
from conftest import CHAMPION, ROOT

from tasks.faces import FaceBox
from tasks.label import label_images, make_settings
from tasks.photos import RefusedError, decode, read_header
from tasks.sources import find_images

REASONED = ("unreadable", "too_large", "unsupported")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """What labelling says of each file, by name, and what it should say."""
    folder = tmp_path_factory.mktemp("bad")
    expected = write_all(folder)
    settings = make_settings(champion=CHAMPION)
    results = list(label_images(find_images([folder], folder / "labels"), settings, 2))
    assert [result.file.shown for result in results] == [str(folder / name) for name in sorted(expected)]
    return {result.file.shown.rpartition("/")[2]: result for result in results}, expected


def test_every_file_has_the_status_it_should_have(labelled):
    results, expected = labelled
    wrong = {
        name: (result.status, result.reason, expected[name].statuses)
        for name, result in results.items()
        if result.status not in expected[name].statuses
    }
    assert not wrong


def test_every_refusal_has_a_reason_of_one_line(labelled):
    for name, result in labelled[0].items():
        assert bool(result.reason) == (result.status in REASONED), name
        assert "\n" not in result.reason


def test_the_face_is_found_in_its_place_whatever_the_file_is_like(labelled):
    results, expected = labelled
    off = {}
    for name, result in results.items():
        if expected[name].content == "photo" and result.status == "ok":
            boxes = [face.box[:4] for face in result.faces]
            if len(boxes) != 1 or _overlap(boxes[0], FACE) < 0.75 or (result.width, result.height) != (512, 384):
                off[name] = (boxes, result.width, result.height)
    assert not off


def _overlap(one, other):
    """Intersection over union of two boxes."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def test_a_face_cut_out_already_is_labelled_whole(labelled):
    results, expected = labelled
    for name in (name for name in results if expected[name].content == "crop"):
        assert [face.box for face in results[name].faces] == [FaceBox(0, 0, 48, 48, None)]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux tells it")
def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    """In a process of its own: the peak of memory is a process's."""
    write_bombs(tmp_path)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 50_000  # kB; decoded, the smallest is ten times as large


MEASURE = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests" / "tasks")!r}]
from pathlib import Path
from bad_images import encoded, photo
from tasks.photos import RefusedError, decode, read_header

def peak():
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))

for kind in ("JPEG", "PNG", "TIFF"):
    small = encoded(photo(), kind)
    decode(small, read_header(small, 200e6), 640)
before = peak()
for path in Path(sys.argv[1]).iterdir():
    try:
        read_header(path.read_bytes(), 200e6)
    except RefusedError:
        continue
print(before, peak())
"""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_damage_leads_to_anything_but_a_refusal(tmp_path):
    """Bytes overwritten at random, mostly in headers, of every kind of file."""
    write_plain(tmp_path)
    write_turned(tmp_path)
    chance = random.Random(1)
    for path in sorted(tmp_path.iterdir()):
        for _ in range(10):
            content = bytearray(path.read_bytes())
            for _ in range(chance.randint(1, 8)):
                content[chance.randrange(chance.choice((64, 1024, len(content))))] = chance.randrange(256)
            with suppress(RefusedError):
                decode(bytes(content), read_header(bytes(content), 1e6), 640)
