"""Faces keep their numbers from frame to frame, and their expressions do not flicker."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.faces import FaceBox
from tasks.tracks import ACCELERATION, GROWTH, JITTER, LOST, Place, Seen, Tracker, _Track, out_of_sight, smoothed

RATES = [25.0, 5.0]  # frames a second


def box(x, y, side=60.0):
    return FaceBox(x - side / 2, y - side / 2, side, side * 1.2, 0.9)


def follow(scene, seconds, rate):
    """The numbers that each of a scene's people has had, by name; a scene tells who is where at a time."""
    tracker, numbers = Tracker(), {}
    for index in range(round(seconds * rate)):
        time = index / rate
        seen = scene(time)
        for name, track in zip(seen, tracker.update(time, list(seen.values())), strict=True):
            numbers.setdefault(name, []).append(track)
    return {name: list(dict.fromkeys(tracks)) for name, tracks in numbers.items()}


@pytest.mark.parametrize("rate", RATES)
def test_two_people_who_cross(rate):
    def scene(time):
        return {"a": box(100 + 150 * time, 200), "b": box(700 - 150 * time, 215)}

    assert follow(scene, 4.0, rate) == {"a": [1], "b": [2]}


@pytest.mark.parametrize("rate", RATES)
def test_one_hidden_while_they_cross(rate):
    def scene(time):
        hidden = abs(time - 2.0) < 0.25
        return {"a": box(100 + 150 * time, 200)} | ({} if hidden else {"b": box(700 - 150 * time, 200)})

    assert follow(scene, 4.0, rate) == {"a": [1], "b": [2]}


@pytest.mark.parametrize(("away", "numbers"), [(0.6 * LOST, [1]), (1.5 * LOST, [1, 2])])
def test_who_is_away_for_long_is_a_new_track(away, numbers):
    def scene(time):
        return {} if 1.0 < time < 1.0 + away else {"a": box(300, 200)}

    assert follow(scene, 4.0, 10.0) == {"a": numbers}


@pytest.mark.parametrize("every", [1.001, 2.0, 10.0])
def test_who_is_looked_for_seldom_is_still_the_same(every):
    tracker = Tracker(out_of_sight(every))
    assert [tracker.update(index * every, [box(300, 200)]) for index in range(4)] == 4 * [[1]]


def test_a_face_far_away_or_of_another_size_is_somebody_else():
    tracker = Tracker()
    assert tracker.update(0.0, [box(100, 100)]) == [1]
    assert tracker.update(0.04, [box(400, 100)]) == [2]
    assert tracker.update(0.08, [box(100, 100, 200)]) == [3]
    assert tracker.update(0.12, [box(400, 100), box(100, 100), box(101, 100, 200)]) == [2, 1, 3]


@pytest.mark.parametrize("rate", RATES)
def test_walking_towards_the_camera(rate):
    assert follow(lambda time: {"a": box(300, 200, 30 * 1.5**time)}, 5.0, rate) == {"a": [1]}


def test_boxes_that_tremble():
    rng = np.random.default_rng(3)

    def scene(time):
        return {
            name: box(x + rng.normal(0, 3), 200 + rng.normal(0, 3), 60 * np.exp(rng.normal(0, 0.05)))
            for name, x in (("a", 100 + 40 * time), ("b", 190 + 40 * time))
        }

    assert follow(scene, 10.0, 25.0) == {"a": [1], "b": [2]}


boxes = st.builds(box, st.floats(0, 2000), st.floats(0, 2000), st.floats(8, 500))


@given(st.lists(st.lists(boxes, max_size=6), max_size=12), st.floats(0.01, 3.0))
def test_no_number_twice_in_a_frame_and_none_left_out(frames, step):
    tracker, known = Tracker(), 0
    for index, seen in enumerate(frames):
        numbers = tracker.update(index * step, seen)
        assert len(numbers) == len(seen) == len(set(numbers))
        new = sorted(number for number in numbers if number > known)
        assert new == list(range(known + 1, known + 1 + len(new)))
        known += len(new)


def test_a_tracks_motion_is_a_kalman_filters():
    """The same numbers as OpenCV's filter gives, for a face that moves as it likes and is looked at irregularly."""
    rng = np.random.default_rng(5)
    times = np.cumsum(rng.uniform(0.02, 0.5, 40))
    seen = np.array([300, 200, 4]) + np.cumsum(rng.normal(0, [8, 5, 0.03], (40, 3)), axis=0)
    track = _Track(1, times[0], Place(*seen[0]))
    reference = cv2.KalmanFilter(5, 3, 0, cv2.CV_64F)
    reference.measurementMatrix = np.eye(3, 5)
    reference.statePost = np.array([*seen[0], 0, 0])[:, np.newaxis]
    side = np.exp(seen[0, 2])
    reference.errorCovPost = np.diag([JITTER * side, JITTER * side, JITTER, side, side]) ** 2
    for before, time, place in zip(times, times[1:], seen[1:], strict=False):
        step, side = time - before, np.exp(place[2])
        push = np.zeros((5, 5))
        for axis in (0, 1):
            moved = np.outer([step**2 / 2, step], [step**2 / 2, step]) * (ACCELERATION * side) ** 2
            push[np.ix_([axis, axis + 3], [axis, axis + 3])] = moved
        push[2, 2] = (GROWTH * step) ** 2
        reference.transitionMatrix = np.eye(5) + step * np.eye(5, k=3)
        reference.processNoiseCov = push
        reference.measurementNoiseCov = np.diag([JITTER * side, JITTER * side, JITTER]) ** 2
        np.testing.assert_allclose(track.expected(time), reference.predict()[:3, 0])
        reference.correct(place[:, np.newaxis])
        track.see(time, Place(*place))
        np.testing.assert_allclose(track.expected(time), reference.statePost[:3, 0])


def random_frames(count, rate=10.0, tracks=3):
    rng = np.random.default_rng(0)
    for index in range(count):
        present = [int(track) for track in range(tracks) if rng.random() < 0.7]
        yield Seen(index / rate, present, rng.dirichlet(np.ones(7), len(present)))


def test_smoothing_is_the_weighted_mean_of_the_same_track():
    frames = list(random_frames(60))
    for frame, rows in zip(frames, smoothed(iter(frames), 0.31), strict=True):
        for track, row in zip(frame.tracks, rows, strict=True):
            near = [other for other in frames if track in other.tracks and abs(other.time - frame.time) <= 0.93]
            weights = np.exp(-((np.array([other.time for other in near]) - frame.time) ** 2) / 2 / 0.31**2)
            expected = (
                weights @ np.stack([other.probabilities[other.tracks.index(track)] for other in near]) / weights.sum()
            )
            np.testing.assert_allclose(row, expected, atol=1e-3)
        np.testing.assert_allclose(rows.sum(axis=1), 1)


def test_smoothing_answers_for_faces_that_the_network_was_not_asked_about():
    frames = list(random_frames(60))
    asked = [frame if index % 2 else unanswered(frame) for index, frame in enumerate(frames)]
    answered = [frame for frame in frames[1::2] if frame.tracks]
    for frame, rows in zip(frames, smoothed(iter(asked), 0.31), strict=True):
        for track, row in zip(frame.tracks, rows, strict=True):
            near = [other for other in answered if track in other.tracks and abs(other.time - frame.time) <= 0.93]
            weights = np.exp(-((np.array([other.time for other in near]) - frame.time) ** 2) / 2 / 0.31**2)
            answers = np.stack([other.probabilities[other.tracks.index(track)] for other in near])
            np.testing.assert_allclose(row, weights @ answers / weights.sum(), atol=1e-3)


def unanswered(frame):
    return frame._replace(probabilities=np.full_like(frame.probabilities, np.nan))


def test_smoothing_over_no_time_changes_nothing():
    frames = list(random_frames(9))
    assert all(
        np.array_equal(rows, frame.probabilities) for frame, rows in zip(frames, smoothed(frames, 0.0), strict=True)
    )


def test_smoothing_reads_no_further_ahead_than_it_must():
    read = []

    def frames():
        for frame in random_frames(500):
            read.append(frame.time)
            yield frame

    for index, _ in enumerate(smoothed(frames(), 0.3)):
        assert read[-1] <= index / 10 + 0.9 + 0.2 or index / 10 > 48


def test_labels_do_not_flicker():
    """Two expressions that are about as likely: their order changes with each frame, but not once smoothed."""
    rng = np.random.default_rng(1)
    happy = np.array([0.02, 0.02, 0.02, 0.5, 0.02, 0.02, 0.4])
    frames = [Seen(index / 10, [1], np.maximum(happy + rng.normal(0, 0.08, 7), 0)[np.newaxis]) for index in range(300)]

    def changes(rows):
        labels = [int(row[0].argmax()) for row in rows]
        return sum(before != after for before, after in pairwise(labels))

    assert changes([frame.probabilities for frame in frames]) > 40
    assert changes(list(smoothed(frames, 0.4))) < 10
