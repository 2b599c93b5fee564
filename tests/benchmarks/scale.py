"""How labelling scales: small images and photos, by the command line, and by the flow on threads and on Dask workers.

    python tests/benchmarks/scale.py                                    # 100,000 images and 10,000 photos; about 45 minutes
    python tests/benchmarks/scale.py --images 2000 --photos 100

Each way labels the same folders, with a new output folder, in a process of its own: few files, then a quarter, half and all of
them, the ways in turns. What few files take is start-up, and taken off the others; an overhead is what a way takes more than the
command line with as many workers, in time and in CPU time, which other programs change less. The flow has a Prefect server of
its own, started before, on the same cores. Memory is that of a process and of all it started, summed up, so what they
share counts several times.

Then what one process does for all workers: a second run with nothing new (listing, tables, page), storing results, giving
shards to Dask. From these it prints what ten million photos take. The rows are written to scale.csv beside this file. All of it
is without mirror images (label.mirror), which take as much of the network again.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))  # of the tests' Prefect server

from conftest import kill
from label_speed import make_photo
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect_server import Server, wait_until

from flows.crew import crew
from flows.shards import AN_IMAGE, LARGEST, Shard
from tasks.expressions import EXPRESSIONS
from tasks.folder import Job
from tasks.label import label_images
from tasks.params import Label
from tasks.synthetic import draw_face

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_suffix(".csv")
CODE = "import sys; from flows.label import label_photos; \
label_photos([sys.argv[1]], sys.argv[2], options={'mirror': False}, cluster=(*sys.argv, None)[3])"
FLOW = [sys.executable, "-c", CODE]
LABEL = [sys.executable, "-m", "flows.cli", "label", "--no-mirror"]
WAYS = {  # before, between and behind the names of the two folders
    "ferflow label, 1 worker": ([*LABEL, "--workers", "1"], ["--out"], []),
    "ferflow label, 2 workers": ([*LABEL, "--workers", "2"], ["--out"], []),
    "flow, threads": (FLOW, [], []),
    "flow, local:1": (FLOW, [], ["local:1"]),
    "flow, local:2": (FLOW, [], ["local:2"]),
}
PLAIN = {way: f"ferflow label, {1 if '1' in way else 2} worker{'' if '1' in way else 's'}" for way in WAYS}
FEW = 8  # files
DIFFERENT = 500  # files of a kind; more names are links to them
STORED, GIVEN = 2000, 30  # results, and shards, by which one process's own work is measured
MANY = 10_000_000  # photos
MACHINES, CORES = (1, 10, 100), 2
AGAIN, STORING, GIVING = "again, with nothing new", "storing", "a shard to Dask and back"
FIELDS = ["kind", "way", "files", "seconds", "start", "ms_per_file", "cpu_ms_per_file", "megabytes"]


def make_folder(folder, count, make):
    """`count` names for DIFFERENT files of what `make` answers to a number."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number < DIFFERENT:
            path.write_bytes(make(number))
        else:
            os.link(folder / f"{number % DIFFERENT:06}.jpg", path)
    return folder


def small(number):
    """A drawn face of 48x48 px, as JPEG."""
    face = draw_face(EXPRESSIONS[number % len(EXPRESSIONS)], np.random.default_rng(number))
    return cv2.imencode(".jpg", face)[1].tobytes()


def photo(number):
    """A scene of 1080p with one face."""
    return make_photo(1920, 1080, np.random.default_rng(number))


def run(command, environment):
    """Seconds, CPU seconds and most megabytes of a program with all it starts."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watched, most, ended = psutil.Process(process.pid), 0.0, 0
    while not ended:
        most = max(most, memory(watched))
        time.sleep(0.1)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    assert status == 0, command
    return np.array([time.perf_counter() - started, usage.ru_utime + usage.ru_stime, most / 1e6])


def memory(process):
    """Bytes that it and its descendants hold now."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    return total


def measure(kind, folders, scratch, environment):
    """A row for each way and folder; the smallest folder gives the start-up."""
    starts = {}
    for folder in folders:
        count = len(list(folder.iterdir()))
        for way, (before, between, behind) in WAYS.items():
            out = scratch / f"{folder.name}-{way}".replace(" ", "-")
            command = [*before, str(folder), *between, str(out), *behind]
            for name in (way, AGAIN) if way == "ferflow label, 2 workers" else (way,):
                taken = run(command, environment)
                if name in starts:
                    yield row(kind, name, count, taken, starts[name])
                else:
                    starts[name] = taken


def row(kind, way, count, taken, start=(0, 0, 0)):
    """A row of scale.csv, of what `run` says of the whole and of the start."""
    each, each_cpu = (1e3 * (np.array(taken) - start) / count)[:2]
    print(f"{kind:8}{way:26}{count:>8,} files, each {each:8.2f} ms, {each_cpu:8.2f} ms CPU; ", end="")
    print(f"start {start[0]:5.1f} s; {taken[2]:5.0f} MB", flush=True)
    values = (
        kind,
        way,
        count,
        round(taken[0], 2),
        round(start[0], 2),
        round(each, 3),
        round(each_cpu, 3),
        round(taken[2]),
    )
    return dict(zip(FIELDS, values, strict=True))


def timed(work):
    """Seconds and CPU seconds of work in this process."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu, 0


def stored(folder, scratch):
    """Storing results, as they come from shards."""
    with closing(Job([str(folder)], scratch / "stored", Label(mirror=False))) as job:
        results = list(label_images(islice(job.files(), STORED), job.settings, 2))
        return row("photos", STORING, len(results), timed(lambda: job.add(results)))


@task
def nothing(shard):
    """In the place of label_shard."""
    return []


@flow
def given(folder, scratch):
    """Giving shards to a Dask worker that does nothing with them, of as many photos as they have at most."""
    with closing(Job([str(folder)], scratch / "given", Label(mirror=False))) as job, crew("local:1") as workers:
        files = list(job.files())
        each = round(LARGEST / (AN_IMAGE + sum(file.size for file in files) / len(files)))
        shard = Shard([files[number % len(files)] for number in range(each)], job.settings)

        def give(count):
            for _ in range(count):
                workers.give(shard, nothing)
                workers.take()

        give(1)
        return row("photos", GIVING, GIVEN * each, timed(lambda: give(GIVEN)))


def overheads(rows):
    """What each way takes more than the command line, of the largest folder."""
    for kind in ("images", "photos"):
        largest = {each["way"]: each for each in rows if each["kind"] == kind}
        for way, plain in PLAIN.items():
            wall, cpu = (largest[way][name] / largest[plain][name] - 1 for name in ("ms_per_file", "cpu_ms_per_file"))
            if way != plain:
                print(f"{kind}: {way} takes {wall:+.1%} of the time and {cpu:+.1%} of the CPU of {plain}")


def ten_million(rows):
    """Hours for MANY photos, by CPU time: the workers' part, and what one process does meanwhile and in the end."""
    hours = {each["way"]: MANY * each["cpu_ms_per_file"] / 3.6e6 for each in rows if each["kind"] == "photos"}
    meanwhile, end = hours[STORING] + hours[GIVING], hours[AGAIN]
    work = hours["ferflow label, 1 worker"] - hours[STORING] - end
    print(
        f"{MANY:,} photos: {work:.1f} core hours of labelling; storing and giving {meanwhile:.2f} h, at the end {end:.2f} h"
    )
    for machines in MACHINES:
        workers = work / (machines * CORES)
        took = max(workers, meanwhile) + end
        print(f"{machines:>4} machines of {CORES} cores: {took:.1f} h, {took * machines:,.0f} machine hours")


def main():
    """Measure, print, and write scale.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--photos", type=int, default=10_000)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "home").mkdir()
        server = Server(scratch / "home")
        process = server.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(server.port))
        try:
            wait_until(server.healthy, process)
            environment = (
                os.environ | server.environment | {"PYTHONPATH": str(ROOT), "PREFECT_LOGGING_LEVEL": "WARNING"}
            )
            rows = []
            for kind, count, make in (("images", arguments.images, small), ("photos", arguments.photos, photo)):
                sizes = (FEW, count // 4, count // 2, count)
                folders = [make_folder(scratch / f"{kind}-{part}", size, make) for part, size in enumerate(sizes)]
                rows += measure(kind, folders, scratch, environment)
            rows.append(stored(folders[-1], scratch))
            with temporary_settings({PREFECT_API_URL: server.url, PREFECT_HOME: server.folder}):
                rows.append(given(folders[-1], scratch))
        finally:
            kill(process)
    overheads(rows)
    ten_million(rows)
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
