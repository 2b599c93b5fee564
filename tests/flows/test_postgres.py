"""Prefect on PostgreSQL, as compose.yaml puts it together, without the containers; and through the database's crash."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys

import cv2
import pytest
import yaml
from conftest import ASTRONAUT, HOPPER, ROOT, kill, rows
from postgres import Postgres, program
from prefect_server import TIMEOUT, Server, wait_until

PHOTOS = 16 * 32  # images: 16 of the smallest shards
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
PAGE = (ROOT / "docs" / "operations.md").read_text()

pytestmark = pytest.mark.skipif(
    program("initdb") is None, reason="needs PostgreSQL (on Debian: apt-get install postgresql)"
)


class Deployed(Server):
    """Services of compose.yaml or of systemd's units on this machine, in a scratch copy of the project."""

    def __init__(self, folder, database):
        (folder / "home").mkdir()
        super().__init__(folder / "home")
        self.workspace = folder / "workspace"
        for name in ("flows", "tasks", "models/champion"):
            shutil.copytree(ROOT / name, self.workspace / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("params.yaml", "prefect.yaml"):
            shutil.copy(ROOT / name, self.workspace)
        self.photos = self.workspace / "photos"
        self.photos.mkdir()
        self.here = {  # in place of what holds in the containers' network
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(database.port),
            "PREFECT_SERVER_DATABASE_PASSWORD": database.password,
            "PREFECT_API_URL": self.url,
            "PREFECT_WORKER_WEBSERVER_PORT": "0",
        }

    def serve(self, name):
        """Start a service, its output in a file of its name."""
        service = SERVICES[name]
        self.environment |= service["environment"] | self.here
        return self.start(*self.here_too([*service["entrypoint"], *service["command"]]), cwd=self.workspace, log=name)

    def serve_alone(self):
        """Start what ferflow.service starts, with the settings of docs/systemd/ferflow.env."""
        lines = (ROOT / "docs/systemd/ferflow.env").read_text().splitlines()
        self.environment |= dict(line.split("=", 1) for line in lines if line.startswith("PREFECT")) | self.here
        return self.start("python", "-m", "flows.cli", "serve", cwd=self.workspace, log="serve")

    def deploy(self):
        """What the service `deploy` does."""
        (commands,) = SERVICES["deploy"]["command"]
        self.environment |= SERVICES["deploy"]["environment"] | self.here
        for command in commands.split(" && "):
            self.run(*shlex.split(command), cwd=self.workspace)

    def ready(self):
        """What the health check of the service `server` says."""
        _, *check = SERVICES["server"]["healthcheck"]["test"]
        return (
            subprocess.run([sys.executable, *self.here_too(check)[1:]], capture_output=True, check=False).returncode
            == 0
        )

    def here_too(self, words):
        return [word.replace("0.0.0.0", "127.0.0.1").replace("4200", str(self.port)) for word in words]

    def labelled(self):
        try:
            return json.loads((self.workspace / "labels" / "run.json").read_text())["images"]["total"]
        except FileNotFoundError:
            return 0

    def shards(self):
        return self.read("worker").count("Finished in state Completed()")

    def runs(self):
        """The states of the runs of `label` that have begun or ended."""
        from prefect.client.orchestration import get_client
        from prefect.settings import temporary_settings

        with temporary_settings({"PREFECT_API_URL": self.url}), get_client(sync_client=True) as client:
            return sorted(run.state_name for run in client.read_flow_runs() if not run.state.is_scheduled())


def page(name):
    """What the page of operations has the user postgres run of a program; once for each time it stands there."""
    lines = re.findall(rf"^runuser -u postgres -- ({name} .*?)(?:  +#.*)?$", PAGE, re.M)
    assert lines, name
    return lines


@pytest.fixture
def database():
    """With the user and the database that the page of operations makes; for one test: what that kills keeps its slots."""
    database = Postgres()
    try:
        database.start()
        (user,) = page("createuser")
        database.run(user.replace(" --pwprompt", ""))
        database.run(f"psql --command \"alter role prefect password '{database.password}'\"")
        database.run(page("createdb")[0])
        yield database
    finally:
        database.remove()


def test_a_run_outlasts_a_crash_of_the_database(database, tmp_path):
    here = Deployed(tmp_path, database)
    photo = cv2.imread(str(ASTRONAUT))
    for number in range(PHOTOS):
        cv2.imwrite(str(here.photos / f"{number:04}.jpg"), photo[number % 100 :, number // 100 :])
    running = [here.serve("server")]
    try:
        wait_until(here.ready, running[0])
        here.deploy()
        here.deploy()  # again, as after every change of prefect.yaml
        running.append(here.serve("worker"))
        here.run("prefect", "deployment", "run", "label/label")
        wait_until(lambda: here.shards() >= 2, running[1])
        database.crash()
        wait_until(lambda: "server/api/artifacts.py" in here.read("server"), running[0])  # the flow has met it
        assert not here.ready()
        done = here.shards()
        database.start()
        wait_until(lambda: here.labelled() == PHOTOS, running[1])
        assert done < here.shards()
        wait_until(lambda: here.runs() == ["Completed"], running[1])
        images = rows(here.workspace / "labels" / "images.csv")
        assert sorted(row["path"] for row in images) == [f"photos/{number:04}.jpg" for number in range(PHOTOS)]
        assert {row["status"] for row in images} <= {"ok", "no_face"}
    finally:
        for process in reversed(running):
            kill(process)


def test_ferflow_serve_keeps_its_history_in_postgresql(database, tmp_path):
    here = Deployed(tmp_path, database)
    deployments = (ROOT / "prefect.yaml").read_text()
    assert "interval: 900" in deployments
    (here.workspace / "prefect.yaml").write_text(deployments.replace("interval: 900", "interval: 8"))
    shutil.copy(ASTRONAUT, here.photos)
    process = here.serve_alone()
    try:
        wait_until(lambda: here.labelled() == 1, process)
        database.crash()
        wait_until(lambda: not here.ready(), process)
        database.start()
        shutil.copy(HOPPER, here.photos)
        wait_until(lambda: here.labelled() == 2 and ended(database) >= 2, process)
        process.send_signal(signal.SIGTERM)  # systemd's
        assert process.wait(TIMEOUT) == 0
    finally:
        if process.poll() is None:
            kill(process)
    assert here.read("serve").endswith("Stopped. The next `ferflow serve` goes on with the schedules.\n")
    assert not (here.folder / "prefect.db").exists()
    runs = ended(database)
    # The page's back-up; its way back into the database as it is, and into a new one.
    back_up, *_ = page("pg_dump")
    database.run(back_up)
    over, into_new = page("pg_restore")
    database.run(over)
    assert ended(database) == runs
    for line in (*page("dropdb"), page("createdb")[1], into_new):
        database.run(line)
    assert ended(database) == runs
    owners = "select distinct tableowner from pg_tables where schemaname = 'public'"
    assert database.run(f'psql --tuples-only --command "{owners}" prefect').split() == ["prefect"]


def ended(database):
    """How many runs Prefect's database knows to have ended well."""
    query = "select count(*) from flow_run where state_type = 'COMPLETED'"
    return int(database.run(f'psql --tuples-only --command "{query}" prefect'))
