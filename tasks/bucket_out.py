"""An output of labelling in a bucket. The work is done in a folder of this machine; the bucket has all that another needs.

Below the prefix lie: `.ferflow`, which tells that it is an output; `journal-N/`, results as they come (tasks/journal.py); and as
in an output folder the tables, the report, run.json and the pictures, but Parquet tables in partitions: faces/part-00000.parquet.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from tasks.buckets import MARKER, bucket_of, explained, inside, spelt_as, split
from tasks.errors import UserError
from tasks.files import alone, read_json, replacing, sha256, write_json
from tasks.journal import Journal
from tasks.lease import Lease
from tasks.sources import ImageFile
from tasks.store import Store

PARTITION = 250_000  # rows of a table; some 10 MB
TABLES = ("faces", "images", "frames")
PART = re.compile(rf"({'|'.join(TABLES)})/part-\d+\.parquet")
FILES = (
    *(f"{table}.csv" for table in TABLES),
    "labels.jsonl",
    "report.html",
    "run.json",
)  # the last one says: all is there
LOCK = f"{MARKER}.lock"
PUBLISHED = ".published.json"


def folder_of(url: str) -> Path:
    """The folder of this machine that stands for an output's prefix."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ferflow" / hashlib.sha256(os.fsencode(url.rstrip("/"))).hexdigest()[:16]


class BucketOut:
    """The output below a prefix, for one run at a time; also a place for its pictures (tasks.pictures.Place). Close it.

    Args:
        url: of the prefix.

    Raises:
        UserError: another run holds it, or the bucket cannot be used.
    """

    mark = MARKER

    def __init__(self, url: str) -> None:
        self.shown = self.url = url.rstrip("/")
        self.after_sorting = (
            "move them back, and correct faces.csv in their stead"  # `ferflow collect` reads local crops only
        )
        self.folder = folder_of(url)
        self._bucket = bucket_of(url)
        self._known: dict[str, set[str]] = {}  # the names of pictures, by folder
        self._stack = ExitStack()
        try:
            self._hold()
            for name in ("run.json", "faces.csv"):  # the outputs of the run before, and a person's corrections
                self.fetch(name)
        except BaseException:
            self.close()
            raise

    def _hold(self) -> None:
        if not self._stack.enter_context(alone(self.folder / "lock")):
            raise UserError(f"another run is labelling into {self.url}; wait for it, or name another --out")
        name = self.folder / "place"
        if not name.exists():
            with replacing(name) as temporary:
                temporary.write_text(uuid.uuid4().hex)
        with self._explained():
            self._lease = Lease(inside(self.url, LOCK), name.read_text())
        self._stack.callback(self._lease.release)

    def close(self) -> None:
        """Let another run have it."""
        with self._explained():
            self._stack.close()

    def open(self, store: Store) -> None:
        """Make the store of the folder know what the bucket knows, and from now on the bucket what the store knows."""
        with self._explained():
            self._bucket.write(inside(self.url, MARKER), b"")
            self._journal = Journal(store, self.url)
            self._journal.restore()
            self._journal.ship()

    def keep(self, last: bool = False) -> None:
        """Bring results that are new in the store into the bucket, when there are many or some time went by, or at last."""
        self._lease.check()
        with self._explained():
            if last:
                self._journal.ship()
                self._journal.compact()
            else:
                self._journal.ship_if_due()

    def fetch(self, name: str) -> None:
        """Make a file of the folder what it is in the bucket: somebody, or another machine, may have changed it there."""
        with self._explained(name):
            there = self._bucket.look(inside(self.url, name))
            if there is None:
                (self.folder / name).unlink(missing_ok=True)
            elif self._published().get(name, ["", ""])[1] != there.tag or not (self.folder / name).exists():
                with replacing(self.folder / name) as temporary:
                    self._bucket.fetch(there.url, temporary)

    def publish(self) -> None:
        """Bring tables, report and run.json into the bucket, as far as they have changed."""
        before, now = self._published(), {}
        for table in TABLES:
            for part in self._partitions(table):
                now[part] = self._send(self.folder / part, part, before.get(part))
                (self.folder / part).unlink()
            for part in self._parts(table):
                if part not in now:
                    with self._explained(part):
                        self._bucket.remove(inside(self.url, part))
        for name in FILES:
            if (self.folder / name).exists():
                now[name] = self._send(self.folder / name, name, before.get(name))
            else:
                with self._explained(name):
                    self._bucket.remove(inside(self.url, name))
        write_json(self.folder / PUBLISHED, now)

    def _parts(self, table: str) -> list[str]:
        """The names of a table's partitions in the bucket; somebody's photos may lie there, too."""
        with self._explained(table):
            found = self._bucket.find(inside(self.url, table))
            names = (each.url.removeprefix(inside(self.url)) for each in found)
            return list(filter(PART.fullmatch, names))

    def _partitions(self, table: str) -> Iterator[str]:
        """The names of a table's partitions, each written when it is asked for."""
        import pyarrow as pa
        from pyarrow import parquet

        path = self.folder / f"{table}.parquet"
        if not path.exists():
            return
        with parquet.ParquetFile(path) as whole:
            batches = (
                whole.iter_batches(PARTITION)
                if whole.metadata.num_rows
                else whole.schema_arrow.empty_table().to_batches()
            )
            for number, batch in enumerate(batches):
                name = f"{table}/part-{number:05}.parquet"
                with replacing(self.folder / name) as temporary:
                    parquet.write_table(pa.Table.from_batches([batch], whole.schema_arrow), temporary)
                yield name

    def _send(self, path: Path, name: str, before: list[str] | None) -> list[str]:
        """Send a file, unless the bucket has it as it is; returns its checksum and tag."""
        self._lease.check()
        digest, url = sha256(path), inside(self.url, name)
        with self._explained(name):
            there = self._bucket.look(url)
            if there is None or before != [digest, there.tag]:
                self._bucket.send(path, url)
                there = self._bucket.look(url)
        return [digest, there.tag if there else ""]

    def _published(self) -> dict[str, list[str]]:
        """The checksum and the tag of each file as this folder left it in the bucket."""
        content: dict[str, list[str]] = read_json(self.folder / PUBLISHED) or {}
        return content

    @contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explained(error, inside(self.url, name).rstrip("/")) from error

    # As a place for pictures

    def has(self, name: str) -> bool:
        """Whether there is such a picture."""
        folder = name.partition("/")[0]
        if folder not in self._known:
            self.names(folder)
        return name in self._known[folder]

    def names(self, folder: str) -> Iterator[str]:
        """Those in a folder and below it, as they are now."""
        with self._explained(folder):
            found = self._bucket.find(inside(self.url, folder))
            self._known[folder] = {each.url.removeprefix(inside(self.url)) for each in found}
        return iter(self._known[folder])

    def present(self, names: Iterable[str]) -> Iterator[str]:
        """Which of some files that are no pictures are there; of Parquet tables, the parts."""
        for name in names:
            table, _, ending = name.partition(".")
            if ending == "parquet":
                yield from self._parts(table)
            elif self._is_there(name):
                yield name

    def _is_there(self, name: str) -> bool:
        with self._explained(name):
            return self._bucket.look(inside(self.url, name)) is not None

    def put(self, name: str, content: bytes) -> None:
        """Write a picture, whole."""
        self._lease.check()
        with self._explained(name):
            self._bucket.write(inside(self.url, name), content)
        self._known[name.partition("/")[0]].add(name)

    def make(self, name: str, write: Callable[[Path], None]) -> None:
        """Let a function write a picture into a file, or leave it."""
        path = self.folder / f".made{Path(name).suffix}"
        path.unlink(missing_ok=True)
        write(path)
        if path.exists():
            with self._explained(name):
                self._bucket.send(path, inside(self.url, name))
            path.unlink()
            self._known[name.partition("/")[0]].add(name)

    def remove(self, name: str) -> None:
        """Remove a picture."""
        self._lease.check()
        with self._explained(name):
            self._bucket.remove(inside(self.url, name))
        self._known[name.partition("/")[0]].discard(name)

    def href(self, file: ImageFile) -> str:
        """From the prefix to an object of the same bucket, wherever both are served; "" to anything else."""
        (*bucket, prefix), (*other, key) = split(spelt_as(self.url, file.path)), split(file.path)
        if (
            bucket != other or key.startswith("/") or {".", ".."} & set(key.split("/"))
        ):  # browsers would take it otherwise
            return ""
        return "../" * len(prefix.split("/") if prefix else ()) + quote(key)
