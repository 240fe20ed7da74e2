"""The network, and a scan's share of slices with motion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

Slice = npt.NDArray[np.float32]

#: Made by :mod:`.train`.
WEIGHTS = Path(__file__).with_name("weights.safetensors")
#: Side of what the network sees of a slice.
SIDE_VOXELS = 192
FEATURES = (16, 32, 48, 64, 64)
#: Slices that are looked at in a direction.
SLICES = 16
#: Of the brightest voxels: what is head.
LIT_SHARE = 0.15
#: Only slices with so much of the largest section.
LEAST_SECTION = 0.5
#: Voxels at most so many times as long as wide tell no direction of acquisition: all three are looked at.
ISOTROPIC = 1.3
#: Brightness that becomes 1.
BRIGHT_PERCENTILE = 99


class MotionNetwork(nn.Module):
    """Log odds that a slice shows motion: five convolutions, and the mean and maximum of what they find."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, *FEATURES)
        # The first looks at pairs of voxels and their neighbours: ghosts are fine stripes.
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) if before > 1 else nn.Conv2d(1, after, 5, stride=2, padding=2)
            for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for width in FEATURES)
        self.head = nn.Linear(2 * FEATURES[-1], 1)

    def forward(self, slices: Tensor) -> Tensor:
        """Log odds, shape (n,), of slices (n, 1, :data:`SIDE_VOXELS`, :data:`SIDE_VOXELS`) from :func:`prepared`."""
        x = slices
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = F.elu(norm(convolution(x)))
            if 0 < index < len(FEATURES) - 1:
                x = F.max_pool2d(x, 2)
        told: Tensor = self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
        return told[:, 0]


@cache
def shipped() -> MotionNetwork:
    """The network with this package's weights, on the CPU."""
    return loaded(WEIGHTS)


def loaded(path: Path) -> MotionNetwork:
    """The network with weights of :mod:`.train`, in evaluation mode."""
    network = MotionNetwork()
    network.load_state_dict(load_file(path))
    return network.eval()


def prepared(plane: Slice, centre: Sequence[int]) -> Slice:
    """A slice as the network sees it: :data:`SIDE_VOXELS` about a voxel, dark outside, most of it below 1.

    Parameters
    ----------
    plane
        Voxels of 1 mm, not negative.
    centre
        Voxel in the middle.
    """
    half = SIDE_VOXELS // 2
    first, second = centre
    cut = np.pad(plane, half)[first : first + SIDE_VOXELS, second : second + SIDE_VOXELS]
    lit = cut[cut > 0]
    top = float(np.percentile(lit, BRIGHT_PERCENTILE)) if lit.size else 1.0
    bright: Slice = np.clip(cut / max(top, 1e-6), 0, 2).astype(np.float32)
    return bright


def directions(affine: npt.NDArray[np.float64]) -> list[int]:
    """Axes of the RAS grid across which a scan's slices lie: one, or all if its voxels are cubes.

    Parameters
    ----------
    affine
        Voxel to RAS+ mm, as the scan was acquired.
    """
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing_mm.max() <= ISOTROPIC * spacing_mm.min():
        return [0, 1, 2]
    return [int(nib.orientations.io_orientation(affine)[spacing_mm.argmax(), 0])]


@torch.inference_mode()
def probability(network: MotionNetwork, seen: Slice, affine: npt.NDArray[np.float64]) -> float:
    """Mean over slices of the probability of motion; the largest of the directions.

    Slices through the thick of whatever is bright are looked at: no segmentation is needed.

    Parameters
    ----------
    network
        From :func:`shipped` or :func:`loaded`.
    seen
        The scan from :func:`synthsr.preprocess.prepare`, shape (x, y, z), 1 mm.
    affine
        Voxel to RAS+ mm, as the scan was acquired.
    """
    lit = seen > LIT_SHARE * np.percentile(seen, BRIGHT_PERCENTILE)
    sections = [lit.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    middle = [int(np.searchsorted(section.cumsum(), section.sum() / 2)) for section in sections]
    found = []
    for axis in directions(affine):
        thick = np.nonzero(sections[axis] >= LEAST_SECTION * sections[axis].max())[0]
        planes = np.unique(np.linspace(thick[0], thick[-1], SLICES).round().astype(int))
        centre = [middle[other] for other in range(3) if other != axis]
        slices = np.stack([prepared(seen.take(plane, axis), centre) for plane in planes])
        found.append(float(network(torch.from_numpy(slices)[:, None]).sigmoid().mean()))
    return max(found)
