import gzip
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks import ingest, parse
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.ingest import find_source
from tasks.tables import read_csv

ROOT = Path(__file__).parents[2]
RAW = Path("data/raw")
TABLE = Path("data/ingested/faces.parquet")
USAGES = ("Training", "PublicTest", "PrivateTest")
SPLIT = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}

FACES = np.random.default_rng(1).integers(0, 256, (6, 48, 48)).astype(np.uint8)
TEXTS = [" ".join(map(str, face.ravel())) for face in FACES]
LABELS = (0, 3, 6, 1, 3, 5)
USAGE = (*USAGES, *USAGES)
ROWS = list(zip(LABELS, TEXTS, USAGE, strict=True))
CSV = "emotion,pixels,Usage\n" + "".join(f"{label},{text},{usage}\n" for label, text, usage in ROWS)
ICML = "emotion, Usage, pixels\n" + "".join(f"{label},{usage},{text}\n" for label, text, usage in ROWS)
QUOTED = '"emotion","pixels","Usage"\n' + "".join(f'"{label}","{text}","{usage}"\n' for label, text, usage in ROWS)
EXPECTED = [(i + 2, SPLIT[usage], str(label), text) for i, (label, text, usage) in enumerate(ROWS)]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty pipeline, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    RAW.mkdir(parents=True)
    (RAW / ".gitkeep").touch()
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def run(*options: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m tasks.ingest` in the current folder, as DVC calls it, after `options` of another program."""
    command = [*options, sys.executable, "-m", "tasks.ingest"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, preexec_fn=before)


def ingested() -> list[tuple[int, str | None, str | None, str]]:
    """Run the stage; the table without its column file."""
    ingest.main()
    rows = pyarrow.parquet.read_table(TABLE, columns=["row", "split", "label", "pixels"]).to_pylist()
    return [(row["row"], row["split"], row["label"], (row["pixels"] or b"").decode("latin-1")) for row in rows]


def complaint() -> str:
    """Run the stage, which must fail with one line and leave nothing behind."""
    with pytest.raises(SystemExit) as exit_:
        ingest.main()
    assert isinstance(exit_.value.code, str)  # which Python prints, and exits with 1
    assert not TABLE.parent.exists() or not any(TABLE.parent.iterdir())
    return exit_.value.code


def write(name: str, content: str | bytes) -> None:
    path = RAW / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def png(face: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "PNG")
    return buffer.getvalue()


def tree(by_prefix: bool) -> dict[str, bytes]:
    """The faces as an image tree, its splits told by file names' prefixes as on Kaggle, or by folders alone."""
    files = {}
    for i, (label, usage) in enumerate(zip(LABELS, USAGE, strict=True)):
        folder = ("train" if usage == "Training" else "test") if by_prefix else SPLIT[usage]
        files[f"{folder}/{EXPRESSIONS[label]}/{usage + '_' if by_prefix else ''}{i}.png"] = png(FACES[i])
    return files


# Forms that are accepted


def test_a_csv_of_something_else_does_not_hide_a_zip_of_images(workspace: Path) -> None:
    write("archive.zip", zipped(tree(by_prefix=False) | {"labels.csv": b"image,label\n"}))
    assert len(ingested()) == len(FACES)


def test_names_of_images_need_not_be_utf_8(workspace: Path) -> None:
    for name, content in tree(by_prefix=False).items():
        write(name.replace("0.png", "caf\udce9.png"), content)
    assert len(ingested()) == len(FACES)


def test_a_source_that_is_a_file_is_told(workspace: Path) -> None:
    write("fer2013.csv", CSV)
    with pytest.raises(UserError, match=r"fer2013.csv is a file; `ingest.source` in params.yaml names the folder"):
        ingest.find_source(RAW / "fer2013.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fer2013.csv", CSV.encode()),
        ("icml_face_data.csv", ICML.encode()),
        ("my faces.csv", CSV.encode()),
        ("fer2013/fer2013.csv", CSV.encode()),
        ("fer2013.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("fer2013.csv", CSV.replace("\n", "\r\n").encode()),
        ("fer2013.csv", CSV.rstrip("\n").encode()),
        ("fer2013.csv", QUOTED.encode()),
        ("fer2013.csv", b"\xef\xbb\xbf" + QUOTED.replace("\n", "\r\n").encode()),
        ("archive.zip", zipped({"fer2013.csv": CSV.encode()})),
        ("archive.zip", zipped({"readme.txt": b"hello", "fer2013/icml_face_data.csv": ICML.encode()})),
        ("fer2013.csv", zipped({"faces.csv": CSV.encode(), "__MACOSX/._faces.csv": b"\0"})),  # a zip by another name
    ],
)
def test_forms_of_the_csv(workspace: Path, name: str, content: bytes) -> None:
    write(name, content)
    assert ingested() == EXPECTED
    source = json.loads((TABLE.parent / "source.json").read_text())
    assert (source["form"], source["rows"]) == ("csv", 6)
    assert source["data"] in ("fer2013", "icml_face_data", "my faces", "faces")


@pytest.mark.parametrize("by_prefix", [True, False])
@pytest.mark.parametrize("place", ["", "fer2013/", "zip"])
def test_forms_of_the_tree(workspace: Path, by_prefix: bool, place: str) -> None:
    files = tree(by_prefix)
    if place == "zip":
        write("archive.zip", zipped({f"fer2013/{name}": content for name, content in files.items()}))
    else:
        for name, content in files.items():
            write(place + name, content)
    rows = ingested()
    assert [row for row, *_ in rows] == list(range(1, 7))
    assert sorted(rest for _, *rest in rows) == sorted(rest for _, *rest in map(list, EXPECTED))


def test_what_is_nobodys_data_is_passed_over(workspace: Path) -> None:
    write("extra/readme.txt", "rubbish")
    write("extra/.hidden.csv", "rubbish")
    write("extra/old/fer2013.csv", "rubbish")
    write("extra/train/angry/1.png", png(FACES[0]))
    write(".hidden.csv", "rubbish")
    write("readme.md", "hello")
    write("old.csv", "a,b\n1,2\n")
    for name, content in tree(True).items():
        write(name, content)
        write(f".cache/{name}", content)
    assert len(ingested()) == 6


def test_fer2013_csv_goes_before_others(workspace: Path) -> None:
    write("a.csv", CSV.replace("Training", "PublicTest"))
    write("icml_face_data.csv", ICML)
    write("fer2013.csv", CSV)
    assert find_source(RAW).path.name == "fer2013.csv"


def test_a_broken_fer2013_csv_is_not_passed_over(workspace: Path) -> None:
    write("fer2013.csv", "")
    write("a.csv", CSV)
    assert "fer2013.csv: an empty file" in complaint()


# Forms that are not


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "data/raw/fer2013.csv: an empty file; download"),
        (b"\n\n", "data/raw/fer2013.csv: an empty file; download"),
        (b"emotion,pixels,Usage\n", "fer2013.csv: a header and no row below it; download"),
        (b"emotion,pixels,Usage\n\n \n", "fer2013.csv: a header and no row below it; download"),
        (CSV.partition("\n")[2].encode(), "fer2013.csv, line 1: data where the header should be; put the line"),
        (
            b"label,image,set\n0,1 2,Training\n",
            "line 1: expected the columns emotion,pixels,Usage, found 'label,image,set'",
        ),
        (b"emotion,pixels,pixels,Usage\n0,1,1,Training\n", "line 1: expected the columns emotion,pixels,Usage, found"),
        (CSV.replace(",", ";").encode(), "fer2013.csv, line 1: columns are not separated by commas"),
        (CSV.replace(",", "\t").encode(), "fer2013.csv, line 1: columns are not separated by commas"),
        (CSV.encode("utf-16"), "fer2013.csv, line 1: not UTF-8 text (invalid start byte); save the table as CSV UTF-8"),
        ("émotion,pixels,Usage\n".encode("latin-1"), "fer2013.csv, line 1: not UTF-8 text"),
        (gzip.compress(CSV.encode()), "fer2013.csv: compressed by gzip; unpack it: gzip -dc"),
        (CSV.encode() + b"0," + b"7 " * (9 << 20) + b",Training\n", "line 8: longer than 16 MiB"),
        (b"x" * (17 << 20), "fer2013.csv, line 1: expected the columns"),
        (zipped({"readme.txt": b"hello"}), "fer2013.csv: a zip without fer2013.csv"),
        (zipped({"fer2013.csv": b""}), "fer2013.csv/fer2013.csv: an empty file"),
        (zipped({"fer2013.csv": CSV.encode()})[:-30], "fer2013.csv: a damaged zip"),
        (b"PK\x03\x04" + bytes(100), "fer2013.csv: a damaged zip"),
    ],
)
def test_a_file_that_is_no_fer2013(workspace: Path, content: bytes, words: str) -> None:
    write("fer2013.csv", content)
    line = complaint()
    assert words in line
    assert "\n" not in line and len(line) < 300


def test_a_gzip_by_its_own_name(workspace: Path) -> None:
    write("fer2013.tar.gz", gzip.compress(b"tar"))
    assert "data/raw/fer2013.tar.gz: compressed by gzip" in complaint()


def test_a_zip_whose_content_is_damaged(workspace: Path) -> None:
    content = bytearray(zipped({"fer2013.csv": CSV.encode()}))
    content[len(content) // 2] ^= 0xFF
    write("fer2013.zip", bytes(content))
    assert "data/raw/fer2013.zip: a damaged zip" in complaint()


def test_a_zip_with_a_password(workspace: Path) -> None:
    content = bytearray(zipped({"fer2013.csv": CSV.encode()}))
    content[6] |= 1  # the flag "encrypted" of the file's own header and of the directory's
    content[content.index(b"PK\x01\x02") + 8] |= 1
    write("fer2013.zip", bytes(content))
    assert "password required" in complaint()


def test_a_zip_that_says_it_unpacks_to_gigabytes(workspace: Path) -> None:
    content = bytearray(zipped({"fer2013.csv": CSV.encode()}))
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 0xF0000000)
    write("fer2013.zip", bytes(content))
    assert "data/raw/fer2013.zip/fer2013.csv: says that it unpacks to more than 2 GiB" in complaint()


def test_a_csv_in_a_zip_that_is_one_endless_line(workspace: Path) -> None:
    write("fer2013.zip", zipped({"fer2013.csv": CSV.encode() + bytes(100 << 20)}))
    assert "fer2013.csv, line 8: longer than 16 MiB" in complaint()


def test_nothing_there_is_one_screen(workspace: Path) -> None:
    done = run()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for words in ("no FER2013 in data/raw", "fer2013.csv", "kaggle.com", "ferflow fetch", "make demo"):
        assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 24
    shutil.rmtree(RAW)
    assert complaint() == done.stderr.rstrip("\n")


def test_a_file_that_may_not_be_read(workspace: Path) -> None:
    write("fer2013.csv", CSV)
    (RAW / "fer2013.csv").chmod(0)
    options = []
    if os.geteuid() == 0:  # root may read everything, unless it gives that up
        options = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
        if not shutil.which("setpriv") or subprocess.run([*options, "true"], check=False).returncode:
            pytest.skip("root reads every file, and setpriv cannot take that right away here")
    done = run(*options)
    assert done.returncode == 1
    assert done.stderr == "ferflow: no permission for data/raw/fer2013.csv; check its owner and mode (ls -l)\n"


# Rows are numbered by their lines, whatever the lines hold

GOOD_LINE, SHORT_LINE, LONG_LINE, BLANK_LINE, JUNK = (
    b"0,7 7,Training",
    b"0,7 7",
    b"0,7,7,Training",
    b" ",
    b'\xff"\xfe\0',
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([GOOD_LINE, SHORT_LINE, LONG_LINE, BLANK_LINE, b"", JUNK, b'"' + GOOD_LINE]), max_size=12),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)
def test_row_numbers_are_line_numbers(lines: list[bytes], newline: bytes, ends: bool) -> None:
    content = newline.join([b"emotion,pixels,Usage", *lines]) + (newline if ends else b"")
    rows = list(read_csv(io.BytesIO(content), Path("x.csv")))
    numbered = [(number, line) for number, line in enumerate(lines, start=2) if line.strip()]
    assert [row.row for row in rows] == [number for number, _ in numbered]
    for row, (_, line) in zip(rows, numbered, strict=True):
        if line.count(b",") == 2:
            assert row[2:] == ("train", "0", b"7 7")
        else:
            assert row[2:] == (None, None, line)


# Images that are none


def huge_png() -> bytes:
    """A PNG of 60 bytes whose header asks for 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def large_png() -> bytes:
    """A sound PNG of 12,000 x 12,000 black pixels: 20 kB that unpack to 144 MB."""
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    return buffer.getvalue()


def unusable_images() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "text", b"no image"
    yield "cut", png(FACES[0])[:1000]
    yield "huge", huge_png()
    yield "large", large_png()
    yield "bytes", bytes(70 << 20)  # more than any image file has
    yield "gif", b"GIF89a" + bytes(50)


@pytest.mark.parametrize("packed", [True, False])
def test_an_unusable_image_is_a_row_without_pixels(workspace: Path, packed: bool) -> None:
    files = tree(True) | {f"train/sad/Training_{name}.png": content for name, content in unusable_images()}
    if packed:
        write("archive.zip", zipped(files))
    else:
        for name, content in files.items():
            write(name, content)
    ingest.main()
    table = pyarrow.parquet.read_table(TABLE).to_pylist()
    unusable = {Path(row["file"]).stem for row in table if row["pixels"] is None}
    assert unusable == {f"Training_{name}" for name, _ in unusable_images()}
    assert len(table) == len(files)


def test_an_image_in_a_folder_that_is_no_expression_keeps_its_name_for_a_label(workspace: Path) -> None:
    for name, content in (
        tree(False) | {"train/contempt/1.png": png(FACES[0]), "train/0/1.png": png(FACES[0])}
    ).items():
        write(name, content)
    assert {label for _, _, label, _ in ingested() if not label.isdigit()} == {"folder contempt", "folder 0"}


def test_larger_and_coloured_images_are_scaled_to_48_grey_pixels(workspace: Path) -> None:
    write("train/happy/1.png", png(np.full((96, 200, 3), 77, np.uint8)))
    assert [text for *_, text in ingested()] == [" ".join(["77"] * 2304)]


def test_links_that_go_round_in_circles(workspace: Path) -> None:
    for name, content in tree(True).items():
        write(name, content)
    (RAW / "train" / "angry" / "up").symlink_to("../..", target_is_directory=True)
    (RAW / "train" / "angry" / "Training_self.png").symlink_to("Training_self.png")
    (RAW / "round").symlink_to(".", target_is_directory=True)
    assert len(ingested()) == 6


def test_names_in_a_zip_lead_nowhere(workspace: Path) -> None:
    names = ("../../../train/angry/Training_1.png", "/train/happy/Training_2.png", "C:\\train\\sad\\Training_3.png")
    write("archive.zip", zipped(tree(True) | dict.fromkeys(names, png(FACES[0]))))
    before = set(workspace.parent.rglob("*"))
    assert len(ingested()) == 8  # the last is no path in a zip
    assert set(workspace.parent.rglob("*")) - before <= set(TABLE.resolve().parent.rglob("*")) | {
        TABLE.resolve().parent
    }


# A disk that is full

MANY_ROWS = 300  # 2.7 MB


def test_a_full_disk_leaves_the_old_table_whole(workspace: Path) -> None:
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    mount = "mount -t tmpfs -o size=1m none data/ingested"
    TABLE.parent.mkdir()
    if not shutil.which("unshare") or subprocess.run([*unshare, "sh", "-c", mount], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    write("fer2013.csv", CSV + "\n".join([f"0,{TEXTS[0]},Training"] * MANY_ROWS))
    # The disk lives as long as the shell: what is left on it has to be listed there.
    script = f'{mount} && echo old > {TABLE} && {{ "$@"; echo "code $?"; ls -A data/ingested; cat {TABLE}; }}'
    done = run(*unshare, "sh", "-c", script, "sh")
    assert done.stdout == "code 1\nfaces.parquet\nold\n"
    words = f"no space left on the disk while writing {TABLE}; free some and run the same command again"
    assert done.stderr == f"ferflow: {words}\n"


def test_a_limit_on_file_sizes_leaves_the_old_table_whole(workspace: Path) -> None:
    write("fer2013.csv", CSV + "\n".join([f"0,{TEXTS[0]},Training"] * MANY_ROWS))
    TABLE.parent.mkdir()
    TABLE.write_text("old")
    done = run(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY)))
    assert done.returncode == 1
    assert done.stderr == f"ferflow: {TABLE} would pass the size limit set for files (ulimit -f)\n"
    assert [path.name for path in TABLE.parent.iterdir()] == [TABLE.name]
    assert TABLE.read_text() == "old"


def test_a_nameless_set_is_refused() -> None:
    with pytest.raises(UserError, match="no FER2013 in nowhere"):
        find_source(Path("nowhere"))


# A team's own rows


def extra(name: str, rows: list[tuple[object, str, str]], header: str = "emotion,pixels,Usage") -> None:
    write(f"extra/{name}", header + "\n" + "".join(f"{label},{text},{usage}\n" for label, text, usage in rows))


OWN = np.random.default_rng(2).integers(0, 256, (4, 48, 48)).astype(np.uint8)
OWN_TEXTS = [" ".join(map(str, face.ravel())) for face in OWN]
OWN_ROWS = [(label, text, "Training") for label, text in enumerate(OWN_TEXTS)]


@pytest.mark.parametrize("content", [CSV.encode(), zipped({"fer2013.csv": CSV.encode()})])
def test_extra_rows_follow_as_train_in_the_order_of_their_files(workspace: Path, content: bytes) -> None:
    write("fer2013.csv", content)
    extra("b.csv", OWN_ROWS[:1])
    write(
        "extra/a.CSV",
        "\ufeffUsage, emotion, pixels\r\n\r\n" + "".join(f"Training, {i},{OWN_TEXTS[i]}\r\n" for i in (1, 2)),
    )
    rows = ingested()
    assert rows[:6] == EXPECTED
    assert rows[6:] == [
        (7 + 3, "train", "1", OWN_TEXTS[1]),  # 7: the number of the last row before
        (7 + 4, "train", "2", OWN_TEXTS[2]),
        (7 + 4 + 2, "train", "0", OWN_TEXTS[0]),
    ]
    files = pyarrow.parquet.read_table(TABLE, columns=["file"])["file"].to_pylist()[6:]
    assert files == ["data/raw/extra/a.CSV"] * 2 + ["data/raw/extra/b.csv"]
    assert json.loads((TABLE.parent / "source.json").read_text()) == {
        "data": "fer2013",
        "form": "csv",
        "rows": 6,
        "extra": [
            {"file": "data/raw/extra/a.CSV", "rows": 2, "offset": 7},
            {"file": "data/raw/extra/b.csv", "rows": 1, "offset": 11},
        ],
    }


def test_extra_rows_join_images_and_are_told(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in tree(True).items():
        write(name, content)
    extra("own.csv", OWN_ROWS)
    assert [(row, split) for row, split, *_ in ingested()[6:]] == [(row, "train") for row in range(8, 12)]
    assert capsys.readouterr().out.splitlines()[1] == "data/raw/extra: 4 rows more for training from 1 csv"


def test_without_extra_rows_nothing_differs(workspace: Path) -> None:
    def built() -> list[bytes]:
        ingest.main()
        return [path.read_bytes() for path in sorted(TABLE.parent.iterdir())]

    write("fer2013.csv", CSV)
    before = built()
    write("extra/notes.md", "none yet")
    assert built() == before
    assert json.loads(before[1]) == {"data": "fer2013", "form": "csv", "rows": 6}
    extra("own.csv", OWN_ROWS)
    assert built() != before
    (RAW / "extra" / "own.csv").unlink()
    assert built() == before


def test_extra_rows_alone_are_no_data_set(workspace: Path) -> None:
    extra("fer2013.csv", OWN_ROWS)
    assert "no FER2013 in data/raw" in complaint()


FIRST = OWN_TEXTS[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"7,{FIRST},Training", "unknown label ('7')"),
        (f"sad,{FIRST},Training", "unknown label ('sad')"),
        (f"0,{FIRST} 7,Training", "wrong count ('2305 values')"),
        ("0,,Training", "wrong count ('0 values')"),
        (f"0,{FIRST.replace(' ', ' 2', 1)}999,Training", "outside 0-255 ('"),
        (f"0,x{FIRST},Training", "not a number ('x"),
        (f"0,{'128 ' * 2304},Training", "blank image ('all pixels near 128')"),
        (f"0,{FIRST},PublicTest", "Usage is not Training ('PublicTest')"),
        (f"0,{FIRST},PrivateTest", "Usage is not Training ('PrivateTest')"),
        (f"0,{FIRST},", "unknown usage ('')"),
        (f"0,{FIRST},training", "unknown usage ('training')"),
        (f"0,{FIRST}", "wrong number of columns ('0,"),
        ("\0\x1b[2J", r"wrong number of columns ('\x00\x1b[2J')"),
    ],
)
def test_one_bad_extra_row_refuses_all(workspace: Path, line: str, words: str) -> None:
    write("fer2013.csv", CSV)
    extra("good.csv", OWN_ROWS)
    write("extra/own.csv", f"emotion,pixels,Usage\n1,{OWN_TEXTS[1]},Training\n\n{line}\n")
    told = complaint()
    assert told.startswith(f"ferflow: data/raw/extra/own.csv, row 4: {words}")
    assert told.endswith(". Extra rows are taken all or not at all: mend these or remove them")
    assert "\n" not in told and len(told) < 300


def test_the_first_bad_extra_rows_are_told_and_the_others_counted(workspace: Path) -> None:
    write("fer2013.csv", CSV)
    extra("a.csv", [*OWN_ROWS, (9, FIRST, "Training")])
    extra("b.csv", [(0, "7", "Training"), (0, FIRST, "PublicTest")] * 600)  # more than are read at once
    assert complaint() == (
        "ferflow: data/raw/extra/a.csv, row 6: unknown label ('9'); data/raw/extra/b.csv, row 2: wrong count ('1 values'); "
        "data/raw/extra/b.csv, row 3: Usage is not Training ('PublicTest'); and 1,198 more. "
        "Extra rows are taken all or not at all: mend these or remove them"
    )


def test_extra_rows_that_contradict_each_other_refuse_all(workspace: Path) -> None:
    write("fer2013.csv", CSV)
    extra("a.csv", OWN_ROWS)
    extra("b.csv", [OWN_ROWS[0], (5, OWN_TEXTS[1], "Training")])
    assert complaint() == (
        "ferflow: data/raw/extra/a.csv, row 3 and data/raw/extra/b.csv, row 3: copies of the same face with two labels. "
        "Extra rows are taken all or not at all: mend these or remove them"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "own.csv: an empty file; remove it"),
        (" \n", "own.csv: an empty file; remove it"),
        ("emotion,pixels,Usage\n\n", "own.csv: a header and no row below it; remove the file"),
        (f"emotion,pixels\n0,{FIRST}\n", "own.csv, line 1: expected the columns emotion,pixels,Usage, found"),
        (f"0,{FIRST},Training\n", "own.csv, line 1: data where the header should be"),
        ("emotion;pixels;Usage\n", "own.csv, line 1: columns are not separated by commas"),
    ],
)
def test_an_extra_file_that_is_no_table_refuses_all(workspace: Path, content: str, words: str) -> None:
    write("fer2013.csv", CSV)
    extra("good.csv", OWN_ROWS)
    write("extra/own.csv", content)
    assert f"data/raw/extra/{words}" in complaint()


def test_a_broken_extra_file_leaves_the_old_table(workspace: Path) -> None:
    write("fer2013.csv", CSV)
    ingest.main()
    before = [(path.name, path.read_bytes()) for path in sorted(TABLE.parent.iterdir())]
    (RAW / "extra").mkdir()
    (RAW / "extra" / "gone.csv").symlink_to("nowhere.csv")
    with pytest.raises(SystemExit, match=r"extra/gone.csv: no such file"):
        ingest.main()
    assert [(path.name, path.read_bytes()) for path in sorted(TABLE.parent.iterdir())] == before


def test_an_extra_row_wins_over_a_training_row_of_the_same_face_and_that_is_told(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("fer2013.csv", CSV)
    extra("a.csv", [(6, TEXTS[0], "Training"), (6, TEXTS[0], "Training"), (6, TEXTS[1], "Training")])
    ingest.main()
    parse.main()
    arrays = Path("data/arrays")
    assert np.load(arrays / "train_rows.npy").tolist() == [5, 7 + 2]
    assert np.load(arrays / "train_labels.npy").tolist() == [1, 6]
    dropped = json.loads(Path("data/quality/quality.json").read_text())["dropped_from_train"]
    assert dropped == {"in_val_or_test": 1, "copy_in_train": 0, "labels_disagree": 0, "corrected": 2}
    assert "\n2 of these for rows of extra/ that show the same face and correct its label\n" in capsys.readouterr().out


def test_extra_rows_that_copy_val_or_test_or_each_other_leave_again(workspace: Path) -> None:
    write("fer2013.csv", CSV)
    copies = [(0, TEXTS[1], "Training"), (0, TEXTS[5], "Training")]  # of a PublicTest and a PrivateTest face
    extra("a.csv", [*copies, OWN_ROWS[0], OWN_ROWS[1]])
    extra("b.csv", [OWN_ROWS[1], (6, OWN_TEXTS[2], "Training")])
    ingest.main()
    parse.main()
    arrays = Path("data/arrays")
    # lines 4 and 5 of a.csv, whose offset is 7, and line 3 of b.csv, whose offset is 7 + 5
    assert np.load(arrays / "train_rows.npy").tolist() == [2, 5, 7 + 4, 7 + 5, 12 + 3]
    assert np.load(arrays / "train_labels.npy").tolist() == [0, 1, 0, 1, 6]
    assert [np.load(arrays / f"{split}_rows.npy").tolist() for split in ("val", "test")] == [[3, 6], [4, 7]]
    dropped = json.loads(Path("data/quality/quality.json").read_text())["dropped_from_train"]
    assert dropped == {"in_val_or_test": 2, "copy_in_train": 1, "labels_disagree": 0}
