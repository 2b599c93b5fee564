"""`ferflow demo`: the whole pipeline on a made set, in a scratch copy of the workspace. The workspace stays as it is."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.files import packaged
from tasks.git import outside_hooks
from tasks.params import load
from tasks.paths import RAW
from tasks.processes import environment
from tasks.synthetic import draw_face, write_made_csv

DEMO = Path("demo")
PIPELINE = (
    "params.yaml",
    "dvc.yaml",
    "prefect.yaml",
    "tasks",
    "flows",
    ".dvcignore",
    ".gitignore",
)  # what a run needs of the workspace
ROWS, SEED = 2000, 7
DRAWN = 140  # faces labelled at the end
# Candidates and what of their recipes changes, so that each learns the made set within a minute. The batches are small
# because there are few faces: the moving averages of batch normalisation need a thousand steps or so to settle.
SHORTENED: dict[str, dict[str, Any]] = {
    "modelo_02": {"epochs": 10, "batch": 32},
    "residual": {
        "epochs": 8,
        "batch": 32,
        "options": {"widths": [16, 32, 64, 128], "blocks": [1, 1, 1, 1]},
        "augment": {"mirror": True, "rotate": 12.0, "shift": 0.08, "zoom": 0.12},  # drawn faces need no more
        "sizes": [],
    },
    "mini_xception": {"epochs": 10, "batch": 16},
}
# Of nobody in particular, whatever this computer's Git is set to.
SETTINGS = {
    "user.name": "ferflow",
    "user.email": "ferflow@localhost",
    "commit.gpgsign": "false",
    "tag.gpgsign": "false",
    "core.hooksPath": "/dev/null",
}
PHOTOS = (
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("skimage", "data/astronaut.png"),
    ("sklearn", "datasets/images/china.jpg"),  # a palace: no face
    ("sklearn", "datasets/images/flower.jpg"),  # no face
)


def make_workspace(
    folder: Path = DEMO, candidates: Mapping[str, dict[str, Any]] = MappingProxyType(SHORTENED), rows: int = ROWS
) -> None:
    """Replace `folder` by a scratch copy of the pipeline: its own Git and DVC, a made set, short trainings.

    Args:
        folder: where.
        candidates: those to train, by name, and what of their recipes changes.
        rows: of the made set.
    """
    missing = [name for name in ("params.yaml", "dvc.yaml", "tasks", "flows") if not Path(name).exists()]
    if missing:
        raise UserError(f"no {' or '.join(missing)} here; run the demonstration in the folder of the pipeline")
    known = load().candidates  # of a file that is as it should be; before anything is removed
    if not candidates.keys() & known.keys():
        raise UserError(
            f"params.yaml has none of the candidates that the demonstration trains: {', '.join(candidates)}"
        )
    _remove(folder)
    folder.mkdir()
    for name in PIPELINE:
        if Path(name).is_dir():
            shutil.copytree(name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif Path(name).exists():
            shutil.copy(name, folder / name)
    parameters = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    (folder / "params.yaml").write_text(
        yaml.safe_dump(shortened(parameters, candidates), sort_keys=False), encoding="utf-8"
    )
    write_made_csv(folder / RAW / "made_faces.csv", rows, SEED)
    run(["git", "init", "--quiet"], folder)
    for name, value in SETTINGS.items():
        run(["git", "config", name, value], folder)
    run([sys.executable, "-m", "dvc", "init", "--quiet"], folder)
    commit("The pipeline, shortened", folder)  # DVCLive needs a commit


def _remove(folder: Path) -> None:
    """Remove an earlier demonstration, however much of it there is.

    Raises:
        UserError: what lies there is something else.
    """
    if not os.path.lexists(folder):
        return
    a_folder = folder.is_dir() and not folder.is_symlink()
    if not (a_folder and ((folder / PIPELINE[0]).exists() or not any(folder.iterdir()))):
        raise UserError(f"{folder} is in the way of the demonstration, and not an earlier one; move it or rename it")
    shutil.rmtree(folder)


def shortened(parameters: dict[str, Any], candidates: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The content of params.yaml with these candidates only, and their changes, for the made set. Nobody teaches."""
    known = parameters["candidates"]
    untaught = {"labels": "arrays", "taught": None}
    kept = {name: known[name] | untaught | changes for name, changes in candidates.items() if name in known}
    return parameters | {"ingest": {"source": RAW.as_posix()}, "candidates": kept, "teachers": {}}


def commit(message: str, folder: Path) -> None:
    """Record all that is in the scratch copy."""
    run(["git", "add", "--all"], folder)
    run(["git", "commit", "--quiet", "--no-verify", "--message", message], folder)


def run(command: list[str], folder: Path) -> None:
    """Run a program in `folder`, its output passed on as it comes; UserError if it fails."""
    try:
        code = subprocess.run(command, cwd=folder, env=outside_hooks() | environment(), check=False).returncode
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not installed; `ferflow doctor` lists what is") from error
    if code:
        raise UserError(
            f"`{' '.join(map(os.path.basename, command))}` failed in {folder}/ (exit code {code}), see above"
        )


def draw_faces(folder: Path) -> None:
    """Write drawn faces that no training saw, as images named after what they should show."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED + 1)
    for number in range(DRAWN):
        expression = EXPRESSIONS[number % len(EXPRESSIONS)]
        Image.fromarray(draw_face(expression, random)).save(folder / f"{number + 1:03}-{expression}.png")


def copy_photos(folder: Path) -> None:
    """Copy photos that installed packages carry into `folder`, without importing the packages."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, name in PHOTOS:
        if photo := packaged(package, name):
            shutil.copy(photo, folder)
    if not any(folder.iterdir()):
        raise UserError("none of matplotlib's, scikit-image's and scikit-learn's photos are installed; run make setup")
