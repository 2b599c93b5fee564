"""Stage `promote`: rank the candidates on val and make the best one that passes the bars the champion.

    python -m tasks.promote

The best one that is small enough becomes the small edition; that may be the champion, too. Reads models/candidates/*/, writes
models/leaderboard.csv and .png, models/champion/ and models/small/ (see tasks/champion.py). When no candidate passes, it fails
with the table, and the old champion and small edition stay as they are.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks import champion
from tasks.calibration import calibrate
from tasks.card import write_card, write_card_of_none
from tasks.charts import draw_leaderboard
from tasks.drift import OWN, answers
from tasks.errors import UserError, explained
from tasks.files import read_json, replacing, sha256, write_json
from tasks.params import Params, Promote, load
from tasks.parse import load_split
from tasks.paths import ARRAYS, CANDIDATES, CHAMPION, INGESTED, LEADERBOARD, QUALITY, SMALL

if TYPE_CHECKING:
    from tasks.export import Forms

PREPARED, PREPARED_SMALL, TRIED = (CHAMPION.with_name(f".{name}.part") for name in ("champion", "small", "tried"))
CHOSEN, CHOSEN_SMALL, PASSED = "champion", "small edition", "passed"  # verdicts; others are reasons against a candidate
MEASURES = ("accuracy", "accuracy_mirrored", "macro_f1")  # on both splits
LIBRARIES = ("tensorflow", "keras", "ai-edge-litert", "numpy")


def leaderboard(measures: dict[str, dict[str, Any]], bars: Promote) -> pd.DataFrame:
    """Rank candidates by val accuracy, then by size.

    Args:
        measures: the content of metrics.json by candidate.
        bars: what a champion must reach on val.

    Returns:
        One row per candidate, best first: candidate, val_accuracy, test_accuracy, ..., verdict (passed, or the reason).
    """
    rows = [
        {
            "candidate": name,
            **{f"{split}_{key}": each[split][key] for key in MEASURES for split in ("val", "test")},
            "val_lowest_recall": each["val"]["lowest_recall"],
            "val_largest_share": each["val"]["largest_share"],
            "test_calibration_error": each["test"]["calibration_error"],
            "parameters": each["parameters"],
            "million_multiply_adds": each["million_multiply_adds"],
            "megabytes": each["megabytes"],
            "verdict": verdict(each["val"], bars),
        }
        for name, each in measures.items()
    ]
    table = pd.DataFrame(rows)
    return table.sort_values(
        ["val_accuracy", "parameters", "candidate"], ascending=[False, True, True], ignore_index=True
    )


def verdict(val: dict[str, float], bars: Promote) -> str:
    """PASSED, or the first bar that the measures on val do not reach."""
    if val["largest_share"] > bars.max_predicted_share:
        return f"collapsed: one answer for {val['largest_share']:.0%} of the faces"
    if val["accuracy"] < bars.min_accuracy:
        return f"accuracy under {bars.min_accuracy:.0%}"
    if val["lowest_recall"] < bars.min_class_recall:
        return f"an expression's recall under {bars.min_class_recall:.0%}"
    return PASSED


def prepare(name: str, params: Params, folder: Path) -> None:
    """Build the whole champion folder from a candidate.

    Raises:
        UserError: its two forms disagree, or it is too large.
    """
    from tasks.export import export  # imports TensorFlow

    folder.mkdir(parents=True)
    faces, _ = load_split("val")
    bars = params.promote
    forms = export(CANDIDATES / name / "model.keras", folder, faces, bars.max_disagreement, bars.max_int8_difference)
    info = describe(name, params, folder, forms)
    probabilities = champion.LiteRT((folder / champion.LITERT).read_bytes()).predict(faces)
    info[OWN] = answers(calibrate(probabilities, info["calibration"]["temperature"]))
    write_json(folder / champion.INFO, info)
    write_card(folder, info)
    megabytes = champion.megabytes(folder)
    if megabytes > bars.max_megabytes:
        raise UserError(f"its champion folder has {megabytes:.1f} MB, more than {bars.max_megabytes:.1f}")


def describe(name: str, params: Params, folder: Path, forms: "Forms") -> dict[str, Any]:
    """What champion.json says: version, origin, data, checksums, parameters, libraries, measures, calibration."""
    measures = json.loads((CANDIDATES / name / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    training = json.loads((CANDIDATES / name / "training.json").read_text(encoding="utf-8"))
    per_class = pd.read_csv(CANDIDATES / name / "evaluation" / "per_class.csv")
    source = json.loads((INGESTED / "source.json").read_text(encoding="utf-8"))
    quality = json.loads((QUALITY / "quality.json").read_text(encoding="utf-8"))
    files = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    return {
        "version": f"{name}-{files[champion.LITERT][:8]}",
        "candidate": name,
        "data": {
            "name": source["data"],
            "faces": {split: sum(counts.values()) for split, counts in quality["faces"].items()},
            "expressions_in_train": quality["faces"]["train"],
            "sha256": {path.name: sha256(path) for path in sorted(ARRAYS.glob("*.npy"))},
        },
        "files": files,
        "weights": forms.weights,
        "litert": {"arithmetic": forms.arithmetic, "mean_difference": round(forms.difference, 5)},
        "parameters": {"train": params.train.model_dump(), "candidate": params.candidate(name).model_dump()},
        "training": {key: training[key] for key in ("epochs", "best_epoch", "stopped")},
        "code": code_checksum(),
        "libraries": {library: version(library) for library in LIBRARIES},
        "metrics": {split: measures[split] for split in ("val", "test")},
        "recall": per_class[per_class["split"] == "test"].set_index("expression")["recall"].to_dict(),
        "size": {key: measures[key] for key in ("parameters", "million_multiply_adds")},
        "calibration": {"method": "temperature scaling, fitted on val", "temperature": measures["temperature"]},
    }


def code_checksum() -> str:
    """SHA-256 over the code in tasks/: a Git commit would also name the time of day, and two equal runs would differ."""
    checksums = [sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256("".join(checksums).encode()).hexdigest()


def slim(whole: Path, folder: Path, limit: float) -> bool:
    """Build a small edition from a champion's folder: all but model.keras. Returns whether it has `limit` MB at most."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(whole / champion.LITERT, folder)
    info = json.loads((whole / champion.INFO).read_text(encoding="utf-8"))
    del info["files"][champion.KERAS]
    write_json(folder / champion.INFO, info)
    write_card(folder, info, limit)
    return champion.megabytes(folder) <= limit


def promote(table: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Install the best candidate that passes as champion, and the best that is small enough as the small edition.

    Returns the table with the final verdicts. When no candidate passes, nothing is installed.
    """
    try:
        for place in table.index[table["verdict"] == PASSED]:
            if _prepared(table, place, params, PREPARED):
                table.loc[place, "verdict"] = CHOSEN
                _prepare_small(table, params)
                champion.install(PREPARED_SMALL, SMALL)
                champion.install(PREPARED)
                break
    finally:
        for leftover in (PREPARED, PREPARED_SMALL, TRIED):
            shutil.rmtree(leftover, ignore_errors=True)
    return table


def _prepared(table: pd.DataFrame, place: int, params: Params, folder: Path) -> bool:
    """Prepare the candidate in that row; False, with the reason as its verdict, if it cannot be champion."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        prepare(str(table.loc[place, "candidate"]), params, folder)
    except UserError as error:
        table.loc[place, "verdict"] = str(error)
        return False
    return True


def _prepare_small(table: pd.DataFrame, params: Params) -> None:
    """Build the small edition from the best candidate that fits, the champion if it does; else a card that says so."""
    limit = params.promote.small_megabytes
    if slim(PREPARED, PREPARED_SMALL, limit):
        return
    # A parameter takes a byte or more: larger ones need no try.
    may_fit = (table["verdict"] == PASSED) & (table["parameters"] <= limit * champion.MILLION)
    for place in table.index[may_fit]:
        if _prepared(table, place, params, TRIED) and slim(TRIED, PREPARED_SMALL, limit):
            table.loc[place, "verdict"] = CHOSEN_SMALL
            return
    shutil.rmtree(PREPARED_SMALL)
    PREPARED_SMALL.mkdir()
    write_card_of_none(PREPARED_SMALL, limit)


def read_measures(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """metrics.json of each candidate that has a model; those whose training failed have none."""
    measures: dict[str, dict[str, Any]] = {}
    for name in names:
        model, path = CANDIDATES / name / "model.keras", CANDIDATES / name / "evaluation" / "metrics.json"
        if model.exists() and path.exists():
            measures[name] = read_json(path)
            if measures[name] is None:
                raise UserError(f"{path} is damaged; make it anew with: dvc repro --force evaluate@{name}")
    return measures


@explained
def main() -> None:
    """Rank, promote, write the leaderboard."""
    params = load()
    for folder in (CHAMPION, SMALL):
        champion.recover(folder)
    measures = read_measures(params.candidates)
    if not measures:
        raise UserError("no candidate is trained and evaluated; run: dvc repro")
    load_split("val")  # if there is none, that is no candidate's fault
    table = promote(leaderboard(measures, params.promote), params)
    with replacing(LEADERBOARD) as temporary:
        table.to_csv(temporary, index=False)
    fine = table["verdict"].isin([CHOSEN, CHOSEN_SMALL, PASSED])
    draw_leaderboard(table, fine, LEADERBOARD.with_suffix(".png"))
    lines = table[["candidate", "val_accuracy", "test_accuracy", "verdict"]].to_string(index=False)
    if CHOSEN not in set(table["verdict"]):
        raise UserError(
            f"no candidate passes the bars of `promote` in params.yaml; the champion stays as it was\n{lines}"
        )
    title = (SMALL / champion.CARD).read_text(encoding="utf-8").partition("\n")[0]
    print(f"{lines}\n{SMALL}: {title.removeprefix('# ')}")


if __name__ == "__main__":
    main()
