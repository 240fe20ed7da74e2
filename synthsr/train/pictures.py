"""Pictures of volumes for looking at a training: three middle slices of each, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .. import labels

Volume = npt.NDArray[np.floating] | npt.NDArray[np.integer]
#: Share of voxels that may be brighter than white.
BRIGHTEST = 0.002


def montage(volumes: Sequence[Volume]) -> npt.NDArray[np.uint8]:
    """Sagittal, coronal and axial middle slice of each volume, one volume a column.

    Parameters
    ----------
    volumes
        Shape (x, y, z), RAS. Floating ones are grey levels, integer ones channels of the segmentation.

    Returns
    -------
    Shape (height, width, 3); up is superior, or anterior in the axial slice.
    """
    side = max(size for volume in volumes for size in volume.shape)
    return np.hstack([np.vstack([_square(plane, side) for plane in _planes(_coloured(v))]) for v in volumes])


def _coloured(volume: Volume) -> npt.NDArray[np.uint8]:
    """Shape (x, y, z, 3)."""
    if np.issubdtype(volume.dtype, np.integer):
        numbers = labels.segmentation_numbers()
        colours = np.array([labels.by_number()[number].colour for number in numbers], dtype=np.uint8)
        return np.asarray(colours[volume])
    low, high = float(volume.min()), float(np.quantile(volume, 1 - BRIGHTEST))
    grey = (255 * (volume - low) / max(high - low, 1e-6)).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _planes(volume: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    middle = [np.take(volume, size // 2, axis=axis) for axis, size in enumerate(volume.shape[:3])]
    return [plane.swapaxes(0, 1)[::-1] for plane in middle]


def _square(plane: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    before = [(side - size) // 2 for size in plane.shape[:2]]
    margins = [(b, side - size - b) for b, size in zip(before, plane.shape[:2], strict=True)]
    return np.pad(plane, [*margins, (0, 0)])
