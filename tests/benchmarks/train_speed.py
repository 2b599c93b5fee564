"""How fast a training step is, and what makes it so: images a second with each remedy switched off in turn.

    python tests/benchmarks/train_speed.py [--network residual] [--batch 128] [--images 1024]

Prints a table of images a second and their ratio to ferflow's own way (fused normalisation, bfloat16, augmentation on), all
measured in this one run, each variant three times in turn; the median counts. Random faces: speed does not depend on them.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks import networks
from tasks.backend import keras
from tasks.batches import training_batches
from tasks.params import Augment, Candidate, Optimizer

ROUNDS = 3
FULL = Augment(mirror=True, rotate=12.0, shift=0.08, zoom=0.12, contrast=0.25, brightness=0.1, erase=0.25)
VARIANTS = {  # fused normalisation, precision, augmentation
    "ferflow": (True, "mixed_bfloat16", FULL),
    "without augmentation": (True, "mixed_bfloat16", Augment()),
    "float32": (True, "float32", FULL),
    "Keras's normalisation": (False, "mixed_bfloat16", FULL),
    "plain Keras (both)": (False, "float32", FULL),
}


def build(network: str, fused: bool, policy: str) -> keras.Model:
    """The compiled network, with the plain layer in place of the fused one if asked."""
    keras.config.set_dtype_policy(policy)
    layer = networks.FusedBatchNormalization
    if not fused:
        networks.FusedBatchNormalization = keras.layers.BatchNormalization
    try:
        model = networks.build(network)
    finally:
        networks.FusedBatchNormalization = layer
    model.compile("adam", "categorical_crossentropy", jit_compile=False)
    return model


def main() -> None:
    """Measure and print."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--network", default="residual", choices=networks.NETWORKS)
    cli.add_argument("--batch", type=int, default=128)
    cli.add_argument("--images", type=int, default=1024, help="per measurement")
    args = cli.parse_args()
    faces = np.random.default_rng(0).random((args.images, 48, 48, 1), np.float32)
    labels = np.arange(args.images) % 7
    models = {name: build(args.network, fused, policy) for name, (fused, policy, _) in VARIANTS.items()}
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(ROUNDS + 1):  # the first one compiles
        for name, (_, _, amount) in VARIANTS.items():
            recipe = Candidate(
                network=args.network,
                epochs=1,
                batch=args.batch,
                precision="float32",
                optimizer=Optimizer(name="adam", learning_rate=0.001),
                augment=amount,
            )
            batches = training_batches([faces], labels, recipe, turn, 0)
            started = time.perf_counter()
            models[name].fit(batches, verbose=0, shuffle=False)
            if turn:
                speeds[name].append(args.images / (time.perf_counter() - started))
    own = statistics.median(speeds["ferflow"])
    print(f"{args.network}, batch {args.batch}, {args.images} images, median of {ROUNDS}")
    for name, measured in speeds.items():
        speed = statistics.median(measured)
        print(f"{name:24} {speed:7.0f} images/s   {speed / own:5.2f} of ferflow's")


if __name__ == "__main__":
    main()
