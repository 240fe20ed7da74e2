"""Keras model of SynthSR's graph with random weights: what ``tests/unit/test_weights.py`` compares with.

Runs in an environment of its own (``pip install tensorflow-cpu tf-keras``; tried with TensorFlow 2.21), where
``make test-keras`` puts it:

    python tests/keras_reference.py OUT.h5 [--layout model] [--levels 5] [--features 4] [--in-channels 1] ...

Writes weights to OUT.h5 and an input with the model's output to OUT.npz (arrays ``input``, ``output``: x, y, z,
channels). The stored case tests/data/keras_unet_small.* is the output of
``--levels 3 --features 2 --in-channels 2 --out-channels 3 --size 8 --seed 1``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras
from tf_keras import layers


def build(levels: int, features: int, in_channels: int, out_channels: int) -> tf_keras.Model:
    """The graph and layer names of the reference implementation."""

    def convolve(x, width, name):
        return layers.Conv3D(width, 3, padding="same", activation="elu", name=f"unet_conv_{name}")(x)

    image = layers.Input((None, None, None, in_channels), name="unet_input")
    x, skips = image, []
    for level in range(levels):
        for k in range(2):
            x = convolve(x, features * 2**level, f"downarm_{level}_{k}")
        skips.append(x)  # before the batch norm
        x = layers.BatchNormalization(axis=-1, name=f"unet_bn_down_{level}")(x)
        if level < levels - 1:
            x = layers.MaxPooling3D(2, padding="same", name=f"unet_maxpool_{level}")(x)
    for j in range(levels - 1):
        x = layers.UpSampling3D(2, name=f"unet_up_{levels + j}")(x)
        x = layers.Concatenate(axis=-1, name=f"unet_merge_{levels + j}")([skips[levels - 2 - j], x])
        for k in range(2):
            x = convolve(x, features * 2 ** (levels - 2 - j), f"uparm_{levels + j}_{k}")
        x = layers.BatchNormalization(axis=-1, name=f"unet_bn_up_{j}")(x)
    x = layers.Conv3D(out_channels, 1, name="unet_likelihood")(x)
    return tf_keras.Model(image, layers.Activation("linear", name="unet_prediction")(x))


def randomise(model: tf_keras.Model, rng: np.random.Generator) -> None:
    """Weights that keep activations of order one; batch-norm statistics far from their initial values."""
    draw = {
        "kernel": lambda shape: rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1])),
        "bias": lambda shape: 0.3 * rng.standard_normal(shape),
        "gamma": lambda shape: rng.uniform(0.5, 1.5, shape),
        "beta": lambda shape: 0.3 * rng.standard_normal(shape),
        "moving_mean": lambda shape: 0.3 * rng.standard_normal(shape),
        "moving_variance": lambda shape: rng.uniform(0.2, 2, shape),
    }
    for weight in model.weights:
        weight.assign(draw[weight.name.split("/")[-1].split(":")[0]](tuple(weight.shape)))


def main() -> None:
    """See the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layout", choices=("weights", "model"), default="weights")
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--features", type=int, default=4)
    parser.add_argument("--in-channels", type=int, default=1)
    parser.add_argument("--out-channels", type=int, default=1)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    model = build(arguments.levels, arguments.features, arguments.in_channels, arguments.out_channels)
    randomise(model, rng)
    image = rng.random((*(arguments.size,) * 3, arguments.in_channels), dtype=np.float32)
    output = model(image[None], training=False).numpy()[0]
    if arguments.layout == "weights":
        model.save_weights(arguments.out, save_format="h5")
    else:
        model.save(arguments.out, save_format="h5", include_optimizer=False)
    np.savez(arguments.out.with_suffix(".npz"), input=image, output=output)


if __name__ == "__main__":
    main()
