"""The superior sagittal sinus, which label maps of the brain leave out: bright on T1 scans with contrast agent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from synthsr import labels

from .anatomy import FLUID, Anatomy

#: Half of its width, and its depth below the skull.
HALF_WIDTH_MM, DEPTH_MM = 4.5, 8.0
#: Labels of vessels; a base that has them needs no more.
VESSELS = (502, 514)


def superior_sinus(anatomy: Anatomy) -> npt.NDArray[np.bool_] | None:
    """Fluid under the vault along the plane between both hemispheres (X, Y, Z); None where the base has vessels.

    The plane is fitted to the midpoints between the cortices of both sides. Volumes of the truth still count these
    voxels as fluid: they belong to the intracranial space.
    """
    numbers = anatomy.numbers
    if np.isin(numbers, VESSELS).any() or not set(labels.CORTEX) <= set(anatomy.structures):
        return None
    left, right = (np.argwhere(numbers == n)[::7].astype(float) for n in labels.CORTEX)
    # The plane x = a + b·y + c·z that tells left from right best, by least squares on ±1.
    points = np.concatenate([left, right])
    side = np.repeat([-1.0, 1.0], [len(left), len(right)])
    design = np.column_stack([np.ones(len(points)), points])
    offset, *normal = np.linalg.lstsq(design, side, rcond=None)[0]
    grids = np.ogrid[tuple(slice(n) for n in numbers.shape)]
    distance = sum(n * g for n, g in zip(normal, grids, strict=True)) + offset
    brain_z = np.nonzero((numbers == labels.CORTEX[0]).any(axis=(0, 1)))[0]
    inside = np.isin(numbers, anatomy.structures)
    low = int(brain_z.min() + 0.35 * np.ptp(brain_z))
    depth = np.zeros(numbers.shape, dtype=np.float32)
    from_below = max(low - 10, 0)
    depth[:, :, from_below:] = ndimage.distance_transform_edt(inside[:, :, from_below:])
    near = np.abs(distance / np.linalg.norm(normal))
    # Triangular in section: as wide as it is high at the vault.
    sinus = (numbers == FLUID) & (near * DEPTH_MM + depth * HALF_WIDTH_MM < HALF_WIDTH_MM * DEPTH_MM)
    sinus[:, :, :low] = False
    return np.asarray(sinus)
