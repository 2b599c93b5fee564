"""The command line: help that teaches, mistakes in one line, quick start."""

import csv
import io
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ASTRONAUT, CHAMPION, ROOT
from rich.console import Console
from rich.progress import Progress, TextColumn
from typer.testing import CliRunner

from flows import labelling
from flows.cli import app, main
from tasks.sources import ImageFile
from tasks.synthetic import write_made_csv


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(monkeypatch, capsys, *arguments):
    """What `ferflow ARGUMENTS` says on stderr while it exits with 1."""
    monkeypatch.setattr(sys, "argv", ["ferflow", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return str(stop.value.code) + capsys.readouterr().err


def test_help_teaches_the_order_of_work():
    text = CliRunner().invoke(app, ["--help"]).stdout
    places = [
        text.index(step) for step in ("ferflow doctor", "ferflow fetch", "dvc repro", "ferflow label", "ferflow demo")
    ]
    assert places == sorted(places)


def test_help_imports_nothing_heavy():
    code = "import sys, flows.cli; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"tensorflow", "keras", "cv2", "numpy", "pandas", "pyarrow", "kaggle", "prefect"} & set(modules)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "nothing.jpg", "--out", "labels"], "ferflow: no file or folder nothing.jpg"),
        (["leaderboard"], "ferflow: no models/leaderboard.csv yet; `dvc repro` makes it"),
        (
            ["label", str(ASTRONAUT), "--out", "out"],
            "ferflow: no champion in models/champion; run ferflow in the folder",
        ),
        (["fetch", "fer2013.csv"], "ferflow: no params.yaml here"),
        (["made", "--rows", "5"], "ferflow: a made set has 200 rows at least, not 5"),
        (["demo"], "ferflow: no params.yaml or dvc.yaml"),
        (["worker", "training"], "ferflow: no params.yaml here"),
        (
            ["collect", "s3://party/labels"],
            "ferflow: s3://party/labels is no folder of this machine; `ferflow label` with",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, message, folder, monkeypatch, capsys):
    text = fails(monkeypatch, capsys, *arguments)
    assert text.startswith(message)
    assert text.count("\n") <= 1
    assert list(folder.iterdir()) == []


def test_the_program_itself_exits_with_1_and_no_stack_trace(folder):
    command = [sys.executable, "-m", "flows.cli", "leaderboard"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})
    assert ended.returncode == 1
    assert ended.stderr == "ferflow: no models/leaderboard.csv yet; `dvc repro` makes it\n"


def test_names_that_the_terminal_cannot_show_are_no_obstacle(folder):
    (folder / "fotos").mkdir()
    shutil.copy(ASTRONAUT, folder / "fotos" / "日本.png")
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "label",
        "fotos",
        "--out",
        os.fsdecode(b"out\xe9"),
        "--champion",
        CHAMPION,
    ]
    for encoding in ("latin-1", "utf-8:strict"):
        env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
        ended = subprocess.run(command, capture_output=True, check=False, env=env)
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert b"Look at out\\udce9/report.html" in ended.stdout


def test_what_cannot_be_read_is_one_line_however_long_its_name(folder):
    name = "word " * 40 + ".png"
    (folder / name).touch()
    result = CliRunner().invoke(app, ["label", name, "--out", "out", "--champion", str(CHAMPION)])
    assert f"unreadable: {name}: an empty file\n" in result.stdout


def test_fetch_names_the_file_as_it_is(folder):
    shutil.copy(ROOT / "params.yaml", folder)
    write_made_csv(folder / "faces [red].csv", 200, 1)
    result = CliRunner().invoke(app, ["fetch", "faces [red].csv"])
    assert result.stdout == "data/raw/faces [red].csv is in place. Next: dvc repro\n"


def test_a_bar_shows_a_video_s_name_and_lets_no_terminal_act_on_it():
    text = io.StringIO()
    with Progress(TextColumn("{task.fields[counts]}"), console=Console(file=text, width=99)) as progress:
        labelling._bar(progress, "Watching", ImageFile("a \x1b]0;title\x07 [red].mp4", "/a.mp4", "", 1, 1))
    assert text.getvalue().strip() == r"a \x1b]0;title\x07 [red].mp4"


def test_of_many_videos_the_last_ones_bar_is_shown():
    with Progress(console=Console(file=io.StringIO(), width=99)) as progress:
        for name in ("a.mp4", "b.mp4"):
            labelling._bar(progress, "Watching", ImageFile(name, f"/{name}", "", 1, 1))
        labelling._bar(progress, "Copying", ImageFile("a.mp4", "/a.mp4", "", 1, 1))
        assert [(task.description, task.fields["counts"]) for task in progress.tasks] == [
            ("Watching", "b.mp4"),
            ("Copying", "a.mp4"),
        ]


@pytest.mark.parametrize("command", ["label", "video", "live", "collect", "fetch", "retrain", "made"])
def test_help_is_whole_in_80_columns(command):
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"}).stdout
    assert "…" not in text
    assert "......" not in text and "...}..." not in text


def test_made_writes_the_csv(folder):
    result = CliRunner().invoke(app, ["made", "--rows", "200", "--seed", "3"])
    assert result.exit_code == 0
    assert len((folder / "made_faces.csv").read_text().splitlines()) == 201


def test_leaderboard_shows_candidates_in_their_order(folder):
    (folder / "models").mkdir()
    (folder / "models" / "leaderboard.csv").write_text(
        "candidate,val_accuracy,test_accuracy,test_macro_f1,parameters,verdict\n"
        "residual,0.6543,0.65,0.6,1200000,champion\ndense,0.6,0.6,0.5,100000,passed\n"
    )
    result = CliRunner().invoke(app, ["leaderboard"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "65.4%" in lines[2]
    assert "1,200,000" in lines[2]
    assert "dense" in lines[3]


def test_the_leaderboard_is_whole_in_a_pipe(monkeypatch):
    monkeypatch.chdir(ROOT)
    output = CliRunner().invoke(app, ["leaderboard"]).stdout
    assert "…" not in output
    assert max(map(len, output.splitlines())) <= 80
    with (ROOT / "models/leaderboard.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert f" {int(row['parameters']):,} " in output


@pytest.mark.parametrize("damaged", ["leaderboard.csv", "timings/dense.json"])
def test_a_leaderboard_in_the_middle_of_a_merge_is_one_line(damaged, folder, monkeypatch, capsys):
    (folder / "models" / "timings").mkdir(parents=True)
    (folder / "models" / "leaderboard.csv").write_text("candidate,val_accuracy,verdict\ndense,0.6,passed\n")
    (folder / "models" / "timings" / "dense.json").write_text("{}\n")
    path = folder / "models" / damaged
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    assert "is damaged; restore both: git checkout models" in fails(monkeypatch, capsys, "leaderboard")


def test_a_made_set_has_no_seed_under_zero(folder):
    result = CliRunner().invoke(app, ["made", "--rows", "200", "--seed", "-1"])
    assert (result.exit_code, list(folder.iterdir())) == (2, [])


def test_doctor_exits_with_1_where_labelling_cannot_work(folder):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "champion" in result.stdout


def test_label_with_a_trained_champion(built, folder):
    champion = built[0].folder / "models" / "champion"
    result = CliRunner().invoke(app, ["label", str(ASTRONAUT), "--out", "labels", "--champion", str(champion)])
    assert result.exit_code == 0, result.output
    assert "Images: 1 (1 ok); 1 labelled in" in result.stdout
    assert "trained on made_faces" in result.stdout
    with (folder / "labels" / "faces.csv").open() as file:
        face = next(csv.DictReader(file))
    assert face["trained_on"] == "made_faces"
    assert face["label"] in result.stdout


def test_label_refuses_a_detector_it_does_not_have(folder):
    result = CliRunner().invoke(app, ["label", ".", "--out", "x", "--detector", "dlib"])
    assert result.exit_code == 2
    assert "yunet" in result.stderr
