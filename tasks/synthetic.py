"""The made set: drawn faces in fer2013.csv's form, to try the pipeline without FER2013. Nobody's face is in it.

    ferflow made --rows 2000 --out made_faces.csv

Schematic heads whose brows, eyes and mouth follow the seven expressions, in random place, size, tilt, light and noise.
A network that trains well on FER2013 passes 90 % on them within a few epochs; that says nothing about real faces.
"""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS, FACE_SIZE, SPLIT_OF_USAGE
from tasks.files import replacing

FEWEST_ROWS = 200  # fewer, and the unusable rows would be more than the 1 % that parse.max_rejected allows
SHARE_OF_USAGE = {"Training": 0.8, "PublicTest": 0.1, "PrivateTest": 0.1}
# FER2013's own proportions, but for disgust: its 1.5 % would be three faces in a small test split.
SHARES = (0.13, 0.04, 0.14, 0.24, 0.16, 0.12, 0.17)

# Training rows with a planted fault, under the names that parse gives them: a test face's copy, a train face's copy, both
# rows of two pairs with different labels, a row with a pixel too few and one with a pixel too bright.
DEFECTS = {"in_val_or_test": 3, "copy_in_train": 3, "labels_disagree": 4, "wrong count": 1, "outside 0-255": 1}

SCALE = 4  # faces are drawn so many times larger and shrunk, for soft edges
CANVAS = FACE_SIZE * SCALE
SHIFT = 4  # cv2 takes coordinates in 1/2**SHIFT px

Point = tuple[float, float]  # x to the right, y down, in half widths of the head, from between the eyes


class Look(NamedTuple):
    """What makes an expression, after the action units of Ekman and Friesen's FACS; 0 everywhere would be neutral."""

    brow: float = 0.0  # raised
    slant: float = 0.0  # inner ends of the brows raised (sad, fear) or lowered (angry)
    eye: float = 0.0  # opened wider
    smile: float = 0.0  # corners of the mouth up
    opening: float = 0.0  # of the mouth
    width: float = 0.0  # of the mouth
    wrinkles: float = 0.0  # across the nose
    sneer: float = 0.0  # one side of the upper lip raised


LOOKS = {
    "angry": Look(brow=-0.10, slant=-0.22, eye=-0.03, smile=-0.06, opening=0.05, width=-0.06),
    "disgust": Look(brow=-0.06, slant=-0.08, eye=-0.08, smile=-0.10, opening=0.05, wrinkles=1.0, sneer=0.22),
    "fear": Look(brow=0.10, slant=0.16, eye=0.09, smile=-0.08, opening=0.17, width=0.10),
    "happy": Look(brow=0.04, eye=-0.03, smile=0.24, opening=0.10, width=0.16),
    "sad": Look(brow=0.02, slant=0.22, eye=-0.05, smile=-0.20, width=-0.06),
    "surprise": Look(brow=0.22, eye=0.10, opening=0.34, width=-0.14),
    "neutral": Look(),
}


class Row(NamedTuple):
    """A row of fer2013.csv."""

    label: int
    pixels: str
    usage: str


class _Pen:
    """Draws on a canvas in the head's own coordinates: moved, scaled and tilted as the head is."""

    def __init__(self, canvas: NDArray[np.uint8], centre: Point, unit: float, tilt: float) -> None:
        self.canvas, self.centre, self.unit, self.tilt = canvas, centre, unit, tilt

    def _place(self, points: list[Point]) -> NDArray[np.int32]:
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        turned = np.array(points) @ np.array([[cos, sin], [-sin, cos]]) * self.unit + self.centre
        placed: NDArray[np.int32] = np.rint(turned * (1 << SHIFT)).astype(np.int32)
        return placed

    def ellipse(self, centre: Point, axes: Point, grey: float) -> None:
        """A filled ellipse."""
        angles = np.linspace(0, 2 * math.pi, 32, endpoint=False)
        self.fill([(centre[0] + axes[0] * math.cos(a), centre[1] + axes[1] * math.sin(a)) for a in angles], grey)

    def fill(self, points: list[Point], grey: float) -> None:
        """A filled polygon."""
        import cv2

        cv2.fillPoly(self.canvas, [self._place(points)], float(round(grey)), cv2.LINE_AA, SHIFT)

    def line(self, points: list[Point], thickness: float, grey: float) -> None:
        """An open line through the points; thickness in the head's units."""
        import cv2

        pen = max(1, round(thickness * self.unit))
        cv2.polylines(self.canvas, [self._place(points)], False, float(round(grey)), pen, cv2.LINE_AA, SHIFT)


def draw_face(expression: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one face with the given expression, uint8, shape (48, 48); everything else about it is random."""
    import cv2

    canvas = np.full((CANVAS, CANVAS), round(rng.uniform(30, 200)), np.uint8)
    centre = (CANVAS * rng.uniform(0.45, 0.55), CANVAS * rng.uniform(0.37, 0.46))
    pen = _Pen(canvas, centre, CANVAS * rng.uniform(0.33, 0.43), math.radians(rng.uniform(-12, 12)))
    strength = rng.uniform(0.75, 1.15)
    look = Look(*(value * strength for value in LOOKS[expression]))
    skin = rng.uniform(110, 220)
    _draw_head(pen, skin, rng)
    _draw_eyes_and_brows(pen, look, skin)
    _draw_nose(pen, look, skin)
    _draw_mouth(pen, look, skin)
    small = cv2.resize(canvas, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_AREA)
    return _light(small.astype(np.float32), rng)


def _draw_head(pen: _Pen, skin: float, rng: np.random.Generator) -> None:
    hair = skin * rng.uniform(0.15, 0.6)
    pen.ellipse((0, 0.05), (1.12, 1.25), hair)
    length = rng.uniform(1.15, 1.3)
    pen.ellipse((0, 0.25), (0.98, length), skin)
    fringe = rng.uniform(-0.75, -0.6)
    pen.fill([(-0.9, -0.3), (-0.6, fringe), (0.6, fringe), (0.9, -0.3), (0.6, -1.05), (-0.6, -1.05)], hair)


def _draw_eyes_and_brows(pen: _Pen, look: Look, skin: float) -> None:
    for side in (-1, 1):
        height = 0.14 + look.eye
        pen.ellipse((side * 0.42, 0), (0.21, max(0.05, height)), 245)
        pen.ellipse((side * 0.42, 0.01), (0.09, min(0.12, max(0.05, height))), 15)
        middle = -0.34 - look.brow
        inner, outer = (side * 0.17, middle - look.slant), (side * 0.7, middle + 0.05 + look.slant * 0.4)
        arch = (side * 0.44, middle - 0.06 - 0.2 * max(0.0, look.brow))
        pen.line([inner, arch, outer], 0.1, skin * 0.25)


def _draw_nose(pen: _Pen, look: Look, skin: float) -> None:
    pen.line([(0.0, 0.15), (-0.13, 0.5), (0.12, 0.52)], 0.05, skin * 0.65)
    if look.wrinkles:
        for height in (0.08, 0.2, 0.32):
            pen.line([(-0.18, height + 0.05), (0, height - 0.05), (0.18, height + 0.05)], 0.045, skin * 0.45)


def _draw_mouth(pen: _Pen, look: Look, skin: float) -> None:
    """Two lips as parabolas between the corners; between them the dark of the mouth, with teeth if it is wide."""
    half, middle = 0.4 + look.width, 0.86
    across = np.linspace(-1, 1, 15)
    bend = look.smile * (1 - across**2)
    lift = look.sneer * np.clip(across, 0, None)
    upper = middle - look.smile / 2 + bend - look.opening * (1 - across**2) - lift
    lower = middle - look.smile / 2 + bend + look.opening * (1 - across**2)
    lips = list(zip(across * half, upper, strict=True)), list(zip(across * half, lower, strict=True))
    pen.fill(lips[0] + lips[1][::-1], 25)
    if look.width > 0:
        teeth = np.minimum(upper + 0.13, lower)
        pen.fill(lips[0] + list(zip(across * half, teeth, strict=True))[::-1], 240)
    for lip in lips:
        pen.line(lip, 0.08, skin * 0.4)


def _light(face: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light from one side, a random contrast and brightness, and the camera's noise."""
    across = np.linspace(-1, 1, FACE_SIZE, dtype=np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    slope = math.cos(angle) * across[np.newaxis] + math.sin(angle) * across[:, np.newaxis]
    lit = face * (1 + rng.uniform(0, 0.35) * slope)
    lit = 128 + (lit - 128) * rng.uniform(0.55, 1.1) + rng.uniform(-30, 30)
    lit += rng.normal(0, rng.uniform(2, 8), face.shape)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def make_rows(rows: int, seed: int) -> list[Row]:
    """Draw a made set of `rows` rows, Training first, with the faults of DEFECTS among the Training rows.

    Raises:
        UserError: fewer rows than FEWEST_ROWS.
    """
    if rows < FEWEST_ROWS:
        raise UserError(f"a made set has {FEWEST_ROWS} rows at least, not {rows}")
    rng = np.random.default_rng(seed)
    made: list[Row] = []
    for usage, share in SHARE_OF_USAGE.items():
        count = rows - len(made) if usage == "PrivateTest" else round(rows * share)
        made += [Row(label, _text(draw_face(EXPRESSIONS[label], rng)), usage) for label in _labels(count, rng)]
    return _with_defects(made, rng)


def _labels(count: int, rng: np.random.Generator) -> list[int]:
    """`count` labels, one of each at least and the others in SHARES' proportions, shuffled."""
    others = np.rint(np.cumsum(SHARES) / sum(SHARES) * (count - len(SHARES))).astype(int)
    labels = np.repeat(np.arange(len(SHARES)), np.diff(others, prepend=0) + 1)
    return [int(label) for label in rng.permutation(labels)]


def _text(face: NDArray[np.uint8]) -> str:
    return " ".join(map(str, face.ravel().tolist()))


def _with_defects(made: list[Row], rng: np.random.Generator) -> list[Row]:
    """Replace random Training rows by faulty ones, as many as DEFECTS says; no row takes part in two faults."""
    faulty = list(made)
    train = iter(rng.permutation([i for i, row in enumerate(made) if row.usage == "Training"]).tolist())
    test = iter(rng.permutation([i for i, row in enumerate(made) if SPLIT_OF_USAGE[row.usage] == "test"]).tolist())
    for _ in range(DEFECTS["in_val_or_test"]):
        faulty[next(train)] = made[next(test)]._replace(usage="Training")
    for _ in range(DEFECTS["copy_in_train"]):
        faulty[next(train)] = made[next(train)]
    for _ in range(DEFECTS["labels_disagree"] // 2):
        twin = made[next(train)]
        faulty[next(train)] = twin._replace(label=(twin.label + 1) % len(EXPRESSIONS))
    place = next(train)
    faulty[place] = made[place]._replace(pixels=made[place].pixels.rpartition(" ")[0])
    place = next(train)
    faulty[place] = made[place]._replace(pixels=made[place].pixels.rpartition(" ")[0] + " 256")
    return faulty


def write_made_csv(path: Path, rows: int, seed: int) -> None:
    """Write a made set in fer2013.csv's form; the same rows and seed give the same bytes.

    Raises:
        UserError: fewer rows than FEWEST_ROWS, or `path` is something else than a file, which must not be replaced.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file, to be replaced by one; name a csv to write")
    made = make_rows(rows, seed)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("emotion", "pixels", "Usage"))
        writer.writerows(made)
