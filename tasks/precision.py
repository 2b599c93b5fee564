"""The numbers that a training computes with: bfloat16 where this machine convolves them faster, else float32.

Half the bits are twice the speed and more on a processor that multiplies bfloat16 (AMD's since Zen 4, Intel's with AMX). On
Intel's cores whose AMX a virtual machine hides they take nearly twice as long as float32, and where they have to be emulated,
on all that is older, twenty times. Weights, and so model files, are float32 either way.
"""

import math
import time
from collections.abc import Callable

from tasks.backend import keras, tf
from tasks.params import Precision
from tasks.quiet import quiet

SHAPE = (32, 24, 24, 64)  # of the convolved maps: 10 ms in float32
REPETITIONS = 5
HOPELESS = 5  # times as slow; seen twice, and there is no need to look again: emulated, a convolution takes a second
MARGIN = 1.2  # times as fast bfloat16 must be: noise changes the ratio by a tenth at most, beside four busy programs


def use(precision: Precision) -> Precision:
    """Have Keras compute with what a recipe says, or what is faster here, and tell which: float32 or bfloat16."""
    chosen = faster() if precision == "fastest" else precision
    keras.config.set_dtype_policy("mixed_bfloat16" if chosen == "bfloat16" else "float32")
    return chosen


def faster() -> Precision:
    """What this machine convolves faster: bfloat16, by MARGIN at least, or float32."""
    with quiet():  # oneDNN, where it leaves bfloat16 to TensorFlow's own convolutions, says so
        full, half = seconds("float32", "bfloat16")
    return "bfloat16" if half * MARGIN < full else "float32"


def seconds(*dtypes: str) -> list[float]:
    """What a convolution in each of these numbers takes at best; infinity where it cannot be computed.

    Of processors' time, not of the clock's, and in turns: what else the machine does must not change the answer. A virtual
    machine's processor may be taken away for a while, which counts as its time; that would be all of one's repetitions.
    """
    steps = [convolution(SHAPE, dtype) for dtype in dtypes]
    times: list[list[float]] = []
    for _ in range(1 + REPETITIONS):
        times.append([_time(step) for step in steps])
        if len(times) > 1 and all(max(each) > HOPELESS * min(each) for each in times):
            break
    return [min(each) for each in zip(*times[1:], strict=True)]  # the first compiles


def _time(step: Callable[[], list[tf.Tensor]]) -> float:
    clock = time.perf_counter if tf.config.list_physical_devices("GPU") else time.process_time
    started = clock()
    try:
        for gradient in step():
            gradient.numpy()  # only then a GPU is done
    except tf.errors.OpError:
        return math.inf
    return clock() - started


def convolution(shape: tuple[int, int, int, int], dtype: str) -> Callable[[], list[tf.Tensor]]:
    """A 3x3 convolution of maps (batch, side, side, channels) to as many channels, forward and backward: its gradients."""
    maps, kernel = (
        tf.cast(tf.random.stateless_normal(size, (0, 0)), dtype) for size in (shape, (3, 3, shape[-1], shape[-1]))
    )

    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([maps, kernel])
            answer = tf.nn.conv2d(maps, kernel, 1, "SAME")
        gradients: list[tf.Tensor] = tape.gradient(answer, [maps, kernel], answer)
        return gradients

    compiled: Callable[[], list[tf.Tensor]] = tf.function(step, jit_compile=False, autograph=False)
    return compiled
