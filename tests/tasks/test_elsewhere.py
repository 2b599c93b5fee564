"""What a worker's training says to whoever starts it by hand. That it works is shown by tests/flows/test_candidates.py."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("arguments", [[], ["train@small", "train@muon"]])
def test_without_one_stage_it_says_how_it_is_used(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "tasks.elsewhere", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    usage = "ferflow: usage: python -m tasks.elsewhere STAGE, where STAGE is one of dvc.yaml, such as train@small\n"
    assert (done.returncode, done.stderr) == (1, usage)
