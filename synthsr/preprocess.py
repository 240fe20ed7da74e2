"""Preparation of images for the networks: the single path that training and inference share.

Order at inference, after the reference implementation of SynthSR (Iglesias et al. 2023): resample to 1 mm isotropic in
the scan's own axes, reorient to RAS, scale to [0, 1] by minimum and maximum, pad with zeros, centred, to multiples of
32. Computed tomography is first clipped to [0, 80] Hounsfield units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import resample
from .errors import DataError

VOXEL_SIZE_MM = 1.0
CT_WINDOW_HU = (0.0, 80.0)
PADDING_MULTIPLE = 32
#: Output units: 1.0 is grey level 255, so that predictions × 255 have white matter at 110 as in FreeSurfer.
FULL_SCALE_GREY = 255.0
#: Network units of a synthetic T1 end here: grey level 128 of 255, with white matter at 110 (reference implementation).
SYNTHETIC_MAXIMUM = 128 / FULL_SCALE_GREY
#: Blur before taking a coarser grid, as a share of the ratio of spacings (reference implementation).
ANTIALIAS_COEFFICIENT = 0.25


@dataclass(frozen=True)
class Grid:
    """A voxel grid: shape and the affine from voxel to RAS+ millimetres."""

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]


def resample_to_1mm(
    data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Resample to 1 mm isotropic along the scan's own axes, linearly.

    The field of view's outer borders stay where they are, up to the rounding of its extent to whole voxels.

    Parameters
    ----------
    data
        Shape (x, y, z).
    affine
        Voxel to RAS+ mm, shape (4, 4).

    Returns
    -------
    The resampled data and its affine.
    """
    spacing_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    image = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
    new_affine = affine.copy()
    shift = np.zeros(3)
    for axis in range(3):
        n_old = data.shape[axis]
        ratio = VOXEL_SIZE_MM / spacing_mm[axis]
        n_new = max(1, int(np.floor(n_old / ratio + 0.5)))
        # Same centre of the field of view, so that neither border is favoured.
        start = (n_old - 1) / 2 - (n_new - 1) / 2 * ratio
        shift[axis] = start
        new_affine[:3, axis] = affine[:3, axis] * ratio
        if n_new == n_old and abs(ratio - 1) < 1e-6:
            shift[axis] = 0.0
            continue
        matrix = resample.interpolation(start + ratio * np.arange(n_new), n_old)
        if ratio > 1:
            matrix = matrix @ resample.gaussian_blur(n_old, ANTIALIAS_COEFFICIENT * ratio)
        image = resample.apply(image, matrix, axis)
    new_affine[:3, 3] = affine[:3, 3] + affine[:3, :3] @ shift
    return image.numpy(), new_affine


def scale_to_unit(image: Tensor) -> Tensor:
    """Scale each volume of a batch (n, c, x, y, z) to [0, 1] by its own minimum and maximum.

    A constant volume becomes zero everywhere.
    """
    low = image.amin(dim=(2, 3, 4), keepdim=True)
    high = image.amax(dim=(2, 3, 4), keepdim=True)
    return (image - low) / (high - low).clamp_min(1e-12)


def padding_to_multiple(shape: Sequence[int], multiple: int = PADDING_MULTIPLE) -> list[int]:
    """Zeros that pad three axes, centred (rounding down), to multiples of ``multiple``, as ``F.pad`` takes them."""
    padding: list[int] = []
    for size in shape:
        total = -size % multiple
        padding = [total // 2, total - total // 2, *padding]
    return padding


def prepare(data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], *, ct: bool = False) -> tuple[Tensor, Grid]:
    """Everything between a loaded scan and the network but padding.

    Parameters
    ----------
    data
        Shape (x, y, z), finite.
    affine
        Voxel to RAS+ mm.
    ct
        Clip to 0–80 Hounsfield units first.

    Returns
    -------
    Tensor of shape (1, 1, x, y, z), float32 in [0, 1], on a 1 mm RAS grid; and that grid.

    Raises
    ------
    DataError
        If the image is constant (after clipping, for CT).
    """
    if ct:
        data = np.clip(data, *CT_WINDOW_HU)
    if not float(data.max()) > float(data.min()):
        raise DataError(f"every voxel is {float(data.flat[0]):g}: nothing to see in a constant image")
    data, affine = resample_to_1mm(data, affine)
    to_ras = nib.orientations.io_orientation(affine)
    affine = affine @ nib.orientations.inv_ornt_aff(to_ras, data.shape)
    data = np.ascontiguousarray(nib.orientations.apply_orientation(data, to_ras))
    image = scale_to_unit(torch.from_numpy(data)[None, None])
    x, y, z = data.shape
    return image, Grid((x, y, z), affine)
