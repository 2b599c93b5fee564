"""A PostgreSQL cluster for tests, of the system's programs."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from conftest import free_port
from prefect_server import TIMEOUT, wait_until

DEBIAN = Path("/usr/lib/postgresql")  # its packages put the server's programs there, outside of PATH
SUPERUSER = "postgres"


def program(name):
    """Where a program of PostgreSQL is, or None."""
    folders = [os.environ["PATH"], *(str(folder) for folder in sorted(DEBIAN.glob("*/bin"), reverse=True))]
    return shutil.which(name, path=os.pathsep.join(folders))


class Postgres:
    """A cluster in a folder of its own, that listens on 127.0.0.1 and asks for a password.

    PostgreSQL refuses to run as root: then it runs as nobody, who could not enter pytest's folders.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ferflow-"))  # short: a socket's path has at most 107 bytes
        self.password = secrets.token_hex(16)
        self.process = None
        self.port = free_port()
        self.owner = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self.owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        (self.folder / "password").write_text(self.password)
        (self.folder / "password").chmod(0o644)  # of a folder that is its owner's alone
        made = f"--username {SUPERUSER} --pwfile password --auth scram-sha-256 --no-sync"
        self.run(f"initdb --pgdata data {made}")

    def run(self, line):
        """Run a line of shell in the cluster's folder, as its superuser; returns the output."""
        path = os.pathsep.join((str(Path(program("initdb")).parent), os.environ["PATH"]))
        at = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": SUPERUSER, "PGPASSWORD": self.password}
        environment = os.environ | at | {"PATH": path}
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            **self.owner,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self):
        """Start it, and wait until it answers."""
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder}
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log.txt").open("a") as log:
            self.process = subprocess.Popen(
                [program("postgres"), "-D", self.folder / "data", *given],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.owner,
            )
        ready = [program("pg_isready"), "--quiet", "--host", "127.0.0.1", "--port", str(self.port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, self.process)

    def crash(self):
        """Stop it at once and without order (its immediate shutdown), if it runs."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(TIMEOUT)

    def remove(self):
        self.crash()
        shutil.rmtree(self.folder)
