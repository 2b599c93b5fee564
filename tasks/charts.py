"""The pictures of an evaluation and of the leaderboard, as PNG files that do not depend on the time of day."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.expressions import COLOURS, EXPRESSIONS
from tasks.files import replacing

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)


def draw_confusion(matrix: NDArray[np.int64], title: str, path: Path) -> None:
    """Draw a confusion matrix: counts, and shares of the true expression as shades."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(6.4, 5.6))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{matrix[row, column]}\n{share:.0%}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 0.5 else "black")  # noqa: PLR2004 - dark half of the shades
    axes.set_xticks(range(len(EXPRESSIONS)), EXPRESSIONS, rotation=35, ha="right")
    axes.set_yticks(range(len(EXPRESSIONS)), EXPRESSIONS)
    axes.set(xlabel="predicted", ylabel="actual", title=title)
    _save(figure, path)


def draw_curves(history: Path, title: str, path: Path) -> None:
    """Draw DVCLive's loss and accuracy over the epochs, on train (as augmented) and val."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for axis, measure in zip(axes, ("loss", "accuracy"), strict=True):
        for folder, name in (("train", "train"), ("eval", "val")):
            log = pd.read_csv(history / "plots" / "metrics" / folder / f"{measure}.tsv", sep="\t")
            axis.plot(log["step"] + 1, log[measure], marker=".", label=name)
        axis.set(xlabel="epoch", ylabel=measure)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    _save(figure, path)


def draw_leaderboard(table: pd.DataFrame, fine: "pd.Series[bool]", path: Path) -> None:
    """Draw each candidate's accuracy on val (bar) and test (mark), best on top.

    Args:
        table: columns candidate, val_accuracy, test_accuracy, best first.
        fine: by row, whether it passes all bars; the others are grey.
        path: the PNG to write.
    """
    rows = table.iloc[::-1]
    figure, axes = plt.subplots(figsize=(7.5, 0.45 * len(rows) + 1.2))
    bars = axes.barh(
        rows["candidate"], rows["val_accuracy"], color=np.where(fine.iloc[::-1], COLOURS["fear"], "#cccccc")
    )
    axes.bar_label(
        bars, labels=[f"{accuracy:.1%}" for accuracy in rows["val_accuracy"]], label_type="center", fontsize=9
    )
    axes.plot(rows["test_accuracy"], rows["candidate"], "D", color="black", markersize=4)
    axes.set(xlim=(0, 1), xlabel="accuracy: bar on val, mark on test; grey is refused by the bars in params.yaml")
    _save(figure, path)
