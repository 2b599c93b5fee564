"""Reading params.yaml: every knob has a name, a type and a range, and a mistake is told by name."""

import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS, FACE_SIZE

PARAMS = Path("params.yaml")

Share = Annotated[float, Field(ge=0, le=1)]
# Folders of data/ to learn from; the answers of one who is taught are in a later folder than those it learned from.
Labels = Literal["arrays", "taught", "taught_again", "taught_thrice", "taught_fourth"]
Precision = Literal["float32", "bfloat16", "fastest"]  # of a training's numbers; fastest: see tasks/precision.py
EXPONENT = "YAML reads a number with an exponent only with its point, as in 1.0e-3"
NUMBER = re.compile(r"[+-]?\d[\d.]*(e[+-]?\d+)?", re.IGNORECASE)
NAME = re.compile(r"\w[\w-]*")  # of a candidate: part of paths, of commands, and of keys that DVC parts at points


class Loader(yaml.SafeLoader):
    """YAML's own, which refuses a key that a section has twice: else the last one would win without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it stands in the file, before `<<` brings others' keys into it."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


class Section(BaseModel):
    """A part of params.yaml: unknown keys and wrong types are errors, not silence."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Ingest(Section):
    """Where the raw data lies."""

    source: str


class Parse(Section):
    """What may be wrong with the rows."""

    max_rejected: Share


class Train(Section):
    """What all trainings share."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]  # NumPy takes no larger one
    max_minutes: PositiveFloat
    strategy: Literal["none", "mirrored"] = "none"  # mirrored: each batch is shared among the machine's GPUs


class Optimizer(Section):
    """A Keras optimizer by name; `options` go to it as they are."""

    name: Literal["adam", "sgd", "muon"]
    learning_rate: PositiveFloat
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _options_are_numbers(self) -> "Optimizer":
        # Keras refuses unknown names, but takes a wrong value until the first step, or passes it over.
        for name, value in self.options.items():
            if isinstance(value, str) and NUMBER.fullmatch(value):
                raise ValueError(f"options.{name} is '{value}', a text; {EXPONENT}, and without quotes")
            if not (isinstance(value, int | float) and value >= 0):
                raise ValueError(f"options.{name} is {value!r}; it should be a number, not negative, or true or false")
            if name == "use_ema":  # Keras's average comes at the end of a fit, where the kept weights come back
                raise ValueError("options.use_ema has no effect here; to average weights, see `averaged`")
            if name == "ns_steps" and type(value) is not int:
                raise ValueError(f"options.ns_steps is {value}; it should be a whole number")
        return self


class Augment(Section):
    """How far training faces are changed; all off by default. See tasks/augment.py."""

    mirror: bool = False
    rotate: NonNegativeFloat = 0.0  # degrees, either way
    shift: Share = 0.0  # share of the side, either way
    zoom: Share = 0.0  # share, in or out
    shear: Share = 0.0
    contrast: Share = 0.0
    brightness: Share = 0.0
    shade: Share = 0.0  # how much lighter one edge may be, and darker the opposite one
    blur: NonNegativeFloat = 0.0  # px, the widest blur's standard deviation; half of the faces are sharpened instead
    compress: Share = 0.0  # share of faces that go through JPEG
    erase: Share = 0.0  # share of faces that lose a square


class Size(Section):
    """A part of a training that shows smaller pictures: quicker. See tasks/batches.py."""

    until: Share  # of the epochs
    pixels: Annotated[int, Field(ge=16, le=FACE_SIZE)]  # side of the pictures
    crop: bool = False  # so many pixels of the face, in place of the whole face made smaller


class Plateau(Section):
    """ReduceLROnPlateau on val_loss."""

    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: PositiveInt


class Taught(Section):
    """Learning from what trained candidates answer for the same faces; see tasks/teach.py."""

    by: Annotated[list[str], Field(min_length=1)]  # of `teachers`, with answers in the candidate's folder `labels`
    share: Share  # of each target that is their mean answer; the rest is the data set's label


class SelfTaught(Section):
    """Learning from one's own earlier answers; see tasks/self_taught.py."""

    since: Share  # of the epochs; its answers of the epochs from here ...
    until: Share  # ... to here are averaged; later epochs learn them
    share: Share  # of each later target that is the face's mean answer; the rest is its label


class Candidate(Section):
    """A network and the recipe that trains it."""

    network: str
    options: dict[str, Any] = {}
    labels: Labels  # the folder of data/ that has what it learns from; dvc.yaml needs it
    taught: Taught | None = None
    self_taught: SelfTaught | None = None
    epochs: PositiveInt
    batch: PositiveInt
    precision: Precision
    optimizer: Optimizer
    schedule: Literal["constant", "cosine"] = "constant"
    averaged: Share | None = None  # from this share of the epochs on, `schedule` is held and the weights are averaged
    plateau: Plateau | None = None
    early_stopping: PositiveInt | None = None  # epochs without a better val_loss
    label_smoothing: Share = 0.0
    lowest_recall: Share = 0.0  # of every expression on val; what is answered too seldom is then answered more readily
    class_weights: dict[str, PositiveFloat] = {}  # in the loss, by a target's likeliest expression; others count 1
    frozen_until: str | None = None  # layers up to this one keep their weights; their output is computed once
    augment: Augment = Augment()
    nothing: Share = 0.0  # share of pictures in which no face is, to be answered by equal probabilities
    mixup: NonNegativeFloat = 0.0  # of the beta distribution that two mixed faces' shares are drawn from; 0 mixes none
    sizes: list[Size] = []  # of the pictures, part after part; the rest of the epochs has them whole

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Candidate":
        if (self.labels != "arrays") != (self.taught is not None):
            raise ValueError("`labels: taught` (or _again, _thrice, _fourth) and the section `taught` go together")
        if self.plateau and self.schedule != "constant":
            raise ValueError("plateau changes a rate that `schedule` sets already; use one of them")
        if self.frozen_until and self.augment != Augment(mirror=self.augment.mirror):
            raise ValueError("frozen features are computed once, so `augment` can only mirror")
        if self.frozen_until and (self.sizes or self.nothing):
            raise ValueError(
                "frozen features are of whole faces; neither `sizes` nor `nothing` goes with `frozen_until`"
            )
        if self.self_taught and (self.mixup or self.frozen_until):
            raise ValueError("`self_taught` needs the answers for single, whole faces: no `mixup`, no `frozen_until`")
        if self.averaged is not None and (self.plateau or self.early_stopping):
            raise ValueError("`averaged` holds the rate to the last epoch: no `plateau`, no `early_stopping`")
        if self.self_taught:
            since, until = (round(part * self.epochs) for part in (self.self_taught.since, self.self_taught.until))
            if since >= until:
                raise ValueError(
                    f"self_taught.since must come before self_taught.until, in whole epochs of {self.epochs}"
                )
            if until >= self.epochs:
                raise ValueError("after self_taught.until no epoch is left that would learn the answers")
        for name in self.class_weights:
            if name not in EXPRESSIONS:
                raise ValueError(f"class_weights: no expression '{name}'{_nearest(name, list(EXPRESSIONS))}")
        ends = [size.until for size in self.sizes]
        if ends != sorted(set(ends)):
            raise ValueError("each of `sizes` must end after the one before it")
        return self

    @property
    def first_averaged(self) -> int | None:
        """The first epoch, from 0, whose weights are part of the average; None where there is none."""
        return None if self.averaged is None else round(self.averaged * self.epochs)


class Evaluate(Section):
    """How candidates are measured."""

    calibration_bins: PositiveInt
    worst: PositiveInt  # faces on the sheet of the most confident mistakes


class Promote(Section):
    """The bars a candidate must pass, on val, to become champion."""

    min_accuracy: Share
    min_class_recall: Share
    max_predicted_share: Share  # of one expression; a collapsed network says one thing only
    max_megabytes: PositiveFloat  # of the whole champion folder
    small_megabytes: PositiveFloat  # of the small edition's whole folder
    max_disagreement: PositiveFloat  # in a probability, of its two forms and of weights in half precision
    max_int8_difference: NonNegativeFloat  # of probabilities, on average, in 8-bit arithmetic


class Gate(Section):
    """When a challenger replaces the champion; see tasks/judge.py. Differences are of accuracies or recalls, 0 to 1."""

    split: Literal["val", "test"] = "val"  # the faces that both are judged on
    min_gain: Share = 0.005
    max_p: Share = 0.1  # of McNemar's test; above it a gain may be chance
    max_class_drop: Share = 0.03  # of any expression's recall
    max_megabytes: PositiveFloat = 20.0  # of the whole champion folder
    max_slowdown: PositiveFloat = 1.5  # milliseconds a face on one core, as a multiple of the champion's
    refresh: bool = True  # one trained on newer data need not be better
    refresh_tolerance: Share = 0.0  # how much worse it may then be


class Yunet(Section):
    """YuNet's options; see tasks/faces.py."""

    min_score: Share = 0.7
    overlap: Share = 0.3


class Haar(Section):
    """The Haar cascade's options; see tasks/faces.py."""

    scale_factor: Annotated[float, Field(gt=1)] = 1.1
    min_neighbors: NonNegativeInt = 3
    min_size: PositiveInt = 20


class Label(Section):
    """How photos are labelled. Every key has a default: `ferflow label` also runs where no params.yaml is."""

    detector: Literal["yunet", "haar"] = "yunet"
    long_side: Annotated[int, Field(ge=64)] = 640  # px, of the picture that the detector sees
    yunet: Yunet = Yunet()
    haar: Haar = Haar()
    whole: bool = False  # images are faces cut out already; those of 48x48 px are taken so anyway
    mirror: bool = True  # average the answers for a photo's face and its mirror image: twice the network's work
    min_confidence: Share = 0.5  # faces under it get the review flag
    max_megapixels: PositiveFloat = 200.0  # larger images are refused by their header

    def detector_options(self) -> dict[str, Any]:
        """The options of the chosen detector."""
        section: Section = getattr(self, self.detector)
        return section.model_dump() | {"long_side": self.long_side}


class Footage(Section):
    """How videos are looked at. Has defaults for the same reason as Label."""

    every: NonNegativeFloat = 0.2  # s between the frames that are looked at; 0: all frames
    start: NonNegativeFloat = 0.0  # s
    stop: PositiveFloat | None = None  # s
    smooth: NonNegativeFloat = 0.4  # s, over which expressions are averaged (standard deviation of a Gaussian)

    @model_validator(mode="after")
    def _has_a_part_to_look_at(self) -> "Footage":
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop, {self.stop:g} s, must come after start, {self.start:g} s")
        return self


class Drift(Section):
    """When labels have drifted from the champion's own; see tasks/drift.py. Has defaults for the same reason as Label."""

    max_psi: PositiveFloat = 0.25
    max_confidence_drop: Share = 0.1  # in mean confidence


class Retrain(Section):
    """The nightly rebuild; see flows/retrain.py."""

    stage_hours: PositiveFloat = 12.0  # a stage that takes longer is ended


class Params(Section):
    """The whole of params.yaml, a section per stage."""

    ingest: Ingest
    parse: Parse
    train: Train
    candidates: Annotated[dict[str, Candidate], Field(min_length=1)]
    teachers: dict[str, Labels]  # whose answers others learn from, and the folder for them
    evaluate: Evaluate
    promote: Promote
    gate: Gate = Gate()
    label: Label = Label()
    video: Footage = Footage()
    drift: Drift = Drift()
    retrain: Retrain = Retrain()

    @model_validator(mode="after")
    def _candidates_have_names(self) -> "Params":
        for name in self.candidates:
            if not NAME.fullmatch(name):
                raise ValueError(f"candidates: '{name}' is no name; use letters, digits, - and _")
        return self

    @model_validator(mode="after")
    def _teachers_can_teach(self) -> "Params":
        for name, folder in self.teachers.items():
            if name not in self.candidates:
                raise ValueError(f"teachers: no candidate '{name}'{_nearest(name, list(self.candidates))}")
            if get_args(Labels).index(folder) <= get_args(Labels).index(self.candidates[name].labels):
                labels = self.candidates[name].labels
                raise ValueError(
                    f"teachers: '{name}' learns from data/{labels}; its answers cannot be in data/{folder}"
                )
        for name, candidate in self.candidates.items():
            for teacher in candidate.taught.by if candidate.taught else ():
                if teacher not in self.teachers_of(name):
                    raise ValueError(f"candidates.{name}.taught.by: `teachers` has no '{teacher}: {candidate.labels}'")
        return self

    def candidate(self, name: str) -> Candidate:
        """The candidate called `name`; UserError with the nearest right name if there is none."""
        if name not in self.candidates:
            raise UserError(f"no candidate '{name}' in params.yaml{_nearest(name, list(self.candidates))}")
        return self.candidates[name]

    def teachers_of(self, name: str) -> list[str]:
        """The candidates whose answers are in the folder that this one learns from."""
        return [teacher for teacher, folder in self.teachers.items() if folder == self.candidates[name].labels]


def load(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.

    Raises:
        UserError: names the key that is missing, unknown (with the nearest right one) or of the wrong type.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except FileNotFoundError as error:
        raise UserError(f"no {path} here; run ferflow in the folder of the pipeline") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not YAML: it is not UTF-8 text ({error.reason})") from error
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{path}{_line(error)} is not YAML: {problem}") from error
    except ValueError as error:  # a date such as 2026-13-01
        raise UserError(f"{path} has a value that cannot be read: {error}") from error
    if content is None:
        raise UserError(f"{path} is empty; it should have the sections {', '.join(Params.model_fields)}")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        # Unknown keys first: a misspelt one explains the missing one.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        raise UserError(f"{path}: " + "; ".join(_describe(problem) for problem in problems[:3])) from error


def named_candidate(stage: str) -> tuple[str, Params]:
    """The candidate that the command line of such a stage names, and params.yaml.

    Raises:
        UserError: there is no such candidate, or not one word on the command line; or as `load`.
    """
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and one name
        raise UserError(f"usage: python -m tasks.{stage} NAME, where NAME is a candidate of params.yaml")
    params = load()
    params.candidate(sys.argv[1])
    return sys.argv[1], params


def load_label(options: Mapping[str, Any] = MappingProxyType({}), path: Path = PARAMS) -> Label:
    """The section `label`, or its defaults where there is no params.yaml, with the keys in `options` in their place.

    Raises:
        UserError: as `load`; or names the option that is unknown or of the wrong type.
    """
    values = (load(path).label if path.exists() else Label()).model_dump()
    for name, value in options.items():
        section = values.get(name)
        values[name] = section | dict(value) if isinstance(section, dict) and isinstance(value, Mapping) else value
    with _named("label"):
        return Label.model_validate(values)


def load_footage(options: Mapping[str, Any] = MappingProxyType({}), path: Path = PARAMS) -> Footage:
    """The section `video`, or its defaults, with the keys in `options` in their place; UserError as `load_label`."""
    values = (load(path).video if path.exists() else Footage()).model_dump() | dict(options)
    with _named("video"):
        return Footage.model_validate(values)


def load_drift(path: Path = PARAMS) -> Drift:
    """The section `drift`, or its defaults where there is no params.yaml; UserError as `load`."""
    return load(path).drift if path.exists() else Drift()


@contextmanager
def _named(section: str) -> Iterator[None]:
    """Turn what is wrong with a section that is validated alone into a UserError that names it."""
    try:
        yield
    except ValidationError as error:
        problems = [problem | {"loc": (section, *problem["loc"])} for problem in error.errors()]
        raise UserError("; ".join(map(_describe, problems))) from error


def _line(error: yaml.YAMLError) -> str:
    """Where in the file a YAML error is, if it says so."""
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}," if mark else ""


def _describe(error: Any) -> str:
    """One problem in words: where, what, and the nearest right key."""
    place = ".".join(str(part) for part in error["loc"]) or "the file"
    if error["type"] == "extra_forbidden":
        return f"unknown key {place}{_nearest(str(error['loc'][-1]), _keys(error['loc'][:-1]))}"
    if error["type"] == "invalid_key":
        return f"unknown key {place}, which is no text"
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}"
    expected = re.sub("^(Input|List|Dictionary) ", "", error["msg"]).partition(" or instance of")[0]
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        expected = "should be a section of keys and values"
    if error["type"] == "float_type" and NUMBER.fullmatch(str(error["input"])):
        expected += f"; {EXPONENT}"
    return f"{place} is {error['input']!r}; it {expected}"


def _keys(location: tuple[str | int, ...]) -> list[str]:
    """The keys that a section at this place may have."""
    section: Any = Params
    for part in location:
        if isinstance(part, int):  # a place in a list, of which the sections are known already
            continue
        if section is Params and part == "candidates":
            section = dict
        elif section is dict:
            section = Candidate
        else:
            annotation = section.model_fields[part].annotation
            kinds = [annotation, *getattr(annotation, "__args__", ())]
            section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    return list(section.model_fields) if section is not dict else []


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
