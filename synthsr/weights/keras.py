"""Import of the published Keras weights, read with h5py alone: no TensorFlow, nothing unpickled.

Facts of the reference implementation (https://github.com/BBillot/SynthSR, ``ext/neuron/models.py``): for a U-net of L
levels the layers are ``unet_conv_downarm_{level}_{k}`` and ``unet_bn_down_{level}`` with levels 0 to L − 1 on the way
down, ``unet_conv_uparm_{L + j}_{k}`` and ``unet_bn_up_{j}`` with j from 0 to L − 2 on the way up, and
``unet_likelihood``; k is 0 or 1. Kernels are stored as (x, y, z, in, out), and the upsampled features follow the skip,
as in :mod:`synthsr.networks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .. import files
from ..errors import DataError
from ..networks import UNet, UNetConfig
from .storage import INTENSITIES_OF, save_network

#: Arrays by layer and variable, as in the file.
Layers = dict[str, dict[str, npt.NDArray[Any]]]
#: Shape of a convolution's kernel is (x, y, z, in, out).
KERNEL_DIMENSIONS = 5
#: Maxima to which the published low-field model wants its T1 and T2 scaled (reference implementation).
LOW_FIELD_MAXIMA = (3.0, 2.0)
#: What to do about a file that does not fit.
ADVICE = "expected weights of SynthSR's 3-D U-net (two convolutions a level), saved by Keras's save_weights or save"


def import_keras(h5_path: Path, out_path: Path, *, low_field: bool = False) -> UNetConfig:
    """Convert Keras weights of SynthSR into a weights file of this project.

    Parameters
    ----------
    h5_path
        HDF5 file: ``model.save_weights`` (a group per layer) or a whole model (those groups under ``model_weights``).
    out_path
        Target, ``.safetensors``; its header records the source's name and SHA-256.
    low_field
        It is the published model of a low-field T1 and T2: see :func:`as_low_field`.

    Returns
    -------
    Size of the network, as inferred from the shapes in the file.

    Raises
    ------
    DataError
        If the file is not HDF5, or a layer is missing, unknown, of the wrong shape or not finite.
    """
    network = read_keras(h5_path)
    source = {"file": Path(h5_path).name, "sha256": files.sha256(h5_path), "format": "keras-hdf5"}
    information: dict[str, Any] = {"task": "synthsr", "source": source}
    if low_field:
        channels = network.config.in_channels, network.config.out_channels
        if channels != (2, 1):
            raise DataError(
                f"{h5_path}: {_describe(network.config)}; the published low-field model has 2 and 1: "
                "import this file without --low-field"
            )
        network = as_low_field(network)
        information[INTENSITIES_OF] = 0
    save_network(network, out_path, information)
    return network.config


def as_low_field(network: UNet) -> UNet:
    """Take up in a network what surrounds the published low-field model (Iglesias et al., Radiology 2022).

    The reference implementation (https://github.com/BBillot/SynthSR, ``predict_command_line_hyperfine.py``) scales the
    T1 to [0, 3] and the T2 to [0, 2], adds the T1 to the answer, and scales the sum as it unscales the T1. Here the
    first kernel takes up the factors 3 and 2 and the last the division by 3, so that inputs are in [0, 1] and the
    answer is in the T1's range, as of any network with a residual.
    """
    whole = UNet(replace(network.config, residual=0))
    whole.load_state_dict(network.state_dict())
    with torch.no_grad():
        first = whole.down[0].get_submodule("conv0").get_parameter("weight")
        first.mul_(torch.tensor(LOW_FIELD_MAXIMA).reshape(1, -1, 1, 1, 1))
        for values in whole.head.parameters():
            values.div_(LOW_FIELD_MAXIMA[0])
    return whole.eval()


def read_keras(h5_path: Path) -> UNet:
    """Network with the weights of a Keras file; parameters and errors as in :func:`import_keras`."""
    try:
        layers = _read_layers(h5_path)
    except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:  # all of which h5py may raise
        raise DataError(f"{h5_path}: not a readable HDF5 file ({error}); download it again") from error
    return _fill(Path(h5_path), layers)


def _read_layers(h5_path: Path) -> Layers:
    """Arrays of every layer that has any; ``kernel:0`` is called ``kernel``."""
    layers: Layers = {}
    with h5py.File(h5_path, "r") as stream:
        for layer, group in stream.get("model_weights", stream).items():
            found: dict[str, npt.NDArray[Any]] = {}

            def collect(path: str, entry: Any, found: dict[str, npt.NDArray[Any]] = found) -> None:
                if isinstance(entry, h5py.Dataset):
                    found[path.rsplit("/", 1)[-1].split(":")[0]] = np.asarray(entry)

            if isinstance(group, h5py.Group):
                group.visititems(collect)
            if found:
                layers[layer] = found
    return layers


def _fill(path: Path, layers: Layers) -> UNet:
    network = UNet(_infer_config(path, layers))
    expected = dict(_modules(network))
    for name, module in expected.items():
        if name not in layers:
            raise DataError(f"{path}: layer {name} is missing; {ADVICE}")
        tensors = _keras_views(module)
        if set(layers[name]) != set(tensors):
            found = ", ".join(sorted(layers[name]))
            raise DataError(f"{path}: layer {name} has {found}, expected {', '.join(tensors)}; {ADVICE}")
        for variable, tensor in tensors.items():
            values = layers[name][variable]
            if values.shape != tuple(tensor.shape) or values.dtype.kind != "f":
                raise DataError(
                    f"{path}: {variable} of layer {name} has shape {values.shape} ({values.dtype}), expected "
                    f"{tuple(tensor.shape)} (float) in {_describe(network.config)}; {ADVICE}"
                )
            if not np.isfinite(values).all():
                raise DataError(f"{path}: {variable} of layer {name} has values that are not finite; download it again")
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(values.astype(np.float32)))
    unknown = sorted(set(layers) - set(expected))
    if unknown:
        raise DataError(
            f"{path}: unknown layer {', '.join(unknown)} besides those of {_describe(network.config)}; {ADVICE}"
        )
    return network.eval()


def _infer_config(path: Path, layers: Layers) -> UNetConfig:
    """Size of the network from the layers' names and the shapes of the first and last kernel."""

    def levels(arm: str) -> int:
        return len({match[1] for name in layers if (match := re.fullmatch(rf"unet_conv_{arm}arm_(\d+)_\d+", name))})

    def channels(layer: str) -> tuple[int, int]:
        if layer not in layers:
            found = ", ".join(sorted(layers)[:5]) or "no weights"
            raise DataError(f"{path}: layer {layer} is missing (found {found}, …); {ADVICE}")
        shape: tuple[int, ...] = getattr(layers[layer].get("kernel"), "shape", ())
        if len(shape) != KERNEL_DIMENSIONS or 0 in shape:
            raise DataError(f"{path}: kernel of layer {layer} has shape {shape}, expected (x, y, z, in, out); {ADVICE}")
        return shape[3], shape[4]

    in_channels, features = channels("unet_conv_downarm_0_0")
    _, out_channels = channels("unet_likelihood")
    return UNetConfig(in_channels, out_channels, features, max(levels("down"), levels("up") + 1))


def _modules(network: UNet) -> Iterator[tuple[str, nn.Module]]:
    """Layers of the network under their Keras names."""
    for level, part in enumerate(network.down):
        yield f"unet_conv_downarm_{level}_0", part.get_submodule("conv0")
        yield f"unet_conv_downarm_{level}_1", part.get_submodule("conv1")
        yield f"unet_bn_down_{level}", part.get_submodule("norm")
    for position, part in enumerate(network.up):
        yield f"unet_conv_uparm_{network.config.levels + position}_0", part.get_submodule("conv0")
        yield f"unet_conv_uparm_{network.config.levels + position}_1", part.get_submodule("conv1")
        yield f"unet_bn_up_{position}", part.get_submodule("norm")
    yield "unet_likelihood", network.head


def _keras_views(module: nn.Module) -> dict[str, Tensor]:
    """Tensors of a layer under their Keras names, as views with the axes in Keras's order."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if isinstance(module, nn.BatchNorm3d):
        return {
            "gamma": tensors["weight"],
            "beta": tensors["bias"],
            "moving_mean": tensors["running_mean"],
            "moving_variance": tensors["running_var"],
        }
    return {"kernel": tensors["weight"].permute(2, 3, 4, 1, 0), "bias": tensors["bias"]}


def _describe(config: UNetConfig) -> str:
    return (
        f"a U-net of {config.levels} levels and {config.features} features with {config.in_channels} input and "
        f"{config.out_channels} output channels"
    )
