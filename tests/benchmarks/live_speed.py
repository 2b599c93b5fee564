"""Live pictures at 640x480 with one face: frames a second, and how old a frame is when it is shown.

    python tests/benchmarks/live_speed.py                # one minute
    python tests/benchmarks/live_speed.py --seconds 5

Three ways: the engine on a film in real time, at 30 frames a second; the engine on frames that come as fast as they can be
decoded; and the whole program, with a viewer on the loopback address that decodes each picture. The delay is from the camera's
frame to its faces, and in the last way to the viewer's word that it has the picture; a browser adds the time to draw it.
Processor time is that of the engine or the program, all its threads together.
"""

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np
import skimage
from websockets.sync.client import connect

from tasks.cameras import open_camera
from tasks.live import Live, default_champion, live_settings
from tasks.threads import cores

ROOT = Path(__file__).parents[2]
SIZE = (640, 480)
RATE = 30  # frames a second
FACE = 240  # px, side of the photo of a face


def make_film(path, seconds):
    """A face that moves from side to side."""
    face = cv2.imread(str(Path(skimage.__file__).parent / "data/astronaut.png"))[0:230, 110:340]
    face = cv2.resize(face, (FACE, FACE))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"preset": "ultrafast"}
        for index in range(round(seconds * RATE)):
            image = np.full((SIZE[1], SIZE[0], 3), (90, 110, 100), np.uint8)
            left = round((SIZE[0] - FACE) * (0.5 + 0.5 * np.sin(index / RATE)))
            image[120 : 120 + FACE, left : left + FACE] = face
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(stream.encode(None))


def unpaced(shots):
    """Frames that are new whenever they come."""
    for shot in shots:
        yield shot._replace(due=None)


def look(shots):
    """The times at which faces were known, their delays, and the processor's seconds."""
    times, delays, number = [], [], 0
    with Live(shots, live_settings(default_champion())) as live:
        live.after(0)  # what loads at the first frame is not counted
        started = time.process_time()
        while moment := live.after(number):
            number = moment.number
            times.append(time.monotonic())
            delays.append(times[-1] - moment.time)
        return times, delays, time.process_time() - started


def view(film):
    """The same of the program, by what a viewer gets and the program says of its delay."""
    command = [sys.executable, "-m", "flows.cli", "live", "--camera", str(film), "--no-browser"]
    times, delays = [], []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        address = next(found[1] for line in process.stdout if (found := re.match(r"Page: http(\S+)", line)))
        with connect(f"ws{address}frames", proxy=None) as page:
            before = seconds_of(process.pid)
            while isinstance(message := page.recv(), bytes):
                (length,) = struct.unpack_from(">I", message)
                cv2.imdecode(np.frombuffer(message, np.uint8, offset=4 + length), cv2.IMREAD_COLOR)
                page.send("shown")
                times.append(time.monotonic())
                if delay := json.loads(message[4 : 4 + length])["delay"]:
                    delays.append(delay / 1000)
                used = seconds_of(process.pid) - before
    return times, delays, used


def seconds_of(process):
    """Processor time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15)
    seconds = parser.parse_args().seconds
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        film = Path(scratch) / "film.mp4"
        make_film(film, seconds)
        ways = {
            f"engine, {RATE} frames a second": lambda: look(open_camera(str(film))),
            "engine, as fast as they come": lambda: look(unpaced(open_camera(str(film)))),
            f"program and viewer, {RATE} a second": lambda: view(film),
        }
        print(f"{cores()} cores, {default_champion()}; frames a second, delay in ms, processor time in ms a frame")
        print(f"{'':36}{'frames':>8}{'median':>8}{'95 %':>8}{'processor':>11}")
        for name, way in ways.items():
            times, delays, used = way()
            rate = (len(times) - 1) / (times[-1] - times[0])
            median, most = np.percentile(delays, (50, 95)) * 1000
            print(f"  {name:34}{rate:8.1f}{median:8.0f}{most:8.0f}{used / len(times) * 1000:11.1f}", flush=True)


if __name__ == "__main__":
    main()
