"""How long things took: figures join those that are known."""

import json

import pytest

from tasks.paths import TIMINGS
from tasks.timings import read_timings, record_timing


def test_figures_join_those_that_are_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record_timing("small", train_minutes=1.5, epoch_minutes=[0.5, 1.0])
    record_timing("small", train_minutes=2.5, ms_per_face=0.1)
    assert read_timings("small") == {"train_minutes": 2.5, "epoch_minutes": [0.5, 1.0], "ms_per_face": 0.1}
    assert read_timings("large") == {}


@pytest.mark.parametrize("content", [b"<<<<<<< HEAD\n{}\n", b"", b"\xff", b"[]"])
def test_a_damaged_file_costs_no_training(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TIMINGS.mkdir(parents=True)
    (TIMINGS / "small.json").write_bytes(content)
    record_timing("small", train_minutes=1.5)
    assert json.loads((TIMINGS / "small.json").read_text()) == {"train_minutes": 1.5}
