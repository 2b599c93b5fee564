"""The doctor's report, in an empty folder and in one with something wrong."""

import shutil
from pathlib import Path

import pytest

from flows.doctor import examine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report():
    return {check.name: check for check in examine()}


def test_an_empty_folder_misses_the_workspace_and_the_champion(folder):
    checks = report()
    assert checks["OpenCV"].state == checks["YuNet's model"].state == checks["tensorflow"].state == "ok"
    assert checks["workspace"].state == checks["raw data"].state == checks["arrays"].state == "missing"
    assert [name for name, check in checks.items() if check.bad] == ["champion"]
    assert "no champion" in checks["champion"].remedy
    assert "not a git repository" in checks["retraining"].found


def test_raw_data_is_recognised(folder):
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "data" / "raw" / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    checks = report()
    assert checks["workspace"].state == "ok"
    assert checks["raw data"].found == "data/raw/fer2013.csv (csv)"


def test_vgg16s_weights_are_found_by_any_name_that_training_takes(folder):
    (folder / "data" / "weights").mkdir(parents=True)
    (folder / "data" / "weights" / "keras_VGG16_notop.h5").touch()
    assert report()["VGG16's weights"].found == "data/weights/keras_VGG16_notop.h5"


def test_a_built_workspace_can_label(built, monkeypatch):
    monkeypatch.chdir(built[0].folder)
    checks = report()
    assert not any(check.bad for check in checks.values())
    assert "trained on made_faces" in checks["champion"].found
    assert checks["arrays"].state == checks["trained"].state == checks["dvc.lock"].state == "ok"
    assert "not as Git has it: data/ingested/source.json, " in checks["retraining"].found


def test_a_wrong_params_file_and_a_damaged_champion_are_problems(folder):
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text() + "promot: {}\n")
    (folder / "models" / "champion").mkdir(parents=True)
    (folder / "models" / "champion" / "champion.json").write_text("{")
    checks = report()
    assert (checks["workspace"].state, checks["champion"].state) == ("problem", "problem")
    assert "did you mean 'promote'" in checks["workspace"].found
    assert "damaged" in checks["champion"].remedy


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array"])
def test_arrays_that_are_cut_short_are_a_problem(folder, content):
    (folder / "data" / "arrays").mkdir(parents=True)
    for split in ("train", "val", "test"):
        (folder / "data" / "arrays" / f"{split}.npy").write_bytes(content)
    check = report()["arrays"]
    assert (check.state, check.found.partition(":")[0]) == ("problem", "damaged")


def test_a_lock_that_a_killed_dvc_left_is_a_problem(folder):
    text = (ROOT / "dvc.lock").read_text()
    (folder / "dvc.lock").write_text(text)
    assert report()["dvc.lock"].state == "ok"
    ends = [text.index(line) + len(line) for line in ("  parse:\n", "    cmd: ", "    outs:\n")]
    for count in (0, *ends, len(text) - 1):  # as it is while DVC writes it
        (folder / "dvc.lock").write_text(text[:count])
        assert report()["dvc.lock"].state == "problem", text[:count][-40:]
