"""Whole runs of labelling: what a second run does, and that kills, full disks and other people change no result."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from conftest import ASTRONAUT, CHAMPION, FLOWER, HOPPER, ROOT, kill, rows, tables

from tasks.errors import UserError
from tasks.folder import label_folder
from tasks.params import Label
from tasks.results import Outputs

KILLS = 10


def run(source, out, champion=CHAMPION, **options):
    return label_folder([str(source)], out, Label(**options), champion)


def start(folder, *arguments):
    """`ferflow label` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "label", *arguments, "--champion", str(CHAMPION)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of 180 photos, with and without faces, large enough that labelling them takes a few seconds."""
    folder = tmp_path_factory.mktemp("many") / "photos"
    folder.mkdir()
    larger = {path: cv2.resize(cv2.imread(str(path)), None, fx=2, fy=2) for path in (ASTRONAUT, HOPPER, FLOWER)}
    for number in range(180):
        image = larger[(ASTRONAUT, HOPPER, FLOWER)[number % 3]]
        cv2.imwrite(str(folder / f"{number:03}.jpg"), image[number // 3 :])
    return folder


def test_a_second_run_does_only_what_is_new_or_changed(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out)
    (serious,) = (row["label"] for row in rows(out / "faces.csv") if Path(row["path"]).name == "a.jpg")
    assert run(photos, out)["images"]["labelled"] == 0
    shutil.copy(HOPPER, photos / "new.jpg")
    shutil.copy(HOPPER, photos / "a.png")
    (photos / "b.jpg").unlink()
    images = run(photos, out)["images"]
    assert (images["labelled"], images["reused"], images["total"]) == (2, 3, 5)
    faces = rows(out / "faces.csv")
    assert [(Path(row["path"]).name, row["label"]) for row in faces] == [
        ("a.png", serious),
        ("a.jpg", serious),
        ("new.jpg", serious),
    ]
    run(photos, tmp_path / "anew")
    assert tables(out) == tables(tmp_path / "anew")


def test_another_champion_or_detector_labels_everything_again(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out)
    assert run(photos, out, detector="haar")["images"]["labelled"] == 5
    other = shutil.copytree(CHAMPION, tmp_path / "champion")
    info = json.loads((other / "champion.json").read_text())
    info["calibration"]["temperature"] *= 2
    (other / "champion.json").write_text(json.dumps(info))
    before = rows(out / "faces.csv")[0]["confidence"]
    assert run(photos, out, champion=other, detector="haar")["images"]["labelled"] == 5
    assert float(rows(out / "faces.csv")[0]["confidence"]) < float(before)


def test_the_confidence_that_needs_review_labels_nothing_again(photos, tmp_path):
    run(photos, tmp_path / "out", min_confidence=0.0)
    again = run(photos, tmp_path / "out", min_confidence=1.0)
    assert (again["images"]["labelled"], again["faces"]["review"]) == (0, 2)


def test_an_output_without_a_name_is_refused(photos, monkeypatch):
    monkeypatch.chdir(photos)
    with pytest.raises(UserError, match="--out is empty"):
        label_folder([str(photos)], "", champion=CHAMPION)


def test_the_output_may_lie_inside_the_source(photos):
    for _ in range(2):
        label_folder([str(photos)], photos / "labels", Label(), CHAMPION, Outputs(annotated=True, crops=True))
        assert len(rows(photos / "labels" / "images.csv")) == 5


def test_a_file_that_vanishes_meanwhile_has_its_row(photos, tmp_path, monkeypatch):
    """It is listed and then gone when its turn comes; the next run finds that it is no longer in the source."""
    from tasks import folder

    find_images = folder.find_images

    def find_and_remove(*given):
        yield from find_images(*given)
        (photos / "a.png").unlink()

    monkeypatch.setattr(folder, "find_images", find_and_remove)
    run(photos, tmp_path / "out")
    first = rows(tmp_path / "out" / "images.csv")[0]
    assert (first["status"], first["reason"]) == ("unreadable", "no such file or directory")
    monkeypatch.undo()
    assert run(photos, tmp_path / "out")["images"]["total"] == 4


def test_a_table_that_a_person_corrected_is_not_overwritten(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out)
    header, *lines = (out / "faces.csv").read_text().splitlines()
    for corrected, refused in (("sad", True), ("", False), (" ", False)):
        (out / "faces.csv").write_text("\n".join((f"{header},corrected", *(f"{line},{corrected}" for line in lines))))
        if refused:
            with pytest.raises(
                UserError, match="holds corrections, which labelling would overwrite; run `ferflow collect"
            ):
                run(photos, out)
            assert rows(out / "faces.csv")[0]["corrected"] == "sad"
        else:
            assert run(photos, out)["complete"]


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda photos, champion: shutil.rmtree(champion), "no champion in"),
        (lambda photos, champion: (champion / "model.tflite").write_bytes(b"other"), "is damaged"),
        (lambda photos, champion: shutil.rmtree(photos), "no file or folder"),
    ],
)
def test_what_cannot_run_says_so_and_writes_nothing(arrange, message, photos, tmp_path):
    champion = shutil.copytree(CHAMPION, tmp_path / "champion")
    arrange(photos, champion)
    with pytest.raises(UserError, match=message):
        run(photos, tmp_path / "out", champion)
    assert not (tmp_path / "out").exists()


def test_killed_at_any_moment_a_restart_gives_the_same_tables(many, tmp_path):
    """Ten kills, each at a random moment of what is left of the run; then one undisturbed run finishes it."""
    run(many, tmp_path / "undisturbed")
    out, moment = tmp_path / "out", random.Random(11)
    for _ in range(KILLS):
        process = start(tmp_path, str(many), "--out", str(out))
        time.sleep(moment.uniform(0.2, 2.5))
        kill(process)
    last = run(many, out)
    assert last["complete"]
    assert tables(out) == tables(tmp_path / "undisturbed")
    assert not list(out.rglob("*.part"))


def test_ctrl_c_leaves_the_tables_of_what_is_done_and_the_same_command_goes_on(many, tmp_path):
    out = tmp_path / "out"
    process = start(tmp_path, str(many), "--out", str(out), "--workers", "1")
    while not (out / ".ferflow.sqlite-wal").exists() or (out / ".ferflow.sqlite-wal").stat().st_size < 200_000:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "ferflow: interrupted; the same command continues where it stopped\n"
    content = json.loads((out / "run.json").read_text())
    assert not content["complete"]
    assert 0 < content["images"]["labelled"] == len(rows(out / "images.csv")) < 180
    again = run(many, out)["images"]
    assert again["reused"] >= content["images"]["labelled"]
    assert again["pending"] == 0


def test_a_second_run_on_the_same_output_is_refused(many, tmp_path):
    first = start(tmp_path, str(many), "--out", "out")
    while not (tmp_path / "out" / ".ferflow.sqlite-wal").exists():
        time.sleep(0.02)
    second = start(tmp_path, str(many), "--out", "out")
    _, errors = second.communicate()
    assert second.returncode == 1
    assert errors == "ferflow: another run is labelling into out; wait for it, or name another --out\n"
    kill(first)


def test_a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_room(many, tmp_path):
    """On a real file system of a megabyte, which only root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        process = start(tmp_path, str(many), "--out", str(disk / "out"))
        _, errors = process.communicate()
        assert process.returncode == 1
        assert errors.startswith("ferflow: no space left on the disk")
        assert errors.count("\n") == 1
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert run(many, disk / "out")["complete"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
