"""`ferflow doctor`: what is installed, what data and champion are there, what is missing and what to do about it."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import yaml

from tasks import champion, params, rebuild
from tasks.errors import UserError
from tasks.expressions import SPLITS
from tasks.faces import yunet_file
from tasks.ingest import find_source
from tasks.paths import ARRAYS, CANDIDATES, CHAMPION, DVC_LOCK, WEIGHTS, vgg16_files
from tasks.processes import environment

PYTHONS = ((3, 11), (3, 14))  # from, up to but without
LABELLING = ("numpy", "ai-edge-litert", "typer")
TRAINING = (
    "tensorflow",
    "keras",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "matplotlib",
    "dvc",
    "dvclive",
    "prefect",
    "kaggle",
)
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
GIGABYTE = 1e9
SPACE = 3 * GIGABYTE  # bytes; a run of every candidate on FER2013 leaves about 2
REINSTALL = "remove .venv and run make setup"


class Check(NamedTuple):
    """One line of the report."""

    name: str
    state: Literal["ok", "missing", "problem"]
    found: str
    remedy: str = ""
    needed: bool = False  # for labelling: without it, the exit code is 1

    @property
    def bad(self) -> bool:
        """Whether it should end the program with an error."""
        return self.state == "problem" or (self.state == "missing" and self.needed)


def examine() -> Iterator[Check]:
    """All checks, in the order of the report; takes about a second, because TensorFlow is not imported."""
    yield _python()
    for name in (*LABELLING, *TRAINING):
        yield _package(name, needed=name in LABELLING)
    yield _opencv()
    yield _file_of_yunet()
    for program in ("git", "dvc"):
        yield _program(program)
    yield _workspace()
    yield _raw_data()
    yield _arrays()
    yield _dvc_lock()
    yield _vgg16_weights()
    yield _candidates()
    yield _champion()
    yield _retraining()
    yield _disk()
    yield Check("cores", "ok", str(os.cpu_count()))


def _python() -> Check:
    known = PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]
    remedy = "" if known else "use Python 3.11 to 3.13: TensorFlow has no wheel for others"
    return Check("Python", "ok" if known else "problem", platform.python_version(), remedy)


def _package(name: str, needed: bool) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "missing", "", REINSTALL, needed)


def _opencv() -> Check:
    """Exactly one OpenCV: its distributions overwrite each other's files."""
    found = {name: metadata.version(name) for name in OPENCVS if _package(name, needed=True).state == "ok"}
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    if not found:
        return Check("OpenCV", "missing", "", REINSTALL, needed=True)
    if len(found) > 1:
        return Check("OpenCV", "problem", text, f"they overwrite each other; uninstall all, then {REINSTALL}")
    if not next(iter(found.values())).startswith("4."):
        return Check("OpenCV", "problem", text, "install opencv-python 4: version 5 has no CascadeClassifier")
    return Check("OpenCV", "ok", text)


def _file_of_yunet() -> Check:
    try:
        return Check("YuNet's model", "ok", f"{yunet_file().name}, checksum right")
    except UserError as error:
        return Check("YuNet's model", "problem", "", str(error))


def _program(name: str) -> Check:
    path = shutil.which(name, path=environment()["PATH"])
    return Check(
        name, "ok" if path else "missing", path or "", "" if path else f"install {name}; the pipeline needs it"
    )


def _workspace() -> Check:
    if not params.PARAMS.exists():
        return Check("workspace", "missing", f"no params.yaml in {Path.cwd()}", "change to the folder of the pipeline")
    return _unless_refused(
        "workspace", "", lambda: f"{len(params.load().candidates)} candidates in params.yaml", "problem"
    )


def _raw_data() -> Check:
    def describe() -> str:
        source = find_source(Path(params.load().ingest.source))
        return f"{source.path} ({source.form}{', in a zip' if source.zipped else ''})"

    return _unless_refused("raw data", "ferflow fetch, or make demo to try without", describe)


def _unless_refused(
    name: str, remedy: str, describe: Callable[[], str], otherwise: Literal["missing", "problem"] = "missing"
) -> Check:
    """A check whose description may end in a UserError, of which the first line is shown."""
    try:
        return Check(name, "ok", describe())
    except UserError as error:
        return Check(name, otherwise, str(error).splitlines()[0], remedy)


def _arrays() -> Check:
    paths = [ARRAYS / f"{split}.npy" for split in SPLITS]
    if not all(path.exists() for path in paths):
        return Check("arrays", "missing", "", "dvc repro parse")
    try:
        counts = [len(np.load(path, mmap_mode="r")) for path in paths]
    except (ValueError, EOFError) as error:
        return Check(
            "arrays", "problem", f"damaged: {' '.join(str(error).split())}", f"remove {ARRAYS}; dvc repro parse"
        )
    return Check("arrays", "ok", ", ".join(f"{split} {count:,}" for split, count in zip(SPLITS, counts, strict=True)))


def _dvc_lock() -> Check:
    """DVC writes it in place: killed meanwhile, it leaves a part."""
    if not DVC_LOCK.exists():
        return Check(str(DVC_LOCK), "missing", "", "dvc repro")
    text = DVC_LOCK.read_text(encoding="utf-8", errors="replace")
    try:
        stages = yaml.load(text, yaml.CSafeLoader)["stages"]
        whole = text.endswith("\n") and all(stage["outs"] for stage in stages.values())  # what comes last in each
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        remedy = f"git checkout {DVC_LOCK}; dvc commit --force STAGE, for what ended since it was committed"
        return Check(str(DVC_LOCK), "problem", "not whole", remedy)
    return Check(str(DVC_LOCK), "ok", f"{len(stages)} stages")


def _vgg16_weights() -> Check:
    for folder in (WEIGHTS, Path.home() / ".keras" / "models"):
        found = vgg16_files(folder)
        if found:
            return Check("VGG16's weights", "ok", str(found[0]))
    return Check(
        "VGG16's weights", "missing", "", f"Keras downloads them when vgg16 is trained, or put them into {WEIGHTS}/"
    )


def _candidates() -> Check:
    trained = sorted(path.parent.name for path in CANDIDATES.glob("*/model.keras"))
    return Check("trained", "ok" if trained else "missing", ", ".join(trained), "" if trained else "dvc repro")


def _champion() -> Check:
    try:
        info = champion.load(CHAMPION).info
    except UserError as error:
        state: Literal["missing", "problem"] = "problem" if CHAMPION.exists() else "missing"
        return Check("champion", state, "", str(error), needed=True)
    accuracy, data = info["metrics"]["test"]["accuracy"], info["data"]["name"]
    return Check("champion", "ok", f"{info['version']}: {accuracy:.1%} on test, trained on {data}")


def _retraining() -> Check:
    """Whether `ferflow retrain` may begin."""
    if rebuild.JOURNAL.exists():
        return Check("retraining", "problem", "an installation was cut short", "ferflow retrain mends it")

    def describe() -> str:
        rebuild.check_workspace()
        return "may begin: the workspace is as Git has it"

    return _unless_refused("retraining", "it begins when that is mended", describe)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    text, enough = f"{free / GIGABYTE:.0f} GB free", free >= SPACE
    return Check("disk", "ok" if enough else "problem", text, "" if enough else f"free some: {SPACE / GIGABYTE:.0f} GB")
