"""Draw accuracy on val over minutes of training: the tutorial's network as the tutorial trains it, and ferflow's.

    python tests/benchmarks/accuracy_over_time.py [--out docs/accuracy-over-time.png]

Accuracy after each epoch is that of the committed trainings (models/candidates/NAME/history). They ran beside other work, so how
long an epoch takes is measured here, side by side in one run, as train_speed.py does; validation counts for nobody.
Run it on a machine that does nothing else.
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from train_speed import ROOT, Speeds, in_process, measure

from tasks.batches import schedule
from tasks.params import Candidate, load
from tasks.parse import load_split
from tasks.paths import CANDIDATES

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt


class Line(NamedTuple):
    """One training in the picture."""

    candidate: str
    way: str  # of train_speed.py: "own", ferflow's engine; "plain", Keras's layers and fit in float32
    label: str
    style: str


LINES = (
    Line("modelo_01", "plain", "modelo_01 as the tutorial trains it", "C7--"),
    Line("modelo_01", "own", "modelo_01, ferflow's engine", "C7-"),
    Line("residual", "own", "residual, by the labels alone", "C2-"),
    Line("large_untaught", "own", "large_untaught, by the labels alone", "C0--"),
    Line("large", "own", "large, once it has its teachers", "C0-"),
    Line("small", "own", "small, once it has its teacher", "C1-"),
)
IMAGES, ROUNDS = 2048, 3  # of a measurement
MARKS = (0.5, 0.6, 0.65, 0.68, 0.7)  # accuracies whose minute is printed


def minutes(recipe: Candidate, speeds: Speeds, way: str, faces: int) -> np.ndarray:
    """When each epoch ends, float, shape (epochs,)."""
    epochs = [
        faces / np.median(speeds[str(size) if size else way]) / 60
        for start, end, size in schedule(recipe)
        for _ in range(start, end)
    ]
    return np.cumsum(epochs)


def main() -> None:
    """Measure, draw, and print when each training reached which accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy-over-time.png"))
    out = parser.parse_args().out
    os.chdir(ROOT)
    params = load()
    faces = len(load_split("train")[1])
    speeds = {
        name: in_process(measure, params.candidate(name), IMAGES, ROUNDS)[0]
        for name in {line.candidate for line in LINES}
    }
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for name, way, label, style in LINES:
        ends = minutes(params.candidate(name), speeds[name], way, faces)
        accuracy = pd.read_csv(CANDIDATES / name / "history/plots/metrics/eval/accuracy.tsv", sep="\t")["accuracy"]
        best = accuracy.cummax().to_numpy()
        axes.plot(ends[: len(best)], best, style, label=label)
        reached = [(mark, ends[(best >= mark).argmax()]) for mark in (*MARKS, best[-1]) if best[-1] >= mark]
        print(f"{label}: {', '.join(f'{mark:.1%} after {minute:.0f}' for mark, minute in reached)} minutes")
    axes.set(xlabel="minutes of training on two CPU cores", ylabel="best accuracy on val so far", ylim=(0.2, 0.75))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(out, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
