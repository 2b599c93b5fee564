"""How far one distribution of expressions lies from another."""

from collections.abc import Mapping

import numpy as np

from tasks.expressions import EXPRESSIONS

LEAST_FACES = 100  # of fewer, chance alone makes an index of a drift
LEAST_SHARE = 1e-4  # that an expression never seen counts as: the index would be infinite


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
