"""The champion's card: what it is, how good, on what, and what it must not be used for, for people to read."""

from pathlib import Path
from typing import Any

from tasks.expressions import EXPRESSIONS
from tasks.files import replacing

CARD = "card.md"

TEMPLATE = """# {version}

Tells which of seven expressions a face shows: {expressions}. Input: grey faces of 48x48 px, float32, in [0, 1]; output:
seven probabilities, to be calibrated by temperature {temperature}. Network: `{candidate}` of ferflow's params.yaml,
{parameters:,} parameters, {million_multiply_adds:,} million multiply-adds a face.

## How good

| split | faces | accuracy | mean recall | macro-F1 | calibration error |
|---|---|---|---|---|---|
{splits}

Chosen on val (PublicTest); test (PrivateTest) was only reported. Recall on test:

| {expressions_row} |
|{rule}|
| {recalls} |

## Trained on

`{data}`: {train:,} faces, without copies of val and test faces, by the code `{code:.12}`. Weights: {weights}.
Labelling computes in {arithmetic}; its probabilities differ from the trained network's by {difference:.4f} on average.

## Use it for, and not for

For sorting and searching pictures, and for experiments. It reads posed or shown expressions, not what a person feels; people
themselves agree with FER2013's labels about 65 % of the time. Not for decisions about a person. It knows faces as the web showed
them in 2013: other ages, skins, cameras and angles may do worse, so measure on your own pictures first.
"""


def write_card(folder: Path, info: dict[str, Any]) -> None:
    """Write card.md from the content of champion.json into the champion's folder."""
    columns = ("accuracy", "mean_recall", "macro_f1", "calibration_error")
    splits = [
        f"| {split} | {info['data']['faces'][split]:,} | " + " | ".join(f"{scores[key]:.3f}" for key in columns) + " |"
        for split, scores in info["metrics"].items()
    ]
    text = TEMPLATE.format(
        version=info["version"],
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
        **info["size"],
    )
    with replacing(folder / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")
