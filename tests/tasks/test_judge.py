"""Two champions on the same faces, and what the gate makes of it."""

import json
import shutil
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import CHAMPION, ROOT
from hypothesis import given
from hypothesis import strategies as st

from tasks import champion
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.judge import Comparison, Side, bootstrap, compare, confusion, decide, mcnemar, recalls
from tasks.params import Gate, load

GATE = Gate()
counts = st.integers(0, 300)
shares = st.floats(0, 1)


def side(accuracy: float = 0.6, recall: float = 0.5, megabytes: float = 5.0, milliseconds: float = 1.0) -> Side:
    return Side("some", accuracy, dict.fromkeys(EXPRESSIONS, recall), megabytes, milliseconds, ())


def comparison(one: Side, other: Side, only_one: int = 90, only_other: int = 30, faces: int = 1000) -> Comparison:
    p, interval = mcnemar(only_one, only_other), bootstrap(only_one, only_other, faces)
    return Comparison(one, other, faces, (only_one - only_other) / faces, only_one, only_other, p, interval)


@pytest.mark.parametrize(
    ("only_one", "only_other", "p"),
    [
        (0, 0, Fraction(1)),
        (5, 5, Fraction(1)),
        (1, 0, Fraction(1)),
        (0, 5, Fraction(2, 32)),
        (10, 2, Fraction(2 * (1 + 12 + 66), 4096)),
        (3, 1, Fraction(2 * (1 + 4), 16)),
    ],
)
def test_mcnemar_by_hand(only_one: int, only_other: int, p: Fraction) -> None:
    assert mcnemar(only_one, only_other) == pytest.approx(float(p))


@given(counts, counts)
def test_mcnemar_takes_no_side_and_is_twice_the_tail_of_a_coin(only_one: int, only_other: int) -> None:
    p, total = mcnemar(only_one, only_other), only_one + only_other
    assert p == mcnemar(only_other, only_one)
    tail = sum(comb(total, k) for k in range(min(only_one, only_other) + 1))
    assert p == pytest.approx(min(1.0, float(Fraction(2 * tail, 2**total))))


def test_the_interval_is_that_of_resampled_faces() -> None:
    """The same by drawing faces one by one, and by the normal approximation."""
    low, high = bootstrap(60, 30, 1000)
    assert (low, high) == bootstrap(60, 30, 1000)
    each = np.repeat([1, -1, 0], [60, 30, 910])
    drawn = np.random.default_rng(0).choice(each, (4000, 1000)).mean(axis=1)
    np.testing.assert_allclose((low, high), np.quantile(drawn, [0.025, 0.975]), atol=0.002)
    np.testing.assert_allclose((low, high), 0.03 + 1.96 * each.std() / np.sqrt(1000) * np.array([-1, 1]), atol=0.002)
    assert bootstrap(0, 0, 10) == (0.0, 0.0)


def test_recall_leaves_out_what_no_face_shows() -> None:
    answers, labels = np.array([0, 0, 3, 3]), np.array([0, 1, 3, 0])
    assert recalls(answers, labels) == {"angry": 0.5, "disgust": 0.0, "happy": 1.0}


def test_confusion_counts_labels_by_answers() -> None:
    counts = confusion(np.array([0, 0, 3, 3, 6]), np.array([0, 1, 3, 0, 6]))
    found = {(row, column): count for row, line in enumerate(counts) for column, count in enumerate(line) if count}
    assert found == {(0, 0): 1, (1, 0): 1, (3, 3): 1, (0, 3): 1, (6, 6): 1}
    assert {len(counts), *map(len, counts)} == {7}


def test_a_better_one_is_promoted() -> None:
    decision = decide(comparison(side(0.66), side(0.60)), GATE)
    assert decision.promote
    assert decision.reasons[0].startswith(
        "some is right on 66.0% of 1,000 faces, some on 60.0%: a difference of +6.00 points"
    )
    assert decision.reasons[1].startswith("A gain of +6.00 points is at least gate.min_gain (+0.50)")


@pytest.mark.parametrize(
    ("one", "only_one", "words"),
    [
        (side(), 34, "A difference of +0.40 points is less than gate.min_gain (+0.50)."),
        (side(), 20, "A difference of -1.00 points is less than gate.min_gain (+0.50)."),
        (side(), 36, "A gain of +0.60 points may be chance: p = 0.54 is more than gate.max_p (0.1)."),
        (
            side(recall=0.46),
            90,
            "Recall of disgust falls from 50.0% to 46.0%, by more than gate.max_class_drop (3.0 points).",
        ),
        (side(megabytes=20.5), 90, "Its folder has 20.5 MB, more than gate.max_megabytes (20)."),
        (
            side(milliseconds=1.6),
            90,
            "It takes 1.60 ms a face, 1.60 times the champion's 1.00 ms: more than gate.max_slowdown (1.5).",
        ),
    ],
)
def test_a_refusal_says_which_limit_and_by_how_much(one: Side, only_one: int, words: str) -> None:
    decision = decide(comparison(one, side(), only_one), GATE)
    assert not decision.promote
    assert words in decision.reasons


def test_the_gate_of_params_yaml_has_the_defaults_and_may_be_left_out(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert load(ROOT / "params.yaml").gate == GATE
    content = yaml.safe_load(text)
    del content["gate"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert load(tmp_path / "params.yaml").gate == GATE
    (tmp_path / "params.yaml").write_text(text.replace("min_gain:", "min_gian:"))
    with pytest.raises(UserError, match=r"unknown key gate\.min_gian; did you mean 'min_gain'"):
        load(tmp_path / "params.yaml")


def test_a_limit_may_be_reached() -> None:
    at_limit = side(recall=0.47, megabytes=20.0, milliseconds=1.5)
    assert decide(comparison(at_limit, side()), GATE).promote
    assert decide(comparison(side(), side(), 5, 0), GATE).promote


def test_newer_data_makes_up_for_a_missing_gain_and_for_nothing_else() -> None:
    equal, worse = comparison(side(), side(), 30), comparison(side(), side(), 29)
    assert not decide(equal, GATE).promote
    assert decide(equal, GATE, newer_data=True).promote
    assert not decide(worse, GATE, newer_data=True).promote
    assert decide(worse, Gate(refresh_tolerance=0.001), newer_data=True).promote
    assert not decide(equal, Gate(refresh=False), newer_data=True).promote
    assert not decide(comparison(side(recall=0.4), side(), 30), GATE, newer_data=True).promote


@given(counts, counts, shares, shares, st.floats(0.1, 40), st.floats(0.01, 10), st.booleans())
def test_no_promotion_breaks_a_limit(
    b: int, c: int, recall: float, old: float, size: float, ms: float, newer: bool
) -> None:
    measured = comparison(side(recall=recall, megabytes=size, milliseconds=ms), side(recall=old), b, c)
    decision = decide(measured, GATE, newer)
    assert all(reason.endswith(".") for reason in decision.reasons)
    if decision.promote:
        assert b >= c
        assert newer or (measured.difference >= 0.005 - 1e-9 and measured.p <= 0.1)
        assert old - recall <= 0.03 + 1e-9
        assert size <= 20
        assert ms <= 1.5
        assert len(decision.reasons) == 2
    else:
        assert len(decision.reasons) > 2 or not newer or b < c
    swapped = comparison(side(recall=old), side(recall=recall, megabytes=size, milliseconds=ms), c, b)
    assert not (decision.promote and decide(swapped, GATE).promote)


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    """The champion with its version and calibration changed: other files, the same answers."""
    folder = shutil.copytree(CHAMPION, tmp_path / "worse")
    info = json.loads((folder / "champion.json").read_text())
    info |= {"version": "other", "calibration": info["calibration"] | {"temperature": 2.0}}
    (folder / "champion.json").write_text(json.dumps(info))
    (folder / "notes").write_bytes(bytes(1_000_000))
    return folder


def test_comparing_a_champion_with_its_equal(worse: Path) -> None:
    faces = np.random.default_rng(0).random((140, 48, 48, 1), np.float32)
    labels = champion.load(CHAMPION).predict(faces).argmax(axis=1)
    labels[:14] = (labels[:14] + 1) % 7
    found = compare(worse, CHAMPION, faces, labels)
    assert (found.one.version, found.other.version) == ("other", champion.load(CHAMPION).version)
    assert found.one.accuracy == found.other.accuracy == pytest.approx(0.9)
    assert (found.difference, found.only_one, found.only_other, found.p, found.interval) == (0, 0, 0, 1, (0, 0))
    assert found.one.recall == found.other.recall
    assert found.one.confusion == found.other.confusion
    assert sum(found.one.confusion[i][i] for i in range(7)) == 126
    json.dumps(found)
    assert hash(found.one.confusion)
    assert found.one.megabytes - found.other.megabytes == pytest.approx(1, abs=0.01)
    assert 0.2 < found.one.milliseconds / found.other.milliseconds < 5  # the machine may be busy
    assert not decide(found, GATE).promote


def test_comparing_needs_faces_and_whole_champions(worse: Path) -> None:
    faces, labels = np.zeros((1, 48, 48, 1), np.float32), np.zeros(1, np.int64)
    with pytest.raises(UserError, match="no faces"):
        compare(worse, CHAMPION, faces[:0], labels[:0])
    (worse / "model.tflite").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.tflite is missing"):
        compare(worse, CHAMPION, faces, labels)
