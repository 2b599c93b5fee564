"""Labelling against its own bound: images a second for decoding, for decoding + detecting, and for labelling whole.

    python tests/benchmarks/label_speed.py                    # four minutes
    python tests/benchmarks/label_speed.py --images 100 --rounds 1
    python tests/benchmarks/label_speed.py --growing          # also 1,000 to 100,000 small images; ten minutes more

The photos are made here: a scene, a face photo in it, noise over both, as JPEGs of 1080p and of 12 megapixels. All three ways
use the same threads and the same functions, take turns in each round, and read files that are in the system's cache.
Labelling is all of it: champion, store, classification, tables, report; with mirror images, as it does by default, and
without. Then the time of one photo by the command line,
start-up included, and what one more small image costs in memory and time.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import skimage
import sklearn

from tasks.champion import load
from tasks.folder import label_folder
from tasks.label import BATCH, classify, make_settings, thread_detector
from tasks.params import Label
from tasks.photos import decode, read_header
from tasks.threads import cores, in_order

SIZES = {"1080p": (1920, 1080), "12 megapixels": (4000, 3000)}
GROWING = (1_000, 10_000, 100_000)
DIFFERENT = 40  # photos of a kind; more names are links to them
ROOT = Path(__file__).parents[2]


def make_photo(width, height, random):
    """A JPEG of a scene with one face of a tenth to a third of its height."""
    scene = cv2.imread(str(Path(sklearn.__file__).parent / "datasets/images/china.jpg"))
    face = cv2.imread(str(Path(skimage.__file__).parent / "data/astronaut.png"))[30:230, 120:320]
    photo = cv2.resize(scene, (width, height), interpolation=cv2.INTER_CUBIC)
    side = int(height * random.uniform(0.15, 0.5))
    left, top = (int(random.integers(0, most - side)) for most in (width, height))
    photo[top : top + side, left : left + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    noise = random.normal(0, 4, (height, width, 1))
    photo = np.clip(photo + noise, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def make_folder(folder, count, width, height):
    """`count` names for DIFFERENT photos."""
    random = np.random.default_rng(7)
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number < DIFFERENT:
            path.write_bytes(make_photo(width, height, random))
        else:
            os.link(folder / f"{number % DIFFERENT:06}.jpg", path)
    return sorted(folder.iterdir())


def decoded(path, settings):
    """What labelling decodes to look for faces."""
    content = path.read_bytes()
    return decode(content, read_header(content, settings.max_megapixels * 1e6), detector(settings).long_side)


def detected(path, settings):
    """Its faces."""
    return detector(settings).detect(decoded(path, settings))


def detector(settings):
    """This thread's."""
    return thread_detector(settings.detector, settings.detector_options)


def on_threads(work, paths):
    """Work through the paths."""
    for _ in in_order(work, paths, cores()):
        pass


def labelled(folder, mirror=True):
    """Label the folder into a new output folder."""
    with tempfile.TemporaryDirectory() as out:
        return label_folder([str(folder)], Path(out) / "labels", Label(mirror=mirror))


def classified(_, faces, champion):
    """The network alone, on a batch of faces and their mirror images."""
    return classify(faces, champion, mirror=True)


def compare(folder, paths, rounds):
    """Images a second of each way: one list of rounds per way. Every other round takes the ways in reverse."""
    settings = make_settings()
    batch = np.random.default_rng(7).integers(0, 256, (BATCH, 48, 48), dtype=np.uint8)
    network = partial(classified, faces=batch, champion=load(threads=1))
    ways = {
        "decoding": lambda: on_threads(partial(decoded, settings=settings), paths),
        "decoding + detecting": lambda: on_threads(partial(detected, settings=settings), paths),
        "network, one face": lambda: on_threads(network, range(len(paths) // BATCH)),
        "labelling": lambda: labelled(folder),
        "without mirror images": lambda: labelled(folder, mirror=False),
    }
    speeds = {name: [] for name in ways}
    for each in range(rounds):
        for name, way in sorted(ways.items(), reverse=each % 2 == 1):
            started = time.perf_counter()
            way()
            speeds[name].append(len(paths) / (time.perf_counter() - started))
    return speeds


def print_speeds(speeds):
    """The medians of the rounds, and what share of its bound labelling reaches."""
    for name, rounds in speeds.items():
        print(f"  {name:22}{statistics.median(rounds):8.1f} images a second")
    whole, found, network = (np.array(speeds[n]) for n in ("labelling", "decoding + detecting", "network, one face"))
    print(f"  mirror images take {1 - np.median(whole / speeds['without mirror images']):.0%} of labelling's speed")
    print(f"  labelling reaches {np.median(whole / found):.0%} of decoding + detecting", end="")
    print(f", and {np.median(whole * (1 / found + 1 / network)):.0%} of these and the network together")


def run_command(source, out):
    """Seconds and peak megabytes of `ferflow label` in a process of its own."""
    command = [sys.executable, "-m", "flows.cli", "label", str(source), "--out", str(out)]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--growing", action="store_true")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        for name, (width, height) in SIZES.items():
            folder = Path(scratch) / name.replace(" ", "-")
            paths = make_folder(folder, arguments.images, width, height)
            speeds = compare(folder, paths, arguments.rounds)
            print(f"{name}, {paths[0].stat().st_size / 1e6:.1f} MB a photo, {cores()} cores:")
            print_speeds(speeds)
        one = [run_command(paths[0], Path(scratch) / f"one-{run}")[0] for run in range(5)]
        print(f"one 12-megapixel photo by the command line: {statistics.median(one):.2f} s")
        if arguments.growing:
            for count in GROWING:
                folder = Path(scratch) / str(count)
                make_folder(folder, count, 96, 96)
                out = Path(scratch) / f"{count}-labels"
                seconds, megabytes = run_command(folder, out)
                print(
                    f"{count:>7,} small images: {seconds / count * 1000:.2f} ms an image, {megabytes:.0f} MB at most",
                    end="",
                )
                print(f"; again, with nothing new: {run_command(folder, out)[0]:.1f} s")
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
