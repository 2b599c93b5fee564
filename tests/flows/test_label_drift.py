"""Labels that drift: the event that the flow emits, the line of `ferflow label`, on a real Prefect server."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import ASTRONAUT, CHAMPION, ROOT
from prefect_server import wait_until
from typer.testing import CliRunner

from flows.cli import app
from flows.label import DRIFTED, label_photos
from tasks.drift import OWN
from tasks.folder import label_folder

FACES = 110  # a few more than it takes to tell


def write(folder, pixels):
    folder.mkdir()
    for number, face in enumerate(pixels):
        cv2.imwrite(str(folder / f"{number:03}.png"), face)
    return folder


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Pictures of 48x48 px, taken as faces whole."""
    pixels = np.random.default_rng(7).integers(0, 256, (FACES, 48, 48), np.uint8)
    blurred = [cv2.GaussianBlur(face, (0, 0), 1 + number % 5) for number, face in enumerate(pixels)]
    return write(tmp_path_factory.mktemp("usual") / "photos", blurred)


@pytest.fixture(scope="module")
def smiles(tmp_path_factory):
    """The same smile again and again, with noise."""
    face = cv2.resize(cv2.imread(str(ASTRONAUT), cv2.IMREAD_GRAYSCALE)[60:190, 160:290], (48, 48))
    noise = np.random.default_rng(7).integers(-4, 5, (FACES, 48, 48))
    noisy = np.clip(face + noise, 0, 255).astype(np.uint8)
    return write(tmp_path_factory.mktemp("smiles") / "photos", noisy)


@pytest.fixture(scope="module")
def champion(usual, tmp_path_factory):
    """The committed champion, whose own answers are those to the usual pictures."""
    folder = tmp_path_factory.mktemp("champion")
    run = label_folder([str(usual)], folder / "out", champion=CHAMPION)
    copy = shutil.copytree(CHAMPION, folder / "copy")
    info = json.loads((copy / "champion.json").read_text())
    info[OWN] = {name: run["faces"][name] for name in ("expressions", "mean_confidence")}
    (copy / "champion.json").write_text(json.dumps(info))
    return copy


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """A folder without params.yaml."""
    monkeypatch.chdir(tmp_path)


END = "ferflow.tests.end"


def events(name):
    """The events of that name whose resource is a folder of this test."""
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventNameFilter

    with get_client(sync_client=True) as client:
        found = client.read_events(EventFilter(event=EventNameFilter(name=[name])), limit=50).events
    return [event for event in found if Path(event.resource.name).is_relative_to(Path.cwd())]


def test_labels_that_drift_emit_an_event_once(prefect, champion, usual, smiles, tmp_path):
    from prefect.artifacts import Artifact
    from prefect.events import emit_event

    same = label_photos([str(usual)], str(tmp_path / "same"), champion=str(champion))
    assert (same["drift"]["drifted"], same["drift"]["psi"]) == (False, 0)
    assert "| drift | no: within the limits" in Artifact.get("label-run").data
    run = label_photos([str(smiles)], str(tmp_path / "out"), champion=str(champion))
    assert run["drift"]["drifted"]
    assert "| drift | **yes**: PSI " in Artifact.get("label-run").data
    again = label_photos([str(smiles)], str(tmp_path / "out"), champion=str(champion))
    assert (again["drift"], again["images"]["labelled"]) == (run["drift"], 0)
    emit_event(END, {"prefect.resource.id": "tests", "prefect.resource.name": str(tmp_path)})
    wait_until(lambda: events(END))  # and all before it
    (event,) = events(DRIFTED)
    assert event.resource.id == "ferflow.labels"
    assert event.resource.name == str(tmp_path / "out")
    assert event.payload == {"drift": run["drift"], "champion": run["champion"]["version"]}
    assert any(related.role == "flow-run" for related in event.related)


def test_the_command_prints_a_line_and_the_limits_are_those_of_params(champion, smiles, tmp_path):
    def label(out):
        arguments = ["label", str(smiles), "--out", out, "--champion", str(champion)]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        return [line for line in result.stdout.splitlines() if line.startswith("Drift: ")]

    (line,) = label("out")
    assert "is more than drift.max_psi (0.25)" in line
    assert line.endswith("(against the champion's own answers on val)")
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"drift": {"max_psi": 100.0}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert label("out") == []
    run = json.loads(Path("out/run.json").read_text())
    assert (run["images"]["labelled"], run["drift"]["max_psi"]) == (0, 100)  # other limits label nothing anew


def test_a_champion_of_an_older_form_labels_too(champion, smiles, tmp_path):
    old = shutil.copytree(champion, tmp_path / "old")
    info = json.loads((old / "champion.json").read_text())
    del info[OWN]
    (old / "champion.json").write_text(json.dumps(info))
    drift = label_folder([str(smiles)], tmp_path / "out", champion=old)["drift"]
    assert (drift["drifted"], drift["champion_mean_confidence"]) == (True, None)
    assert drift["against"] == "the labels of the champion's training faces"
