"""The live engine and its cameras, on films that stand in for one."""

import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import CHAMPION, FLOWER
from made_videos import Actor, serious, smiling, write_sound, write_video

from tasks.cameras import Shot, Shots, open_camera, shown_name, shrunk
from tasks.errors import UserError
from tasks.label import champion_of, classify, look
from tasks.live import SMOOTH, Live, Moment, Smoother, live_settings
from tasks.tracks import LOST

RATE = 20  # frames a second, of the films
SETTINGS = live_settings(CHAMPION)


def two_people(time: float) -> list[Actor]:
    """One moves to the right, the other stays."""
    return [Actor(smiling(), 20 + 40 * time, 40, 200), Actor(serious(), 420, 120, 200)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", two_people, 1.5, RATE, (640, 480))


def moments(live: Live) -> Iterator[Moment]:
    """What a viewer sees who always waits for the newest."""
    number = 0
    while moment := live.after(number):
        number = moment.number
        yield moment


def still(image: np.ndarray) -> Shot:
    return Shot(None, partial(shrunk, image))


def test_a_film_is_seen_to_its_end_with_its_faces(film: Path) -> None:
    with Live(open_camera(str(film)), SETTINGS) as live:
        *_, last = moments(live)
    assert live.ended
    assert live.error is None
    assert last.number + last.dropped == 1.5 * RATE
    assert last.image.shape == (480, 640, 3)
    left, right = last.faces.values()
    assert left.label == "happy"
    assert left.box.x == pytest.approx(20 + 40 * 1.45 + 75, abs=25)
    assert right.box.x == pytest.approx(420 + 60, abs=40)
    assert sum(right.probabilities) == pytest.approx(1, abs=1e-3)


def test_only_the_newest_frame_is_kept_while_one_is_looked_at() -> None:
    looked, go = threading.Event(), threading.Event()

    def slow(_: float) -> np.ndarray:
        looked.set()
        assert go.wait(60)
        return np.full((48, 64, 3), 0, np.uint8)

    def shots() -> Shots:
        yield Shot(None, slow)
        assert looked.wait(60)
        for shade in range(1, 11):
            yield still(np.full((48, 64, 3), shade, np.uint8))
        go.set()

    with Live(shots(), SETTINGS) as live:
        seen = list(moments(live))
    assert seen[-1].number == 2
    assert seen[-1].image[0, 0, 0] == 10
    assert seen[-1].dropped == 9
    assert live.error is None


def test_the_first_frame_has_the_probabilities_that_labelling_gives() -> None:
    image = np.full((480, 640, 3), 100, np.uint8)
    image[100:300, 200:400] = cv2.resize(smiling(), (200, 200), interpolation=cv2.INTER_AREA)
    (cut,) = look(partial(shrunk, image), 640, SETTINGS)
    with Live((still(image) for _ in range(1)), SETTINGS) as live:
        moment = live.after(0, 60)
    assert moment is not None
    assert [face.box for face in moment.faces.values()] == [cut.box]
    expected = classify(cut.crop[np.newaxis], champion_of(SETTINGS), mirror=False)
    assert [face.probabilities for face in moment.faces.values()] == expected


def test_a_face_keeps_its_number_and_its_label_does_not_jump() -> None:
    """Two frames of another face in its place, in a row of the same, change the average by their share only."""
    pictures = {}
    for name, face in (("happy", smiling()), ("other", serious())):
        pictures[name] = np.full((480, 640, 3), 100, np.uint8)
        pictures[name][100:300, 200:400] = cv2.resize(face, (200, 200), interpolation=cv2.INTER_AREA)
    order = ["happy"] * 10 + ["other"] + ["happy"] * 3

    def shots() -> Shots:
        for name in order:
            yield still(pictures[name])
            seen.acquire(timeout=60)  # none is dropped

    seen = threading.Semaphore(0)
    labels, tracks = [], set()
    with Live(shots(), SETTINGS) as live:
        for moment in moments(live):
            ((track, face),) = moment.faces.items()
            labels.append(face.label)
            tracks.add(track)
            seen.release()
    assert labels == ["happy"] * len(order)
    assert len(tracks) == 1


def test_smoothing_forgets_by_time_not_by_frames() -> None:
    for steps in (1, 4, 40):
        smoother = Smoother()
        assert smoother.update(0.0, [1], [(1.0, 0.0)]) == [(1.0, 0.0)]
        for step in range(1, steps + 1):
            [(first, second)] = smoother.update(SMOOTH * step / steps, [1], [(0.0, 1.0)])
        assert first == pytest.approx(np.exp(-1))
        assert second == pytest.approx(1 - np.exp(-1))


def test_smoothing_keeps_tracks_apart_and_forgets_those_that_left() -> None:
    smoother = Smoother()
    smoother.update(0.0, [1, 2], [(1.0, 0.0), (0.0, 1.0)])
    assert smoother.update(0.2, [2], [(0.0, 1.0)]) == [(0.0, 1.0)]
    assert smoother.update(LOST + 0.1, [1, 2], [(0.0, 1.0), (0.0, 1.0)]) == [(0.0, 1.0), (0.0, 1.0)]


def test_it_ends_when_it_is_asked_to_and_lets_the_camera_go() -> None:
    closed = threading.Event()

    def shots() -> Shots:
        try:
            while True:
                yield still(np.zeros((48, 64, 3), np.uint8))
        finally:
            closed.set()

    with Live(shots(), SETTINGS) as live:
        assert live.after(0, 60)
    assert closed.wait(60)
    assert live.ended
    assert live.error is None
    assert live.after(10**9) is None


def test_a_defect_ends_it_and_is_told() -> None:
    def broken(_: float) -> np.ndarray:
        raise ZeroDivisionError

    with Live((Shot(None, broken) for _ in range(3)), SETTINGS) as live:
        assert live.after(0, 60) is None
    assert isinstance(live.error, ZeroDivisionError)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing.mp4", "no file nothing.mp4"),
        (str(FLOWER.parent), "no file"),
        (str(FLOWER), "not a video"),
        ("sound.mp4", "only sound is in it"),
        ("empty.mp4", "an empty file"),
        ("99", "no camera 99"),
        ("/dev/video99", "no camera 99"),
        ("gopher://me:secret@127.0.0.1/", "gopher://127.0.0.1/: no address of a camera"),
        ("rtsp://me:secret@[half/", "no address of a camera: invalid ipv6 url"),
        ("rtsp://me:secret@127.0.0.1:9/", "rtsp://127.0.0.1:9/: connection refused"),
    ],
)
def test_a_wrong_source_is_told_at_once_in_one_line(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UserError) as refused:
        open_camera(source)
    text = str(refused.value)
    assert words in text
    assert "\n" not in text
    assert "secret" not in text


def test_a_large_film_is_shrunk(tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.mp4", two_people, 0.1, RATE, (1600, 900))
    with closing(open_camera(str(path))) as shots:
        assert [shot.view(1280).shape for shot in shots] == [(720, 1280, 3)] * 2


@pytest.mark.parametrize("seconds", [0.2, 8])
def test_a_turned_film_from_a_server_is_upright_and_whole(tmp_path: Path, seconds: float) -> None:
    write_video(tmp_path / "turned.mkv", two_people, seconds, RATE, (160, 90), turned=90, title="F\u00e9rias")

    class Served(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

    with HTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with closing(open_camera(f"http://127.0.0.1:{server.server_port}/turned.mkv")) as shots:
            assert [shot.view(1280).shape for shot in shots] == [(160, 90, 3)] * round(seconds * RATE)
        server.shutdown()


def test_a_film_that_breaks_off_is_told_after_its_good_part(film: Path, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", two_people, 4, RATE, (640, 480)).read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    with Live(open_camera(str(tmp_path / "half.mkv")), SETTINGS) as live:
        assert len(list(moments(live))) > 1
    assert isinstance(live.error, UserError)
    assert "half.mkv" in str(live.error)


def test_a_camera_with_an_address_that_disappears_is_told(tmp_path: Path) -> None:
    stream = write_video(tmp_path / "stream.ts", two_people, 2, RATE, (640, 480)).read_bytes()

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            self.wfile.write(stream)  # and the connection ends

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Camera)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://me:secret@127.0.0.1:{server.server_port}/live?key=secret"
        with Live(open_camera(address), SETTINGS) as live:
            *_, last = moments(live)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert last.image.shape == (480, 640, 3)
    assert len(last.faces) == 2
    assert isinstance(live.error, UserError)
    assert f"http://127.0.0.1:{server.server_port}/live has gone" in str(live.error)


def test_a_name_to_show_has_no_password() -> None:
    assert shown_name("rtsp://me:secret@camera.local:554/stream?key=secret") == "rtsp://camera.local:554/stream"
    assert shown_name("0") == "camera 0"
    assert shown_name("/dev/video2") == "camera 2"
    assert shown_name("films/party.mp4") == "party.mp4"
