"""The store: what is known stays known, whatever happens, and only as long as it is true."""

import sqlite3
from contextlib import closing

import pytest

from tasks.errors import UserError
from tasks.faces import FaceBox
from tasks.label import Face, Labelled
from tasks.sources import STORE, ImageFile
from tasks.store import ROWS_AT_ONCE, Store

FACE = Face(FaceBox(1, 2, 30, 40, 0.912), (0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1), b"crop", b"thumbnail")


def file(name, size=10, stamp=7):
    return ImageFile(f"photos/{name}", f"/photos/{name}", "", size, stamp)


def done(image, **values):
    return Labelled(image, "ok", "", "JPEG", 640, 480, 12.5, (FACE, FACE))._replace(**values)


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path / "out")) as store:
        yield store


def test_what_is_added_comes_back_in_the_order_of_the_source(store):
    files = [file("b"), file("a"), file("c")]
    store.set_source(files)
    results = [done(files[1]), done(files[0], faces=(), status="no_face")]
    store.add(results, "settings")
    assert list(store.results("settings")) == [results[1], results[0]]
    assert (store.total(), store.pending("settings")) == (3, 1)
    assert list(store.next_pending("settings")) == [files[2]]


def test_more_images_than_are_read_at_once_while_results_are_added(store):
    files = [file(f"{number:05}") for number in range(2 * ROWS_AT_ONCE + 3)]
    store.set_source(files)
    seen = []
    for image in store.next_pending("settings"):
        seen.append(image)
        store.add([done(image, faces=())], "settings")
    assert seen == files
    assert [result.file for result in store.results("settings")] == files


@pytest.mark.parametrize("changed", [file("a", size=11), file("a", stamp=8)])
def test_a_changed_file_is_pending_and_has_no_result(store, changed):
    store.set_source([file("a")])
    store.add([done(file("a"))], "settings")
    store.set_source([changed])
    assert store.pending("settings") == 1
    assert list(store.results("settings")) == []
    store.add([done(changed, faces=(FACE,))], "settings")
    assert [len(result.faces) for result in store.results("settings")] == [1]


def test_other_settings_make_everything_pending(store):
    store.set_source([file("a")])
    store.add([done(file("a"))], "settings")
    assert store.pending("other") == 1
    assert list(store.results("other")) == []


def test_a_failure_has_its_row_and_is_tried_again(store):
    store.set_source([file("a")])
    store.add([Labelled(file("a"), "unreadable", "input/output error", failure=5)], "settings")
    assert [result.reason for result in store.results("settings")] == ["input/output error"]
    assert store.pending("settings") == 1


def test_what_left_the_source_is_forgotten(store):
    store.set_source([file("a"), file("b")])
    store.add([done(file("a")), done(file("b"))], "settings")
    store.set_source([file("b")])
    store.set_source([file("a"), file("b")])
    assert list(store.next_pending("settings")) == [file("a")]


def test_an_image_found_twice_counts_once(store):
    store.set_source([file("a"), file("b"), file("a")])
    assert store.total() == 2


def test_names_that_are_not_utf_8_come_back(store):
    odd = ImageFile("p/\udce9\n😀.jpg", "/p/\udce9\n😀.jpg", "", 1, 1)
    member = ImageFile("p.zip/é.jpg", "/p.zip", "é.jpg", 1, 1)
    store.set_source([odd, member])
    store.add([done(odd), done(member)], "settings")
    assert [result.file for result in store.results("settings")] == [odd, member]


def test_a_source_that_fails_half_way_changes_nothing(store):
    def broken():
        yield file("new")
        raise UserError("no file or folder nothing")

    store.set_source([file("a")])
    with pytest.raises(UserError, match="nothing"):
        store.set_source(broken())
    assert list(store.next_pending("settings")) == [file("a")]


class Interrupted:
    """A connection on which Ctrl-C comes after a statement, or after the end of a transaction."""

    def __init__(self, connection, moment):
        self.connection, self.moment = connection, moment

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def __enter__(self):
        return self.connection.__enter__()

    def __exit__(self, *error):
        self.connection.__exit__(*error)
        if self.moment == "kept":
            raise KeyboardInterrupt

    def execute(self, statement, *values):
        cursor = self.connection.execute(statement, *values)
        if statement.startswith(self.moment):
            raise KeyboardInterrupt
        return cursor


@pytest.mark.parametrize(("moment", "after"), [("BEGIN", False), ("REPLACE INTO images", False), ("kept", True)])
def test_what_is_added_is_counted_as_it_is_kept_whenever_ctrl_c_comes(moment, after, store, monkeypatch):
    files = [file("a"), file("b"), file("c")]
    store.set_source(files)
    store.add([done(files[0])], "settings")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "_connection", Interrupted(store.connection, moment))
        store.add([done(files[1])], "settings")
    assert store.added() == len(list(store.results("settings"))) == 1 + after
    store.add([done(files[2])], "settings")
    assert store.added() == 2 + after


def test_a_second_run_on_the_same_output_is_refused(store, tmp_path):
    with pytest.raises(UserError, match="another run is labelling into"):
        Store(tmp_path / "out")
    store.set_source([file("a")])
    store.close()
    with closing(Store(tmp_path / "out")) as second:
        assert second.total() == 1


def test_a_damaged_store_says_what_to_do(tmp_path):
    (tmp_path / STORE).write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match=r"is damaged; move faces\.csv and crops/ elsewhere if"):
        Store(tmp_path)


@pytest.mark.parametrize("table", ["images", "faces", "sightings"])
def test_damage_that_shows_when_a_table_is_read_says_so_too(table, store, tmp_path):
    store.set_source([file("a")])
    store.add([done(file("a"))], "settings")
    (page,) = store.connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    (size,) = store.connection.execute("PRAGMA page_size").fetchone()
    store.close()
    with (tmp_path / "out" / STORE).open("r+b") as content:
        content.seek((page - 1) * size)
        content.write(b"?" * size)
    with closing(Store(tmp_path / "out")) as damaged, pytest.raises(UserError, match="is damaged; move faces"):
        damaged.pending("settings")
        list(damaged.results("settings"))
        list(damaged.sightings(file("a")))


def test_a_store_of_another_version_starts_anew(tmp_path):
    with closing(sqlite3.connect(tmp_path / STORE)) as old:
        old.execute("CREATE TABLE images (something TEXT)")
        old.execute("PRAGMA user_version = 99")
        old.commit()
    with closing(Store(tmp_path)) as store:
        assert store.total() == 0
        store.set_source([file("a")])
        store.add([done(file("a"))], "settings")
        assert store.pending("settings") == 0
