"""Three nights of `ferflow serve` with its own Prefect server: the demonstration, as people run it."""

import json
import shutil
import subprocess

import pytest
from conftest import ROOT, Workspace, programs_in

PIPELINE = ("params.yaml", "dvc.yaml", "prefect.yaml", "tasks", "flows", ".gitignore", ".dvcignore")


@pytest.mark.timeout(1800)  # s: about 200 on a quiet machine
def test_a_better_a_worse_and_no_challenger(tmp_path):
    here = Workspace(tmp_path)
    for name in PIPELINE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    done = here.run("python", "-m", "flows.cli", "demo", "--nights")
    assert done.returncode == 0, done.stdout + done.stderr
    nights = dict(line.split(": ", 1) for line in done.stdout.splitlines() if line.startswith("Night "))
    folder = tmp_path / "demo-nights"
    version = json.loads((folder / "models/champion/champion.json").read_text())["version"]
    assert nights["Night 1"].startswith(f"promoted {version} in place of vgg_like-")
    assert nights["Night 2"].startswith(f"kept {version}: ")
    assert nights["Night 3"].startswith("nothing to do: all changes were judged on ")
    assert (folder / "night-1.md").read_text().startswith(f"# Promoted: {version}")
    assert (folder / "night-2.md").read_text().startswith(f"# Kept: {version}")
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    assert status.stdout == ""
    assert not programs_in(tmp_path)
