"""The flow that retrains, on a real Prefect server with real Git and DVC: one workspace through its nights.

The tests build on each other, in this order: each is a night after the one before.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import yaml
from conftest import CANDIDATES, Workspace, kill, programs_in
from prefect_server import TIMEOUT, Server, wait_until

from flows.decision import Outcome
from flows.retrain import DECIDED, look, push_champion, retrain
from tasks import champion, rebuild, versions
from tasks.rebuild import STATE
from tasks.synthetic import draw_face

RUN = "from flows.retrain import retrain; retrain(return_state=True)"
BETTER = {
    "epochs": 20,
    "batch": 8,
    "plateau": None,
    "early_stopping": None,
}  # right on 80 % of val, where 2 epochs are on 15 %


def git(workspace, *arguments, **environment):
    done = subprocess.run(
        ["git", *arguments],
        cwd=workspace.folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def commit(workspace, message="a change", **environment):
    git(workspace, "add", "--all")
    git(workspace, "commit", "--quiet", "--message", message, **environment)


@pytest.fixture(scope="module")
def workspace(built, tmp_path_factory):
    """What `dvc repro` built, committed; accuracy alone decides: hardly trained, the champion may know one expression only."""
    folder = tmp_path_factory.mktemp("nights") / "pipeline"
    shutil.copytree(built[0].folder, folder)
    workspace = Workspace(folder)
    git(workspace, "config", "user.name", "tests")
    git(workspace, "config", "user.email", "tests@localhost")
    workspace.change("gate", max_slowdown=1000.0, max_class_drop=1.0)
    commit(workspace, "built")
    return workspace


def leave_out(workspace, candidate):
    path = workspace.folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    del params["candidates"][candidate]
    path.write_text(yaml.safe_dump(params))


def night(workspace, **given):
    """A retraining in this process; its final state."""
    with contextlib.chdir(workspace.folder):
        return retrain(**given, return_state=True)


def intact(workspace, *champions):
    """The promise: the champion is one of these, byte for byte, and loads; Git is clean."""
    assert workspace.champion() in champions
    champion.load(workspace.folder / "models/champion")
    assert git(workspace, "status", "--porcelain") == ""


def artifact(key):
    from prefect.artifacts import Artifact

    return Artifact.get(key).data


def events(name):
    """The payloads of events of that name; other tests on this server may have caused some."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/events/filter", json={"filter": {"event": {"name": [name]}}, "limit": 50})
    return [event["payload"] for event in answer.json()["events"]]


def test_nothing_changed_is_nothing_to_do(prefect, workspace):
    before = workspace.champion()
    state = night(workspace)
    assert state.is_completed()
    assert state.message == "nothing to do: no data, parameter or code has changed"
    intact(workspace, before)
    assert not (workspace.folder / STATE / "workspace").exists()


def test_what_a_power_cut_left_empty_ends_no_run(prefect, workspace):
    """The names of what a run wrote are on the disk, and their content is not."""
    before = workspace.champion()
    for name in ("installation.json", "running.json"):
        (workspace.folder / STATE / name).touch()
    assert night(workspace).message == "nothing to do: no data, parameter or code has changed"
    intact(workspace, before)


def test_a_decision_without_content_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DECIDED.parent.mkdir(parents=True)
    DECIDED.touch()
    changes = {"parse": ["data/raw"]}
    monkeypatch.setattr(rebuild, "out_of_date", lambda _: changes)
    assert look.fn("data/raw", {"champion": "net"}, False) == changes


def test_an_unclean_workspace_is_refused_with_the_list(prefect, workspace, capfd):
    before = workspace.champion()
    kept = (workspace.folder / "params.yaml").read_text()
    workspace.change("train", seed=8)
    (workspace.folder / "tasks/new.py").touch()
    (workspace.folder / "notes.txt").touch()  # no business of the pipeline's
    state = night(workspace)
    assert state.is_failed()
    assert state.message == (
        "the workspace is not as Git has it: params.yaml, tasks/new.py; commit these changes, or undo them (git status)"
    )
    (workspace.folder / "params.yaml").write_text(kept)
    (workspace.folder / "tasks/new.py").unlink()
    (workspace.folder / "notes.txt").unlink()
    assert "Traceback" not in capfd.readouterr().err
    intact(workspace, before)


def test_a_champion_edited_by_hand_is_refused(prefect, workspace):
    before = workspace.champion()
    model = workspace.folder / "models/champion/model.tflite"
    model.write_bytes(before["model.tflite"][:-1] + b"x")
    assert "not as Git has it: models/champion/model.tflite" in night(workspace).message
    commit(workspace, "by hand")  # clean for Git, but not what was promoted
    assert "model.tflite is damaged (its checksum is not champion.json's)" in night(workspace).message
    git(workspace, "revert", "--no-edit", "HEAD")
    intact(workspace, before)


def write_extra(workspace, name, faces):
    """A file of extra rows: (label, pixels)."""
    path = workspace.folder / "data/raw/extra" / name
    path.parent.mkdir(exist_ok=True)
    rows = (f"{label},{' '.join(map(str, pixels))},Training" for label, pixels in faces)
    path.write_text("\n".join(("emotion,pixels,Usage", *rows)) + "\n")
    return path


def test_broken_new_data_is_refused_whole_before_any_training(prefect, workspace):
    before = workspace.champion()
    good, bad = np.full(2304, 7), np.full(2304, 7)
    good[0], bad[3] = 1, 256
    path = write_extra(workspace, "team.csv", [(3, good), (3, bad), (9, good)])
    state = night(workspace)
    assert state.is_failed()
    assert "data/raw/extra/team.csv, row 3: " in state.message
    assert "data/raw/extra/team.csv, row 4: " in state.message
    path.unlink()
    intact(workspace, before)
    assert night(workspace).message.startswith("nothing to do")


# Moments at which the flow dies: a line of its log, and how long after it (s)
MOMENTS = {
    "prepare": ("Task run 'look", 0.2),
    "train": ("Epoch 5/20", 0.0),
    "evaluate": ("Task run 'train@small' - Finished in state Completed", 2.0),
    "promote": ("Task run 'evaluate@small' - Finished in state Completed", 4.0),
    "smoke set": ("Task run 'promote' - Finished in state Completed", 1.0),
    "install": ("smoke set: ", 0.5),
}


def test_killed_at_any_step_the_next_run_completes_the_work(prefect, workspace):
    before = workspace.champion()
    workspace.change("candidates.small", **BETTER)
    jumped = {"GIT_COMMITTER_DATE": "2001-01-01T00:00:00Z"}  # the clock had gone wrong when this was committed
    commit(workspace, "trained longer", **jumped)
    os.utime(workspace.folder / "data/raw/made_faces.csv", (4e9, 4e9))  # and it had been in the future before
    for moment, (line, pause) in MOMENTS.items():
        log = f"{moment}.txt"
        process = prefect.start("python", "-c", RUN, cwd=workspace.folder, log=log)
        wait_until(lambda log=log, line=line: line in prefect.read(log), process)
        if moment == "train":
            message = night(workspace).message
            assert message == "another retraining is at work in this folder; one at a time is enough"
        time.sleep(pause)
        process.kill()
        process.wait()
        wait_until(lambda: not programs_in(workspace.folder))
        if moment != "install":  # that may be done by now
            intact(workspace, before)
    state = night(workspace)
    after = workspace.champion()
    assert state.is_completed()
    assert after != before
    intact(workspace, after)
    assert "small: continuing after epoch" in prefect.read("evaluate.txt")
    assert git(workspace, "tag").split() == ["champion@v0.0.1"]
    with contextlib.chdir(workspace.folder):
        newest, oldest = versions.history()
    assert (newest.candidate, newest.current, newest.tags) == ("small", True, ("champion@v0.0.1",))
    assert oldest.version == json.loads(before["champion.json"])["version"]
    assert workspace.run("dvc", "status", "--quiet").returncode == 0


def test_what_a_promotion_leaves_in_prefect(prefect, workspace):
    new, old = (version.version for version in versions.history(workspace.folder))
    page = artifact("retrain-decision")
    assert page.startswith(f"# Promoted: {new}")
    assert f"| | champion {old} | challenger {new} |" in page
    assert "- `params.yaml: candidates.small`" in page
    assert f"### Champion {old}: shown (rows), answered (columns)" in page
    rows = {row["candidate"]: row for row in json.loads(artifact("retrain-candidates"))}
    assert rows["small"]["verdict"] == "champion"

    def promotions():
        return [(event["champion"], event["other"]) for event in events("ferflow.champion.promoted")]

    wait_until(lambda: (new, old) in promotions())
    assert promotions().count((new, old)) == 1


def test_a_promotion_is_pushed_where_the_branch_comes_from(prefect, workspace, tmp_path, caplog):
    outcome = Outcome("promoted", (), commit=git(workspace, "rev-parse", "HEAD").strip(), tag="champion@v0.0.1")
    with contextlib.chdir(workspace.folder):
        push_champion(outcome)
        assert "follows no branch of a remote; once run: git push" in caplog.text  # and the champion stays
        subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / "team.git"], check=True)
        git(workspace, "remote", "add", "our/team", str(tmp_path / "team.git"))
        git(workspace, "push", "--quiet", "--set-upstream", "our/team", "HEAD~1:refs/heads/trunk")
        git(workspace, "branch", "--set-upstream-to", "our/team/trunk")
        push_champion(outcome)
    there = git(workspace, "ls-remote", "our/team")
    assert re.findall(rf"({outcome.commit})\trefs/heads/(.*)", there) == [(outcome.commit, "trunk")]
    assert there.count("refs/heads/") == 1
    assert "refs/tags/champion@v0.0.1" in there


def test_prefect_learns_of_runs_that_were_killed(prefect, workspace):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        states = [run.state for run in client.read_flow_runs() if run.deployment_id is None]
    assert sum(state.name == "Crashed" and state.message == "its process died" for state in states) >= len(MOMENTS) - 1


def test_a_rolled_back_champion_does_not_come_back_by_itself(prefect, workspace):
    newest = workspace.champion()
    with contextlib.chdir(workspace.folder):
        gone = champion.load().version
        back = versions.restore(versions.previous()).version.version
    workspace.change("evaluate", worst=30)  # so that there is something to rebuild, which ends with the same network
    commit(workspace, "another sheet")
    decision = f"kept {back}: {gone} was rolled back; `ferflow champion rollback {gone}` brings it back."
    assert night(workspace).message == decision
    judged = night(workspace).message
    assert judged.startswith("nothing to do: all changes were judged on ")
    assert judged.endswith(decision)
    workspace.change("gate", min_gain=0.01)
    commit(workspace, "another gate")
    assert night(workspace).message == decision
    assert night(workspace, force=True).message == decision
    with contextlib.chdir(workspace.folder):
        versions.restore(gone)
    intact(workspace, newest)


def test_a_clone_that_may_not_know_of_a_rollback_is_not_retrained(prefect, workspace, tmp_path):
    clone = Workspace(tmp_path / "clone")
    git(workspace, "clone", "--quiet", "--depth", "1", workspace.folder.as_uri(), str(clone.folder))
    git(clone, "config", "user.name", "tests")
    git(clone, "config", "user.email", "tests@localhost")
    state = night(clone, force=True)
    assert state.is_failed()
    assert state.message == "this clone has the end of Git's history only; first run: git fetch --unshallow"


class Inbox(BaseHTTPRequestHandler):
    """A service that is notified."""

    received: list[str] = []  # noqa: RUF012

    def do_POST(self):
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def inbox(prefect):
    """A notification block of Prefect that posts to a server of this test's, and what arrived there."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    service = HTTPServer(("127.0.0.1", 0), Inbox)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    block = CustomWebhookNotificationBlock(
        name="inbox",
        url=f"http://127.0.0.1:{service.server_port}",
        method="POST",
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    )
    block.save("inbox", overwrite=True)
    yield Inbox.received
    service.shutdown()


def test_a_failing_candidate_and_a_challenger_that_loses_an_expression(prefect, workspace, inbox):
    before = workspace.champion()
    random = np.random.default_rng(5)
    write_extra(workspace, "wrong.csv", [(4, draw_face("happy", random).ravel()) for _ in range(150)])
    workspace.change("gate", refresh_tolerance=1.0, max_class_drop=0.03)  # so that nothing else stands in its way
    workspace.change("candidates", huge=CANDIDATES["small"] | {"options": {"widths": [10**6, 10**6, 10**6]}})
    leave_out(workspace, "muon")
    commit(workspace, "newer data, and a candidate beyond any memory")
    state = night(workspace, notify="custom-webhook/inbox")
    assert state.is_completed()
    assert state.message.startswith(f"kept {json.loads(before['champion.json'])['version']}: ")
    page = artifact("retrain-decision")
    assert "- Recall of happy falls from " in page
    assert "- `train@huge`: ran out of memory" in page
    assert "- `data/raw`" in page
    (notice,) = map(json.loads, inbox)
    assert notice["subject"] == f"ferflow: {state.message}"
    assert "Recall of happy falls from " in notice["body"]
    wait_until(lambda: {"train@huge"} in [set(event["failures"]) for event in events("ferflow.champion.kept")])
    intact(workspace, before)


def test_a_challenger_under_the_bars_is_none(prefect, workspace):
    before = workspace.champion()
    leave_out(workspace, "huge")
    workspace.change("promote", min_accuracy=0.99)
    commit(workspace, "a high bar")
    assert "There is no challenger: no candidate passes the bars" in night(workspace).message
    intact(workspace, before)


def test_a_run_outlives_its_server(workspace, tmp_path):
    before = workspace.champion()
    server = Server(tmp_path)
    start = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(server.port))
    process = server.start(*start, log="server.txt")
    wait_until(server.healthy, process)
    workspace.change("promote", min_accuracy=0.0)
    workspace.change("candidates.small", epochs=8, batch=32)
    commit(workspace, "trained otherwise")
    run = server.start("python", "-c", RUN, cwd=workspace.folder, log="flow.txt")
    wait_until(lambda: "Task run 'train@small' - Epoch 2" in server.read("flow.txt"), run)
    kill(process)
    intact(workspace, before)
    process = server.start(*start, log="server.txt")
    assert run.wait(2 * TIMEOUT) == 0
    kill(process)
    assert "Finished in state Completed" in server.read("flow.txt").splitlines()[-1]
    intact(workspace, workspace.champion())
    assert not programs_in(workspace.folder)


def test_ctrl_c_ends_the_command_at_once_and_it_goes_on_later(workspace, tmp_path):
    before = workspace.champion()
    server = Server(tmp_path)  # not started: the command starts its own, in that home
    del server.environment["PREFECT_API_URL"]
    server.environment["PREFECT_SERVER_API_PORT"] = str(server.port)
    workspace.change("candidates.small", epochs=40)
    commit(workspace, "and longer")
    process = server.start("ferflow", "retrain", cwd=workspace.folder, log="log.txt")
    wait_until(lambda: "Task run 'train@small' - Epoch 3" in server.read("log.txt"), process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert (
        server.read("log.txt").splitlines()[-1] == "ferflow: interrupted; the same command continues where it stopped"
    )
    assert "Traceback" not in server.read("log.txt")
    assert not programs_in(workspace.folder)
    assert not server.healthy()
    intact(workspace, before)
