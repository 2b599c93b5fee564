"""A last check of a champion before it is deployed: it loads, its two forms agree, and it labels a few images.

    python -m tasks.smoke [FOLDER]

FOLDER is a champion's, models/champion if left out. The check belongs to the workspace the champion was built in: it shows it
faces of data/arrays, val, and takes its limits from params.yaml.
"""

import csv
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks import champion
from tasks.errors import UserError, explained
from tasks.expressions import EXPRESSIONS
from tasks.files import packaged
from tasks.folder import label_folder
from tasks.images import encode
from tasks.params import Label, Params, Promote, load
from tasks.parse import load_split
from tasks.paths import CHAMPION

FACES = 64  # of val
# The limits hold for all of val, and for each form against the trained network: a sample may pass them a little, and the forms
# may lie on its two sides. Answers of two candidates differ by 0.03 and more on average, those of the forms by 0.006.
SLACK = 2.0
SUM_TOLERANCE = 0.001  # of seven probabilities that are rounded to 4 places
BROKEN = {"broken.jpg": b"no image", "empty.jpg": b""}
PHOTOS = {  # that packages carry: package, file, and what may come of it
    "astronaut.png": ("skimage", "data/astronaut.png", {"ok"}),
    "flower.jpg": ("sklearn", "datasets/images/flower.jpg", {"ok", "no_face"}),  # without a face; Haar finds one there
}


class Image(NamedTuple):
    """What is expected of an image of the smoke set."""

    statuses: set[str]  # one of them
    label: str | None = None  # of its one face


def check(folder: Path, params: Params) -> str:
    """Check the champion in `folder`; returns what was checked, in a line.

    Raises:
        UserError: it is damaged, its forms disagree, or it labels the smoke set otherwise than it should.
    """
    loaded = champion.load(folder)
    faces = smoke_faces()
    try:
        difference = check_forms(loaded, folder, faces, params.promote)
        with tempfile.TemporaryDirectory(prefix="ferflow-") as scratch:
            expected = write_images(Path(scratch) / "images", faces, loaded)
            out = Path(scratch) / "out"
            label_folder(
                [str(Path(scratch) / "images")], out, Label(detector=params.label.detector, mirror=False), folder
            )
            check_labels(out, expected)
    except UserError:
        raise
    except Exception as error:  # whatever a library makes of a model that is none: the check has failed
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{loaded.version} fails on the smoke set: {words}") from error
    return (
        f"smoke set: {loaded.version} labels {len(expected)} images as it should; "
        f"its two forms differ by {difference:.4f} on average"
    )


def smoke_faces() -> NDArray[np.float32]:
    """FACES faces of val, or all if there are fewer, evenly spread: float32, (N, 48, 48, 1), in [0, 1]."""
    faces, _ = load_split("val")
    if not len(faces):
        raise UserError("data/arrays has no face of val to check a champion with")
    return np.asarray(faces[np.linspace(0, len(faces) - 1, min(FACES, len(faces))).astype(int)])


def check_forms(loaded: champion.Champion, folder: Path, faces: NDArray[np.float32], limits: Promote) -> float:
    """Compare the answers of both forms, before calibration; returns how far they are apart on average.

    Raises:
        UserError: by more than `limits` allow the champion's arithmetic.
    """
    from tasks.backend import keras  # imports TensorFlow

    model = keras.saving.load_model(folder / champion.KERAS, compile=False)
    answers = champion.LiteRT((folder / champion.LITERT).read_bytes()).predict(faces)
    apart = np.abs(model.predict(faces, batch_size=len(faces), verbose=0) - answers)
    if loaded.info["litert"]["arithmetic"] == "int8":
        found, most, how = float(apart.mean()), SLACK * limits.max_int8_difference, "on average"
    else:
        found, most, how = float(apart.max()), SLACK * limits.max_disagreement, "in one of them"
    if not found <= most:  # NaN neither
        raise UserError(
            f"{loaded.version}: {champion.KERAS} and {champion.LITERT} are not the same network: "
            f"their probabilities differ by {found:.2g} {how}, more than {most:.2g}"
        )
    return float(apart.mean())


def write_images(folder: Path, faces: NDArray[np.float32], loaded: champion.Champion) -> dict[str, Image]:
    """Write the smoke set into a new folder: faces, photos that are installed, and what is no image."""
    folder.mkdir()
    answers = loaded.predict(faces).astype(np.float64).round(4).argmax(axis=1)  # rounded as tables have them
    expected = {}
    pixels = np.rint(faces[..., 0] * 255).astype(np.uint8)
    for number, (face, answer) in enumerate(zip(pixels, answers, strict=True)):
        name = f"face{number:02}.png"
        (folder / name).write_bytes(encode(face, ".png"))
        expected[name] = Image({"ok"}, EXPRESSIONS[answer])
    for name, (package, path, statuses) in PHOTOS.items():
        if photo := packaged(package, path):
            shutil.copy(photo, folder / name)
            expected[name] = Image(statuses)
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
        expected[name] = Image({"unreadable"})
    return expected


def check_labels(out: Path, expected: dict[str, Image]) -> None:
    """Compare the tables in an output folder with what is expected; UserError with the first thing that is wrong."""
    images = {Path(row["path"]).name: row for row in _rows(out / "images.csv")}
    if set(images) != set(expected):
        raise UserError(f"smoke set: no row, or one too many: {', '.join(sorted(set(images) ^ set(expected)))}")
    for name, row in images.items():
        if row["status"] not in expected[name].statuses or (row["status"] == "unreadable") != bool(row["reason"]):
            raise UserError(f"smoke set: {name} is {row['status']} ({row['reason'] or 'without a reason'})")
    labels: dict[str, list[str]] = {name: [] for name in expected}
    for row in _rows(out / "faces.csv"):
        name = Path(row["path"]).name
        labels[name].append(row["label"])
        check_probabilities(name, [float(row[expression]) for expression in EXPRESSIONS])
    for name, image in expected.items():
        if image.label and labels[name] != [image.label]:
            found = " and ".join(labels[name]) or "nothing"
            raise UserError(f"smoke set: {name} is labelled {found}, and the champion itself says {image.label}")


def check_probabilities(name: str, probabilities: Sequence[float]) -> None:
    """Raise UserError if a face's seven probabilities are none."""
    in_range = all(0 <= each <= 1 for each in probabilities)  # false for NaN
    if not (in_range and abs(sum(probabilities) - 1) <= SUM_TOLERANCE):
        raise UserError(f"smoke set: {name} has probabilities that are none: {', '.join(map(str, probabilities))}")


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@explained
def main() -> None:
    """Check the champion in the folder named on the command line."""
    if len(sys.argv) > 2:  # noqa: PLR2004 - the program and one folder
        raise UserError("usage: python -m tasks.smoke [FOLDER], where FOLDER is a champion's")
    print(check(Path(sys.argv[1]) if len(sys.argv) > 1 else CHAMPION, load()))


if __name__ == "__main__":
    main()
