"""Git, called from where other Gits are at work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

HOOK = f"""#!/bin/sh
cd ../other && {sys.executable} -c '
from pathlib import Path
from tasks.git import changed_files, git
print(git(Path(), "rev-parse", "--show-toplevel").decode().strip(), changed_files(Path()))
' > ../seen
"""


def test_a_hook_of_another_repository_leads_git_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    committed, other = tmp_path / "committed", tmp_path / "other"
    for folder in (committed, other):
        subprocess.run(["git", "init", "-q", folder], check=True)
    (other / "new").touch()
    hook = committed / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(HOOK)
    hook.chmod(0o755)
    author = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    # With a file on the command line, Git gives the hook an index of its own.
    (committed / "file").touch()
    subprocess.run(["git", "add", "file"], cwd=committed, check=True)
    subprocess.run(["git", *author, "commit", "-q", "-m", "first", "file"], cwd=committed, check=True)
    assert (tmp_path / "seen").read_text() == f"{other} [('??', 'new')]\n"
