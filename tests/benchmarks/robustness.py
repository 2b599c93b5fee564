"""How a champion stands what photos do to faces: its accuracy on val, and how many labels stay, under each change.

    python tests/benchmarks/robustness.py [FOLDER ...]

FOLDER is a champion's, by default models/champion. Needs data/arrays. The changes are those of the behaviour tests
(tests/changes.py).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

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
        own = network.predict(faces).argmax(axis=1)
        print(f"{network.version}, {len(faces):,} faces of val")
        print(f"{'unchanged':20} accuracy {(own == labels).mean():6.1%}")
        for name, change in CHANGES.items():
            answers = network.predict(change(faces)).argmax(axis=1)
            print(f"{name:20} accuracy {(answers == labels).mean():6.1%}   same label {(answers == own).mean():6.1%}")


if __name__ == "__main__":
    main()
