"""How far the labels of a run lie from the champion's own: a warning that the faces are of another kind than those it knows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.expressions import EXPRESSIONS
from tasks.params import Drift

LEAST_FACES = 100  # of fewer, chance alone makes an index of a drift
LEAST_SHARE = 1e-4  # that an expression never seen counts as: the index would be infinite
OWN = "answers_on_val"  # champion.json's key of what `answers` returns


class Reference(NamedTuple):
    """What the labels of a run are held against."""

    name: str
    expressions: dict[str, int]  # counts
    confidence: float | None  # mean; None: not known


def answers(probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """How often each expression is the answer, and the mean confidence of the answers.

    Args:
        probabilities: calibrated, float32, shape (N, 7).
    """
    counts = np.bincount(probabilities.argmax(axis=1), minlength=len(EXPRESSIONS)).tolist()
    return {
        "expressions": dict(zip(EXPRESSIONS, counts, strict=True)),
        "mean_confidence": round(float(probabilities.max(axis=1).mean(dtype=np.float64)), 4),
    }


def reference(info: Mapping[str, Any]) -> Reference:
    """The reference of a champion, from the content of its champion.json: its answers on val.

    Older champions do not tell them. Theirs are the labels of the faces that they were trained on.
    """
    if own := info.get(OWN):
        return Reference("the champion's own answers on val", own["expressions"], own["mean_confidence"])
    return Reference("the labels of the champion's training faces", info["data"]["expressions_in_train"], None)


def psi(expected: Mapping[str, int], found: Mapping[str, int]) -> float | None:
    """Population stability index of two counts per expression; None if one of them is of under LEAST_FACES faces.

    The sum over expressions of (f - e) * ln(f / e), f and e being shares. Customarily under 0.1 is stable, over 0.25 a large
    shift (Siddiqi, "Credit Risk Scorecards", 2006).
    """
    counts = np.array([[each.get(name, 0) for name in EXPRESSIONS] for each in (expected, found)], float)
    if counts.sum(axis=1).min() < LEAST_FACES:
        return None
    e, f = np.maximum(counts / counts.sum(axis=1, keepdims=True), LEAST_SHARE)
    return float(((f - e) * np.log(f / e)).sum())


def judge(expected: Reference, found: Mapping[str, int], confidence: float | None, limits: Drift) -> dict[str, Any]:
    """What run.json says of drift.

    Args:
        expected: of the champion.
        found: faces of each expression in the run.
        confidence: the run's mean; None without faces.
        limits: the section of params.yaml.

    Returns:
        What was compared, with what and with which limits; `drifted`, None if there are too few faces to tell; and the reason,
        in words.
    """
    shift = psi(expected.expressions, found)
    drop = None
    if confidence is not None and expected.confidence is not None:
        drop = round(expected.confidence - confidence, 4)  # as they are: 0.8 - 0.7 is a little more than 0.1 in floats
    drifted, reason = _verdict(shift, drop, limits)
    return {
        "drifted": drifted,
        "reason": reason,
        "psi": None if shift is None else round(shift, 4),
        "max_psi": limits.max_psi,
        "mean_confidence": confidence,
        "champion_mean_confidence": expected.confidence,
        "max_confidence_drop": limits.max_confidence_drop,
        "against": expected.name,
    }


def _verdict(shift: float | None, drop: float | None, limits: Drift) -> tuple[bool | None, str]:
    if shift is None:
        return None, f"too few faces to tell: both the run and what it is held against need {LEAST_FACES}"
    passed = []
    if shift > limits.max_psi:
        passed.append(f"PSI {shift:.2f} is more than drift.max_psi ({limits.max_psi:g})")
    if drop is not None and drop > limits.max_confidence_drop:
        passed.append(
            f"mean confidence is {100 * drop:.1f} points lower, more than drift.max_confidence_drop "
            f"({100 * limits.max_confidence_drop:g} points)"
        )
    if passed:
        return True, "; ".join(passed)
    unknown = "" if drop is not None else "; the champion does not tell its own confidence"
    return False, f"within the limits of `drift` in params.yaml{unknown}"
