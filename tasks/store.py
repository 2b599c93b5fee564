"""What a run of labelling knows, in one SQLite file in the output folder: written as it goes, whole after any kill.

The tables for people (tasks/results.py) are made from it. A row stays valid while its file's size and time and the run's
settings are the same; so a second run does only what is new, changed, or was never finished.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.faces import FaceBox
from tasks.footage import Band, Reached, Segment, Sighting
from tasks.label import Face, Labelled
from tasks.sources import CROPS, STORE, ImageFile
from tasks.videos import Damage

SCHEMA_VERSION = 3
PROBABILITIES = ", ".join(f"{name} REAL" for name in EXPRESSIONS)
TABLES = ("images", "faces", "watched", "sightings", "bands")  # what is known, by a file's key
SCHEMA = f"""
CREATE TABLE source (  -- the images of the latest run, in their order
    position INTEGER PRIMARY KEY, key BLOB UNIQUE, shown BLOB, path BLOB, member BLOB, size INTEGER, stamp INTEGER,
    video INTEGER);
CREATE TABLE images (  -- settings: empty if the next run should try again
    key BLOB PRIMARY KEY, size INTEGER, stamp INTEGER, settings TEXT, status TEXT, reason TEXT, format TEXT,
    width INTEGER, height INTEGER, milliseconds REAL);
CREATE TABLE faces (
    key BLOB, face INTEGER, x INTEGER, y INTEGER, width INTEGER, height INTEGER, score REAL,
    {PROBABILITIES}, crop BLOB, thumbnail BLOB, PRIMARY KEY (key, face));
CREATE TABLE watched (  -- videos that are not yet watched to their end: up to where they are, and what was damaged up to there
    key BLOB PRIMARY KEY, size INTEGER, stamp INTEGER, settings TEXT, time REAL, damages INTEGER, first_damage REAL);
CREATE TABLE sightings (  -- faces in the frames of videos, smoothed and without pictures once the video is watched to its end
    key BLOB, number INTEGER, time REAL, track INTEGER, x INTEGER, y INTEGER, width INTEGER, height INTEGER, score REAL,
    {PROBABILITIES}, crop BLOB, thumbnail BLOB);
CREATE INDEX sightings_of ON sightings (key);
CREATE TABLE bands (
    key BLOB, track INTEGER, label TEXT, start REAL, end REAL, confidence REAL, thumbnail BLOB);
CREATE INDEX bands_of ON bands (key);
PRAGMA user_version = {SCHEMA_VERSION};
"""
SOURCE = "SELECT shown, path, member, source.size, source.stamp"
UNFINISHED = """
    FROM source LEFT JOIN images ON images.key = source.key
        AND images.size = source.size AND images.stamp = source.stamp AND images.settings = ?
    WHERE video = ? AND images.key IS NULL"""
ROWS_AT_ONCE = 500
UNKNOWN = (None,) * len(EXPRESSIONS)


class Store:
    """The store of an output folder, for one process and one thread at a time. Close it (`contextlib.closing`).

    Args:
        out: the output folder.
        keep: refuse a store that another version of ferflow laid out, in place of starting it anew.

    Raises:
        UserError: another run holds it, it is damaged, or to be kept and of another version.
    """

    def __init__(self, out: Path, keep: bool = False) -> None:
        self.path = out / STORE
        out.mkdir(parents=True, exist_ok=True)
        with self._explained():
            self._connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            try:
                self._open(keep)
            except BaseException:
                self.close()
                raise

    def _open(self, keep: bool) -> None:
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        # What this run adds is counted in the transactions that add it: Ctrl-C comes between any two steps of Python.
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._connection.execute("CREATE TEMP TABLE run AS SELECT 0 AS added")
        with self.transaction():
            version = self._value("PRAGMA user_version")
            if version == SCHEMA_VERSION:
                return
            if keep and version:  # 0: an empty file
                raise UserError(f"{self.path} is of another version of ferflow; use the one that labelled")
            self._start_anew()

    @property
    def connection(self) -> sqlite3.Connection:
        """For the journal of an output in a bucket (tasks/journal.py)."""
        return self._connection

    def close(self) -> None:
        """Let another run have it."""
        self._connection.close()

    def set_source(self, files: Iterable[ImageFile]) -> None:
        """Replace the list of images, and forget what is known of others; all or nothing. A key counts once."""
        with self._explained(), self.transaction():
            self._connection.execute("DELETE FROM source")
            self._add_source(files)
            for table in TABLES:
                self._connection.execute(f"DELETE FROM {table} WHERE key NOT IN (SELECT key FROM source)")

    def add_source(self, files: Iterable[ImageFile]) -> None:
        """Add to the list of images those that it lacks; all or nothing."""
        with self._explained(), self.transaction():
            self._add_source(files)

    def _add_source(self, files: Iterable[ImageFile]) -> None:
        self._connection.executemany(
            "INSERT OR IGNORE INTO source (key, shown, path, member, size, stamp, video) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (*map(os.fsencode, (file.key, file.shown, file.path, file.member)), *file[3:], file.is_video)
                for file in files
            ),
        )

    def added(self) -> int:
        """How many results were stored since this run opened the store."""
        return self._value("SELECT added FROM run")

    def total(self) -> int:
        """How many images the source has."""
        return self._value("SELECT count(*) FROM source")

    def pending(self, settings: str, videos: bool = False) -> int:
        """How many images (or videos) are new, changed, or were labelled with other settings."""
        return self._value(f"SELECT count(*) {UNFINISHED}", settings, videos)

    def pending_bytes(self, settings: str) -> int:
        """The size of the images that `pending` counts, together."""
        return self._value(f"SELECT coalesce(sum(max(source.size, 0)), 0) {UNFINISHED}", settings, False)

    def next_pending(self, settings: str, videos: bool = False) -> Iterator[ImageFile]:
        """Those that `pending` counts, in order. Results may be added meanwhile."""
        query = f"{SOURCE}, position {UNFINISHED} AND position > ? ORDER BY position LIMIT {ROWS_AT_ONCE}"
        last = 0
        while rows := self._rows(query, settings, videos, last):
            for row in rows:
                yield _file(row)
            last = rows[-1][-1]

    def add(self, results: Iterable[Labelled], settings: str) -> None:
        """Store results in place of what was known of the same images; all or nothing."""
        with self._explained(), self.transaction():
            for result in results:
                self._add(result, settings if result.failure is None else "")

    def _add(self, result: Labelled, settings: str) -> None:
        file, key = result.file, os.fsencode(result.file.key)
        self._connection.execute("UPDATE run SET added = added + 1")
        self._connection.execute("DELETE FROM faces WHERE key = ?", (key,))
        self._connection.execute(  # an object may have changed since it was listed
            "UPDATE source SET size = ?, stamp = ? WHERE key = ? AND stamp != ?",
            (file.size, file.stamp, key, file.stamp),
        )
        self._connection.execute(
            "REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, file.size, file.stamp, settings, *result[1:7]),
        )
        self._connection.executemany(
            f"INSERT INTO faces VALUES ({', '.join('?' * (9 + len(EXPRESSIONS)))})",
            (
                (key, number, *face.box[:-1], *face.probabilities, face.crop, face.thumbnail)
                for number, face in enumerate(result.faces, 1)
            ),
        )

    def results(self, *settings: str) -> Iterator[Labelled]:
        """What is known of the source's images under these settings, in order; images still pending are left out."""
        return self._results(f"AND images.settings IN ({', '.join('?' * len(settings))}, '')", *settings)

    def known(self) -> Iterator[Labelled]:
        """What is known of the source's images under whatever settings, in order."""
        return self._results()

    def _results(self, condition: str = "", *values: str) -> Iterator[Labelled]:
        query = f"""{SOURCE}, status, reason, format, width, height, milliseconds, position, source.key
            FROM source JOIN images ON images.key = source.key
                AND images.size = source.size AND images.stamp = source.stamp {condition}
            WHERE position > ? ORDER BY position LIMIT {ROWS_AT_ONCE}"""
        last = 0
        while rows := self._rows(query, *values, last):
            for row in rows:
                yield Labelled(_file(row), *row[5:11])._replace(faces=self._faces(row[-1]))
            last = rows[-1][-2]

    def _faces(self, key: bytes) -> tuple[Face, ...]:
        rows = self._rows("SELECT * FROM faces WHERE key = ? ORDER BY face", key)
        return tuple(Face(FaceBox(*row[2:7]), row[7:-2], *row[-2:]) for row in rows)

    # Videos: what is seen of them is added a segment at a time, and becomes a result at the end.

    def watched(self, file: ImageFile, settings: str) -> Reached | None:
        """Up to where a video is watched under these settings; None, and nothing of it is kept, if it is not."""
        key = os.fsencode(file.key)
        with self._explained(), self.transaction():
            row = self._connection.execute(
                "SELECT time, damages, first_damage FROM watched WHERE key = ? AND size = ? AND stamp = ? AND settings = ?",
                (key, file.size, file.stamp, settings),
            ).fetchone()
            if row is None:
                self._connection.execute("DELETE FROM sightings WHERE key = ?", (key,))
            return Reached(row[0], Damage(*row[1:])) if row else None

    def add_segment(self, file: ImageFile, segment: Segment, settings: str) -> None:
        """Keep the next frames of a video."""
        key = os.fsencode(file.key)
        with self._explained(), self.transaction():
            self._add_sightings(key, segment.sightings)
            self._connection.execute(
                "REPLACE INTO watched VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key, file.size, file.stamp, settings, segment.reached.time, *segment.reached.damage),
            )

    def sightings(self, file: ImageFile) -> Iterator[Sighting]:
        """The faces in a video's frames, in the order in which they were added; what is added meanwhile is left out."""
        key = os.fsencode(file.key)
        last, end = 0, self._value("SELECT coalesce(max(rowid), 0) FROM sightings")
        query = "SELECT rowid, * FROM sightings WHERE key = ? AND rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"
        while rows := self._rows(query, key, last, end, ROWS_AT_ONCE):
            for _, _, number, time, track, x, y, width, height, score, *probabilities, crop, thumbnail in rows:
                box = FaceBox(x, y, width, height, score)
                known = () if probabilities[0] is None else tuple(probabilities)
                yield Sighting(number, time, track, Face(box, known, crop, thumbnail))
            last = rows[-1][0]

    def bands(self, file: ImageFile) -> list[Band]:
        """What a video's tracks show, stretch by stretch."""
        rows = self._rows(
            "SELECT track, label, start, end, confidence, thumbnail FROM bands WHERE key = ? ORDER BY rowid",
            os.fsencode(file.key),
        )
        return [
            Band(track, label, start, end, confidence, 0, thumbnail)
            for track, label, start, end, confidence, thumbnail in rows
        ]

    def finish_video(
        self,
        file: ImageFile,
        steadied: Iterable[Sighting],
        outcome: Callable[[], tuple[Labelled, Iterable[Band]]],
        settings: str,
    ) -> Labelled:
        """Make what was seen of a video its result, and return that; all or nothing.

        Args:
            file: the video.
            steadied: all sightings once more; may be made of `sightings` as it goes.
            outcome: asked for the result, a face a track, and the bands of the tracks, when all of `steadied` was taken.
            settings: of the result.
        """
        key = os.fsencode(file.key)
        with self._explained(), self.transaction():
            last = self._value("SELECT coalesce(max(rowid), 0) FROM sightings")
            self._add_sightings(
                key, (each._replace(face=each.face._replace(crop=b"", thumbnail=b"")) for each in steadied)
            )
            result, bands = outcome()
            self._connection.execute("DELETE FROM sightings WHERE key = ? AND rowid <= ?", (key, last))
            self._connection.execute("DELETE FROM watched WHERE key = ?", (key,))
            self._connection.execute("DELETE FROM bands WHERE key = ?", (key,))
            self._connection.executemany(
                "INSERT INTO bands VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (key, band.track, band.label, band.start, band.end, band.confidence, band.thumbnail)
                    for band in bands
                ),
            )
            self._add(result, settings if result.failure is None else "")
        return result

    def _add_sightings(self, key: bytes, sightings: Iterable[Sighting]) -> None:
        self._connection.executemany(
            f"INSERT INTO sightings VALUES ({', '.join('?' * (11 + len(EXPRESSIONS)))})",
            (
                (key, number, time, track, *face.box[:-1], *(face.probabilities or UNKNOWN), face.crop, face.thumbnail)
                for number, time, track, face in sightings
            ),
        )

    def _start_anew(self) -> None:
        """Lay out the tables in place of those of another version.

        These hold nothing that labelling the same images again would not bring back. Only a person's corrections may still need
        them, for the faces' pixels: so a run refuses corrections before it comes here (tasks.results.refuse_corrected), and
        `ferflow collect` keeps the store.
        """
        for table in ("source", *TABLES):
            self._connection.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in SCHEMA.split(";"):
            self._connection.execute(statement)

    def _value(self, query: str, *values: str | bool) -> int:
        return int(self._rows(query, *values)[0][0])

    def _rows(self, query: str, *values: str | bytes | float) -> list[Any]:
        with self._explained():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written in the block, or nothing."""
        with self._connection:
            self._connection.execute("BEGIN EXCLUSIVE")
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into a line that says what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(self._explanation(error)) from error

    def _explanation(self, error: sqlite3.Error) -> str:
        if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK):  # a disk error, to SQLite
            return f"no permission to write {self.path}; check its owner and mode (ls -l)"
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # without what extends the code
            case sqlite3.SQLITE_BUSY:
                return f"another run is labelling into {self.path.parent}; wait for it, or name another --out"
            case sqlite3.SQLITE_FULL:
                return f"no space left on the disk of {self.path}; free some and run the same command again"
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                return (
                    f"{self.path} is damaged; move faces.csv and {CROPS}/ elsewhere if you have corrected them, remove it, "
                    "and label again, which labels everything"
                )
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
                return f"no permission to write {self.path}; check the folder's owner and mode (ls -ld)"
        return f"{self.path}: {error}"


def _file(row: tuple[bytes, bytes, bytes, int, int]) -> ImageFile:
    shown, path, member = (os.fsdecode(value) for value in row[:3])
    return ImageFile(shown, path, member, *row[3:5])
