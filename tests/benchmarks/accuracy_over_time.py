"""Draw accuracy on val over minutes of training: the tutorial's network as the tutorial trains it, and ferflow's.

    python tests/benchmarks/accuracy_over_time.py [--out docs/accuracy-over-time.png]

Accuracy after each epoch is that of the committed trainings (models/candidates/NAME/history), after the last that of what they
left, which may be an average. They ran beside other work, so how long an epoch takes is measured here, side by side in one run,
as train_speed.py does, once for each network; validation counts for nobody. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from train_speed import ROOT, Speeds, in_process, measure

from tasks.batches import schedule
from tasks.params import Candidate, Size, load
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
    Line("large_self_taught", "own", "large_self_taught, by the labels and itself", "C0:"),
    Line("large", "own", "large, once it has its teachers", "C0-"),
    Line("large_again", "own", "large_again, once it has its teachers", "C3-"),
    Line("small", "own", "small, once it has its teacher", "C1-"),
    Line("small_again", "own", "small_again, once it has its teachers", "C1--"),
)
IMAGES, ROUNDS = 2048, 3  # of a measurement
MARKS = (0.5, 0.6, 0.65, 0.68, 0.7)  # accuracies whose minute is printed


def network(recipe: Candidate) -> str:
    """What two recipes have in common whose epochs of a size take the same time."""
    return f"{recipe.network} {recipe.options}"


def pictures(size: Size) -> str:
    """What two parts of trainings have in common that show pictures of the same size."""
    return f"{size.pixels} {size.crop}"


def of_all_sizes(recipes: list[Candidate]) -> Candidate:
    """The first of these recipes, with each size of pictures that any of them has."""
    sizes = {pictures(size): size for recipe in recipes for size in recipe.sizes}.values()
    parts = [size.model_copy(update={"until": (i + 1) / (len(sizes) + 1)}) for i, size in enumerate(sizes)]
    return recipes[0].model_copy(update={"sizes": parts})


def measured(recipe: Candidate) -> Speeds:
    """Images a second by each way, and in each size of pictures."""
    speeds: Speeds = in_process(measure, recipe, IMAGES, ROUNDS)[0]
    return speeds | {pictures(size): speeds[str(size)] for size in recipe.sizes}


def minutes(recipe: Candidate, speeds: Speeds, way: str, faces: int) -> np.ndarray:
    """When each epoch ends, float, shape (epochs,)."""
    epochs = [
        faces / np.median(speeds[pictures(size) if size else way]) / 60
        for start, end, size in schedule(recipe)
        for _ in range(start, end)
    ]
    return np.cumsum(epochs)


def accuracies(name: str) -> np.ndarray:
    """The best on val up to each epoch, float, shape (epochs,)."""
    folder = CANDIDATES / name
    accuracy = pd.read_csv(folder / "history/plots/metrics/eval/accuracy.tsv", sep="\t")["accuracy"].to_numpy()
    kept = json.loads((folder / "evaluation/metrics.json").read_text())["val"]["accuracy"]
    return np.append(np.maximum.accumulate(accuracy)[:-1], kept)


def main() -> None:
    """Measure, draw, and print when each training reached which accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy-over-time.png"))
    out = parser.parse_args().out
    os.chdir(ROOT)
    params = load()
    faces = len(load_split("train")[1])
    recipes = {line.candidate: params.candidate(line.candidate) for line in LINES}
    same: defaultdict[str, list[Candidate]] = defaultdict(list)
    for recipe in recipes.values():
        same[network(recipe)].append(recipe)
    speeds = {key: measured(of_all_sizes(each)) for key, each in same.items()}
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for name, way, label, style in LINES:
        ends = minutes(recipes[name], speeds[network(recipes[name])], way, faces)
        best = accuracies(name)
        axes.plot(ends[: len(best)], best, style, label=label)
        reached = [(mark, ends[(best >= mark).argmax()]) for mark in (*MARKS, best[-1]) if best[-1] >= mark]
        print(f"{label}: {', '.join(f'{mark:.1%} after {minute:.0f}' for mark, minute in reached)} minutes")
    axes.set(xlabel="minutes of training on two CPU cores", ylabel="best accuracy on val so far", ylim=(0.2, 0.75))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(out, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
