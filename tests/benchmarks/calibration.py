"""How well a champion knows how sure to be, and how well it could be shown to: on so few faces, chance alone makes an error.

    python tests/benchmarks/calibration.py [FOLDER ...]

FOLDER is a champion's, by default the two in models/. Needs data/arrays. Prints the expected calibration error on val, alone and
averaged over mirror images as `label.mirror` does, and what it would be if every probability were exact: of labels that are drawn
from the champion's own answers, the mean and the range that 90 % of the drawings lie in.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from tasks import champion
from tasks.calibration import calibration_error
from tasks.params import load
from tasks.parse import load_split
from tasks.paths import CHAMPION, SMALL

DRAWINGS = 200


def by_chance(probabilities, bins):
    """The calibration errors, (DRAWINGS,), of probabilities, (N, 7), that are exact."""
    random = np.random.default_rng(0)
    upto = probabilities.cumsum(axis=1)
    drawn = ((upto > random.random((len(upto), 1))).argmax(axis=1) for _ in range(DRAWINGS))
    return np.array([calibration_error(probabilities, labels, bins) for labels in drawn])


def main() -> None:
    """Measure and print."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("folders", nargs="*", type=Path, default=[CHAMPION, SMALL], metavar="FOLDER")
    folders, bins = cli.parse_args().folders, load().evaluate.calibration_bins
    faces, labels = load_split("val")
    for folder in folders:
        network = champion.load(folder)
        plain, mirrored = network.predict(np.asarray(faces)), network.predict(np.asarray(faces)[:, :, ::-1])
        for name, answers in (("alone", plain), ("mirrored", (plain + mirrored) / 2)):
            exact = by_chance(answers, bins)
            low, high = np.quantile(exact, (0.05, 0.95))
            print(
                f"{network.version}, {name}: {calibration_error(answers, labels, bins):.1%}; "
                f"if it were exact: {exact.mean():.1%} ({low:.1%} to {high:.1%})"
            )


if __name__ == "__main__":
    main()
