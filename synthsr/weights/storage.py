"""Reading and writing of weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .. import files
from ..errors import DataError
from ..networks import UNet, UNetConfig
from . import locate
from .registry import registered

#: In the information of a SynthSR's weights: the number of the input scan in whose intensities the network answers, 0
#: and 1 being that scan's minimum and maximum. Without it 1 is grey level 255.
INTENSITIES_OF = "intensities_of"
#: In the information of a SynthSR's weights: true if behind the scans follows a reliability map of each.
RELIABILITY_MAPS = "reliability_maps"


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in evaluation mode, and where it came from.

    Attributes
    ----------
    network
        Float32, on the CPU, in evaluation mode.
    information
        Header of the file besides the network's size.
    path, sha256
        The file.
    """

    network: UNet
    information: dict[str, Any]
    path: Path
    sha256: str


def load_network(name_or_path: str | Path) -> LoadedNetwork:
    """Build the network that a weights file describes and fill it.

    Raises
    ------
    DataError
        If the file is not safetensors, or does not fit the network its header describes.
    """
    path = locate(name_or_path)
    try:
        with safe_open(path, framework="pt") as stream:
            header = stream.metadata() or {}
            tensors = {key: stream.get_tensor(key).float() for key in stream.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(
            f"{path}: not a safetensors file ({error}); convert Keras weights by 'synthsr weights import'"
        ) from error
    try:
        facts = json.loads(header["synthsr"])
        network = UNet(UNetConfig(**facts["network"]))
        counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
        network.load_state_dict({**counters, **tensors})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path}: not weights of this project's U-net ({error}); give others (synthsr weights list)"
        ) from error
    return LoadedNetwork(network.eval(), facts["information"], path, files.sha256(path))


def save_network(network: UNet, path: Path, information: dict[str, Any], *, dtype: torch.dtype = torch.float32) -> None:
    """Write weights with the network's size in the header.

    Parameters
    ----------
    network
        Network to save.
    path
        Target, ``.safetensors``.
    information
        JSON-able facts: task, steps, provenance.
    dtype
        Of the stored tensors; batch-norm statistics always stay float32.
    """
    tensors = {}
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        keep = key.endswith(("running_mean", "running_var"))
        tensors[key] = value.detach().cpu().to(torch.float32 if keep else dtype).contiguous()
    # One entry, because safetensors writes several in an order that differs from run to run.
    header = {"synthsr": json.dumps({"network": network.config.to_dict(), "information": information})}
    with files.whole(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def names_with_distance() -> list[str]:
    """Names of the registered weights that are here and tell the distance to the brain's boundary."""
    names = []
    for name, entry in registered().items():
        if entry.path.suffix == ".safetensors" and entry.path.is_file():
            with safe_open(entry.path, framework="pt") as stream:
                header = json.loads((stream.metadata() or {}).get("synthsr", "{}"))
            if header.get("network", {}).get("distance"):
                names.append(name)
    return names
