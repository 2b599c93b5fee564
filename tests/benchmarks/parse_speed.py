"""How long ingest and parse take, beside a plain read of the file and the tutorial's way of parsing it.

    python tests/benchmarks/parse_speed.py                    # data/raw/fer2013.csv; without it, made rows
    python tests/benchmarks/parse_speed.py --csv FILE
    python tests/benchmarks/parse_speed.py --rows 5000 --runs 1

Run it in the repository. Each way runs in a process of its own, one after the other, in turns; the table has the median of
the runs. On a machine that is busy with other work compare CPU seconds, not wall seconds. An interpreter's start, which is
in every line, has a line of its own.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CSV = ROOT / "data" / "raw" / "fer2013.csv"
FER2013_ROWS = 35_887
PIXELS = 48 * 48  # of a row

PLAIN_READ = """
import sys
with open(sys.argv[1], "rb", buffering=0) as file:
    block = bytearray(1 << 20)
    while file.readinto(block):
        pass
"""

# A list of ints a row, an array of each, an array of all: what most notebooks about FER2013 do.
TUTORIAL = """
import sys
import numpy as np
import pandas as pd
table = pd.read_csv(sys.argv[1])
faces = []
for pixels in table["pixels"]:
    faces.append(np.array([int(p) for p in pixels.split()]).reshape(48, 48, 1).astype("float32"))
faces = np.array(faces) / 255
"""

# The same task with ferflow's functions: all rows in memory, nothing checked for twins, nothing written.
SAME_TASK = """
import sys
from itertools import islice
from pathlib import Path
import numpy as np
from tasks.images import normalise
from tasks.pixels import PixelReader
from tasks.tables import read_csv
reader = PixelReader()
faces = []
with open(sys.argv[1], "rb", buffering=1 << 20) as file:
    rows = read_csv(file, Path(sys.argv[1]))
    while batch := list(islice(rows, 128)):
        faces.append(normalise(reader.read([row.pixels for row in batch])[0].reshape(-1, 48, 48)))
faces = np.concatenate(faces)
"""

IMPORTS = "import tasks.ingest; import tasks.parse"

WAYS = {
    "interpreter start": ["-c", ""],
    "imports of one stage": ["-c", IMPORTS],
    "plain read": ["-c", PLAIN_READ, "data/raw/fer2013.csv"],
    "tutorial": ["-c", TUTORIAL, "data/raw/fer2013.csv"],
    "same task with ferflow": ["-c", SAME_TASK, "data/raw/fer2013.csv"],
    "ingest": ["-m", "tasks.ingest"],
    "parse": ["-m", "tasks.parse"],
}


class Cost(NamedTuple):
    """What a process took."""

    cpu: float  # seconds, user and system
    wall: float  # seconds
    memory: float  # MB, the most it had at once


def measure(command: list[str], folder: Path) -> Cost:
    """Run Python with these arguments in `folder`, to its end."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:60]} failed")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss / unit)


def prepare(folder: Path, table: Path | None, rows: int) -> None:
    """Make a workspace with the csv, or with a made one of so many rows."""
    sys.path.insert(0, str(ROOT))
    from tasks.synthetic import write_made_csv

    raw = folder / "data" / "raw"
    raw.mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", folder)
    if table:
        (raw / "fer2013.csv").symlink_to(table.resolve())
    else:
        write_made_csv(folder / "made.csv", rows, seed=1)
        with (folder / "made.csv").open() as made, (raw / "fer2013.csv").open("w") as whole:
            # The tutorial's way fails at the row that is made with a pixel too few.
            whole.writelines(line for line in made if line.count(" ") != PIXELS - 2)


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=CSV, help="the real set (default: data/raw/fer2013.csv)")
    parser.add_argument("--rows", type=int, help=f"made rows instead (default without the csv: {FER2013_ROWS:,})")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    real = arguments.rows is None and arguments.csv.exists()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, arguments.csv if real else None, arguments.rows or FER2013_ROWS)
        costs: dict[str, list[Cost]] = {name: [] for name in WAYS}
        for _ in range(arguments.runs):
            for name, command in WAYS.items():
                costs[name].append(measure(command, folder))
        size = (folder / "data/raw/fer2013.csv").stat().st_size / 1e6
    medians = {name: median(each) for name, each in costs.items()}
    ingest, parse = medians["ingest"], medians["parse"]
    both = Cost(ingest.cpu + parse.cpu, ingest.wall + parse.wall, max(ingest.memory, parse.memory))
    medians["ingest + parse"] = both
    print(f"{arguments.csv if real else 'made rows'}, {size:.0f} MB; median of {arguments.runs} runs")
    print(f"{'':24}{'CPU s':>9}{'wall s':>9}{'peak MB':>9}")
    for name, cost in medians.items():
        print(f"{name:24}{cost.cpu:9.2f}{cost.wall:9.2f}{cost.memory:9.0f}")
    read, tutorial, same, start = (
        medians[name] for name in ("plain read", "tutorial", "same task with ferflow", "interpreter start")
    )
    print(f"{'':24}{'CPU':>9}{'wall':>9}")
    for name, above, below in (
        ("tutorial / same task", tutorial, same),
        ("tutorial / both stages", tutorial, both),
        ("both stages / plain read", both, read),
    ):
        print(f"{name:24}{above.cpu / below.cpu:9.1f}{above.wall / below.wall:9.1f}")
    cpu, wall = both.cpu - 2 * start.cpu, both.wall - 2 * start.wall
    print(f"both stages, beyond the interpreter's start: {cpu:.2f} s of CPU, {wall:.2f} s of wall")


if __name__ == "__main__":
    main()
