"""Resampling of one axis as a matrix.

Blurring by a slice profile, taking slices, and interpolating back to a finer grid are linear and act on one axis at a
time. Each is therefore a small dense matrix; products of such matrices are exact compositions, and applying one is a
single matrix multiplication on whatever device holds the image. Generator and inference share these operators.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Matrix = npt.NDArray[np.float64]


def interpolation(positions: npt.ArrayLike, n_samples: int) -> Matrix:
    """Linear interpolation at given positions.

    Parameters
    ----------
    positions
        Voxel coordinates, length m; values outside ``[0, n_samples - 1]`` take the nearest sample.
    n_samples
        Number of samples on the axis.

    Returns
    -------
    Matrix of shape (m, n_samples) whose rows sum to one.
    """
    place = np.clip(np.asarray(positions, dtype=np.float64), 0, n_samples - 1)
    low = np.minimum(np.floor(place).astype(int), max(n_samples - 2, 0))
    fraction = place - low
    matrix = np.zeros((place.size, n_samples))
    rows = np.arange(place.size)
    matrix[rows, low] += 1 - fraction
    matrix[rows, np.minimum(low + 1, n_samples - 1)] += fraction
    return matrix


def gaussian_blur(n_samples: int, sd_voxels: float) -> Matrix:
    """Gaussian blur with edges repeated; shape (n_samples, n_samples), identity for ``sd_voxels`` of 0."""
    if sd_voxels <= 0:
        return np.eye(n_samples)
    radius = max(1, int(np.ceil(4 * sd_voxels)))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sd_voxels) ** 2)
    kernel /= kernel.sum()
    matrix = np.zeros((n_samples, n_samples))
    rows = np.arange(n_samples)
    for offset, weight in zip(offsets, kernel, strict=True):
        np.add.at(matrix, (rows, np.clip(rows + offset, 0, n_samples - 1)), weight)
    return matrix


def acquisition(n_samples: int, spacing_voxels: float, blur_sd_voxels: float, offset_voxels: float = 0.0) -> Matrix:
    """Slice blur, acquisition at a coarser spacing, and linear interpolation back, as one matrix.

    Parameters
    ----------
    n_samples
        Length of the axis before and after.
    spacing_voxels
        Distance between slice centres (at least 1).
    blur_sd_voxels
        Standard deviation of the Gaussian slice profile.
    offset_voxels
        Position of the first slice centre, in ``[0, spacing_voxels)``.
    """
    blur = gaussian_blur(n_samples, blur_sd_voxels)
    if spacing_voxels <= 1:
        return blur
    offset_voxels = min(offset_voxels, n_samples - 1)
    slices = np.arange(offset_voxels, n_samples - 1 + 1e-6, spacing_voxels)
    back = interpolation((np.arange(n_samples) - offset_voxels) / spacing_voxels, slices.size)
    result: Matrix = back @ interpolation(slices, n_samples) @ blur
    return result


def apply(image: Tensor, matrix: Matrix, axis: int) -> Tensor:
    """Multiply one axis of ``image`` (any shape, floating) by ``matrix``; the axis takes the matrix's row count."""
    operator = torch.as_tensor(matrix, dtype=image.dtype, device=image.device)
    moved: Tensor = torch.tensordot(image, operator, dims=([axis], [1]))
    return moved.movedim(-1, axis)


def slice_weights(n_samples: int, spacing_voxels: float, offset_voxels: float = 0.0) -> npt.NDArray[np.float64]:
    """How far each voxel of an axis lies on one of the slices of :func:`acquisition`.

    One where a slice centre falls on the voxel; a slice between two voxels is shared between them, linearly
    (reliability maps, Iglesias et al., NeuroImage 2021, section 2.3).

    Returns
    -------
    Shape (n_samples,), from 0 to 1.
    """
    if spacing_voxels <= 1:
        return np.ones(n_samples)
    offset_voxels = min(offset_voxels, n_samples - 1)
    slices = np.arange(offset_voxels, n_samples - 1 + 1e-6, spacing_voxels)
    weights: npt.NDArray[np.float64] = interpolation(slices, n_samples).sum(axis=0).clip(max=1.0)
    return weights


def apply_each(images: Tensor, matrices: Matrix, axis: int) -> Tensor:
    """Multiply one axis of a batch by a matrix per image and channel.

    Parameters
    ----------
    images
        Shape (n, c, x, y, z).
    matrices
        Shape (n, c, m, length of the axis).
    axis
        2, 3 or 4.
    """
    operator = torch.as_tensor(matrices, dtype=images.dtype, device=images.device)
    if images.shape[:2] == (1, 1):
        return apply(images, matrices[0, 0], axis)
    moved = torch.matmul(images.movedim(axis, -1), operator.transpose(-1, -2)[:, :, None])
    return moved.movedim(-1, axis)
