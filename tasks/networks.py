"""Every network that can be a candidate, each one function from an input shape to an uncompiled Keras model.

A network takes float32 faces, shape (N, 48, 48, 1), in [0, 1], and answers float32 probabilities, shape (N, 7), in the
order of `expressions.EXPRESSIONS`. What a network needs beyond that (three channels, a mean taken away) is part of it.
To add one: write its function here, list it in NETWORKS, and name it in an entry of params.yaml.
"""

import json
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.backend import keras, tf
from tasks.errors import UserError
from tasks.expressions import EXPRESSIONS, FACE_SIZE
from tasks.files import replacing
from tasks.paths import CANDIDATES, WEIGHTS, vgg16_files

VGG16_MEAN = 117.3  # mean of ImageNet's three channel means (103.939, 116.779, 123.68): the mean grey of its photos


Shape = tuple[int | None, int | None, int]  # of one face: height, width (None: any), channels
layers = keras.layers
MAPS_RANK = 4  # of feature maps: (N, H, W, C)


@keras.saving.register_keras_serializable("ferflow")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization that trains with TensorFlow's fused kernel.

    Keras 3 composes the layer of single operations, which take a large part of a training step on a CPU; the fused kernel
    computes the same faster (tests/benchmarks/train_speed.py). Same variables as the plain layer: `train.plain` swaps it back.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise float inputs of shape (N, H, W, C) by batch statistics if training, else by the moving ones."""
        if len(inputs.shape) != MAPS_RANK:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=tf.zeros([0]) if training else tf.cast(self.moving_mean, tf.float32),
            variance=tf.zeros([0]) if training else tf.cast(self.moving_variance, tf.float32),
            epsilon=self.epsilon,
            is_training=bool(training),
        )
        if training:
            self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
            self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs


def build(network: str, side: int | None = FACE_SIZE, /, **options: Any) -> keras.Model:
    """Build the named network for faces of `side` px, None: of any size, with random (VGG16: ImageNet's) weights.

    Raises:
        UserError: the network or one of its options is unknown or impossible, pretrained weights are not to be had, or
            the network is made for one size.
    """
    if network not in NETWORKS:
        raise UserError(f"params.yaml names the network '{network}'; tasks/networks.py has {', '.join(NETWORKS)}")
    try:
        return NETWORKS[network]((side, side, 1), len(EXPRESSIONS), **options)
    except (TypeError, ValueError) as error:
        if side is not None:
            reason = re.sub(r"\x1b\[\d+m", "", " ".join(str(error).split()))  # Keras prints some in bold
            raise UserError(f"params.yaml, options of the network '{network}': {reason}") from error
        build(network, FACE_SIZE, **options)  # fails, too, if it is the options that are wrong
        raise UserError(
            f"params.yaml: the network '{network}' is made for one size of face; it can have no `sizes`"
        ) from error


def _norm(x: Any, activation: str | None = "relu", **options: Any) -> Any:
    x = FusedBatchNormalization(**options)(x)
    return layers.Activation(activation)(x) if activation else x


def _conv_norm(x: Any, filters: int, size: int = 3, activation: str | None = "relu") -> Any:
    """Convolution, normalisation, activation: the brick of every modern network here."""
    x = layers.Conv2D(filters, size, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return _norm(x, activation)


def _classify(x: Any, classes: int) -> Any:
    # Always float32: probabilities in bfloat16 have three digits.
    return layers.Dense(classes, activation="softmax", dtype="float32", name="expression")(x)


def modelo_01(shape: Shape, classes: int) -> keras.Model:
    """The tutorial's own network, trained from scratch: 5,905,863 parameters, four double convolutions, three dense."""
    inputs = x = keras.Input(shape)
    x = layers.Conv2D(64, 3, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01))(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    x = _norm(x, activation=None)
    x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.5)(x)
    for filters in (128, 256, 512):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
            x = _norm(x, activation=None)
        x = layers.MaxPooling2D()(x)
        x = layers.Dropout(0.5)(x)
    x = layers.Flatten()(x)
    for units, dropout in ((512, 0.4), (256, 0.4), (128, 0.5)):
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _classify(x, classes))


def modelo_02(shape: Shape, classes: int) -> keras.Model:
    """The tutorial's second network: two blocks of two ELU convolutions, 32 then 64 filters, one dense layer of 64."""
    inputs = x = keras.Input(shape)
    for filters in (32, 64):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="elu", kernel_initializer="he_normal")(x)
            x = _norm(x, activation=None)
        x = layers.MaxPooling2D()(x)
        x = layers.Dropout(0.2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="elu", kernel_initializer="he_normal")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, _classify(x, classes))


def residual(
    shape: Shape,
    classes: int,
    widths: tuple[int, ...] = (32, 64, 128, 256),
    blocks: tuple[int, ...] = (1, 2, 2, 2),
    dropout: float = 0.4,
) -> keras.Model:
    """A small residual network (He et al. 2015, arXiv:1512.03385) for 48 px: no early pooling, average-pool shortcuts.

    Each block's last scale starts at zero, so that training starts from the identity (Goyal et al. 2017).
    """
    if not widths or len(widths) != len(blocks):
        raise ValueError(f"{len(widths)} widths and {len(blocks)} blocks; it needs as many of both, one at least")
    inputs = keras.Input(shape)
    x = _conv_norm(inputs, widths[0])
    for stage, (filters, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            if stage > 0 and block == 0:
                x = layers.AveragePooling2D(2)(x)
            shortcut = x if x.shape[-1] == filters else _conv_norm(x, filters, 1, activation=None)
            x = _conv_norm(x, filters)
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
            x = _norm(x, activation=None, gamma_initializer="zeros")
            x = layers.Activation("relu")(layers.Add()([x, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _classify(x, classes))


def vgg_like(
    shape: Shape,
    classes: int,
    widths: tuple[int, ...] = (32, 64, 128, 256),
    dropout: float = 0.4,
) -> keras.Model:
    """VGG's plan (Simonyan & Zisserman 2014, arXiv:1409.1556) made small, with normalisation and no dense layers.

    Networks of this plan hold several of FER2013's published records (Khaireddin & Chen 2021, arXiv:2105.03588).
    """
    inputs = x = keras.Input(shape)
    for filters in widths:
        x = _conv_norm(x, filters)
        x = _conv_norm(x, filters)
        x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _classify(x, classes))


def dense(
    shape: Shape,
    classes: int,
    growth: int = 32,
    layers_per_block: tuple[int, ...] = (3, 4, 5),
    dropout: float = 0.3,
) -> keras.Model:
    """Densely connected blocks (Huang et al. 2016, arXiv:1608.06993): each layer sees all earlier ones of its block."""
    inputs = keras.Input(shape)
    x = layers.MaxPooling2D()(_conv_norm(inputs, 2 * growth))
    for block, count in enumerate(layers_per_block):
        if block > 0:  # the transition: half the channels, half the size
            x = layers.AveragePooling2D(2)(_conv_norm(x, x.shape[-1] // 2, 1))
        for _ in range(count):
            new = _conv_norm(_conv_norm(x, 4 * growth, 1), growth)
            x = layers.Concatenate()([x, new])
    x = layers.GlobalAveragePooling2D()(_norm(x))
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _classify(x, classes))


def inception(shape: Shape, classes: int, dropout: float = 0.4) -> keras.Model:
    """GoogLeNet's idea (Szegedy et al. 2014, arXiv:1409.4842) at 48 px: 1x1, 3x3, 5x5 and pooled branches side by side.

    As in GoogLeNet, 1x1 reductions keep the larger branches affordable; unlike it, every convolution is normalised.
    """

    def module(x: Any, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> Any:
        pooled = layers.MaxPooling2D(3, strides=1, padding="same")(x)
        branches = [
            _conv_norm(x, one, 1),
            _conv_norm(_conv_norm(x, three[0], 1), three[1], 3),
            _conv_norm(_conv_norm(x, five[0], 1), five[1], 5),
            _conv_norm(pooled, pool, 1),
        ]
        return layers.Concatenate()(branches)

    inputs = keras.Input(shape)
    x = _conv_norm(_conv_norm(inputs, 32), 64)
    x = layers.MaxPooling2D()(x)
    x = module(x, 32, (48, 64), (8, 16), 16)
    x = module(x, 64, (64, 96), (16, 32), 32)
    x = layers.MaxPooling2D()(x)
    x = module(x, 96, (64, 128), (16, 32), 32)
    x = module(x, 96, (80, 160), (24, 48), 48)
    x = module(x, 96, (96, 192), (24, 48), 48)
    x = layers.MaxPooling2D()(x)
    x = module(x, 128, (128, 256), (32, 64), 64)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _classify(x, classes))


def mini_xception(shape: Shape, classes: int) -> keras.Model:
    """Mini-XCEPTION (Arriaga et al. 2017, arXiv:1710.07557), the network of the package `fer`: 58 k parameters."""
    decay = keras.regularizers.L2(0.01)
    inputs = x = keras.Input(shape)
    for _ in range(2):
        x = layers.Conv2D(8, 3, use_bias=False, kernel_regularizer=decay)(x)
        x = _norm(x)
    for filters in (16, 32, 64, 128):
        shortcut = layers.Conv2D(filters, 1, strides=2, padding="same", use_bias=False)(x)
        shortcut = _norm(shortcut, activation=None)
        for activation in ("relu", None):
            x = layers.SeparableConv2D(
                filters, 3, padding="same", use_bias=False, depthwise_regularizer=decay, pointwise_regularizer=decay
            )(x)
            x = _norm(x, activation)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = layers.Add()([x, shortcut])
    x = layers.Conv2D(classes, 3, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Activation("softmax", dtype="float32", name="expression")(x))


def vgg16(shape: Shape, classes: int, pixels: int | None = None, dropout: float = 0.0) -> keras.Model:
    """ImageNet's VGG16 (Simonyan & Zisserman 2014) without its top, global average, softmax.

    Grey is repeated to three channels and given VGG's own preprocessing (0-255, ImageNet's mean taken away) inside; faces are
    first enlarged to `pixels`, if given: VGG16 knows objects of 224 px, and halves a picture five times.
    Its layers keep Keras's names (block1_conv1 .. block5_pool), which a recipe's `frozen_until` refers to.
    """
    inputs = keras.Input(shape)
    x = layers.Resizing(pixels, pixels)(inputs) if pixels else inputs
    x = layers.Rescaling(255.0, offset=-VGG16_MEAN)(x)
    x = layers.Concatenate()([x, x, x])
    trunk = keras.applications.VGG16(include_top=False, weights=None, input_tensor=x)
    _load_vgg16_weights(trunk)
    x = layers.GlobalAveragePooling2D()(trunk.output)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, _classify(x, classes))


def _load_vgg16_weights(trunk: keras.Model) -> None:
    """ImageNet's weights from data/weights if a file lies there, else by Keras's download (cached in ~/.keras)."""
    files = vgg16_files(WEIGHTS)
    if files:
        try:
            pretrained = keras.applications.VGG16(include_top=False, weights=str(files[0]))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{files[0]}: not VGG16's weights without its top, or not all of them ({reason})"
            ) from error
    else:
        try:
            pretrained = keras.applications.VGG16(include_top=False, weights="imagenet")
        except Exception as error:  # Keras raises a bare Exception when its download fails
            raise UserError(
                f"VGG16's ImageNet weights: none in {WEIGHTS}/ and Keras could not download them; put the file "
                "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 of keras.applications there"
            ) from error
    trunk.set_weights(pretrained.get_weights())


NETWORKS: dict[str, Callable[..., keras.Model]] = {
    network.__name__: network
    for network in (modelo_01, modelo_02, residual, vgg_like, dense, inception, mini_xception, vgg16)
}


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of one face through the network's convolutions and dense layers (the rest is below one per cent)."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.SeparableConv2D):
            positions = layer.output.shape[1] * layer.output.shape[2]
            total += positions * sum(
                int(tf.size(kernel)) for kernel in (layer.depthwise_kernel, layer.pointwise_kernel)
            )
        elif isinstance(layer, layers.Conv2D):
            total += layer.output.shape[1] * layer.output.shape[2] * int(tf.size(layer.kernel))
        elif isinstance(layer, layers.Dense):
            total += int(tf.size(layer.kernel))
    return total


def load_trained(candidate: str) -> keras.Model:
    """The network that stage `train` has written for this candidate; UserError if there is none."""
    path = CANDIDATES / candidate / "model.keras"
    if not path.exists():
        raise UserError(f"no {path}; train it with: dvc repro train@{candidate}")
    try:
        return keras.saving.load_model(path, compile=False)
    except (OSError, ValueError) as error:  # Keras calls a damaged file one that is not there
        raise UserError(f"{path} is damaged; train it anew with: dvc repro --force train@{candidate}") from error


def save(model: keras.Model, path: Path) -> None:
    """Write a .keras file whose bytes depend on the model alone; Keras puts the time of day into two places of its own."""
    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        original = Path(folder) / "model.keras"
        model.save(original)
        _without_dates(original, temporary)


def _without_dates(source: Path, target: Path) -> None:
    """Copy a .keras archive with fixed dates. Compressed: weights rounded to half precision shrink by a third."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in sorted(old.namelist()):
            content = old.read(name)
            if name == "metadata.json":
                content = json.dumps(json.loads(content) | {"date_saved": "1980-01-01@00:00:00"}).encode()
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(entry, content)
