"""Videos against their own bound: frames a second for decoding, for decoding + detecting, and for `ferflow video` whole.

    python tests/benchmarks/video_speed.py                    # six minutes
    python tests/benchmarks/video_speed.py --seconds 4 --rounds 1

The videos are made here: a scene, one face photo or eight of them moving in it, as H.264 of 720p and of 1080p, 25 frames a
second. Every frame is looked at. All three ways use the same threads and the same functions, and take turns in each round. The
whole is all of it: champion, store, classification, tracks, tables, report. Then whether time and memory grow with a video's
length.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import skimage
import sklearn

from tasks.folder import label_folder
from tasks.footage import AHEAD
from tasks.label import make_settings, thread_detector
from tasks.params import Footage
from tasks.threads import cores, in_order
from tasks.videos import frames, read_video

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
FACES = (1, 8)
RATE = 25
LONGER = (10, 40)  # s, of the videos whose times and memory are compared
ROOT = Path(__file__).parents[2]


def write_clip(path, size, faces, seconds):
    """A video of a scene in which so many faces go to and fro."""
    width, height = size
    scene = cv2.resize(cv2.imread(str(Path(sklearn.__file__).parent / "datasets/images/china.jpg")), size)
    face = cv2.imread(str(Path(skimage.__file__).parent / "data/astronaut.png"))[0:230, 110:340]
    side = height // 4
    picture = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(round(seconds * RATE)):
            image = scene.copy()
            for place in range(faces):
                left = int((place % 4 + 0.5 + 0.4 * np.sin(index / 20 + place)) * (width - side) / 4)
                top = int((place // 4 + 0.3) * (height - side) / 2)
                image[top : top + side, left : left + side] = picture
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(stream.encode(None))
    return path


def detected(frame, settings):
    """The faces of a frame."""
    detector = thread_detector(settings.detector, settings.detector_options)
    return detector.detect(frame.view(detector.long_side))


def watched(path):
    """Label the video into a new output folder."""
    with tempfile.TemporaryDirectory() as out:
        return label_folder([str(path)], Path(out) / "labels", footage=Footage(every=0.0))


def compare(path, rounds):
    """Frames a second of each way: one list of rounds per way. Every other round takes the ways in reverse."""
    settings, video = make_settings(), read_video(str(path), np.inf)

    def read():
        return frames(str(path), video, 0.0)

    ways = {
        "decoding": lambda: [None for _ in read()],
        "decoding + detecting": lambda: list(in_order(partial(detected, settings=settings), read(), cores(), AHEAD)),
        "ferflow video": lambda: watched(path),
    }
    count = len(ways["decoding"]())
    speeds = {name: [] for name in ways}
    for each in range(rounds):
        for name, way in sorted(ways.items(), reverse=each % 2 == 1):
            started = time.perf_counter()
            way()
            speeds[name].append(count / (time.perf_counter() - started))
    return speeds


def print_speeds(speeds):
    """The medians of the rounds, and what share of its bound the whole reaches."""
    for name, rounds in speeds.items():
        print(f"  {name:22}{statistics.median(rounds):8.1f} frames a second")
    whole, found = np.array(speeds["ferflow video"]), np.array(speeds["decoding + detecting"])
    print(f"  the whole reaches {np.median(whole / found):.0%} of decoding + detecting")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        for name, size in SIZES.items():
            for faces in FACES:
                path = write_clip(Path(scratch) / "clip.mp4", size, faces, arguments.seconds)
                print(f"{name}, faces in each frame: {faces}; {cores()} cores:")
                print_speeds(compare(path, arguments.rounds))
        for seconds in LONGER:
            path = write_clip(Path(scratch) / "clip.mp4", SIZES["720p"], 1, seconds)
            started = time.perf_counter()
            watched(path)
            milliseconds = (time.perf_counter() - started) / (seconds * RATE) * 1000
            megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{seconds} s of 720p: {milliseconds:.1f} ms a frame, {megabytes:.0f} MB at most so far")


if __name__ == "__main__":
    main()
