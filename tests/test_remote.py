"""Data and models elsewhere, with the README's commands: a DVC remote on a real S3 server, and fresh clones."""

import shutil
from pathlib import Path

import pytest
from conftest import Workspace
from s3 import S3

from tasks import champion


def run(workspace: Workspace, *command: str) -> str:
    done = workspace.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def models(workspace: Workspace) -> list[str]:
    """The candidates whose model is there."""
    return sorted(path.parent.name for path in (workspace.folder / "models/candidates").glob("*/model.keras"))


@pytest.fixture(scope="module")
def team(built: list[Workspace], s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace that was pushed: what DVC keeps to a bucket, its history to a repository."""
    s3.client().create_bucket(Bucket="team")
    folder = tmp_path_factory.mktemp("remote")
    workspace = Workspace(Path(shutil.copytree(built[0].folder, folder / "team")))
    (workspace.folder / "data/raw/.gitkeep").touch()  # as in this repository
    workspace.repro("--single-item", "ingest")
    run(workspace, "git", "init", "--quiet", "--bare", "--initial-branch", "main", "../team.git")
    run(workspace, "git", "remote", "add", "origin", str(folder / "team.git"))
    run(workspace, "git", "config", "user.name", "tests")
    run(workspace, "git", "config", "user.email", "tests@localhost")
    run(workspace, "git", "add", "--all")
    run(workspace, "git", "commit", "--quiet", "--message", "built")
    run(workspace, "gto", "register", "champion")
    run(workspace, "dvc", "remote", "add", "--default", "storage", "s3://team/ferflow")
    run(workspace, "git", "rm", "--quiet", "--cached", "data/raw/.gitkeep")
    run(workspace, "dvc", "add", "data/raw")
    run(workspace, "git", "add", ".dvc/config", "data")
    run(workspace, "git", "commit", "--quiet", "--message", "A remote")
    run(workspace, "dvc", "push")
    run(workspace, "git", "push", "--quiet", "--tags", "origin", "HEAD:main")
    return workspace


def clone(team: Workspace, folder: Path) -> Workspace:
    run(team, "git", "clone", "--quiet", "--branch", "main", str(team.folder.with_suffix(".git")), str(folder))
    return Workspace(folder)


def test_a_fresh_clone_pulls_and_has_nothing_to_do(team: Workspace, tmp_path: Path) -> None:
    elsewhere = clone(team, tmp_path / "elsewhere")
    assert models(elsewhere) == []
    run(elsewhere, "dvc", "pull", "train@small")
    assert models(elsewhere) == ["small"]
    run(elsewhere, "dvc", "pull")
    assert models(elsewhere) == ["muon", "small"]
    assert "Running stage" not in elsewhere.repro()
    assert run(elsewhere, "git", "status", "--porcelain") == ""


def test_a_champion_is_fetched_by_its_version(team: Workspace, tmp_path: Path) -> None:
    address = str(team.folder.with_suffix(".git"))
    anywhere = Workspace(tmp_path)
    run(anywhere, "dvc", "artifacts", "get", address, "champion", "--rev", "v0.0.1", "--out", "fetched")
    assert champion.load(tmp_path / "fetched").version == champion.load(team.folder / "models/champion").version


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AWS_ACCESS_KEY_ID", "", "Unable to locate credentials"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", 'Could not connect to the endpoint URL: "http://127.0.0.1:9/team"'),
    ],
)
def test_what_is_wrong_with_a_remote_is_told(
    team: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    done = team.run("dvc", "push", "train@small")
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr
