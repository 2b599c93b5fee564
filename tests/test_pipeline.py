"""The whole pipeline by real `dvc repro` on the made set: what it builds, what it repeats, and what it survives."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import CANDIDATES, Workspace, kill, make_workspace

from tasks import champion
from tasks.synthetic import DEFECTS


def outs(workspace: Workspace) -> dict[str, list[object]]:
    """The outs of every stage with their hashes, by stage."""
    return {name: stage["outs"] for name, stage in workspace.lock().items()}


def wait_for(condition: Callable[[], bool], process: object) -> None:
    """Wait until the condition holds; fail when the process ends before."""
    while not condition():
        assert process.poll() is None, "the program ended before it could be killed"
        time.sleep(0.01)


def test_two_runs_from_scratch_give_the_same_hashes(built: list[Workspace]) -> None:
    one, two = built
    assert set(one.lock()) == {"ingest", "parse", "promote"} | {
        f"{stage}@{name}" for stage in ("train", "evaluate") for name in CANDIDATES
    }
    assert one.lock() == two.lock()


def test_parse_finds_the_planted_defects(built: list[Workspace]) -> None:
    report = json.loads((built[0].folder / "data/quality/quality.json").read_text())
    assert report["rejected"] == {name: DEFECTS[name] for name in ("outside 0-255", "wrong count")}
    dropped = {name: DEFECTS[name] for name in ("in_val_or_test", "copy_in_train", "labels_disagree")}
    assert dropped.items() <= report["dropped_from_train"].items()


def test_with_nothing_changed_nothing_runs(built: list[Workspace]) -> None:
    assert "Running stage" not in built[0].repro()


def test_a_changed_parameter_retrains_its_candidate_alone(built: list[Workspace]) -> None:
    workspace = built[0]
    before = outs(workspace)
    workspace.change("candidates.small", epochs=1)
    output = workspace.repro()
    ran = {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}
    workspace.change("candidates.small", epochs=CANDIDATES["small"]["epochs"])
    assert ran == {"train@small", "evaluate@small", "promote"}
    assert outs(workspace)["train@muon"] == before["train@muon"]
    assert outs(workspace)["train@small"] != before["train@small"]
    workspace.repro()  # from DVC's cache of runs
    assert outs(workspace) == before


def test_a_killed_training_continues_to_the_same_result(built: list[Workspace], tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "killed")
    checkpoint = workspace.folder / "models/unfinished/muon/epochs.npz"
    process = workspace.start("dvc", "repro", "train@muon")
    wait_for(checkpoint.exists, process)
    kill(process)
    assert not (workspace.folder / "models/candidates/muon/model.keras").exists()
    output = workspace.repro("train@muon")
    assert "muon: continuing after epoch" in output
    assert outs(workspace)["train@muon"] == outs(built[0])["train@muon"]


def test_a_killed_promotion_leaves_the_old_champion_and_a_restart_completes_it(built: list[Workspace]) -> None:
    workspace = built[1]
    before, champion_before, small_before = outs(workspace), workspace.champion(), workspace.champion("small")
    under_construction = workspace.folder / "models/.champion.part/model.keras"
    process = workspace.start("dvc", "repro", "--force", "--single-item", "promote")
    wait_for(under_construction.exists, process)
    kill(process)
    assert (workspace.champion(), workspace.champion("small")) == (champion_before, small_before)
    champion.load(workspace.folder / "models/champion")
    workspace.repro("--force", "--single-item", "promote")
    assert outs(workspace) == before
    assert not list((workspace.folder / "models").glob(".*"))


def test_no_candidate_over_the_bars_keeps_the_old_champion(built: list[Workspace]) -> None:
    workspace = built[1]
    before = workspace.champion(), workspace.champion("small")
    workspace.change("promote", min_accuracy=1.0)
    done = workspace.run("dvc", "repro", "promote")
    workspace.change("promote", min_accuracy=0.0)
    assert done.returncode != 0
    assert "no candidate passes the bars" in done.stderr
    assert "accuracy under 100%" in done.stderr
    assert "Traceback" not in done.stderr
    assert (workspace.champion(), workspace.champion("small")) == before
    workspace.repro("promote")


def test_the_champion_says_what_it_was_trained_on(built: list[Workspace]) -> None:
    folder = built[0].folder / "models/champion"
    loaded = champion.load(folder)
    assert loaded.info["data"]["name"] == "made_faces"
    assert "`made_faces`" in (folder / "card.md").read_text()
    assert loaded.version.startswith(loaded.info["candidate"])
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1e6


def test_the_small_edition_is_the_champion_without_its_keras_form_where_that_fits(built: list[Workspace]) -> None:
    whole, small = (built[0].champion(name) for name in ("champion", "small"))
    assert set(small) == set(whole) - {"model.keras"}
    assert small["model.tflite"] == whole["model.tflite"]
    loaded = [champion.load(built[0].folder / "models" / name) for name in ("champion", "small")]
    assert loaded[0].version == loaded[1].version
    hashed = {out["path"] for out in built[0].lock()["promote"]["outs"]}
    assert {"models/champion", "models/small"} <= hashed


def test_metrics_and_plots_are_for_every_candidate(built: list[Workspace]) -> None:
    metrics = json.loads(built[0].run("dvc", "metrics", "show", "--json").stdout)
    files = metrics[""]["data"]
    for name in CANDIDATES:
        measures = files[f"models/candidates/{name}/evaluation/metrics.json"]["data"]
        assert measures["data"] == "made_faces"
        assert 0 <= measures["test"]["accuracy"] <= 1
    shown = built[0].run("dvc", "plots", "show", "--out", "plots")
    assert "WARNING" not in shown.stderr
    page = (built[0].folder / "plots/index.html").read_text()
    assert "confusion_test" in page
    shutil.rmtree(built[0].folder / "plots")


def test_the_champion_can_be_fetched_by_its_version(built: list[Workspace], tmp_path: Path) -> None:
    copy = Workspace(tmp_path / "copy")
    copied = shutil.ignore_patterns("cache", "tmp", "data", "model.keras")
    shutil.copytree(built[0].folder, copy.folder, ignore=copied)
    shutil.copy(built[0].folder / "models/champion/model.keras", copy.folder / "models/champion")
    author = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    for command in (
        ["git", "add", "--all"],
        ["git", *author, "commit", "-q", "-m", "built"],
        ["git", *author, "tag", "-a", "champion@v1.0.0", "-m", "as gto register does"],
        ["dvc", "artifacts", "get", ".", "champion", "--rev", "v1.0.0", "-o", "fetched"],
    ):
        done = copy.run(*command)
        assert done.returncode == 0, done.stderr
    assert "v1.0.0" in copy.run("gto", "show", "champion").stdout
    champion.load(copy.folder / "fetched")


def test_the_leaderboard_is_sorted_and_names_one_champion(built: list[Workspace]) -> None:
    table = pd.read_csv(built[0].folder / "models/leaderboard.csv")
    assert table["val_accuracy"].is_monotonic_decreasing
    assert list(table["verdict"]) == ["champion", "passed"]


def test_an_unknown_candidate_is_named_with_the_nearest(built: list[Workspace]) -> None:
    done = built[0].run("python", "-m", "tasks.train", "smal")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == ["ferflow: no candidate 'smal' in params.yaml; did you mean 'small'?"]


def test_only_a_teacher_teaches(built: list[Workspace]) -> None:
    done = built[0].run("python", "-m", "tasks.teach", "small")
    assert done.returncode == 1
    said = "ferflow: params.yaml: `teachers` has no 'small', so its answers have no folder"
    assert done.stderr.strip().splitlines() == [said]


def test_candidates_learn_from_others_that_did(built: list[Workspace], tmp_path: Path) -> None:
    workspace = Workspace(Path(shutil.copytree(built[0].folder, tmp_path / "taught")))
    taught = {"labels": "taught", "taught": {"by": ["small"], "share": 0.5}, "epochs": 1}
    again = {"labels": "taught_again", "taught": {"by": ["student"], "share": 0.5}, "epochs": 1}
    workspace.change("candidates", student=CANDIDATES["small"] | taught, second=CANDIDATES["small"] | again)
    teachers = {"small": "taught", "student": "taught_again"}
    params = yaml.safe_load((workspace.folder / "params.yaml").read_text()) | {"teachers": teachers}
    (workspace.folder / "params.yaml").write_text(yaml.safe_dump(params))
    output = workspace.repro("train@second")
    ran = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    assert ran == ["teach@small", "train@student", "teach@student", "train@second"]
    labels = np.load(workspace.folder / "data/arrays/train_labels.npy")
    for answers in ("taught/small.npy", "taught_again/student.npy"):
        answered = np.load(workspace.folder / "data" / answers)
        assert answered.shape == (len(labels), 7)
        np.testing.assert_allclose(answered.sum(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("network", ["vgg16"])
def test_vgg16_without_weights_is_one_clear_line(built: list[Workspace], network: str) -> None:
    workspace = built[0]
    keep = (workspace.folder / "params.yaml").read_text()
    workspace.change("candidates", frozen=CANDIDATES["small"] | {"network": network, "options": {}})
    done = workspace.run("env", "HOME=/nonexistent", "python", "-m", "tasks.train", "frozen")
    (workspace.folder / "params.yaml").write_text(keep)
    assert done.returncode == 1
    assert done.stderr.startswith("ferflow: VGG16's ImageNet weights: none in data/weights/")
    assert len(done.stderr.strip().splitlines()) == 1
