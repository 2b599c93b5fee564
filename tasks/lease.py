"""One run at a time writes below a prefix of a bucket: it holds an object there, and renews it while it lives."""

import json
import platform
import threading
import uuid
from contextlib import suppress
from datetime import UTC, datetime

from tasks.buckets import bucket_of
from tasks.errors import UserError

LEASE = 90.0  # s that an object is good for; renewed three times as often


class Lease:
    """The right to write below a prefix, until `release`.

    S3 decides by one conditional request who gets it. Stores that know no conditions are asked twice, which leaves a moment in
    which two runs may both get it; the one that finds out later ends.

    Args:
        url: of the object.
        place: names the folder that stands for the prefix on this machine. Only one run can have that, so that an object with
            this name is of a run that has died.

    Raises:
        UserError: another run holds it.
        OSError: the bucket does not take it.
    """

    def __init__(self, url: str, place: str) -> None:
        self._bucket, self._url = bucket_of(url), url
        me = {"run": uuid.uuid4().hex, "place": place, "machine": platform.node()}
        self._content = json.dumps(me | {"since": datetime.now(UTC).isoformat(timespec="seconds")}).encode()
        before = self._bucket.look(url)
        if before is not None:
            self._refuse(place)
        if not self._bucket.write_if(url, self._content, before):
            self._refuse("")
            raise UserError(f"another run has just let go of {url.rpartition('/')[0]}; run the same command again")
        self._held = self._bucket.look(url)
        self._lost, self._ended = False, threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _refuse(self, place: str) -> None:
        """Refuse unless the run that holds the object was of this place, or has not renewed it for long."""
        try:
            holder = json.loads(self._bucket.read(self._url)[0])
            mine, who = holder["place"] == place, f"on {holder['machine']}, since {holder['since']}"
            left = LEASE - self._bucket.age(self._url)
        except FileNotFoundError:  # it has ended just now
            return
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{self._url} is no lock of ferflow; remove it, or name another --out") from None
        if not mine and left > 0:
            out = self._url.rpartition("/")[0]
            raise UserError(
                f"another run ({who}) is labelling into {out}; wait for it, or name another --out. "
                f"If it has died, the same command works in {left:.0f} s"
            )

    def _keep(self) -> None:
        while not self._ended.wait(LEASE / 3):
            try:
                if not self._bucket.write_if(self._url, self._content, self._held):
                    self._lost = True
                    return
                self._held = self._bucket.look(self._url)
            except OSError:  # it stays ours until another run takes it, and then that shows
                continue

    def check(self) -> None:
        """Raises UserError if another run has it by now: the network was away for longer than the lease."""
        if self._lost:
            raise UserError(
                f"another run has taken over {self._url.rpartition('/')[0]}; wait for it, then run the same command"
            )

    def release(self) -> None:
        """Let another run have it."""
        self._ended.set()
        self._thread.join()
        if not self._lost:
            with suppress(OSError):  # then it ends by itself, and the work is done
                # Asleep for long, one finds out only now that another run has it.
                if self._bucket.read(self._url)[0] == self._content:
                    self._bucket.remove(self._url)
