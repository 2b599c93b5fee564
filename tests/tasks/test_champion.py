import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Workspace

from tasks import champion
from tasks.errors import UserError


@pytest.fixture
def folder(built: list[Workspace], tmp_path: Path) -> Path:
    """A copy of a real champion."""
    return shutil.copytree(built[0].folder / "models/champion", tmp_path / "champion")


def test_a_champion_answers_any_number_of_faces(folder: Path) -> None:
    loaded = champion.load(folder)
    faces = np.random.default_rng(0).random((300, 48, 48, 1), np.float32)
    answers = loaded.predict(faces)
    assert answers.shape == (300, 7)
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(loaded.predict(faces[:1]), answers[:1], atol=1e-5)
    assert loaded.predict(faces[:0]).shape == (0, 7)


def test_loading_a_champion_does_not_load_tensorflow(folder: Path) -> None:
    code = f"import sys; from pathlib import Path; from tasks import champion; champion.load(Path({str(folder)!r})); "
    code += "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'sklearn', 'prefect')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["model.tflite", "model.keras"])
def test_a_changed_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        champion.load(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        champion.load(folder)


def test_no_champion_and_a_broken_one_are_told_apart(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no champion in .*; build one with: dvc repro"):
        champion.load(folder / "nowhere")
    (folder / "none").mkdir()
    (folder / "none" / "card.md").write_text("# No small edition\n")
    with pytest.raises(UserError, match=r"no champion in .*/none; .*/none/card\.md says why"):
        champion.load(folder / "none")
    (folder / "champion.json").write_text("{")
    with pytest.raises(UserError, match=r"champion\.json is damaged"):
        champion.load(folder)
    for other in ("{}", "5", '{"version": "a", "files": [], "calibration": {}}'):
        (folder / "champion.json").write_text(other)
        with pytest.raises(UserError, match="of another form"):
            champion.load(folder)
    (folder / "champion.json").unlink()
    with pytest.raises(UserError, match=r"no champion in .*; build one with: dvc repro"):
        champion.load(folder)


SWAP_FOREVER = """
import shutil, sys, time
from pathlib import Path
from tasks import champion
one, two, place = map(Path, sys.argv[1:])
while True:
    for version in (one, two):
        shutil.copytree(version, "prepared")
        champion.install(Path("prepared"), place)
        time.sleep(0.2)
"""


def test_readers_see_a_whole_champion_at_every_moment_of_an_installation(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    info = json.loads((other / "champion.json").read_text())
    (other / "champion.json").write_text(json.dumps(info | {"version": "another"}))
    place = tmp_path / "place"
    command = [sys.executable, "-c", SWAP_FOREVER, str(folder), str(other), str(place)]
    process = subprocess.Popen(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    while not place.exists():
        time.sleep(0.01)
    deadline = time.monotonic() + 3
    seen = set()
    while time.monotonic() < deadline:
        seen.add(champion.load(place).version)
    process.kill()
    process.wait()
    assert seen == {info["version"], "another"}
    champion.load(place)


def test_a_kill_between_two_renames_is_mended(folder: Path) -> None:
    """Where the system cannot exchange two folders in one step."""
    folder.rename(folder.with_name(".champion.previous"))
    champion.recover(folder)
    champion.load(folder)
