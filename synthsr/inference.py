"""Running a network over a prepared scan: padding, left/right averaging, device and threads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import preprocess
from .errors import ConfigurationError
from .networks import UNet


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes a GPU if there is one.

    Raises
    ------
    ConfigurationError
        For a device that this machine or this build of torch lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try cpu"
        ) from error
    return device


def set_threads(threads: int | None) -> None:
    """Limit torch's CPU threads; ``None`` leaves the choice to torch.

    Raises
    ------
    ConfigurationError
        For less than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise ConfigurationError(f"--threads {threads}: at least 1 is needed")
    torch.set_num_threads(threads)


def ready(network: UNet, device: torch.device) -> UNet:
    """Network on its device, channels last, for inference."""
    placed: UNet = network.to(device).to(memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    return placed


@torch.inference_mode()
def run(
    network: UNet,
    image: Tensor,
    *,
    flip: bool = True,
    activation: Callable[[Tensor], Tensor] = lambda x: x,
    unflip: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Average of the network's answers for a scan and its left/right mirror image.

    Parameters
    ----------
    network
        From :func:`ready`.
    image
        From :func:`synthsr.preprocess.prepare`, shape (1, c, x, y, z), RAS (so that axis 2 is left/right).
    flip
        Average with the mirrored pass; without it, one pass.
    activation
        Applied to each pass's output before averaging (softmax, for posteriors).
    unflip
        Applied to the mirrored pass's channels (swapping left and right labels).

    Returns
    -------
    Shape (1, out, x, y, z), float32, on the CPU, cut back to the scan's grid.
    """
    device = next(network.parameters()).device
    multiple = max(preprocess.PADDING_MULTIPLE, network.config.multiple)
    padded, window = preprocess.pad_to_multiple(image.to(device), multiple)
    padded = padded.contiguous(memory_format=torch.channels_last_3d)
    result = activation(network(padded))
    if flip:
        mirrored = unflip(activation(network(padded.flip(2))))
        result = (result + mirrored.flip(2)).mul_(0.5)
    return result[(..., *window)].float().cpu()
