"""The demonstration's scratch copy. That the whole of it runs is shown by `make demo` in .ci/run."""

import subprocess
from pathlib import Path

import pytest
import yaml

from flows.demo import DRAWN, PHOTOS, SHORTENED, copy_photos, draw_faces, make_workspace, shortened
from tasks.errors import UserError
from tasks.params import Params

ROOT = Path(__file__).parents[2]


def test_the_copy_has_its_own_git_and_data_and_no_champion(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "demo"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "old").touch()
    (folder / "params.yaml").touch()
    make_workspace(folder)
    assert (folder / "data" / "raw" / "made_faces.csv").exists()
    assert (folder / ".dvc").is_dir()
    assert not (folder / "models").exists()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    assert status.stdout == ""


def test_started_by_a_hook_of_git_it_leaves_the_hooks_repository_alone(tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    subprocess.run(["git", "init", "--quiet", theirs], check=True)
    before = (theirs / ".git/config").read_text()
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GIT_DIR", str(theirs / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(theirs / ".git/index"))
    make_workspace(tmp_path / "demo")
    assert (tmp_path / "demo/.git").is_dir()
    assert (theirs / ".git/config").read_text() == before
    assert not (theirs / ".git/index").exists()


def test_shortened_params_are_valid_and_keep_the_bars():
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    short = Params.model_validate(shortened(parameters, SHORTENED))
    assert set(short.candidates) == {"modelo_02", "residual", "mini_xception"}
    assert short.promote.model_dump() == parameters["promote"]


def test_nobody_is_taught_in_the_demonstration():
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    parameters["candidates"]["vgg_like"] |= {"labels": "taught_again", "taught": {"by": ["large"], "share": 0.7}}
    assert Params.model_validate(shortened(parameters, {"vgg_like": {}})).candidate("vgg_like").taught is None


def test_the_copy_reads_the_made_set_wherever_the_real_one_lies():
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    parameters["ingest"]["source"] = "/mnt/fer2013"
    assert Params.model_validate(shortened(parameters, SHORTENED)).ingest.source == "data/raw"


@pytest.mark.parametrize(("content", "words"), [("", "is empty"), ("a: [", "is not YAML")])
def test_a_wrong_params_file_is_one_line_and_the_last_demonstration_stays(content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "tasks", "flows"):
        Path(name).mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        Path(name).write_text(content)
    with pytest.raises(UserError, match=words):
        make_workspace(Path("demo"))
    assert Path("demo").is_dir()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_demonstration_is_not_replaced(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "demo"
    mine = tmp_path / "mine" if kind == "link" else folder
    if kind == "file":
        mine.write_text("mine")
    else:
        mine.mkdir()
        (mine / "song.wav").write_text("mine")
    if kind == "link":
        folder.symlink_to(mine)
    with pytest.raises(UserError, match="in the way of the demonstration, and not an earlier one"):
        make_workspace(folder)
    assert mine.exists()
    assert kind == "file" or (mine / "song.wav").exists()


def test_without_its_candidates_the_demonstration_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="none of the candidates that the demonstration trains: mine"):
        make_workspace(tmp_path / "demo", {"mine": {}})


def test_drawn_faces_are_named_after_what_they_show(tmp_path):
    draw_faces(tmp_path / "drawn")
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert len(drawn) == DRAWN
    assert drawn[3] == "004-happy.png"


def test_photos_come_from_installed_packages(tmp_path):
    copy_photos(tmp_path / "photos")
    assert {path.name for path in (tmp_path / "photos").iterdir()} == {Path(name).name for _, name in PHOTOS}
