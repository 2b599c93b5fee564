"""The population stability index, and when labels count as drifted."""

import json

import numpy as np
import pytest
from conftest import CHAMPION

from tasks.drift import OWN, Reference, answers, judge, psi, reference
from tasks.expressions import EXPRESSIONS
from tasks.params import Drift

SAME = {"happy": 300, "sad": 100}
KNOWN = Reference("the champion's own answers on val", SAME, 0.7)


def test_equal_shares_have_no_drift():
    assert psi({"happy": 1000, "sad": 3000}, {"happy": 50, "sad": 150}) == pytest.approx(0)


def test_a_shift_by_hand():
    """Shares of 1/2 and 1/2 to 3/4 and 1/4: 1/4 ln 3/2 - 1/4 ln 1/2, which is 1/4 ln 3."""
    assert psi({"happy": 100, "sad": 100}, {"happy": 300, "sad": 100}) == pytest.approx(0.25 * 1.0986123)


def test_an_expression_never_seen_is_far_but_not_infinite():
    assert 0.25 < psi({"happy": 900, "disgust": 100}, {"happy": 100}) < 10


@pytest.mark.parametrize("found", [{}, {"happy": 99}])
def test_few_faces_have_no_drift_to_speak_of(found):
    assert psi({"happy": 900}, found) is None


def test_answers_are_counts_and_a_mean_confidence():
    probabilities = np.zeros((3, 7), np.float32)
    probabilities[[0, 1, 2], [3, 3, 4]] = 0.9, 0.6, 0.6
    told = answers(probabilities)
    assert told == {"expressions": dict.fromkeys(EXPRESSIONS, 0) | {"happy": 2, "sad": 1}, "mean_confidence": 0.7}
    assert json.loads(json.dumps(told)) == told


def test_a_champion_that_tells_nothing_of_itself_is_known_by_its_training():
    info = json.loads((CHAMPION / "champion.json").read_text())
    info.pop(OWN, None)
    assert reference(info) == (
        "the labels of the champion's training faces",
        info["data"]["expressions_in_train"],
        None,
    )
    own = {"expressions": SAME, "mean_confidence": 0.7}
    assert reference(info | {OWN: own}) == KNOWN


@pytest.mark.parametrize(
    ("found", "confidence", "drifted", "words"),
    [
        (SAME, 0.7, False, "within the limits of `drift` in params.yaml"),
        (SAME, 0.9, False, "within"),
        (SAME, 0.59, True, "mean confidence is 11.0 points lower, more than drift.max_confidence_drop (10 points)"),
        ({"happy": 100, "sad": 300}, 0.7, True, "PSI 1.10 is more than drift.max_psi (0.25)"),
        ({"happy": 100, "sad": 300}, 0.2, True, "; mean confidence is 50.0 points lower"),
        ({"happy": 75, "sad": 24}, 0.1, None, "too few faces to tell"),
        ({}, None, None, "too few faces to tell"),
    ],
)
def test_what_counts_as_drifted(found, confidence, drifted, words):
    said = judge(KNOWN, found, confidence, Drift())
    assert said["drifted"] is drifted
    assert words in said["reason"]
    assert (said["mean_confidence"], said["champion_mean_confidence"]) == (confidence, 0.7)


def test_a_drop_of_just_the_limit_is_within():
    known = KNOWN._replace(confidence=0.8)
    assert judge(known, SAME, 0.7, Drift(max_confidence_drop=0.1))["drifted"] is False
    assert judge(known, SAME, 0.6999, Drift(max_confidence_drop=0.1))["drifted"] is True


def test_limits_are_the_users():
    shifted = {"happy": 100, "sad": 300}
    loose = judge(KNOWN, shifted, 0.2, Drift(max_psi=2.0, max_confidence_drop=0.5))
    assert loose["drifted"] is False
    assert (loose["max_psi"], loose["max_confidence_drop"]) == (2.0, 0.5)
    assert judge(KNOWN, SAME, 0.69, Drift(max_confidence_drop=0.0))["drifted"]


def test_without_a_known_confidence_the_expressions_alone_decide():
    told = judge(KNOWN._replace(confidence=None), SAME, 0.1, Drift())
    assert told["drifted"] is False
    assert told["reason"].endswith("; the champion does not tell its own confidence")
