"""What tests share: the repository's root, real subprocesses, real photos, and scratch workspaces with a made set."""

import csv
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml
from filelock import FileLock

from tasks.threads import cores

pytest_plugins = ["prefect_server", "browser", "s3", "s3_network"]

# What a shell runs in the background ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
CHAMPION = ROOT / "models" / "champion"  # the committed one
SHARED_FER2013 = ROOT.parent / "shared" / "data" / "fer2013"

# Two networks that train in seconds: one on Adam, one on Muon with everything that is random about a training.
CANDIDATES: dict[str, Any] = {
    "small": {
        "network": "vgg_like",
        "options": {"widths": [8, 16, 16]},
        "labels": "arrays",
        "epochs": 2,
        "batch": 32,
        "precision": "float32",
        "optimizer": {"name": "adam", "learning_rate": 0.003},
        "plateau": {"factor": 0.5, "patience": 1},
        "early_stopping": 5,
    },
    "muon": {
        "network": "residual",
        "options": {"widths": [16], "blocks": [1]},  # with other than multiples of 16, bfloat16 is slow
        "labels": "arrays",
        "epochs": 4,
        "batch": 32,
        "precision": "fastest",
        "optimizer": {"name": "muon", "learning_rate": 0.01},
        "schedule": "cosine",
        "averaged": 0.5,
        "label_smoothing": 0.1,
        "class_weights": {"angry": 1.12, "disgust": 3.62, "happy": 0.6, "sad": 0.9, "surprise": 1.21, "neutral": 0.81},
        "augment": {"mirror": True, "rotate": 10.0, "shift": 0.05, "contrast": 0.2, "erase": 0.2},
    },
}
LONGEST = (  # begun first, so that no process has one alone at the end
    "test_retrain.py", "test_nights.py", "test_candidates.py", "test_postgres.py", "test_serve.py", "test_pipeline.py",
)  # fmt: skip
NO_BARS = {"min_accuracy": 0.0, "min_class_recall": 0.0, "max_predicted_share": 1.0}


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: the tests of servers wait much of their time."""
    return cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def packaged(package: str, name: str) -> Path:
    """A file that an installed package carries; found without importing the package."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / name


ASTRONAUT = packaged("skimage", "data/astronaut.png")  # 512x512; one face, smiling, near (223, 124)
HOPPER = packaged("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")  # one face
FLOWER = packaged("sklearn", "datasets/images/flower.jpg")  # no face
LANDSCAPE = packaged("sklearn", "datasets/images/china.jpg")  # 640x427; no face


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tables(out: Path) -> tuple[list[dict[str, str]], bytes]:
    """Both tables of an output folder, images.csv without the time that each image took."""
    images = [{name: cell for name, cell in row.items() if name != "milliseconds"} for row in rows(out / "images.csv")]
    return images, (out / "faces.csv").read_bytes()


def write_photos(folder: Path, count: int, size: int) -> None:
    """Photos of a face, no two the same, as JPEGs of `size` bytes each."""
    photo = cv2.imread(str(ASTRONAUT))
    for number in range(count):
        content = cv2.imencode(".jpg", photo[number:, number:], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        (folder / f"{number:03}.jpg").write_bytes(content.ljust(size, b"\0"))


class Workspace:
    """A scratch copy of the pipeline with its own Git, DVC and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self) -> dict[str, str]:
        """Programs of this Python first on the path; nobody's analytics."""
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        return os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(self.folder)}

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program of the environment here, in a process group of its own, output to a file."""
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment here to its end, output captured."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )

    def repro(self, *arguments: str) -> str:
        """`dvc repro`, which must succeed; returns its output."""
        done = self.run("dvc", "repro", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock."""
        return yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]

    def change(self, section: str, **values: Any) -> None:
        """Set values in a section of params.yaml, such as `candidates.small`."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        part = params
        for key in section.split("."):
            part = part[key]
        part.update(values)
        path.write_text(yaml.safe_dump(params))

    def champion(self, name: str = "champion") -> dict[str, bytes]:
        """The files of models/champion or models/small, and their content."""
        return {path.name: path.read_bytes() for path in sorted((self.folder / "models" / name).iterdir())}


def kill(process: subprocess.Popen[str]) -> None:
    """End a program and all it started as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A port of 127.0.0.1 at which nothing is."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def programs_in(folder: Path) -> list[str]:
    """The processes that work in a folder or below it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(process.name)
    return found


def make_workspace(folder: Path, rows: int = 300) -> Workspace:
    """A workspace with the made set, the two candidates above, and no bars."""
    from tasks.synthetic import write_made_csv

    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "tasks", folder / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    write_made_csv(folder / "data" / "raw" / "made_faces.csv", rows, seed=3)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params |= {"candidates": CANDIDATES, "teachers": {}}
    params["promote"] |= NO_BARS
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    workspace = Workspace(folder)
    author = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    for command in (
        ["git", "init", "-q"],
        ["dvc", "init", "-q"],
        ["git", "add", "--all"],
        ["git", *author, "commit", "-q", "-m", "scratch copy"],  # DVCLive wants a commit to refer to
    ):
        done = workspace.run(*command)
        assert done.returncode == 0, done.stderr
    return workspace


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> list[Path]:
    """Two workspaces, each built from scratch by `dvc repro`, at the same time; once for all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "both"
    folders = [folder / "one", folder / "two"]
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "complete").exists():
            workspaces = [make_workspace(each) for each in folders]
            running = [workspace.start("dvc", "repro") for workspace in workspaces]
            for process, workspace in zip(running, workspaces, strict=True):
                assert process.wait() == 0, (workspace.folder / "log.txt").read_text()
            (folder / "complete").touch()
    return folders


@pytest.fixture(scope="session")
def built(both: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Workspace]:
    """Copies of the two, for the tests of one process. Those that change one put it back."""
    folder = tmp_path_factory.mktemp("built")
    return [Workspace(Path(shutil.copytree(each, folder / each.name))) for each in both]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two photos with a face, one without, two files that are no images, and one that is not looked at."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    shutil.copy(ASTRONAUT, folder / "a.png")
    shutil.copy(FLOWER, folder / "b.jpg")
    (folder / "c.jpg").write_bytes(b"no image")
    (folder / "d.jpg").touch()
    shutil.copy(HOPPER, folder / "more" / "a.jpg")
    (folder / "notes.txt").write_text("not looked at")
    return folder
