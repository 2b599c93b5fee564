"""A store's results in a bucket, as they come: parts that are only added, from which any machine rebuilds the store.

A part is a small SQLite file with the rows of the files whose results came since the part before; a later part wins over an
earlier one. What the bucket has is what counts: a store that knows of other parts than those in the bucket forgets everything.
"""

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from tasks.buckets import bucket_of, inside
from tasks.errors import UserError
from tasks.store import SCHEMA_VERSION, Store

PART_FILES = 2000  # results of a part at most; with faces about 10 MB
PART_SECONDS = 60.0  # between two parts at most: a machine that is lost takes no more work with it
SPARE_PARTS = 100  # that may be out of date before all are written anew
PART = re.compile(r"\d{8,}\.sqlite")  # its name; what else lies there, such as a marker of the folder, is not ours
TABLES = ("images", "faces", "sightings", "bands")
SCHEMA = """
CREATE TABLE IF NOT EXISTS shipped (url TEXT PRIMARY KEY, tag TEXT);  -- the parts that this store holds
CREATE TABLE IF NOT EXISTS unshipped (key BLOB PRIMARY KEY);  -- files with results that no part has yet
CREATE TRIGGER IF NOT EXISTS new_result AFTER INSERT ON images BEGIN REPLACE INTO unshipped VALUES (new.key); END;
"""


class Journal:
    """The parts of a store, below a prefix that only one run writes to.

    Args:
        store: of the folder that stands for the prefix on this machine.
        url: the output's prefix.
    """

    def __init__(self, store: Store, url: str) -> None:
        self._store, self._connection = store, store.connection
        self._part = store.path.with_name(".part.sqlite")
        # What a kill of an older version left would be rolled back into the next part: see `_attached`.
        self._part.with_name(f"{self._part.name}-journal").unlink(missing_ok=True)
        self._bucket = bucket_of(url)
        self._url = inside(url, f"journal-{SCHEMA_VERSION}")  # parts of other versions are of no use
        self._shipped = time.monotonic()
        self._connection.executescript(SCHEMA)

    def restore(self) -> None:
        """Make the store know what the bucket knows, each part fetched once.

        Raises:
            OSError: the bucket cannot be read.
            UserError: a part is damaged.
        """
        found = self._bucket.find(self._url)
        theirs = {part.url: part.tag for part in found if PART.fullmatch(part.url.removeprefix(inside(self._url)))}
        mine = dict(self._connection.execute("SELECT url, tag FROM shipped"))
        if not mine.items() <= theirs.items():
            for table in (*TABLES, "watched", "shipped", "unshipped"):
                self._connection.execute(f"DELETE FROM {table}")
            mine = {}
        for url in sorted(theirs.keys() - mine.keys()):
            self._bucket.fetch(url, self._part)
            self._take_in(url, theirs[url])

    def _take_in(self, url: str, tag: str) -> None:
        try:
            with self._attached(), self._store.transaction():
                for table in TABLES:
                    self._connection.execute(f"DELETE FROM {table} WHERE key IN (SELECT key FROM part.images)")
                    self._connection.execute(f"INSERT INTO {table} SELECT * FROM part.{table}")
                for table in ("watched", "unshipped"):
                    self._connection.execute(f"DELETE FROM {table} WHERE key IN (SELECT key FROM part.images)")
                self._connection.execute("INSERT INTO shipped VALUES (?, ?)", (url, tag))
        except sqlite3.DatabaseError as error:
            raise UserError(f"{url} is damaged ({error}); remove it: what it held is labelled again") from error

    def ship_if_due(self) -> None:
        """Ship when there is enough, or the last part is a while ago. Raises as `ship`."""
        if time.monotonic() - self._shipped > PART_SECONDS or self._waiting() >= PART_FILES:
            self.ship()

    def ship(self) -> None:
        """Write what is new since the last part as one.

        Raises:
            OSError: the bucket does not take it.
            UserError: another run writes there, too.
        """
        self._shipped = time.monotonic()
        while self._waiting():
            url = inside(self._url, f"{self._next_number():08}.sqlite")
            self._part.unlink(missing_ok=True)
            with self._attached():
                keys = f"SELECT key FROM unshipped ORDER BY key LIMIT {PART_FILES}"
                for table in TABLES:
                    self._connection.execute(
                        f"CREATE TABLE part.{table} AS SELECT * FROM {table} WHERE key IN ({keys})"
                    )
            if not self._bucket.write_if(url, self._part.read_bytes(), None):
                raise UserError(
                    f"{url} was written by another run meanwhile; run the same command again when that has ended"
                )
            written = self._bucket.look(url)
            with self._store.transaction():
                self._connection.execute("INSERT INTO shipped VALUES (?, ?)", (url, written.tag if written else ""))
                self._connection.execute(f"DELETE FROM unshipped WHERE key IN ({keys})")
        self._part.unlink(missing_ok=True)

    def compact(self) -> None:
        """Write all that is known anew if most of the parts are out of date, then remove those. Raises as `ship`.

        At each moment the parts say the same: the new ones win over the old ones.
        """
        old = [url for (url,) in self._connection.execute("SELECT url FROM shipped ORDER BY url")]
        (files,) = self._connection.execute("SELECT count(*) FROM images").fetchone()
        if len(old) <= SPARE_PARTS + 2 * files // PART_FILES:
            return
        self._connection.execute("INSERT OR IGNORE INTO unshipped SELECT key FROM images")
        self.ship()
        for url in old:
            self._bucket.remove(url)
            self._connection.execute("DELETE FROM shipped WHERE url = ?", (url,))

    def _next_number(self) -> int:
        (last,) = self._connection.execute("SELECT max(url) FROM shipped").fetchone()
        return int(PurePosixPath(last).stem) + 1 if last else 0

    def _waiting(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM unshipped").fetchone()[0])

    @contextmanager
    def _attached(self) -> Iterator[None]:
        self._connection.execute("ATTACH ? AS part", (str(self._part),))
        try:
            # In a file, what a kill leaves of it would be rolled back into the next part of this name.
            self._connection.execute("PRAGMA part.journal_mode = MEMORY")
            yield
        finally:
            self._connection.execute("DETACH part")
