"""`ferflow live` as a user runs it: a film in the camera's place, the page in a real headless browser."""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import ROOT
from made_videos import Actor, serious, smiling, write_video
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tasks import champion
from tasks.expressions import COLOURS, EXPRESSIONS
from tasks.paths import SMALL

SIZE = (640, 480)
PATIENCE = 60  # s, on a busy machine


def two_people(time: float) -> list[Actor]:
    """A smiling one who sways, at the left and larger; a serious one at the right."""
    return [Actor(smiling(), 20 + 8 * np.sin(time), 60, 260), Actor(serious(), 400, 160, 200)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", two_people, 240, 3, SIZE)


class Program:
    """`ferflow live`, from when it has said where its page is."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        environment = {name: text for name, text in os.environ.items() if "DISPLAY" not in name}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "live", *arguments],
                cwd=ROOT,
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def address(self) -> str:
        wait(lambda: "Page: " in self.said or self.process.poll() is not None)
        found = re.search(r"^Page: (\S+)$", self.said, re.M)
        assert found, self.said
        return found[1]

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or 0

    def end(self) -> int:
        """Its exit code; nothing of it is left."""
        code = self.process.wait(PATIENCE)
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(("127.0.0.1", self.port)) != 0
        assert "Traceback" not in self.said
        return code


@contextmanager
def running(log: Path, *arguments: str) -> Iterator[Program]:
    program = Program(log, *arguments)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()


@pytest.fixture(scope="module")
def program(film: Path) -> Iterator[Program]:
    """One that no test ends."""
    with running(film.with_name("log.txt"), "--camera", str(film), "--no-browser") as started:
        yield started


@pytest.fixture
def own(film: Path, tmp_path: Path) -> Iterator[Program]:
    """One that a test may end."""
    with running(tmp_path / "log.txt", "--camera", str(film), "--no-browser") as started:
        yield started


def wait(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


# The server


def viewer(address: str, **options: Any) -> ClientConnection:
    return connect(address.replace("http", "ws", 1) + "frames", proxy=None, open_timeout=PATIENCE, **options)


def header(message: str | bytes) -> dict[str, Any]:
    """What is said of a frame; the picture must be one."""
    assert isinstance(message, bytes)
    (length,) = struct.unpack_from(">I", message)
    with Image.open(io.BytesIO(message[4 + length :])) as picture:
        assert picture.size == SIZE
    return json.loads(message[4 : 4 + length])


def status(program: Program, path: str, **headers: str) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", program.port, timeout=PATIENCE)) as connection:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status


def test_a_request_without_the_token_or_under_another_name_is_refused(program: Program) -> None:
    path = urlsplit(program.address).path
    assert re.fullmatch(r"/[\w-]{32}/", path)
    assert status(program, path) == 200
    for other in ("/", path[:-2] + "/", path + "x", "/x" + path, "/%C3%A9/", path.swapcase()):
        assert status(program, other) in ((404,) if other == path + "x" else (403,))
    for host in ("localhost:1234", "[::1]:80", "127.0.0.1"):  # the other end of an SSH tunnel
        assert status(program, path, Host=host) == 200
    for host in ("evil.example", f"evil.example:{program.port}", f"127.0.0.1.evil.example:{program.port}", ""):
        assert status(program, path, Host=host) == 403
    assert status(program, path, Origin="http://evil.example") == 403

    refused = [
        {"origin": "http://evil.example"},
        {"origin": f"http://localhost:{program.port}"},  # another name than that of the host
        {"origin": "null"},
    ]
    for options in refused:
        with pytest.raises(InvalidStatus) as answer, viewer(program.address, **options):
            pass
        assert answer.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as answer, viewer(program.address.replace(path, "/x/")):
        pass
    assert answer.value.response.status_code == 403
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = base64.b64encode(bytes(16)).decode()
    assert status(program, path + "frames", Host="localhost", **upgrade) == 101
    assert status(program, path + "frames", Host="evil.example", **upgrade) == 403
    with viewer(program.address, origin=f"http://127.0.0.1:{program.port}") as allowed:
        assert allowed.recv(PATIENCE)


def test_the_page_listens_on_this_machine_only_and_may_run_nothing_but_its_script(program: Program) -> None:
    parts = urlsplit(program.address)
    assert parts.hostname == "127.0.0.1"
    with closing(http.client.HTTPConnection("127.0.0.1", program.port, timeout=PATIENCE)) as connection:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        policy, page = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    hosts = {row[1].split(":")[0] for row in listening if row[1].endswith(f":{program.port:04X}") and row[3] == "0A"}
    assert hosts == {"0100007F"}


def test_a_slow_viewer_stays_current_beside_a_quick_one(program: Program) -> None:
    with viewer(program.address) as quick, viewer(program.address) as slow:
        assert header(slow.recv(PATIENCE))["delay"] is None
        seen = []
        for _ in range(12):
            seen.append(header(quick.recv(PATIENCE)))
            quick.send("shown")
        slow.send("shown")
        late = header(slow.recv(PATIENCE))
        slow.send("shown")
        assert header(slow.recv(PATIENCE))["number"] > late["number"]
    numbers = [each["number"] for each in seen]
    assert numbers == sorted(set(numbers))
    assert late["number"] >= numbers[-1]
    assert late["delay"] > seen[-1]["delay"] > 0
    for face in seen[-1]["faces"]:
        assert sum(face[5:]) == pytest.approx(10_000, abs=10)


def test_the_end_of_a_film_is_told_and_is_no_error(tmp_path: Path) -> None:
    short = write_video(tmp_path / "short.mp4", two_people, 5, 10, SIZE)
    with running(tmp_path / "log.txt", "--camera", str(short), "--no-browser") as program:
        with viewer(program.address) as page:
            while isinstance(message := page.recv(PATIENCE), bytes):
                page.send("shown")
        assert json.loads(message) == ["The video has ended, and ferflow with it."]
        assert program.end() == 0


def test_a_camera_that_is_lost_is_told_on_the_page_and_ends_the_program(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", two_people, 10, 10, SIZE).read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    with running(tmp_path / "log.txt", "--camera", str(tmp_path / "half.mkv"), "--no-browser") as program:
        with viewer(program.address) as page:
            message = page.recv(PATIENCE)  # never said to be shown: a viewer that hangs hears of it all the same
            assert isinstance(message, bytes)
            words, reason = json.loads(page.recv(PATIENCE))
        assert words == "The camera is lost, and ferflow has ended: {0}"
        assert program.end() == 1
        assert program.said.splitlines()[-1] == f"ferflow: {reason}"


def test_ctrl_c_ends_it_with_a_viewer_that_hangs(own: Program) -> None:
    with viewer(own.address) as page:
        assert page.recv(PATIENCE)
        os.killpg(own.process.pid, signal.SIGINT)
        assert own.end() == 130
        assert json.loads(page.recv(PATIENCE)) == ["ferflow was stopped. `ferflow live` starts it again."]
    assert "interrupted" in own.said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--camera", "nothing.mp4"], "ferflow: no file nothing.mp4"),
        (["--camera", "99"], "ferflow: no camera 99"),
        (["--window"], "ferflow: no screen for --window"),
        (["--champion", "nowhere"], "ferflow: no champion in nowhere"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    with running(tmp_path / "log.txt", *arguments) as program:
        assert program.process.wait(PATIENCE) == 1
        assert program.said.startswith(words)
        assert program.said.count("\n") == 1


def test_a_port_in_use_is_told(film: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with running(tmp_path / "log.txt", "--camera", str(film), "--port", port) as program:
            assert program.process.wait(PATIENCE) == 1
            assert program.said.startswith(f"ferflow: port {port} cannot be used (address already in use)")
    with running(tmp_path / "log.txt", "--camera", str(film), "--port", port) as program:
        assert program.address.startswith(f"http://127.0.0.1:{port}/")


# The page


class Page:
    """The page in one window of the browser."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        driver.switch_to.new_window("window")
        self.window = driver.current_window_handle
        driver.set_window_size(1280, 1000)
        driver.get_log("performance")
        driver.get(address + "#lang=en")
        wait(lambda: self.meters()[1].endswith(" ms"))

    def look(self) -> None:
        self.driver.switch_to.window(self.window)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.driver.find_elements("css selector", selector)]

    def text(self, selector: str) -> str:
        return self.driver.find_element("css selector", selector).text

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def meters(self) -> list[str]:
        """Frames a second, delay, frames looked at a second, dropped frames."""
        return self.texts(".meters dd")

    def colours(self, canvas: str) -> dict[str, int]:
        """How many pixels of a canvas have the colour of each expression, about."""
        script = """
            const { width, height } = document.getElementById(arguments[0]);
            const { data } = document.getElementById(arguments[0]).getContext("2d").getImageData(0, 0, width, height);
            return arguments[1].map((colour) => {
              const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
              let count = 0;
              for (let i = 0; i < data.length; i += 4)
                count += Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 12;
              return count;
            });"""
        counts = self.driver.execute_script(script, canvas, list(COLOURS.values()))
        return dict(zip(COLOURS, counts, strict=True))


@pytest.fixture
def window(browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The browser; windows that the test opens are closed."""
    yield browser
    for each in browser.window_handles[1:]:
        browser.switch_to.window(each)
        browser.close()
    browser.switch_to.window(browser.window_handles[0])
    browser.get_log("browser")


@pytest.fixture
def page(window: webdriver.Chrome, program: Program) -> Page:
    return Page(window, program.address)


def test_picture_boxes_labels_bars_timeline_and_meters_are_shown(page: Page, program: Program) -> None:
    wait(lambda: len(page.texts("#faces button")) == 2)
    assert page.text("#title").startswith("Happy ")
    assert page.text("#camera") == "film.mp4"
    assert page.text("#champion") == champion.load(ROOT / SMALL).version
    assert [name.capitalize() for name in EXPRESSIONS] == page.texts("#probabilities .name")
    shares = [int(share.rstrip("%")) for share in page.texts("#probabilities .share")]
    assert sum(shares) == pytest.approx(100, abs=4)
    assert page.texts("#probabilities .best .name") == ["Happy"]
    assert "face" in page.driver.find_element("id", "picture").get_attribute("aria-label")
    assert page.colours("picture")["happy"] > 200  # the box's lines
    assert wait(lambda: page.colours("timeline")["happy"]) > 20
    rate, delay, looked, dropped = page.meters()
    assert int(rate) > 0
    assert int(looked) > 0
    assert int(delay.removesuffix(" ms")) > 0
    assert int(dropped) >= 0
    assert "Nothing leaves this machine and nothing is stored" in page.text(".promise")
    assert not page.driver.find_element("id", "notice").is_displayed()
    assert page.driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url.split("#")[0] for url in asked if not url.startswith("data:")} == {program.address}


def test_a_face_is_chosen_by_key_by_button_and_in_the_picture(page: Page) -> None:
    wait(lambda: len(page.texts("#faces button")) == 2)

    def pressed() -> list[str]:
        script = "return [...document.querySelectorAll('#faces button')].map((button) => button.ariaPressed)"
        return page.driver.execute_script(script)

    largest = pressed()
    assert sorted(largest) == ["false", "true"]
    ActionChains(page.driver).send_keys(Keys.ARROW_RIGHT).perform()
    wait(lambda: pressed() == largest[::-1])
    assert not page.text("#title").startswith("Happy")
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    wait(lambda: pressed() == largest)
    page.click("#faces button[aria-pressed=false]")
    wait(lambda: pressed() == largest[::-1])
    picture = page.driver.find_element("id", "picture")
    across = picture.size["width"] * ((20 + 130) / SIZE[0] - 0.5)  # from its middle, as ActionChains counts
    down = picture.size["height"] * ((60 + 130) / SIZE[1] - 0.5)
    ActionChains(page.driver).move_to_element_with_offset(picture, across, down).click().perform()
    wait(lambda: pressed() == largest)


def test_portuguese_and_a_phone(page: Page) -> None:
    page.click("[data-language=pt]")
    assert page.text("h1") == "Expressões faciais, ao vivo"
    wait(lambda: page.text("#title").startswith("Feliz "))
    assert page.texts("#probabilities .name")[0] == "Raiva"
    assert "Nada sai desta máquina" in page.text(".promise")
    assert page.text("#stop") == "Parar"
    missing = "return [...document.querySelectorAll('[data-t]')].map((e) => e.dataset.t).filter((t) => !portuguese[t])"
    assert page.driver.execute_script(missing) == []
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.driver.execute_script("return document.documentElement.scrollWidth") == 360
    heights = "return [...document.querySelectorAll('button')].map((it) => it.getBoundingClientRect().height)"
    assert min(filter(None, page.driver.execute_script(heights))) >= 44
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_snapshot_is_the_picture_with_its_boxes(page: Page, tmp_path: Path) -> None:
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    page.click("#snapshot")
    path = wait(lambda: next(tmp_path.glob("ferflow-*.png"), None))
    with Image.open(path) as picture:
        assert picture.size == SIZE
        colours = picture.convert("RGB").getcolors(SIZE[0] * SIZE[1]) or []
    happy = tuple(bytes.fromhex(COLOURS["happy"][1:]))
    assert sum(count for count, colour in colours if colour == happy) > 100


def test_a_connection_that_is_lost_is_seen(window: webdriver.Chrome, own: Program) -> None:
    page = Page(window, own.address)
    own.process.kill()
    wait(lambda: page.text("#notice") == "The connection is lost; trying again …")
    assert not window.find_element("id", "stop").is_enabled()
    assert not any(re.search(r"\d", figure) for figure in page.meters()[:3])
    assert float(window.find_element("id", "picture").value_of_css_property("opacity")) < 1


def test_two_windows_see_it_and_stop_in_one_ends_all(window: webdriver.Chrome, own: Program) -> None:
    pages = [Page(window, own.address) for _ in range(2)]

    def newest(page: Page) -> int:
        page.look()
        return window.execute_script("return frame.number")

    before = [newest(page) for page in pages]
    for page, number in zip(pages, before, strict=True):
        wait(lambda page=page, number=number: newest(page) > number)
    page.click("#stop")
    assert own.end() == 0
    for page in pages:
        page.look()
        wait(lambda page=page: page.text("#notice") == "ferflow was stopped. `ferflow live` starts it again.")
        assert not window.find_element("id", "stop").is_enabled()
