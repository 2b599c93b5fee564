"""TensorFlow and Keras, imported in one place: without their chatter, and only by what trains, evaluates or exports."""

from tasks.quiet import quiet

with quiet():
    import keras
    import tensorflow as tf

    tf.config.list_logical_devices()  # looks for a GPU now and not, noisily, at the first computation

__all__ = ["keras", "tf"]
