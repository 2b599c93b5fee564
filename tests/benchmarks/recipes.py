"""What each part of a recipe is worth, and what it lacks would be: a candidate with one thing changed at a time, a line each.

    python tests/benchmarks/recipes.py [--candidate small] [--epochs 8] [--out tests/benchmarks/recipes.csv]

All but those that are taught learn from the labels alone: a teacher is a training of its own. Accuracies are on val,
where such choices belong; by chance one differs from another by 0.8 points and more of 3,588 faces, and a short
training favours what regularises less. `log_loss`, after temperature scaling on the same faces, varies less by chance.
`changed` is the mean accuracy under the changes of tests/changes.py, which are what photos do to faces. A line takes
minutes; those that the csv has already are not measured again, so it can be stopped and continued.
"""

import argparse
import csv
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

import techniques
from changes import CHANGES
from techniques import Fit
from train_speed import ROOT, in_process

from tasks import networks, precision, scores
from tasks import train as stage
from tasks.backend import keras
from tasks.calibration import fit_temperature
from tasks.checkpoint import Checkpoint
from tasks.expressions import FACE_SIZE
from tasks.params import Candidate, load
from tasks.train import Data

RESULTS = Path(__file__).with_suffix(".csv")
ADAM = {"name": "adam", "learning_rate": 0.002}
SGD = {"name": "sgd", "learning_rate": 0.1, "options": {"momentum": 0.9, "nesterov": True, "global_clipnorm": 5.0}}
FRAMING = {"mirror": True, "rotate": 15.0, "shift": 0.08, "zoom": 0.15}  # of augmentation, nothing else
SAME_SAY = {  # class weights that give every expression the same say: those of train, by 1 / count
    "angry": 1.02, "disgust": 10.98, "fear": 1.01, "happy": 0.55, "sad": 0.82, "surprise": 1.56, "neutral": 0.8,
}  # fmt: skip
# As `small` was before it had a teacher.
BY_LABELS = {"labels": "arrays", "taught": None, "averaged": None, "label_smoothing": 0.1}


@dataclass(frozen=True)
class Variant:
    """What is changed; nothing by default. See techniques.py for what the pipeline cannot do."""

    recipe: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)  # options added to the recipe's
    network: Callable[[keras.Model], keras.Model] = lambda model: model
    data: Callable[[Data, Fit], Data] = lambda data, _: data
    callbacks: Callable[[], list[keras.callbacks.Callback]] = list


def averaged(momentum: float) -> Variant:
    """Keras's exponential moving average of the weights, of about 1 / (1 - momentum) updates."""
    options = {"use_ema": True, "ema_momentum": momentum}
    return Variant(optimizer=options, callbacks=lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])


VARIANTS = {
    "as it is": Variant(),
    "Adam in place of Muon": Variant({"optimizer": ADAM}),
    "SGD in place of Muon": Variant({"optimizer": SGD}),
    "mixup 0.2": Variant({"mixup": 0.2}),
    "class weights": Variant({"class_weights": SAME_SAY}),
    "only framing is augmented": Variant({"augment": FRAMING}),
    "no pictures of nothing": Variant({"nothing": 0.0}),
    "whole faces from the start": Variant({"sizes": []}),
    "labels not smoothed": Variant({"label_smoothing": 0.0}),
    "weights averaged over half an epoch": averaged(0.99),
    "weights averaged over two epochs": averaged(0.998),
    "squeeze-and-excitation": Variant(network=techniques.excited),
    "cutmix": Variant(network=techniques.cut_and_mixed),
    "taught by the champion": Variant({"label_smoothing": 0.0}, data=techniques.taught),
    "sharpness-aware steps": Variant(network=techniques.sharpness_aware),
    "contradicted labels left out": Variant(data=techniques.cleaned),
    "faces enlarged to 64 px, whole from the start": Variant({"sizes": []}, network=techniques.enlarged),
    "ten times the weight decay": Variant(optimizer={"weight_decay": 0.1}),
    "taught by its like": Variant({"label_smoothing": 0.0}, data=techniques.taught_by_its_like),
    "taught by its like, which did not see the face": Variant(
        {"label_smoothing": 0.0}, data=techniques.taught_by_strangers
    ),
}
COLUMNS = ("recipe", "accuracy", "mirrored", "log_loss", "changed", "lowest_recall")


def fitted(variant: Variant, recipe: Candidate, seed: int, data: Data) -> keras.Model:
    """The best epoch's network of a training on these data."""
    keras.utils.set_random_seed(seed)
    model = variant.network(networks.build(recipe.network, None if recipe.sizes else FACE_SIZE, **recipe.options))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "epochs.npz", "", variant.callbacks(), math.inf)
        stage.fit(model, data, recipe, seed, checkpoint)
    return stage.plain(model, checkpoint.kept)


def measure(name: str, epochs: int, changed: str) -> dict[str, float]:
    """Train the changed recipe; its best epoch's accuracies."""
    params, variant = load(), VARIANTS[changed]
    changes = BY_LABELS | {"epochs": epochs} | variant.recipe
    recipe = Candidate.model_validate(params.candidate(name).model_dump() | changes)
    recipe.optimizer.options.update(variant.optimizer)
    precision.use(recipe.precision)
    fit = partial(fitted, variant, recipe, params.train.seed)
    data = stage.load_data(recipe)
    network = fit(variant.data(data, fit))

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
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.out == RESULTS and (arguments.candidate, arguments.epochs) != ("small", 8):
        parser.error(f"{RESULTS.name} has what small comes to in 8 epochs; give others an --out of their own")
    out = arguments.out.resolve()
    os.chdir(ROOT)
    if not out.exists():
        out.write_text(",".join(COLUMNS) + "\n")
    with out.open(newline="") as file:
        done = {row["recipe"] for row in csv.DictReader(file)}
    for recipe in VARIANTS:
        if recipe not in done:
            measured = in_process(measure, arguments.candidate, arguments.epochs, recipe)
            line = {"recipe": recipe} | {name: f"{measured[name]:.4f}" for name in COLUMNS[1:]}
            with out.open("a") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(line)
    print(pd.read_csv(out).to_string(index=False))


if __name__ == "__main__":
    main()
