"""Running a network over a prepared scan: padding, left/right averaging, device and threads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import openvino, preprocess
from .equivalent import EquivalentUNet
from .errors import ConfigurationError
from .networks import Blocks, UNet

#: Of the levels of a network.
ARITHMETIC = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
#: Side of the cube that networks with instance norm see; the largest field of view in training.
FIELD_VOXELS = 192
#: Crown of the head to the centre of the cerebrum.
CROWN_TO_CENTRE_VOXELS = 75
#: Part of the head below the crown that tells its middle.
UPPER_HEAD_VOXELS = 100
#: Share of bright voxels beyond either edge of the head: noise and wrapped tissue.
EDGE_SHARE = 0.002


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


def prepare_process(threads: int | None) -> None:
    """Threads and memory of a process that runs networks; call once, before the first image.

    glibc gives large blocks back to the system as soon as they are freed, and torch asks for them again in the next
    layer: page faults took a quarter of a training step. Here the process keeps what it has.

    Parameters
    ----------
    threads
        torch's CPU threads; ``None`` leaves the choice to torch.

    Raises
    ------
    ConfigurationError
        For less than one thread.
    """
    if threads is not None:
        if threads < 1:
            raise ConfigurationError(f"--threads {threads}: at least 1 is needed")
        torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def ready(network: UNet, device: torch.device) -> UNet:
    """Network on its device, channels last, for inference."""
    placed: UNet = network.to(device).to(memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    return placed


def fastest(network: UNet, device: torch.device, arithmetic: str = "float32") -> UNet:
    """As :func:`ready`, by the quickest way to the same answers; not for training through it.

    Parameters
    ----------
    network, device
        As of :func:`ready`. On a GPU float32 runs as the network is written: there nothing else has been measured. On
        a CPU networks of the published kind run by OpenVINO where it is installed.
    arithmetic
        One of :data:`ARITHMETIC`; bfloat16 is quicker where the processor has it, and answers only nearly the same
        (benchmarks/README.md).
    """
    placed = ready(network, device)
    if device.type == "cuda" and arithmetic == "float32":
        return placed
    route = openvino.OpenVinoUNet if device.type == "cpu" and openvino.suits(network.config) else EquivalentUNet
    return route(placed, ARITHMETIC[arithmetic])


def placement(network: UNet, image: Tensor) -> list[int]:
    """Zeros to add to (negative: voxels to cut from) a scan before the network sees it, as ``F.pad`` takes them.

    Networks with batch norm get the whole scan, padded to a multiple of 32 as in the reference implementation. Instance
    norm depends on how much of the field of view is head, so such networks get what they were trained on: a cube of
    :data:`FIELD_VOXELS` about the cerebrum.

    Parameters
    ----------
    network
        Decides which of the two.
    image
        Prepared scan, shape (1, c, x, y, z), RAS, 1 mm, in [0, 1].
    """
    if network.config.norm == "batch":
        return preprocess.padding_to_multiple(
            image.shape[-3:], max(preprocess.PADDING_MULTIPLE, network.config.multiple)
        )
    padding: list[int] = []
    for size, centre in zip(image.shape[-3:], cerebrum_centre(image[0, 0]), strict=True):
        before = FIELD_VOXELS // 2 - centre
        padding = [before, FIELD_VOXELS - size - before, *padding]
    return padding


def cerebrum_centre(image: Tensor) -> tuple[int, int, int]:
    """Voxel near the centre of the cerebrum, from where the head is bright.

    Left/right and front/back: the middle of what is brighter than the mean in the upper part of the head, where neither
    face nor neck are; up/down: a fixed distance below the crown.

    Parameters
    ----------
    image
        Shape (x, y, z), RAS, 1 mm.
    """
    bright = image > image.mean()

    def extent(profile: Tensor) -> tuple[int, int]:
        share = profile.double().cumsum(0) / profile.sum().clamp_min(1)
        inside = torch.nonzero((share > EDGE_SHARE) & (share < 1 - EDGE_SHARE)).flatten()
        return (int(inside[0]), int(inside[-1])) if len(inside) else (0, len(profile) - 1)

    crown = extent(bright.sum((0, 1)))[1]
    upper = bright[:, :, max(0, crown - UPPER_HEAD_VOXELS) : crown + 1]
    x, y = ((sum(extent(upper.sum(axes))) + 1) // 2 for axes in ((1, 2), (0, 2)))
    return x, y, max(crown - CROWN_TO_CENTRE_VOXELS, 0)


def blocks_of_scan(network: UNet, shape: Sequence[int], padding: Sequence[int]) -> tuple[Blocks, list[int]]:
    """The part of a network's own grid in which there is anything of the scan; its head need not look elsewhere.

    Parameters
    ----------
    network
        Decides the size of blocks.
    shape
        Of the scan, three axes.
    padding
        From :func:`placement`.

    Returns
    -------
    Slices of a tensor (n, c, x, y, z) on the network's grid; and the padding that places the scan in these alone.
    """
    s = network.config.stride
    blocks, rest = [slice(None), slice(None)], list(padding)
    for axis, size in enumerate(shape):
        before, after = padding[4 - 2 * axis], padding[5 - 2 * axis]
        field = before + size + after
        first, last = max(before, 0) // s, -(-min(before + size, field) // s)
        blocks.append(slice(first, last))
        rest[4 - 2 * axis], rest[5 - 2 * axis] = before - first * s, after - (field - last * s)
    return tuple(blocks), rest


def mirrored(blocks: Blocks, n_blocks: int) -> Blocks:
    """Where the left/right mirror image, so many blocks wide, has what lies in ``blocks``."""
    n, c, x, *others = blocks
    return (n, c, slice(n_blocks - x.stop, n_blocks - x.start), *others)


@torch.inference_mode()
def run(network: UNet, image: Tensor, *, flip: bool = True) -> Tensor:
    """Average of the network's answers for a scan and its left/right mirror image.

    Parameters
    ----------
    network
        From :func:`ready` or :func:`fastest`.
    image
        From :func:`synthsr.preprocess.prepare`, shape (1, c, x, y, z), RAS (so that axis 2 is left/right).
    flip
        Average with the mirrored pass; without it, one pass.

    Returns
    -------
    Shape (1, out, x, y, z), float32, on the CPU, on the scan's grid; zero where the network did not look.
    """
    padding = placement(network, image)
    placed = F.pad(image, padding).to(next(network.parameters()).device)
    placed = placed.contiguous(memory_format=torch.channels_last_3d)
    blocks, padding = blocks_of_scan(network, image.shape[-3:], padding)
    result = network.answer(placed, blocks)
    if flip:
        there = mirrored(blocks, placed.shape[2] // network.config.stride)
        result = result.add_(network.answer(placed.flip(2), there).flip(2)).mul_(0.5)
    return F.pad(result.float().cpu(), [-zeros for zeros in padding])
