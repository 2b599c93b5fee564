import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks import ingest, parse
from tasks.expressions import EXPRESSIONS, SPLITS
from tasks.parse import Faces, copies_kept, load_split, without_twins
from tasks.pixels import PIXELS

ROOT = Path(__file__).parents[2]
FER2013 = ROOT / "data" / "raw" / "fer2013.csv"
RAW, ARRAYS, QUALITY = Path("data/raw"), Path("data/arrays"), Path("data/quality")
USAGES = ("Training", "PublicTest", "PrivateTest")

FACES = np.random.default_rng(2).integers(0, 256, (30, PIXELS)).astype(np.uint8)
TEXTS = [" ".join(map(str, face)) for face in FACES]


def line(face: int, label: int | str | None = None, usage: str | None = None) -> str:
    """A row of the csv; label and usage follow from the face's number unless they are given."""
    return f"{face % 7 if label is None else label},{TEXTS[face]},{usage or USAGES[face % 3]}"


def with_pixel(pixel: str) -> str:
    """A text whose fifth pixel is this."""
    words = TEXTS[0].split()
    return " ".join([*words[:4], pixel, *words[5:]])


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty pipeline that puts up with rejected rows; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    RAW.mkdir(parents=True)
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(params.replace("max_rejected: 0.01", "max_rejected: 0.9"), encoding="utf-8")
    return tmp_path


def build(lines: list[str | bytes]) -> None:
    """Ingest and parse a csv of these rows."""
    encoded = [each if isinstance(each, bytes) else each.encode() for each in lines]
    (RAW / "fer2013.csv").write_bytes(b"\n".join([b"emotion,pixels,Usage", *encoded]))
    ingest.main()
    parse.main()


def rejected() -> list[tuple[int, str, str]]:
    with (QUALITY / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return [(int(row["row"]), row["reason"], row["value"]) for row in csv.DictReader(file)]


def report() -> dict:
    return json.loads((QUALITY / "quality.json").read_text())


def test_arrays_hold_the_faces_of_each_split(workspace: Path) -> None:
    build([line(i) for i in range(len(FACES))])
    for number, split in enumerate(SPLITS):
        faces, labels = load_split(split)
        assert isinstance(faces, np.memmap) and faces.dtype == np.float32 and faces.shape == (10, 48, 48, 1)
        assert np.array_equal(faces.reshape(10, -1), FACES[number::3].astype(np.float32) / np.float32(255))
        assert labels.dtype == np.int64 and labels.tolist() == [i % 7 for i in range(number, 30, 3)]
        rows = np.load(ARRAYS / f"{split}_rows.npy")
        assert rows.dtype == np.int32 and rows.tolist() == list(range(number + 2, 32, 3))
    assert rejected() == []
    assert Image.open(QUALITY / "samples.png").size[1] > 7 * 48


def test_two_runs_write_the_same_bytes(workspace: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}

    build([line(i) for i in range(len(FACES))])
    first = content()
    build([line(i) for i in range(len(FACES))])
    assert content() == first
    assert len(first) == 1 + 2 + 9 + 3  # csv, ingested, arrays, quality


UNUSABLE: list[tuple[str | bytes, str, str]] = [
    (line(0).replace(" ", "  ", 1).rpartition(" ")[0] + ",Training", "wrong count", "2303 values"),
    (line(0).replace(",Training", " 7,Training"), "wrong count", "2305 values"),
    ("0,,Training", "wrong count", "0 values"),
    ("0, ,Training", "wrong count", "0 values"),
    (f"0,{with_pixel('256')},Training", "outside 0-255", "256"),
    (f"0,{with_pixel('-1')},Training", "outside 0-255", "-1"),
    (f"0,{with_pixel('4294967297')},Training", "outside 0-255", "4294967297"),
    (f"0,{with_pixel('3.5')},Training", "not a number", "3.5"),
    (f"0,{with_pixel('abc')},Training", "not a number", "abc"),
    (f"0,{with_pixel('٣')},Training", "not a number", "٣"),
    (f"0,{with_pixel('x')},Training".encode().replace(b"x", b"\xff\0\xfe"), "not a number", "\ufffd\0\ufffd"),
    (line(0, label=7), "unknown label", "7"),
    (line(0, label="happy"), "unknown label", "happy"),
    (line(0, label=""), "unknown label", ""),
    (line(0, label="-1"), "unknown label", "-1"),
    (line(0, usage="Test"), "unknown usage", "Test"),
    (f"0,{TEXTS[0]},", "unknown usage", ""),
    (f"0,{TEXTS[0]}", "wrong number of columns", f"0,{TEXTS[0]}"[:40]),
    (f"0,{TEXTS[0]},Training,1", "wrong number of columns", f"0,{TEXTS[0]}"[:40]),
    ("nonsense", "wrong number of columns", "nonsense"),
    (f"0,{' '.join(['128'] * PIXELS)},Training", "blank image", "all pixels near 128"),
    (f"0,{'7 ' * 1_000_000},Training", "wrong count", "1000000 values"),
    ("0," + "9" * 10_000_000 + ",Training", "outside 0-255", "9" * 40),  # a line of 10 MB
    (b"\xd0\xcf\x11\xe0" * 5, "wrong number of columns", "\ufffd\ufffd\x11\ufffd" * 5),
]


def test_every_unusable_row_is_written_down_with_its_reason(workspace: Path) -> None:
    lines: list[str | bytes] = []
    for i, (unusable, _, _) in enumerate(UNUSABLE):  # a good row, a bad one, sometimes a blank line
        lines += [line(i), unusable, *([""] if i % 5 == 0 else [])]
    build(lines)
    numbers = [number for number, each in enumerate(lines, start=2) if each not in ("", *map(line, range(len(FACES))))]
    assert rejected() == [(number, *rest) for number, (_, *rest) in zip(numbers, UNUSABLE, strict=True)]
    assert report()["rejected"] == {
        "blank image": 1,
        "not a number": 4,
        "outside 0-255": 4,
        "unknown label": 4,
        "unknown usage": 2,
        "wrong count": 5,
        "wrong number of columns": 4,
    }
    kept = sorted(row for split in SPLITS for row in np.load(ARRAYS / f"{split}_rows.npy").tolist())
    assert kept == [number for number, each in enumerate(lines, start=2) if each in map(line, range(len(UNUSABLE)))]


@pytest.mark.parametrize("cut", [20, 4000])
def test_a_last_row_cut_short(workspace: Path, cut: int) -> None:
    lines = [line(i) for i in range(len(FACES))]
    build([*lines[:-1], lines[-1][:-cut]])
    assert [(row, why) for row, why, _ in rejected()] == [(31, "wrong number of columns")]


def test_a_last_row_with_too_few_pixels(workspace: Path) -> None:
    build([*(line(i) for i in range(9)), f"0,{TEXTS[9][:4000]},Training"])
    assert [(row, why) for row, why, _ in rejected()] == [(11, "wrong count")]


def test_too_many_unusable_rows_fail_the_stage_and_say_why(workspace: Path) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("max_rejected: 0.9", "max_rejected: 0.03"))
    with pytest.raises(SystemExit) as exit_:
        build([line(0, label=9), *(line(i) for i in range(1, len(FACES)))])
    assert exit_.value.code == (
        "ferflow: data/raw/fer2013.csv: 1 of 30 rows (3.3%) cannot be used, more than parse.max_rejected in params.yaml "
        "allows (3.0%). The first is row 2: unknown label (9). All are in data/quality/rejected.csv"
    )
    assert rejected() == [(2, "unknown label", "9")]
    assert not ARRAYS.exists()


def test_a_split_without_rows_fails_the_stage(workspace: Path) -> None:
    with pytest.raises(SystemExit, match="no usable row of PublicTest, PrivateTest"):
        build([line(i, usage="Training") for i in range(9)])


def test_an_expression_that_a_split_lacks_is_told(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build([line(i) for i in range(len(FACES)) if i % 3 != 1 or i % 7 not in (1, 2)])
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "no face of val shows disgust, fear: how well networks do there is not measured"
    assert not any("train" in each or "test" in each for each in told[2:-1])


def test_without_a_table_it_says_what_to_do(workspace: Path) -> None:
    words = "ferflow: no data/ingested/faces.parquet, or a damaged one; build it with: dvc repro ingest"
    for content in (None, b"", b"no parquet at all"):
        if content is not None:
            Path("data/ingested").mkdir(exist_ok=True)
            Path("data/ingested/faces.parquet").write_bytes(content)
        with pytest.raises(SystemExit) as exit_:
            parse.main()
        assert exit_.value.code == words


@pytest.mark.parametrize("content", [None, b"", b"no array at all"])
def test_a_split_that_was_not_built_or_is_damaged(workspace: Path, content: bytes | None) -> None:
    if content is not None:
        Path("data/arrays").mkdir()
        Path("data/arrays/train.npy").write_bytes(content)
    words = r"no data/arrays/train\.npy, or a damaged one; build it with: dvc repro parse"
    with pytest.raises(parse.UserError, match=words):
        load_split("train")


def test_csv_and_image_tree_give_the_same_arrays(workspace: Path) -> None:
    def splits() -> dict[str, list[tuple[int, bytes]]]:
        return {
            split: sorted((int(y), x.tobytes()) for x, y in zip(*load_split(split), strict=True)) for split in SPLITS
        }

    build([line(i) for i in range(len(FACES))])
    from_csv = splits()
    (RAW / "fer2013.csv").unlink()
    for i, face in enumerate(FACES):
        folder = RAW / ("train" if i % 3 == 0 else "test") / EXPRESSIONS[i % 7]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face.reshape(48, 48)).save(folder / f"{USAGES[i % 3]}_{i}.png")
    (RAW / "train" / "angry" / "Training_broken.png").write_bytes(b"no image")
    ingest.main()
    parse.main()
    assert splits() == from_csv
    assert [(why, value) for _, why, value in rejected()] == [
        ("not an image", "cannot be decoded, or is far too large")
    ]


# Twins


def test_twins_leave_train_and_each_decision_is_counted(workspace: Path) -> None:
    build(
        [
            *(line(i) for i in range(12)),
            line(1, usage="Training"),  # of val
            line(2, usage="Training"),  # of test, twice
            line(2, usage="Training"),
            line(0, usage="Training"),  # of train
            line(20, label=3, usage="Training"),  # disagree
            line(20, label=4, usage="Training"),
            line(1, usage="PublicTest"),  # these stay
            line(2, usage="PrivateTest"),
            line(1, usage="PrivateTest"),
        ]
    )
    assert report()["dropped_from_train"] == {"in_val_or_test": 3, "copy_in_train": 1, "labels_disagree": 2}
    assert report()["copies_kept"] == {"val": 1, "test": 1, "test_also_in_val": 1}
    assert np.load(ARRAYS / "train_rows.npy").tolist() == [2, 5, 8, 11]
    assert len(load_split("val")[1]) == 5
    assert len(load_split("test")[1]) == 6


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.sampled_from(SPLITS)), max_size=14),
    st.lists(st.booleans(), min_size=14, max_size=14),
)
def test_what_dropping_twins_leaves(rows: list[tuple[int, int, str]], own: list[bool]) -> None:
    faces = Faces(
        np.repeat(np.array([face for face, _, _ in rows], np.uint8)[:, np.newaxis], PIXELS, axis=1),
        np.array([label for _, label, _ in rows], np.int64),
        np.array([split for _, _, split in rows], "U5"),
        np.arange(len(rows), dtype=np.int32),
        np.array(own[: len(rows)], bool),
    )
    left, dropped = without_twins(faces)
    kept = [rows[i] for i in left.rows]
    train = [face for face, _, split in kept if split == "train"]
    others = {face for face, _, split in rows if split != "train"}
    assert sorted(left.rows) == left.rows.tolist()  # in their order
    assert [row for row in kept if row[2] != "train"] == [row for row in rows if row[2] != "train"]  # untouched
    assert len(train) == len(set(train)) and not others & set(train)
    assert sum(dropped.values()) == len(rows) - len(kept)
    for face in {face for face, _, split in rows if split == "train"} - others:  # a face is lost only over its label
        ours = [i for i, (other, _, split) in enumerate(rows) if other == face and split == "train"]
        labels, corrections = {rows[i][1] for i in ours}, {rows[i][1] for i in ours if own[i]}
        assert (face in train) == (len(labels) == 1 or len(corrections) == 1)
        assert (face, min(corrections or labels), "train") in kept or face not in train
    val, test = ([face for face, _, split in rows if split == name] for name in ("val", "test"))
    assert copies_kept(left) == {
        "val": len(val) - len(set(val)),
        "test": len(test) - len(set(test)),
        "test_also_in_val": sum(face in val for face in test),
    }


# A disk that is full


def run(*options: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m tasks.parse` in the current folder, after `options` of another program."""

    def before() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    command = [*options, sys.executable, "-m", "tasks.parse"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, preexec_fn=before)


def test_a_full_disk_leaves_the_old_arrays_whole(workspace: Path) -> None:
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    mount = "mount -t tmpfs -o size=200k none data/arrays"
    build([line(i) for i in range(len(FACES))])
    if not shutil.which("unshare") or subprocess.run([*unshare, "sh", "-c", mount], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    script = f'{mount} && echo old > {ARRAYS}/train.npy && {{ "$@"; echo "code $?"; ls -A {ARRAYS}; cat {ARRAYS}/*; }}'
    done = run(*unshare, "sh", "-c", script, "sh")
    assert done.stdout == "code 1\ntrain.npy\nold\n"
    assert done.stderr.startswith(f"ferflow: no space left on the disk while writing {ARRAYS}/")
    assert done.stderr.count("\n") == 1


def test_a_limit_on_file_sizes_leaves_the_old_arrays_whole(workspace: Path) -> None:
    build([line(i) for i in range(len(FACES))])
    before = {path.name: path.read_bytes() for path in ARRAYS.iterdir()}
    done = run(limit=80_000)  # bytes; each split has 92,288
    assert done.returncode == 1
    assert done.stderr.startswith("ferflow: data/") and "would pass the size limit" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in ARRAYS.iterdir()} == before


# The real set


@pytest.mark.skipif(not FER2013.is_file(), reason="FER2013 is not in data/raw; it cannot be redistributed")
def test_fer2013_itself(workspace: Path) -> None:
    RAW.rmdir()
    RAW.symlink_to(FER2013.parent)
    path = Path("params.yaml")
    path.write_text((ROOT / "params.yaml").read_text())
    ingest.main()
    parse.main()
    assert {split: len(load_split(split)[1]) for split in SPLITS} == {"train": 26_913, "val": 3_588, "test": 3_589}
    assert report()["rejected"] == {"blank image": 13}
    assert sum(report()["dropped_from_train"].values()) == 1_784
