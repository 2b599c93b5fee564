"""What each part of a recipe is worth: a candidate trained with one thing changed at a time, a line each.

    python tests/benchmarks/recipes.py [--candidate small] [--epochs 8] [--out tests/benchmarks/recipes.csv]

All learn from the labels alone: a teacher is a training of its own. Accuracies are on val, where such choices belong; by chance
one differs from another by 0.8 points and more of 3,588 faces, and a short training favours what regularises less. `log_loss`,
after temperature scaling on the same faces, varies less by chance. `changed` is the mean accuracy under the changes of
tests/changes.py, which are what photos do to faces. A line takes minutes; those that the csv has already are not measured again,
so it can be stopped and continued.
"""

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from changes import CHANGES
from train_speed import ROOT, in_process

from tasks import networks, scores
from tasks import train as stage
from tasks.backend import keras
from tasks.calibration import fit_temperature
from tasks.checkpoint import Checkpoint
from tasks.expressions import FACE_SIZE
from tasks.params import Candidate, load

ADAM = {"name": "adam", "learning_rate": 0.002}
SGD = {"name": "sgd", "learning_rate": 0.1, "options": {"momentum": 0.9, "nesterov": True, "global_clipnorm": 5.0}}
FRAMING = {"mirror": True, "rotate": 15.0, "shift": 0.08, "zoom": 0.15}  # of augmentation, nothing else
BY_LABELS = {"labels": "arrays", "taught": None, "label_smoothing": 0.1}  # as `small` was before it had a teacher
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "Adam in place of Muon": {"optimizer": ADAM},
    "SGD in place of Muon": {"optimizer": SGD},
    "mixup 0.2": {"mixup": 0.2},
    "class weights": {"class_weights": True},
    "only framing is augmented": {"augment": FRAMING},
    "no pictures of nothing": {"nothing": 0.0},
    "whole faces from the start": {"sizes": []},
    "labels not smoothed": {"label_smoothing": 0.0},
}
COLUMNS = ("recipe", "accuracy", "mirrored", "log_loss", "changed", "lowest_recall")


def measure(name: str, epochs: int, change: dict[str, Any]) -> dict[str, float]:
    """Train the changed recipe; its best epoch's accuracies."""
    params = load()
    recipe = Candidate.model_validate(params.candidate(name).model_dump() | BY_LABELS | {"epochs": epochs} | change)
    keras.utils.set_random_seed(params.train.seed)
    keras.config.set_dtype_policy("mixed_bfloat16" if recipe.precision == "bfloat16" else "float32")
    model = networks.build(recipe.network, None if recipe.sizes else FACE_SIZE, **recipe.options)
    data = stage.load_data(recipe)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / name / "epochs.npz", "", [], params.train.max_minutes)
        stage.fit(model, data, recipe, params.train.seed, checkpoint)
    network = stage.plain(model, checkpoint.best)

    def answers(faces: np.ndarray) -> np.ndarray:
        probabilities: np.ndarray = network.predict(faces, batch_size=stage.VAL_BATCH, verbose=0)
        return probabilities

    own, right = answers(data.val), data.val_labels
    both = own + answers(data.val[:, :, ::-1])
    measures = scores.score(own, right, fit_temperature(own, right), params.evaluate.calibration_bins)
    return measures | {
        "mirrored": scores.accuracy(both, right),
        "changed": float(np.mean([scores.accuracy(answers(each(data.val)), right) for each in CHANGES.values()])),
    }


def main() -> None:
    """Measure what the csv does not have yet, a line at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", default="small")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    os.chdir(ROOT)
    if not out.exists():
        out.write_text(",".join(COLUMNS) + "\n")
    with out.open(newline="") as file:
        done = {row["recipe"] for row in csv.DictReader(file)}
    for recipe, change in VARIANTS.items():
        if recipe not in done:
            measured = in_process(measure, arguments.candidate, arguments.epochs, change)
            line = {"recipe": recipe} | {name: f"{measured[name]:.4f}" for name in COLUMNS[1:]}
            with out.open("a") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(line)
    print(pd.read_csv(out).to_string(index=False))


if __name__ == "__main__":
    main()
