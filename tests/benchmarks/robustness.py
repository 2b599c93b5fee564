"""How a champion stands what photos do to faces: its accuracy on val, alone and averaged over mirror images as `label.mirror`
does, and how many labels stay, under each change.

    python tests/benchmarks/robustness.py [FOLDER ...]

FOLDER is a champion's, by default models/champion. Needs data/arrays. The changes are those of the behaviour tests
(tests/changes.py).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from changes import CHANGES

from tasks import champion
from tasks.parse import load_split
from tasks.paths import CHAMPION


def main() -> None:
    """Measure and print."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("folders", nargs="*", type=Path, default=[CHAMPION], metavar="FOLDER")
    faces, labels = load_split("val")
    for folder in cli.parse_args().folders:
        network = champion.load(folder)
        print(f"{network.version}, {len(faces):,} faces of val")
        print(f"{'':20}{'accuracy':>10}{'mirrored':>10}{'same label':>12}")
        own, accuracies = network.predict(faces).argmax(axis=1), []
        for name, change in {"unchanged": np.asarray, **CHANGES}.items():
            changed = change(faces)
            answers = network.predict(changed)
            mirrored = answers + network.predict(changed[:, :, ::-1])
            accuracies.append([(each.argmax(axis=1) == labels).mean() for each in (answers, mirrored)])
            one, both = accuracies[-1]
            print(f"{name:20}{one:10.1%}{both:10.1%}{(answers.argmax(axis=1) == own).mean():12.1%}")
        one, both = np.mean(accuracies, axis=0)
        print(f"{'their mean':20}{one:10.1%}{both:10.1%}")


if __name__ == "__main__":
    main()
