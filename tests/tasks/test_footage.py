"""Videos labelled from start to end: who was there when, with which expression, whatever happens meanwhile."""

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import time as clock
from itertools import islice, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import ASTRONAUT, CHAMPION, ROOT, rows
from made_videos import Actor, damaged, serious, smiling, write_sound, write_video

from tasks import copies, footage, videos
from tasks.collect import collect
from tasks.copies import write_copy
from tasks.expressions import EXPRESSIONS
from tasks.folder import label_folder
from tasks.params import Footage, Label
from tasks.results import Outputs

SIZE = (960, 540)
A_SEGMENT = 100_000  # bytes of the store's journal, when the first frames are in it


def crossing(time):
    """One person walks to the right, another to the left, in front of the first."""
    return [Actor(smiling(), 20 + 150 * time, 60, 220), Actor(serious(), 720 - 150 * time, 130, 240)]


def visitor(time):
    """One stays; one comes at second 1, leaves at 2, and comes back at 4; a cut changes all sizes at 5."""
    actors = [Actor(smiling(), 60, 100, 220 if time < 5 else 88)]
    return [*actors, Actor(serious(), 600, 150, 240)] if 1 <= time < 2 or 4 <= time < 5 else actors


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "crossing.mp4", crossing, 4.0, size=SIZE, sound="aac")
    write_video(folder / "visitor.mp4", visitor, 6.0, size=SIZE)
    return folder


def label(sources, out, footage=None, outputs=None, workers=2, **options):
    return label_folder(
        [str(source) for source in sources],
        out,
        Label(**options),
        CHAMPION,
        outputs or Outputs(),
        workers,
        footage or Footage(),
    )


def tables(out):
    """The tables of a labelling without the milliseconds, which no two runs agree on."""
    images = [{**row, "milliseconds": ""} for row in rows(out / "images.csv")]
    return rows(out / "frames.csv"), rows(out / "faces.csv"), images


@pytest.fixture(scope="module")
def labelled(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("labelled") / "out"
    return label([clips], out), out


def of(out, name):
    return [row for row in rows(out / "frames.csv") if Path(row["path"]).name == name]


def test_two_people_who_cross_are_two_tracks(labelled):
    _, out = labelled
    seen = of(out, "crossing.mp4")
    assert {row["track"] for row in seen} == {"1", "2"}
    places = {track: [float(row["x"]) for row in seen if row["track"] == track] for track in ("1", "2")}
    assert sorted(places["1"]) == places["1"]
    assert sorted(places["2"], reverse=True) == places["2"]
    times = sorted({float(row["time"]) for row in seen})
    assert times == pytest.approx([index / 5 for index in range(20)])
    assert all(int(row["frame"]) == round(float(row["time"]) * 25) for row in seen)


def test_expressions_are_those_of_the_people_and_do_not_flicker(labelled):
    _, out = labelled
    faces = [row for row in rows(out / "faces.csv") if row["path"].endswith("crossing.mp4")]
    assert faces[0]["label"] == "happy"
    for track in ("1", "2"):
        labels = [row["label"] for row in of(out, "crossing.mp4") if row["track"] == track]
        assert sum(before != after for before, after in pairwise(labels)) <= 1


def test_frames_between_two_questions_have_the_answers_around_them(tmp_path, monkeypatch):
    """An expression that turns every second and a half, in noise: as if the network had been asked about every frame."""
    rng = np.random.default_rng(0)
    smile, earnest = smiling(), cv2.resize(serious(), smiling().shape[1::-1])

    def turning(time):
        share = 0.5 - 0.5 * np.cos(2 * np.pi * time / 3)
        face = (1 - share) * smile + share * earnest + rng.normal(0, 8, smile.shape)
        return [Actor(face.clip(0, 255).astype(np.uint8), 60 + 20 * time, 60, 220)]

    clip = write_video(tmp_path / "turning.mp4", turning, 4.0, size=SIZE)
    label([clip], tmp_path / "some", Footage(every=0.0))
    monkeypatch.setattr(footage, "ASKED", 1000)
    label([clip], tmp_path / "all", Footage(every=0.0))
    some, every = (rows(tmp_path / name / "frames.csv") for name in ("some", "all"))
    assert len({row["label"] for row in every}) > 1
    assert np.mean([one["label"] == other["label"] for one, other in zip(some, every, strict=True)]) > 0.95
    apart = [abs(float(a[name]) - float(b[name])) for a, b in zip(some, every, strict=True) for name in EXPRESSIONS]
    assert 0 < np.mean(apart) < 0.01


def test_who_comes_and_goes(labelled):
    _, out = labelled
    seen = of(out, "visitor.mp4")
    spans = {}
    for row in seen:
        spans.setdefault(row["track"], []).append(float(row["time"]))
    found = sorted((min(times), max(times)) for times in spans.values())
    expected = [(0.0, 4.8), (1.0, 1.8), (4.0, 4.8), (5.0, 5.8)]
    assert np.abs(np.array(found) - expected).max() < 0.01


def test_a_row_a_track_and_a_row_a_video(labelled):
    run, out = labelled
    assert [(Path(row["path"]).name, row["face"]) for row in rows(out / "faces.csv")] == [
        *[("crossing.mp4", str(track)) for track in (1, 2)],
        *[("visitor.mp4", str(track)) for track in (1, 2, 3, 4)],
    ]
    assert [(row["status"], row["format"], row["width"], row["faces"]) for row in rows(out / "images.csv")] == [
        ("ok", "H264", "960", "2"),
        ("ok", "H264", "960", "4"),
    ]
    assert run["faces"]["total"] == 6


def test_a_still_video_is_labelled_as_its_picture_would_be(tmp_path):
    """One engine: the answers for a video's frames are those for the same picture as a photo, but for compression."""
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    shutil.copy(ASTRONAUT, photo)
    write_video(photo.with_name("b.mp4"), lambda _: [Actor(cv2.imread(str(photo)), 0, 0, 512)], 1.0, size=(512, 512))
    label([tmp_path / "photos"], tmp_path / "out")
    photo_row, video_row = rows(tmp_path / "out" / "faces.csv")
    assert photo_row["label"] == video_row["label"]
    assert float(photo_row["confidence"]) == pytest.approx(float(video_row["confidence"]), abs=0.1)
    assert all(abs(int(photo_row[side]) - int(video_row[side])) <= 6 for side in ("x", "y", "width", "height"))


def test_the_number_of_threads_changes_nothing(labelled, clips, tmp_path):
    label([clips], tmp_path / "out", workers=1)
    assert tables(tmp_path / "out") == tables(labelled[1])


def test_a_second_run_does_only_what_other_options_ask_for(clips, tmp_path):
    source = tmp_path / "mixed"
    shutil.copytree(clips, source)
    shutil.copy(ASTRONAUT, source / "photo.png")
    out = tmp_path / "out"
    assert label([source], out)["images"]["labelled"] == 3
    before = tables(out)
    assert label([source], out)["images"]["labelled"] == 0
    assert tables(out) == before
    assert label([source], out, Footage(every=0.5))["images"]["labelled"] == 2
    assert len({row["time"] for row in of(out, "crossing.mp4")}) == 8
    (source / "crossing.mp4").unlink()
    label([source], out, Footage(every=0.5))
    assert not of(out, "crossing.mp4")
    (source / "visitor.mp4").unlink()
    label([source], out)
    assert not (out / "frames.csv").exists()


def test_a_part_of_a_video(clips, tmp_path):
    label([clips / "visitor.mp4"], tmp_path / "out", Footage(every=0.0, start=3.0, stop=3.4))
    seen = rows(tmp_path / "out" / "frames.csv")
    assert [int(row["frame"]) for row in seen] == list(range(75, 85))


def test_a_part_beyond_the_end(clips, tmp_path):
    label([clips / "visitor.mp4"], tmp_path / "out", Footage(start=60.0))
    (row,) = rows(tmp_path / "out" / "images.csv")
    assert (row["status"], row["reason"]) == (
        "no_face",
        "it ends after 6.0 s, before the part that is asked for",
    )


def watching(clips, out, *options):
    """`ferflow video` in a process of its own."""
    command = [sys.executable, "-m", "flows.cli", "video", str(clips), "--out", str(out), "--champion", str(CHAMPION)]
    return subprocess.Popen(
        [*command, *options], cwd=out.parent, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_the_same_command_ends_with_the_same_table(clips, tmp_path, kill):
    options = ("--every", "0", "--to", "5.5")
    source = damaged(Path(shutil.copy(clips / "visitor.mp4", tmp_path)), 0.1)
    undisturbed = watching(source, tmp_path / "undisturbed", *options)
    assert undisturbed.wait(300) == 0, undisturbed.stdout.read()
    out = tmp_path / "out"
    process = watching(source, out, *options)
    wal = out / ".ferflow.sqlite-wal"
    while not (wal.exists() and wal.stat().st_size > A_SEGMENT):
        assert process.poll() is None, process.stdout.read()
        clock.sleep(0.01)
    os.killpg(process.pid, kill)
    assert process.wait(60) != 0
    again = watching(source, out, *options)
    assert again.wait(300) == 0, again.stdout.read()
    assert tables(out) == tables(tmp_path / "undisturbed")
    assert "damaged places" in rows(out / "images.csv")[0]["reason"]


@pytest.fixture
def troubled(tmp_path, clips):
    folder = tmp_path / "troubled"
    folder.mkdir()
    (folder / "empty.mp4").touch()
    (folder / "text.mov").write_text("no video")
    write_sound(folder / "song.mp4")
    write_video(folder / "one.mp4", crossing, times=[0.0], size=SIZE)
    write_video(folder / "nobody.webm", lambda _: [], 1.0, codec="libvpx")
    whole = write_video(folder / "short.mkv", crossing, 4.0, size=SIZE)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    shutil.make_archive(str(folder / "zipped"), "zip", clips)
    return folder


def test_broken_files_have_their_reasons_and_their_good_parts(troubled, tmp_path):
    label([troubled, troubled / "zipped.zip"], tmp_path / "out")
    seen = {
        Path(row["path"]).name: (row["status"], row["reason"], row["faces"])
        for row in rows(tmp_path / "out" / "images.csv")
    }
    assert seen.pop("short.mkv")[0] == "ok"
    assert seen == {
        "empty.mp4": ("unreadable", "an empty file", "0"),
        "text.mov": ("unreadable", "not a video, or a damaged one", "0"),
        "song.mp4": ("unsupported", "only sound is in it", "0"),
        "one.mp4": ("ok", "", "2"),
        "nobody.webm": ("no_face", "", "0"),
        "crossing.mp4": ("unsupported", "a video inside a zip archive; unpack it", "0"),
        "visitor.mp4": ("unsupported", "a video inside a zip archive; unpack it", "0"),
    }
    short = of(tmp_path / "out", "short.mkv")
    assert 1.0 < max(float(row["time"]) for row in short) < 3.9


def sound_of(path):
    """The codec of a video's sound, how many seconds it lasts, and its loudest sample."""
    with av.open(str(path)) as container:
        (stream,) = container.streams.audio
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
        return stream.codec_context.name, len(heard) / stream.rate, np.abs(heard).max()


def pictures_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])]


def test_an_annotated_copy_keeps_frames_and_sound(clips, tmp_path):
    out = tmp_path / "out"
    label([clips / "crossing.mp4"], out, outputs=Outputs(annotated=True))
    (row,) = rows(out / "images.csv")
    copy = out / row["annotated"]
    assert sound_of(copy) == ("aac", pytest.approx(4.0, abs=0.1), pytest.approx(1.0, abs=0.3))
    plain, marked = pictures_of(clips / "crossing.mp4"), pictures_of(copy)
    changed = [np.abs(a.astype(int) - b).max(axis=2) > 60 for a, b in zip(marked, plain, strict=True)]
    assert all(500 < mask.sum() < 30_000 for mask in changed[:97])  # boxes and words in every frame, nothing else
    written = copy.stat().st_mtime_ns
    label([clips / "crossing.mp4"], out)
    assert copy.stat().st_mtime_ns == written


def test_a_copy_of_a_part_with_sound_that_mp4_does_not_know(tmp_path):
    source = write_video(tmp_path / "old.avi", crossing, 4.0, size=SIZE, codec="mpeg4", sound="pcm_s16le")
    out = tmp_path / "out"
    label([source], out, Footage(start=1.0, stop=3.0), Outputs(annotated=True))
    (row,) = rows(out / "images.csv")
    assert sound_of(out / row["annotated"]) == ("aac", pytest.approx(2.0, abs=0.1), pytest.approx(1.0, abs=0.3))
    assert len(pictures_of(out / row["annotated"])) == 50


def test_a_copy_of_a_part_is_no_copy_of_the_whole(tmp_path):
    source = write_video(tmp_path / "a.mp4", lambda time: [Actor(smiling(), 50, 60, 230)][: time < 1], 2.0, size=SIZE)
    out = tmp_path / "out"
    for stop, frames in ((1.2, 30), (None, 50)):  # the faces are the same
        label([source], out, Footage(stop=stop), Outputs(annotated=True))
        (row,) = rows(out / "images.csv")
        assert len(pictures_of(out / row["annotated"])) == frames
    assert len(list((out / "annotated").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "sound", "rate", "kept"),
    [
        ("a.mkv", "aac", 44100, "aac"), ("a.mkv", "flac", 192_000, "aac"), ("a.mkv", "pcm_s16le", 5512, "aac"),
        ("a.mp4", "libmp3lame", 44100, "mp3"), ("a.mkv", "libmp3lame", 8000, "aac"),
    ],
)  # fmt: skip
def test_the_copys_sound_begins_when_the_videos_does(tmp_path, name, sound, rate, kept):
    at = {"sound": sound, "sound_rate": rate, "sound_at": 1.0}
    source = write_video(tmp_path / name, crossing, 2.0, size=(320, 180), **at)
    copy = tmp_path / "copy.mp4"
    write_copy(str(source), Footage(start=0.4), [], copy, lambda *_: None)
    with av.open(str(copy)) as container:
        (stream,) = container.streams.audio
        assert stream.codec_context.codec.canonical_name == kept
        heard = ((frame.time, np.abs(frame.to_ndarray()[0]) > 0.1) for frame in container.decode(stream))
        begins = next(time + loud.argmax() / stream.rate for time, loud in heard if loud.any())
        assert begins == pytest.approx(0.6, abs=0.04)


def test_the_sound_of_pieces_put_together_does_not_cost_the_tables(tmp_path):
    one = write_video(tmp_path / "one.mts", crossing, 1.0, size=SIZE, sound="aac")
    two = tmp_path / "two.mts"
    two.write_bytes(2 * one.read_bytes())
    label([two], tmp_path / "evening:2", Footage(), Outputs(annotated=True))
    (row,) = rows(tmp_path / "evening:2" / "images.csv")
    assert len(pictures_of(tmp_path / "evening:2" / row["annotated"])) == 50


def test_the_sound_of_pieces_put_together_comes_one_after_the_other(tmp_path):
    one = write_video(tmp_path / "one.mts", crossing, 2.0, size=(320, 180), sound="aac")
    two, copy = tmp_path / "two.mts", tmp_path / "copy.mp4"
    two.write_bytes(2 * one.read_bytes())
    write_copy(str(two), Footage(start=1.0), [], copy, lambda *_: None)
    assert sound_of(copy) == ("aac", pytest.approx(3.0, abs=0.1), pytest.approx(1.0, abs=0.3))
    assert len(pictures_of(copy)) == 75


def test_a_copy_without_sound_that_nobody_knows(tmp_path):
    source = write_video(tmp_path / "a.avi", crossing, 0.4, size=(320, 180), codec="mpeg4", sound="pcm_s16le")
    content = bytearray(source.read_bytes())
    at = content.rindex(b"strf") + 8  # the form of the sound
    content[at : at + 2] = b"\x99\x79"
    source.write_bytes(content)
    copy = tmp_path / "copy.mp4"
    write_copy(str(source), Footage(), [], copy, lambda *_: None)
    with av.open(str(copy)) as container:
        assert not container.streams.audio
    assert len(pictures_of(copy)) == 10


def test_an_output_folder_whose_name_looks_like_an_address(tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = Path("evening:2/copy.mp4")
    write_copy(str(clips / "crossing.mp4"), Footage(stop=0.2), [], copy, lambda *_: None)
    assert len(pictures_of(copy.absolute())) == 5


def test_what_ffmpeg_cannot_write_is_no_copy(tmp_path, monkeypatch):
    source = write_video(tmp_path / "a.mkv", crossing, 0.4, size=SIZE, sound="libmp3lame", sound_rate=11025)
    copy = tmp_path / "copy.mp4"
    write_copy(str(source), Footage(), [], copy, lambda *_: None)
    with av.open(str(copy)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == "aac"
    copy.unlink()
    monkeypatch.setattr(copies, "LEAST_MP3", 0)  # as if MP4 held it as it is
    write_copy(str(source), Footage(), [], copy, lambda *_: None)
    assert not copy.exists()


def test_a_video_that_fails_in_its_middle_has_a_row_and_no_frames(tmp_path, monkeypatch):
    source = write_video(tmp_path / "a.mp4", crossing, 4.0, size=SIZE)
    decoded = videos._decoded

    def broken(*of):
        yield from islice(decoded(*of), 90)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(videos, "_decoded", broken)
        label([source], tmp_path / "out", Footage(every=0.0))
    (row,) = rows(tmp_path / "out" / "images.csv")
    assert (row["status"], row["reason"]) == ("unreadable", "input/output error")
    assert rows(tmp_path / "out" / "frames.csv") == []
    label([source], tmp_path / "out", Footage(every=0.0))
    assert of(tmp_path / "out", "a.mp4")


def test_of_a_video_that_was_replaced_by_a_broken_one_no_frames_are_left(tmp_path):
    source = write_video(tmp_path / "a.mp4", crossing, 0.4, size=SIZE)
    label([source], tmp_path / "out")
    assert of(tmp_path / "out", "a.mp4")
    source.write_text("no video")
    label([source], tmp_path / "out")
    assert rows(tmp_path / "out" / "frames.csv") == []


def test_a_persons_correction_of_a_track_becomes_a_row_to_train_on(labelled, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(labelled[1], out)
    lines = rows(out / "faces.csv")
    with (out / "faces.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*lines[0], "corrected"])
        writer.writeheader()
        writer.writerows([{**line, "corrected": "surprise" if line["face"] == "2" else ""} for line in lines])
    path, counts = collect(out, tmp_path / "extra.csv", None)
    assert counts["surprise"] == sum(counts.values()) == 2
    assert len(rows(path)) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos", "--out", "o"], "no video in photos"),
        (["gone.mp4", "--out", "o"], "no file or folder gone.mp4; check its spelling"),
        (["v.mp4", "--out", "o", "--fps", "5", "--every", "1"], "--every and --fps say the same"),
        (["v.mp4", "--out", "o", "--to", "inf"], "--every, --from and --to take a number of seconds, not inf"),
        (["v.mp4", "--out", "o", "--from", "5", "--to", "5"], "--to 5 is not after --from 5"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, clips, arguments, words):
    (tmp_path / "photos").mkdir()
    shutil.copy(ASTRONAUT, tmp_path / "photos")
    shutil.copy(clips / "crossing.mp4", tmp_path / "v.mp4")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "video", *arguments, "--champion", str(CHAMPION)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()
