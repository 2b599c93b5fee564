"""Rebuilding apart from the workspace, with real Git and real DVC on workspaces that `dvc repro` built."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Workspace, programs_in
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import params, rebuild
from tasks.errors import UserError
from tasks.install import record
from tasks.rebuild import STATE, copy_changed, out_of_date, renew, run, unclean

WORKTREE = STATE / "workspace"
CODE = Path("tasks/networks.py")
CHAMPION = Path("models/champion")
SMALL = Path("models/small")


def git(*arguments: str, folder: Path = Path()) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def commit(message: str) -> None:
    git("add", "--all", ".")
    git("commit", "-q", "-m", message)


def set_identity() -> None:
    git("config", "user.name", "tests")
    git("config", "user.email", "tests@localhost")


def change(section: str, **values: object) -> None:
    Workspace(Path()).change(section, **values)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def status(folder: Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")


@pytest.fixture
def workspace(built: list[Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a built workspace, committed, as the current folder."""
    folder = tmp_path / "a workspace"
    leave = shutil.ignore_patterns("log.txt", "unfinished", "__pycache__", "tmp")
    shutil.copytree(built[0].folder, folder, ignore=leave)
    monkeypatch.chdir(folder)
    set_identity()
    commit("built")
    return folder


@pytest.mark.usefixtures("workspace")
def test_what_is_out_of_date() -> None:
    assert out_of_date(Path()) == {}

    # DVC writes its list of locks in place, and may have been killed then.
    assert Path(".dvc/tmp/rwlock").read_text()
    Path(".dvc/tmp/rwlock").write_text("")
    assert out_of_date(Path()) == {}

    # What stages made is no reason: not if it is gone, nor if an older champion is back.
    shutil.rmtree("data/arrays")
    Path("data/ingested/faces.parquet").unlink()
    Path("models/candidates/small/model.keras").unlink()
    (CHAMPION / "card.md").write_text("an older one")
    assert out_of_date(Path()) == {}

    change("candidates.small", epochs=1)
    CODE.write_text(CODE.read_text() + "\n")
    assert out_of_date(Path()) == {
        "train@small": [str(CODE), "params.yaml: candidates.small"],
        "train@muon": [str(CODE)],
        "evaluate@small": [str(CODE)],
        "evaluate@muon": [str(CODE)],
        "promote": ["params.yaml: candidates"],
    }
    git("checkout", "--", ".")

    shutil.copytree("data/raw", "data/raw/more")
    stages = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(stages.replace("python -m tasks.parse", "python  -m tasks.parse"))
    assert out_of_date(Path()) == {"ingest": ["data/raw"], "parse": ["changed command"]}
    Path("dvc.yaml").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc status failed: .*"):
        out_of_date(Path())


@pytest.fixture(params=["", "a/pipeline"], ids=["whole repository", "folder of it"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository, the pipeline in it or in a folder of it, as the current folder. No DVC."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    set_identity()
    Path("outside").write_text("first")
    folder = tmp_path / request.param
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    shutil.copy(ROOT / ".gitignore", ".gitignore")
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", "tasks/a b.py", "models/champion/card.md", "notes.md"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("first")
    git("add", "--all", str(tmp_path))
    git("commit", "-q", "-m", "first")
    return folder


@pytest.mark.usefixtures("pipeline")
def test_what_is_unclean() -> None:
    assert unclean() == []
    # New files count where the pipeline would see them; ignored ones do not, nor do others' affairs.
    for name in ("labels/x.csv", "sketch.py", "data/raw/new.csv", "models/unfinished/a", "tasks/__pycache__/a.pyc"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("new")
    assert unclean() == []
    Path("tasks/new ü.py").write_text("new")
    Path("models/champion/new.md").write_text("new")
    assert unclean() == ["models/champion/new.md", "tasks/new ü.py"]
    Path("tasks/a b.py").write_text("second")
    Path("notes.md").unlink()
    git("mv", "dvc.lock", "models/dvc.lock")
    assert unclean() == [
        "dvc.lock",
        "models/dvc.lock",
        "notes.md",
        "tasks/a b.py",
        "models/champion/new.md",
        "tasks/new ü.py",
    ]


def test_changes_elsewhere_in_the_repository_are_not_the_pipelines(tmp_path: Path, pipeline: Path) -> None:
    (tmp_path / "outside").write_text("second")
    assert unclean() == (["outside"] if pipeline == tmp_path else [])


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_only_what_differs_in_size_or_time_is_read_anew(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "not" / "yet" / "target"
    write(source, {"a": b"1", "deep/er/b": b"2", "deep/c": b"3", "gone/d": b"4"})
    copy_changed(source, target)
    assert tree(target) == tree(source)
    before = {path: path.stat().st_ctime_ns for path in target.rglob("*") if path.is_file()}
    time.sleep(0.02)

    write(source, {"deep/er/b": b"22"})
    os.utime(source / "deep" / "c", (1, 1))
    shutil.rmtree(source / "gone")
    copy_changed(source, target)
    assert tree(target) == tree(source)
    assert (target / "deep" / "c").stat().st_mtime == 1
    assert not (target / "gone").exists()
    after = {path: path.stat().st_ctime_ns for path in target.rglob("*") if path.is_file()}
    assert [path.name for path in after if after[path] == before[path]] == ["a"]


def test_a_single_file_and_one_that_is_missing(tmp_path: Path) -> None:
    source, target = tmp_path / "fer2013.csv", tmp_path / "data" / "fer2013.csv"
    source.write_text("1")
    copy_changed(source, target)
    assert target.read_text() == "1"
    source.unlink()
    copy_changed(source, target)
    assert not target.exists()


def test_data_on_another_disk_comes_along(tmp_path: Path) -> None:
    disk, source, target = tmp_path / "disk", tmp_path / "source", tmp_path / "target"
    write(disk, {"set/angry/1.png": b"1", "set/fer2013.csv": b"2"})
    source.mkdir()
    (source / "set").symlink_to(disk / "set")
    (source / "one.csv").symlink_to(disk / "set" / "fer2013.csv")
    copy_changed(source, target)
    assert tree(target) == {"set/angry/1.png": b"1", "set/fer2013.csv": b"2", "one.csv": b"2"}
    assert not any(path.is_symlink() for path in target.rglob("*"))


# Names that are a file in one tree may be a folder in another.
TREES = st.dictionaries(
    st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join), st.binary(max_size=2), max_size=5
).map(lambda files: {n: c for n, c in files.items() if not any(other.startswith(f"{n}/") for other in files)})


@settings(max_examples=60, deadline=None)
@given(st.lists(TREES, min_size=1, max_size=3))
def test_a_copy_follows_every_change(trees: list[dict[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "source"), Path(name, "target")
        for number, files in enumerate(trees, 1):
            shutil.rmtree(source, ignore_errors=True)
            write(source, files)
            for path in source.rglob("*"):
                os.utime(path, (number, number))
            copy_changed(source, target)
            assert tree(target) == files
            assert {path.relative_to(target) for path in target.rglob("*") if path.is_dir()} == {
                path.relative_to(source) for path in source.rglob("*") if path.is_dir()
            }


def test_a_worktree_from_its_first_day_on(workspace: Path) -> None:
    champion = tree(CHAMPION)
    options = params.load()

    # The first time it has all that the workspace has, and DVC finds nothing to do there.
    folder = renew(options)
    assert folder.samefile(workspace / WORKTREE)
    assert status(folder) == "{}"
    assert tree(folder / CHAMPION) == champion
    assert tree(folder / "data/arrays") == tree(Path("data/arrays"))
    assert git("status", "--porcelain", folder=folder) == ""

    # What was built there stays, whether Git knows it or not, while code, parameters and data follow the workspace.
    write(
        folder,
        {
            "models/candidates/small/model.keras": b"new",
            "models/candidates/small/evaluation/metrics.json": b"new",
            "models/candidates/small/evaluation/new.csv": b"new",
            "models/candidates/gone/model.keras": b"of a candidate that is no more",
            "models/candidates/gone/training.json": b"of a candidate that is no more",
            "models/unfinished/small/epoch": b"new",
            "models/champion/card.md": b"new",
            "models/small/card.md": b"new",
            "dvc.lock": b"new",
            "tasks/stray.py": b"of a commit that is no more",
        },
    )
    change("candidates.small", epochs=1)
    git("rm", "-q", str(CODE))
    write(Path(), {"tasks/added.py": b"added", "data/raw/extra/mine.csv": b"more"})
    commit("other code")
    lock = Path(git("rev-parse", "--absolute-git-dir", folder=folder).strip())
    for name in ("index.lock", "HEAD.lock"):  # of a run that was killed
        (lock / name).touch()
    assert renew(options).samefile(folder)
    assert git("rev-parse", "HEAD", folder=folder) == git("rev-parse", "HEAD")
    assert not (folder / CODE).exists()
    assert (folder / "tasks/added.py").read_bytes() == b"added"
    assert not (folder / "tasks/stray.py").exists()
    assert (folder / "params.yaml").read_bytes() == Path("params.yaml").read_bytes()
    assert (folder / "data/raw/extra/mine.csv").read_bytes() == b"more"
    for name in ("model.keras", "evaluation/metrics.json", "evaluation/new.csv"):
        assert (folder / "models/candidates/small" / name).read_bytes() == b"new"
    assert (folder / "models/unfinished/small/epoch").read_bytes() == b"new"
    assert (folder / CHAMPION / "card.md").read_bytes() == b"new"
    assert (folder / SMALL / "card.md").read_bytes() == b"new"
    assert (folder / "dvc.lock").read_bytes() == b"new"
    assert not tree(folder / "models/candidates/gone")

    # The workspace shows nothing of all this.
    assert git("status", "--porcelain") == ""
    assert unclean() == []
    assert tree(CHAMPION) == champion

    # But what somebody built in the workspace since then is taken over.
    built = yaml.safe_load(Path("dvc.lock").read_text())
    del built["stages"]["promote"]  # any other one will do
    Path("dvc.lock").write_text(yaml.safe_dump(built))
    write(folder, {"data/arrays/train.npy": b"apart"})
    commit("built by hand")
    renew(options)
    assert (folder / "dvc.lock").read_bytes() == Path("dvc.lock").read_bytes()
    assert tree(folder / CHAMPION) == champion
    assert tree(folder / "data/arrays") == tree(Path("data/arrays"))
    assert git("status", "--porcelain", folder=folder) == ""


@pytest.mark.usefixtures("workspace")
def test_new_data_is_rebuilt_where_dvc_keeps_the_older() -> None:
    rebuild.dvc("add", "data/raw")
    commit("the raw data is DVC's, too")
    write(Path(), {"data/raw/extra/mine.csv": b"more"})
    assert out_of_date(Path()) == {"ingest": ["data/raw"]}
    assert tree(renew(params.load()) / "data/raw") == tree(Path("data/raw"))


@pytest.mark.usefixtures("workspace")
def test_a_worktree_that_is_not_whole_is_made_anew() -> None:
    def check() -> None:
        folder = rebuild.bring_inputs("data/raw")
        assert Path(git("rev-parse", "--show-toplevel", folder=folder).strip()).samefile(WORKTREE)
        assert (folder / CODE).read_bytes() == CODE.read_bytes()
        assert rebuild.dvc("cache", "dir", folder=folder) == str(Path(".dvc/cache").absolute())

    write(WORKTREE, {"half": b"of a kill before Git wrote anything of use"})
    check()
    assert not (WORKTREE / "half").exists()

    (WORKTREE / ".git").unlink()
    Path(".git/worktrees/workspace/locked").write_text("initializing")  # as Git has it until it is ready
    check()

    rebuild.READY.unlink()  # a kill right after Git's part: DVC would keep a cache of its own there
    (WORKTREE / ".dvc" / "config.local").unlink()
    check()


def test_a_workspace_that_was_copied_has_a_worktree_of_its_own(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rebuild.bring_inputs("data/raw").absolute()
    head = git("rev-parse", "HEAD", folder=folder)
    copy = workspace.with_name("copy")
    shutil.copytree(workspace, copy, symlinks=True)
    monkeypatch.chdir(copy)
    other = rebuild.bring_inputs("data/raw")
    git("commit", "-q", "--allow-empty", "-m", "in the copy", folder=other)
    assert git("rev-parse", "--path-format=absolute", "--git-common-dir", folder=other).strip() == str(copy / ".git")
    assert git("rev-parse", "HEAD", folder=folder) == head


@pytest.mark.parametrize("pipeline", ["pipeline"], indirect=True)
def test_a_pipeline_in_a_folder_commits_nothing_else(pipeline: Path) -> None:
    """What changed elsewhere in the repository since the last time must not be undone by the next champion's commit."""
    shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("dvc.yaml").write_text("stages: {}\n")
    Path("dvc.lock").unlink()
    commit("dvc")
    folder = renew(params.load())
    assert folder.resolve() == (pipeline / WORKTREE / "pipeline").resolve()
    (pipeline.parent / "outside").write_text("second")
    git("commit", "-q", "-a", "-m", "second")
    assert renew(params.load()) == folder
    git("add", "--all", "--", ".", folder=folder)
    assert git("diff", "--cached", "--name-only", "HEAD", folder=folder) == ""
    assert (WORKTREE / "outside").read_text() == "second"
    assert unclean() == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('epoch 1')", None),
        ("import sys; print('a'); print('ferflow: data/raw/a.csv, row 3: bad'); print('ERROR: failed'); sys.exit(1)",
         "data/raw/a.csv, row 3: bad"),
        ("import os; print('epoch 1', flush=True); os.kill(os.getpid(), 9)", "ran out of memory"),
        ("print('a'); raise MemoryError", "ran out of memory"),
        ("print('ERROR: failed to run: python -m tasks.train a, exited with -9'); print(); exit(1)",
         "ran out of memory"),
        ("exit('ferflow: failed to run: python -m tasks.train a, exited with -9')", "ran out of memory"),
        ("print('a'); raise ValueError('some reason')", "ValueError: some reason"),
        ("exit(7)", "exit code 7"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure(tmp_path: Path, code: str, reason: str | None) -> None:
    (tmp_path / "stage.py").write_text(code)
    lines: list[str] = []
    assert run(tmp_path, ["stage"], lines.append, hours=1) == reason


def test_lines_are_told_and_time_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text("import time; print('epoch 1'); time.sleep(60)")
    lines: list[str] = []
    reason = run(tmp_path, ["stage"], lines.append, hours=1.5 / 3600)
    assert reason == f"took longer than retrain.stage_hours ({1.5 / 3600:g})"
    assert lines == ["epoch 1"]


def test_those_who_teach_come_before_the_taught() -> None:
    order = rebuild.stages(params.load(ROOT / "params.yaml"))
    assert order[:2] == ["ingest", "parse"]
    assert (
        order.index("train@large_untaught")
        < order.index("teach@large_untaught")
        < order.index("train@large")
        < order.index("evaluate@large")
        < order.index("teach@large")
        < order.index("train@large_again")
    )
    assert len(order) == len(set(order))


@pytest.mark.parametrize("pipeline", ["vídeos, 100 % #1"], indirect=True)
def test_a_folder_of_any_name_has_a_worktree_that_shares_the_cache(pipeline: Path) -> None:
    shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    commit("DVC")
    folder = rebuild.bring_inputs("data/raw")
    assert rebuild.dvc("cache", "dir", folder=folder) == str(pipeline / ".dvc" / "cache")


@pytest.fixture
def pipeline_of_dvc(pipeline: Path) -> Path:
    """The pipeline in a folder of its repository, with DVC and data, and no stage but one that reads them."""
    shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("dvc.yaml").write_text("stages: {ingest: {cmd: 'true', deps: ['${ingest.source}']}}\n")
    Path("dvc.lock").unlink()
    write(Path(), {"data/raw/.gitkeep": b"", "data/raw/fer2013.csv": b"1", "data/weights/.gitkeep": b""})
    commit("dvc")
    return pipeline


IN_A_FOLDER = pytest.mark.parametrize("pipeline", ["a/pipeline"], indirect=True)


@IN_A_FOLDER
@pytest.mark.parametrize("up", range(9))
def test_data_outside_of_the_pipelines_folder_reaches_nothing(pipeline_of_dvc: Path, up: int) -> None:
    """However far up: beside the worktree, in the folders between it and the workspace, and in the workspace itself."""
    folder = rebuild.bring_inputs("data/raw")
    source = Path(*[".."] * up, "seldom" if up else "")
    mine = Path(os.path.normpath(folder / source), "mine.csv")
    if up:
        write(mine.parent, {"mine.csv": b"nobody else has it"})
    before = tree(pipeline_of_dvc)
    with pytest.raises(UserError, match=r"retraining reaches .* only within .*pipeline; .* by its absolute path"):
        rebuild.bring_inputs(str(source))
    assert tree(pipeline_of_dvc) == before
    assert not up or mine.exists()


@IN_A_FOLDER
def test_data_with_an_absolute_path_are_read_where_they_lie(pipeline_of_dvc: Path, tmp_path: Path) -> None:
    write(tmp_path / "faces", {"fer2013.csv": b"1"})
    change("ingest", source=str(tmp_path / "faces"))
    assert rebuild.dvc("repro")
    commit("built")
    folder = renew(params.load())
    assert out_of_date(folder) == {}
    write(tmp_path / "faces", {"extra.csv": b"1"})
    assert out_of_date(rebuild.bring_inputs(params.load().ingest.source)) == {"ingest": [str(tmp_path / "faces")]}
    assert set(tree(tmp_path / "faces")) == {"fer2013.csv", "extra.csv"}
    assert pipeline_of_dvc.exists()


@IN_A_FOLDER
@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "relative"])
def test_a_link_to_the_data_that_git_has(pipeline_of_dvc: Path, tmp_path: Path, absolute: bool) -> None:
    faces = tmp_path / "faces"
    write(faces, {"fer2013.csv": b"1", "set/a.png": b"2"})
    shutil.rmtree("data/raw")
    Path("data/raw").symlink_to(faces if absolute else os.path.relpath(faces, "data"))
    rebuild.dvc("repro")
    commit("a link")
    expected = tree(faces)
    for name in ("one", "another"):
        folder = renew(params.load())
        assert out_of_date(folder) == {}
        assert tree(folder / "data/raw") == expected
        write(folder, {"models/champion/card.md": name.encode()})
        made = record(folder, name)
        assert git("show", "--format=", "--name-only", made).split() == ["a/pipeline/models/champion/card.md"]
        git("reset", "-q", "--hard", made)
        assert tree(faces) == expected

    # The worktree's link is of another day, and what it leads to is not the copy's.
    Path("data/raw").unlink()
    write(Path(), {"data/raw/fer2013.csv": b"other"})
    git("add", "--all")
    git("commit", "-q", "-m", "no link any more")
    git("checkout", "-q", "--force", "HEAD~1", folder=folder)
    for _ in range(2):
        assert tree(renew(params.load()) / "data/raw") == {"fer2013.csv": b"other"}
    assert tree(faces) == expected


@IN_A_FOLDER
def test_a_link_in_place_of_the_folder_of_all_data(pipeline_of_dvc: Path, tmp_path: Path) -> None:
    shutil.move("data", tmp_path / "disk")
    Path("data").symlink_to(tmp_path / "disk")
    commit("a link")
    expected = tree(tmp_path / "disk")
    with pytest.raises(UserError, match=r"reaches data/(raw|weights) only within .*; .* let data/ be a folder"):
        renew(params.load())
    Path("data").unlink()
    write(Path(), {"data/raw/.gitkeep": b"", "data/raw/fer2013.csv": b"other"})
    commit("no link any more")
    assert tree(renew(params.load()) / "data/raw") == tree(Path("data/raw"))
    assert tree(tmp_path / "disk") == expected
    assert pipeline_of_dvc.exists()


def test_links_in_a_copy_are_not_followed(tmp_path: Path) -> None:
    source, target, elsewhere = tmp_path / "source", tmp_path / "target", tmp_path / "elsewhere"
    write(source, {"set/a.png": b"new", "b.png": b"1"})
    write(elsewhere, {"a.png": b"old", "c.png": b"2"})
    target.mkdir()
    for name in ("set", "gone"):
        (target / name).symlink_to(elsewhere)
    for name in ("b.png", "dangling.png"):
        (target / name).symlink_to(tmp_path / "nowhere")
    copy_changed(source, target)
    assert tree(target) == tree(source)
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert tree(elsewhere) == {"a.png": b"old", "c.png": b"2"}
    shutil.rmtree(target)
    target.symlink_to(elsewhere)
    copy_changed(source, target)
    assert tree(target) == tree(source)
    assert tree(elsewhere) == {"a.png": b"old", "c.png": b"2"}


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_new_data_does_not_go_through_links_into_dvcs_cache(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    kept, new, copy = (tmp_path / name for name in ("kept", "new", "copy"))
    kept.write_text("old")
    new.write_text("new, and longer")
    link(kept, copy)
    copy_changed(new, copy)
    assert (kept.read_text(), copy.read_text(), copy.is_symlink()) == ("old", "new, and longer", False)


@pytest.mark.parametrize("pipeline", [""], indirect=True)
def test_settings_of_this_machine_are_those_of_today(pipeline: Path) -> None:
    shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    commit("DVC")
    folder = rebuild.worktree()
    rebuild.dvc("remote", "add", "--local", "-d", "storage", "s3://bucket/new")
    rebuild.dvc("cache", "dir", "--local", str(pipeline / "elsewhere"))
    rebuild.worktree()
    assert "s3://bucket/new" in rebuild.dvc("remote", "list", folder=folder)
    assert rebuild.dvc("cache", "dir", folder=folder) == str(pipeline / "elsewhere")


@pytest.mark.parametrize("pipeline", ["", "a/pipeline"], indirect=True)
@pytest.mark.usefixtures("pipeline")
def test_a_relative_remote_is_the_workspaces() -> None:
    shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("dvc.yaml").write_text("stages: {}\n")
    Path("dvc.lock").unlink()
    commit("DVC")
    folder = rebuild.bring_inputs("data/raw")

    rebuild.dvc("remote", "add", "--default", "store", "../store")
    rebuild.dvc("remote", "add", "far", "ssh://host/far")
    rebuild.dvc("remote", "add", "--local", "mine", "mine")
    commit("remotes")
    rebuild.dvc("remote", "modify", "--local", "store", "shared", "group")
    rebuild.dvc(
        "remote", "modify", "--local", "far", "keyfile", "key"
    )  # of a remote that the worktree's commit has not
    Path(".dvc/config.local").chmod(0o600)
    assert rebuild.bring_inputs("data/raw") == folder
    assert out_of_date(folder) == {}
    assert (folder / ".dvc/config.local").stat().st_mode & 0o777 == 0o600
    assert rebuild.dvc("remote", "list", folder=folder) == rebuild.dvc("remote", "list")
    for setting in ("remote.far.keyfile", "remote.store.shared"):
        assert rebuild.dvc("config", setting, folder=folder) == rebuild.dvc("config", setting)
    assert rebuild.dvc("cache", "dir", folder=folder) == rebuild.dvc("cache", "dir")
    assert str(folder) not in rebuild.dvc("remote", "list", folder=folder)


STAGES = """
stages:
  works:
    cmd: "true"
  hangs:
    cmd: "true > dvc.lock; true > .dvc/tmp/rwlock; echo half-written; sleep 600"
  dies:
    cmd: "true > dvc.lock; true > .dvc/tmp/rwlock; kill -KILL 0"
"""
HANG = """
from tasks import rebuild
rebuild.reproduce(rebuild.worktree(), "hangs", lambda line: print(line, flush=True), hours=1)
"""


@pytest.mark.parametrize("pipeline", [""], indirect=True)
def test_what_a_killed_dvc_leaves_half_written_is_mended(pipeline: Path) -> None:
    """As it writes dvc.lock and its list of locks: in place, emptied first."""
    shutil.copytree(ROOT / ".dvc", ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    Path("params.yaml").write_text("{}")
    Path("dvc.yaml").write_text(STAGES)
    Path("dvc.lock").unlink()
    commit("stages")
    folder = rebuild.worktree()
    assert rebuild.reproduce(folder, "works", print, hours=1) is None
    lock = (folder / "dvc.lock").read_text()

    assert rebuild.reproduce(folder, "dies", print, hours=1) == "ran out of memory"
    assert (folder / "dvc.lock").read_text() == lock

    with subprocess.Popen([sys.executable, "-c", HANG], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "half-written\n"
        process.kill()
    while programs_in(pipeline / folder):
        time.sleep(0.1)
    assert (folder / "dvc.lock").read_text() == ""
    assert (rebuild.worktree() / "dvc.lock").read_text() == lock
    assert rebuild.reproduce(folder, "works", print, hours=1) is None


@pytest.mark.usefixtures("pipeline")
def test_new_files_may_have_names_that_are_no_utf8() -> None:
    Path("photos").mkdir()
    Path(os.fsdecode(b"photos/caf\xe9.jpg")).touch()
    Path(os.fsdecode(b"models/caf\xe9")).touch()
    assert unclean() == ["models/caf\N{REPLACEMENT CHARACTER}"]
