"""Output in a bucket, on a real S3 server: any machine goes on where another was lost, one run writes at a time."""

import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing

import cv2
import numpy as np
import pytest
from conftest import ASTRONAUT, CHAMPION, FLOWER, HOPPER, ROOT, kill
from made_videos import Actor, smiling, write_video
from pyarrow import parquet
from s3_network import BUCKET
from selenium.webdriver.support.wait import WebDriverWait

from tasks import bucket_out, buckets, journal, lease
from tasks.bucket_out import BucketOut, folder_of
from tasks.collect import collect
from tasks.errors import UserError
from tasks.folder import Job, label_folder
from tasks.params import Footage, Label
from tasks.results import Outputs
from tasks.sources import ImageFile

PHOTOS, OUT = f"s3://{BUCKET}/photos", f"s3://{BUCKET}/photos/labels"
ALL = Outputs(annotated=True, crops=True, json_lines=True)


def run(out=OUT, outputs=ALL, source=PHOTOS):
    return label_folder([source], out, champion=CHAMPION, outputs=outputs)


def start(*arguments):
    """`ferflow label` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "label", *arguments, "--champion", str(CHAMPION)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def another_machine(monkeypatch, tmp_path_factory):
    """Call it to be on a machine that has never seen the output."""
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("other")))


@pytest.fixture
def photos(bucket):
    """Two photos with a face, one without, and one that is none."""
    for name, photo in (("a.png", ASTRONAUT), ("b/grace & 100%.jpg", HOPPER), ("c.jpg", FLOWER)):
        bucket.put(f"photos/{name}", photo.read_bytes())
    bucket.put("photos/d.jpg", b"no image")
    return bucket


@pytest.fixture
def faces(bucket):
    """Forty small pictures, each taken as a face whole."""
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48), np.uint8)
        bucket.put(f"photos/{number:02}.png", cv2.imencode(".png", cv2.GaussianBlur(pixels, (0, 0), 4))[1].tobytes())
    return bucket


def published(bucket, out="photos/labels"):
    """Both tables in the bucket, images without the time that each took."""
    images, found = (bucket.get(f"{out}/{name}.csv").decode().splitlines() for name in ("images", "faces"))
    return [line.rsplit(",", 2)[0] for line in images], found


def test_the_bucket_has_what_a_folder_has(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket_out, "PARTITION", 3)
    run(tmp_path / "out")
    assert run()["images"]["status"] == {"ok": 2, "no_face": 1, "unreadable": 1}
    here = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    there = {key.removeprefix("photos/labels/") for key in photos.keys("photos/labels/")}
    parts = {"images/part-00000.parquet", "images/part-00001.parquet", "faces/part-00000.parquet"}
    assert there == here - {".ferflow.sqlite", "images.parquet", "faces.parquet"} | parts | {
        ".ferflow",
        "journal-3/00000000.sqlite",
    }
    local = {name: (tmp_path / "out" / name).read_bytes() for name in here}
    for name in ("faces.csv", *(name for name in here if name.startswith(("crops/", "annotated/")))):
        assert photos.get(f"photos/labels/{name}") == local[name]
    assert published(photos)[0] == [line.rsplit(",", 2)[0] for line in local["images.csv"].decode().splitlines()]
    for part in parts:
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_bytes(photos.get(f"photos/labels/{part}"))
    table = parquet.read_table(tmp_path / "images")
    assert (table.num_rows, parquet.read_metadata(tmp_path / "images/part-00000.parquet").num_rows) == (4, 3)
    assert table.schema.equals(parquet.read_schema(tmp_path / "out" / "images.parquet"))


def test_another_machine_downloads_and_labels_nothing_again(photos, another_machine):
    run()
    before = published(photos)
    another_machine()
    photos.proxy.requests.clear()
    images = run(outputs=Outputs())["images"]
    assert (images["labelled"], images["reused"]) == (0, 4)
    assert not [key for key in photos.proxy.read() if not key.startswith("photos/labels/")]
    assert not [path for method, path in photos.proxy.requests if method == "PUT" and "/annotated/" in path]
    assert published(photos) == before
    photos.put("photos/e.jpg", HOPPER.read_bytes())
    assert run()["images"]["labelled"] == 1
    assert len(photos.keys("photos/labels/annotated/")) == 3  # as by the runs before


def test_parts_that_are_out_of_date_go(photos, monkeypatch, another_machine):
    monkeypatch.setattr(journal, "SPARE_PARTS", 2)
    for number in range(5):
        photos.put("photos/d.jpg", b"no image %d" % number)
        assert run(outputs=Outputs())["complete"]
        assert 1 <= len(photos.keys("photos/labels/journal-3/")) <= 2
    another_machine()
    assert run(outputs=Outputs())["images"]["labelled"] == 0


def test_pictures_and_rows_out_of_date_go(photos):
    run()
    photos.delete("photos/a.png")
    run()
    assert len(photos.keys("photos/labels/crops/")) == len(photos.keys("photos/labels/annotated/")) == 1
    assert [line.split(",")[0] for line in published(photos)[0][1:]] == [
        f"{PHOTOS}/{name}" for name in ("b/grace & 100%.jpg", "c.jpg", "d.jpg")
    ]


def test_photos_that_lie_where_tables_and_pictures_go_stay(photos):
    places = [f"photos/{folder}/a.png" for folder in ("annotated", "crops", "faces", "frames", "images")]
    for place in places:
        photos.put(place, ASTRONAUT.read_bytes())
    for outputs in (ALL, Outputs(annotated=False, crops=False)):
        assert run(PHOTOS, outputs, source=f"{PHOTOS}/images")["images"]["total"] == 1
        assert set(places) <= set(photos.keys("photos/"))


@pytest.mark.parametrize("name", ["report.html", "faces/part-00000.parquet", "annotated/party-20230514.jpg"])
def test_objects_of_somebody_else_in_the_place_of_results_are_not_touched(name, photos):
    photos.put(f"photos/labels/{name}", b"mine")
    with pytest.raises(
        UserError, match=f"{OUT} is no output folder of ferflow, but holds {name}, which labelling would"
    ):
        run()
    assert photos.keys("photos/labels/") == [f"photos/labels/{name}"]
    photos.delete(f"photos/labels/{name}")
    assert run()["complete"]


def test_photos_of_a_disk_and_videos_too(bucket, tmp_path, another_machine):
    (tmp_path / "photos").mkdir()
    write_video(tmp_path / "photos" / "v.mp4", lambda time: [Actor(smiling(), 50 + 20 * time, 60, 230)], 1.0)
    (tmp_path / "photos" / "a.png").write_bytes(ASTRONAUT.read_bytes())
    out = f"s3://{BUCKET}"  # a whole bucket
    run(out, source=str(tmp_path / "photos"))
    assert {key.split("/")[0] for key in bucket.keys("")} >= {"frames", "faces", "images", "annotated", "report.html"}
    frames, crop = bucket.get("frames.csv"), set(bucket.keys("annotated/"))
    another_machine()
    assert run(out, source=str(tmp_path / "photos"))["images"]["labelled"] == 0
    assert bucket.get("frames.csv") == frames
    assert set(bucket.keys("annotated/")) == crop


def half_watched(photos, folder):
    """A run into the bucket that was interrupted in a video of 6 s, every frame of which is looked at; returns how."""
    write_video(folder / "v.mp4", lambda time: [Actor(smiling(), 50 + 20 * time, 60, 230)], 6.0)
    photos.put("photos/v.mp4", (folder / "v.mp4").read_bytes())
    footage = Footage(every=0.0)

    def interrupted(*_):
        raise KeyboardInterrupt

    with closing(Job([PHOTOS], OUT, Label(), CHAMPION, footage=footage)) as job:
        assert len(list(job.label(1))) == 4
        with pytest.raises(KeyboardInterrupt):
            job.watch(next(job.videos()), 1, interrupted)
        job.finish()
    return footage


def assert_whole(photos, folder, footage):
    """The next run leaves the frames that an undisturbed one has."""
    for out in (OUT, folder / "undisturbed"):
        label_folder([PHOTOS], out, champion=CHAMPION, footage=footage)
    assert photos.get("photos/labels/frames.csv") == (folder / "undisturbed" / "frames.csv").read_bytes()


def test_a_bucket_that_was_emptied_takes_the_first_half_of_a_video_with_it(photos, tmp_path):
    footage = half_watched(photos, tmp_path)
    for key in photos.keys("photos/labels/"):
        photos.delete(key)
    assert_whole(photos, tmp_path, footage)


def test_two_machines_watch_a_video_in_different_ways(photos, tmp_path):
    footage = half_watched(photos, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
        label_folder([PHOTOS], OUT, champion=CHAMPION, footage=Footage(every=1.0))
    assert_whole(photos, tmp_path, footage)


def test_killed_in_the_middle_another_machine_goes_on(faces, tmp_path, monkeypatch, another_machine):
    """It reads only what was not yet in the journal; the killed one's hold on the output ends by itself."""
    run(tmp_path / "undisturbed", Outputs())
    faces.proxy.requests.clear()
    (tmp_path / "slow.py").write_text(
        "from tasks import folder, journal\n"
        "folder.STORED_AT_ONCE, journal.PART_FILES = 4, 8\n"
        "import flows.cli; flows.cli.main()"
    )
    faces.proxy.delay = 0.15
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), "label", PHOTOS, "--out", OUT, "--workers", "1", "--champion", str(CHAMPION)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )  # fmt: skip
    while len(faces.keys("photos/labels/journal-3/")) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    kill(process)
    parts = len(faces.keys("photos/labels/journal-3/"))
    faces.proxy.calm()
    another_machine()
    with pytest.raises(
        UserError, match=r"another run \(on .*, since .*If it has died, the same command works in \d+ s"
    ):
        run(outputs=Outputs())
    monkeypatch.setattr(lease, "LEASE", 0.1)
    time.sleep(1.5)  # the server's clock tells seconds
    last = run(outputs=Outputs())["images"]
    assert (last["total"], last["pending"]) == (40, 0)
    assert last["reused"] >= 8 * min(parts, 4)
    again = [key for key in faces.proxy.read() if not key.startswith("photos/labels/")]
    assert len(again) == len(set(again)) == last["labelled"] < 40
    assert published(faces)[1] == (tmp_path / "undisturbed" / "faces.csv").read_text().splitlines()


def test_killed_the_same_machine_goes_on_at_once(faces):
    process = start(PHOTOS, "--out", OUT)
    while not faces.keys("photos/labels/.ferflow.lock"):
        assert process.poll() is None
        time.sleep(0.02)
    kill(process)
    assert run(outputs=Outputs())["complete"]
    assert not faces.keys("photos/labels/.ferflow.lock")


def test_one_run_at_a_time_here_and_elsewhere(faces, another_machine):
    first = BucketOut(OUT)
    with pytest.raises(UserError, match=f"another run is labelling into {OUT}; wait for it"):
        run()
    another_machine()
    with pytest.raises(UserError, match=r"another run .* is labelling into"):
        run()
    first.close()
    assert run()["complete"]


def test_a_run_that_lost_its_hold_ends(faces, another_machine, monkeypatch):
    monkeypatch.setattr(lease, "LEASE", 0.3)
    first = BucketOut(OUT)
    taken = first._lease._held
    while first._lease._held is taken:  # until it is renewed
        time.sleep(0.02)
    first._lease.check()
    faces.put("photos/labels/.ferflow.lock", b"{}")
    first._lease._thread.join(60)  # it ends when it has seen that
    with pytest.raises(UserError, match="another run has taken over"):
        first.put("crops/a.png", b"")
    first.close()
    assert faces.get("photos/labels/.ferflow.lock") == b"{}"


def test_a_run_that_slept_through_its_hold_leaves_the_others(faces):
    first = BucketOut(OUT)
    faces.put("photos/labels/.ferflow.lock", b"another's")
    first.close()
    assert faces.get("photos/labels/.ferflow.lock") == b"another's"


@pytest.mark.parametrize("content", [b"{}", b"[]", b"1", b"no json", b"\xff"])
def test_what_is_no_lock_is_told(content, photos):
    photos.put("photos/labels/.ferflow.lock", content)
    with pytest.raises(UserError, match=f"{OUT}/.ferflow.lock is no lock of ferflow; remove it, or name another --out"):
        run()


def test_what_lies_beside_the_parts_is_no_part(photos, another_machine):
    """Such as the markers of folders that consoles and mounted buckets leave."""
    others = [f"photos/labels/journal-3/{name}" for name in ("", "old/00000000.sqlite", "notes.sqlite")]
    for key in others:
        photos.put(key, b"")
    run()
    another_machine()
    assert run(outputs=Outputs())["images"]["labelled"] == 0
    assert set(photos.keys("photos/labels/journal-3/")) == {*others, "photos/labels/journal-3/00000000.sqlite"}


def test_what_an_older_version_left_half_written_empties_no_part(photos, another_machine, tmp_path):
    """Its SQLite, killed, left a journal by whose name the next file called so is rolled back."""
    run()
    another_machine()
    with closing(sqlite3.connect(tmp_path / "old.sqlite")) as old:
        old.executescript("PRAGMA cache_size = 1; CREATE TABLE images (key)")
        old.executemany("INSERT INTO images VALUES (?)", [("x" * 3000,)] * 50)
        folder_of(OUT).mkdir(parents=True)
        shutil.copy(tmp_path / "old.sqlite-journal", folder_of(OUT) / ".part.sqlite-journal")
    assert run(outputs=Outputs())["images"]["labelled"] == 0


def test_a_bucket_that_was_emptied_starts_anew(photos):
    run()
    for key in photos.keys("photos/labels/"):
        photos.delete(key)
    assert run()["images"]["labelled"] == 4


def test_a_damaged_part_is_told(photos, another_machine):
    run()
    photos.put("photos/labels/journal-3/00000000.sqlite", b"no database" * 100)
    with pytest.raises(UserError, match=r"00000000.sqlite is damaged .*; remove it: what it held is labelled again"):
        run()
    photos.delete("photos/labels/journal-3/00000000.sqlite")
    assert run()["images"]["labelled"] == 4


def test_corrections_in_the_bucket_are_not_overwritten(photos, another_machine):
    run()
    table = photos.get("photos/labels/faces.csv").decode().splitlines()
    photos.put(
        "photos/labels/faces.csv", "\n".join((table[0] + ",corrected", *(f"{line},sad" for line in table[1:]))).encode()
    )
    photos.put("photos/e.jpg", HOPPER.read_bytes())
    for machine in (lambda: None, another_machine):
        machine()
        with pytest.raises(UserError, match=f"{OUT}/faces.csv holds corrections.* `ferflow collect {folder_of(OUT)}`"):
            run()
    assert "photos/e.jpg" not in photos.proxy.read()  # it is told before any work
    photos.put("photos/labels/faces.csv", "\n".join(table).encode())
    crop = photos.keys("photos/labels/crops/happy/")[0]
    photos.put(crop.replace("/happy/", "/sad/"), photos.get(crop))
    with pytest.raises(UserError, match=r"labels/crops holds 1 picture moved to another folder .*move them back"):
        run()


def test_corrections_are_collected_on_any_machine(photos, another_machine, tmp_path):
    """Also where the run before was another machine's, and where one of the photos is gone since."""
    photos.delete("photos/a.png")
    run(outputs=Outputs())
    here = os.environ["XDG_CACHE_HOME"]
    another_machine()
    photos.put("photos/a.png", ASTRONAUT.read_bytes())
    run(outputs=Outputs())
    table = photos.get("photos/labels/faces.csv").decode().splitlines()
    corrected = [table[0] + ",corrected", *(f"{line},sad" for line in table[1:])]
    photos.put("photos/labels/faces.csv", "\n".join(corrected).encode())
    photos.delete("photos/b/grace & 100%.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", here)
        with pytest.raises(UserError, match="holds corrections"):
            run()
        assert collect(folder_of(OUT), tmp_path / "here.csv")[1]["sad"] == 2
    photos.put("photos/b/grace & 100%.jpg", HOPPER.read_bytes())
    another_machine()
    with pytest.raises(UserError, match="holds corrections"):
        run()
    assert collect(folder_of(OUT), tmp_path / "there.csv")[1]["sad"] == 2
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_network_that_fails_loses_nothing(fault, photos, tmp_path, monkeypatch, another_machine):
    monkeypatch.setattr(buckets, "WAITS", (0.1, 0.1, 0.1, 0.1, 0.1))
    run(tmp_path / "calm")
    count = itertools.count(1)
    photos.proxy.fault = lambda method, path: fault if next(count) % 5 == 0 else None
    assert run()["complete"]
    photos.proxy.calm()
    assert published(photos)[1] == (tmp_path / "calm" / "faces.csv").read_text().splitlines()
    assert max(Counter(line.split(",")[0] for line in published(photos)[0]).values()) == 1
    another_machine()
    assert run()["images"]["labelled"] == 0


def test_a_bucket_that_may_not_be_written_is_told_before_any_work(photos):
    photos.proxy.fault = lambda method, path: "403" if method == "PUT" else None
    with pytest.raises(UserError, match=r"no permission \(Access Denied\); check the bucket's policy"):
        run()
    assert not [key for key in photos.proxy.read() if key.endswith((".png", ".jpg"))]


def test_a_url_that_is_not_utf_8_is_one_line(photos):
    with pytest.raises(UserError, match="surrogates not allowed"):
        run(os.fsdecode(b"s3://pictures/\xff"))


def test_an_output_whose_scheme_is_in_capitals_is_refused_before_any_work(photos):
    with pytest.raises(UserError, match="Protocol not known: S3; check its beginning, such as s3://BUCKET/PREFIX"):
        run(OUT.replace("s3", "S3"))
    assert not photos.keys("photos/labels/")


def test_links_lead_to_the_photos_of_the_same_bucket():
    to = lambda out, url: BucketOut.href(type("", (), {"url": out}), ImageFile(url, url, "", 1, 1))  # noqa: E731
    assert to("s3://b/labels", "s3://b/photos/a b%.jpg") == "../photos/a%20b%25.jpg"
    assert to("s3://b/x/y", "s3://b/x/y/a//b.jpg") == "../../x/y/a//b.jpg"
    assert to("s3://b", "s3://b/c:d.jpg") == "c%3Ad.jpg"
    assert to("gs://b/labels", "gcs://b/a.jpg") == "../a.jpg"
    for elsewhere in ("s3://c/a.jpg", "/home/a.jpg", "gs://b/a.jpg", "s3://b//a.jpg", "s3://b/a/../b.jpg"):
        assert to("s3://b/labels", elsewhere) == ""


def test_the_page_opens_photos_from_the_bucket(photos, browser):
    run(outputs=Outputs())
    photos.proxy.requests.clear()
    browser.get(f"{photos.proxy.url}/{BUCKET}/photos/labels/report.html")
    wait = WebDriverWait(browser, 20, poll_frequency=0.05)
    browser.execute_script("document.getElementById('results').scrollIntoView()")
    wait.until(lambda page: len(page.find_elements("css selector", ".crop")) == 2)
    crops = browser.find_elements("css selector", ".crop")
    for crop in crops:
        browser.execute_script("arguments[0].click()", crop)
        width = "return document.querySelector('.photo img')?.naturalWidth"
        wait.until(lambda page, width=width: page.execute_script(width) == 512)
        browser.execute_script("document.querySelector('dialog[open]').close()")
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [error for error in errors if "favicon" not in error]
    assert {"photos/a.png", "photos/b/grace & 100%.jpg"} <= set(photos.proxy.read())


def test_the_command_says_where_the_results_are(photos):
    done = start(PHOTOS, "--out", OUT)
    output, errors = done.communicate()
    assert done.returncode == 0, errors
    assert f"Look at {OUT}/report.html; tables: {OUT}/faces.csv, {OUT}/images.csv" in output
    refused = start(PHOTOS, "--out", "s3://no-such-bucket/labels")
    _, errors = refused.communicate()
    assert refused.returncode == 1
    assert errors.startswith("ferflow: s3://no-such-bucket/labels: no such bucket; ")
    assert errors.count("\n") == 1
