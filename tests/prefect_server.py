"""A real Prefect server for tests, one for the whole session, and programs of the environment that use it."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, free_port, kill

TIMEOUT = 300  # s, for a machine with other work to do


class Server:
    """A Prefect server of its own, with a home of its own."""

    def __init__(self, folder):
        self.port = free_port()
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            "PREFECT_HOME": str(folder),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_CLI_PROMPT": "false",
            "NO_COLOR": "1",
        }

    def start(self, *command, cwd=ROOT, log="log.txt"):
        """Start a program of the environment in a process group of its own, its output in a file."""
        program = Path(sys.executable).with_name(command[0])
        with (self.folder / log).open("a") as file:
            return subprocess.Popen(
                [program, *command[1:]],
                cwd=cwd,
                env=os.environ | self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def run(self, *command, cwd=ROOT):
        process = self.start(*command, cwd=cwd, log="commands.txt")
        assert process.wait(TIMEOUT) == 0, self.read("commands.txt")

    def read(self, log):
        return (self.folder / log).read_text(errors="replace")

    def healthy(self):
        try:
            return urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200
        except OSError:
            return False


def wait_until(true, process=None):
    """Wait for a condition, and for no longer than a program lives that should bring it about."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        assert process is None or process.poll() is None, "it ended"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def forget(url, *deployments):
    """Delete deployments and their triggers: what later tests do with the server shall not start runs of them."""
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    with temporary_settings({"PREFECT_API_URL": url}), get_client(sync_client=True) as client:
        for name in deployments:
            deployment = client.read_deployment_by_name(name)
            client.delete_resource_owned_automations(f"prefect.deployment.{deployment.id}")
            client.delete_deployment(deployment.id)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("prefect"))
    process = server.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(server.port))
    try:
        wait_until(server.healthy, process)
        yield server
    finally:
        kill(process)


@pytest.fixture(scope="session")
def prefect(server):
    """This process's Prefect uses the server, and has said all it had to before that ends."""
    from prefect import settings
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    with settings.temporary_settings(
        {
            settings.PREFECT_HOME: server.folder,
            settings.PREFECT_API_URL: server.url,
            settings.PREFECT_LOCAL_STORAGE_PATH: server.folder / "storage",
        }
    ):
        yield server
        APILogWorker.instance().drain()
        EventsWorker.drain_all()
