"""What labelling leaves: tables that agree, pictures that match them, and a run that says what it was."""

import csv
import json
import os
import shutil
import zipfile
from contextlib import closing

import cv2
import numpy as np
import pyarrow.parquet
import pytest
from conftest import ASTRONAUT, CHAMPION, rows

from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.folder import Job, label_folder
from tasks.params import Label
from tasks.results import FACE_COLUMNS, IMAGE_COLUMNS, Outputs, shown
from tasks.sources import STORE


def run(source, out, outputs=Outputs(), **options):  # noqa: B008 - immutable
    return label_folder([str(source)], out, Label(**options), CHAMPION, outputs)


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_image_has_one_row_and_every_face(photos, tmp_path):
    run(photos, tmp_path / "out")
    images = rows(tmp_path / "out" / "images.csv")
    assert [(row["path"].removeprefix(f"{photos}/"), row["status"], row["reason"], row["faces"]) for row in images] == [
        ("a.png", "ok", "", "1"),
        ("b.jpg", "no_face", "", "0"),
        ("c.jpg", "unreadable", "not an image, or a damaged one", "0"),
        ("d.jpg", "unreadable", "an empty file", "0"),
        ("more/a.jpg", "ok", "", "1"),
    ]
    assert (images[0]["width"], images[0]["format"], images[2]["width"]) == ("512", "PNG", "")
    faces = rows(tmp_path / "out" / "faces.csv")
    assert [(row["path"].removeprefix(f"{photos}/"), row["face"]) for row in faces] == [
        ("a.png", "1"),
        ("more/a.jpg", "1"),
    ]
    assert list(faces[0]) == list(FACE_COLUMNS)
    assert 170 < int(faces[0]["x"]) < 190
    assert (faces[0]["label"], faces[0]["confidence"]) == ("happy", faces[0]["happy"])
    assert faces[0]["champion"] == json.loads((CHAMPION / "champion.json").read_text())["version"]
    assert (faces[0]["trained_on"], faces[0]["detector"]) == ("fer2013", "yunet")


@pytest.mark.parametrize(("name", "columns"), [("faces", FACE_COLUMNS), ("images", IMAGE_COLUMNS)])
def test_parquet_and_csv_say_the_same(name, columns, photos, tmp_path):
    run(photos, tmp_path / "out")
    table = pyarrow.parquet.read_table(tmp_path / "out" / f"{name}.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        name: {"float64": "double", "bool_": "bool"}.get(kind, kind) for name, kind in columns.items()
    }
    text = [["" if value is None else str(value) for value in row.values()] for row in table.to_pylist()]
    assert text == [list(row.values()) for row in rows(tmp_path / "out" / f"{name}.csv")]


def test_a_folder_without_faces_has_empty_tables(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    run(tmp_path / "photos", tmp_path / "out")
    assert rows(tmp_path / "out" / "faces.csv") == []
    assert pyarrow.parquet.read_table(tmp_path / "out" / "faces.parquet").num_rows == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_run_json_says_what_ran_on_what(photos, tmp_path):
    answer = run(photos, tmp_path / "out", min_confidence=0.8)
    content = json.loads((tmp_path / "out" / "run.json").read_text())
    assert content == answer
    assert content["complete"]
    assert content["images"]["status"] == {"ok": 2, "no_face": 1, "unreadable": 2}
    assert (content["images"]["total"], content["images"]["labelled"], content["images"]["reused"]) == (5, 5, 0)
    assert content["faces"]["total"] == sum(content["faces"]["expressions"].values()) == 2
    assert list(content["faces"]["expressions"]) == list(EXPRESSIONS)
    assert (
        content["faces"]["review"]
        == sum(float(row["confidence"]) < 0.8 for row in rows(tmp_path / "out/faces.csv"))
        == 1
    )
    assert [row["review"] for row in rows(tmp_path / "out" / "faces.csv")] == ["False", "True"]
    assert content["drift"]["psi"] is content["drift"]["drifted"] is None
    assert content["drift"]["mean_confidence"] == content["faces"]["mean_confidence"]


def test_json_lines_have_a_line_an_image(photos, tmp_path):
    run(photos, tmp_path / "out", Outputs(json_lines=True))
    lines = [json.loads(line) for line in (tmp_path / "out" / "labels.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["ok", "no_face", "unreadable", "unreadable", "ok"]
    assert lines[0]["faces"][0]["label"] == "happy"
    assert lines[0]["faces"][0]["review"] is False
    assert lines[1]["faces"] == []


def test_annotated_copies_mark_the_face_alone(photos, tmp_path):
    run(photos, tmp_path / "out", Outputs(annotated=True))
    picture = rows(tmp_path / "out" / "images.csv")[0]["annotated"]
    copy = cv2.imread(str(tmp_path / "out" / picture)).astype(int)
    changed = np.abs(copy - cv2.imread(str(ASTRONAUT))).max(axis=2) > 60  # less is JPEG's doing
    down, across = np.nonzero(changed)
    assert 30 < down.min() < down.max() < 200
    assert 150 < across.min() < across.max() < 300


def test_crops_are_a_training_set_in_folders(photos, tmp_path):
    run(photos, tmp_path / "out", Outputs(crops=True))
    crops = files_below(tmp_path / "out" / "crops")
    labels = sorted(row["label"] for row in rows(tmp_path / "out" / "faces.csv"))
    assert sorted(name.partition("/")[0] for name in crops) == labels
    assert "happy" in labels
    assert cv2.imread(str(tmp_path / "out" / "crops" / crops[0]), cv2.IMREAD_UNCHANGED).shape == (48, 48)


def test_pictures_once_asked_for_follow_the_labels(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, Outputs(annotated=True, crops=True, json_lines=True))
    first = files_below(out)
    os.truncate(photos / "a.png", 0)
    shutil.copy(ASTRONAUT, photos / "z.png")
    run(photos, out)
    second = files_below(out)
    assert len(second) == len(first)
    assert [name for name in second if "/a-" in name and "png" in name and "happy" in name] == []
    assert len([name for name in second if "/z-" in name]) == 2
    run(photos, out, Outputs(annotated=False, crops=False, json_lines=False))
    assert not [name for name in files_below(out) if "/" in name or name.endswith("jsonl")]


def test_photos_that_lie_where_pictures_go_stay(photos, tmp_path):
    for place in ("crops/a.png", "crops/happy/a.jpg", "annotated/a.jpg", "annotated/more/a-0123abcd.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "b.jpg", tmp_path / place)
    before = files_below(tmp_path)
    for outputs in (Outputs(annotated=True, crops=True), Outputs(annotated=False, crops=False)):
        run(photos, tmp_path, outputs)
        assert set(before) <= set(files_below(tmp_path))


@pytest.mark.parametrize(
    "name",
    ["faces.csv", "frames.parquet", "labels.jsonl", "report.html", "run.json", "annotated/party-20230514.jpg",
     "crops/sad/me-20230514-1-sad.png"],
)  # fmt: skip
def test_files_of_somebody_else_in_the_place_of_results_are_not_touched(name, photos, tmp_path):
    theirs = tmp_path / "album" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text('{"mine": 1}')
    (tmp_path / "album" / "notes.csv").touch()
    with pytest.raises(
        UserError, match=f"album is no output folder of ferflow, but holds {name}, which labelling would"
    ):
        run(photos, tmp_path / "album")
    assert files_below(tmp_path / "album") == sorted([name, "notes.csv"])
    theirs.unlink()
    assert run(photos, tmp_path / "album")["complete"]


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_whose_run_was_interrupted_or_whose_store_was_removed_is_ours(finished, photos, tmp_path):
    run(photos, tmp_path / "out", Outputs(annotated=True, crops=True))
    (tmp_path / "out" / (STORE if finished else "run.json")).unlink()
    assert run(photos, tmp_path / "out")["complete"]


def test_photos_that_no_browser_shows_get_an_annotated_copy_unasked(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(ASTRONAUT, "holiday/a.png")
    run(tmp_path / "photos.zip", tmp_path / "out")
    (image,) = rows(tmp_path / "out" / "images.csv")
    assert image["path"] == f"{tmp_path}/photos.zip/holiday/a.png"
    assert (tmp_path / "out" / image["annotated"]).exists()


def test_the_thinnest_face_has_an_annotated_copy(tmp_path):
    (tmp_path / "thin").mkdir()
    cv2.imwrite(str(tmp_path / "thin" / "a.png"), np.zeros((1, 30_000, 3), np.uint8))
    assert run(tmp_path / "thin", tmp_path / "out", Outputs(annotated=True), whole=True)["complete"]
    (copy,) = (tmp_path / "out" / "annotated").iterdir()
    assert cv2.imread(str(copy)).shape == (1, 1600, 3)


def test_names_that_are_not_utf_8_or_hold_a_newline_have_their_rows(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    names = (
        b"new\nline.png",
        b"mac\rline.png",
        b"latin\xe9.png",
        "smile 😀.png".encode(),
        b'quo"te, comma.png',
        b"=1+1.png",
    )
    for name in names:
        shutil.copy(ASTRONAUT, folder / os.fsdecode(name))
    out = tmp_path / os.fsdecode(b"out\xe9")
    run(folder, out, Outputs(annotated=True, crops=True, json_lines=True))
    expected = sorted(name.decode("utf-8", "backslashreplace") for name in names)
    for table in (
        rows(out / "images.csv"),
        pyarrow.parquet.read_table(pyarrow.BufferReader((out / "faces.parquet").read_bytes())).to_pylist(),
    ):
        assert sorted(row["path"].removeprefix(f"{folder}/") for row in table) == expected
    assert len(files_below(out / "annotated")) == len(names)


def test_the_longest_name_has_its_pictures(tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(ASTRONAUT, tmp_path / "photos" / f"{'写' * 83}.png")
    run(tmp_path / "photos", tmp_path / "out", Outputs(annotated=True, crops=True))
    assert len(files_below(tmp_path / "out" / "annotated")) == len(files_below(tmp_path / "out" / "crops")) == 1


def test_a_table_that_a_person_damaged_is_told(photos, tmp_path):
    run(photos, tmp_path / "out")
    with (tmp_path / "out" / "faces.csv").open("a") as table:
        table.write('"' + "a quote that never ends" * 9999)
    with pytest.raises(UserError, match=r"faces.csv is no csv \(.*\); mend it, or remove it"):
        run(photos, tmp_path / "out")


@pytest.mark.parametrize(
    ("columns", "encoding", "missing"),
    [(["path", "face", "label"], "utf-8", "confidence"), (FACE_COLUMNS, "utf-16", "label")],
)
def test_a_table_that_cannot_tell_what_is_corrected_is_not_overwritten(columns, encoding, missing, photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out)
    content = rows(out / "faces.csv")
    with (out / "faces.csv").open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(content)
    before = (out / "faces.csv").read_bytes()
    with pytest.raises(UserError, match=f"faces.csv has no column {missing}, without which"):
        run(photos, out)
    assert (out / "faces.csv").read_bytes() == before


@pytest.mark.parametrize("content", ["[]", '{"outputs": [1]}', "{}", "no json"])
def test_a_damaged_run_json_is_no_obstacle(content, photos, tmp_path):
    run(photos, tmp_path / "out", Outputs(json_lines=True))
    (tmp_path / "out" / "run.json").write_text(content)
    assert run(photos, tmp_path / "out")["outputs"] == {"annotated": False, "crops": False, "json_lines": False}


def test_shown_is_always_text():
    assert shown("ok é") == "ok é"
    assert shown("latin\udce9") == r"latin\xe9"


@pytest.mark.parametrize("crops", [None, False])
def test_crops_that_a_person_sorted_are_not_lost(crops, photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, Outputs(crops=True))
    (crop,) = (out / "crops" / "happy").iterdir()
    (out / "crops" / "sad").mkdir()
    moved = crop.rename(out / "crops" / "sad" / crop.name)
    table = (out / "faces.csv").read_bytes()
    with pytest.raises(UserError) as refused:
        run(photos, out, Outputs(crops=crops))
    assert str(refused.value) == (
        f"{out}/crops holds 1 picture moved to another folder ({moved}), which labelling would undo; "
        f"run `ferflow collect {out}`, then remove {out}/crops, or name another --out"
    )
    assert moved.exists()
    assert (out / "faces.csv").read_bytes() == table
    shutil.rmtree(out / "crops")
    assert run(photos, out)["complete"]
    assert crop.exists()


def test_a_folder_with_another_name_of_the_same_expression_moves_no_crop(photos, tmp_path):
    """Where `ferflow collect` finds nothing corrected, labelling has nothing to refuse."""
    out = tmp_path / "out"
    run(photos, out, Outputs(crops=True))
    (out / "crops" / "happy").rename(out / "crops" / "Feliz")
    assert run(photos, out)["complete"]
    (out / "crops" / "Feliz").rename(out / "crops" / "triste")
    with pytest.raises(UserError, match="moved to another folder"):
        run(photos, out)


def test_crops_that_a_person_sorts_while_a_run_labels_are_not_lost(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, Outputs(crops=True))
    with closing(Job([str(photos)], out, Label(), CHAMPION)) as job:
        (crop,) = (out / "crops" / "happy").iterdir()
        other = out / "crops" / "fear"
        other.mkdir()
        moved = crop.rename(other / crop.name)
        with pytest.raises(UserError, match="moved to another folder"):
            job.finish()
    assert moved.exists()


def test_crops_that_a_person_sorts_while_a_run_writes_are_not_lost(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out, Outputs(crops=True))
    table = (out / "faces.csv").read_bytes()
    (crop,) = (out / "crops" / "happy").iterdir()
    moved = out / "crops" / "fear" / crop.name
    moved.parent.mkdir()
    job = Job([str(photos)], out, Label(), CHAMPION)
    with closing(job), pytest.raises(UserError, match="moved to another folder"):
        job.finish(lambda: moved.exists() or crop.rename(moved))
    assert moved.exists()
    assert (out / "faces.csv").read_bytes() == table


def test_crops_of_an_earlier_champion_are_nobodys_work(photos, tmp_path):
    """A run that was killed between labelling and its pictures leaves them; their names have the older label."""
    out = tmp_path / "out"
    run(photos, out, Outputs(crops=True))
    (crop,) = (out / "crops" / "happy").iterdir()
    older = out / "crops" / "sad" / crop.name.replace("-happy.png", "-sad.png")
    older.parent.mkdir()
    crop.rename(older)
    assert run(photos, out)["complete"]
    assert (crop.exists(), older.exists()) == (True, False)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(
    ("delimiter", "column"), [(",", "corrected"), (";", "Corrected "), ("\t", "CORRECTED"), (",", "label")]
)
def test_a_corrected_table_is_known_however_a_spreadsheet_saved_it(delimiter, column, quoting, photos, tmp_path):
    out = tmp_path / "out"
    run(photos, out)
    content = [{**row, column: "sad"} for row in rows(out / "faces.csv")]
    with (out / "faces.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(content[0]), delimiter=delimiter, quoting=quoting)
        writer.writeheader()
        writer.writerows(content)
    with pytest.raises(UserError, match="holds corrections, which labelling would overwrite"):
        run(photos, out)


@pytest.mark.parametrize(
    ("changes", "corrected"),
    [
        ({"label": "Feliz"}, False),
        ({"label": " Happiness "}, False),
        ({"label": "triste"}, True),
        ({"label": "sad", "happy": "0.4", "sad": "0.4", "confidence": "0.4"}, True),  # as probable as the network's
        ({"label": "joy?"}, True),
        ({"label": ""}, True),
    ],
)
def test_a_label_in_the_table_is_a_correction_if_it_is_another_expression(changes, corrected, photos, tmp_path):
    """What `ferflow collect` finds nothing new in, labelling has no reason to refuse; empty rows neither."""
    out = tmp_path / "out"
    run(photos, out)
    content = next(row for row in rows(out / "faces.csv") if row["label"] == "happy")
    with (out / "faces.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(content))
        writer.writeheader()
        writer.writerows([{**content, **changes}, dict.fromkeys(content, "")])
    if corrected:
        with pytest.raises(UserError, match="holds corrections, which labelling would overwrite"):
            run(photos, out)
    else:
        assert run(photos, out)["complete"]


def test_a_long_name_in_another_script_leaves_room_for_the_pictures(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(ASTRONAUT, folder / f"{'写真' * 40}.png")  # 244 bytes
    run(folder, tmp_path / "out", Outputs(annotated=True, crops=True))
    assert len(files_below(tmp_path / "out" / "annotated")) == len(files_below(tmp_path / "out" / "crops")) == 1
