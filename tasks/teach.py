"""Stage `teach`: what a trained candidate answers for the training faces, for others to learn from.

    python -m tasks.teach vgg_like

Distillation (Hinton et al. 2015, arXiv:1503.02531): people dispute a third of FER2013's labels, and a network that has seen all
faces says of each what else it may be. Reads models/candidates/NAME/model.keras and data/arrays/, writes NAME.npy into the folder
of data/ that `teachers` in params.yaml says: float32, (N, 7), the mean answer for a face and its mirror image.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks import networks
from tasks.backend import keras
from tasks.errors import UserError, explained
from tasks.expressions import EXPRESSIONS
from tasks.files import replacing
from tasks.params import Candidate, named_candidate
from tasks.parse import load_split, write_npy
from tasks.paths import DATA

BATCH = 256


def answers(model: keras.Model, faces: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean probabilities, float32, (N, 7), of faces, float32, (N, 48, 48, 1), and of their mirror images."""
    views = (faces, faces[:, :, ::-1])
    both = [model.predict(view, batch_size=BATCH, verbose=0) for view in views]
    mean: NDArray[np.float32] = np.mean(both, axis=0, dtype=np.float32)
    return mean


def targets(labels: NDArray[np.int64], recipe: Candidate) -> NDArray[np.float32]:
    """What a network shall answer for the training faces.

    Args:
        labels: of the faces, (N,).
        recipe: of the network; by whom it is taught, and how much of it. By nobody: the labels alone.

    Returns:
        float32, (N, 7); each row adds up to 1.

    Raises:
        UserError: a teacher's answers are not there, or not for these faces.
    """
    given = np.eye(len(EXPRESSIONS), dtype=np.float32)[labels]
    if recipe.taught is None:
        return given
    paths = [DATA / recipe.labels / f"{name}.npy" for name in recipe.taught.by]
    mean = np.mean([_load(path, len(labels)) for path in paths], axis=0, dtype=np.float32)
    return np.float32(1 - recipe.taught.share) * given + np.float32(recipe.taught.share) * mean


def _load(path: Path, count: int) -> NDArray[np.float32]:
    try:
        taught: NDArray[np.float32] = np.load(path)
    except (FileNotFoundError, EOFError, ValueError) as error:  # the last two: no whole file of NumPy's
        raise UserError(f"no {path}, or a damaged one; make it with: dvc repro teach@{path.stem}") from error
    if taught.shape != (count, len(EXPRESSIONS)):
        raise UserError(f"{path} is of other faces than data/arrays; make it anew with: dvc repro teach@{path.stem}")
    return taught


@explained
def main() -> None:
    """Teach what the candidate named on the command line has learned."""
    name, params = named_candidate("teach")
    if name not in params.teachers:
        raise UserError(f"params.yaml: `teachers` has no '{name}', so its answers have no folder")
    taught = answers(networks.load_trained(name), load_split("train")[0])
    with replacing(DATA / params.teachers[name] / f"{name}.npy") as temporary, temporary.open("wb") as file:
        write_npy(file, taught.dtype, taught.shape, [taught])


if __name__ == "__main__":
    main()
