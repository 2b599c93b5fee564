"""Every image of a source is found once, in one order, whatever the names; and what cannot be read says why, without harm."""

import codecs
import errno
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.photos import RefusedError
from tasks.sources import ImageFile, find_images, parse_list

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names):
    """Small files, with the folders above them."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"content of " + os.fsencode(name))


def link(name, target):
    Path(name).symlink_to(target)


def shown(*given, out="labels"):
    return [file.shown for file in find_images(given, Path(out))]


def refusal(file):
    with pytest.raises(RefusedError) as caught:
        file.read()
    return caught.value.status, caught.value.reason


def only(source):
    (file,) = find_images([source], Path("labels"))
    return file


def zipped(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


# Folders


def test_a_folder_gives_its_images_depth_first_in_the_order_of_names(here):
    make(
        "photos/b.JPG",
        "photos/a/z.png",
        "photos/a/b/c.webp",
        "photos/a.jpg",
        "photos/c.txt",
        "photos/d.heic",
        "photos/e",
    )
    make("photos/x.jpg/y.tiff", "photos/a.zip")
    expected = ["a/b/c.webp", "a/z.png", "a.jpg", "b.JPG", "d.heic", "x.jpg/y.tiff"]
    assert shown("photos") == [f"photos/{name}" for name in expected]
    assert shown(Path("photos")) == shown("photos/") == shown("photos")
    os.chdir("photos")
    assert shown(".") == expected
    assert shown("../photos") == [f"../photos/{name}" for name in expected]


def test_an_image_knows_its_path_size_and_time(here):
    make("photos/a.jpg")
    os.utime("photos/a.jpg", ns=(0, 1_234_567_890_123_456_789))
    file = only("photos")
    assert file == ImageFile("photos/a.jpg", str(here / "photos/a.jpg"), "", 23, 1_234_567_890_123_456_789)
    assert file.key == file.path
    assert file.read() == b"content of photos/a.jpg"
    assert only(here / "photos") == file._replace(shown=file.path)


@pytest.mark.parametrize("name", [b"new\nline.png", b"latin\xe9.png", "smile 😀.png".encode(), b"-rf *?[.png", b".png"])
def test_any_name_survives(here, name):
    make(os.fsdecode(b"photos/sub\xff/" + name))
    file = only("photos")
    assert os.fsencode(file.shown) == b"photos/sub\xff/" + name
    assert file.read() == b"content of photos/sub\xff/" + name
    assert only(file.shown) == file


def test_links_to_folders_are_followed_once_and_loops_end(here):
    make("photos/b/one.jpg", "elsewhere/two.jpg", "photos/three.jpg")
    link("photos/b/up", "../..")
    link("photos/a", "../elsewhere")
    link("photos/c", "b")
    link("photos/loop", "../photos")
    link("photos/self.d", "self.d")
    assert shown("photos") == ["photos/a/two.jpg", "photos/b/one.jpg", "photos/self.d", "photos/three.jpg"]


def test_two_names_of_one_file_are_two_images(here):
    make("photos/a.jpg")
    os.link("photos/a.jpg", "photos/b.jpg")
    link("photos/c.jpg", "a.jpg")
    files = list(find_images(["photos"], here / "labels"))
    assert len({file.key for file in files}) == 3
    assert {file.read() for file in files} == {b"content of photos/a.jpg"}


def test_what_is_no_file_is_skipped_and_a_link_to_nowhere_has_a_row(here):
    make("photos/a.jpg")
    os.mkfifo("photos/fifo.jpg")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("photos/socket.jpg")
    link("photos/link.jpg", "nowhere")
    files = list(find_images(["photos"], here / "labels"))
    assert [(file.shown, file.size, file.stamp > 0) for file in files] == [
        ("photos/a.jpg", 23, True),
        ("photos/link.jpg", -1, False),
    ]
    with pytest.raises(FileNotFoundError):
        files[1].read()


def test_a_file_that_vanishes_after_its_folder_was_listed_has_a_row(here):
    make("photos/a.jpg", "photos/b.jpg")
    files = find_images(["photos"], here / "labels")
    next(files)
    Path("photos/b.jpg").unlink()
    (gone,) = files
    assert gone == ImageFile("photos/b.jpg", str(here / "photos/b.jpg"), "", -1, 0)


def test_a_time_or_size_no_database_can_hold_is_cut(here):
    make("a.jpg")
    try:
        os.utime("a.jpg", (2**33, 2**33 + 2**32))
    except OSError:
        pytest.skip("the file system has no such times")
    assert 0 <= only("a.jpg").stamp <= 2**63 - 1


def test_output_folders_are_not_entered(here):
    make("photos/a.jpg", "photos/labels/b.jpg", "photos/old/.ferflow.sqlite", "photos/old/c.jpg", "photos/old/in/d.jpg")
    assert shown("photos", out="photos/labels") == ["photos/a.jpg"]
    assert shown("photos", out=here / "photos" / "labels") == ["photos/a.jpg"]
    link("link", "photos/labels")
    assert shown("photos", out="link") == ["photos/a.jpg"]
    assert shown("photos", out="new") == ["photos/a.jpg", "photos/labels/b.jpg"]


def test_deeper_than_recursion_and_path_names_allow(here):
    for _ in range(1500):  # deeper than Python recurses
        Path("d").mkdir()
        os.chdir("d")
    make("a.jpg")
    os.chdir(here)
    assert shown("d") == ["d/" * 1500 + "a.jpg"]
    os.chdir("d/" * 1500)
    for _ in range(1000):  # longer than a path may be
        Path("d").mkdir()
        os.chdir("d")
    os.chdir(here)
    image, beyond = find_images(["d"], here / "labels")
    assert (image.shown, image.size > 0, beyond.size) == ("d/" * 1500 + "a.jpg", True, -1)
    subprocess.run(["rm", "-r", "d"], check=True)  # pytest's own cleaning recurses


def test_images_come_lazily_and_memory_stays_flat(here):
    for folder in range(20):
        Path(f"photos/{folder}").mkdir(parents=True)
        for number in range(500):
            Path(f"photos/{folder}/{number:0100}.jpg").touch()
    tracemalloc.start()
    assert sum(1 for _ in find_images(["photos", "photos"], here / "labels")) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000  # to keep them all takes 10 MB
    assert len(list(islice(find_images(["photos"], here / "labels"), 3))) == 3


AS_NOBODY = f"""
import os
from pathlib import Path
from tasks.sources import find_images
if os.geteuid() == 0:  # who may read anything
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
for file in find_images(["photos"], Path("labels")):
    try:
        print(file.shown, file.size, file.read())
    except OSError as error:
        print(file.shown, file.size, type(error).__name__)
print([file.size for file in find_images(["photos/r*/*.jpg", "photos/*ed"], Path("labels"))])
try:
    find_images(["photos/locked"], Path("labels"))
except OSError as error:
    print(type(error).__name__, error.filename)
"""


def test_what_may_not_be_read_has_a_row(here):
    make("photos/a.jpg", "photos/b.jpg", "photos/locked/c.jpg", "photos/readable/d.jpg", "photos/z.jpg")
    link("photos/link", "locked/beyond")
    link("photos/link.jpg", "locked/c.jpg")
    Path("photos/b.jpg").chmod(0)
    Path("photos/locked").chmod(0)
    Path("photos/readable").chmod(0o444)  # names can be listed, but not what they name
    done = _as_nobody(here, AS_NOBODY)
    assert done.splitlines() == [
        "photos/a.jpg 23 b'content of photos/a.jpg'",
        "photos/b.jpg 23 PermissionError",
        "photos/link -1 PermissionError",
        "photos/link.jpg -1 PermissionError",
        "photos/locked -1 PermissionError",
        "photos/readable/d.jpg -1 PermissionError",
        "photos/z.jpg 23 b'content of photos/z.jpg'",
        "[-1, -1]",
        "PermissionError photos/locked",
    ]


def _as_nobody(folder, code):
    """Run Python code in a folder as a user who may do little."""
    for above in (folder, *folder.parents):
        if above.stat().st_mode & 0o077 == 0:  # pytest made it for this user alone
            above.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if "in <module>\n    os.set" in done.stderr:
        pytest.skip("root may not become another user here")
    assert done.returncode == 0, done.stderr
    return done.stdout


# Single files


def test_a_single_file_needs_no_image_ending(here):
    make("notes.md", "b.zip.jpg")
    assert shown("notes.md", "./b.zip.jpg") == ["notes.md", "./b.zip.jpg"]


def test_the_same_image_has_one_key_however_it_is_named(here):
    make("photos/a.jpg", "elsewhere/deep/b.jpg", "elsewhere/a.jpg")
    link("photos/link", "../elsewhere/deep")
    names = ["photos/a.jpg", "./photos//a.jpg", "photos/../photos/a.jpg", here / "photos/a.jpg"]
    assert len({only(name).key for name in names}) == 1
    assert only("photos/link/b.jpg").path == str(here / "photos/link/b.jpg")
    assert only("photos/link/../a.jpg").read() == b"content of elsewhere/a.jpg"  # the system's meaning, not the text's


@pytest.mark.parametrize("make_it", [os.mkfifo, lambda path: link(path, "/dev/zero")], ids=["fifo", "device"])
def test_what_is_no_regular_file_is_refused_without_waiting(here, make_it):
    make_it("odd.jpg")
    assert refusal(only("odd.jpg")) == ("unsupported", "not a regular file")


def test_empty_and_huge_files_are_refused_before_they_are_read(here):
    Path("empty.jpg").touch()
    assert refusal(only("empty.jpg")) == ("unreadable", "an empty file")
    with Path("huge.jpg").open("wb") as file:
        file.truncate(1_233_000_001)  # takes no room on the disk
    tracemalloc.start()
    assert refusal(only("huge.jpg")) == ("too_large", "a file of 1,234 MB; the limit is 512 MB")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


# Zip archives


def test_a_zip_gives_its_images_by_name(here):
    zipped("photos.zip", {"b.jpg": b"b", "a/c.PNG": b"c", "a/": b"", "notes.txt": b"t", "x.jpg/": b""})
    with zipfile.ZipFile("photos.zip", "a") as archive:
        archive.writestr("__MACOSX/a.jpg", b"x")
        archive.writestr("a/__MACOSX/a.jpg", b"x")
        archive.writestr("a/._b.jpg", b"x")
        archive.writestr("ümlaut 😀.jpg", b"u")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("b.jpg", b"later")
    files = list(find_images(["photos.zip"], Path("labels")))
    assert [file.shown for file in files] == ["photos.zip/a/c.PNG", "photos.zip/b.jpg", "photos.zip/ümlaut 😀.jpg"]
    assert files[0] == ImageFile("photos.zip/a/c.PNG", str(here / "photos.zip"), "a/c.PNG", 1, zlib.crc32(b"c"))
    assert files[0].key == f"{here}/photos.zip\0a/c.PNG"
    assert [file.read() for file in files] == [b"c", b"later", b"u"]


@pytest.mark.parametrize("content", [b"", b"no zip", "cut"])
def test_a_damaged_zip_is_told(here, content):
    zipped("photos.zip", {f"{number}.jpg": bytes(100) for number in range(10)})
    Path("photos.zip").write_bytes(Path("photos.zip").read_bytes()[:-30] if content == "cut" else content)
    with pytest.raises(UserError, match=r"photos\.zip is no zip archive, or a damaged one"):
        shown("photos.zip")


def test_no_damage_to_a_zip_leads_to_anything_but_the_errors_announced(here):
    zipped("good.zip", {"a.jpg": b"some content" * 50, "b.jpg": bytes(range(256))})
    good = Path("good.zip").read_bytes()
    chance = random.Random(1)
    for _ in range(1000):
        content = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.choice((0, 1, 8, 127, 128, 255, chance.randrange(256)))
        Path("bad.zip").write_bytes(content)
        try:
            files = list(find_images(["bad.zip"], Path("labels")))
        except UserError:
            continue
        for file in files:
            try:
                file.read()
            except (RefusedError, OSError):
                continue


def test_encrypted_members_are_listed(here):
    zipped("photos.zip", {"a.jpg": b"secret"})
    content = bytearray(Path("photos.zip").read_bytes())
    content[6] |= 1  # the flags of the local header,
    content[content.index(b"PK\1\2") + 8] |= 1  # and of the directory
    Path("photos.zip").write_bytes(content)
    assert refusal(only("photos.zip")) == ("unreadable", "encrypted")


def test_damaged_empty_and_huge_members_are_refused(here):
    zipped("photos.zip", {"bad.jpg": b"content", "empty.jpg": b"", "huge.jpg": b"h"}, zipfile.ZIP_STORED)
    content = Path("photos.zip").read_bytes().replace(b"content", b"CONTENT", 1)
    Path("photos.zip").write_bytes(_claim(content, b"huge.jpg", 600_000_000))
    bad, empty, huge = find_images(["photos.zip"], Path("labels"))
    assert refusal(bad) == ("unreadable", "damaged inside the zip archive")
    assert refusal(empty) == ("unreadable", "an empty file")
    assert huge.size == 600_000_000
    assert refusal(huge) == ("too_large", "a file of 600 MB; the limit is 512 MB")


def _claim(content, name, size):
    """A zip whose directory claims another size of one member."""
    entry = content.rindex(b"PK\1\2", 0, content.rindex(name))
    return content[: entry + 24] + struct.pack("<I", size) + content[entry + 28 :]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_does_not_fill_the_memory(here, method):
    zipped("bomb.zip", {"a.jpg": bytes(200_000_000)}, method)
    Path("bomb.zip").write_bytes(_claim(Path("bomb.zip").read_bytes(), b"a.jpg", 1000))
    bomb = only("bomb.zip")
    tracemalloc.start()
    status, reason = refusal(bomb)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert status == "unreadable"
    assert reason.startswith("damaged" if method == zipfile.ZIP_DEFLATED else "compressed by another method")


def test_a_zip_that_changes_is_opened_again(here):
    zipped("photos.zip", {"a.jpg": b"one", "b.jpg": b"two"})
    first, second = find_images(["photos.zip"], Path("labels"))
    assert first.read() == b"one"
    zipped("new.zip", {"a.jpg": b"three"})
    os.replace("new.zip", "photos.zip")
    assert first.read() == b"three"
    with pytest.raises(FileNotFoundError):
        second.read()
    Path("photos.zip").unlink()
    with pytest.raises(FileNotFoundError):
        first.read()


def test_threads_read_members_of_several_archives_at_once(here):
    chance = random.Random(1)
    members = {f"{number}.jpg": chance.randbytes(50_000) for number in range(100)}
    for name in ("one.zip", "two.zip"):
        zipped(name, members)
    files = list(find_images(["one.zip", "two.zip"], Path("labels")))
    chance.shuffle(files)
    with ThreadPoolExecutor(8) as pool:
        for file, content in zip(files, pool.map(ImageFile.read, files), strict=True):
            assert content == members[file.member]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_do_not_share_an_open_archive(here):
    zipped("photos.zip", {f"{number}.jpg": bytes([number]) * 100_000 for number in range(50)}, zipfile.ZIP_STORED)
    code = """
import multiprocessing
from pathlib import Path
from tasks.sources import ImageFile, find_images
files = list(find_images(["photos.zip"], Path("labels")))
files[0].read()
with multiprocessing.get_context("fork").Pool(4) as pool:
    for file, content in zip(files * 20, pool.imap(ImageFile.read, files * 20)):
        assert content == bytes([int(file.member[:-4])]) * 100_000
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=here, env=environment)


# Text lists


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_every_path_listed_has_one_row(here, separator):
    make("a.jpg", "notes.md", os.fsdecode(b"latin\xe9 .jpg"), "folder.jpg/x.jpg", "z.zip")
    os.mkfifo("fifo")
    names = [
        b"a.jpg",
        b"latin\xe9 .jpg",
        b"gone.jpg",
        b"folder.jpg",
        b"notes.md",
        b"z.zip",
        b"fifo",
        b"a.jpg",
        b"*.jpg",
    ]
    Path("list.txt").write_bytes(b"\xef\xbb\xbf" + separator.join(names) + separator)
    files = list(find_images(["list.txt"], here / "labels"))
    assert [os.fsencode(file.shown) for file in files] == names
    assert [file.size for file in files][:3] == [16, 22, -1]
    assert files[0].read() == b"content of a.jpg"
    with pytest.raises(FileNotFoundError):
        files[2].read()
    assert refusal(files[3]) == ("unsupported", "a folder, not a file")
    assert refusal(files[6]) == ("unsupported", "not a regular file")


def test_blank_lines_do_not_count():
    assert list(parse_list(b"\n\r\na.jpg\r\n  \n b.jpg \n\nc")) == ["a.jpg", " b.jpg ", "c"]
    assert list(parse_list(b"\0a\nb\0\0c\r\0")) == ["a\nb", "c\r"]
    assert list(parse_list(b"")) == []


def test_a_list_that_windows_wrote_is_read():
    for encoding in ("utf-16-le", "utf-16-be", "utf-8"):
        content = "\ufeffC:/a é.jpg\r\n写.jpg\r\n".encode(encoding)
        assert list(parse_list(content)) == ["C:/a é.jpg", "写.jpg"]


MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
paths = (
    st.binary(min_size=1).map(lambda path: path.replace(b"\0", b"/")).filter(lambda path: not path.startswith(MARKS))
)


@given(st.lists(paths, min_size=1))
def test_any_paths_survive_a_list_separated_by_nul(names):
    assert [os.fsencode(path) for path in parse_list(b"".join(name + b"\0" for name in names))] == names


lines = paths.map(lambda path: path.replace(b"\n", b"/")).filter(lambda path: path.strip() and not path.endswith(b"\r"))


@given(st.lists(lines), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_any_paths_without_newlines_survive_a_list_of_lines(names, separator):
    assert [os.fsencode(path) for path in parse_list(separator.join(names))] == names


# Patterns


def test_a_pattern_is_matched_where_no_such_path_exists(here):
    make("a/1.jpg", "a/2.jpg", "a/3.png", "a/b/4.jpg", "a/.hidden.jpg", "photo[1].jpg", "photo1.jpg", "c/notes.md")
    zipped("c/more.zip", {"5.jpg": b"5"})
    Path("empty").mkdir()
    assert shown("a/*.jpg") == ["a/1.jpg", "a/2.jpg"]
    assert shown("a/**/*.jpg") == ["a/1.jpg", "a/2.jpg", "a/b/4.jpg"]
    assert shown("a/[13].*") == ["a/1.jpg", "a/3.png"]
    assert shown(f"{here}/a/?.png") == [f"{here}/a/3.png"]
    assert shown("photo[1].jpg") == ["photo[1].jpg"]
    assert shown("c/*") == ["c/more.zip/5.jpg", "c/notes.md"]


def test_a_pattern_matches_folders_as_folders_and_nothing_in_output_folders(here):
    make("photos/a/1.jpg", "photos/b/2.jpg", "photos/notes.md", "photos/labels/annotated/1.jpg", "photos/old/3.jpg")
    make("photos/old/.ferflow.sqlite")
    assert shown("phot*/", out="photos/labels") == ["photos/a/1.jpg", "photos/b/2.jpg"]
    assert shown("photos/**/*.jpg", out="photos/labels") == ["photos/a/1.jpg", "photos/b/2.jpg"]
    assert shown("photos/*/annotated/*.jpg", out="elsewhere") == ["photos/labels/annotated/1.jpg"]
    assert shown("photos/labels/*/*.jpg", out="elsewhere") == ["photos/labels/annotated/1.jpg"]
    os.chdir("photos")
    assert shown("*", out="labels") == ["a/1.jpg", "b/2.jpg", "notes.md"]
    assert shown("**", out="labels") == ["a/1.jpg", "b/2.jpg", "notes.md"]


def test_what_labelling_drew_itself_is_no_photo(here):
    make("1.jpg", ".ferflow.sqlite", "annotated/1.jpg", "crops/sad/1.jpg")
    assert shown("**/*.jpg", out=".") == ["1.jpg"]
    assert shown("1.jpg", "annotated", "crops", out=".") == ["1.jpg"]
    assert shown("annotated", "crops", out="elsewhere") == ["annotated/1.jpg", "crops/sad/1.jpg"]


def test_a_pattern_follows_links_to_folders_once_and_loops_end(here):
    make("photos/b/one.jpg", "photos/b/c/two.jpg", "elsewhere/three.jpg", "photos/.hidden/four.jpg")
    make("photos/[x]/five.jpg", "photos/z/six.jpg", "photos/labels/.ferflow.sqlite")
    for number in range(2):  # glob itself goes 2 ** 40 ways, until a path has too many links
        link(f"photos/loop{number}", "../photos")
    link("photos/a", "../elsewhere")
    link("photos/labels/z", "../z")  # no folder is missed for being linked in an output folder, too
    names = ["[x]/five.jpg", "a/three.jpg", "b/c/two.jpg", "b/one.jpg", "z/six.jpg"]
    expected = [f"photos/{name}" for name in names]
    assert shown("photos/**/*.jpg") == shown("phot*/**/**/*.jpg") == expected
    assert shown(f"{here}/photos/**/*.jpg") == [f"{here}/photos/{name}" for name in names]
    assert shown("photos/**/b/**/*.jpg") == expected[2:4]
    assert shown("photos/**") == shown("photos/**/*") == expected
    os.chdir("photos")
    assert shown("**/*.jpg") == names


# What the user can mend


def test_no_source_at_all() -> None:
    """As prefect.yaml may have it."""
    with pytest.raises(UserError, match="sources are empty; name the folder of the photos"):
        find_images([], Path("out"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing", "no file or folder nothing; check its spelling"),
        ("", "no file or folder ''; check its spelling"),
        ("notes.md/a.jpg", "no file or folder notes.md/a.jpg; check its spelling"),
        ("dangling", "no file or folder dangling; check its spelling"),
        ("*.jpg", "no image matches *.jpg; check the pattern"),
        ("empt[y]", "no image matches empt[y]; check the pattern"),
        ("empty", "no image in empty; looked for .jpg .jpeg "),
        ("empty", "(a zip inside a folder is not opened: name it as a source)"),
        ("empty.zip", "no image in empty.zip; looked for .jpg"),
        ("empty.txt", "empty.txt lists no file"),
        ("results", "results: only output folders of ferflow; name the folder of the photos"),
        ("photos", "--out is the folder of the photos; name another, such as photos/labels"),
        ("x" * 1000, "no file or folder xxx"),
        ("x" * 1000 + "*", "no image matches xxx"),
    ],
)
def test_a_source_without_images_is_told(here, source, message):
    make("notes.md", "results/.ferflow.sqlite", "results/a.png", "empty/notes.md", "empty/b.zip", "photos/a.jpg")
    zipped("empty.zip", {"notes.md": b""})
    Path("empty.txt").write_text("\n\n")
    link("dangling", "nowhere")
    with pytest.raises(UserError, match=re.escape(message)):
        list(find_images([source], Path("photos")))


def test_sources_are_checked_before_the_first_image_is_asked_for(here):
    make("a.jpg", "photos/a.jpg")
    with pytest.raises(UserError, match="no file or folder gone"):
        find_images(["a.jpg", "gone"], Path("labels"))
    link("link", "photos")
    for out in ("photos", here / "photos", "link", "photos/../photos"):
        with pytest.raises(UserError, match="--out is the folder of the photos"):
            find_images(["a.jpg", "photos"], Path(out))


def test_a_shell_s_pattern_may_name_the_output_folder_of_an_earlier_run(here):
    make("photos/a.jpg", "photos/labels/.ferflow.sqlite", "photos/labels/annotated/a.jpg")
    assert shown("photos/a.jpg", "photos/labels", out="photos/labels") == ["photos/a.jpg"]
    with pytest.raises(UserError, match="photos/labels, photos/labels: only output folders"):
        shown("photos/labels", "photos/labels", out="elsewhere")


def test_a_failing_disk_is_an_oserror(here, monkeypatch):
    make("a.jpg")
    file = only("a.jpg")

    def fails(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(OSError, match="Input/output error"):
        file.read()
