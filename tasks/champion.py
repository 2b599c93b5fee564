"""The promoted model as a unit: one folder that is written whole, checked when loaded, and needs no TensorFlow to run.

models/champion/ holds model.keras (to train on or look into), model.tflite (what labelling runs), champion.json (what it is,
where it comes from, checksums) and card.md (the same for people). models/small/, the small edition, is of the same form without
model.keras; where no candidate is small enough for it, it holds only a card.md that says so.
"""

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.calibration import calibrate
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS
from tasks.files import exchange
from tasks.paths import CHAMPION
from tasks.quiet import quiet

INFO = "champion.json"
LITERT = "model.tflite"
KERAS = "model.keras"
CARD = "card.md"
BATCH = 128  # faces; larger ones are cut: no engine gets faster beyond it
MILLION = 1e6


class LiteRT:
    """A .tflite file's content on LiteRT's CPU engine; float32 faces in, float32 probabilities out.

    Args:
        content: of the file.
        threads: that work on one batch. A program with threads of its own gives 1: each of them gets its own interpreter.
    """

    def __init__(self, content: bytes, threads: int | None = None) -> None:
        self._content = content
        self._threads = threads or os.cpu_count()
        self._local = threading.local()

    def predict(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """Answer float32, shape (N, 7), for faces, float32, shape (N, 48, 48, 1), in [0, 1]; N may be 0."""
        parts = [self._run(faces[start : start + BATCH]) for start in range(0, len(faces), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, len(EXPRESSIONS)), np.float32)

    def _run(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        interpreter = self._laid_out_for(faces.shape)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(faces, np.float32))
        interpreter.invoke()
        answers: NDArray[np.float32] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return answers

    def _laid_out_for(self, shape: tuple[int, ...]) -> Any:
        """This thread's interpreter, with buffers for a batch of that shape."""
        from ai_edge_litert.interpreter import Interpreter

        if not hasattr(self._local, "interpreter"):
            self._local.interpreter = Interpreter(model_content=self._content, num_threads=self._threads)
            self._local.shape = None
        interpreter = self._local.interpreter
        if self._local.shape != shape:
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
            with quiet():  # it announces its delegate
                interpreter.allocate_tensors()
            self._local.shape = shape
        return interpreter


class Champion:
    """A loaded champion: what it is (`info`, `version`), and its calibrated answers."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.info: dict[str, Any] = _read_info(folder)
        contents = _read_files(folder, self.info["files"])
        self.version = str(self.info["version"])
        self._temperature = float(self.info["calibration"]["temperature"])
        self._network = LiteRT(contents[LITERT], threads)

    def predict(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated probabilities, float32, shape (N, 7), of faces, float32, shape (N, 48, 48, 1), in [0, 1]."""
        return calibrate(self._network.predict(faces), self._temperature)


def load(folder: Path = CHAMPION, threads: int | None = None) -> Champion:
    """Load the champion in `folder`, without TensorFlow, to run with that many threads (LiteRT says more).

    Raises:
        UserError: there is none, or a file of it is missing or not the one that was promoted.
    """
    try:
        return Champion(folder, threads)
    except UserError:
        # A new champion may have come between the reading of two files; then a second look finds a whole one.
        return Champion(folder, threads)


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if (folder / CARD).exists() and not (folder / LITERT).exists():
            raise UserError(f"no champion in {folder}; {folder / CARD} says why") from error
        raise UserError(f"no champion in {folder}; build one with: dvc repro") from error
    except ValueError as error:
        raise UserError(f"{folder / INFO} is damaged; restore it with: git checkout {folder}") from error
    whole = isinstance(info, dict) and {"version", "files", "calibration"} <= set(info)
    if not whole or not isinstance(info["files"], dict):
        raise UserError(
            f"{folder / INFO} is of another form than this version of ferflow writes; run: dvc repro promote"
        )
    return dict(info)


def _read_files(folder: Path, checksums: dict[str, str]) -> dict[str, bytes]:
    contents = {}
    for name, expected in checksums.items():
        path = folder / name
        contents[name] = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            state = "damaged" if contents[name] else "missing"
            raise UserError(
                f"{path} is {state} (its checksum is not champion.json's); restore it: git checkout {folder}"
            )
    return contents


def megabytes(folder: Path) -> float:
    """Size of a champion's folder."""
    return sum(file.stat().st_size for file in folder.iterdir()) / MILLION


def install(prepared: Path, folder: Path = CHAMPION) -> None:
    """Put the prepared folder in place of the champion in `folder` in one step: at any moment one whole champion is there.

    On Linux the two folders are exchanged by a single system call. Elsewhere there is a moment between two renames, and
    `recover` mends what a kill at that moment leaves.
    """
    for file in prepared.iterdir():
        _flush(file)
    if not folder.exists():
        os.rename(prepared, folder)
        return
    if not exchange(prepared, folder):
        previous = _previous(folder)
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(folder, previous)
        os.rename(prepared, folder)
        shutil.rmtree(previous)
        return
    shutil.rmtree(prepared)  # which holds the old champion now


def recover(folder: Path = CHAMPION) -> None:
    """Bring back a champion that a kill between install's two renames left under its other name."""
    if not folder.exists() and _previous(folder).exists():
        os.rename(_previous(folder), folder)


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _flush(file: Path) -> None:
    """Make sure that the content is on the disk before its name is: a rename may outlive a power cut, data may not."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
