"""The files that deploy ferflow: container image, compose file, systemd units, and the page of operations.

No Docker engine is needed: the files are parsed and linted, and held against what they name. The commands and settings of
compose.yaml run in tests/flows/test_postgres.py.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ASTRONAUT, ROOT, rows
from packaging.specifiers import SpecifierSet

from flows.runner import SETTINGS
from flows.serve import FLOWS_END
from flows.server import SERVER_ENDS

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if name != "postgres"}
SYSTEMD = ROOT / "docs" / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
PAGE = (ROOT / "docs" / "operations.md").read_text()


def run(*command, **options):
    """A program, of this Python's environment before others."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    program = shutil.which(command[0], path=path)
    assert program, f"{command[0]} is not installed"
    environment = os.environ | {"PATH": path}
    return subprocess.run(
        [program, *command[1:]], env=environment, capture_output=True, text=True, check=False, **options
    )


def copied():
    """What the Dockerfile copies from the project."""
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M):
        yield from line.split()


def env_file():
    """The settings of docs/systemd/ferflow.env."""
    lines = (SYSTEMD / "ferflow.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_dockerfile_passes_hadolint():
    done = run("hadolint", str(ROOT / "Dockerfile"))
    assert done.returncode == 0, done.stdout


def test_the_compose_file_is_of_the_specification_s_form():
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / "compose.yaml"))
    assert done.returncode == 0, done.stdout


def test_the_image_s_python_and_libraries_are_the_project_s():
    (version,) = re.findall(r"^FROM python:(\d+\.\d+)-slim-\w+$", DOCKERFILE, re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert SpecifierSet(project["project"]["requires-python"]).contains(f"{version}.0")
    assert project["tool"]["mypy"]["python_version"] == version
    (libraries,) = re.findall(r"apt-get install (lib[\w. -]+)", (ROOT / "Makefile").read_text())
    assert f" git {libraries} " in DOCKERFILE


def test_the_image_s_files_label_a_photo(tmp_path):
    """What COPY names, as .dockerignore lets it through, is in Git and is enough."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in copied():
        assert name.split("/")[0] in allowed, name
        assert run("git", "ls-files", name, cwd=ROOT).stdout, name
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    assert {name.split("/")[0] for name in copied()} == allowed
    command = [sys.executable, "-m", "flows.cli", "label", str(ASTRONAUT), "--out", "labels"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True)
    assert [row["status"] for row in rows(tmp_path / "labels" / "images.csv")] == ["ok"]


def test_the_services_fit_together():
    volumes = [volume for service in SERVICES.values() for volume in service["volumes"]]
    named = {volume.split(":")[0] for volume in volumes if isinstance(volume, str) and not volume.startswith(".")}
    assert named == COMPOSE["volumes"].keys()
    for name, service in SERVICES.items():
        assert service.get("depends_on", {}).keys() <= SERVICES.keys() - {name}
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for service in OWN.values():
        assert service["image"] == "ferflow"
    server = SERVICES["server"]
    database = SERVICES["postgres"]["environment"]
    assert server["environment"]["PREFECT_SERVER_DATABASE_HOST"] in SERVICES
    for prefect, postgres in (("NAME", "DB"), ("USER", "USER"), ("PASSWORD", "PASSWORD")):
        assert server["environment"][f"PREFECT_SERVER_DATABASE_{prefect}"] == database[f"POSTGRES_{postgres}"]
    port = server["command"][server["command"].index("--port") + 1]
    assert server["ports"] == [f"127.0.0.1:{port}:{port}"]
    for name in ("worker", "deploy"):
        assert SERVICES[name]["environment"]["PREFECT_API_URL"] == f"http://server:{port}/api"
        assert ".:/ferflow" in SERVICES[name]["volumes"]
    assert re.search(r"^WORKDIR /ferflow$", DOCKERFILE, re.M)
    (pool,) = {deployment["work_pool"]["name"] for deployment in prefect_yaml()["deployments"]}
    assert SERVICES["worker"]["command"][:2] == ["--pool", pool]
    assert f"work-pool create {pool} " in SERVICES["deploy"]["command"][0]


def prefect_yaml():
    return yaml.safe_load((ROOT / "prefect.yaml").read_text())


def test_what_the_deployments_read_and_write_is_mounted():
    (label,) = [each["parameters"] for each in prefect_yaml()["deployments"] if each["name"] == "label"]
    targets = [volume["target"] for volume in SERVICES["worker"]["volumes"] if isinstance(volume, dict)]
    assert targets == [f"/ferflow/{name}" for name in (*label["sources"], label["out"])]


def test_the_user_s_settings_are_explained_and_no_password_is_written():
    text = (ROOT / "compose.yaml").read_text()
    header = text.partition("\nname:")[0]
    used = set(re.findall(r"\$\{(\w+)", text))
    assert used == set(re.findall(r"^#   (\w+)=", header, re.M))
    assert set(re.findall(r"([A-Z_]+)=%s", PAGE)) <= used
    assert "/.env\n" in (ROOT / ".gitignore").read_text()
    for line in re.findall(r"PASSWORD.*", text.removeprefix(header)):
        assert "${POSTGRES_PASSWORD:?" in line


def test_every_setting_is_one_of_prefect_s_and_as_ferflow_serve_has_it():
    import prefect.settings

    containers = {name: value for service in OWN.values() for name, value in service.get("environment", {}).items()}
    for settings in (containers, env_file(), *map(unit_environment, UNITS)):
        for name in settings:
            assert name == "DO_NOT_TRACK" or hasattr(prefect.settings, name), name
    assert containers.items() >= SETTINGS.items()
    assert env_file().items() >= SETTINGS.items()
    assert set(re.findall(r"PREFECT_\w+[A-Z]", PAGE)) <= containers.keys() | {"PREFECT_SERVER_DATABASE"}


def unit_environment(unit):
    return dict(line.split("=", 1) for line in re.findall(r"^Environment=(.+)$", unit.read_text(), re.M))


def commands(unit):
    """What a unit runs, in order, without the folder of the environment."""
    found = re.findall(r"^ExecStart(?:Pre)?=(.+)$", unit.read_text(), re.M)
    assert all(command.startswith("/srv/ferflow/.venv/bin/") for command in found)
    return [command.removeprefix("/srv/ferflow/.venv/bin/") for command in found]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path):
    """With this Python's programs in the place of /srv/ferflow/.venv."""
    (tmp_path / "bin").symlink_to(Path(sys.executable).parent)
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/srv/ferflow/.venv", str(tmp_path)))
    done = run("systemd-analyze", "verify", *(str(tmp_path / unit.name) for unit in UNITS))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_units_run_what_the_containers_run():
    serve, worker, server = (
        commands(SYSTEMD / f"{name}.service") for name in ("ferflow", "ferflow-worker", "prefect-server")
    )
    assert serve == ["ferflow serve"]
    (deploy,) = SERVICES["deploy"]["command"]
    assert worker == [*deploy.split(" && "), "prefect worker start --pool ferflow"]
    of_containers = [*SERVICES["server"]["entrypoint"], *SERVICES["server"]["command"]]
    assert server == [" ".join(of_containers).replace("0.0.0.0", "127.0.0.1")]


def test_systemd_waits_for_ferflow_serve_to_end():
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", (SYSTEMD / "ferflow.service").read_text(), re.M)
    assert int(seconds) > FLOWS_END + SERVER_ENDS


def page_commands(*programs):
    """The commands of these programs on the page, in its blocks of code and its sentences, placeholders filled in."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
    lines = [*"".join(blocks).splitlines(), *re.findall(r"`([a-z]+ [^`]+)`", PAGE)]
    for line in lines:
        words = shlex.split(line.replace("RUN", "00000000-0000-0000-0000-000000000000"), comments=True)
        if words and words[0] in programs and len(words) > 1:
            yield words


def test_ferflow_has_the_commands_of_the_page():
    import typer

    from flows.cli import app

    found = list(page_commands("ferflow"))
    assert len(found) >= 5
    for _, *words in found:
        command = typer.main.get_command(app)
        while words and (subcommands := getattr(command, "commands", None)):
            command = subcommands[words.pop(0)]
        command.make_context(command.name, words)  # raises for an unknown option, or a missing argument


def test_prefect_has_the_commands_of_the_page():
    from prefect.cli._app import _app

    found = list(page_commands("prefect"))
    assert len(found) >= 5
    for _, *arguments in found:
        _app.parse_args(arguments, exit_on_error=False, print_error=False)


def test_dvc_has_the_commands_of_the_page():
    from dvc.cli.parser import get_main_parser

    found = list(page_commands("dvc"))
    assert len(found) >= 3
    for _, *arguments in found:
        get_main_parser().parse_args(arguments)


def test_the_page_knows_every_event_and_links_what_exists():
    from flows.decision import EVENT
    from flows.label import DRIFTED

    for event in (f"{EVENT}.promoted", f"{EVENT}.kept", DRIFTED):
        assert f"event `{event}`" in PAGE
    for unit in UNITS:
        assert unit.stem in PAGE
    for path in re.findall(r"`((?:docs|tests|models|flows)/[\w/]+\.\w+)`", PAGE):
        assert (ROOT / path).exists(), path
