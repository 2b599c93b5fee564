"""The page, driven in a real headless browser."""

import io
import json
import os
import re
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import ASTRONAUT, CHAMPION, HOPPER
from made_videos import Actor, serious, smiling, write_video
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tasks.expressions import COLOURS, EXPRESSIONS
from tasks.folder import label_folder
from tasks.footage import Band
from tasks.report import PARTS, SCRIPTS, ReportFace, ReportImage, write_report

ASTRONAUT_BOX = (177.0, 66.0, 93.0, 117.0)  # px, as YuNet finds it
HOPPER_BOX = (175.0, 95.0, 165.0, 205.0)
HOSTILE = "</script><script>window.ran=1</script><img src=x onerror=window.ran=1><!--\"'&.jpg"
MIDDLE = "return document.elementFromPoint(innerWidth - 200, innerHeight / 2).closest('.crop')?.title"


def thumbnail(photo: Path, box: tuple[float, ...]) -> bytes:
    """A 64x64 JPEG of a box of a photo."""
    x, y, width, height = box
    content = io.BytesIO()
    with Image.open(photo) as image:
        crop = image.convert("RGB").crop((int(x), int(y), int(x + width), int(y + height)))
        crop.resize((64, 64)).save(content, "JPEG")
    return content.getvalue()


def face(
    expression: str, confidence: float, picture: bytes, box: tuple[float, ...] = ASTRONAUT_BOX, number: int = 1
) -> ReportFace:
    """A face with the rest of its probability spread evenly, for review under 0.5."""
    rest = (1 - confidence) / 6
    probabilities = tuple(confidence if name == expression else rest for name in EXPRESSIONS)
    return ReportFace(number, *box, probabilities, confidence < 0.5, picture)


def run_of(shown: list[ReportImage], **changes: Any) -> dict[str, Any]:
    """The content of a run.json that fits the images, with two more that could not be read."""
    found = [EXPRESSIONS[face.probabilities.index(max(face.probabilities))] for image in shown for face in image.faces]
    review = sum(face.review for image in shown for face in image.faces)
    return {
        "ferflow": "0.1.0",
        "finished": "2026-11-22T13:00:00+00:00",
        "complete": True,
        "source": ["photos"],
        "champion": {"version": "residual-106962c0", "trained_on": "fer2013", "test_accuracy": 0.677},
        "settings": {"detector": "yunet"},
        "min_confidence": 0.5,
        "images": {
            "total": len(shown) + 3,
            "labelled": len(shown) + 3,
            "reused": 0,
            "pending": 0,
            "status": {"ok": len(shown), "no_face": 1, "unreadable": 2},
        },
        "faces": {
            "total": len(found),
            "review": review,
            "expressions": {name: found.count(name) for name in EXPRESSIONS},
            "mean_confidence": 0.7 if found else None,
        },
        "drift": {"psi": 0.12 if found else None, "against": "the labels of the champion's training faces"},
        "seconds": 3.1,
        "images_per_second": 6.4,
    } | changes


def gallery_of(folder: Path) -> list[ReportImage]:
    """Photos in a folder, each a case of its own, then forty whose photos are gone."""
    folder.mkdir()
    astronaut, hopper = thumbnail(ASTRONAUT, ASTRONAUT_BOX), thumbnail(HOPPER, HOPPER_BOX)
    shutil.copy(ASTRONAUT, folder)
    shutil.copy(HOPPER, folder / "grace & 100%.jpg")
    with Image.open(HOPPER) as image:  # stored lying on its side, with a note on how to turn it
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(folder / "lying.jpg", exif=exif)
        image.crop((0, 0, 512, 100)).save(folder / "changed.jpg")
    at = lambda name: f"{folder.name}/{quote(name)}"  # noqa: E731
    two = (face("neutral", 0.62, hopper, HOPPER_BOX), face("sad", 0.45, hopper, (10.0, 400.0, 60.0, 80.0), number=2))
    return [
        ReportImage("photos/astronaut.png", at("astronaut.png"), False, 512, 512, (face("happy", 0.91, astronaut),)),
        ReportImage("photos/grace & 100%.jpg", at("grace & 100%.jpg"), False, 512, 600, two),
        ReportImage("photos/lying.jpg", at("lying.jpg"), False, 512, 600, (face("sad", 0.75, hopper, HOPPER_BOX),)),
        ReportImage(
            "photos/changed.jpg", at("changed.jpg"), False, 512, 600, (face("angry", 0.7, hopper, HOPPER_BOX),)
        ),
        ReportImage("photos/marked.png", at("astronaut.png"), True, 512, 512, (face("happy", 0.55, astronaut),)),
        ReportImage("photos.zip/in/José.png", "", False, 512, 512, (face("fear", 0.4, astronaut),)),
        ReportImage(HOSTILE, "javascript:window.ran=1", False, 512, 512, (face("surprise", 0.8, astronaut),)),
        *(
            ReportImage(
                f"lost/{n:02}.jpg", at(f"{n}.jpg"), False, 512, 512, (face("disgust", 0.5 + n / 100, astronaut),)
            )
            for n in range(40)
        ),
    ]


class Page:
    """A browser and what the tests ask of the page in it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.script = driver.execute_script

    def open(self, path: Path, view: str = "lang=en") -> None:
        """Load a page afresh."""
        self.driver.get("about:blank")
        self.driver.get(f"{path.as_uri()}#{view}")

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.driver.find_elements("css selector", selector)]

    def names(self) -> list[str]:
        """The file names of the crops in the document."""
        return self.script("return [...document.querySelectorAll('.crop')].map(crop => crop.title)")

    def focused(self) -> str:
        """The name that a screen reader reads for what has the focus, or its id."""
        return self.script("const it = document.activeElement; return it.ariaLabel || it.id")

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def open_crop(self, name: str) -> None:
        self.script("document.getElementById('results').scrollIntoView()")
        self.wait(lambda: name in self.names())
        self.script("[...document.querySelectorAll('.crop')].find(crop => crop.title === arguments[0]).click()", name)

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, 20, poll_frequency=0.02).until(lambda _: condition())

    def wait_for(self, selector: str) -> WebElement:
        return self.wait(lambda: next(iter(self.driver.find_elements("css selector", selector)), None))

    def rectangle(self, selector: str) -> list[float]:
        """Left, top, width, height in the window, in px."""
        script = "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
        return self.script(script + "return [box.x, box.y, box.width, box.height]", selector)

    def window(self, width: int, height: int, phone: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})

    def requests(self) -> set[str]:
        """URLs that were asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "report.html"
    images = gallery_of(path.parent / "photos")
    write_report(path, run_of(images), images)
    return path


@pytest.fixture
def page(browser: webdriver.Chrome, report: Path) -> Page:
    """The report, in a desktop's window."""
    page = Page(browser)
    page.window(1280, 900)
    page.open(report)
    browser.get_log("browser")  # drop what earlier tests left
    browser.get_log("performance")
    return page


def test_opens_without_errors_and_asks_for_nothing_but_photos(page: Page, report: Path) -> None:
    page.open(report)
    page.open_crop("photos/astronaut.png")
    page.wait_for(".overlay")
    assert page.driver.get_log("browser") == []
    asked = {url.split("#")[0] for url in page.requests() if not url.startswith(("data:", "about:"))}
    assert asked == {report.as_uri(), (report.parent / "photos/astronaut.png").as_uri()}


def test_totals_are_told(page: Page) -> None:
    assert page.texts("#totals strong") == ["50", "48", "2", "2"]
    facts = page.one("#facts").text
    for words in (
        "residual-106962c0",
        "fer2013",
        "67.7%",
        "0.12 · moderate",
        "6.4 images a second",
        "1 without a face",
        "2 unreadable",
    ):
        assert words in facts
    assert "2026" in page.one("#when").text
    assert page.texts("#chart .number") == ["1", "40", "1", "2", "2", "1", "1"]
    assert not any(page.one(f"#{notice}").is_displayed() for notice in ("pending", "fewer", "nothing"))


@pytest.mark.parametrize(
    ("psi", "reading"), [(0.0999, "stable"), (0.1, "moderate"), (0.25, "moderate"), (0.26, "large")]
)
def test_drift_is_read(page: Page, tmp_path: Path, psi: float, reading: str) -> None:
    write_report(tmp_path / "report.html", run_of([], drift={"psi": psi, "against": "it"}), [])
    page.open(tmp_path / "report.html")
    assert reading in page.one("#facts").text


def test_a_drift_that_too_few_faces_tell_has_its_reason(page: Page, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", run_of([]), [])
    page.open(tmp_path / "report.html")
    assert "too few faces to tell" in page.one("#facts").text


def test_drift_beyond_the_limits_is_told_with_the_champions_confidence(page: Page, tmp_path: Path) -> None:
    image = ReportImage("a.png", "", False, 512, 512, (face("happy", 0.9, thumbnail(ASTRONAUT, ASTRONAUT_BOX)),))
    drift = {
        "drifted": True,
        "psi": 0.4,
        "against": "the champion's own answers on val",
        "champion_mean_confidence": 0.66,
    }
    for drifted in (True, False):
        write_report(tmp_path / "report.html", run_of([image], drift=drift | {"drifted": drifted}), [image])
        page.open(tmp_path / "report.html")
        facts = page.one("#facts").text
        assert "against the champion's own answers on val" in facts
        assert "66% on the champion's val" in facts
        assert ("beyond the limits" in facts) is drifted


def test_filters_by_expression_confidence_review_and_name(page: Page) -> None:
    count = page.one("#count")
    happy, sad = page.one("#chart .row:nth-child(4)"), page.one("#chart .row:nth-child(5)")
    happy.click()
    assert count.text == "Faces: 2 of 48"
    assert page.names() == ["photos/astronaut.png", "photos/marked.png"]
    sad.click()
    assert count.text == "Faces: 4 of 48"
    page.one("#least").send_keys(Keys.PAGE_UP * 6)
    assert page.one("#range").text.split()[0] == "60%"
    assert page.names() == ["photos/astronaut.png", "photos/lying.jpg"]
    page.one("#most").send_keys(Keys.PAGE_DOWN * 2)
    assert page.names() == ["photos/lying.jpg"]
    page.wait(lambda: "most=80" in page.driver.current_url)
    page.driver.refresh()  # the view is in the address
    assert page.names() == ["photos/lying.jpg"]
    assert page.one("#chart .row:nth-child(4)").get_attribute("aria-pressed") == "true"
    page.one("#clear").click()
    assert page.one("#count").text == "Faces: 48"
    page.one("#review").click()
    assert page.names() == ["photos/grace & 100%.jpg", "photos.zip/in/José.png"]
    page.one("#name").send_keys("JOSE")
    assert page.names() == ["photos.zip/in/José.png"]
    page.one("#name").send_keys("zzz")
    assert page.one("#none").is_displayed()
    assert page.names() == []


def test_sorts_by_confidence_and_back(page: Page) -> None:
    for option, names in {
        "least": ["photos.zip/in/José.png", "photos/grace & 100%.jpg"],
        "most": ["photos/astronaut.png", "lost/39.jpg"],
        "files": ["photos/astronaut.png", "photos/grace & 100%.jpg"],
    }.items():
        page.one(f"#sort option[value={option}]").click()
        assert page.names()[:2] == names


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize(
    ("name", "number", "box", "size"),
    [
        ("photos/astronaut.png", 1, ASTRONAUT_BOX, (512, 512)),
        ("photos/grace & 100%.jpg", 2, HOPPER_BOX, (512, 600)),
        ("photos/lying.jpg", 1, HOPPER_BOX, (512, 600)),
    ],
)
def test_a_crop_opens_its_photo_with_boxes_where_the_faces_are(
    page: Page, name: str, number: int, box: tuple[float, ...], size: tuple[int, int], width: int
) -> None:
    page.window(width, 900)
    page.open_crop(name)
    page.wait_for(".overlay")
    left, top, wide, high = page.rectangle(".photo img")
    assert page.script(
        "const it = document.querySelector('.photo img'); return [it.naturalWidth, it.naturalHeight]"
    ) == list(size)
    assert wide / high == pytest.approx(size[0] / size[1], rel=0.02)
    assert left >= 0 and left + wide <= width
    scale = wide / size[0]
    x, y, box_width, box_height = box
    expected = [left + x * scale, top + y * scale, box_width * scale, box_height * scale]
    assert page.rectangle(".current .line") == pytest.approx(expected, abs=1)
    assert len(page.driver.find_elements("css selector", ".box")) == number
    assert len(page.texts("#probabilities li")) == 7
    assert page.one("#file").text == name
    assert page.one("#title").text in page.texts(".current text")


def test_another_face_of_the_photo_is_a_click_away(page: Page) -> None:
    page.open_crop("photos/grace & 100%.jpg")
    page.wait_for(".overlay")
    assert page.one("#title").text == "Neutral 62%"
    page.driver.find_elements("css selector", "#strip button")[1].click()
    assert page.one("#title").text == "Sad 45%"
    assert "less than 50%" in page.one("#doubt").text
    assert page.one("#position").text == "3 of 48"


def test_a_photo_that_cannot_be_shown_is_told_kindly(page: Page) -> None:
    page.open_crop("lost/01.jpg")
    assert "could not be shown" in page.wait_for(".missing").text
    assert page.one("#stage > img").get_attribute("src").startswith("data:image/jpeg")
    page.one("#close").click()
    page.open_crop("photos.zip/in/José.png")
    assert "no separate photo" in page.wait_for(".missing").text
    assert page.one("#file").get_attribute("href") is None


def test_a_photo_of_another_shape_and_a_marked_one_get_no_boxes(page: Page) -> None:
    page.open_crop("photos/changed.jpg")
    assert "has another shape" in page.wait_for(".missing").text
    assert not page.driver.find_elements("css selector", ".overlay")
    page.one("#close").click()
    page.open_crop("photos/marked.png")
    page.wait(
        lambda: page.script(
            "const it = document.querySelector('.photo img'); return it && it.complete && it.naturalWidth"
        )
    )
    assert not page.driver.find_elements("css selector", ".overlay")
    assert not page.driver.find_elements("css selector", ".missing")


def test_keyboard_alone(page: Page) -> None:
    page.press(Keys.TAB)
    assert page.focused() == "skip"
    page.press(Keys.ENTER)
    page.press(Keys.TAB, Keys.TAB)  # past the order
    assert page.focused().startswith("Happy, 91%, photos/astronaut.png")
    page.press(Keys.ARROW_RIGHT)
    assert "Neutral, 62%" in page.focused()
    columns = page.script("return columns")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    assert page.script("return document.activeElement.parentElement.ariaPosInSet") == str(1 + columns)  # counts from 1
    page.press(Keys.END)
    assert "lost/39.jpg" in page.focused()
    page.press(Keys.HOME, Keys.ENTER)
    assert page.one("#dialog").get_attribute("open")
    assert page.focused() == "Close"
    page.press(Keys.ARROW_LEFT)  # nothing before the first
    assert page.one("#position").text == "1 of 48"
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.one("#file").text == "photos/lying.jpg"
    page.press(Keys.ESCAPE)
    page.wait(lambda: "photos/lying.jpg" in page.focused())
    page.press("/")
    assert page.focused() == "name"
    page.press("lost/3", Keys.TAB, Keys.SPACE)  # the first row of the chart: angry
    assert page.one("#name").get_attribute("value") == "lost/3"
    assert page.one("#none").is_displayed()
    page.press(Keys.SPACE)
    assert page.one("#count").text == "Faces: 10 of 48"


def test_the_language_switches_and_stays(page: Page, report: Path) -> None:
    english = page.script("return [...document.querySelectorAll('[data-t]')].map(it => it.textContent)")
    assert page.script("return document.documentElement.lang") == "en"
    page.one("[data-language=pt]").click()
    assert page.script("return document.documentElement.lang") == "pt"
    assert page.texts("#chart .name") == ["Raiva", "Nojo", "Medo", "Feliz", "Triste", "Surpreso", "Neutro"]
    portuguese = page.script("return [...document.querySelectorAll('[data-t]')].map(it => it.textContent)")
    assert not [text for text, other in zip(english, portuguese, strict=True) if text == other]
    assert "67,7%" in page.one("#facts").text
    page.wait(lambda: "lang=pt" in page.driver.current_url)
    page.driver.refresh()
    assert page.texts("#totals dt") == ["Imagens", "Rostos", "A revisar", "Não foi possível ler"]
    page.one("[data-language=en]").click()
    assert page.script("return [...document.querySelectorAll('[data-t]')].map(it => it.textContent)") == english
    agent = {"userAgent": page.script("return navigator.userAgent")}
    page.driver.execute_cdp_cmd("Emulation.setUserAgentOverride", agent | {"acceptLanguage": "pt-BR"})
    page.open(report, "")
    assert page.script("return document.documentElement.lang") == "pt"
    page.driver.execute_cdp_cmd("Emulation.setUserAgentOverride", agent | {"acceptLanguage": "en-US"})


def test_every_text_of_the_scripts_has_its_portuguese() -> None:
    known = json.loads((PARTS / "portuguese.json").read_text(encoding="utf-8"))
    scripts = "".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    used = set(re.findall(r'\bt\(\s*"([^"]+)"', scripts)) | set(re.findall(r'"([A-Z][^"]* [^"]*)"', scripts))
    assert len(used) > 30
    assert used <= known.keys()


def test_thousands_of_sources_leave_room_for_the_faces(page: Page, tmp_path: Path) -> None:
    """As a shell gives them for photos/*.jpg."""
    images = gallery_of(tmp_path / "photos")
    write_report(
        tmp_path / "report.html", run_of(images) | {"source": [f"photos/{n}.jpg" for n in range(2000)]}, images
    )
    page.open(tmp_path / "report.html")
    assert page.one("#source").text == "photos/0.jpg, photos/1.jpg, photos/2.jpg, … (2,000)"
    assert page.rectangle("#totals")[1] < 300


def test_a_hostile_file_name_is_only_text(page: Page) -> None:
    assert HOSTILE in page.names()
    page.open_crop(HOSTILE)
    page.wait_for(".missing")
    assert page.one("#file").text == HOSTILE
    assert page.one("#file").get_attribute("href") is None  # javascript: is no photo
    assert page.script("return window.ran") is None
    # And if a mistake let it in as HTML, the policy would stop it.
    page.script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.ran=1>')")
    page.wait(lambda: any("Content Security Policy" in entry["message"] for entry in page.driver.get_log("browser")))
    assert page.script("return window.ran") is None


def test_a_file_name_that_turns_the_text_around_turns_itself_only(page: Page, tmp_path: Path) -> None:
    image = ReportImage("a\u202eb.png", "", False, 9, 9, (face("happy", 0.9, b""),))
    write_report(tmp_path / "report.html", run_of([image]), [image])
    page.open(tmp_path / "report.html")
    page.one("#gallery button").click()
    left, _, width, _ = page.rectangle("#file")
    assert page.rectangle("#number")[0] >= left + width


def test_a_phone_scrolls_one_way_and_has_room_for_thumbs(page: Page, report: Path) -> None:
    page.window(360, 740, phone=True)
    for language in ("en", "pt"):
        page.open(report, f"lang={language}")
        assert page.script("return document.documentElement.scrollWidth") == 360
        page.open_crop(HOSTILE)
        page.wait_for(".missing")
        assert page.script("const it = document.getElementById('dialog'); return it.scrollWidth - it.clientWidth") == 0
        small = page.script(
            "return [...document.querySelectorAll('button, input:not([type=checkbox]), select, label.check')]"
            ".map(it => [it.outerHTML.slice(0, 80), it.getBoundingClientRect()])"
            ".filter(([, box]) => box.width && (box.width < 44 || box.height < 44)).map(([html]) => html)"
        )
        assert small == []


def test_ten_thousand_faces_are_never_in_the_document_at_once(page: Page, tmp_path: Path) -> None:
    picture = thumbnail(ASTRONAUT, ASTRONAUT_BOX)
    images = [
        ReportImage(
            f"{n:05}.jpg", f"{n}.jpg", False, 512, 512, (face(EXPRESSIONS[n % 7], 0.3 + n % 70 / 100, picture),)
        )
        for n in range(10_000)
    ]
    write_report(tmp_path / "report.html", run_of(images), images)
    page.open(tmp_path / "report.html")
    assert page.one("#count").text == "Faces: 10,000"
    most = 0
    for share in (0, 0.3, 0.99, 0.5):
        page.script("scrollTo(0, arguments[0] * document.body.scrollHeight)", share)
        page.wait(lambda: page.script(MIDDLE))
        most = max(most, len(page.names()))
    assert most < 300
    page.one("#name").send_keys("0123")
    assert page.one("#count").text == "Faces: 11 of 10,000"
    assert page.names() == ["00123.jpg", *(f"0123{n}.jpg" for n in range(10))]
    assert page.script("return scrollY") < 1000  # at the top of the results
    page.one("#name").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE)
    page.one("#gallery").find_element("css selector", "[tabindex='0']").send_keys(Keys.END)
    assert "09999.jpg" in page.focused()
    assert len(page.names()) < 300


def test_no_face_at_all_is_no_error(page: Page, tmp_path: Path) -> None:
    nothing = {"total": 0, "labelled": 0, "reused": 0, "pending": 0, "status": {}}
    for changes, words in (
        ({}, "No faces were found"),
        ({"images": nothing, "images_per_second": None}, "nothing to label"),
    ):
        write_report(tmp_path / "report.html", run_of([], **changes), [])
        page.open(tmp_path / "report.html")
        assert words in page.one("#nothing").text
        assert not page.one("#explore").is_displayed()
        page.press("/")
        page.one("[data-language=pt]").click()
        assert page.driver.get_log("browser") == []


def test_a_video_in_which_nobody_is_is_no_image(page: Page, tmp_path: Path) -> None:
    write_video(tmp_path / "empty.mp4", lambda _: [], 1.0)
    label_folder([str(tmp_path / "empty.mp4")], tmp_path / "labels", champion=CHAMPION)
    page.open(tmp_path / "labels" / "report.html")
    for language in ("en", "pt"):
        page.one(f"[data-language={language}]").click()
        assert page.texts("#totals dt")[0] == {"en": "Files", "pt": "Arquivos"}[language]
        assert "imag" not in page.one("main").text.lower()


def test_an_unfinished_run_and_faces_left_out_are_told(page: Page, tmp_path: Path) -> None:
    images = gallery_of(tmp_path / "photos")
    run = run_of(images, complete=False)
    run["images"]["pending"] = 1812
    run["faces"]["total"] = 99_000
    write_report(tmp_path / "report.html", run, images)
    page.open(tmp_path / "report.html")
    assert page.one("#pending").text == "Still to be labelled: 1,812. The same command continues where it stopped."
    assert "48 of 99,000 faces" in page.one("#fewer").text


def many_images(number: int) -> Iterator[ReportImage]:
    """Images with a 4 KB picture each, made one by one."""
    for n in range(number):
        yield ReportImage(f"{n}.jpg", f"{n}.jpg", False, 512, 512, (face("happy", 0.9, os.urandom(4096)),))


def test_writing_takes_no_more_memory_for_more_faces(tmp_path: Path) -> None:
    peaks = []
    for number in (5000, 100, 5000):  # the first also makes, once for a process, what Python keeps
        tracemalloc.start()
        write_report(tmp_path / "report.html", run_of([]), many_images(number))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 200_000  # of 27 MB more to write
    assert (tmp_path / "report.html").stat().st_size > 20e6


def test_a_failure_leaves_the_old_page(tmp_path: Path) -> None:
    def failing() -> Iterator[ReportImage]:
        yield from many_images(3)
        raise RuntimeError("the store is gone")

    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="the store is gone"):
        write_report(path, run_of([]), failing())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_of_a_real_run_opens_every_photo(page: Page, tmp_path: Path) -> None:
    """Files with difficult names, one that no browser shows, one that none turns upright, and one inside a zip archive."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for name in (b"50% #1?.png", b"latin\xe9.png", "smile 😀\n.png".encode()):
        shutil.copy(ASTRONAUT, folder / os.fsdecode(name))
    with Image.open(ASTRONAUT) as image:
        image.save(folder / "plain.tiff")
        exif = Image.Exif()
        exif[0x0112] = 3
        image.transpose(Image.Transpose.ROTATE_180).save(folder / "turned.webp", exif=exif)
        image.save(folder / "upright.webp")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(HOPPER, "in/hopper.jpg")
    out = tmp_path / "labels"
    label_folder([str(folder), str(tmp_path / "more.zip")], out, champion=CHAMPION)
    page.open(out / "report.html")
    names = page.names()
    assert len(names) == 7
    for name in names:
        page.open_crop(name)
        page.wait(lambda: page.script("return document.querySelector('.photo img')?.naturalWidth") == 512)
        marked = name.endswith((".tiff", "turned.webp", "in/hopper.jpg"))
        assert len(page.driver.find_elements("css selector", ".box")) == (0 if marked else 1)
        page.press(Keys.ESCAPE)


def test_a_videos_timeline(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One person all the time, another in the second half; what they show is where and when they show it."""
    folder = tmp_path / "films"
    folder.mkdir()
    people = [Actor(smiling(), 60, 60, 220), Actor(serious(), 360, 60, 240)]
    write_video(folder / "a film.mp4", lambda time: people[: 2 if time >= 2 else 1], 4.0, size=(640, 360))
    write_video(folder / "old.avi", lambda _: people[:1], 1.0, codec="mpeg4")
    out = tmp_path / "labels"
    monkeypatch.chdir(folder)
    label_folder(["a film.mp4", "old.avi"], out, champion=CHAMPION)
    page.open(out / "report.html")
    assert page.texts(".video summary") == [
        "a film.mp4 · faces until 00:04 · Tracks: 2",
        "old.avi · faces until 00:01 · Tracks: 1",
    ]
    assert page.texts(".owner span") == ["Track 1", "Track 2"]
    left, _, width, _ = page.rectangle(".line:nth-of-type(2) .bands")
    begins, _, lasts, _ = page.rectangle(".line:nth-of-type(3) .bands span")
    assert begins - left == pytest.approx(width * 2 / 3.8, abs=4)
    assert lasts == pytest.approx(width * 1.8 / 3.8, abs=4)
    colours = page.script(
        "return [...document.querySelectorAll('.bands span')].map(it => it.style.getPropertyValue('--colour'))"
    )
    assert colours[0] == COLOURS["happy"]
    assert set(colours) <= set(COLOURS.values())
    page.one(".line:nth-of-type(3) .frames button").click()
    page.wait(lambda: page.script("return document.querySelector('.photo video')?.readyState") == 4)
    assert page.script("return document.querySelector('.photo video').currentTime") == pytest.approx(2.0, abs=0.1)
    assert page.script("return document.querySelector('.photo video').videoWidth") == 640
    assert page.one("#number").text == "· face 2"
    assert page.one("#others h3").text == "In the same video"
    page.press(Keys.ESCAPE)
    page.open_crop("old.avi")
    assert page.wait_for(".missing").text.startswith("Browsers cannot play this video.")
    page.press(Keys.ESCAPE)
    page.one("[data-language=pt]").click()
    assert page.texts(".owner span")[:2] == ["Trilha 1", "Trilha 2"]
    assert page.script("return document.querySelectorAll('.video[open]').length") == 1


@pytest.fixture
def film(page: Page, tmp_path: Path) -> Page:
    """A page of one video, a minute in which somebody is happy and sad by turns, every two seconds."""
    picture = thumbnail(ASTRONAUT, ASTRONAUT_BOX)
    bands = tuple(Band(1, ("happy", "sad")[n % 2], 2.0 * n, 2.0 * n + 2, 0.9, thumbnail=picture) for n in range(30))
    video = ReportImage("film.mp4", "film.mp4", False, 640, 360, (face("happy", 0.9, picture),), bands)
    write_report(tmp_path / "report.html", run_of([video]), [video])
    page.open(tmp_path / "report.html")
    page.wait_for(".frames button")
    return page


def test_on_a_phone_nothing_of_a_timeline_covers_the_next(film: Page) -> None:
    film.window(360, 740, phone=True)
    edges = (
        "return [...document.querySelectorAll(arguments[0])].map((it) => it.getBoundingClientRect())"
        ".map(({ left, right }) => [left, right])"
    )
    for selector in (".frames button", ".axis div span"):
        film.wait(lambda selector=selector: len(film.script(edges, selector)) in range(2, 5))
        places = film.script(edges, selector)
        assert all(right <= left for (_, right), (left, _) in pairwise(places))
    film.window(1280, 900)
    film.wait(lambda: len(film.script(edges, ".frames button")) > 10)


def test_high_contrast_keeps_the_colours_that_tell_something(film: Page) -> None:
    forced = {"features": [{"name": "forced-colors", "value": "active"}]}
    film.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", forced)
    colour = "return getComputedStyle(document.querySelector(arguments[0]), arguments[1]).backgroundColor"
    happy = f"rgb({', '.join(map(str, bytes.fromhex(COLOURS['happy'][1:])))})"
    try:
        assert film.script(colour, ".bands span", None) == happy
        assert film.script(colour, "#chart .row:nth-child(4) .track", "::after") == happy
        film.one("#chart .row:nth-child(4)").click()
        film.one("#name").click()
        assert film.one("#chart .row:nth-child(4)").value_of_css_property("outline-style") == "solid"
    finally:
        film.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_key_frame_that_is_closed_leaves_the_reader_where_it_is(film: Page) -> None:
    key = film.driver.find_elements("css selector", ".frames button")[3]
    key.click()
    film.press(Keys.ESCAPE)
    film.wait(lambda: film.focused() == key.get_attribute("aria-label"))
    film.one("#gallery button").click()
    film.press(Keys.ESCAPE)
    film.wait(lambda: film.focused().endswith("film.mp4, face 1"))


def test_a_key_frame_of_a_face_that_the_filters_leave_out_is_no_part_of_the_count(film: Page) -> None:
    film.one("#name").send_keys("another")
    film.one(".frames button").click()
    assert film.one("#title").text == "Happy 90%"
    assert film.one("#position").text == ""
    assert film.one("#next").get_attribute("aria-disabled") == "true"


def test_text_that_is_not_valid_is_written_all_the_same(tmp_path: Path) -> None:
    image = ReportImage("a\udcff\u2028.jpg", "", False, 9, 9, (face("happy", 0.9, b""),))
    write_report(tmp_path / "report.html", run_of([image], source=["{{images}}{{style}}"]), [image])
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert content.count("{{images}}{{style}}") == 1  # what fills the template is not filled again
    data = content.split('id="images">')[1].split("</script>")[0]
    assert json.loads(data)[0][0] == image.name
