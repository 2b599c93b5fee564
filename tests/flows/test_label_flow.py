"""The labelling flow on a real Prefect server: what it labels, what it leaves in Prefect, and what kills and faults do to it."""

import errno
import json
import math
import os
import shutil
import signal
from collections import Counter
from contextlib import closing
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
import pytest
import yaml
from conftest import ASTRONAUT, FLOWER, HOPPER, ROOT, kill, packaged, rows, tables, write_photos
from conftest import CHAMPION as CHAMPION_FOLDER
from made_videos import Actor, smiling, write_video
from prefect_server import TIMEOUT, forget, wait_until

from flows import shards as shards_module
from flows.label import label_photos
from flows.shards import AN_IMAGE, LARGEST, SMALLEST, Shard, cut, label_shard
from tasks.drift import reference
from tasks.folder import Job, label_folder
from tasks.label import make_settings
from tasks.params import Label
from tasks.sources import ImageFile
from tasks.threads import cores

CHAMPION = str(CHAMPION_FOLDER)  # flows take text
SHARD = 32  # photos of `many` in the smallest shard


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos with faces and without, a broken one, an empty one, and a few copies: two shards."""
    folder = tmp_path_factory.mktemp("source") / "photos"
    folder.mkdir()
    for photo in (ASTRONAUT, HOPPER, FLOWER, packaged("sklearn", "datasets/images/china.jpg")):
        shutil.copy(photo, folder)
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "empty.jpg").touch()
    write_faces(folder, SHARD)
    return folder


def write_faces(folder, count):
    """Pictures of 48x48 px, taken as faces whole, no two the same."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(7).integers(0, 256, (count, 48, 48), np.uint8)
    for number, face in enumerate(pixels):
        cv2.imwrite(str(folder / f"face{number:04}.png"), cv2.GaussianBlur(face, (0, 0), 4))
    return folder


@pytest.fixture
def faces(tmp_path):
    return write_faces(tmp_path / "faces", 5)


def label(sources, out, **given):
    return label_photos([str(source) for source in sources], str(out), champion=CHAMPION, **given)


def failure(sources, out, **given):
    """The message of a run that Failed."""
    given = {"champion": CHAMPION} | given
    state = label_photos([str(source) for source in sources], str(out), **given, return_state=True)
    assert state.is_failed()
    return state.message


def statuses(out):
    return {Path(row["path"]).name: (row["status"], row["reason"]) for row in rows(out / "images.csv")}


def test_shards_have_the_same_work_and_shrink_at_the_end():
    settings = make_settings(champion=CHAMPION_FOLDER)

    def shards(*bytes_of_files, workers=2):
        files = [ImageFile(str(n), str(n), "", size, 0) for n, size in enumerate(bytes_of_files)]
        found = list(cut(files, len(files), sum(bytes_of_files), settings, lambda: workers))
        assert [file for shard in found for file in shard.files] == files
        return [sum(file.size + AN_IMAGE for file in shard.files) for shard in found]

    assert shards() == []
    assert len(shards(1, 1, 1)) == 1
    for work in (shards(*[1000] * 100_000), shards(*[4_000_000] * 2000), shards(*[1000, 4_000_000] * 1000)):
        assert max(work) <= LARGEST + 4_050_000
        assert work == pytest.approx(sorted(work, reverse=True), abs=4_050_000)
        assert max(work[-2:]) <= SMALLEST + 4_050_000
        assert len(work) < 100
    assert len(shards(*[1000] * 100_000, workers=16)) > 16 * 2


def test_the_task_works_without_prefect(faces, tmp_path):
    with closing(Job([str(faces)], tmp_path / "out", Label(), Path(CHAMPION))) as job:
        files = list(job.files())
        assert [result.file for result in label_shard.fn(Shard(files, job.settings))] == files


def test_it_writes_what_the_command_line_writes(prefect, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos.parent)
    write_video(photos / "video.mp4", lambda time: [Actor(smiling(), 50 + 20 * time, 60, 230)], 1.0)
    expected = label_folder(["photos"], tmp_path / "direct", champion=Path(CHAMPION))
    run = label(["photos"], tmp_path / "out", json_lines=True)
    assert tables(tmp_path / "out") == tables(tmp_path / "direct")
    for part in ("complete", "champion", "settings", "images", "faces", "drift"):
        assert run[part] == expected[part]
    assert run["images"]["status"]["unreadable"] == 2
    assert rows(tmp_path / "out" / "frames.csv") == rows(tmp_path / "direct" / "frames.csv")
    assert (tmp_path / "out" / "labels.jsonl").exists()
    assert not (tmp_path / "direct" / "labels.jsonl").exists()


def test_what_it_leaves_in_prefect(prefect, photos, tmp_path):
    from prefect.artifacts import Artifact

    out = tmp_path / "out"
    run = label([photos], out)
    assert float(Artifact.get("label-progress").data) == 100
    assert Artifact.get("label-report").data == f"[{out / 'report.html'}]({(out / 'report.html').as_uri()})"
    rows = {row["expression"]: row for row in yaml.safe_load(Artifact.get("label-expressions").data)}
    assert {name: row["faces"] for name, row in rows.items()} == run["faces"]["expressions"]
    assert sum(float(row["share"].rstrip("%")) for row in rows.values()) == pytest.approx(100, abs=0.5)
    expected = reference(json.loads((CHAMPION_FOLDER / "champion.json").read_text()))
    disgust = expected.expressions["disgust"] / sum(expected.expressions.values())
    assert rows["disgust"][f"share in {expected.name}"] == f"{disgust:.1%}"
    text = Artifact.get("label-run").data
    assert f"{run['images']['total']:,}: {run['images']['total']:,} labelled now" in text
    assert "| drift | too few faces to tell" in text
    assert "| PSI | none |" in text


def test_a_second_run_labels_only_what_arrived(prefect, faces, tmp_path, monkeypatch):
    label([faces], tmp_path / "out")
    monkeypatch.setattr(ImageFile, "read", None)  # nothing may be read
    again = label([faces], tmp_path / "out")["images"]
    assert (again["labelled"], again["reused"], again["pending"]) == (0, 5, 0)
    monkeypatch.undo()
    shutil.copy(faces / "face0001.png", faces / "arrived.png")
    arrived = label([faces], tmp_path / "out")["images"]
    assert (arrived["labelled"], arrived["reused"], arrived["pending"]) == (1, 5, 0)


def test_a_thousand_images_make_few_tasks(prefect, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    folder = write_faces(tmp_path / "faces", 1000)
    state = label_photos([str(folder)], str(tmp_path / "out"), champion=CHAMPION, return_state=True)
    assert state.result()["images"]["status"] == {"ok": 1000}

    def tasks():
        this_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        return client.read_task_runs(flow_run_filter=this_run)

    with get_client(sync_client=True) as client:
        wait_until(lambda: len(tasks()) >= 6)  # they come as events, a little later
        assert {task.name.split("-")[0] for task in tasks()} == {"label_shard"}
        assert len(tasks()) < 50


class Disk:
    """A disk that fails, in the place of ImageFile.read: `faults` times for the file of that name."""

    def __init__(self, monkeypatch, name, faults, code=errno.EIO):
        self.name, self.faults, self.code = name, faults, code
        self.reads = Counter()
        self.lock = Lock()
        read = ImageFile.read
        monkeypatch.setattr(ImageFile, "read", lambda file: self.read(file, read))
        patient = shards_module.label_again.with_options(retry_delay_seconds=0)
        monkeypatch.setattr(shards_module, "label_again", patient)

    def read(self, file, read):
        name = Path(file.path).name
        with self.lock:
            self.reads[name] += 1
            if name == self.name and self.reads[name] <= self.faults:
                raise OSError(self.code, os.strerror(self.code), file.path)
        return read(file)


def test_a_fault_of_the_disk_is_tried_again_for_its_file_alone(prefect, faces, tmp_path, monkeypatch):
    disk = Disk(monkeypatch, "face0002.png", 3)
    assert label([faces], tmp_path / "out")["images"]["status"] == {"ok": 5}
    assert disk.reads.pop("face0002.png") == 4
    assert set(disk.reads.values()) == {1}


def test_a_lasting_fault_is_a_row_that_the_next_run_tries_again(prefect, faces, tmp_path, monkeypatch):
    disk = Disk(monkeypatch, "face0002.png", 1000)
    run = label([faces], tmp_path / "out")
    assert run["images"]["status"] == {"ok": 4, "unreadable": 1}
    assert statuses(tmp_path / "out")["face0002.png"] == ("unreadable", "input/output error")
    assert disk.reads["face0002.png"] == 1 + 4  # in the shard, again with three retries
    disk.faults = 0
    healed = label([faces], tmp_path / "out")["images"]
    assert (healed["labelled"], healed["reused"], healed["status"]) == (1, 4, {"ok": 5})


def test_what_time_does_not_mend_is_not_tried_again(prefect, faces, tmp_path, monkeypatch):
    disk = Disk(monkeypatch, "face0002.png", 1000, errno.EACCES)
    assert label([faces], tmp_path / "out")["images"]["status"] == {"ok": 4, "unreadable": 1}
    assert disk.reads["face0002.png"] == 1


def test_a_mistake_is_one_line(prefect, faces, tmp_path, capfd):
    out = tmp_path / "out"
    assert "no file or folder" in failure([tmp_path / "nowhere"], out)
    assert "no champion" in failure([faces], out, champion=str(tmp_path))
    assert "label.detectr; did you mean 'detector'?" in failure([faces], out, options={"detectr": "haar"})
    assert not out.exists()
    with closing(Job([str(faces)], out, Label(), Path(CHAMPION))):
        assert "another run" in failure([faces], out)
    assert "Traceback" not in capfd.readouterr().err


def test_crops_that_a_person_sorted_fail_the_flow_with_a_line(prefect, faces, tmp_path):
    out = tmp_path / "out"
    label([faces], out, crops=True)
    crop = next((out / "crops").rglob("*.png"))
    moved = crop.rename(out / "crops" / crop.name)
    assert f"({moved}), which labelling would undo; run `ferflow collect {out}`" in failure([faces], out)
    assert moved.exists()


def test_a_folder_without_an_image_yet_is_no_failure(prefect, tmp_path):
    (tmp_path / "photos").mkdir()
    state = label_photos([str(tmp_path / "photos")], str(tmp_path / "out"), CHAMPION, return_state=True)
    assert state.is_completed()
    assert "no image in" in state.message


RUN = "import sys; from flows.label import label_photos; label_photos([sys.argv[1]], sys.argv[2], champion=sys.argv[3])"


def start_flow(server, folder, out, log):
    """The flow in a process of its own, at a moment when shards are done and others are not."""
    process = server.start("python", "-c", RUN, str(folder), str(out), CHAMPION, log=log)
    wait_until(lambda: server.read(log).count("Finished in state Completed()") >= 3, process)
    return process


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Photos to find faces in, for 8 shards of the smallest size, however many cores there are."""
    folder = tmp_path_factory.mktemp("many")
    write_photos(folder, 8 * SHARD, math.ceil(SMALLEST / SHARD) - AN_IMAGE)
    return folder


def test_a_killed_flow_goes_on_where_it_was(prefect, many, tmp_path, monkeypatch):
    out = tmp_path / "out"
    kill(start_flow(prefect, many, out, "killed.txt"))
    done = prefect.read("killed.txt").count("Finished in state Completed()") - cores()  # these may not be stored yet
    assert not (out / "run.json").exists()
    labelled = []
    label_images = shards_module.label_images

    def counted(files, settings, workers):
        labelled.extend(files)
        return label_images(files, settings, workers)

    monkeypatch.setattr(shards_module, "label_images", counted)
    run = label([many], out)
    assert 0 < len(labelled) <= len(list(many.iterdir())) - done * SHARD
    assert run["images"]["status"].keys() <= {"ok", "no_face"}
    label_folder([str(many)], tmp_path / "undisturbed", champion=Path(CHAMPION))
    assert tables(out) == tables(tmp_path / "undisturbed")


def test_an_interrupted_flow_writes_what_it_has(prefect, many, tmp_path):
    process = start_flow(prefect, many, tmp_path / "out", "interrupted.txt")
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) != 0
    run = yaml.safe_load((tmp_path / "out" / "run.json").read_text())
    assert not run["complete"]
    assert 0 < run["images"]["labelled"] == len(rows(tmp_path / "out" / "images.csv")) < 8 * SHARD


def test_the_deployment_labels_what_arrives(prefect, photos, tmp_path):
    """prefect.yaml as its first lines say, but for a shorter interval, with a real worker."""
    workspace = tmp_path / "workspace"
    for name in ("flows", "tasks", "models/champion"):
        shutil.copytree(ROOT / name, workspace / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", workspace)
    deployments = (ROOT / "prefect.yaml").read_text()
    assert "interval: 900" in deployments
    (workspace / "prefect.yaml").write_text(deployments.replace("interval: 900", "interval: 3"))
    shutil.copytree(photos, workspace / "photos")
    total = len(list(photos.iterdir()))

    def labelled():
        try:
            return yaml.safe_load((workspace / "labels" / "run.json").read_text())["images"]
        except FileNotFoundError:
            return {"total": 0}

    prefect.run("prefect", "work-pool", "create", "ferflow", "--type", "process", cwd=workspace)
    prefect.run("prefect", "deploy", "--all", cwd=workspace)
    worker = prefect.start("prefect", "worker", "start", "--pool", "ferflow", cwd=tmp_path, log="worker.txt")
    try:
        wait_until(lambda: labelled()["total"] == total, worker)
        shutil.copy(photos / "face0001.png", workspace / "photos" / "arrived.png")
        wait_until(lambda: labelled()["total"] == total + 1, worker)
        assert labelled()["pending"] == 0
        assert statuses(workspace / "labels")["arrived.png"] == ("ok", "")
    finally:
        os.killpg(worker.pid, signal.SIGTERM)
        worker.wait(TIMEOUT)
    forget(prefect.url, "label/label", "retrain/retrain")
    assert "Traceback" not in prefect.read("worker.txt")
