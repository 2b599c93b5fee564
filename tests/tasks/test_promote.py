import numpy as np
import pytest
from conftest import Workspace

from tasks import champion
from tasks.drift import OWN, answers
from tasks.params import Promote
from tasks.promote import leaderboard, verdict

BARS = Promote(
    min_accuracy=0.5,
    min_class_recall=0.2,
    max_predicted_share=0.5,
    max_megabytes=20.0,
    max_disagreement=0.01,
    max_int8_difference=0.01,
)
FINE = {"accuracy": 0.6, "macro_f1": 0.5, "lowest_recall": 0.3, "largest_share": 0.3, "calibration_error": 0.02}


def measures(parameters: int = 10, **val: float) -> dict[str, object]:
    return {
        "val": FINE | val,
        "test": FINE,
        "parameters": parameters,
        "million_multiply_adds": 1.0,
        "megabytes": 1.0,
    }


@pytest.mark.parametrize(
    ("val", "expected"),
    [
        ({}, "passed"),
        # The tutorial's modelo_05: 24.5 % accuracy, the share of "happy".
        (
            {"accuracy": 0.245, "largest_share": 1.0, "lowest_recall": 0.0},
            "collapsed: one answer for 100% of the faces",
        ),
        ({"accuracy": 0.49}, "accuracy under 50%"),
        ({"lowest_recall": 0.1}, "an expression's recall under 20%"),
    ],
)
def test_bars(val: dict[str, float], expected: str) -> None:
    assert verdict(FINE | val, BARS) == expected


def test_the_best_on_val_comes_first_and_the_smaller_of_equals() -> None:
    table = leaderboard(
        {"a": measures(accuracy=0.6), "big": measures(99, accuracy=0.7), "small": measures(5, accuracy=0.7)}, BARS
    )
    assert list(table["candidate"]) == ["small", "big", "a"]


def test_a_champion_tells_what_it_answers_on_val(built: list[Workspace]) -> None:
    loaded = champion.load(built[0].folder / "models" / "champion")
    faces = np.load(built[0].folder / "data" / "arrays" / "val.npy")
    assert loaded.info[OWN] == answers(loaded.predict(faces))
    assert sum(loaded.info[OWN]["expressions"].values()) == len(faces)
