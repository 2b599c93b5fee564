"""What a champion's card says; that it is written with the champion is tested in test_promote.py."""

import pytest
from conftest import CANDIDATES

from tasks.card import which_weights
from tasks.params import Candidate


@pytest.mark.parametrize(
    ("epochs", "best", "words"),
    [
        (60, 12, "those after epoch 12"),
        (60, None, "an average of the last ones (`averaged`)"),
        (44, None, "an average of the last ones (`averaged`)"),
        (43, None, "those of the last epoch"),  # cut short: the first of those to be averaged was its last
    ],
)
def test_the_weights_are_those_that_the_training_kept(epochs: int, best: int | None, words: str) -> None:
    training = {"epochs": epochs, "best_epoch": best}
    recipe = {"epochs": 60, "averaged": 0.7 if best is None else None}
    assert which_weights(training, Candidate.model_validate(CANDIDATES["muon"] | recipe)) == words
