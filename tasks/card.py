"""The card of a champion: what it is, how good, on what, and what it must not be used for, for people to read."""

from pathlib import Path
from typing import Any

import yaml

from tasks.champion import CARD, LITERT, MILLION
from tasks.expressions import EXPRESSIONS
from tasks.files import replacing
from tasks.params import Candidate
from tasks.paths import CHAMPION, TIMINGS

TEMPLATE = """# {title}

{edition}Tells which of seven expressions a face shows: {expressions}. Input: grey faces of 48x48 px, float32, in [0, 1]; output:
seven probabilities, to be calibrated by temperature {temperature}. Network: `{candidate}` of ferflow's params.yaml,
{parameters:,} parameters, {million_multiply_adds:,} million multiply-adds a face, {megabytes:.2f} MB in {file}.

## How good

| split | faces | accuracy | with mirror images | mean recall | macro-F1 | calibration error |
|---|---|---|---|---|---|---|
{splits}

With mirror images: the probabilities of a face and of its mirror image averaged, as `ferflow label` does by default.

Chosen on val (PublicTest); test (PrivateTest) was only reported. Recall on test:

| {expressions_row} |
|{rule}|
| {recalls} |

## Trained on

`{data}`: {train:,} faces, without copies of val and test faces, by the code `{code:.12}`. Weights: {weights}.
Labelling computes in {arithmetic}; its probabilities differ from the trained network's by {difference:.4f} on average.

## How it was trained

Seed {seed}; {epochs} of {epochs_planned} epochs{stopped}; the weights are {which}. The recipe, in the
words of params.yaml, without what is at its default:

```yaml
{recipe}```

How many minutes it took is in `{timings}`: two trainings end with the same bytes, but not after the same time. Its
limit was {max_minutes:g} minutes (`train.max_minutes`).

## Use it for, and not for

For sorting and searching pictures, and for experiments. It reads posed or shown expressions, not what a person feels; people
themselves agree with FER2013's labels about 65 % of the time. Not for decisions about a person. It knows faces as the web showed
them in 2013: other ages, skins, cameras and angles may do worse, so measure on your own pictures first.
"""

SMALL_EDITION = """The small edition, for phones and live video: the best candidate that takes at most {limit:g} MB with all
that is in this folder (`promote.small_megabytes`). It has no model.keras; the best one of any size is in `{champion}`.

"""

NO_SMALL_EDITION = """# No small edition

Every candidate that passes the bars takes more than {limit:g} MB (`promote.small_megabytes` in params.yaml) with its card and
champion.json, so this folder holds no model. The champion is in `{champion}`.
"""


def write_card(folder: Path, info: dict[str, Any], limit: float | None = None) -> None:
    """Write card.md into a champion's folder.

    Args:
        folder: holds model.tflite.
        info: the content of champion.json.
        limit: MB that the folder may have, for the card of a small edition.
    """
    columns = ("accuracy", "accuracy_mirrored", "mean_recall", "macro_f1", "calibration_error")
    splits = [
        f"| {split} | {info['data']['faces'][split]:,} | " + " | ".join(f"{scores[key]:.3f}" for key in columns) + " |"
        for split, scores in info["metrics"].items()
    ]
    recipe = Candidate.model_validate(info["parameters"]["candidate"])
    stopped = info["training"]["stopped"]
    text = TEMPLATE.format(
        title=info["version"] if limit is None else f"{info['version']}, small edition",
        edition="" if limit is None else SMALL_EDITION.format(limit=limit, champion=CHAMPION),
        candidate=info["candidate"],
        expressions=", ".join(EXPRESSIONS),
        temperature=info["calibration"]["temperature"],
        splits="\n".join(splits),
        expressions_row=" | ".join(EXPRESSIONS),
        rule="|".join("---" for _ in EXPRESSIONS),
        recalls=" | ".join(f"{info['recall'][name]:.2f}" for name in EXPRESSIONS),
        data=info["data"]["name"],
        train=info["data"]["faces"]["train"],
        code=info["code"],
        weights=info["weights"],
        arithmetic=info["litert"]["arithmetic"],
        difference=info["litert"]["mean_difference"],
        megabytes=(folder / LITERT).stat().st_size / MILLION,
        file=LITERT,
        epochs=info["training"]["epochs"],
        epochs_planned=recipe.epochs,
        which=which_weights(info["training"], recipe),
        stopped="" if stopped == "finished" else f"; ended by `{stopped}`",
        recipe=_recipe(recipe),
        timings=TIMINGS / f"{info['candidate']}.json",
        **info["parameters"]["train"],
        **info["size"],
    )
    _write(folder, text)


def which_weights(training: dict[str, Any], recipe: Candidate) -> str:
    """Which weights of the training a champion has."""
    if recipe.first_averaged is None:
        return f"those after epoch {training['best_epoch']}"
    several = training["epochs"] > recipe.first_averaged + 1  # cut short, there may be none after the first
    return "an average of the last ones (`averaged`)" if several else "those of the last epoch"


def write_card_of_none(folder: Path, limit: float) -> None:
    """Write a card that says why there is no small edition: no candidate fits in so many MB."""
    _write(folder, NO_SMALL_EDITION.format(limit=limit, champion=CHAMPION))


def _write(folder: Path, text: str) -> None:
    with replacing(folder / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _recipe(recipe: Candidate) -> str:
    """A candidate's recipe as YAML, without what has its default."""
    content = recipe.model_dump(exclude_defaults=True)
    return str(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120))
