"""Resumable training: what an epoch leaves behind, and how the next process goes on from there."""

import json
import math
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.backend import keras
from tasks.errors import UserError
from tasks.files import replacing
from tasks.params import Precision


class Checkpoint(keras.callbacks.Callback):
    """Keeps a training resumable: after each epoch every variable, the weights to keep and the log go to one file.

    The weights to keep are those of the best epoch, or the mean of those from epoch `first_averaged`, counted from 0, on.

    Must be the last callback: it saves what the others did, and on resuming replays the log through them, so that
    ReduceLROnPlateau, EarlyStopping and DVCLive are where they were.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: str,
        others: list[keras.callbacks.Callback],
        max_minutes: float,
        first_averaged: int | None = None,
    ) -> None:
        super().__init__()
        self.path, self.fingerprint, self.others = path, fingerprint, others
        self.max_seconds = max_minutes * 60
        self.logs: list[dict[str, float]] = []
        self.seconds = 0.0  # of training, over all its processes
        self.minutes: list[float] = []  # since the training began, at the end of each epoch
        self.precision: Precision | None = None  # set by train.py; a training ends in the numbers it began with
        self.stopped = ""  # why training ended before its planned epochs
        self.variables: list[NDArray[Any]] = []
        self.first_averaged = first_averaged
        self.kept: list[NDArray[Any]] = []
        self._load()

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.logs)

    @property
    def best_epoch(self) -> int:
        """Index of the epoch with the highest val accuracy, the first of equals."""
        return int(np.argmax([log["val_accuracy"] for log in self.logs]))

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Bring the callbacks, then the model and its optimizer, to the state they were saved in."""
        self.started = time.monotonic() - self.seconds
        for epoch, log in enumerate(self.logs):
            for other in self.others:
                other.on_epoch_end(epoch, dict(log))
        for variable, value in zip(self._all_variables(), self.variables, strict=bool(self.variables)):
            variable.assign(value)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save the epoch, unless its loss is no number."""
        self.logs.append({key: float(value) for key, value in (logs or {}).items()})
        if not all(math.isfinite(value) for value in self.logs[-1].values()):
            raise UserError(
                f"{self.path.parent.name}: the loss is no longer a number in epoch {epoch + 1}; lower the learning rate "
                "in params.yaml, or clip gradients (optimizer.options.global_clipnorm)"
            )
        self._keep(epoch)
        self.seconds = time.monotonic() - self.started
        self.minutes.append(round(self.seconds / 60, 2))
        if self.model.stop_training:
            self.stopped = "early_stopping"
        elif self.seconds > self.max_seconds and epoch + 1 < self.params["epochs"]:
            self.stopped = "max_minutes"
            self.model.stop_training = True
        self._save()

    def _keep(self, epoch: int) -> None:
        weights = self.model.get_weights()
        if self.first_averaged is not None and epoch > self.first_averaged:
            count = epoch - self.first_averaged + 1
            self.kept = [mean + (now - mean) / count for mean, now in zip(self.kept, weights, strict=True)]
        elif self.first_averaged is not None or self.best_epoch == epoch:
            self.kept = weights

    def _all_variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def _save(self) -> None:
        meta = {
            "fingerprint": self.fingerprint,
            "logs": self.logs,
            "minutes": self.minutes,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "precision": self.precision,
        }
        arrays = {f"variable_{i}": variable.numpy() for i, variable in enumerate(self._all_variables())}
        arrays |= {f"kept_{i}": weights for i, weights in enumerate(self.kept)}
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, meta=np.array(json.dumps(meta)), **arrays)

    def _load(self) -> None:
        if not self.path.exists():
            return
        try:
            with np.load(self.path) as saved:
                arrays = dict(saved)
            meta = json.loads(str(arrays.pop("meta")))
        except (EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:  # what a power cut may leave
            print(f"{self.path} is damaged ({error}); the training begins anew", flush=True)
            return
        if meta["fingerprint"] != self.fingerprint:
            return  # of other data, parameters or code: start afresh
        self.logs, self.minutes = meta["logs"], meta["minutes"]
        self.seconds, self.stopped, self.precision = meta["seconds"], meta["stopped"], meta["precision"]
        count = sum(name.startswith("variable_") for name in arrays)
        self.variables = [arrays[f"variable_{i}"] for i in range(count)]
        self.kept = [arrays[f"kept_{i}"] for i in range(len(arrays) - count)]
