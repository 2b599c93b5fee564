"""Photos in a bucket, on a real S3 server: what is found and read, and that faults of the network lose and double nothing."""

import itertools
from collections import Counter
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ASTRONAUT, CHAMPION, FLOWER, HOPPER, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from made_videos import Actor, smiling, write_video
from s3_network import BUCKET

from tasks import buckets
from tasks.buckets import Object, bucket_of, inside, is_url, split
from tasks.errors import UserError
from tasks.folder import label_folder
from tasks.sources import find_images

NOWHERE = Path("nowhere")
PHOTOS = f"s3://{BUCKET}/photos"


def found(*sources, out_url=""):
    return [file.path.removeprefix(f"s3://{BUCKET}/") for file in find_images(sources, NOWHERE, out_url)]


def face(number):
    """A picture of 48x48 px, taken as a face whole, no two the same."""
    pixels = np.random.default_rng(number).integers(0, 256, (48, 48), np.uint8)
    return cv2.imencode(".png", cv2.GaussianBlur(pixels, (0, 0), 4))[1].tobytes()


@pytest.fixture
def faces(bucket):
    """Twelve small pictures in the bucket."""
    for number in range(12):
        bucket.put(f"photos/{number:02}.png", face(number))
    return bucket


def run(out, *sources):
    return label_folder(sources or [PHOTOS], out, champion=CHAMPION)


def statuses(out):
    """Status and reason by name; fails if a file has two rows."""
    table = rows(out / "images.csv")
    assert max(Counter(row["path"] for row in table).values()) == 1
    return {row["path"].rpartition("/")[2]: (row["status"], row["reason"]) for row in table}


# URLs

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["s3", "gs", "memory"]), st.from_regex(r"[a-z0-9.-]{3,20}", fullmatch=True), names)
def test_a_url_is_its_parts_and_nothing_in_a_key_is_special(scheme, bucket, key):
    url = f"{scheme}://{bucket}/{key}"
    assert is_url(url)
    assert split(url) == (scheme, bucket, key)
    assert inside(f"{scheme}://{bucket}", key) == inside(f"{scheme}://{bucket}/", key) == url


@pytest.mark.parametrize(
    "path", ["photos/a.jpg", "/s3://a", "./s3://a", "a b://c", "://a", "C:/a", "3d://a", "s3:/a", Path("s3://a")]
)
def test_paths_are_no_urls(path):
    assert not is_url(path)


@given(st.text(), st.text())
def test_stamps_are_of_the_content_and_fit_the_store(one, other):
    stamps = [Object("s3://b/k", 1, tag).stamp for tag in (one, other)]
    assert all(0 <= stamp < 2**63 for stamp in stamps)
    assert (stamps[0] == stamps[1]) == (one == other)


# Listings


def test_a_prefix_a_bucket_an_object_and_a_list_are_sources(bucket, tmp_path):
    for key in ("photos/b.jpg", "photos/a/c.PNG", "photos/notes.txt", "photos2/d.jpg", "photos.jpg", "e.jpg"):
        bucket.put(key, b"x")
    assert found(PHOTOS) == found(PHOTOS + "/") == ["photos/a/c.PNG", "photos/b.jpg"]
    assert len(found(f"s3://{BUCKET}")) == len(found(f"s3://{BUCKET}/")) == 5
    assert found(f"{PHOTOS}.jpg") == ["photos.jpg"]
    (tmp_path / "list.txt").write_text(f"{PHOTOS}/b.jpg\n{PHOTOS}/gone.jpg\n")
    files = list(find_images([tmp_path / "list.txt"], NOWHERE))
    assert [file.size for file in files] == [1, -1]
    with pytest.raises(FileNotFoundError, match="no such object"):
        files[1].read()


@pytest.mark.parametrize("name", ["a b+c%20&é.jpg", "q?versionId=1#x.jpg", "a//b/../c.jpg", "*[1].jpg", "日本.jpg"])
def test_whatever_a_key_is(name, bucket, tmp_path):
    bucket.put(f"photos/{name}", name.encode())
    (file,) = find_images([PHOTOS], NOWHERE)
    assert file.path == f"{PHOTOS}/{name}"
    assert file.read() == name.encode()
    assert list(find_images([file.path], NOWHERE)) == [file]
    with file.at_hand(tmp_path) as path:
        assert Path(path).read_bytes() == name.encode()
        bucket_of(file.path).send(Path(path), f"{file.path}2")
    assert bucket.keys() == [f"photos/{name}", f"photos/{name}2"]


def test_listings_come_page_by_page_and_outputs_are_left_out(bucket):
    for number in range(20):
        bucket.put(f"photos/{number:02}.jpg", b"x")
    bucket.put("photos/10-labels/.ferflow", b"")
    bucket.put("photos/10-labels/annotated/a.jpg", b"x")
    bucket.put("photos/10-labels/b/.ferflow", b"")
    bucket.put("photos/10-labels/crops/a.jpg", b"x")
    bucket.put("photos/zout/annotated/a.jpg", b"x")
    bucket.proxy.page = 5
    assert len(list(islice(find_images([PHOTOS], NOWHERE), 6))) == 6
    assert bucket.proxy.listings() == 2
    assert found(PHOTOS, out_url=f"{PHOTOS}/zout/") == [f"photos/{number:02}.jpg" for number in range(20)]
    with pytest.raises(UserError, match="only output folders"):
        found(f"{PHOTOS}/10-labels")
    with pytest.raises(UserError, match="--out is the prefix of the photos"):
        found(PHOTOS, out_url=PHOTOS)


def test_an_output_is_known_by_any_name_of_its_scheme(bucket):
    bucket.put("photos/a.jpg", b"x")
    bucket.put("photos/zout/annotated/a.jpg", b"x")
    alias = PHOTOS.replace("s3", "s3a")
    for source, out in ((PHOTOS, alias), (alias, PHOTOS)):
        assert [file.path for file in find_images([source], NOWHERE, f"{out}/zout")] == [f"{source}/a.jpg"]
        with pytest.raises(
            UserError, match=f"--out is the prefix of the photos; name another, such as {source}/labels"
        ):
            found(source, out_url=f"{out}/")


@pytest.mark.parametrize("store", ["memory://shelf", "file://{}/shelf"])
def test_other_stores_of_fsspec_work_too(store, bucket, tmp_path, monkeypatch):
    """From and to them, also on a second machine."""
    import fsspec

    url = store.format(tmp_path)
    files, shelf = fsspec.url_to_fs(url)
    files.makedirs(f"{shelf}/photos/more")
    for name, photo in (("a.png", ASTRONAUT), ("more/b.jpg", FLOWER)):
        files.pipe_file(f"{shelf}/photos/{name}", photo.read_bytes())
    for last in range(3):
        images = run(f"{url}/photos/labels", f"{url}/photos")["images"]
        assert (images["reused"], images["status"]) == (2 if last else 0, {"ok": 1, "no_face": 1})
        assert files.exists(f"{shelf}/photos/labels/faces/part-00000.parquet")
        if last:
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    files.pipe_file(f"{shelf}/photos/a.png", HOPPER.read_bytes())
    assert run(tmp_path / "out", f"{url}/photos")["images"]["labelled"] == 2
    files.pipe_file(f"{shelf}/photos/a.png", ASTRONAUT.read_bytes())
    assert run(tmp_path / "out", f"{url}/photos")["images"]["labelled"] == 1


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("s3://no-such-bucket/photos", {}, "s3://no-such-bucket/photos: no such bucket; check the spelling, and AWS_ENDPOINT"),
        ("s3://", {}, "no bucket is named; write s3://BUCKET/PREFIX"),
        (f"s3://{BUCKET}/empty", {}, f"no image in s3://{BUCKET}/empty"),
        (PHOTOS, {"AWS_ACCESS_KEY_ID": None, "HOME": "/nowhere"}, "locate credentials.; check the bucket's policy, and the cred"),
        (PHOTOS, {"AWS_PROFILE": "nobody"}, "could not be found"),
        ("nosuch://x/y", {}, "Protocol not known: nosuch; check its beginning"),
        (PHOTOS.replace("s3", "S3"), {}, "Protocol not known: S3; check its beginning, such as s3://BUCKET/PREFIX"),
        ("gs://x/y", {}, "gcsfs.*; install it beside ferflow"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(source, change, message, bucket, monkeypatch):
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(UserError, match=message) as mistake:
        found(source)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    "url", [f"s3://key:secret@{BUCKET}/photos", "ftp://me:secret@host/a.jpg", "http://me:secret@h"]
)
def test_a_password_in_a_url_is_refused_and_repeated_nowhere(url, bucket, tmp_path):
    for source, out in ((url, tmp_path / "out"), (PHOTOS, url)):
        bucket.put("photos/a.jpg", b"x")
        with pytest.raises(
            UserError, match="a URL with a password, which all tables would show; for S3 set AWS"
        ) as refusal:
            run(out, source)
        assert "secret" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_no_permission_and_no_server_are_told(faces, monkeypatch, tmp_path):
    faces.proxy.fault = lambda method, path: "403"
    with pytest.raises(UserError, match=r"no permission \(Access Denied\); check the bucket's policy"):
        found(PHOTOS)
    faces.proxy.calm()
    run(tmp_path / "out")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(buckets, "REQUESTS", 2)
    with pytest.raises(UserError, match=r"Could not connect .*; check the network, and AWS_ENDPOINT_URL"):
        run(tmp_path / "out")
    assert len(statuses(tmp_path / "out")) == 12  # what is known is not forgotten


# Labelling


def test_nothing_is_downloaded_twice_and_a_changed_object_is_known_by_its_etag(faces, tmp_path):
    run(tmp_path / "out")
    assert sorted(faces.proxy.read()) == faces.keys("photos")
    one, other = face(100), face(101)
    length = max(len(one), len(other))
    faces.put("photos/03.png", one.ljust(length, b"\0"))
    run(tmp_path / "out")
    faces.proxy.requests.clear()
    faces.put("photos/03.png", other.ljust(length, b"\0"))  # of the same size
    faces.put("photos/04.png", face(4))  # written again, the same bytes
    assert run(tmp_path / "out")["images"]["labelled"] == 1
    assert faces.proxy.read() == ["photos/03.png"]


def test_requests_overlap(faces, tmp_path):
    faces.proxy.delay = 0.1
    label_folder([PHOTOS], tmp_path / "out", champion=CHAMPION, workers=1)
    assert faces.proxy.busiest >= 6


def each_third(fault, only="GET"):
    count = itertools.count(1)
    return lambda method, path: fault if method == only and next(count) % 3 == 0 else None


@pytest.mark.parametrize("fault", ["503", "reset", "cut", "stall"])
def test_a_network_that_fails_changes_no_table(fault, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "TIMEOUT", 1.0)
    monkeypatch.setattr(buckets, "WAITS", (0.1, 0.1, 0.1, 0.1, 0.1))
    run(tmp_path / "calm")
    faces.proxy.page = 5
    faces.proxy.fault = each_third(fault)
    assert run(tmp_path / "out")["images"]["status"] == {"ok": 12}
    assert (tmp_path / "out" / "faces.csv").read_bytes() == (tmp_path / "calm" / "faces.csv").read_bytes()
    assert len(statuses(tmp_path / "out")) == 12


def test_an_object_that_cannot_be_read_is_a_row_that_the_next_run_tries_again(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "REQUESTS", 2)
    faces.proxy.fault = lambda method, path: "503" if path.startswith(f"/{BUCKET}/photos/05.png") else None
    run(tmp_path / "out")
    table = statuses(tmp_path / "out")
    assert table.pop("05.png") == ("unreadable", "please reduce your request rate.")
    assert set(table.values()) == {("ok", "")}
    faces.proxy.calm()
    assert run(tmp_path / "out")["images"]["labelled"] == 1
    assert faces.proxy.read() == ["photos/05.png"]


def test_what_changes_between_listing_and_reading_has_one_row(faces, tmp_path):
    """An object that is gone says so. One that was replaced is labelled as it is by now, and the next run knows that."""

    def meddle(method, path):
        if method == "GET" and "list-type" not in path:
            faces.proxy.fault = lambda method, path: None
            faces.delete("photos/10.png")
            faces.put("photos/11.png", face(111))

    faces.proxy.fault = meddle
    label_folder([PHOTOS], tmp_path / "out", champion=CHAMPION, workers=1)
    table = statuses(tmp_path / "out")
    assert len(table) == 12
    replaced = f"s3://{BUCKET}/photos/11.png"
    assert table["10.png"] == ("unreadable", "no such object")
    faces.proxy.requests.clear()
    again = run(tmp_path / "out")["images"]
    assert (again["total"], again["labelled"]) == (11, 0)
    run(tmp_path / "anew")
    faces_of = [
        [row for row in rows(tmp_path / out / "faces.csv") if row["path"] == replaced] for out in ("out", "anew")
    ]
    assert faces_of[0] == faces_of[1]


def test_a_listing_that_changes_while_it_is_read(faces, tmp_path):
    faces.proxy.page = 5

    def meddle(method, path):
        if "continuation-token" in path:
            faces.proxy.fault = lambda method, path: None
            faces.delete("photos/01.png")  # of the page before
            faces.delete("photos/07.png")
            faces.put("photos/00a.png", face(20))
            faces.put("photos/09a.png", face(21))

    faces.proxy.fault = meddle
    run(tmp_path / "out")
    table = statuses(tmp_path / "out")
    assert table["01.png"] == ("unreadable", "no such object")
    assert "09a.png" in table
    assert "07.png" not in table
    again = run(tmp_path / "out")["images"]
    assert (again["total"], again["labelled"], again["status"]) == (12, 1, {"ok": 12})


def test_an_object_that_is_too_large_is_not_downloaded(bucket, monkeypatch):
    from tasks import sources
    from tasks.photos import RefusedError

    bucket.put("photos/a.jpg", b"x" * 2000)
    bucket.put("photos/b.jpg", b"")
    monkeypatch.setattr(sources, "MOST_BYTES", 1000)
    large, empty = find_images([PHOTOS], NOWHERE)
    with pytest.raises(RefusedError, match="the limit is") as refusal:
        large.read()
    assert refusal.value.status == "too_large"
    with pytest.raises(RefusedError, match="an empty file"):
        empty.read()


def test_a_video_in_a_bucket_is_watched_and_its_copy_removed(bucket, tmp_path):
    write_video(tmp_path / "video.mp4", lambda time: [Actor(smiling(), 50 + 20 * time, 60, 230)], 1.0)
    bucket.put("photos/video.mp4", (tmp_path / "video.mp4").read_bytes())
    bucket.put("photos/broken.mp4", b"no video")
    run(tmp_path / "out")
    assert statuses(tmp_path / "out") == {
        "video.mp4": ("ok", ""),
        "broken.mp4": ("unreadable", "not a video, or a damaged one"),
    }
    assert len(rows(tmp_path / "out" / "frames.csv")) == 5
    assert not list((tmp_path / "out").glob("*.mp4")) + list((tmp_path / "out").glob(".*.mp4"))
