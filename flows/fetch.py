"""`ferflow fetch`: put FER2013 into data/raw, from Kaggle, a file, a folder or an address: whole, or not at all."""

import gzip
import http.client
import lzma
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tasks.errors import UserError, explaining
from tasks.files import alone, replacing, sha256
from tasks.ingest import KAGGLE, MOST_UNPACKED, NOTHING_FOUND, find_source

COMPETITION = KAGGLE.rpartition("/")[2]
COMPETITION_FILE = "icml_face_data.csv"
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
ENDINGS = (".csv", ".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz")  # of files that may hold FER2013
SCHEMES = ("http:", "https:", "file:")
TIMEOUT = 60  # seconds without a byte
BLOCK = 1 << 20
LONGEST_NAME = 200  # bytes; file systems take 255, and temporary names are a little longer

NO_CREDENTIALS = f"""no Kaggle credentials on this computer.
  1. Make an account at https://www.kaggle.com and accept the competition's rules:
     {KAGGLE}
  2. Under https://www.kaggle.com/settings, "API", create a token. Put kaggle.json into ~/.kaggle/, or
     set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY.
  3. Run `ferflow fetch` again.
  Or download the data in a browser, then: ferflow fetch FILE
  Or try the pipeline without it: make demo"""


def fetch(source: str | None, folder: Path, force: bool = False, dataset: str | None = None) -> Path:
    """Put FER2013 into `folder`.

    Args:
        source: a file, a folder of images, or an http(s) or file address; None downloads from Kaggle.
        folder: where it goes, data/raw.
        force: replace another file of the same name.
        dataset: owner/name of a Kaggle data set to download instead of the competition's csv.

    Returns:
        What is now in place.

    Raises:
        UserError: it cannot be read, is no form of FER2013, or something else has its place.
    """
    with _workbench(folder) as bench:
        if source is None:
            arrived = _from_kaggle(bench, dataset)
        elif source.lower().startswith(SCHEMES):
            arrived = _download(source, bench)
        else:
            arrived = _given(Path(source), folder)
        asked = source or arrived.name
        return _place(_unpacked(arrived, asked, bench), asked, bench, folder, force)


def _given(path: Path, folder: Path) -> Path:
    """A file or folder of the user's; UserError if it is neither, or if a copy of it would be put into itself."""
    if not path.is_file() and not path.is_dir():  # a pipe, for example
        raise UserError(f"no file or folder {path}")
    if folder.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{path} holds {folder}, where the data goes; name the file or folder that is the data")
    return path


@contextmanager
def _workbench(folder: Path) -> Iterator[Path]:
    """A hidden folder on the data's own disk, where things arrive before one rename puts them in place; one run at a time."""
    hidden = folder / ".fetch.part"
    bench = hidden / "arriving"
    with alone(hidden / "lock") as ours:
        if not ours:
            raise UserError(f"another ferflow fetch is at work in {folder}; wait for its end")
        shutil.rmtree(bench, ignore_errors=True)  # of a run that was killed
        bench.mkdir()
        try:
            yield bench
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def _from_kaggle(bench: Path, dataset: str | None) -> Path:
    """Download with Kaggle's own client."""
    if not has_kaggle_credentials():
        raise UserError(NO_CREDENTIALS)
    import kaggle  # only now: it looks for credentials when it is imported

    quiet = not sys.stdout.isatty()
    try:
        if dataset:
            kaggle.api.dataset_download_files(dataset, path=str(bench), quiet=quiet)
        else:
            kaggle.api.competition_download_file(COMPETITION, COMPETITION_FILE, path=str(bench), quiet=quiet)
    # Whatever a client of others raises for a refusal, a lost connection or a full answer: SystemExit is among it.
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"Kaggle: {reason}. Are the competition's rules accepted? {KAGGLE}/rules") from error
    arrived = sorted(bench.iterdir())
    if not arrived:
        raise UserError("Kaggle's client ended without a file; try again, or download it in a browser")
    return arrived[0]


def has_kaggle_credentials() -> bool:
    """Whether Kaggle's client will find a token or key, in the environment or in its folder."""
    folders = [Path.home() / ".kaggle", Path.home() / ".config" / "kaggle"]
    if os.environ.get("KAGGLE_CONFIG_DIR"):
        folders = [Path(os.environ["KAGGLE_CONFIG_DIR"])]
    in_environment = "KAGGLE_API_TOKEN" in os.environ or {"KAGGLE_USERNAME", "KAGGLE_KEY"} <= set(os.environ)
    names = ("kaggle.json", "access_token", "credentials.json")
    return in_environment or any((folder / name).is_file() for folder in folders for name in names)


def _download(address: str, bench: Path) -> Path:
    """Download an address into the workbench, with progress; the file is named as the address ends."""
    got = 0
    try:
        path = bench / _name(address)
        with (
            urllib.request.urlopen(address, timeout=TIMEOUT) as answer,
            replacing(path) as part,
            part.open("wb") as file,
        ):
            size = int(answer.headers.get("Content-Length") or 0)
            with progress_bar() as bar:
                task = bar.add_task(path.name, total=size or None)
                while block := answer.read(BLOCK):
                    file.write(block)
                    got += len(block)
                    bar.update(task, completed=got)
            if got < size:
                raise UserError(f"{address}: the connection ended after {got:,} of {size:,} bytes; try again")
    except urllib.error.HTTPError as error:
        raise UserError(f"{address}: the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise UserError(f"{address}: {getattr(error.reason, 'strerror', None) or error.reason}") from error
    except (http.client.InvalidURL, ValueError) as error:  # of what is asked, or of what the server answers
        raise UserError(f"{address}: not an address that can be downloaded ({error})") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"{address}: the connection broke after {got:,} bytes ({type(error).__name__}); try again"
        ) from error
    return path


def _name(address: str) -> str:
    """What the file at an address is called, where that can be such a file's name; else, as for dl.php, fer2013.csv."""
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    told = name.lower().endswith(ENDINGS) and not name.startswith(".")
    return name if told and name.isprintable() and len(name.encode()) <= LONGEST_NAME else CSV_NAMES[0]


def progress_bar() -> Progress:
    """A bar of bytes on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _unpacked(path: Path, asked: str, bench: Path) -> Path:
    """The csv out of a .tar.gz or .gz; anything else as it is (`ingest` reads zips itself). Errors name what was `asked` for."""
    if path.is_dir():
        return path
    out = bench / "unpacked"  # what is inside may have the name of what it is in
    out.mkdir()
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if tarfile.is_tarfile(path):
            return _csv_of_tar(path, asked, out)
        if packed:
            with gzip.open(path) as content:
                return _write(content, out / CSV_NAMES[0])
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's; those of gzip and bz2 have none
            raise
        raise UserError(f"{asked}: a damaged archive ({error}); download it again") from error
    return path


def _csv_of_tar(path: Path, asked: str, out: Path) -> Path:
    """Read FER2013's csv, and nothing else, out of a tar: no path in the archive decides where anything is written."""
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            content = archive.extractfile(member) if member.isfile() and name in CSV_NAMES else None
            if content:
                return _write(content, out / name)
    raise UserError(f"{asked}: no {' or '.join(CSV_NAMES)} in it")


def _write(content: IO[bytes] | gzip.GzipFile, path: Path) -> Path:
    with path.open("wb") as file:
        while block := content.read(BLOCK):
            if file.write(block) and file.tell() > MOST_UNPACKED:
                raise UserError(f"{path.name}: unpacks to more than 2 GiB; FER2013 has 0.3 GB")
    return path


def _place(arrived: Path, asked: str, bench: Path, folder: Path, force: bool) -> Path:
    """Copy what arrived, as `asked` for, to a place of its own; rename it into the folder if it is FER2013, in nobody's way."""
    candidate, place = bench / "checked" / arrived.name, folder / arrived.name
    candidate.parent.mkdir()
    if arrived.is_relative_to(bench):
        arrived.rename(candidate)
    elif arrived.is_dir():
        with explaining():  # links to nothing, pipes, links in a circle
            shutil.copytree(arrived, candidate)
    else:
        shutil.copyfile(arrived, candidate)
    _check(candidate, asked)
    if place.exists() and _same(candidate, place):
        return place
    if place.exists() and not force:
        raise UserError(f"{place} is there already and differs; replace it with --force")
    if place.is_dir():  # a rename replaces a file, but no folder that holds something
        place.rename(bench / "replaced")
    candidate.rename(place)
    return place


def _check(candidate: Path, name: str) -> None:
    """Recognise the form of FER2013 that lies alone in its folder; UserError under its original name if it is none."""
    try:
        find_source(candidate.parent)
    except UserError as error:
        if str(error) == NOTHING_FOUND.format(folder=candidate.parent):
            raise UserError(
                f"{name} is no form of FER2013: neither a csv with the columns emotion,pixels,Usage, nor images in "
                "folders such as train/angry, nor a zip of these"
            ) from error
        raise UserError(str(error).replace(str(candidate), name)) from error


def _same(one: Path, other: Path) -> bool:
    """Whether two files, or all files of two folders, have the same names and content."""
    if one.is_dir() != other.is_dir():
        return False
    if one.is_file():
        return one.stat().st_size == other.stat().st_size and sha256(one) == sha256(other)
    names = [sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file()) for root in (one, other)]
    return names[0] == names[1] and all(_same(one / name, other / name) for name in names[0])
