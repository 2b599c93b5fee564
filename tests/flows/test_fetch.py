"""Fetching FER2013: from files, folders and a real server on this computer; whole or not at all."""

import functools
import gzip
import http.server
import io
import os
import socket
import tarfile
import threading
import urllib.response
import zipfile

import numpy as np
import pytest

from flows.fetch import fetch, has_kaggle_credentials
from tasks.errors import UserError
from tasks.files import alone
from tasks.synthetic import write_made_csv


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "fer2013.csv"
    write_made_csv(path, rows=200, seed=1)
    return path


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "data" / "raw"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; what is asked for under /short/ breaks off half-way."""

    def do_GET(self):
        if not self.path.startswith("/short/"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"emotion,pixels,Usage\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def address(made, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Handler, directory=made.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_is_copied(made, raw):
    place = fetch(str(made), raw)
    assert place == raw / "fer2013.csv"
    assert place.read_bytes() == made.read_bytes()
    assert made.exists()
    assert [path.name for path in raw.iterdir()] == ["fer2013.csv"]


def test_the_same_again_is_fine_and_another_needs_force(made, raw, tmp_path):
    fetch(str(made), raw)
    fetch(str(made), raw)
    other = tmp_path / "fer2013.csv"
    write_made_csv(other, rows=200, seed=2)
    with pytest.raises(UserError, match=r"fer2013\.csv is there already and differs; replace it with --force"):
        fetch(str(other), raw)
    assert (raw / "fer2013.csv").read_bytes() == made.read_bytes()
    fetch(str(other), raw, force=True)
    assert (raw / "fer2013.csv").read_bytes() == other.read_bytes()


def test_a_folder_of_images_is_copied_and_can_be_replaced(raw, tmp_path):
    import cv2

    tree = tmp_path / "faces"
    for name in ("train/angry/Training_1.jpg", "test/happy/PublicTest_2.jpg"):
        (tree / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tree / name), np.arange(48 * 48, dtype=np.uint8).reshape(48, 48))
    place = fetch(str(tree), raw)
    assert sorted(path.name for path in place.rglob("*.jpg")) == ["PublicTest_2.jpg", "Training_1.jpg"]
    (tree / "test/happy/PublicTest_2.jpg").rename(tree / "test/happy/PublicTest_3.jpg")
    fetch(str(tree), raw, force=True)
    assert sorted(path.name for path in place.rglob("*.jpg")) == ["PublicTest_3.jpg", "Training_1.jpg"]
    assert [path.name for path in raw.iterdir()] == ["faces"]


def test_a_zip_stays_packed(made, raw, tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.write(made, "icml_face_data.csv")
    assert fetch(str(tmp_path / "archive.zip"), raw) == raw / "archive.zip"


def test_of_a_tar_only_the_csv_is_unpacked_wherever_its_paths_point(made, raw, tmp_path):
    with tarfile.open(tmp_path / "fer2013.tar.gz", "w:gz") as archive:
        for name in ("../../evil.txt", "fer2013/README"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        archive.add(made, "../../fer2013/fer2013.csv")
    assert fetch(str(tmp_path / "fer2013.tar.gz"), raw).read_bytes() == made.read_bytes()
    assert [path.name for path in raw.iterdir()] == ["fer2013.csv"]
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_gzip_is_unpacked_whatever_it_calls_itself(made, raw, tmp_path):
    (tmp_path / "fer2013.csv").write_bytes(gzip.compress(made.read_bytes()))
    assert fetch(str(tmp_path / "fer2013.csv"), raw).read_bytes() == made.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fer2013.csv", b"", "an empty file"),
        ("fer2013.csv", b"a,b\n1,2\n", "expected the columns emotion,pixels,Usage"),
        ("photo.jpg", b"\xff\xd8\xff", "is no form of FER2013"),
        ("fer2013.zip", b"PK\x03\x04 cut off", "a damaged zip"),
        ("fer2013.tar.gz", gzip.compress(b"x" * 99999, mtime=0)[:60], "a damaged archive"),
        ("fer2013.csv.gz", gzip.compress(b"no table", mtime=0), "expected the columns emotion,pixels,Usage"),
    ],
)
def test_what_is_no_fer2013_is_refused_by_its_own_name(name, content, message, raw, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        fetch(str(tmp_path / name), raw)
    assert str(tmp_path / name) in str(error.value)
    assert ".part" not in str(error.value)
    assert list(raw.iterdir()) == []


def test_a_tar_without_the_csv_and_a_missing_file_are_told(raw, tmp_path):
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("README"), io.BytesIO())
    with pytest.raises(UserError, match=r"no fer2013\.csv or icml_face_data\.csv in it"):
        fetch(str(tmp_path / "other.tar"), raw)
    with pytest.raises(UserError, match="no file or folder"):
        fetch(str(tmp_path / "nothing.csv"), raw)


@pytest.mark.parametrize("kind", [{"mode": "w:xz", "preset": 0}, {"mode": "w:bz2", "compresslevel": 1}])
def test_an_archive_damaged_within_is_told(kind, made, raw, tmp_path):
    path = tmp_path / "fer2013.tar"
    part = tarfile.TarInfo("fer2013.csv")
    part.size = 300_000
    with tarfile.open(path, **kind) as archive, made.open("rb") as content:
        archive.addfile(part, content)
    packed = bytearray(path.read_bytes())
    place = int(0.9 * len(packed))
    packed[place : place + 40] = bytes(40)
    path.write_bytes(packed)
    with pytest.raises(UserError, match="a damaged archive"):
        fetch(str(path), raw)


def test_an_archive_that_unpacks_to_too_much_is_refused(made, raw, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.fetch.MOST_UNPACKED", 1000)
    (tmp_path / "small.gz").write_bytes(gzip.compress(made.read_bytes(), mtime=0))
    with pytest.raises(UserError, match="unpacks to more than"):
        fetch(str(tmp_path / "small.gz"), raw)
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize("leads", ["nowhere", "."])
def test_a_folder_with_a_link_that_cannot_be_copied_is_one_line(leads, raw, tmp_path):
    (tmp_path / "images" / "angry").mkdir(parents=True)
    (tmp_path / "images" / "angry" / "link").symlink_to(leads)
    with pytest.raises(UserError, match="cannot be copied"):
        fetch(str(tmp_path / "images"), raw)
    assert list(raw.iterdir()) == []


def test_a_folder_is_not_copied_into_itself_and_a_pipe_not_at_all(raw, tmp_path):
    for folder in (raw, raw.parent, raw / ".."):
        with pytest.raises(UserError, match="where the data goes"):
            fetch(str(folder), raw)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no file or folder"):
        fetch(str(tmp_path / "pipe"), raw)


def test_an_address_is_downloaded(made, raw, address):
    assert fetch(f"{address}/fer2013.csv?download=1", raw).read_bytes() == made.read_bytes()
    assert fetch(made.as_uri(), raw).read_bytes() == made.read_bytes()
    assert [path.name for path in raw.iterdir()] == ["fer2013.csv"]


def test_what_an_address_gives_may_be_packed_under_any_name(made, raw, address):
    (made.parent / "download").write_bytes(gzip.compress(made.read_bytes(), mtime=0))
    assert fetch(f"{address}/download", raw).read_bytes() == made.read_bytes()
    with tarfile.open(made.parent / "content", "w:gz") as archive:
        archive.add(made, "fer2013/fer2013.csv")
    assert fetch(f"{address}/content", raw).read_bytes() == made.read_bytes()
    assert [path.name for path in raw.iterdir()] == ["fer2013.csv"]


@pytest.mark.parametrize("name", ["a%0Ab.csv", "a%00b.csv", "..", ".csv", f"{'x' * 300}.csv", "dl.php?f=x.csv", "v1.0"])
def test_an_address_need_not_end_in_a_name_for_a_file(name, made, raw, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: urllib.response.addinfourl(made.open("rb"), {}, ""))
    assert fetch(f"http://127.0.0.1/{name}", raw) == raw / "fer2013.csv"


@pytest.mark.parametrize(
    "wrong", ["http://[::1/x.csv", "http://127.0.0.1:x/y.csv", "http://127.0.0.1/é.csv", "http://.x./y"]
)
def test_an_address_that_is_none_is_one_line(wrong, raw):
    with pytest.raises(UserError, match="not an address that can be downloaded"):
        fetch(wrong, raw)
    assert list(raw.iterdir()) == []


def test_what_an_address_gives_is_refused_by_the_address(raw, made, address):
    (made.parent / "page.php").write_bytes(b"<html>log in</html>")
    (made.parent / "cut.tar.gz").write_bytes(gzip.compress(b"x" * 99999, mtime=0)[:60])
    for name in ("page.php", "cut.tar.gz"):
        with pytest.raises(UserError, match=f"{address}/{name}") as error:
            fetch(f"{address}/{name}", raw)
        assert ".part" not in str(error.value)


def test_a_download_that_fails_is_one_line_and_leaves_nothing(raw, address):
    with pytest.raises(UserError, match="the server answers 404"):
        fetch(f"{address}/nothing.csv", raw)
    with pytest.raises(UserError, match=r"the connection (ended|broke) after 21 .*bytes"):
        fetch(f"{address}/short/fer2013.csv", raw)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="Connection refused"):
            fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/fer2013.csv", raw)
    with pytest.raises(UserError, match="No such file"):
        fetch("file:///nothing/fer2013.csv", raw)
    assert list(raw.iterdir()) == []


def test_what_a_killed_run_left_is_cleared(made, raw):
    (raw / ".fetch.part/arriving").mkdir(parents=True)
    (raw / ".fetch.part/arriving/half.csv").write_text("emotion")
    fetch(str(made), raw)
    assert [path.name for path in raw.iterdir()] == ["fer2013.csv"]


def test_a_second_run_at_the_same_time_is_refused(made, raw):
    with alone(raw / ".fetch.part/lock"), pytest.raises(UserError, match="another ferflow fetch is at work"):
        fetch(str(made), raw)
    fetch(str(made), raw)
    assert [path.name for path in raw.iterdir()] == ["fer2013.csv"]


def test_without_credentials_it_says_how_to_get_them(raw, tmp_path, monkeypatch):
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"(?s)no Kaggle credentials.*kaggle\.json.*ferflow fetch FILE"):
        fetch(None, raw)
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text("{}")
    assert has_kaggle_credentials()
