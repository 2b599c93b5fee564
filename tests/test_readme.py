"""The figures of README and docs/ are those of the committed files."""

import csv
import json
import re

import pandas as pd
from conftest import ROOT

ROW = re.compile(
    r"^\| `(?P<name>\w+)`.*?\| (?P<val>[\d.]+) % \| (?P<test>[\d.]+) % \| (?P<epochs>\d+) \| (?P<minutes>\d+) \|"
)


def test_the_table_of_candidates_is_the_leaderboard() -> None:
    board = pd.read_csv(ROOT / "models/leaderboard.csv").set_index("candidate")
    rows = [match for line in (ROOT / "README.md").read_text().splitlines() if (match := ROW.match(line))]
    assert [row["name"] for row in rows] == list(board.index)
    for row in rows:
        name = row["name"]
        training = json.loads((ROOT / f"models/candidates/{name}/training.json").read_text())
        timing = json.loads((ROOT / f"models/timings/{name}.json").read_text())
        assert row["val"] == f"{board.loc[name, 'val_accuracy']:.1%}".rstrip("%"), name
        assert row["test"] == f"{board.loc[name, 'test_accuracy']:.1%}".rstrip("%"), name
        assert int(row["epochs"]) == training["epochs"], name
        assert int(row["minutes"]) == round(timing["train_minutes"]), name


def test_the_table_of_trials_is_the_committed_file() -> None:
    experiments = (ROOT / "docs/experiments.md").read_text()
    table = [line for line in experiments.partition("## Trainings at full length")[2].splitlines() if line[:1] == "|"]
    with (ROOT / "tests/benchmarks/trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert len(table[2:]) == len(trials)
    for line, trial in zip(table[2:], trials, strict=True):
        trained, change, val, mirrored, *others = (cell.strip() for cell in line[1:-1].split(" |"))
        assert trained.strip("`") == trial["trained"]
        assert change.replace("`", "") == trial["change"]
        assert [val, mirrored] == [_percent(trial[f"val_accuracy{kind}"]) for kind in ("", "_mirrored")]
        assert others == [trial[key] for key in ("log_loss", "epochs", "minutes", "commit")]


def _percent(share: str) -> str:
    return f"{float(share):.1%}".replace("%", " %") if share else ""


def test_every_make_target_is_explained_and_every_named_one_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / "README.md").read_text(), re.M))
    assert named <= targets
