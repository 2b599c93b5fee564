"""The seven expressions of FER2013 and its three splits: names, order and colours. Every other file takes them from here.

Source: Goodfellow et al., "Challenges in Representation Learning" (2013), https://arxiv.org/abs/1307.0414.
"""

from collections.abc import Mapping
from types import MappingProxyType

# FER2013's own order: the label in the csv is the index in this tuple.
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

# In the same order, the names that the tutorial gives them.
PORTUGUESE = ("raiva", "nojo", "medo", "feliz", "triste", "surpreso", "neutro")

# One colour each for charts and boxes, as hex RGB; told apart also by readers who do not see red and green (Okabe-Ito).
COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "angry": "#D55E00",
        "disgust": "#009E73",
        "fear": "#56B4E9",
        "happy": "#E69F00",
        "sad": "#0072B2",
        "surprise": "#CC79A7",
        "neutral": "#7F7F7F",
    }
)

SPLITS = ("train", "val", "test")

# The csv's column Usage, and the beginnings of file names in the image-folder form.
SPLIT_OF_USAGE: Mapping[str, str] = MappingProxyType({"Training": "train", "PublicTest": "val", "PrivateTest": "test"})

# How the folders of an image tree are usually named.
LABEL_OF_FOLDER: Mapping[str, int] = MappingProxyType(
    {name: label for label, name in enumerate(EXPRESSIONS)}
    | {"anger": 0, "disgusted": 1, "fearful": 2, "happiness": 3, "sadness": 4, "surprised": 5}
)

LABEL_OF_NAME: Mapping[str, int] = MappingProxyType(
    {**LABEL_OF_FOLDER, **{name: label for label, name in enumerate(PORTUGUESE)}}
)

FACE_SIZE = 48  # px, both sides of a FER2013 image


def label_of(name: str) -> int | None:
    """An expression's index by any of its English or Portuguese names, as people write them; None for other texts."""
    return LABEL_OF_NAME.get("".join(name.split()).casefold())
