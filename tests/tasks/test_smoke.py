"""The last check of a champion: the committed one passes, damaged and lying ones do not, each for its reason."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CHAMPION, ROOT, packaged

from tasks import champion, networks, smoke
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.files import sha256
from tasks.images import normalise
from tasks.params import Params, load

PARAMS = load(ROOT / "params.yaml")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline whose val is 70 smooth grey pictures."""
    import cv2

    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    pixels = np.random.default_rng(7).integers(0, 256, (70, 48, 48), np.uint8)
    smooth = np.stack([cv2.GaussianBlur(face, (0, 0), 4) for face in pixels])
    stretched = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    (tmp_path / "data/arrays").mkdir(parents=True)
    np.save("data/arrays/val.npy", normalise(stretched))
    np.save("data/arrays/val_labels.npy", np.zeros(70, np.int64))
    return tmp_path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHAMPION, tmp_path / "copy"))


def sign(folder: Path, **changes: object) -> None:
    """Make champion.json's checksums those of the files that lie there, and set other keys."""
    info = json.loads((folder / "champion.json").read_text())
    info["files"] = {name: sha256(folder / name) for name in info["files"]}
    (folder / "champion.json").write_text(json.dumps(info | changes))


def refusal(folder: Path, params: Params = PARAMS) -> str:
    with pytest.raises(UserError) as error:
        smoke.check(folder, params)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_committed_champion_passes(workspace: Path) -> None:
    line = smoke.check(CHAMPION, PARAMS)
    assert line.startswith(f"smoke set: {champion.load(CHAMPION).version} labels 68 images as it should; ")


def test_the_haar_cascade_serves_as_well(workspace: Path) -> None:
    haar = PARAMS.model_copy(update={"label": PARAMS.label.model_copy(update={"detector": "haar"})})
    assert "labels 68 images" in smoke.check(CHAMPION, haar)


def test_a_damaged_one_and_none_are_refused(workspace: Path, copy: Path) -> None:
    assert "no champion in nowhere" in refusal(Path("nowhere"))
    (copy / "model.keras").write_bytes((copy / "model.keras").read_bytes()[:-1])
    assert "model.keras is damaged" in refusal(copy)


@pytest.mark.parametrize(
    ("arithmetic", "words"), [("int8", "on average, more than 0.02"), ("float32", "in one of them, more than 0.04")]
)
def test_the_keras_model_of_another_candidate_is_refused(
    workspace: Path, copy: Path, arithmetic: str, words: str
) -> None:
    networks.save(networks.build("vgg_like", widths=[8, 16]), copy / "model.keras")
    sign(copy, litert={"arithmetic": arithmetic, "mean_difference": 0.0})
    found = refusal(copy)
    assert "model.keras and model.tflite are not the same network" in found
    assert words in found


def test_answers_that_are_no_numbers_are_refused(workspace: Path, copy: Path) -> None:
    network = networks.build("vgg_like", widths=[8, 16])
    network.set_weights([np.full_like(weights, np.nan) for weights in network.get_weights()])
    networks.save(network, copy / "model.keras")
    sign(copy)
    assert "differ by nan" in refusal(copy)


@pytest.mark.parametrize("name", ["model.keras", "model.tflite"])
def test_a_file_that_is_no_model_is_refused(name: str, workspace: Path, copy: Path) -> None:
    (copy / name).write_bytes(b"no model, but signed")
    sign(copy)
    assert f"{champion.load(copy).version} fails on the smoke set: " in refusal(copy)


def test_a_temperature_that_makes_probabilities_of_nothing_is_refused(workspace: Path, copy: Path) -> None:
    sign(copy, calibration={"method": "none", "temperature": float("nan")})
    assert "smoke set: " in refusal(copy)


def test_it_says_what_is_missing_without_faces(workspace: Path) -> None:
    np.save("data/arrays/val.npy", np.empty((0, 48, 48, 1), np.float32))
    assert "no face of val" in refusal(CHAMPION)
    shutil.rmtree("data")
    assert "dvc repro parse" in refusal(CHAMPION)


def test_photos_of_packages_that_are_not_installed_are_left_out(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packaged("skimage", "data/astronaut.png").is_file()  # else the first test would test less than it says
    monkeypatch.setattr(smoke, "PHOTOS", {"a.png": ("no_such_package", "a.png", {"ok"})})
    assert "labels 66 images" in smoke.check(CHAMPION, PARAMS)


def face_row(name: str, label: str, **probabilities: float) -> dict[str, object]:
    shares = dict.fromkeys(EXPRESSIONS, 0.0) | {label: 1.0} | probabilities
    return {"path": f"images/{name}", "label": label, **shares}


@pytest.mark.parametrize(
    ("images", "faces", "words"),
    [
        ([("a.png", "ok", ""), ("b.jpg", "unreadable", "why")], [face_row("a.png", "sad")], None),
        ([("a.png", "ok", "")], [face_row("a.png", "sad")], "no row, or one too many: b.jpg"),
        ([("a.png", "ok", ""), ("b.jpg", "unreadable", "")], [], "b.jpg is unreadable (without a reason)"),
        ([("a.png", "no_face", ""), ("b.jpg", "unreadable", "why")], [], "a.png is no_face (without a reason)"),
        ([("a.png", "ok", ""), ("b.jpg", "unreadable", "why")], [], "a.png is labelled nothing, and the champion"),
        (
            [("a.png", "ok", ""), ("b.jpg", "unreadable", "why")],
            [face_row("a.png", "fear")],
            "a.png is labelled fear, and the champion itself says sad",
        ),
        (
            [("a.png", "ok", ""), ("b.jpg", "unreadable", "why")],
            [face_row("a.png", "sad", fear=0.5)],
            "a.png has probabilities that are none: 0.0, 0.0, 0.5",
        ),
    ],
)
def test_tables_are_held_against_what_is_expected(
    images: list[tuple[str, str, str]], faces: list[dict[str, object]], words: str | None, tmp_path: Path
) -> None:
    expected = {"a.png": smoke.Image({"ok"}, "sad"), "b.jpg": smoke.Image({"unreadable"})}
    with (tmp_path / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "status", "reason"), *images])
    with (tmp_path / "faces.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", *EXPRESSIONS])
        writer.writeheader()
        writer.writerows(faces)
    if words is None:
        smoke.check_labels(tmp_path, expected)
        return
    with pytest.raises(UserError) as error:
        smoke.check_labels(tmp_path, expected)
    assert words in str(error.value)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1, 0.5])
def test_probabilities_that_are_none(bad: float) -> None:
    smoke.check_probabilities("a.png", [1 / 7] * 7)
    with pytest.raises(UserError, match="probabilities that are none"):
        smoke.check_probabilities("a.png", [bad, 0, 0, 0, 0, 0, 0])


def test_the_program_ends_with_a_line_and_a_code(workspace: Path, copy: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tasks.smoke", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})

    passed = run(str(copy))
    assert (passed.returncode, passed.stderr) == (0, "")
    assert passed.stdout.startswith("smoke set: ")
    assert passed.stdout.count("\n") == 1
    failed = run()
    assert failed.returncode == 1
    assert failed.stderr == "ferflow: no champion in models/champion; build one with: dvc repro\n"
