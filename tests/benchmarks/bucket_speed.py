"""Photos in a bucket: images a second by the number of requests at once.

    python tests/benchmarks/bucket_speed.py                # some minutes
    python tests/benchmarks/bucket_speed.py --images 64 --delay 0.1

An S3 server in a process of its own waits before it sends an object, as one does that is far away. Every number of readers
labels the same photos (1080p, made by label_speed.py) with as many threads as there are cores; nothing is kept.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from label_speed import DIFFERENT, make_photo
from s3 import environment
from s3_network import BUCKET, serving

from tasks import label
from tasks.sources import find_images
from tasks.threads import cores

READERS = (2, 4, 8, 16, 32)


def serve(images, delay, answers, done):
    """The server with its photos; tells its address, then waits until it is done."""
    random = np.random.default_rng(7)
    photos = [make_photo(1920, 1080, random) for _ in range(min(images, DIFFERENT))]
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch) / "log.txt") as bucket:
        for number in range(images):
            bucket.put(f"photos/{number:06}.jpg", photos[number % len(photos)])
        bucket.proxy.delay = delay
        answers.put(bucket.proxy.url)
        done.wait()


def measure(source, settings, images):
    """Images a second, and the CPU time of this process in ms an image."""
    began, cpu = time.perf_counter(), time.process_time()
    results = list(label.label_images(find_images([source], Path("nowhere")), settings, cores()))
    seconds, busy = time.perf_counter() - began, time.process_time() - cpu
    assert [result.status for result in results if result.status not in ("ok", "no_face")] == []
    assert len(results) == images
    return images / seconds, 1000 * busy / images


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds before each object")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    answers, done = context.Queue(), context.Event()
    server = context.Process(target=serve, args=(given.images, given.delay, answers, done))
    server.start()
    os.environ.update(environment(answers.get()))
    settings = label.make_settings()
    print(f"{given.images} photos of 1080p, {given.delay:g} s before each object, {cores()} cores")
    for readers in READERS:
        label.READERS = max(1, readers // cores())
        speed, busy = measure(f"s3://{BUCKET}/photos", settings, given.images)
        print(f"{label.READERS * cores():3} readers: {speed:5.1f} images a second, {busy:5.1f} ms of CPU an image")
    done.set()
    server.join()


if __name__ == "__main__":
    main()
