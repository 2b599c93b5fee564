"""Who follows faces best: ferflow's tracker, plain overlap, and, where it is installed, supervision's ByteTrack.

    python tests/benchmarks/tracking.py
    pip install supervision && python tests/benchmarks/tracking.py    # in an environment of its own

People are simulated, so that it is known who is where: they walk to and fro in front of a camera, nearer and farther, hide each
other, leave and come back after some seconds (a new visit counts as a new person). Boxes tremble, one in twenty is missed, some
are of nobody. Both frame rates at which videos are looked at. Measures: IDF1 (Ristani et al. 2016, arXiv:1609.01775: the share of
boxes that have the right person's number, in the best assignment of numbers to people), the number of tracks for each
person, and how often a person's number changes.
"""

from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from tasks.faces import FaceBox
from tasks.tracks import LOST, Tracker

RATES = (25.0, 5.0)  # frames a second
SCENES, SECONDS, PEOPLE = 20, 30.0, 4
WIDTH, HEIGHT = 1280, 720
MISSED, FALSE = 0.05, 0.02  # of boxes; of frames, in which there is a box of nobody
JITTER = 0.03  # of a side
HIDDEN = 0.5  # of a face that is covered by a nearer one: then it is not found


class Person:
    """Walks on smooth random paths and goes away now and then."""

    def __init__(self, random):
        self.speed = random.uniform(0.03, 0.2, 3)  # rounds a second
        self.phase = random.uniform(0, 2 * np.pi, 3)
        self.pause = random.uniform(8, 14)
        self.late = random.uniform(0, 8)

    def box(self, time):
        """Centre and side in px, and the number of the visit; None while away."""
        visit, since = divmod(time + self.late, self.pause)
        if since > self.pause - 2.5:
            return None
        x, y, near = np.sin(2 * np.pi * self.speed * time + self.phase)
        side = 90 * 1.8**near
        return WIDTH / 2 + x * (WIDTH / 2 - side), HEIGHT / 2 + 0.3 * y * HEIGHT, side, int(visit)


def frames_of(random, rate):
    """For each frame: its time, the boxes found, and whose each is (None: nobody's)."""
    people = [Person(random) for _ in range(PEOPLE)]
    for index in range(round(SECONDS * rate)):
        time = index / rate
        there = [(number, each) for number, person in enumerate(people) if (each := person.box(time))]
        found = []
        for number, (x, y, side, visit) in there:
            covered = any(
                other[2] > side and abs(other[0] - x) < HIDDEN * side and abs(other[1] - y) < HIDDEN * side
                for who, other in there
                if who != number
            )
            if not covered and random.random() > MISSED:
                noise = random.normal(0, JITTER, 3)
                found.append((face(x + noise[0] * side, y + noise[1] * side, side * np.exp(noise[2])), (number, visit)))
        if random.random() < FALSE:
            found.append((face(random.uniform(0, WIDTH), random.uniform(0, HEIGHT), random.uniform(30, 90)), None))
        random.shuffle(found)
        yield time, [box for box, _ in found], [who for _, who in found]


def face(x, y, side):
    """A detector's box; rounded, as labelling rounds them."""
    return FaceBox(round(x - side / 2), round(y - 0.6 * side), round(side), round(1.2 * side), 0.9)


def ferflows(rate):
    """tasks/tracks.py."""
    return Tracker().update


def overlap(rate):
    """The best assignment by intersection over union with the last box, 0.3 at least; no motion model."""
    tracks, count = {}, 0

    def update(time, boxes):
        nonlocal tracks, count
        tracks = {number: (seen, box) for number, (seen, box) in tracks.items() if time - seen <= LOST}
        names = list(tracks)
        shared = np.array([[intersection_over_union(box, tracks[name][1]) for name in names] for box in boxes])
        shared = shared.reshape(len(boxes), len(names))
        best = {
            row: names[column]
            for row, column in zip(*linear_sum_assignment(-shared), strict=True)
            if shared[row, column] >= 0.3
        }
        numbers = []
        for row, box in enumerate(boxes):
            if row not in best:
                count += 1
            numbers.append(best.get(row, count))
            tracks[numbers[-1]] = time, box
        return numbers

    return update


def intersection_over_union(a, b):
    """Of two boxes."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(0, across) * max(0, down)
    return shared / (a.width * a.height + b.width * b.height - shared)


def byte_track(rate):
    """supervision's, which gives new tracks no number before their second frame; those boxes count as nobody's."""
    import supervision

    tracker = supervision.ByteTrack(frame_rate=round(rate), lost_track_buffer=round(30 * LOST))

    def update(time, boxes):
        corners = np.array([[b.x, b.y, b.x + b.width, b.y + b.height] for b in boxes], np.float32).reshape(-1, 4)
        detections = supervision.Detections(
            corners,
            confidence=np.full(len(boxes), 0.9, np.float32),
            class_id=np.zeros(len(boxes), int),
            data={"row": np.arange(len(boxes))},
        )
        tracked = tracker.update_with_detections(detections)
        numbers = dict(zip(tracked.data.get("row", []), tracked.tracker_id, strict=True))
        return [int(numbers.get(row, -1)) for row in range(len(boxes))]

    return update


def measure(make, rate):
    """IDF1, tracks a person, and changes of number a person and minute."""
    shares, tracks, changes, minutes = [], [], 0, 0.0
    for scene in range(SCENES):
        update = make(rate)
        told, people = [], []
        for time, boxes, owners in frames_of(np.random.default_rng(scene), rate):
            told += update(time, boxes)
            people += owners
        names, numbers = sorted({who for who in people if who}), sorted({number for number in told if number >= 0})
        together = np.zeros((len(names), len(numbers)))
        of = {who: [] for who in names}
        for who, number in zip(people, told, strict=True):
            if who and number >= 0:
                together[names.index(who), numbers.index(number)] += 1
                of[who].append(number)
        right = together[linear_sum_assignment(-together)].sum()
        shares.append(2 * right / (sum(who is not None for who in people) + sum(number >= 0 for number in told)))
        tracks += [len(set(each)) for each in of.values()]
        changes += sum(before != after for each in of.values() for before, after in pairwise(each))
        minutes += len(people) / rate / 60
    return np.mean(shares), np.mean(tracks), changes / minutes


def main():
    """Measure and print."""
    ways = {"ferflow": ferflows, "overlap alone": overlap}
    try:
        import supervision  # noqa: F401

        ways["ByteTrack (supervision)"] = byte_track
    except ImportError:
        print("supervision is not installed: ByteTrack is left out")
    for rate in RATES:
        print(f"{rate:g} frames a second:     IDF1   tracks a person   changes a person and minute")
        for name, make in ways.items():
            share, tracks, changes = measure(make, rate)
            print(f"  {name:24} {share:.3f}   {tracks:15.2f}   {changes:27.2f}")


if __name__ == "__main__":
    main()
