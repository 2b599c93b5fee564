"""The made set: FER2013's form, repeatable, learnable. That parse finds its faults is in tests/test_pipeline.py."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.synthetic import draw_face, make_rows, write_made_csv


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "made_faces.csv"
    write_made_csv(path, rows=600, seed=1)
    return path


def test_same_seed_gives_the_same_bytes_and_another_seed_others(made, tmp_path):
    write_made_csv(tmp_path / "again.csv", rows=600, seed=1)
    write_made_csv(tmp_path / "other.csv", rows=600, seed=2)
    assert (tmp_path / "again.csv").read_bytes() == made.read_bytes() != (tmp_path / "other.csv").read_bytes()


def test_has_the_form_of_fer2013(made):
    lines = made.read_text().splitlines()
    assert lines[0] == "emotion,pixels,Usage"
    assert len(lines) == 601
    usages = [line.rpartition(",")[2] for line in lines[1:]]
    assert [usages.count(usage) for usage in ("Training", "PublicTest", "PrivateTest")] == [480, 60, 60]


def test_every_split_shows_every_expression():
    shown = {(row.usage, row.label) for row in make_rows(200, seed=3)}
    assert len(shown) == 3 * len(EXPRESSIONS)


def test_expressions_can_be_told_apart():
    """Even a linear classifier on edge directions learns them from a few hundred faces."""
    rng = np.random.default_rng(5)
    edges = cv2.HOGDescriptor((48, 48), (16, 16), (8, 8), (8, 8), 9)

    def draw(count):
        labels = np.repeat(np.arange(len(EXPRESSIONS)), count)
        return np.stack([edges.compute(draw_face(EXPRESSIONS[label], rng)) for label in labels]), labels

    classifier = LogisticRegression(max_iter=100).fit(*draw(40))
    assert classifier.score(*draw(15)) > 0.9


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(UserError, match="200 rows at least"):
        write_made_csv(tmp_path / "few.csv", rows=199, seed=1)
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_is_not_replaced(tmp_path, monkeypatch):
    """Such as /dev/null, which root could."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for place in (Path("pipe"), Path(), tmp_path):
        with pytest.raises(UserError, match="is no file, to be replaced by one"):
            write_made_csv(place, rows=200, seed=1)
    assert Path("pipe").is_fifo()
