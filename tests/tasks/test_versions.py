"""The champion's versions in a real Git repository: listed, extracted, restored whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from tasks import champion
from tasks.errors import UserError
from tasks.versions import extract, find, history, previous, restore, rolled_back, unrecorded

CHAMPION = Path("models/champion")


class Repository:
    """A Git repository that holds champions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout

    def deploy(self, version: str, temperature: float) -> None:
        """Commit a champion of that version."""
        path = self.folder / CHAMPION / "champion.json"
        info = json.loads(path.read_text())
        info |= {"version": version, "calibration": info["calibration"] | {"temperature": temperature}}
        path.write_text(json.dumps(info))
        self.commit(version)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "-q", "-m", message)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.folder / CHAMPION).iterdir())}

    def hook(self, script: str) -> Path:
        path = self.folder / ".git/hooks/pre-commit"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Two versions: one, two (the current)."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    made = Repository(tmp_path / "repository")
    shutil.copytree(ROOT / CHAMPION, made.folder / CHAMPION)
    shutil.copy(ROOT / ".gitignore", made.folder)
    made.git("init", "-q")
    made.git("config", "user.name", "tests")
    made.git("config", "user.email", "tests@localhost")
    made.git("config", "user.useConfigOnly", "true")
    made.deploy("net-one", 1.0)
    made.deploy("net-two", 2.0)
    return made


def assert_untouched(repository: Repository, files: dict[str, bytes], head: str) -> None:
    assert repository.files() == files
    assert repository.git("rev-parse", "HEAD") == head
    assert repository.git("status", "--porcelain") == ""
    assert [path.name for path in (repository.folder / "models").iterdir()] == ["champion"]


def test_history_lists_versions_newest_first(repository: Repository) -> None:
    repository.git("tag", "-a", "champion@v1", "-m", "registered", "HEAD~1")
    repository.git("tag", "champion@v2")
    repository.git("tag", "champion@v3")
    repository.git("tag", "champion@v3!")
    two, one = history(repository.folder)
    assert (two.number, two.version, two.tags, two.current) == (2, "net-two", ("champion@v2",), True)
    assert (one.number, one.version, one.tags, one.current) == (1, "net-one", ("champion@v1",), False)
    assert one.commit == repository.git("rev-parse", "HEAD~1").strip()
    info = json.loads((ROOT / CHAMPION / "champion.json").read_text())
    assert (one.data, one.candidate) == (info["data"]["name"], info["candidate"])
    assert (one.val_accuracy, one.test_accuracy) == tuple(
        info["metrics"][split]["accuracy"] for split in ("val", "test")
    )
    assert one.date <= two.date


def test_a_champion_that_a_merge_did_not_take_stays_a_version(repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "other", "HEAD~1")
    repository.deploy("net-other", 3.0)
    repository.git("checkout", "-q", "-")
    repository.git("merge", "-q", "--no-edit", "-X", "theirs", "other")
    assert {each.version: each.current for each in history(repository.folder)} == {
        "net-one": False,
        "net-two": False,
        "net-other": True,
    }
    for follow in ("false", "true"):
        repository.git("config", "log.follow", follow)
        assert previous(repository.folder) == "net-one"
    restore("net-two", repository.folder)
    assert champion.load(repository.folder / CHAMPION).version == "net-two"
    assert previous(repository.folder) == "net-other"


def test_a_version_is_listed_once_from_its_first_date_and_held_by_its_newest_commit(repository: Repository) -> None:
    before = history(repository.folder)
    repository.deploy("net-one", 1.5)
    two, one = history(repository.folder)
    assert (one.number, one.current, two.current) == (1, True, False)
    assert one.date == before[1].date
    assert one.commit == repository.git("rev-parse", "HEAD").strip()


def test_history_passes_over_what_is_no_champion(repository: Repository) -> None:
    path = repository.folder / CHAMPION / "champion.json"
    whole = path.read_text()
    unmeasured = json.loads(whole)
    unmeasured["metrics"]["val"]["accuracy"] = None
    for content in ("{", "[]", '{"version": "x"}', json.dumps(unmeasured | {"version": "net-three"})):
        path.write_text(content)
        repository.commit("broken")
    assert [(each.version, each.current) for each in history(repository.folder)] == [
        ("net-two", False),
        ("net-one", False),
    ]
    path.write_text(whole)
    repository.commit("mended")
    assert history(repository.folder)[0].current
    repository.git("rm", "-r", "-q", str(CHAMPION))
    repository.commit("gone")
    assert not any(each.current for each in history(repository.folder))


def test_the_pipeline_may_lie_below_git_s_folder(repository: Repository) -> None:
    below = repository.folder / "below"
    below.mkdir()
    repository.git("mv", "models", "below/models")
    repository.commit("moved")
    repository.folder = below
    repository.deploy("net-three", 3.0)
    assert [each.version for each in history(below)] == ["net-three", "net-two"]
    (below / CHAMPION / "new").touch()
    assert unrecorded(below) == ["models/champion/new"]
    (below / CHAMPION / "new").unlink()
    restore("net-two", below)
    assert champion.load(below / CHAMPION).version == "net-two"
    assert repository.git("status", "--porcelain") == ""


GPG = """#!/bin/sh
cat > /dev/null
printf 'gpg: a signature\\n[GNUPG:] SIG_CREATED \\n' >&2
printf '%s\\n' '-----BEGIN PGP SIGNATURE-----' '' 'x' '-----END PGP SIGNATURE-----'
"""


def test_signatures_that_git_is_set_to_show_are_no_versions(repository: Repository, tmp_path: Path) -> None:
    program = tmp_path / "gpg"
    program.write_text(GPG)
    program.chmod(0o755)
    for name, value in (("gpg.program", str(program)), ("commit.gpgsign", "true"), ("log.showSignature", "true")):
        repository.git("config", name, value)
    repository.deploy("net-three", 3.0)
    assert "gpg: a signature" in repository.git("log", "-1")
    assert [each.version for each in history(repository.folder)][:2] == ["net-three", "net-two"]


def test_a_shallow_clone_does_not_say_that_there_was_no_version_before(repository: Repository, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    repository.git("clone", "-q", "--depth", "1", repository.folder.as_uri(), str(clone))
    with pytest.raises(UserError, match="first run: git fetch --unshallow"):
        previous(clone)


def test_a_shallow_clone_does_not_say_that_nothing_was_rolled_back(repository: Repository, tmp_path: Path) -> None:
    restore("net-one", repository.folder)
    clone = tmp_path / "clone"
    repository.git("clone", "-q", "--depth", "1", repository.folder.as_uri(), str(clone))
    with pytest.raises(UserError, match="first run: git fetch --unshallow"):
        rolled_back(clone)


def test_the_previous_version_is_not_one_that_was_rolled_back(repository: Repository) -> None:
    assert previous(repository.folder) == "net-one"
    repository.deploy("net-three", 3.0)
    restore("net-one", repository.folder)
    with pytest.raises(UserError, match="no version before the current one"):
        previous(repository.folder)
    repository.deploy("net-four", 4.0)
    assert previous(repository.folder) == "net-one"


def test_a_version_stays_rolled_back_until_it_is_champion_again(repository: Repository) -> None:
    assert rolled_back(repository.folder) == set()
    repository.deploy("net-three", 3.0)
    assert rolled_back(repository.folder) == set()
    restore("net-one", repository.folder)
    assert rolled_back(repository.folder) == {"net-two", "net-three"}
    repository.deploy("net-four", 4.0)
    assert rolled_back(repository.folder) == {"net-two", "net-three"}
    restore("net-two", repository.folder)
    assert rolled_back(repository.folder) == {"net-three"}
    restore("net-four", repository.folder)
    assert rolled_back(repository.folder) == {"net-two", "net-three"}


def test_a_version_is_found_by_name_number_and_tag(repository: Repository) -> None:
    repository.git("tag", "champion@v7", "HEAD~1")
    versions = history(repository.folder)
    assert {find(name, versions).version for name in ("net-one", "1", "champion@v7", "v7")} == {"net-one"}
    with pytest.raises(UserError, match="no version 'net-twoo' of the champion; did you mean net-two or net-one"):
        find("net-twoo", versions)
    with pytest.raises(UserError, match="known: net-two, net-one"):
        find("9", versions)
    with pytest.raises(UserError, match="holds no champion yet"):
        find("9", [])


def test_restoring_brings_back_every_byte_and_commits_nothing_else(repository: Repository) -> None:
    (repository.folder / "staged").touch()
    (repository.folder / "other").touch()
    repository.git("add", "staged")
    repository.git("checkout", "-q", "HEAD~1", "--", str(CHAMPION))
    one = repository.files()
    repository.git("checkout", "-q", "HEAD", "--", str(CHAMPION))
    done = restore("1", repository.folder)
    assert (done.version.version, done.replaced) == ("net-one", "net-two")
    assert repository.files() == one
    assert champion.load(repository.folder / CHAMPION).version == "net-one"
    assert repository.git("log", "-1", "--format=%H %an %s") == f"{done.commit} tests Champion back to net-one\n"
    assert repository.git("show", "--name-only", "--format=") == "models/champion/champion.json\n"
    assert repository.git("status", "--porcelain") == "A  staged\n?? other\n"
    assert [each.current for each in history(repository.folder)] == [False, True]
    restore("net-two", repository.folder)
    assert history(repository.folder)[0].current


def test_restoring_a_version_with_other_files(repository: Repository) -> None:
    (repository.folder / CHAMPION / "card.md").unlink()
    (repository.folder / CHAMPION / "more.md").write_text("more")
    repository.deploy("net-three", 3.0)
    restore("net-two", repository.folder)
    assert set(repository.files()) == {"card.md", "champion.json", "model.keras", "model.tflite"}
    assert repository.git("status", "--porcelain") == ""


def test_refusals_leave_all_as_it_was(repository: Repository) -> None:
    files, head = repository.files(), repository.git("rev-parse", "HEAD")
    for wanted, words in (("net-two", "net-two is the champion already"), ("three", "no version 'three'")):
        with pytest.raises(UserError, match=words):
            restore(wanted, repository.folder)
    repository.git("config", "--unset", "user.email")
    with pytest.raises(UserError, match=r"Git does not know who you are.*git config user\.name"):
        restore("net-one", repository.folder)
    assert_untouched(repository, files, head)


def test_a_champion_edited_by_hand_is_refused(repository: Repository) -> None:
    (repository.folder / CHAMPION / "card.md").write_text("mine")
    (repository.folder / CHAMPION / "new.md").write_text("mine")
    files = repository.files()
    with pytest.raises(
        UserError, match=r"not as Git has it: models/champion/card\.md, models/champion/new\.md; commit"
    ):
        restore("net-one", repository.folder)
    assert repository.files() == files


def test_a_file_whose_name_is_not_utf_8_is_a_change(repository: Repository) -> None:
    (Path(os.fsdecode(bytes(repository.folder / CHAMPION) + b"/a\xff"))).touch()
    assert unrecorded(repository.folder) == ["models/champion/a\N{REPLACEMENT CHARACTER}"]


def test_a_version_that_is_not_whole_is_refused(repository: Repository) -> None:
    whole = (repository.folder / CHAMPION / "model.tflite").read_bytes()
    (repository.folder / CHAMPION / "model.tflite").write_bytes(b"no model")
    repository.deploy("net-broken", 1.0)
    (repository.folder / CHAMPION / "model.tflite").write_bytes(whole)
    repository.deploy("net-three", 3.0)
    files, head = repository.files(), repository.git("rev-parse", "HEAD")
    with pytest.raises(UserError, match=r"net-broken in commit .* is not whole: model\.tflite is damaged"):
        restore("net-broken", repository.folder)
    assert_untouched(repository, files, head)


def test_a_failing_hook_brings_the_old_champion_back(repository: Repository) -> None:
    files, head = repository.files(), repository.git("rev-parse", "HEAD")
    hook = repository.hook("cp models/champion/champion.json seen.json; echo not today >&2; exit 1")
    with pytest.raises(UserError, match="git commit failed: not today"):
        restore("net-one", repository.folder)
    seen = repository.folder / "seen.json"
    assert json.loads(seen.read_text())["version"] == "net-one"
    seen.unlink()
    assert_untouched(repository, files, head)
    hook.unlink()
    restore("net-one", repository.folder)
    assert repository.git("status", "--porcelain") == ""


def test_no_commit_in_the_middle_of_a_merge(repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "side", "HEAD~1")
    (repository.folder / "side").touch()
    repository.commit("side")
    repository.git("checkout", "-q", "-")
    repository.git("merge", "-q", "--no-commit", "--no-ff", "side")
    files = repository.files()
    with pytest.raises(UserError, match="cannot do a partial commit during a merge"):
        restore("net-one", repository.folder)
    assert repository.files() == files


def test_after_a_kill_the_same_command_finishes(repository: Repository) -> None:
    hook = repository.hook("touch reached; sleep 60")
    command = [sys.executable, "-c", "from tasks.versions import restore; restore('net-one')"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=repository.folder, env=environment, start_new_session=True)
    reached = repository.folder / "reached"
    while not reached.exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached.unlink()
    hook.unlink()
    assert champion.load(repository.folder / CHAMPION).version == "net-one"  # whole, though not yet recorded
    assert history(repository.folder)[0].current
    restore("net-one", repository.folder)
    assert history(repository.folder)[1].current
    assert repository.git("status", "--porcelain") == ""
    assert [path.name for path in (repository.folder / "models").iterdir()] == ["champion"]


def test_after_a_kill_before_git_s_index_learnt_of_the_commit_the_next_run_works(repository: Repository) -> None:
    restore("net-one", repository.folder)
    repository.git("read-tree", "HEAD~1")
    assert unrecorded(repository.folder) == []
    restore("net-two", repository.folder)
    assert repository.git("status", "--porcelain") == ""


def test_an_interrupt_brings_the_old_champion_back(repository: Repository) -> None:
    files, head = repository.files(), repository.git("rev-parse", "HEAD")
    repository.hook(f"kill -INT {os.getpid()}; sleep 5")
    with pytest.raises(KeyboardInterrupt):
        restore("net-one", repository.folder)
    assert_untouched(repository, files, head)


def test_extracting_needs_no_clean_workspace(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / CHAMPION / "card.md").write_text("mine")
    extract(find("1", history(repository.folder)), tmp_path / "out", repository.folder)
    assert champion.load(tmp_path / "out").version == "net-one"


def test_no_repository_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="git log failed: fatal: not a git repository"):
        history(tmp_path)
