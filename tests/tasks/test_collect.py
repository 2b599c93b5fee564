"""A person's corrections become rows to train on, with the pixels the network saw, or a line that says why not."""

import csv
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ASTRONAUT, CHAMPION, HOPPER, ROOT
from PIL import Image, ImageOps
from typer.testing import CliRunner

from flows.cli import app
from tasks import ingest
from tasks.collect import collect
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.folder import label_folder
from tasks.results import Outputs
from tasks.sources import STORE
from tasks.store import Store
from tasks.synthetic import write_made_csv

PHOTOS = ("a.png", "b.jpg", "c é.png")  # the first and the last are happy, the other one not


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Three photos with a face each, labelled with crops."""
    folder = tmp_path_factory.mktemp("collect")
    (folder / "photos").mkdir()
    shutil.copy(ASTRONAUT, folder / "photos" / PHOTOS[0])
    shutil.copy(HOPPER, folder / "photos" / PHOTOS[1])
    with Image.open(ASTRONAUT) as image:
        ImageOps.mirror(image).save(folder / "photos" / PHOTOS[2])
    label_folder([str(folder / "photos")], folder / "party", champion=CHAMPION, outputs=Outputs(crops=True))
    return folder / "party"


@pytest.fixture
def labels(labelled, tmp_path, monkeypatch):
    """A copy of that output folder, to be corrected; the current folder is a pipeline."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return Path(shutil.copytree(labelled, tmp_path / "party")).relative_to(tmp_path)


def rows(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def correct(table, column, values, out=None, **form):
    """Fill in a column of the table, a value a row; None leaves it as it is."""
    content = rows(table)
    for row, value in zip(content, values, strict=True):
        row[column] = row.get(column, "") if value is None else value
    with (out or table).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(content[0]), **({"lineterminator": "\n"} | form))
        writer.writeheader()
        writer.writerows(content)


def crop(labels, photo):
    """The picture of the one face of a photo, wherever it is."""
    stem = Path(photo).stem.replace(" ", "_")
    (path,) = (path for path in (labels / "crops").rglob("*.png") if path.name.startswith(f"{stem}-"))
    return path


def moved(labels, photo, folder):
    """Move the picture of a photo's face; returns its new path."""
    path = crop(labels, photo)
    (labels / "crops" / folder).mkdir(exist_ok=True)
    return path.rename(labels / "crops" / folder / path.name)


def text(labels, photo):
    """The pixels of a photo's face as fer2013.csv writes them, read from its crop."""
    picture = cv2.imdecode(np.fromfile(crop(labels, photo), np.uint8), cv2.IMREAD_UNCHANGED)
    return " ".join(map(str, picture.ravel()))


def texts(labels):
    """Those of each photo's face."""
    return [text(labels, name) for name in PHOTOS]


def written(path):
    return [(EXPRESSIONS[int(row["emotion"])], row["pixels"], row["Usage"]) for row in rows(path)]


def refusal(*arguments, **options):
    """The line that collect ends with, having written nothing."""
    with pytest.raises(UserError) as raised:
        collect(*arguments, **options)
    line = str(raised.value)
    assert "\n" not in line
    assert not Path("data").exists()
    return line


def test_the_column_corrected_makes_rows_of_training(labels):
    assert [row["label"] == "happy" for row in rows(labels / "faces.csv")] == [True, False, True]
    correct(labels / "faces.csv", "corrected", ["", "Surprise", " Triste "])
    path, counts = collect(labels)
    assert path == Path("data/raw/extra/party.csv")
    _, second, third = texts(labels)
    assert path.read_bytes() == f"emotion,pixels,Usage\n5,{second},Training\n4,{third},Training\n".encode()
    assert counts == dict.fromkeys(EXPRESSIONS, 0) | {"sad": 1, "surprise": 1}


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        *((name, name) for name in EXPRESSIONS),
        *zip(("Raiva", "Nojo", "Medo", "Feliz", "Triste", "Surpreso", "Neutro"), EXPRESSIONS, strict=True),
        ("  s A d\t", "sad"),
        ("HAPPINESS", "happy"),
    ],
)
def test_names_of_expressions(labels, name, expression):
    correct(labels / "faces.csv", "corrected", [name, "", ""])
    assert written(collect(labels)[0]) == [(expression, texts(labels)[0], "Training")]


def test_without_that_column_changed_labels_are_corrections(labels):
    correct(labels / "faces.csv", "label", ["fear", None, None])
    assert written(collect(labels)[0]) == [("fear", texts(labels)[0], "Training")]


def test_with_that_column_a_label_may_be_confirmed_and_changed_labels_do_not_count(labels):
    correct(labels / "faces.csv", "label", ["fear", None, None])
    correct(labels / "faces.csv", "corrected", ["", "neutral", ""])
    assert written(collect(labels)[0]) == [("neutral", texts(labels)[1], "Training")]


def test_pictures_moved_to_another_folder_are_corrections(labels):
    pixels = texts(labels)
    moved(labels, PHOTOS[2], "Medo")
    moved(labels, PHOTOS[1], "sad")
    (labels / "crops" / "sad" / "Thumbs.db").touch()
    assert written(collect(labels)[0]) == [("sad", pixels[1], "Training"), ("fear", pixels[2], "Training")]


def test_pictures_alone_do_when_the_table_was_removed(labels):
    moved(labels, PHOTOS[1], "sad")
    (labels / "faces.csv").unlink()
    assert written(collect(labels)[0]) == [("sad", text(labels, PHOTOS[1]), "Training")]
    with pytest.raises(FileNotFoundError):
        collect(labels, table=labels / "faces.csv")


def test_pictures_of_hidden_photos_are_moved_and_collected_like_others(tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(ASTRONAUT, tmp_path / "photos" / ".a.png")
    label_folder([str(tmp_path / "photos")], tmp_path / "party", champion=CHAMPION, outputs=Outputs(crops=True))
    moved(tmp_path / "party", PHOTOS[0], "sad")
    assert collect(tmp_path / "party", tmp_path / "party.csv")[1]["sad"] == 1


def test_pictures_that_a_killed_run_of_another_champion_left_are_no_corrections(labels):
    path = crop(labels, PHOTOS[1])
    (labels / "crops" / "sad").mkdir()
    shutil.copy(path, labels / "crops" / "sad" / f"{path.stem.rpartition('-')[0]}-sad.png")
    pixels = text(labels, PHOTOS[0])
    moved(labels, PHOTOS[0], "fear")
    assert written(collect(labels)[0]) == [("fear", pixels, "Training")]


def test_table_and_pictures_together(labels):
    pixels = texts(labels)
    moved(labels, PHOTOS[2], "fear")
    correct(labels / "faces.csv", "corrected", ["angry", "", "FEAR"])
    path, counts = collect(labels)
    assert written(path) == [("angry", pixels[0], "Training"), ("fear", pixels[2], "Training")]
    assert (counts["angry"], counts["fear"]) == (1, 1)


@pytest.mark.parametrize(("delimiter", "decimal"), [(",", "."), (";", ","), ("\t", ".")])
def test_a_table_that_a_spreadsheet_saved_in_place_of_the_folders_own(labels, delimiter, decimal):
    table = Path("corrected.csv")
    confidences = [f"{float(row['confidence']):.2f}".replace(".", decimal) for row in rows(labels / "faces.csv")]
    correct(labels / "faces.csv", "confidence", confidences, table)
    correct(table, "Corrected ", ["sad", "", ""], delimiter=delimiter, lineterminator="\r\n")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    path, _ = collect(labels, Path("own/own.csv"), table)
    assert (path, written(path)) == (Path("own/own.csv"), [("sad", texts(labels)[0], "Training")])


def test_the_same_corrections_are_the_same_bytes_in_whatever_order(labels):
    table = labels / "faces.csv"
    correct(table, "corrected", ["sad", "fear", ""])
    before = collect(labels)[0].read_bytes()
    assert collect(labels)[0].read_bytes() == before
    header, *lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([header, *lines[::-1], lines[0], ""]), encoding="utf-8")
    assert collect(labels)[0].read_bytes() == before
    assert not list(labels.glob(f"{STORE}-*"))


def test_what_is_collected_is_ingested(labels):
    write_made_csv(Path("data/raw/made.csv"), 200, 1)
    moved(labels, PHOTOS[0], "disgust")
    collect(labels)
    ingest.main()
    (part,) = json.loads(Path("data/ingested/source.json").read_text())["extra"]
    assert (part["file"], part["rows"]) == ("data/raw/extra/party.csv", 1)


# What is refused


def test_nothing_corrected_says_how_to(labels):
    line = refusal(labels)
    assert line.startswith(
        "nothing is corrected in party. Add a column `corrected` to party/faces.csv and name an expression"
    )
    assert line.endswith("or label with --crops and move pictures to another folder of party/crops")
    correct(labels / "faces.csv", "corrected", ["", " ", ""])
    assert "nothing is corrected" in refusal(labels)


@pytest.mark.parametrize("column", ["corrected", "label"])
def test_a_name_that_is_no_expression(labels, column):
    correct(labels / "faces.csv", column, [None, "hapy", None])
    line = refusal(labels)
    assert line == "party/faces.csv, row 3: 'hapy' is no expression. Nothing was written: mend these or remove them"


def test_table_and_pictures_that_contradict_each_other(labels):
    correct(labels / "faces.csv", "corrected", ["", "", "sad"])
    path = moved(labels, PHOTOS[2], "fear")
    assert f"party/faces.csv, row 4 says sad but {path} says fear. Nothing was written" in refusal(labels)


def test_two_rows_that_contradict_each_other(labels):
    correct(labels / "faces.csv", "corrected", ["sad", "", ""])
    table = labels / "faces.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[1].replace("sad", "fear") + "\n")
    assert "party/faces.csv, row 2 says sad but party/faces.csv, row 5 says fear" in refusal(labels)


def test_copies_of_a_photo_that_contradict_each_other(labelled, labels):
    for name in ("1.png", "2.png", "3.png"):
        (labels.parent / "copies").mkdir(exist_ok=True)
        shutil.copy(labelled.parent / "photos" / PHOTOS[0], labels.parent / "copies" / name)
    label_folder(["copies"], Path("twice"), champion=CHAMPION)
    correct(Path("twice/faces.csv"), "corrected", ["sad", "sad", "fear"])
    words = "twice/faces.csv, row 2 and twice/faces.csv, row 4: copies of the same face with two labels. Nothing was"
    assert words in refusal(Path("twice"))


def test_a_picture_in_two_folders(labels):
    path = crop(labels, PHOTOS[0])
    (labels / "crops" / "sad").mkdir()
    shutil.copy(path, labels / "crops" / "sad")
    assert f"{path} says happy but party/crops/sad/{path.name} says sad" in refusal(labels)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("path", "gone.png", "party/faces.csv, row 2: no face 1 of 'gone.png' in the results"),
        ("face", "2", "party/faces.csv, row 2: no face 2 of '"),
        ("x", "7", "a.png, face 1 is another face by now"),
        ("confidence", "0.1", "a.png, face 1 is another face by now"),
    ],
)
@pytest.mark.parametrize("filled", [True, False])
def test_a_row_that_matches_no_result(labels, column, value, words, filled):
    correct(labels / "faces.csv", *(("corrected", ["sad", "", ""]) if filled else ("label", ["sad", None, None])))
    correct(labels / "faces.csv", column, [value, None, None])
    line = refusal(labels)
    assert line.startswith("party/faces.csv, row 2: ") and words in line


def test_a_row_that_is_not_corrected_need_not_match(labels):
    correct(labels / "faces.csv", "corrected", ["sad", "", ""])
    correct(labels / "faces.csv", "path", [None, "gone.png", None])
    assert written(collect(labels)[0])[0][0] == "sad"


def test_pictures_that_match_no_result_or_no_expression(labels):
    strange = labels / "crops" / "sad" / "strange.png"
    strange.parent.mkdir()
    shutil.copy(crop(labels, PHOTOS[0]), strange)
    unsure = moved(labels, PHOTOS[1], "unsure")
    line = refusal(labels)
    assert f"{unsure}: the folder unsure is no expression's" in line
    assert f"{strange}: no picture of these results" in line


def test_the_first_problems_are_told_and_the_others_counted(labels):
    for name in "defgh":
        path = labels / "crops" / "happy" / f"{name}.png"
        path.touch()
    line = refusal(labels)
    assert "d.png" in line and "f.png" in line and "g.png" not in line and "; and 2 more. Nothing was written" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "corrected.csv, line 1: expected the columns path, face and corrected or label, as in faces.csv"),
        (b"path,face\na.png,1\n", "corrected.csv, line 1: expected the columns path, face and corrected or label"),
        ("path,face,corrected\ncaf\u00e9.png,1,sad\n".encode("latin-1"), "corrected.csv: not UTF-8 text"),
        (b"path,face,label\n" + b"x" * 200_000, "corrected.csv, row 2: no csv (field larger than field limit"),
        (b"path,face,label\nshort\n", "corrected.csv, row 2: '' is no expression"),
    ],
)
def test_a_file_that_is_no_such_table(labels, content, words):
    Path("corrected.csv").write_bytes(content)
    assert words in refusal(labels, table=Path("corrected.csv"))


def test_a_folder_that_is_none_of_ours(labels):
    Path("empty").mkdir()
    for name in ("empty", "nowhere"):
        words = f"{name} is no output folder of `ferflow label`; name the folder that was its --out"
        assert refusal(Path(name)) == words
    assert not list(Path("empty").iterdir()) and not Path("nowhere").exists()


def test_a_folder_that_is_being_labelled(labels):
    with closing(Store(labels)):
        assert "another run is labelling into party" in refusal(labels)


def test_a_store_of_another_version_is_kept(labels):
    correct(labels / "faces.csv", "corrected", ["sad", "", ""])
    with closing(sqlite3.connect(labels / STORE)) as store:
        version = store.execute("PRAGMA user_version").fetchone()[0]
        store.execute("PRAGMA user_version = 99")
    assert "party/.ferflow.sqlite is of another version of ferflow; use the one that labelled" in refusal(labels)
    with closing(sqlite3.connect(labels / STORE)) as store:
        store.execute(f"PRAGMA user_version = {version}")
    assert len(written(collect(labels)[0])) == 1


def test_a_file_with_other_faces_is_not_overwritten(labels):
    table = labels / "faces.csv"
    correct(table, "corrected", ["sad", "fear", ""])
    path, _ = collect(labels)
    before = path.read_bytes()
    correct(table, "corrected", ["sad", "", "sad"])
    with pytest.raises(UserError, match=r"party.csv has 1 face more than these corrections; name another --out"):
        collect(labels)
    assert path.read_bytes() == before
    correct(table, "corrected", ["angry", "happy", "sad"])  # changed and new ones may
    collect(labels)
    assert [label for label, *_ in written(path)] == ["angry", "happy", "sad"]


def test_outside_a_pipeline_the_file_must_be_named(labels):
    Path("params.yaml").unlink()
    correct(labels / "faces.csv", "corrected", ["sad", "", ""])
    assert "no params.yaml here" in refusal(labels)
    assert collect(labels, Path("own.csv"))[0] == Path("own.csv")


def test_what_comes_next_depends_on_where_the_file_is(labels):
    correct(labels / "faces.csv", "corrected", ["sad", "", ""])
    for arguments, words in (([], "dvc repro"), (["--out", "own.csv"], "put it into data/raw/extra, then dvc repro")):
        assert f" Next: {words}\n" in CliRunner().invoke(app, ["collect", str(labels), *arguments]).stdout


def test_the_store_tells_what_it_knows_whatever_the_settings(labels):
    with closing(Store(labels)) as store:
        assert [Path(result.file.path).name for result in store.known()] == list(PHOTOS)
        assert list(store.results("other settings")) == []
