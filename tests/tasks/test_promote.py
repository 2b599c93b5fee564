import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ASTRONAUT, CANDIDATES, Workspace

from tasks import champion
from tasks.drift import OWN, answers
from tasks.errors import UserError
from tasks.folder import label_folder
from tasks.params import Candidate, Promote, load
from tasks.paths import CANDIDATES as FOLDERS
from tasks.paths import CHAMPION, SMALL
from tasks.promote import leaderboard, promote, read_measures, verdict

BARS = Promote(
    min_accuracy=0.5,
    min_class_recall=0.2,
    max_predicted_share=0.5,
    max_megabytes=20.0,
    small_megabytes=1.0,
    max_disagreement=0.01,
    max_int8_difference=0.01,
)
FINE = {
    "accuracy": 0.6,
    "accuracy_mirrored": 0.61,
    "macro_f1": 0.5,
    "lowest_recall": 0.3,
    "largest_share": 0.3,
    "calibration_error": 0.02,
}
MARGIN = 1e-4  # MB; a card that names another limit may be some bytes longer


def measures(parameters: int = 10, **val: float) -> dict[str, object]:
    return {
        "val": FINE | val,
        "test": FINE,
        "parameters": parameters,
        "million_multiply_adds": 1.0,
        "megabytes": 1.0,
    }


@pytest.mark.parametrize(
    ("val", "expected"),
    [
        ({}, "passed"),
        # The tutorial's modelo_05: 24.5 % accuracy, the share of "happy".
        (
            {"accuracy": 0.245, "largest_share": 1.0, "lowest_recall": 0.0},
            "collapsed: one answer for 100% of the faces",
        ),
        ({"accuracy": 0.49}, "accuracy under 50%"),
        ({"lowest_recall": 0.1}, "an expression's recall under 20%"),
    ],
)
def test_bars(val: dict[str, float], expected: str) -> None:
    assert verdict(FINE | val, BARS) == expected


def test_the_best_on_val_comes_first_and_the_smaller_of_equals() -> None:
    table = leaderboard(
        {"a": measures(accuracy=0.6), "big": measures(99, accuracy=0.7), "small": measures(5, accuracy=0.7)}, BARS
    )
    assert list(table["candidate"]) == ["small", "big", "a"]
    assert list(table["test_accuracy_mirrored"]) == [0.61] * 3


def test_a_champion_tells_what_it_answers_on_val(built: list[Workspace]) -> None:
    loaded = champion.load(built[0].folder / "models" / "champion")
    faces = np.load(built[0].folder / "data" / "arrays" / "val.npy")
    assert loaded.info[OWN] == answers(loaded.predict(faces))
    assert sum(loaded.info[OWN]["expressions"].values()) == len(faces)


@pytest.fixture
def workspace(built: list[Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of what a built workspace has for the stage `promote`, as the current folder."""
    made = Workspace(tmp_path / "workspace")
    for name in ("data", "models"):
        shutil.copytree(built[0].folder / name, made.folder / name)
    shutil.copy(built[0].folder / "params.yaml", made.folder)
    monkeypatch.chdir(made.folder)
    return made


def promoted(workspace: Workspace, small_megabytes: float, best: str = "small") -> dict[str, str]:
    """Promote with that limit; returns the candidates' verdicts. The file of `small` is the larger one."""
    workspace.change("promote", small_megabytes=small_megabytes)
    params = load()
    measured = read_measures(params.candidates)
    measured[best]["val"]["accuracy"] = 1.0  # both are hardly trained, and so it would be chance that decides
    table = promote(leaderboard(measured, params.promote), params)
    return dict(zip(table["candidate"], table["verdict"], strict=True))


def test_the_small_edition_is_the_best_that_fits(workspace: Workspace) -> None:
    assert promoted(workspace, BARS.small_megabytes) == {"small": "champion", "muon": "passed"}
    before = workspace.champion()["model.tflite"]
    assert champion.load(SMALL).version == champion.load().version  # the champion fits

    # A candidate that is worse, and smaller.
    assert promoted(workspace, champion.megabytes(SMALL) - MARGIN) == {"small": "champion", "muon": "small edition"}
    assert workspace.champion()["model.tflite"] == before
    small = champion.load(SMALL)
    assert small.info["candidate"] == "muon"
    assert sorted(path.name for path in SMALL.iterdir()) == ["card.md", "champion.json", "model.tflite"]
    assert (SMALL / "card.md").read_text().startswith(f"# {small.version}, small edition\n")
    run = label_folder([str(ASTRONAUT)], Path("labels"), champion=SMALL)
    assert (run["faces"]["total"], run["champion"]["version"]) == (1, small.version)

    # None: that is no failure, and whoever labels with it learns why it cannot be.
    assert promoted(workspace, champion.megabytes(SMALL) - MARGIN) == {"small": "champion", "muon": "passed"}
    assert [path.name for path in SMALL.iterdir()] == ["card.md"]
    assert (SMALL / "card.md").read_text().startswith("# No small edition\n")
    with pytest.raises(UserError, match=r"no champion in models/small; models/small/card\.md says why"):
        label_folder([str(ASTRONAUT)], Path("others"), champion=SMALL)
    assert not list(Path("models").glob(".*"))


def test_damaged_measures_are_one_line(workspace: Workspace) -> None:
    metrics = FOLDERS / "muon" / "evaluation" / "metrics.json"
    metrics.write_text(metrics.read_text()[:-20])
    with pytest.raises(
        UserError, match=r"/metrics\.json is damaged; make it anew with: dvc repro --force evaluate@muon"
    ):
        read_measures(["small", "muon"])


def test_a_candidate_with_more_parameters_than_bytes_is_not_tried(workspace: Workspace) -> None:
    (FOLDERS / "muon" / "model.keras").write_bytes(b"whoever reads it fails")
    parameters = read_measures(["muon"])["muon"]["parameters"]
    assert promoted(workspace, (parameters - 1) / champion.MILLION) == {"small": "champion", "muon": "passed"}
    assert [path.name for path in SMALL.iterdir()] == ["card.md"]


def test_the_card_says_how_it_was_trained(workspace: Workspace) -> None:
    promoted(workspace, BARS.small_megabytes, best="muon")
    for folder in (CHAMPION, SMALL):
        card = (folder / "card.md").read_text()
        recipe = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
        assert Candidate.model_validate(recipe) == Candidate.model_validate(CANDIDATES["muon"])
        assert "\nSeed 7; 4 of 4 epochs; the weights are an average of the last ones (`averaged`). The recipe" in card
        info = champion.load(folder).info
        cells = [f"{info['metrics']['test'][name]:.3f}" for name in ("accuracy", "accuracy_mirrored")]
        assert f"| test | 30 | {' | '.join(cells)} |" in card
