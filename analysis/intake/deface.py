"""Removes faces: what lies further from the intracranial space than a border.

The space is what the segmenter labels as such, and what its head for the distance to the brain's boundary finds: where
one of the two has missed some brain, the other protects it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import SpatialImage
from scipy import ndimage

from analysis.errors import DataError
from synthsr import labels, scan
from synthsr.preprocess import Grid
from synthsr.segment import Segmenter
from synthsr.strip import brain_mask

#: Leaves the inner skull; the eyes' lenses, the nose and the skin lie further out.
BORDER_MM = 8.0
#: A segmenter that finds less has not found the head.
LEAST_LITRES = 0.3


class Defacer:
    """A loaded segmenter that removes faces.

    Parameters
    ----------
    weights
        Segmentation weights by name or path; best with a head for the distance to the brain's boundary.
    device
        ``auto``, ``cpu``, ``cuda`` …
    """

    def __init__(self, weights: str | Path, device: str = "auto") -> None:
        self.segmenter = Segmenter.load(weights, device)

    @property
    def facts(self) -> dict[str, Any]:
        """What sidecars say."""
        return {
            "Defaced": True,
            "DefacingMethod": f"voxels further than {BORDER_MM:g} mm from the intracranial space are empty",
            "DefacingWeightsName": self.segmenter.weights.path.stem,
            "DefacingWeightsSHA256": self.segmenter.weights.sha256,
        }

    def __call__(self, image: SpatialImage, name: str, *, is_ct: bool) -> nib.Nifti1Image:
        """Image without face, on its own grid and in its own intensities; empty is 0, or its minimum if lower.

        Raises
        ------
        DataError
            If no head is found in it; ``name`` is what the message calls it.
        """
        data = np.asanyarray(image.dataobj).astype(np.float32).reshape(image.shape[:3])
        x, y, z = data.shape
        seen, grid = scan.prepared(Path(name), data, image.affine, ct=is_ct)
        channel, _ = self.segmenter.segment(seen, flip=False)
        numbers = np.array(labels.segmentation_numbers())
        inside = np.isin(numbers[channel.numpy()], labels.intracranial_numbers())
        if self.segmenter.weights.network.config.distance:
            inside |= brain_mask(self.segmenter.strip(seen, flip=False).numpy())
        kept = near(inside, grid, Grid((x, y, z), image.affine))
        if kept is None:
            raise DataError(f"{name}: no head found in it, so that its face cannot be removed; leave out this scan")
        return nib.Nifti1Image(np.where(kept, data, min(0, data.min())).astype(np.float32), image.affine)


def near(inside: npt.NDArray[np.bool_], grid: Grid, own: Grid) -> npt.NDArray[np.bool_] | None:
    """Voxels of a scan that are within :data:`BORDER_MM` of the largest part of ``inside``.

    Parameters
    ----------
    inside
        Intracranial space, on a 1 mm grid.
    grid, own
        That grid, and the scan's.

    Returns
    -------
    Shape ``own.shape``; None if ``inside`` is smaller than any head's.
    """
    parts, number = ndimage.label(inside)
    sizes = np.bincount(parts.ravel())[1:]
    voxel_litres = abs(float(np.linalg.det(grid.affine[:3, :3]))) * 1e-6
    if not number or sizes.max() * voxel_litres < LEAST_LITRES:
        return None
    largest = parts == 1 + sizes.argmax()
    spacing_mm = np.linalg.norm(grid.affine[:3, :3], axis=0)
    distance_mm = ndimage.distance_transform_edt(~largest, sampling=spacing_mm).astype(np.float32)
    close: npt.NDArray[np.bool_] = scan.onto_grid(distance_mm, grid.affine, own) <= BORDER_MM
    return close
