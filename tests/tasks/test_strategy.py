"""`train.strategy: mirrored`, on two logical devices of this machine's processor in place of two GPUs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CANDIDATES, Workspace, kill
from prefect_server import wait_until

from tasks import train as stage

TWO_DEVICES = """
import tensorflow as tf

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
TRAIN = TWO_DEVICES + "from tasks.train import main; main()"
COMPARE = (
    TWO_DEVICES
    + """
import itertools, json, sys
from pathlib import Path

import numpy as np

from tasks import train as stage
from tasks.backend import keras
from tasks.checkpoint import Checkpoint
from tasks.params import Candidate
from tasks.teach import targets

recipes = [Candidate.model_validate(recipe) for recipe in json.loads(sys.argv[1])]
random = np.random.default_rng(0)
labels = random.integers(0, 7, 24)
faces, val = random.random((24, 48, 48, 1), np.float32), random.random((9, 48, 48, 1), np.float32)
data = stage.Data([faces], targets(labels, recipes[0]), val, labels[:9])
layers = keras.layers
for number, (recipe, strategy) in enumerate(itertools.product(recipes, ("none", "mirrored"))):
    keras.utils.set_random_seed(7)
    with stage.devices(strategy, recipe.batch):
        model = keras.Sequential(
            [
                keras.Input((48, 48, 1)),
                layers.Conv2D(4, 5, 4),
                layers.Conv2D(8, 5, 4),
                layers.Flatten(),
                layers.Dense(7, "softmax"),
            ]
        )
        checkpoint = Checkpoint(Path(sys.argv[2]) / str(number) / "epochs.npz", "", [], 60.0)
        stage.fit(model, data, recipe, 7, checkpoint)
    print(json.dumps([log[name] for name in ("val_loss", "loss") for log in checkpoint.logs]))
"""
)


def test_two_devices_learn_what_one_does(tmp_path: Path) -> None:
    """Where no layer looks at the whole batch: Adam and Muon, augmentation, class weights, smoothed labels."""
    change = {"batch": 8, "epochs": 3, "precision": "float32"}
    recipes = json.dumps([recipe | change for recipe in CANDIDATES.values()])
    command = [sys.executable, "-c", COMPARE, recipes, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    logs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert done.stdout.count("each batch is shared among 2 CPUs") == len(CANDIDATES)
    np.testing.assert_allclose(logs[::2], logs[1::2], rtol=1e-3)
    assert all(log[3] > log[5] for log in logs)  # the loss falls


@pytest.mark.parametrize(
    ("count", "devices", "batch"), [(3589, 1, 256), (40, 1, 40), (9, 2, 6), (257, 2, 254), (3589, 8, 248)]
)
def test_every_device_has_a_part_of_every_validation_batch(count: int, devices: int, batch: int) -> None:
    assert stage.validation_batch(count, devices) == batch


@pytest.fixture
def workspace(built: list[Workspace], tmp_path: Path) -> Workspace:
    """The code, the parameters and the arrays of a built workspace, with the strategy `mirrored`."""
    copy = Workspace(tmp_path / "mirrored")
    kept = ("tasks", "data/arrays", ".git")
    for name in kept:
        shutil.copytree(built[0].folder / name, copy.folder / name)
    shutil.copy(built[0].folder / "params.yaml", copy.folder)
    copy.change("train", strategy="mirrored")
    return copy


def test_a_killed_training_on_two_devices_goes_on_to_the_same_model(workspace: Workspace) -> None:
    from tasks.backend import keras

    checkpoint = workspace.folder / "models/unfinished/muon/epochs.npz"
    model = workspace.folder / "models/candidates/muon/model.keras"
    command = (sys.executable, "-c", TRAIN, "muon")
    process = workspace.start(*command)
    wait_until(checkpoint.exists, process)
    kill(process)
    done = workspace.run(*command)
    assert done.returncode == 0, done.stderr
    assert "muon: continuing after epoch" in done.stdout
    resumed = model.read_bytes()
    assert workspace.run(*command).returncode == 0
    assert model.read_bytes() == resumed
    loaded = keras.saving.load_model(model)  # plain Keras, on one device
    assert loaded.predict(np.zeros((1, 48, 48, 1)), verbose=0).sum() == pytest.approx(1, abs=1e-3)


def test_a_batch_that_cannot_be_shared_equally_is_refused(workspace: Workspace) -> None:
    workspace.change("candidates.small", batch=33)
    done = workspace.run(sys.executable, "-c", TRAIN, "small")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "ferflow: params.yaml: a batch of 33 cannot be divided equally among 2 devices (train.strategy: mirrored)"
    )
