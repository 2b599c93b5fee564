"""Which of two champions is better: both answer for the same faces, and the gate of params.yaml decides from what they answered.

`one` is the challenger, `other` the one that is deployed; every difference is one's minus other's.
"""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.champion import Champion, load, megabytes
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.params import Gate

RESAMPLES = 10_000
SEED = 7
CONFIDENCE = (0.025, 0.975)  # ends of the 95 % interval
TIMED, ROUNDS = 32, 15  # faces in a batch that is timed, and how often; the quickest counts, as the least disturbed
ROUNDING = 1e-9  # 0.53 - 0.50 is a little more than 0.03 in floats


class Side(NamedTuple):
    """What is measured of one of the two."""

    version: str
    accuracy: float
    recall: dict[str, float]  # of the expressions that the faces show
    megabytes: float  # of its folder
    milliseconds: float  # of one core, a face, in batches
    confusion: tuple[tuple[int, ...], ...]  # how many faces of each expression (row) get each answer (column)


class Comparison(NamedTuple):
    """Two champions on the same faces."""

    one: Side
    other: Side
    faces: int
    difference: float  # of the accuracies
    only_one: int  # faces that only one gets right
    only_other: int
    p: float  # of a difference like this, or larger, between two that are equally good
    interval: tuple[float, float]  # of the difference, 95 %


class Decision(NamedTuple):
    """Whether the challenger replaces the champion, and why, in sentences."""

    promote: bool
    reasons: tuple[str, ...]


def compare(one: Path, other: Path, faces: NDArray[np.float32], labels: NDArray[np.int64]) -> Comparison:
    """Compare the champions in two folders on faces, float32, shape (N, 48, 48, 1), in [0, 1], and labels, (N,).

    Raises:
        UserError: a champion is missing or damaged, or there are no faces.
    """
    if not len(labels):
        raise UserError("there are no faces to compare two champions on")
    champions = load(one, threads=1), load(other, threads=1)
    answers = [champion.predict(faces).argmax(axis=1) for champion in champions]
    speeds = _milliseconds(*champions, faces[:TIMED])
    sides = (
        Side(
            version=champion.version,
            accuracy=float((answer == labels).mean()),
            recall=recalls(answer, labels),
            megabytes=megabytes(folder),
            milliseconds=speed,
            confusion=confusion(answer, labels),
        )
        for champion, answer, folder, speed in zip(champions, answers, (one, other), speeds, strict=True)
    )
    right, other_right = (answer == labels for answer in answers)
    only_one, only_other = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    return Comparison(
        one=next(sides),
        other=next(sides),
        faces=len(labels),
        difference=(only_one - only_other) / len(labels),
        only_one=only_one,
        only_other=only_other,
        p=mcnemar(only_one, only_other),
        interval=bootstrap(only_one, only_other, len(labels)),
    )


def recalls(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Share of each expression's faces that are answered right; expressions without a face are left out."""
    shown = np.bincount(labels, minlength=len(EXPRESSIONS))
    right = np.bincount(labels[answers == labels], minlength=len(EXPRESSIONS))
    return {name: float(right[i] / shown[i]) for i, name in enumerate(EXPRESSIONS) if shown[i]}


def confusion(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Counts of faces by their label (row) and the answer to them (column), both in the order of EXPRESSIONS."""
    many = len(EXPRESSIONS)
    counts = np.bincount(labels * many + answers, minlength=many * many).reshape(many, many)
    return tuple(tuple(row) for row in counts.tolist())


def mcnemar(only_one: int, only_other: int) -> float:
    """Two-sided p of the exact test of two classifiers on the same faces, from the faces that only one of them gets right.

    Were both equally good, each such face would fall to either like a coin: McNemar 1947, "Note on the sampling error of the
    difference between correlated proportions or percentages", Psychometrika 12, with the binomial in place of his chi-square.
    """
    from scipy.stats import binomtest

    if not only_one + only_other:
        return 1.0
    return float(binomtest(min(only_one, only_other), only_one + only_other).pvalue)


def bootstrap(only_one: int, only_other: int, faces: int) -> tuple[float, float]:
    """95 % percentile interval of the difference in accuracy, over resampled faces (Efron 1979, Annals of Statistics 7).

    A face adds 1, -1 or 0 to the difference, and nothing else of it matters: drawing faces with replacement is drawing how
    many there are of the three kinds, at once, from a multinomial distribution.
    """
    kinds = np.array([only_one, only_other, faces - only_one - only_other]) / faces
    drawn = np.random.default_rng(SEED).multinomial(faces, kinds, size=RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / faces, CONFIDENCE)
    return float(low), float(high)


def _milliseconds(one: Champion, other: Champion, faces: NDArray[np.float32]) -> tuple[float, float]:
    """Time a face of both, in turns. Both compute in this thread: its own time leaves out what else the machine does."""
    best = {one: np.inf, other: np.inf}
    for turn in range(ROUNDS):
        for champion in (one, other) if turn % 2 else (other, one):
            start = time.thread_time()
            champion.predict(faces)
            best[champion] = min(best[champion], 1000 * (time.thread_time() - start) / len(faces))
    return best[one], best[other]


def decide(comparison: Comparison, gate: Gate, newer_data: bool = False) -> Decision:
    """Whether `one` replaces `other`: it is better, or as good and trained on newer data, and passes every limit.

    Args:
        comparison: of the challenger with the champion.
        gate: the section of params.yaml.
        newer_data: the challenger was trained on data that the champion has not seen.
    """
    merit, merit_reason = _merit(comparison, gate, newer_data)
    refusals = _passed_limits(comparison, gate)
    return Decision(merit and not refusals, (summary(comparison), merit_reason, *refusals))


def summary(comparison: Comparison) -> str:
    """The measured difference in a sentence."""
    one, other = comparison.one, comparison.other
    low, high = (_points(end) for end in comparison.interval)
    return (
        f"{one.version} is right on {one.accuracy:.1%} of {comparison.faces:,} faces, {other.version} on {other.accuracy:.1%}: "
        f"a difference of {_points(comparison.difference)} points (95% interval {low} to {high}, p = {comparison.p:.2g})."
    )


def _merit(comparison: Comparison, gate: Gate, newer_data: bool) -> tuple[bool, str]:
    """Whether it deserves the place, its limits aside, and why or why not."""
    gain = _points(comparison.difference)
    enough = comparison.difference >= gate.min_gain - ROUNDING
    if enough and comparison.p <= gate.max_p:
        return True, (
            f"A gain of {gain} points is at least gate.min_gain ({_points(gate.min_gain)}), and p = {comparison.p:.2g} "
            f"is within gate.max_p ({gate.max_p:g})."
        )
    if newer_data and gate.refresh and comparison.difference >= -gate.refresh_tolerance - ROUNDING:
        return True, (
            f"It was trained on newer data, and a difference of {gain} points is not under {_points(-gate.refresh_tolerance)} "
            "(gate.refresh, gate.refresh_tolerance)."
        )
    if not enough:
        return False, f"A difference of {gain} points is less than gate.min_gain ({_points(gate.min_gain)})."
    return False, (
        f"A gain of {gain} points may be chance: p = {comparison.p:.2g} is more than gate.max_p ({gate.max_p:g})."
    )


def _passed_limits(comparison: Comparison, gate: Gate) -> list[str]:
    """A sentence for every limit that the challenger breaks."""
    one, other = comparison.one, comparison.other
    broken = [
        f"Recall of {name} falls from {other.recall[name]:.1%} to {recall:.1%}, by more than gate.max_class_drop "
        f"({100 * gate.max_class_drop:.1f} points)."
        for name, recall in one.recall.items()
        if other.recall[name] - recall > gate.max_class_drop + ROUNDING
    ]
    if one.megabytes > gate.max_megabytes:
        broken.append(f"Its folder has {one.megabytes:.1f} MB, more than gate.max_megabytes ({gate.max_megabytes:g}).")
    slowdown = one.milliseconds / other.milliseconds
    if slowdown > gate.max_slowdown:
        broken.append(
            f"It takes {one.milliseconds:.2f} ms a face, {slowdown:.2f} times the champion's {other.milliseconds:.2f} ms: "
            f"more than gate.max_slowdown ({gate.max_slowdown:g})."
        )
    return broken


def _points(share: float) -> str:
    """A difference of two shares, in percentage points with its sign."""
    return f"{100 * share:+.2f}" if share else "0.00"
