"""The labelling flow on Dask: a real scheduler, workers in processes of their own that are killed, a real Prefect server."""

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from threading import Thread

import pytest
from conftest import CHAMPION, ROOT, free_port, kill, rows, tables, write_photos
from prefect import flow, task
from prefect_server import TIMEOUT, wait_until

from flows import crew as crew_module
from flows import label as flow_module
from flows.label import label_photos
from flows.shards import AN_IMAGE, SMALLEST, Shard
from tasks.errors import UserError
from tasks.folder import label_folder
from tasks.label import Labelled, make_settings
from tasks.sources import ImageFile

SHARD, SHARDS = 20, 10
DONE = "Finished in state Completed()"
RUN = (
    "import sys; from flows.label import label_photos; label_photos([sys.argv[1]], *sys.argv[2:4], cluster=sys.argv[4])"
)


class Cluster:
    """A scheduler and its workers, each in a process of its own, in a folder that is not the flow's."""

    def __init__(self, folder):
        self.folder, self.running = folder, {}
        found = folder / "address.json"
        self.start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(found))
        wait_until(found.exists, self.running["scheduler"])
        self.address = json.loads(found.read_text())["address"]

    def start(self, name, *command):
        """Without Prefect's settings: a worker has them from the flow."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        with (self.folder / name).open("w") as log:
            self.running[name] = subprocess.Popen(
                [Path(sys.executable).with_name("dask"), *command, "--no-dashboard"],
                cwd=self.folder,
                env=environment | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(self.folder / "home")},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_worker(self, name):
        self.start(name, "worker", self.address, "--nthreads", "1", "--name", name)
        wait_until(lambda: "Registered to" in self.read(name), self.running[name])

    def read(self, name):
        return (self.folder / name).read_text()

    def kill(self, name):
        kill(self.running.pop(name))


@pytest.fixture
def cluster(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    cluster = Cluster(folder)
    yield cluster
    for process in cluster.running.values():
        kill(process)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos to find faces in, for ten shards, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, SHARDS * SHARD, SMALLEST // SHARD - AN_IMAGE + 1)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory):
    """The tables of one machine's threads."""
    out = tmp_path_factory.mktemp("expected")
    label_folder([str(photos)], out, champion=CHAMPION)
    return tables(out)


def check(out, photos, expected):
    assert tables(out) == expected
    assert sorted(Path(row["path"]).name for row in rows(out / "images.csv")) == sorted(
        path.name for path in photos.iterdir()
    )


def failure(photos, out, cluster, champion=CHAMPION):
    """The message of a run that Failed."""
    state = label_photos([str(photos)], str(out), str(champion), cluster=cluster, return_state=True)
    assert state.is_failed()
    assert "\n" not in state.message
    return state.message


def test_worker_processes_label_as_threads_do(prefect, photos, expected, tmp_path):
    run = label_photos([str(photos)], str(tmp_path / "out"), str(CHAMPION), cluster="local:2")
    assert run["images"]["labelled"] == SHARDS * SHARD + 1
    check(tmp_path / "out", photos, expected)


def test_a_killed_workers_shards_are_done_again(prefect, cluster, photos, expected, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    for name in ("first", "second"):
        cluster.start_worker(name)
    arguments = (str(photos), str(tmp_path / "out"), str(CHAMPION), cluster.address)
    flow = prefect.start("python", "-c", RUN, *arguments, log="cluster.txt")
    wait_until(lambda: DONE in cluster.read("first"), flow)
    cluster.kill("first")  # it has another shard under way
    assert flow.wait(TIMEOUT) == 0, prefect.read("cluster.txt")
    check(tmp_path / "out", photos, expected)
    run_id = re.search(r"runs/flow-run/([0-9a-f-]{36})", prefect.read("cluster.txt"))[1]
    with get_client(sync_client=True) as client:
        this_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        # States come to the server as events, a little later; the killed worker's last ones may have been lost with it.
        wait_until(lambda: states(client, this_run)["COMPLETED"] >= SHARDS // 2)
        assert states(client, this_run).keys() <= {"COMPLETED", "RUNNING"}


def states(client, flow_run):
    return Counter(task.state.type.value for task in client.read_task_runs(flow_run_filter=flow_run))


def test_when_all_workers_die_a_line_says_so_and_nothing_is_lost(
    prefect, cluster, photos, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(crew_module, "ALONE", 2.0)
    out = tmp_path / "out"
    cluster.start_worker("only")

    def kill_it():
        wait_until(lambda: cluster.read("only").count(DONE) >= 3)
        cluster.kill("only")

    killer = Thread(target=kill_it)
    killer.start()
    assert failure(photos, out, cluster.address).startswith(f"no worker at {cluster.address} for 2 s; start some")
    killer.join()
    run = label_photos([str(photos)], str(out), str(CHAMPION))
    assert run["images"]["reused"] >= 2 * SHARD
    check(out, photos, expected)


def test_a_worker_that_dies_with_what_it_has_finished_is_not_waited_for(
    prefect, cluster, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(crew_module, "ALONE", 2.0)
    cluster.start_worker("only")
    next_finished = crew_module.DaskCrew._next

    def finished_and_gone(crew):
        future = next_finished(crew)
        cluster.kill("only")
        wait_until(lambda: not crew._threads())
        return future

    monkeypatch.setattr(crew_module.DaskCrew, "_next", finished_and_gone)
    assert failure(photos, tmp_path / "out", cluster.address).startswith(f"no worker at {cluster.address} for 2 s")


def test_a_scheduler_that_goes_away_is_one_line(prefect, cluster, photos, tmp_path):
    cluster.start_worker("only")

    def kill_it():
        wait_until(lambda: DONE in cluster.read("only"))
        cluster.kill("scheduler")

    killer = Thread(target=kill_it)
    killer.start()
    message = failure(photos, tmp_path / "out", cluster.address)
    killer.join()
    assert message.startswith(f"the Dask scheduler at {cluster.address} went away")


def test_a_client_that_fails_to_close_hides_no_reason(cluster, monkeypatch):
    """As one does whose connecting anew times out in that moment."""
    from distributed import Client

    close = Client.close

    def failing(self, *args, **kwargs):
        close(self, *args, **kwargs)
        raise RuntimeError("Cannot change state of expiring Timeout")

    monkeypatch.setattr(Client, "close", failing)
    with pytest.raises(UserError, match=r"^the reason$"), crew_module._connected(cluster.address):
        raise UserError("the reason")


def test_a_champion_that_the_worker_does_not_have_is_one_line(prefect, cluster, photos, tmp_path, monkeypatch):
    cluster.start_worker("only")
    champion = shutil.copytree(CHAMPION, tmp_path / "champion")
    cut = flow_module.cut

    def cut_and_remove(*arguments):
        shutil.rmtree(champion)
        return cut(*arguments)

    monkeypatch.setattr(flow_module, "cut", cut_and_remove)
    message = failure(photos, tmp_path / "out", cluster.address, champion)
    assert message == f"on {socket.gethostname()}: no champion in {champion}; build one with: dvc repro"


def test_a_mistake_is_one_line(prefect, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(crew_module, "ANSWERING", 1)
    nobody = f"tcp://127.0.0.1:{free_port()}"
    assert failure(photos, tmp_path / "out", nobody).startswith(f"no Dask scheduler answers at {nobody}")
    for wrong in ("local:0", "local:", "local:two"):
        assert failure(photos, tmp_path / "out", wrong).startswith(f"cluster {wrong}: not a number of worker processes")
    assert failure(photos, tmp_path / "out", "gpus").startswith("no Dask scheduler answers at gpus")
    assert failure(photos, tmp_path / "out", "tls://127.0.0.1:9").startswith("tls://127.0.0.1:9: TLS expects")


@task
def late(shard):
    raise TimeoutError("the disk does not answer")


def test_a_shard_that_ran_out_of_time_is_not_waited_for(prefect):
    @flow
    def label_late():
        with crew_module.crew("local:1") as workers:
            workers.give(Shard([], make_settings(champion=CHAMPION)), late)
            workers.take()

    with pytest.raises(TimeoutError, match="the disk does not answer"):
        label_late()


def test_an_empty_name_is_that_of_no_cluster():
    with crew_module.crew("") as workers:
        assert type(workers) is crew_module.Crew


def test_another_engine_is_refused(monkeypatch):
    shard = Shard([], make_settings(champion=CHAMPION))
    shard.check_engine()
    shard.key = "another"
    with pytest.raises(UserError, match=f"^on {socket.gethostname()}: another version of ferflow"):
        shard.check_engine()


def test_a_worker_that_does_not_see_the_files_is_refused(tmp_path):
    shard = Shard([], make_settings(champion=CHAMPION))
    here = tmp_path / "here.jpg"
    here.touch()
    unseen, gone = (
        Labelled(ImageFile(path, path, "", 0, 0), "unreadable", "no such file", failure=errno.ENOENT)
        for path in (str(here), str(tmp_path / "gone.jpg"))
    )
    shard.check_seen([gone])
    with pytest.raises(UserError, match=f"^{here} is here, but not where a worker runs"):
        shard.check_seen([gone, unseen])


def test_a_zips_member_is_seen_by_what_the_archive_holds_by_now(tmp_path):
    shard = Shard([], make_settings(champion=CHAMPION))
    archive = tmp_path / "photos.zip"
    lost = Labelled(ImageFile("photos.zip/a.jpg", str(archive), "a.jpg", 1, 0), "unreadable", failure=errno.ENOENT)
    shard.check_seen([lost])
    for name in ("a.jpg", "b.jpg"):
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr(name, b"x")
        if name == "a.jpg":  # so only the worker's lacks it
            with pytest.raises(UserError, match=f"^{archive}/a.jpg is here, but not where a worker runs"):
                shard.check_seen([lost])
        else:
            shard.check_seen([lost])
    archive.write_bytes(b"cut off")
    shard.check_seen([lost])
