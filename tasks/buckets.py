"""Object stores by URL (s3://bucket/key, or any other scheme that fsspec knows): listing, reading and writing their objects.

A URL is the scheme, "://", the bucket and the key as they are, without percent signs, as the tools of the stores write it.
Credentials, endpoint and region come from where each store's own tools look. Requests that fail for a reason that may pass are
tried again, later and later: on S3 by botocore (mode standard), else, and where an answer broke off midway, here.
"""

import errno
import hashlib
import mimetypes
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tasks.errors import UserError
from tasks.photos import RefusedError

Result = TypeVar("Result")

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ALIASES = ({"s3", "s3a"}, {"gs", "gcs"}, {"abfs", "az"})  # schemes of one store
MARKER = ".ferflow"  # the prefix that has this object is an output; it sorts before all else that is written there
TIMEOUT = 20.0  # s, without a byte
REQUESTS = 6  # of one kind at most; with botocore's waits about 15 s
WAITS = (1.0, 2.0, 4.0)  # s before further attempts where botocore makes none
CONNECTIONS = 256  # open at most: readers of many cores
FINAL = {
    errno.ENOSPC,
    errno.ENOENT,
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EINVAL,
    errno.ENOSYS,
}
CHANGED = (
    "PreconditionFailed",
    "412",
    "ConditionalRequestConflict",
    "409",
)  # S3's answers to a condition that is not met
TAGS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "checksum",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)
HINTS = {
    errno.ENOENT: "check the spelling, and AWS_ENDPOINT_URL if the server is not Amazon's",
    errno.EACCES: "check the bucket's policy, and the credentials: for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
    " ~/.aws, or the machine's role; FSSPEC_S3_ANON=true for a public bucket",
    errno.ENOSPC: "free some and run the same command again",
}
REPOSITORIES = ("git", "github")  # whose URLs have ORGANISATION:REPOSITORY@VERSION in a bucket's place
PASSWORDS = "for S3 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for others fsspec's, such as FSSPEC_FTP_PASSWORD"
HINT = "check the network, and AWS_ENDPOINT_URL if the server is not Amazon's; the same command goes on"


class Object(NamedTuple):
    """An object as a listing has it."""

    url: str
    size: int  # bytes
    tag: str  # changes with the content: the etag, or what the store has in its place; "" if it has nothing

    @property
    def stamp(self) -> int:
        """The tag as a positive integer of 63 bits; 0 without one."""
        return int.from_bytes(hashlib.sha256(self.tag.encode()).digest()[:8]) >> 1 if self.tag else 0


def is_url(path: object) -> bool:
    """Whether it is the URL of an object store, and no path of this machine."""
    return isinstance(path, str) and bool(URL.match(path))


def split(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and key of a URL; the key is "" of a whole bucket."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return scheme, bucket, key


def spelt_as(url: str, other: str) -> str:
    """A URL with the scheme of another one, if both schemes are names of the same store; else as it is."""
    (scheme, *_), (wanted, *_) = split(url), split(other)
    return url.replace(scheme, wanted, 1) if any({scheme, wanted} <= names for names in ALIASES) else url


def inside(url: str, name: str = "") -> str:
    """The URL of a name below a prefix; without a name that of all below it, with a slash at its end."""
    return f"{url.rstrip('/')}/{name}"


def explained(error: OSError, url: str) -> UserError:
    """What is wrong with a URL, and what to do."""
    return UserError(f"{url}: {(error.strerror or str(error)).rstrip('.')}; {HINTS.get(error.errno or 0, HINT)}")


class Bucket:
    """Objects of any store that fsspec knows.

    Args:
        url: of anything in it.

    Raises:
        UserError: no such scheme, a package that is missing, no bucket named, no credentials, or some in the URL itself.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        scheme, name, _ = split(url)
        user, _, host = name.rpartition("@")
        if ":" in user and scheme not in REPOSITORIES:
            raise UserError(f"{scheme}://...@{host}: a URL with a password, which all tables would show; {PASSWORDS}")
        self.root = f"{scheme}://{name}"
        self._fs = _opened(url, lambda: url_to_fs(f"{self.root}/", **self._options())[0])

    def _options(self) -> dict[str, Any]:
        return {}

    def find(self, url: str) -> Iterator[Object]:
        """The objects below a prefix, lazily, folder by folder, in order of their names.

        Raises:
            OSError: it cannot be listed.
        """
        top = self._fs._strip_protocol(url)
        pending: list[Any] = [{"name": top, "type": "directory"}]
        while pending:
            info = pending.pop()
            if info["type"] == "directory":
                others = (each for each in self._listed(info["name"], url) if each["name"] != info["name"])
                pending += sorted(others, key=lambda each: str(each["name"]), reverse=True)
            else:
                yield _object(inside(url, info["name"].removeprefix(top).lstrip("/")), info)

    def _listed(self, folder: str, url: str) -> list[dict[str, Any]]:
        self._fs.invalidate_cache()  # of listings
        try:
            return list(persistently(partial(self._fs.ls, folder, detail=True), url))
        except FileNotFoundError:  # a prefix is there as long as something is below it
            return []

    def look(self, url: str) -> Object | None:
        """The object of this URL; None if there is none.

        Raises:
            OSError: that cannot be told.
        """
        self._fs.invalidate_cache()
        try:
            info = persistently(lambda: self._fs.info(url), url)
        except FileNotFoundError:
            return None
        return _object(url, info) if info["type"] == "file" else None

    def read(self, url: str, check: Callable[[int], None] = lambda size: None) -> tuple[bytes, str]:
        """An object's content and its tag, "" if that is not known; `check` may refuse its size before it is read.

        Raises:
            OSError: it is gone, or cannot be read now.
        """
        content: bytes = persistently(lambda: self._fs.cat_file(url), url)
        check(len(content))
        return content, ""

    def fetch(self, url: str, path: Path) -> None:
        """Copy an object into a file.

        Raises:
            OSError: it is gone, or cannot be read now.
        """
        persistently(lambda: self._fs.get_file(url, str(path)), url)

    def write(self, url: str, content: bytes) -> None:
        """Put an object in place, whole.

        Raises:
            OSError: that is not allowed, or not possible now.
        """
        self._into(url, lambda: self._fs.pipe_file(url, content))

    def send(self, path: Path, url: str) -> None:
        """Copy a file into an object, which appears whole.

        Raises:
            OSError: that is not allowed, or not possible now.
        """
        self._into(url, lambda: self._fs.put_file(str(path), url))

    def _into(self, url: str, work: Callable[[], Any]) -> None:
        try:
            persistently(work, url)
        except FileNotFoundError:  # a store with real folders
            self._fs.makedirs(self._fs._parent(url), exist_ok=True)
            persistently(work, url)

    def write_if(self, url: str, content: bytes, before: Object | None) -> bool:
        """Put an object in place if what lies there is still `before` (None: nothing); whether it was so.

        Raises:
            OSError: that is not allowed, or not possible now.
        """
        if self.look(url) != before:  # only S3 does this in one step
            return False
        self.write(url, content)
        return True

    def age(self, url: str) -> float:
        """Seconds since an object was written, by the store's clock if it tells it.

        Raises:
            OSError: that cannot be told.
        """
        modified: datetime = persistently(lambda: self._fs.modified(url), url)
        return (datetime.now(UTC) - modified.astimezone(UTC)).total_seconds()

    def remove(self, url: str) -> None:
        """Remove an object, if it is there.

        Raises:
            OSError: that is not allowed, or not possible now.
        """
        try:
            persistently(lambda: self._fs.rm_file(url), url)
        except FileNotFoundError:
            return


class S3Bucket(Bucket):
    """Objects of S3: page by page, with their etags, and each by one request."""

    def _options(self) -> dict[str, Any]:
        retries = {"mode": "standard", "total_max_attempts": REQUESTS}
        times = {"connect_timeout": TIMEOUT, "read_timeout": TIMEOUT}
        return {"config_kwargs": {"retries": retries, "max_pool_connections": CONNECTIONS, **times}}

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._fs.retries = 1  # s3fs's own would come on top of botocore's
        self._fs.split_path = lambda url: (*split(url)[1:], None)  # s3fs's own cuts "?versionId=" off a key

    def find(self, url: str) -> Iterator[Object]:
        """The objects below a prefix, lazily: a page of 1,000 is asked for when the one before is used up."""
        _, bucket, key = split(url)
        where = {"Bucket": bucket, "Prefix": key if key in ("", "/") else inside(key)}
        more: dict[str, str] = {}
        while True:
            page = persistently(partial(self._fs.call_s3, "list_objects_v2", **where, **more), url)
            for each in page.get("Contents", ()):
                yield Object(f"{self.root}/{each['Key']}", each["Size"], each.get("ETag", ""))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def look(self, url: str) -> Object | None:
        """The object of this URL; None if there is none."""
        _, bucket, key = split(url)
        try:
            head = persistently(lambda: self._fs.call_s3("head_object", Bucket=bucket, Key=key), url) if key else None
        except FileNotFoundError:
            return None
        return head and Object(url, head["ContentLength"], head.get("ETag", ""))

    def read(self, url: str, check: Callable[[int], None] = lambda size: None) -> tuple[bytes, str]:
        """An object's content and its etag, by one request."""
        from fsspec.asyn import sync

        answer: tuple[bytes, str] = persistently(lambda: sync(self._fs.loop, self._get, url, check), url)
        return answer

    async def _get(self, url: str, check: Callable[[int], None]) -> tuple[bytes, str]:
        _, bucket, key = split(url)
        answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key)
        try:
            check(answer["ContentLength"])
            return await _whole(answer["Body"]), answer.get("ETag", "")
        finally:
            answer["Body"].close()

    def _into(self, url: str, work: Callable[[], Any]) -> None:
        persistently(work, url)  # there are no folders to make, and no bucket shall be

    def write(self, url: str, content: bytes) -> None:
        """Put an object in place, whole."""
        persistently(lambda: self._put(url, content), url)

    def write_if(self, url: str, content: bytes, before: Object | None) -> bool:
        """Put an object in place if what lies there is still `before` (None: nothing), in one step; whether it was so."""
        condition = {"IfMatch": before.tag} if before else {"IfNoneMatch": "*"}
        try:
            persistently(lambda: self._put(url, content, **condition), url)
        except FileExistsError:  # or it is ours: the answer to an earlier attempt was lost
            return self.read(url)[0] == content
        except FileNotFoundError:
            if before is None:  # there is no such bucket
                raise
            return False
        return True

    def _put(self, url: str, content: bytes, **more: str) -> None:
        _, bucket, key = split(url)
        if kind := mimetypes.guess_type(key)[0]:
            more["ContentType"] = kind
        self._fs.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **more)

    def age(self, url: str) -> float:
        """Seconds since an object was written, by the server's clock."""
        _, bucket, key = split(url)
        head = persistently(lambda: self._fs.call_s3("head_object", Bucket=bucket, Key=key), url)
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        age: float = (now - head["LastModified"]).total_seconds()
        return age

    def remove(self, url: str) -> None:
        """Remove an object, if it is there."""
        _, bucket, key = split(url)
        persistently(lambda: self._fs.call_s3("delete_object", Bucket=bucket, Key=key), url)


def _object(url: str, info: dict[str, Any]) -> Object:
    tag = next((str(info[name]) for name in TAGS if info.get(name)), "")
    return Object(url, int(info["size"] or 0), tag)


async def _whole(body: Any) -> bytes:
    try:
        content: bytes = await body.read()
    except Exception:  # one of botocore's, aiohttp's or asyncio's
        raise OSError(errno.ECONNABORTED, "the answer broke off") from None
    return content


def bucket_of(url: str) -> Bucket:
    """The store of a URL. Cheap: what lies behind it, connections and credentials, is kept by fsspec."""
    return S3Bucket(url) if split(url)[0] in ("s3", "s3a") else Bucket(url)


def _opened(url: str, make: Callable[[], Any]) -> Any:
    scheme, name, _ = split(url)
    if scheme in ("s3", "s3a") and not name:
        raise UserError(f"{url}: no bucket is named; write {scheme}://BUCKET/PREFIX")
    try:
        return make()
    except ImportError as error:  # fsspec's text says what to install
        raise UserError(f"{url}: {error}; install it beside ferflow") from error
    except ValueError as error:
        raise UserError(f"{url}: {error}; check its beginning, such as s3://BUCKET/PREFIX") from error
    except Exception as error:  # credentials that are looked for at once, hosts that are called
        raise explained(as_os_error(error, url), url) from error


def persistently(work: Callable[[], Result], url: str) -> Result:
    """Do something that may fail for a reason that passes: again after 1, 2 and 4 seconds, unless botocore did so.

    Raises:
        OSError: it failed for good; its strerror says why, its filename is the URL.
    """
    for wait in (*WAITS, None):
        try:
            return work()
        except (UserError, RefusedError):
            raise
        except Exception as error:
            failure = as_os_error(error, url)
            if wait is None or failure.errno in FINAL or _tried_by_botocore(error):
                raise failure from error
            time.sleep(wait)
    raise AssertionError  # the last attempt returned or raised


def _tried_by_botocore(error: BaseException) -> bool:
    return any(type(each).__module__.startswith("botocore.") for each in (error, error.__cause__))


def as_os_error(error: Exception, url: str) -> OSError:
    """A failure as all stores' packages raise it, as one of a disk: with a number, and a text for people."""
    said, name = " ".join(str(error).split()), type(error).__name__
    code = getattr(error.__cause__ or error, "response", {}).get("Error", {}).get("Code")
    if code in CHANGED:
        number, text = errno.EEXIST, "somebody else has changed it"
    elif isinstance(error, FileNotFoundError):
        number, text = errno.ENOENT, "no such bucket" if code == "NoSuchBucket" else "no such object"
    elif isinstance(error, PermissionError) or "Credential" in name or name == "ProfileNotFound":
        number, text = errno.EACCES, f"no permission ({said})"
    elif isinstance(error, TimeoutError) or "Timeout" in name:
        number, text = errno.ETIMEDOUT, "no answer in time"
    elif isinstance(error, OSError) and error.errno:
        number, text = error.errno, error.strerror or said
    else:
        number, text = errno.EIO, said or name
    return OSError(number, text, url)  # of the class that belongs to the number
