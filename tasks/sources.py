"""What to label: images and videos in folders, zips, text lists and buckets, found one after the other and read one at a time.

Nothing here stops at a file that cannot be read: it is found like any other, and reading it says why.
"""

import codecs
import errno
import functools
import glob
import math
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tasks import buckets
from tasks.buckets import is_url
from tasks.errors import UserError
from tasks.photos import RefusedError
from tasks.videos import ENDINGS as VIDEOS

ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".ppm", ".pgm",
    ".heic", ".heif", ".jxl", ".svg", ".dng", ".cr2", ".nef", ".arw",  # these cannot be read: their rows say so
    *VIDEOS,
)  # fmt: skip
LISTS = (".txt", ".lst")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
ANY_DEPTH = re.compile(r"(?<![^/])(?:\*\*/+)+")  # `**` as a name of its own in a pattern, or several
STORE = ".ferflow.sqlite"  # the folder that holds this file is an output folder; see tasks/store.py
ANNOTATED, CROPS = "annotated", "crops"  # its folders of pictures; see tasks/pictures.py
MOST_BYTES = 512 * 10**6  # of an image file
PLAIN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that zipfile inflates no further than it is asked to
# What zipfile raises for a file that is no zip archive, or a damaged one.
NO_ARCHIVE = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error)
ENCRYPTED = 0x1  # of a zip member's flags
MOST_STORED = 2**63 - 1  # SQLite's largest integer: a forged zip may claim more, a time after 2262 is more


class NoImageError(UserError):
    """A source is there, but no image is in it, or matches it."""


class ImageFile(NamedTuple):
    """A file, or a member of a zip archive, that may be an image or a video."""

    shown: str  # the path for people: the source as given, and what is below it; not always UTF-8 (surrogateescape)
    path: str  # absolute, of the file or of the archive; or the URL
    member: str  # name inside the archive; "" of a plain file
    size: int  # bytes, of a member uncompressed; -1 if it could not be looked at
    stamp: int  # time of modification in ns, of a member its CRC-32, of an object by its etag; 0 if it could not be looked at

    @property
    def key(self) -> str:
        """Identifies the image in an output folder."""
        return f"{self.path}\0{self.member}" if self.member else self.path

    @property
    def is_video(self) -> bool:
        """Whether its name says so."""
        return (self.member or self.path).lower().endswith(VIDEOS)

    def exists(self) -> bool:
        """Whether it is on this machine's disks; a member, whether it is in its archive."""
        try:
            return self.member in _archive(self.path).NameToInfo if self.member else Path(self.path).exists()
        except (OSError, *NO_ARCHIVE):
            return False

    def read(self) -> bytes:
        """The file's content, of at most MOST_BYTES. Safe on several threads, also for members of one archive.

        Raises:
            OSError: it cannot be read now.
            RefusedError: it is no file, is empty, too large, or damaged inside its archive.
        """
        if is_url(self.path):
            return _read_object(self)[1]
        return _read_member(self.path, self.member) if self.member else _read_file(self.path)

    def read_as_it_is(self) -> tuple["ImageFile", bytes]:
        """As `read`, and the file with the size and stamp of what was read: an object may have changed since it was listed."""
        return _read_object(self) if is_url(self.path) else (self, self.read())

    @contextmanager
    def at_hand(self, folder: Path) -> Iterator[str]:
        """The path of a file with the content; of an object a copy in `folder`, which is gone afterwards.

        Raises:
            OSError: it cannot be read now.
        """
        if not is_url(self.path):
            yield self.path
            return
        copy = (
            folder / f".fetched{PurePosixPath(self.path).suffix}"
        )  # one name: what a kill leaves, the next one replaces
        try:
            buckets.bucket_of(self.path).fetch(self.path, copy)
            yield str(copy)
        finally:
            copy.unlink(missing_ok=True)


def find_images(sources: Iterable[str | Path], out: Path, out_url: str = "") -> Iterator[ImageFile]:
    """Find the images of all sources, lazily; the order depends on their names only.

    A source is a folder (with all below it, by file ending; links to folders are followed, each folder is entered once; output
    folders are not), a zip archive (members by ending), a text list (a path a line, relative to the current folder, or
    separated by NUL), any other file, the URL of an object or of a prefix, or, where no such path exists, a glob pattern (`**`
    reaches any depth, and enters each folder once, too).

    Where sources overlap, an image comes twice. The keys of the images are not remembered, so that memory stays flat; the store
    (tasks/store.py) counts a key once.

    Call this before `out` is made: the call itself checks the sources, only what follows is lazy.

    Args:
        sources: the paths, patterns and URLs.
        out: the output folder.
        out_url: the URL that takes the output, if one does.

    Raises:
        UserError: there is no source, or one does not exist or is `out`; later: it is damaged, or (NoImageError) holds no image.
        OSError: a source may not be looked at.
    """
    given = [os.fspath(source) for source in sources]
    if not given:
        raise UserError("sources are empty; name the folder of the photos")
    for source in given:
        if not is_url(source):
            _check(source, out)
        elif buckets.inside(source) == buckets.inside(buckets.spelt_as(out_url, source)):
            raise UserError(
                f"--out is the prefix of the photos; name another, such as {buckets.inside(source, 'labels')}"
            )
    return _find_all(given, out, out_url)


def _check(source: str, out: Path) -> None:
    """Refuse, before anything is written, a source that is not there, may not be listed, or is `out`."""
    try:
        is_folder = stat.S_ISDIR(os.stat(source).st_mode)  # noqa: PTH116 - Path("") is the current folder
    except PermissionError:
        raise
    except OSError:
        if not glob.has_magic(source):
            raise UserError(f"no file or folder {source or repr(source)}; check its spelling") from None
        return
    if is_folder:
        os.scandir(source).close()
        if out.exists() and out.samefile(source) and not (out / STORE).exists():
            raise UserError(f"--out is the folder of the photos; name another, such as {Path(source) / 'labels'}")


def _find_all(given: list[str], out: Path, out_url: str) -> Iterator[ImageFile]:
    found = False
    for source in given:
        for file in _objects(source, out_url) if is_url(source) else _find(source, out):
            found = True
            yield file
    if not found:
        raise UserError(f"{', '.join(given)}: only output folders of ferflow; name the folder of the photos")


def _find(source: str, out: Path) -> Iterator[ImageFile]:
    """The images of one source, at least one, or none of an output folder: a shell's `photos/*` names that, too."""
    kind = _kind(source)
    if not kind:
        images = _match(source, out)
        lacks = f"no image matches {source}; check the pattern, and quote it for the shell"
    elif source.lower().endswith(LISTS) and kind != stat.S_IFDIR:
        images = _listed(source)
        lacks = f"{source} lists no file; it should have a path a line"
    else:
        images = _look_into(source, _visited(out))
        hint = "a zip inside a folder is not opened: name it as a source"
        lacks = f"no image in {source}; looked for {' '.join(ENDINGS)} ({hint})"
    first = next(images, None)
    if first is not None:
        yield first
        yield from images
    elif not (_kind(Path(source, STORE)) or (kind and _identity(source) in _visited(out))):
        raise NoImageError(lacks)


def _kind(path: str | Path) -> int:
    """The type of file (stat.S_IFREG, S_IFDIR, ...); 0 if it is not there or may not be looked at."""
    try:
        return stat.S_IFMT(Path(path).stat().st_mode)
    except OSError:
        return 0


def _look_into(source: str, visited: set[tuple[int, int]]) -> Iterator[ImageFile]:
    """A folder's images, a zip archive's, or the file itself."""
    path = _absolute(source)
    kind = _kind(path)
    if kind == stat.S_IFDIR:
        return _walk(source, path, visited)
    if kind == stat.S_IFREG and path.lower().endswith(".zip"):
        return _members(source, path)
    return iter([_file(source, path)])


def _absolute(path: str) -> str:
    absolute = os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps "..", Path.resolve follows links
    # abspath takes away "link/..", but that need not lead back to where the link is.
    return os.path.realpath(path) if ".." in path and os.path.realpath(absolute) != os.path.realpath(path) else absolute


def _file(shown: str, path: str) -> ImageFile:
    try:
        status = Path(path).stat()
    except OSError:  # gone, no permission, a link to nowhere: reading it will say
        return ImageFile(shown, path, "", -1, 0)
    return ImageFile(shown, path, "", status.st_size, min(status.st_mtime_ns, MOST_STORED))


# Folders


def _visited(out: Path) -> set[tuple[int, int]]:
    """Folders that are not entered any more: at first the output folder alone, and its pictures."""
    return {_identity(folder) for folder in (out, out / ANNOTATED, out / CROPS) if folder.exists()}


def _identity(folder: str | Path) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _walk(shown: str, path: str, visited: set[tuple[int, int]]) -> Iterator[ImageFile]:
    """Images in a folder and below it, files and folders in one order of names. Without recursion: the depth has no limit."""
    # Ready for a name behind them: "photos/" for photos and photos/, "" for "."
    shown, path = (str(Path(folder, "x"))[:-1] for folder in (shown, path))
    pending = [""]  # what is below the source and still to come, the next one last; folders end in a separator
    while pending:
        below = pending.pop()
        if below and not below.endswith(os.sep):
            yield _file(shown + below, path + below)
            continue
        try:
            pending.extend(below + name for name in reversed(_entries(path + below, visited)))
        except OSError:  # no permission: a row for the folder says so
            folder = below.removesuffix(os.sep)
            yield ImageFile(shown + folder, path + folder, "", -1, 0)


def _entries(folder: str, visited: set[tuple[int, int]]) -> list[str]:
    """Names of the images and folders in a folder, sorted, folders with a separator; none if it is not to be entered."""
    identity = _identity(folder)
    if identity in visited:
        return []
    visited.add(identity)
    with os.scandir(folder) as entries:
        endings = {entry.name: _mark(entry) for entry in entries}
    if STORE in endings:
        return []
    return [name + mark for name in sorted(endings) if (mark := endings[name]) is not None]


def _mark(entry: os.DirEntry[str]) -> str | None:
    """A separator for a folder, "" for an image file or a link to one, None for anything else. Rarely asks the disk."""
    try:
        if entry.is_dir():
            return os.sep
    except OSError:  # a link to where we may not look: trying to enter it gives the row that says so
        return os.sep
    return "" if entry.name.lower().endswith(ENDINGS) and (entry.is_symlink() or entry.is_file()) else None


# Patterns


def _match(pattern: str, out: Path) -> Iterator[ImageFile]:
    """What a glob pattern matches, without that in output folders."""
    given = next(path for path in (Path(pattern), *Path(pattern).parents) if not glob.has_magic(str(path)))
    outputs = _visited(out)

    @functools.cache
    def is_output(folder: Path) -> bool:
        """Whether a folder is one, or inside one, below the part of the pattern that is given literally."""
        if folder in (given, folder.parent):
            return False
        return bool(_kind(folder / STORE) or (outputs and _identity(folder) in outputs)) or is_output(folder.parent)

    # glob's own `**` would follow links in circles.
    first, *others = ANY_DEPTH.split(f"{pattern}/*" if Path(pattern).name == "**" else pattern)
    matches = _glob(first) if first else [""]
    for rest in others:
        folders = _each_once(matches, is_output)
        matches = [match for folder in folders for match in _glob(glob.escape(folder) + rest)]
        if rest == "*":  # each folder was entered already
            matches = [match for match in matches if _kind(match) != stat.S_IFDIR]
    visited = set(outputs)
    for match in sorted(set(matches)):
        if not is_output(Path(match).parent):
            yield from _look_into(match, visited)


def _glob(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern))  # noqa: PTH207 - Path.glob takes no absolute pattern


def _each_once(tops: Iterable[str], is_output: Callable[[Path], bool]) -> Iterator[str]:
    """Folders and those below them but hidden ones and outputs, with a separator, ready for a name behind them."""
    entered = set()
    for top in tops:
        for path, names, _ in os.walk(top or ".", followlinks=True):
            identity = _identity(path)
            if identity in entered or is_output(Path(path)):
                names.clear()
                continue
            entered.add(identity)
            names[:] = sorted(name for name in names if not name.startswith("."))
            yield str(Path(path, "x"))[:-1]


# Text lists


def _listed(source: str) -> Iterator[ImageFile]:
    """One file per path or URL listed, whatever is there."""
    paths = parse_list(Path(source).read_bytes())
    return (_object(path) if is_url(path) else _file(path, _absolute(path)) for path in paths)


def parse_list(content: bytes) -> Iterator[str]:
    """The paths in a text list: separated by NUL if it holds one, else a line each; blank lines do not count."""
    if content.startswith(UTF_16):  # as PowerShell and Notepad write
        content = content.decode("utf-16", "replace").encode(errors="replace")
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        yield from (os.fsdecode(match[0]) for match in re.finditer(rb"[^\0]+", content))
    else:
        lines = (match[0].removesuffix(b"\r") for match in re.finditer(rb"[^\n]+", content))
        yield from (os.fsdecode(line) for line in lines if line.strip())


# Buckets


def _objects(source: str, out_url: str) -> Iterator[ImageFile]:
    """The object of a URL, or the images below it, at least one; without those in outputs of ferflow.

    Raises:
        UserError: there is none, or the store refuses to list them.
    """
    whole = buckets.inside(source)
    out = buckets.inside(buckets.spelt_as(out_url, source)) if out_url else ""
    found = is_output = False
    outputs: tuple[str, ...] = (out,) if out.startswith(whole) else ()
    try:
        for each in _below(source):
            if each.url.endswith(f"/{buckets.MARKER}"):  # comes before all else in there
                output = each.url.removesuffix(buckets.MARKER)
                outputs = (output, *(other for other in outputs if output.startswith(other) or other == out))
                is_output = is_output or whole in outputs
            elif each.url.lower().endswith(ENDINGS) and not each.url.startswith(outputs):
                found = True
                yield _from_object(each)
    except OSError as error:
        raise buckets.explained(error, source) from error
    if not (found or is_output):
        raise NoImageError(
            f"no image in {source}; looked for {' '.join(ENDINGS)} (patterns and zips work on disks only)"
        )


def _below(source: str) -> Iterator[buckets.Object]:
    bucket = buckets.bucket_of(source)
    single = bucket.look(source) if source.lower().endswith(ENDINGS) else None
    return iter([single]) if single else bucket.find(source)


def _from_object(each: buckets.Object) -> ImageFile:
    return ImageFile(each.url, each.url, "", min(each.size, MOST_STORED), each.stamp)


def _object(url: str) -> ImageFile:
    try:
        found = buckets.bucket_of(url).look(url)
    except OSError:
        found = None
    return _from_object(found) if found else ImageFile(url, url, "", -1, 0)  # reading it will say


def _read_object(file: ImageFile) -> tuple[ImageFile, bytes]:
    _check_size(max(file.size, 1))  # not every store tells it before the content
    content, tag = buckets.bucket_of(file.path).read(file.path, _check_size)
    if not tag:
        return file, content
    return _from_object(buckets.Object(file.path, len(content), tag))._replace(shown=file.shown), content


# Zip archives


def _members(shown: str, path: str) -> Iterator[ImageFile]:
    """The images in a zip archive, by name; of two members with one name the later, as unpacking would leave it."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.getinfo(name) for name in archive.namelist() if _is_image_member(name)}
    except NO_ARCHIVE as error:
        raise UserError(
            f"{shown} is no zip archive, or a damaged one ({error}); fetch it again, or unpack it"
        ) from error
    for name in sorted(found):
        yield ImageFile(f"{shown}/{name}", path, name, min(found[name].file_size, MOST_STORED), found[name].CRC)


def _is_image_member(name: str) -> bool:
    """Whether a member is an image by its name, and not one of macOS's companion files."""
    *folders, last = name.split("/")
    return last.lower().endswith(ENDINGS) and not last.startswith("._") and "__MACOSX" not in folders


_kept = threading.local()  # this thread's open archive, as `open`: (what it was opened for, the archive)


def _archive(path: str) -> zipfile.ZipFile:
    """A thread's own open archive, kept for its next member: the list of members is read once."""
    status = Path(path).stat()
    # A file that was replaced is opened again; so it is in a forked process, which shares its position with the first.
    wanted = (path, os.getpid(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if getattr(_kept, "open", (None, None))[0] != wanted:
        _kept.open = wanted, zipfile.ZipFile(path)  # the one before closes with its last reference
    opened: zipfile.ZipFile = _kept.open[1]
    return opened


def _read_member(path: str, member: str) -> bytes:
    try:
        archive = _archive(path)
        info = archive.getinfo(member)
        if info.flag_bits & ENCRYPTED:
            raise RefusedError("unreadable", "encrypted")
        if info.compress_type not in PLAIN_METHODS:
            raise RefusedError("unreadable", "compressed by another method than deflate; zip it again")
        _check_size(info.file_size)
        with archive.open(info) as stream:
            return stream.read(info.file_size)  # without a number, it would inflate all there is
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{path}/{member}") from None
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError) as error:
        raise RefusedError("unreadable", "damaged inside the zip archive") from error


# Files


def _read_file(path: str) -> bytes:
    status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()  # raises the OSError of a folder that may not be listed
        raise RefusedError("unsupported", "a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError("unsupported", "not a regular file")  # opening a FIFO would wait for its other end
    _check_size(status.st_size)
    with Path(path).open("rb") as file:
        return file.read(status.st_size)


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise RefusedError(
            "too_large", f"a file of {math.ceil(size / 1e6):,} MB; the limit is {MOST_BYTES // 10**6} MB"
        )
    if size == 0:
        raise RefusedError("unreadable", "an empty file")
