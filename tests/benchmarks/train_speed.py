"""How fast every candidate of params.yaml trains, beside plain Keras and beside what this machine's convolutions can do.

    python tests/benchmarks/train_speed.py                                        # all candidates, a quarter of an hour
    python tests/benchmarks/train_speed.py --candidate large --candidate residual
    python tests/benchmarks/train_speed.py --candidate large --memory             # is glibc's malloc in the way?
    python tests/benchmarks/train_speed.py --candidate large --onednn             # what oneDNN's convolutions are worth
    python tests/benchmarks/train_speed.py --candidate large --profile            # where a step's time goes

Each candidate has a process of its own, in which all that is compared takes turns; every other round takes them in reverse.
The first round compiles and does not count. A turn lasts SECONDS, or --images if these are quicker, and is timed from the
end of its first step. Faces are random: speed does not depend on them. The columns, medians of the rounds:

    images/s        the recipe as `ferflow` trains it, with whole faces of 48 px
    over sizes      the same over the whole training, if the recipe has `sizes`: all images by all time, validation apart
    GFLOPS          6 x multiply-adds x images/s; what is frozen counts neither as work nor as time
    of ceiling      GFLOPS by those of one 3x3 convolution alone, forward and backward, batch 128: the mean of SHAPES, in
                    bfloat16 or float32, whichever is faster
    plain           images/s of Keras's own layers and `fit` on arrays: float32, the recipe's optimizer, no augmentation
    times plain     images/s by plain, and the least and the most that a round saw
    augmentation    share of a step's time that goes away without augmentation and mixup; below zero is noise
"""

import argparse
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tasks import networks, precision
from tasks.backend import keras, tf
from tasks.batches import schedule, training_batches
from tasks.errors import UserError, explained
from tasks.expressions import EXPRESSIONS, FACE_SIZE
from tasks.params import Augment, Candidate, load
from tasks.quiet import quiet
from tasks.train import compile_for, plain, split_at

ROOT = Path(__file__).parents[2]
SECONDS = 2.0  # of a turn
FEWEST = 2  # steps of a turn, however slow
FEATURES = 8  # times --images where what is frozen leaves little to do
LONGER = 1000  # times the recipe's epochs: no turn reaches a training's end
SHAPES = {"32x48": (32, 48), "64x24": (64, 24), "128x12": (128, 12), "256x6": (256, 6)}  # channels x side of the maps
SHAPES_BATCH = 128
NUMBERS = ("bfloat16", "float32")
REPETITIONS = 7  # of a convolution alone, in a turn
MEMORY = {  # two ways to run the same training, each with its environment
    "glibc as it is": "",
    "memory kept": "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=40000000000 MALLOC_TOP_PAD_=268435456 MALLOC_ARENA_MAX=1",
}
ONEDNN = {"TensorFlow's own": "TF_ENABLE_ONEDNN_OPTS=0", "oneDNN's": "TF_ENABLE_ONEDNN_OPTS=1"}  # likewise
GROUPS = {  # what the profiler's names tell; the first that fits
    "augmentation": ("tf_data",),
    "optimizer": ("/convolution_muon/", "/adam/", "/sgd/"),
    "convolutions": ("Conv2D", "Conv2d"),
    "normalisation": ("batch_normalization", "BatchNorm"),
    "activations": ("/activation", "Relu", "Elu"),
    "pooling": ("pool", "Pool"),
    "the rest": ("",),
}

Turn = Callable[[], float]  # works for a while and tells how fast
Speeds = dict[str, np.ndarray]  # of each way, a number a round


class Fit:
    """`model.fit` as a turn: images a second."""

    def __init__(self, model: keras.Model, *data: Any, batch: int, images: int, **options: Any) -> None:
        self.fit = partial(model.fit, *data, verbose=0, **options)
        self.batch, self.steps, self.most = batch, FEWEST, images // batch

    def __call__(self) -> float:
        ends: list[float] = []
        clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: ends.append(time.perf_counter()))
        self.fit(steps_per_epoch=1 + self.steps, callbacks=[clock])
        seconds = (ends[-1] - ends[0]) / self.steps
        self.steps = max(FEWEST, min(self.most, int(SECONDS / seconds)))
        return self.batch / seconds


def build(recipe: Candidate) -> tuple[keras.Model, keras.Model]:
    """What the recipe trains, and the same of Keras's own layers in float32; compiled."""
    precision.use(recipe.precision)
    own = networks.build(recipe.network, None if recipe.sizes else FACE_SIZE, **recipe.options)
    keras.config.set_dtype_policy("float32")
    other = plain(own, own.get_weights())
    if recipe.frozen_until:
        own, other = (split_at(model, recipe.frozen_until)[1] for model in (own, other))
    for model in (own, other):
        compile_for(model, recipe, LONGER * recipe.epochs)
    return own, other


def fits(recipe: Candidate, images: int) -> tuple[dict[str, Turn], int]:
    """All ways to train it, and the multiply-adds of an image."""
    own, other = build(recipe)
    images *= FEATURES if recipe.frozen_until else 1
    faces = np.random.default_rng(7).random((images + recipe.batch, *other.input_shape[1:]), np.float32)
    labels = np.arange(len(faces)) % len(EXPRESSIONS)
    views = [faces] * (2 if recipe.frozen_until and recipe.augment.mirror else 1)

    def ferflow(changed: Candidate, first_epoch: int = 0) -> Fit:
        batches = training_batches(views, targets, changed, 7, first_epoch)
        return Fit(own, batches, batch=recipe.batch, images=images, shuffle=False)

    longer = recipe.model_copy(update={"epochs": LONGER * recipe.epochs})
    whole = longer.model_copy(update={"sizes": []})
    targets = np.eye(len(EXPRESSIONS), dtype=np.float32)[labels]
    ways: dict[str, Turn] = {
        "own": ferflow(whole),
        "plain": Fit(other, faces, targets, batch=recipe.batch, images=images, batch_size=recipe.batch),
    }
    if recipe.mixup or (recipe.augment != Augment() and not recipe.frozen_until):
        ways["without augmentation"] = ferflow(whole.model_copy(update={"augment": Augment(), "mixup": 0.0}))
    for start, _, size in schedule(longer):
        if size:
            ways[str(size)] = ferflow(longer, start)
    return ways, networks.multiply_adds(other)


def convolution(channels: int, side: int, numbers: str) -> Turn:
    """One 3x3 convolution and its two gradients in float32 or bfloat16: GFLOPS."""
    work = 6 * SHAPES_BATCH * side**2 * 9 * channels**2 / 1e9
    step = precision.convolution((SHAPES_BATCH, side, side, channels), numbers)

    def turn() -> float:
        times = [time.perf_counter()]
        for _ in range(REPETITIONS):
            step()
            times.append(time.perf_counter())
        return float(work / np.median(np.diff(times)))

    return turn


def measure(recipe: Candidate, images: int, rounds: int) -> tuple[Speeds, int]:
    """Speeds of each way to train the candidate and of each convolution, and the multiply-adds of an image."""
    ways, work = fits(recipe, images)
    ways |= {f"{shape} {kind}": convolution(*sizes, kind) for kind in NUMBERS for shape, sizes in SHAPES.items()}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for each in range(rounds + 1):
        for name in list(ways)[:: -1 if each % 2 else 1]:
            speeds[name].append(ways[name]())
    return {name: np.array(measured[1:]) for name, measured in speeds.items()}, work


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def row(name: str, recipe: Candidate, speeds: Speeds, work: int) -> str:
    """A line of the table."""
    own, times = speeds["own"], speeds["own"] / speeds["plain"]
    gflops = 6 * work * own / 1e9
    ceiling = np.max([np.mean([speeds[f"{shape} {kind}"] for shape in SHAPES], axis=0) for kind in NUMBERS], axis=0)
    parts = schedule(recipe)
    seconds = sum((end - start) / speeds[str(size) if size else "own"] for start, end, size in parts) / recipe.epochs
    over = f"{np.median(1 / seconds):.0f}" if recipe.sizes else "-"
    augmentation = "-"
    if "without augmentation" in speeds:
        augmentation = f"{np.median(1 - own / speeds['without augmentation']):.0%}"
    return (
        f"{name:14}{np.median(own):9,.0f}{over:>12}{np.median(gflops):8.0f}{np.median(gflops / ceiling):12.0%}"
        f"{np.median(speeds['plain']):8,.0f}{np.median(times):7.2f} ({times.min():.2f}-{times.max():.2f}){augmentation:>14}"
    )


def compare(candidates: dict[str, Candidate], images: int, rounds: int) -> None:
    """Print the table, a line as soon as it is known, and the ceiling."""
    print(f"{'candidate':14}{'images/s':>9}{'over sizes':>12}{'GFLOPS':>8}{'of ceiling':>12}", end="")
    print(f"{'plain':>8}{'times plain':>19}{'augmentation':>14}")
    measured = []
    for name, recipe in candidates.items():
        try:
            speeds, work = in_process(measure, recipe, images, rounds)
        except UserError as error:  # VGG16's weights may not be to be had
            print(f"{name:14} not measured: {error}", flush=True)
            continue
        print(row(name, recipe, speeds, work), flush=True)
        measured.append(speeds)
    for kind in NUMBERS if measured else ():
        alone = {shape: np.median([speeds[f"{shape} {kind}"] for speeds in measured]) for shape in SHAPES}
        listed = ", ".join(f"{shape} {speed:.0f}" for shape, speed in alone.items())
        print(f"GFLOPS of one convolution alone in {kind}: {listed}; their mean {np.mean(list(alone.values())):.0f}")


@cache
def only_own(name: str, images: int) -> Turn:
    """This process's way to train the candidate."""
    return fits(load().candidate(name), images)[0]["own"]


def turn_and_peak(name: str, images: int) -> tuple[float, float]:
    """Images a second of a turn, and the most megabytes that this process ever had."""
    return only_own(name, images)(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare_ways(name: str, images: int, rounds: int, ways: dict[str, str]) -> None:
    """Print the candidate's speed in two environments, in two processes that take turns."""
    pools = {way: ProcessPoolExecutor(1, get_context("spawn")) for way in ways}
    measured: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for way, environment in ways.items():
        os.environ.update(pair.split("=") for pair in environment.split())
        pools[way].submit(turn_and_peak, name, images).result()  # starts the process, and compiles
    for each in range(rounds):
        for way in list(ways)[:: -1 if each % 2 else 1]:
            measured[way].append(pools[way].submit(turn_and_peak, name, images).result())
    print(f"{name:16}{'images/s':>9}{'least':>8}{'most':>8}{'peak MB':>9}")
    for way, turns in measured.items():
        pools[way].shutdown()
        speeds, peaks = zip(*turns, strict=True)
        print(f"{way:16}{np.median(speeds):9.0f}{min(speeds):8.0f}{max(speeds):8.0f}{max(peaks):9.0f}")
    before, after = (np.array(turns)[:, 0] for turns in measured.values())
    times = after / before
    print(f"the second is {np.median(times):.2f} times as fast ({times.min():.2f}-{times.max():.2f})")


def operations(folder: Path) -> Iterator[tuple[str, float]]:
    """What the profiler saw: a thread's and an operation's name (`path/of/node:Kind`), and how many ms it took."""
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    for plane in XSpace.FromString(next(folder.rglob("*.xplane.pb")).read_bytes()).planes:
        for thread in plane.lines:
            for event in thread.events:
                operation = plane.event_metadata[event.metadata_id].name
                if thread.name.startswith("tf_") and ":" in operation and "::" not in operation:
                    yield f"{thread.name} {operation}", event.duration_ps / 1e9


def profile(name: str, recipe: Candidate, images: int) -> None:
    """Print where a step's time goes by TensorFlow's profiler.

    Two operations may run at once: their times add up to more than a step's, and each is longer for the other.
    """
    turn = fits(recipe, images)[0]["own"]
    turn()
    steps = 1 + turn.steps
    spent: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        with quiet(), tf.profiler.experimental.Profile(folder):
            speed = turn()
        for operation, milliseconds in operations(Path(folder)):
            group = next(group for group, marks in GROUPS.items() if any(mark in operation for mark in marks))
            spent[group] += milliseconds / steps
    print(f"{name}, batch {recipe.batch}: {1000 * recipe.batch / speed:.0f} ms a step while profiled")
    print(f"{'operations':16}{'ms a step':>10}{'share':>8}")
    for group in GROUPS:
        print(f"{group:16}{spent[group]:10.1f}{spent[group] / spent.total():8.0%}")


@explained
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", action="append", help="of params.yaml, once or more (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2048, help="at most, in a turn")
    alone = parser.add_mutually_exclusive_group()
    way = partial(alone.add_argument, action="store_const", dest="ways")
    way("--memory", const=MEMORY, help="one candidate with and without glibc's returning memory")
    way("--onednn", const=ONEDNN, help="one candidate without and with oneDNN's convolutions")
    alone.add_argument("--profile", action="store_true", help="one candidate: where a step's time goes")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    params = load()
    candidates = {name: params.candidate(name) for name in arguments.candidate or params.candidates}
    if not (arguments.ways or arguments.profile):
        return compare(candidates, arguments.images, arguments.rounds)
    if len(candidates) != 1:
        raise UserError("--memory, --onednn and --profile are of one --candidate")
    [(name, recipe)] = candidates.items()
    if arguments.ways:
        return compare_ways(name, arguments.images, arguments.rounds, arguments.ways)
    return profile(name, recipe, arguments.images)


if __name__ == "__main__":
    main()
