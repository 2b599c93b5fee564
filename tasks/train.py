"""Stage `train`: fit one candidate of params.yaml on the training arrays.

    python -m tasks.train residual

Reads data/arrays/, writes models/candidates/NAME/: model.keras (the epoch with the best val accuracy, or an average of the
last ones; float32, plain Keras layers), history/ (DVCLive), training.json; and models/timings/. Killed at any moment, the same
command goes on after the last finished epoch (models/unfinished/NAME/) and ends with the same bytes as an undisturbed run.
"""

import hashlib
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks import networks, precision
from tasks.averaging import Held, renormalise
from tasks.backend import keras, tf
from tasks.batches import steps_per_epoch, training_batches
from tasks.checkpoint import Checkpoint
from tasks.errors import UserError, explained
from tasks.expressions import EXPRESSIONS, FACE_SIZE
from tasks.files import replacing, sha256, write_json
from tasks.muon import ConvolutionMuon
from tasks.params import Candidate, Params, Train, named_candidate
from tasks.parse import load_split, write_npy
from tasks.paths import CANDIDATES, UNFINISHED
from tasks.recall import raise_recall
from tasks.self_taught import SelfTaught
from tasks.teach import targets
from tasks.timings import record_timing

VERBOSE = 1 if sys.stdout.isatty() else 2  # Keras's progress bar, or a line an epoch
VAL_BATCH = 256
WARM_UP = 0.04  # share of a cosine schedule spent rising to the full rate


class Data(NamedTuple):
    """What a network is trained and chosen on: faces, or frozen features of them."""

    views: list[NDArray[np.float32]]  # (N, ...) each: the faces, or features of the faces and of their mirror images
    targets: NDArray[np.float32]  # (N, 7): the probabilities to be answered
    val: NDArray[np.float32]  # (M, ...)
    val_labels: NDArray[np.int64]  # (M,)


def load_data(recipe: Candidate) -> Data:
    """The arrays, and what the recipe says is to be answered for those of train."""
    faces, labels = load_split("train")
    return Data([faces], targets(labels, recipe), *load_split("val"))


def make_optimizer(recipe: Candidate, steps: int) -> keras.optimizers.Optimizer:
    """The recipe's optimizer for `steps` updates; its rate is constant or a warm-up and cosine to zero, or to a rate held."""
    rate: Any = recipe.optimizer.learning_rate
    if recipe.schedule == "cosine":
        warm_up = max(1, round(WARM_UP * steps))
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warm_up), warmup_target=rate, warmup_steps=warm_up
        )
        if recipe.first_averaged is not None:
            # Never a rate of the warm-up, which begins with 0.
            rate = Held(rate, max(warm_up, recipe.first_averaged * steps // recipe.epochs))
    makers = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD, "muon": ConvolutionMuon}
    try:
        return makers[recipe.optimizer.name](rate, **recipe.optimizer.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"params.yaml, options of the optimizer '{recipe.optimizer.name}': {error}") from error


def plain(model: keras.Model, weights: list[NDArray[Any]]) -> keras.Model:
    """The same network in float32 and Keras's own layers, so that a model file needs nothing of this project's."""

    def as_plain(layer: keras.Layer) -> keras.Layer:
        fused = isinstance(layer, networks.FusedBatchNormalization)
        kind = keras.layers.BatchNormalization if fused else type(layer)
        return kind.from_config(layer.get_config() | {"dtype": "float32"})

    uncompiled = keras.Model(model.inputs, model.outputs)
    faces = keras.Input((FACE_SIZE, FACE_SIZE, 1), name="faces")  # one that trained on several sizes takes any, too
    clone = keras.models.clone_model(uncompiled, input_tensors=[faces], clone_function=as_plain)
    clone.set_weights(weights)
    return clone


def split_at(model: keras.Model, layer: str) -> tuple[keras.Model, keras.Model]:
    """Cut a sequential trunk: the layers up to and with `layer` (frozen), and those after it (trained).

    Raises:
        UserError: the model has no such layer, or cannot be cut there.
    """
    names = [each.name for each in model.layers]
    if layer not in names:
        raise UserError(f"params.yaml: frozen_until names '{layer}'; the network's layers are {', '.join(names)}")
    cut = model.get_layer(layer).output
    try:
        return keras.Model(model.input, cut), keras.Model(cut, model.output)
    except ValueError as error:
        raise UserError(
            f"params.yaml: frozen_until names '{layer}', where the network cannot be cut: later layers need more than its "
            "output, or none is left to train"
        ) from error


def check_sizes(model: keras.Model, recipe: Candidate) -> None:
    """Raise UserError if the network halves the recipe's smallest pictures to nothing: within a training, nothing tells."""
    for side in (size.pixels for size in recipe.sizes):
        try:
            model.compute_output_shape((1, side, side, 1))
        except ValueError as error:
            raise UserError(
                f"params.yaml: the network '{recipe.network}' halves pictures more often than those of {side} px (`sizes`) "
                "can be; give it larger ones, or fewer stages"
            ) from error


def frozen(trunk: keras.Model, data: Data, mirror: bool, folder: Path) -> Data:
    """Replace faces by the trunk's output for them, and for their mirror images if `mirror`.

    Computed once and kept in `folder` until the training is done, so that neither an epoch nor a restart repeats it.
    """
    views = [_features(trunk, data.views[0], folder / "train.npy")]
    if mirror:
        views.append(_features(trunk, data.views[0][:, :, ::-1], folder / "mirrored.npy"))
    return Data(views, data.targets, _features(trunk, data.val, folder / "val.npy"), data.val_labels)


def _features(trunk: keras.Model, faces: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    with suppress(FileNotFoundError, EOFError, ValueError):  # the last two: what a power cut may leave
        kept: NDArray[np.float32] = np.load(path)
        return kept
    print(f"computing frozen features of {len(faces):,} faces, once", flush=True)
    features: NDArray[np.float32] = trunk.predict(faces, batch_size=VAL_BATCH, verbose=VERBOSE).astype(np.float32)
    with replacing(path) as temporary, temporary.open("wb") as file:
        write_npy(file, features.dtype, features.shape, [features])
    return features


def train(name: str, params: Params) -> None:
    """Fit the candidate and write its files; see the module's docstring."""
    started = time.monotonic()
    recipe, seed = params.candidate(name), params.train.seed
    data = load_data(recipe)
    fingerprint = _fingerprint(recipe, params.train, data)
    checkpoint = Checkpoint(
        UNFINISHED / name / "epochs.npz",
        fingerprint,
        make_callbacks(name, recipe),
        params.train.max_minutes,
        recipe.first_averaged,
    )
    checkpoint.precision = precision.use(checkpoint.precision or recipe.precision)
    print(f"{name}: computing in {checkpoint.precision}", flush=True)
    keras.utils.set_random_seed(seed)
    # A small head on kept features has nothing to share, and the answers of a face are in one place.
    strategy = "none" if recipe.frozen_until or recipe.self_taught else params.train.strategy
    with devices(strategy, recipe.batch):
        model = trained = networks.build(recipe.network, None if recipe.sizes else FACE_SIZE, **recipe.options)
        check_sizes(model, recipe)
        if recipe.frozen_until:
            trunk, trained = split_at(model, recipe.frozen_until)
            kept = UNFINISHED / name / f"{fingerprint[:12]}-{checkpoint.precision}"
            data = frozen(trunk, data, recipe.augment.mirror, kept)
        if recipe.self_taught:
            trained = SelfTaught(model, recipe, len(data.targets), seed)
        if not checkpoint.epochs:
            checkpoint.seconds = time.monotonic() - started  # what frozen features took
        else:
            print(f"{name}: continuing after epoch {checkpoint.epochs} of {recipe.epochs}", flush=True)
        fit(trained, data, recipe, seed, checkpoint)
        trained.set_weights(checkpoint.kept)
        if recipe.averaged is not None:
            renormalise(trained, training_batches(data.views, data.targets, recipe, seed, recipe.epochs - 1))
    finished = plain(model, model.get_weights())
    missed = raise_recall(finished, *load_split("val"), recipe.lowest_recall) if recipe.lowest_recall else []
    if missed:
        print(f"{name}: too far below its lowest_recall to be raised to it: {', '.join(missed)}", flush=True)
    _write(name, finished, recipe, checkpoint)
    shutil.rmtree(UNFINISHED / name)


def devices(strategy: str, batch: int) -> AbstractContextManager[Any]:
    """The scope in which a network is made, so that it trains on the devices that `train.strategy` says.

    Mirrored, every GPU (where none is, every CPU device) has the network and takes an equal part of each batch; gradients are
    added up. Normalisation and `global_clipnorm` see a device's part alone.

    Raises:
        UserError: the batch cannot be divided equally; gradients would be weighted wrongly.
    """
    if strategy == "none":
        return nullcontext()
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    names = [device.name for device in tf.config.list_logical_devices(kind)]
    if batch % len(names):
        raise UserError(
            f"params.yaml: a batch of {batch} cannot be divided equally among {len(names)} devices (train.strategy: mirrored)"
        )
    print(f"each batch is shared among {len(names)} {kind}{'' if len(names) == 1 else 's'}", flush=True)
    scope: AbstractContextManager[Any] = tf.distribute.MirroredStrategy(names).scope()
    return scope


def make_callbacks(name: str, recipe: Candidate) -> list[keras.callbacks.Callback]:
    """Keras's callbacks that the recipe asks for, and DVCLive's log, begun anew: the checkpoint replays what is done.

    Raises:
        UserError: Git's repository has no commit yet, to which DVCLive could refer.
    """
    from dvclive.keras import DVCLiveCallback
    from dvclive.live import Live
    from scmrepo.exceptions import SCMError

    callbacks: list[keras.callbacks.Callback] = []
    if recipe.plateau:
        callbacks.append(keras.callbacks.ReduceLROnPlateau("val_loss", recipe.plateau.factor, recipe.plateau.patience))
    if recipe.early_stopping:
        callbacks.append(keras.callbacks.EarlyStopping("val_loss", patience=recipe.early_stopping))
    history = CANDIDATES / name / "history"
    shutil.rmtree(history, ignore_errors=True)
    try:
        live = Live(str(history), dvcyaml=None, save_dvc_exp=False, report=None)
    except SCMError as error:
        raise UserError(
            f"DVCLive's log of a training refers to a commit, and Git says: {error}. "
            'If there is none yet, make one: git add --all && git commit -m "My pipeline"'
        ) from error
    return [*callbacks, DVCLiveCallback(live=live)]


def compile_for(model: keras.Model, recipe: Candidate, steps: int) -> None:
    """Give the model the recipe's optimizer, for so many updates, and loss."""
    model.compile(
        make_optimizer(recipe, steps),
        keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
        # Given by its name, it would be made within the first step, which TensorFlow would then trace twice.
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        jit_compile=False,  # XLA is four times slower here
    )
    model.optimizer.build(model.trainable_variables)


def fit(model: keras.Model, data: Data, recipe: Candidate, seed: int, checkpoint: Checkpoint) -> None:
    """Run the epochs that are not yet done; afterwards `checkpoint` holds the log and the best weights."""
    steps = steps_per_epoch(len(data.targets), recipe.batch)
    compile_for(model, recipe, steps * recipe.epochs)
    val_targets = np.eye(len(EXPRESSIONS), dtype=np.float32)[data.val_labels]
    val_batch = validation_batch(len(data.val), model.distribute_strategy.num_replicas_in_sync)
    weights = {i: recipe.class_weights.get(name, 1.0) for i, name in enumerate(EXPRESSIONS)}
    model.fit(
        training_batches(data.views, data.targets, recipe, seed, checkpoint.epochs),
        epochs=checkpoint.epochs if checkpoint.stopped else recipe.epochs,
        initial_epoch=checkpoint.epochs,
        steps_per_epoch=steps,
        validation_data=tf.data.Dataset.from_tensor_slices((data.val, val_targets)).batch(val_batch).prefetch(2),
        class_weight=weights if recipe.class_weights else None,
        callbacks=[*checkpoint.others, checkpoint],
        shuffle=False,  # the batches come shuffled
        verbose=VERBOSE,
    )


def validation_batch(count: int, devices: int) -> int:
    """The largest batch up to VAL_BATCH of which every device always has a part, of the last batch, too.

    Keras looks at the first one as if its parts were equal, and kernels refuse an empty part. TensorFlow gives each device
    ceil(batch / devices) of what is left: the last device has some if there are more than (devices - 1)^2.
    """
    batches = range(min(VAL_BATCH, count) // devices * devices, 0, -devices)
    return next((b for b in batches if count % b == 0 or count % b > (devices - 1) ** 2), devices)


def _write(name: str, model: keras.Model, recipe: Candidate, checkpoint: Checkpoint) -> None:
    """Write the model, what is to be known of its training, and (unhashed: it never repeats) how long it took."""
    folder = CANDIDATES / name
    networks.save(model, folder / "model.keras")
    record = {
        "network": recipe.network,
        "parameters": model.count_params(),
        "precision": checkpoint.precision,
        "epochs_planned": recipe.epochs,
        "epochs": checkpoint.epochs,
        "best_epoch": checkpoint.best_epoch + 1 if recipe.averaged is None else None,
        "stopped": checkpoint.stopped or "finished",
    }
    write_json(folder / "training.json", record)
    record_timing(name, train_minutes=round(checkpoint.seconds / 60, 1), epoch_minutes=checkpoint.minutes)


def _fingerprint(recipe: Candidate, shared: Train, data: Data) -> str:
    """What a checkpoint must agree on to be continued: recipe, seed, strategy, data, code and library."""
    parts = [recipe.model_dump_json(), str(shared.seed), shared.strategy, tf.__version__, keras.__version__]
    arrays = (*data.views, data.targets, data.val, data.val_labels)
    parts += [hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for array in arrays]
    parts += [sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@explained
def main() -> None:
    """Train the candidate named on the command line."""
    train(*named_candidate("train"))


if __name__ == "__main__":
    main()
