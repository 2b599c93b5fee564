"""The population stability index."""

import pytest

from tasks.drift import psi


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
