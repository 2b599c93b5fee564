import numpy as np
import pytest
from conftest import CANDIDATES

from tasks.errors import UserError
from tasks.params import Candidate
from tasks.teach import targets

LABELS = np.array([3, 0])


def recipe(*teachers: str) -> Candidate:
    """A recipe, taught by these."""
    by = {"labels": "taught", "taught": {"by": list(teachers), "share": 0.6}} if teachers else {}
    return Candidate.model_validate(CANDIDATES["small"] | by)


@pytest.fixture(autouse=True)
def taught(tmp_path, monkeypatch):
    """Two teachers' answers for two faces: one is sure of the first expression, one of nothing."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/taught"
    folder.mkdir(parents=True)
    np.save(folder / "sure.npy", np.eye(7, dtype=np.float32)[[0, 0]])
    np.save(folder / "unsure.npy", np.full((2, 7), 1 / 7, np.float32))
    np.save(folder / "other.npy", np.full((3, 7), 1 / 7, np.float32))
    (folder / "cut.npy").write_bytes((folder / "sure.npy").read_bytes()[:-8])


def test_without_teachers_the_labels_are_the_targets() -> None:
    np.testing.assert_array_equal(targets(LABELS, recipe()), np.eye(7, dtype=np.float32)[LABELS])


def test_a_share_of_a_target_is_the_teachers_mean_answer() -> None:
    found = targets(LABELS, recipe("sure", "unsure"))
    assert found.dtype == np.float32
    mean = np.array([[4 / 7, *[1 / 14] * 6]] * 2)
    np.testing.assert_allclose(found, 0.4 * np.eye(7)[LABELS] + 0.6 * mean, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("absent", "no data/taught/absent.npy, or a damaged one; make it with: dvc repro teach@absent"),
        ("cut", "no data/taught/cut.npy, or a damaged one; make it with: dvc repro teach@cut"),
        ("other", "data/taught/other.npy is of other faces than data/arrays; make it anew with: dvc repro teach@other"),
    ],
)
def test_answers_that_do_not_fit_are_refused(teacher: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        targets(LABELS, recipe("sure", teacher))
    assert str(error.value) == words
