"""`ferflow serve` as a user runs it: it labels on a schedule, answers events, and leaves nothing behind however it ends."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer

import pytest
from conftest import ASTRONAUT, FLOWER, HOPPER, ROOT, free_port, kill
from prefect_server import TIMEOUT, Server, forget, wait_until

from flows.deployments import read_deployments
from flows.server import local_server
from tasks.errors import UserError

SLOW_RETRAIN = """
import time
from prefect import flow

@flow(name="retrain")
def retrain(force: bool = False, push: bool = False, notify: str | None = None, work_pool: str | None = None):
    time.sleep(1000)
"""


class Serving:
    """A scratch workspace with a Prefect home of its own, where `ferflow serve` runs again and again."""

    def __init__(self, folder):
        self.folder, self.home = folder / "workspace", folder / "home"
        self.home.mkdir()
        for name in ("flows", "tasks", "models/champion"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "params.yaml", self.folder)
        (self.folder / "flows" / "retrain.py").write_text(SLOW_RETRAIN)
        deployments = (ROOT / "prefect.yaml").read_text()
        assert "interval: 900" in deployments
        (self.folder / "prefect.yaml").write_text(deployments.replace("interval: 900", "interval: 8"))
        self.add(ASTRONAUT)
        self.port = free_port()

    def read(self, log="log.txt"):
        return (self.folder / log).read_text()

    def add(self, photo):
        (self.folder / "photos").mkdir(exist_ok=True)
        shutil.copy(photo, self.folder / "photos")

    def labelled(self):
        try:
            return json.loads((self.folder / "labels" / "run.json").read_text())["images"]["total"]
        except FileNotFoundError:
            return 0

    def start(self, *arguments, log="log.txt", **environment):
        """Start `ferflow serve`, in a process group of its own as from a terminal."""
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT")}
        own = {
            "HOME": str(self.home),
            "PREFECT_HOME": str(self.home),
            "PYTHONPATH": str(self.folder),
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",  # s; Prefect's 10 only make the test wait
        }
        with (self.folder / log).open("w") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "serve", *arguments],
                cwd=self.folder,
                env=inherited | own | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @contextmanager
    def running(self, *arguments, **environment):
        """`ferflow serve` when it says that it serves; killed in the end if nothing else ended it."""
        process = self.start(*arguments, **environment)
        try:
            wait_until(lambda: "Ctrl-C" in self.read(), process)
            yield process
        finally:
            process.kill()
            process.wait()
            wait_until(lambda: not self.processes())

    def processes(self):
        """Of this Prefect home, whatever their parents and groups are."""
        mark, found = f"PREFECT_HOME={self.home}".encode(), []
        for file in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in file.read_bytes().split(b"\0"):
                    found.append(int(file.parent.name))
            except OSError:
                pass  # ended, or another user's
        return found

    def listening(self):
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @contextmanager
    def client(self):
        from prefect.client.orchestration import get_client
        from prefect.settings import temporary_settings

        with (
            temporary_settings({"PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api"}),
            get_client(sync_client=True) as client,
        ):
            yield client


def runs(client, deployment):
    """All runs of a deployment that were not left out or planned."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    wanted = FlowRunFilter.model_validate(
        {"deployment_id": {"any_": [deployment.id]}, "start_time": {"is_null_": False}}
    )
    return client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_DESC)


def triggers(client):
    """Of all deployments: event, and whether it is heeded."""
    answer = client.request("POST", "/automations/filter", json={})
    return sorted((*automation["trigger"]["expect"], automation["enabled"]) for automation in answer.json())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes as Linux has them")
def test_it_serves_until_it_is_ended_and_goes_on_later(tmp_path):
    serving = Serving(tmp_path)
    with serving.running("--port", str(serving.port)) as process:
        assert f"Prefect's pages: http://127.0.0.1:{serving.port}\n" in serving.read()
        assert serving.read().count("next run") == 2
        promoting = promote(serving.port)
        second = serving.start("--port", str(serving.port + 1), log="second.txt")
        with serving.client() as client:
            label = client.read_deployment_by_name("label/label")
            retrain = client.read_deployment_by_name("retrain/retrain")
            client.create_flow_run_from_deployment(retrain.id)
            assert [deployment.schedules[0].active for deployment in (label, retrain)] == [True, True]
            assert (retrain.schedules[0].schedule.cron, retrain.schedules[0].schedule.timezone) == ("30 3 * * *", "UTC")
            assert label.parameters == {"sources": ["photos"], "out": "labels"}
            assert triggers(client) == [("ferflow.champion.promoted", True), ("ferflow.labels.drifted", False)]
            assert promoting.wait(TIMEOUT) == 0
            wait_until(
                lambda: any(run.created_by and run.created_by.type == "AUTOMATION" for run in runs(client, label))
            )
            wait_until(lambda: any(run.state.is_running() for run in runs(client, retrain)))
            wait_until(lambda: serving.labelled() == 1, process)
        assert second.wait(TIMEOUT) == 1
        assert_one_line(serving.read("second.txt"), f"ferflow: another `ferflow serve` runs in {serving.folder}")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
        assert serving.processes() == []
        assert not serving.listening()

    serving.add(HOPPER)
    with serving.running("--port", str(serving.port)) as process:
        wait_until(lambda: serving.labelled() == 2, process)
        with serving.client() as client:
            assert [run.state_name for run in runs(client, retrain)] == ["Cancelled"]
            assert len(triggers(client)) == 2
            hold_slot(client, label)
        process.kill()
        wait_until(lambda: not serving.processes() and not serving.listening())

    serving.add(FLOWER)
    with serving.running(PREFECT_API_URL=f"http://127.0.0.1:{serving.port}/api") as process:
        wait_until(lambda: serving.labelled() == 3, process)
        wait_until(lambda: "label Completed" in serving.read(), process)
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        assert serving.processes() == []
        output = serving.read()
    assert output.endswith("Stopping ...\nStopped. The next `ferflow serve` goes on with the schedules.\n")
    assert "Traceback" not in output


def promote(port):
    """Start to emit the event, in a process of its own as the flow does."""
    code = (
        "from prefect.events import emit_event\n"
        "emit_event('ferflow.champion.promoted', {'prefect.resource.id': 'ferflow.champion'})"
    )
    address = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | address)


def hold_slot(client, label):
    """Leave a run that never ends, as a kill of the flow does: it has the only slot of the deployment."""
    from prefect.states import Pending

    def held():
        run = client.create_flow_run_from_deployment(label.id)
        client.set_flow_run_state(run.id, Pending())
        return client.read_flow_run(run.id).state.is_pending()

    wait_until(held)


def assert_one_line(output, beginning):
    lines = [line for line in output.splitlines() if line != "Starting Prefect ..."]
    assert len(lines) == 1
    assert lines[0].startswith(beginning)


def test_with_a_server_that_is_set_it_leaves_that_running(server, tmp_path):
    serving = Serving(tmp_path)
    with serving.running(PREFECT_API_URL=f"{server.url}/") as process:
        assert f"{server.port} (a server that ran already)" in serving.read()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
        assert serving.processes() == []
    assert server.healthy()
    forget(server.url, "label/label", "retrain/retrain")


def test_a_server_of_others_that_is_gone_ends_it(tmp_path):
    theirs = Server(tmp_path)
    process = theirs.start(
        "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(theirs.port), log="server.txt"
    )
    wait_until(theirs.healthy, process)
    theirs.environment["PREFECT_CLIENT_MAX_RETRIES"] = "0"
    serving = theirs.start("python", "-c", "from flows import cli, serve; serve.GONE = 1; cli.main()", "serve")
    wait_until(lambda: "Ctrl-C ends it" in theirs.read("log.txt"), serving)
    kill(process)
    assert serving.wait(TIMEOUT) == 1
    assert f"ferflow: no Prefect server answers at {theirs.url}/ any more; start this again" in theirs.read("log.txt")


class NoPrefect(BaseHTTPRequestHandler):
    """Another program's pages."""

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_a_port_of_another_program_is_one_line(tmp_path):
    serving = Serving(tmp_path)
    with HTTPServer(("127.0.0.1", 0), NoPrefect) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        process = serving.start("--port", str(other.server_port))
        assert process.wait(TIMEOUT) == 1
        other.shutdown()
    assert_one_line(serving.read(), f"ferflow: port {other.server_port} is used by a program that is no Prefect server")
    process = serving.start(PREFECT_API_URL="http://nowhere.invalid:4200/api")
    assert process.wait(TIMEOUT) == 1
    assert_one_line(serving.read(), "ferflow: no Prefect server answers at http://nowhere.invalid:4200/api")


ONE_SERVER = """
from flows.runner import use_settings
use_settings()
from flows.server import local_server
with local_server(PORT) as server:
    print("ours" if server else "theirs", flush=True)
    input()
"""


def test_two_that_need_a_server_at_once_start_one(tmp_path):
    """Both first ones: each would make the database."""
    port = free_port()
    program = [sys.executable, "-c", ONE_SERVER.replace("PORT", str(port))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PREFECT_HOME": str(tmp_path)}
    both = [subprocess.Popen(program, cwd=ROOT, env=environment, **pipes) for _ in range(2)]
    said = [process.stdout.readline().strip() for process in both]
    assert sorted(said) == ["ours", "theirs"]
    for process in sorted(both, key=lambda process: said[both.index(process)], reverse=True):  # the server ends last
        process.communicate("\n", TIMEOUT)
        assert process.returncode == 0


class NoPages(BaseRequestHandler):
    """A program that speaks first, as mail and SSH servers do."""

    def handle(self):
        self.request.sendall(b"SSH-2.0-none\r\n")


def test_a_port_of_a_program_without_pages_is_one_line():
    with TCPServer(("127.0.0.1", 0), NoPages) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with (
            pytest.raises(UserError, match="is used by a program that is no Prefect server"),
            local_server(other.server_address[1]),
        ):
            pass
        other.shutdown()


@pytest.mark.parametrize("port", ["99999", "4200x"])
def test_an_address_that_is_none_is_one_line(port):
    from prefect.settings import temporary_settings

    address = f"http://127.0.0.1:{port}/api"
    with (
        temporary_settings({"PREFECT_API_URL": address}),
        pytest.raises(UserError, match=f"PREFECT_API_URL is {address}: .*; such as http://HOST:4200/api"),
        local_server(),
    ):
        pass


@pytest.mark.parametrize("address", ["http://127.0.0.1:{}", "https://localhost:{}/api", "http://localhost:{}/apis"])
def test_an_address_at_which_no_server_would_be_is_one_line(address):
    """Where one is started for it, nothing would answer there."""
    from prefect.settings import temporary_settings

    port = free_port()
    with (
        temporary_settings({"PREFECT_API_URL": address.format(port)}),
        pytest.raises(
            UserError, match=rf"{address.format(port)} \(PREFECT_API_URL\); one on this computer is at http://.*/api$"
        ),
        local_server(),
    ):
        pass


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: ferflow", "name: [", "prefect.yaml, line 16: expected the node content"),
        ("deployments:", "deploy:", "prefect.yaml: no list of deployments"),
        ("    schedules:", "    schedule:", "deployment label: unknown key schedule; did you mean schedules?"),
        ("    triggers:", "    triggers: 5\n    tags:", "deployment label: triggers is 5, no list"),
        ("    triggers:", "    tags: photos\n    triggers:", "deployment label: tags is 'photos', no list"),
        ("- name: label", "- name: 5", "prefect.yaml, deployment 5: 5 is no name"),
        ("- name: label", "- name: a/b", "prefect.yaml, deployment a/b: 'a/b' is no name; use text without / % & > <"),
        ("      out: labels", "      out: labels\n      out: faces", "prefect.yaml, line 31: 'out' is there twice"),
        ("work_pool:", "enabled: true\n    work_pool:", "deployment label: unknown key enabled"),
        ("description: Labels", "description: 5  #", "deployment label: description: Input should be a valid string"),
        ("py:label_photos", "py:run_shards", "deployment label: Function with name 'run_shards' is not a flow."),
        ("sources: [", "source: [", "deployment label, parameters: unknown key source; did you mean sources?"),
        ("sources: [photos]", "sources: photos", "label, parameters: sources: 'photos' is not of type 'array'"),
        ("sources: [photos]", "sources: [photos, 5]", "label, parameters: sources: 1: 5 is not of type 'string'"),
        ("out: labels", "out: 2026-13-01", "prefect.yaml: month must be in 1..12"),
        ("      out: labels\n", "", "deployment label, parameters: 'out' is a required property"),
        ("push: false", "push: maybe", "deployment retrain, parameters: push: 'maybe' is not of type 'boolean'"),
        ("cron:", "parameters: {froce: true}\n        cron:", "deployment retrain, parameters: unknown key froce"),
        ("expect:", "expects:", "deployment label, triggers: unknown key expects; did you mean expect?"),
        ("interval: 900", "interval: often", "deployment label: interval: Input should be a valid timedelta"),
        ("30 3 * * *", "99 3 * * *", "deployment retrain: cron: "),
        ("collision_strategy: CANCEL_NEW", "collision_strategy: QUEUE", "deployment label: collision_strategy: "),
        ("limit: 1", "limit: 0", "deployment label: concurrency_limit: 0 is less than 1"),
        ("timezone: UTC", "timezone: Lisboa", "deployment retrain: timezone: "),
        ("label.py:label_photos", "label.py:label", "deployment label: no function label in flows/label.py"),
        ("flows/label.py", "flows/labels.py", "deployment label: cannot read entrypoint flows/labels.py"),
    ],
)
def test_a_mistake_in_prefect_yaml_is_one_line(old, new, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    deployments = (ROOT / "prefect.yaml").read_text()
    assert old in deployments
    (tmp_path / "prefect.yaml").write_text(deployments.replace(old, new, 1))
    with pytest.raises(UserError) as failure:
        read_deployments()
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)


def test_two_deployments_of_one_name_are_one_line(tmp_path, monkeypatch):
    """The second would take the place of the first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    label = "  - name: label\n    entrypoint: flows/label.py:label_photos\n    parameters: {sources: [photos], out: labels}\n"
    (tmp_path / "prefect.yaml").write_text(f"deployments:\n{label}{label.replace('name: label', 'name: again')}")
    assert len(read_deployments()) == 2
    (tmp_path / "prefect.yaml").write_text(f"deployments:\n{label}{label}")
    with pytest.raises(UserError, match=r"prefect\.yaml: two deployments are label/label; give each a name of its own"):
        read_deployments()


def test_a_trigger_may_be_made_of_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    deployments = (ROOT / "prefect.yaml").read_text()
    both = """    triggers:
      - type: compound
        require: all
        within: 60
        triggers: [{expect: [ferflow.champion.promoted]}, {expect: [ferflow.labels.drifted]}]
      - name"""
    (tmp_path / "prefect.yaml").write_text(deployments.replace("    triggers:\n      - name", both, 1))
    assert len(read_deployments()) == 2
    (tmp_path / "prefect.yaml").write_text(
        deployments.replace("    triggers:\n      - name", both, 1).replace("require", "requires")
    )
    with pytest.raises(UserError, match="deployment label, triggers: unknown key requires; did you mean require"):
        read_deployments()


def test_what_a_flow_needs_may_come_from_the_schedule(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    deployments = (ROOT / "prefect.yaml").read_text().replace("      out: labels\n", "")
    given = deployments.replace("- interval: 900", "- interval: 900\n        parameters: {out: labels}")
    (tmp_path / "prefect.yaml").write_text(given)
    assert len(read_deployments()) == 2


def test_without_prefect_yaml_it_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no prefect.yaml here; run this in the folder of the pipeline"):
        read_deployments()
