"""Candidates that the workers of a Prefect work pool train: clones of their own, an S3 server between, a real Prefect server.

The tests build on each other, in this order.
"""

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress

import pytest
from conftest import CANDIDATES, ROOT, Workspace, programs_in
from prefect_server import TIMEOUT, wait_until
from s3 import S3

from flows import candidates
from flows.candidates import train_elsewhere
from flows.retrain import build
from tasks import elsewhere, params, rebuild
from tasks.errors import UserError

POOL = "training"
RETRAIN = """
from flows import candidates
from flows.retrain import retrain

candidates.SILENCE = 40
print(retrain(work_pool="training", return_state=True).message)
"""


def git(workspace, *arguments):
    subprocess.run(["git", *arguments], cwd=workspace.folder, capture_output=True, check=True)


def commit(workspace, message):
    git(workspace, "add", "--all")
    git(workspace, "commit", "--quiet", "--message", message)
    git(workspace, "push", "--quiet", "origin", "HEAD:main")


@pytest.fixture(scope="module")
def workspace(built, s3: S3, tmp_path_factory):
    """Who retrains: what `dvc repro` built, with a remote, and both candidates changed since."""
    s3.client().create_bucket(Bucket="shared")
    folder = tmp_path_factory.mktemp("candidates")
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch", "main", folder / "team.git"], check=True)
    workspace = Workspace(shutil.copytree(built[0].folder, folder / "home"))
    shutil.copytree(ROOT / "flows", workspace.folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    git(workspace, "config", "user.name", "tests")
    git(workspace, "config", "user.email", "tests@localhost")
    git(workspace, "remote", "add", "origin", str(folder / "team.git"))
    workspace.change("gate", max_slowdown=1000.0)
    workspace.change("candidates.small", batch=16)
    workspace.change("candidates.muon", batch=16, epochs=2)
    commit(workspace, "other batches")
    return workspace


def test_what_is_missing_is_told(prefect, workspace, monkeypatch):
    monkeypatch.chdir(workspace.folder)
    settings = params.load()
    folder = rebuild.renew(settings)
    with pytest.raises(UserError, match=r"no remote specified in .* Create a default remote with dvc remote add -d"):
        elsewhere.offer(folder, ["small"], [])
    with pytest.raises(UserError, match="no work pool 'training'; `ferflow worker training` on a machine makes it"):
        train_elsewhere(folder, ["small"], settings, POOL)  # before anything is uploaded
    done = workspace.run("dvc", "remote", "add", "--default", "storage", "s3://shared/ferflow")
    assert done.returncode == 0, done.stderr
    commit(workspace, "a remote")


def test_a_run_that_somebody_removes_costs_its_candidate_alone(prefect):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="nobody", type="process"))
        deployment = candidates._deploy(client, "nobody")
        given = {"name": "small", "commit": "", "lock": "", "hours": 1.0}
        removed = candidates._start(deployment, given)
        client.delete_flow_run(removed)
        ended = candidates._look_after(client, "nobody", {"small": removed})
    assert ended["small"].is_crashed()
    assert ended["small"].message == "somebody removed its run"


class Worker:
    """`ferflow worker` in a clone of its own."""

    def __init__(self, prefect, workspace, name):
        self.prefect, self.log = prefect, f"worker-{name}.txt"
        self.folder = workspace.folder.with_name(name)
        git(workspace, "clone", "--quiet", str(workspace.folder.with_name("team.git")), str(self.folder))
        self.process = prefect.start("python", "-m", "flows.cli", "worker", POOL, cwd=self.folder, log=self.log)

    def said(self):
        return self.prefect.read(self.log)

    def kill(self):
        """As a power cut would."""
        while programs := programs_in(self.folder):
            for program in programs:
                with suppress(ProcessLookupError):
                    os.kill(int(program), signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def workers(prefect, workspace):
    running = [Worker(prefect, workspace, name) for name in ("one", "two")]
    for worker in running:
        wait_until(lambda worker=worker: "started!" in worker.said(), worker.process)
    yield running
    for worker in running:
        worker.kill()


def trained(workspace):
    """What the trainings wrote, by stage."""
    return {name: stage["outs"] for name, stage in workspace.lock().items() if name.startswith("train@")}


def test_each_worker_trains_one_and_the_outcome_is_the_same(prefect, workspace, workers, tmp_path, monkeypatch, capfd):
    plain = Workspace(shutil.copytree(workspace.folder, tmp_path / "plain", ignore=shutil.ignore_patterns("tmp")))
    alone = plain.start("dvc", "repro", "train@small", "train@muon")
    monkeypatch.chdir(workspace.folder)
    settings = params.load()
    folder = rebuild.renew(settings)
    (folder / "models/timings/small.json").unlink()
    assert build(folder, settings, POOL) == {}
    assert "Epoch 1/" not in capfd.readouterr().err  # not here
    assert sorted("train@small" in worker.said() for worker in workers) == [False, True]
    assert sorted("train@muon" in worker.said() for worker in workers) == [False, True]
    assert all("Epoch 2/2" in worker.said() for worker in workers)
    assert "train_minutes" in json.loads((folder / "models/timings/small.json").read_text())
    assert alone.wait(TIMEOUT) == 0, (plain.folder / "log.txt").read_text()
    assert trained(Workspace(folder)) == trained(plain)
    assert trained(plain) != trained(workspace)
    assert rebuild.dvc("status", "train@small", "train@muon", folder=folder).startswith("Data and pipelines are up")


def test_a_worker_that_dies_costs_its_candidate_alone(prefect, workspace, workers):
    from prefect.artifacts import Artifact

    workspace.change("candidates.small", epochs=500)
    workspace.change("candidates.muon", batch=8)
    commit(workspace, "a long training")
    run = prefect.start("python", "-c", RETRAIN, cwd=workspace.folder, log="dying.txt")
    wait_until(lambda: any("Epoch 3/500" in worker.said() for worker in workers), run)
    for worker in workers:
        if "Epoch 3/500" in worker.said():
            worker.kill()
    assert run.wait(TIMEOUT) == 0, prefect.read("dying.txt")
    said = prefect.read("dying.txt")
    assert "Task run 'evaluate@muon' - Finished in state Completed" in said
    assert "Task run 'evaluate@small'" not in said
    assert "- `train@small`: its worker is gone" in Artifact.get("retrain-decision").data
    ranked = json.loads(Artifact.get("retrain-candidates").data)  # without what `small` was by an earlier recipe
    assert [row["candidate"] for row in ranked] == ["muon"]


def test_a_student_is_taught_by_what_a_worker_trained(prefect, workspace, workers):
    workspace.change("candidates.small", epochs=2)
    taught = {"labels": "taught", "taught": {"by": ["small"], "share": 0.5}, "epochs": 1}
    workspace.change("candidates", student=CANDIDATES["small"] | taught)
    path = workspace.folder / "params.yaml"
    path.write_text(path.read_text().replace("teachers: {}", "teachers: {small: taught}"))
    commit(workspace, "a student")
    command = ("python", "-m", "flows.cli", "retrain", "--work-pool", POOL)
    run = prefect.start(*command, cwd=workspace.folder, log="student.txt")
    assert run.wait(TIMEOUT) == 0, prefect.read("student.txt")
    said = prefect.read("student.txt")
    order = ("train@small", "teach@small", "train@student", "evaluate@student")
    ends = [said.index(f"Task run '{stage}' - Finished in state Completed") for stage in order]
    assert ends == sorted(ends)
    assert "Epoch 1/" not in said  # not here
    assert any("train@student" in worker.said() for worker in workers)
