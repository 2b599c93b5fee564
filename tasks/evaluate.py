"""Stage `evaluate`: measure one trained candidate on val and test.

    python -m tasks.evaluate residual

Reads models/candidates/NAME/ and data/arrays/, writes models/candidates/NAME/evaluation/: metrics.json (headline measures),
per_class.csv, confusion_SPLIT.csv (actual and predicted, a line per face, for DVC's confusion template) and .png, curves.png,
mistakes.png (the most confident ones on test); and, unhashed because it never repeats, models/timings/NAME.json.
The temperature is fitted on val. Nothing is chosen here: test is only reported.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks import networks, scores
from tasks.backend import keras
from tasks.calibration import fit_temperature
from tasks.charts import draw_confusion, draw_curves
from tasks.errors import explained
from tasks.expressions import EXPRESSIONS, FACE_SIZE
from tasks.files import replacing, write_json
from tasks.images import write_sheet
from tasks.params import Evaluate, named_candidate
from tasks.parse import load_split
from tasks.paths import CANDIDATES, INGESTED
from tasks.timings import record_timing

BATCH = 256
MILLION = 1e6


def predict(model: keras.Model, faces: NDArray[np.float32]) -> tuple[scores.Probabilities, float]:
    """Probabilities, float32, (N, 7), of faces, float32, (N, 48, 48, 1); and milliseconds per face once warm."""
    model.predict(faces[:BATCH], batch_size=BATCH, verbose=0)
    started = time.perf_counter()
    probabilities: scores.Probabilities = model.predict(faces, batch_size=BATCH, verbose=0)
    return probabilities, (time.perf_counter() - started) * 1000 / len(faces)


def dataset_name() -> str:
    """What the data set that the arrays come from is called: the name of its file or folder."""
    return str(json.loads((INGESTED / "source.json").read_text(encoding="utf-8"))["data"])


def evaluate(name: str, model: keras.Model, folder: Path, settings: Evaluate) -> dict[str, Any]:
    """Measure the model on val and test, write tables and pictures into `folder`, return the headline measures."""
    labels, probabilities, mirrored, milliseconds = {}, {}, {}, {}
    for split in ("val", "test"):
        faces, labels[split] = load_split(split)
        probabilities[split], milliseconds[split] = predict(model, faces)
        mirrored[split] = model.predict(faces[:, :, ::-1], batch_size=BATCH, verbose=0)
        _draw_split(name, split, probabilities[split], labels[split], folder)
    temperature = fit_temperature(probabilities["val"], labels["val"])
    measures = {
        split: scores.score(probabilities[split], labels[split], temperature, settings.calibration_bins)
        | {"accuracy_mirrored": scores.accuracy(probabilities[split] + mirrored[split], labels[split])}
        for split in ("val", "test")
    }
    _write_per_class(
        {split: scores.per_class(probabilities[split], labels[split]) for split in ("val", "test")}, folder
    )
    draw_curves(folder.parent / "history", f"{name}, {dataset_name()}", folder / "curves.png")
    _draw_mistakes(probabilities["test"], labels["test"], settings.worst, folder / "mistakes.png")
    record_timing(name, ms_per_face=round(milliseconds["val"], 3))
    return {
        "data": dataset_name(),
        **measures,
        "temperature": temperature,
        "parameters": model.count_params(),
        "million_multiply_adds": round(networks.multiply_adds(model) / MILLION, 1),
        "megabytes": round((folder.parent / "model.keras").stat().st_size / MILLION, 2),
    }


def _draw_split(
    name: str, split: str, probabilities: scores.Probabilities, labels: scores.Labels, folder: Path
) -> None:
    matrix = scores.confusion(probabilities, labels)
    draw_confusion(matrix, f"{name} on {split} of {dataset_name()}", folder / f"confusion_{split}.png")
    # Sorted, so that the file tells the matrix and not the order of the data set's labels.
    pairs = sorted(zip(labels.tolist(), probabilities.argmax(axis=1).tolist(), strict=True))
    table = pd.DataFrame(
        [(EXPRESSIONS[true], EXPRESSIONS[answer]) for true, answer in pairs], columns=["actual", "predicted"]
    )
    with replacing(folder / f"confusion_{split}.csv") as temporary:
        table.to_csv(temporary, index=False)


def _write_per_class(classes: dict[str, list[scores.ClassScores]], folder: Path) -> None:
    rows = [{"split": split, **each._asdict()} for split, lines in classes.items() for each in lines]
    with replacing(folder / "per_class.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def _draw_mistakes(probabilities: scores.Probabilities, labels: scores.Labels, count: int, path: Path) -> None:
    """A sheet of the most confident wrong answers, a line per pair of true and answered expression, worst first."""
    answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    faces = np.rint(load_split("test")[0][worst] * 255).astype(np.uint8).reshape(-1, FACE_SIZE, FACE_SIZE)
    lines: dict[str, list[NDArray[np.uint8]]] = {}
    for face, row in zip(faces, worst, strict=True):
        lines.setdefault(f"{EXPRESSIONS[labels[row]]}, called {EXPRESSIONS[answers[row]]}", []).append(face)
    write_sheet(path, {title: np.stack(line) for title, line in lines.items()})


@explained
def main() -> None:
    """Evaluate the candidate named on the command line."""
    name, params = named_candidate("evaluate")
    folder = CANDIDATES / name / "evaluation"
    measures = evaluate(name, networks.load_trained(name), folder, params.evaluate)
    write_json(folder / "metrics.json", measures)
    print(f"{name}: accuracy {measures['val']['accuracy']:.1%} on val, {measures['test']['accuracy']:.1%} on test")


if __name__ == "__main__":
    main()
