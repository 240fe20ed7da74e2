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
    brain_z = np.nonzero((numbers == labels.CORTEX[0]).any(axis=(0, 1)))[0]
    low = int(brain_z.min() + 0.35 * np.ptp(brain_z))
    # Only the upper part of the skull and a little more, so that depths are right: distances take memory.
    inside = np.isin(numbers, anatomy.structures)
    inside[:, :, : max(low - round(DEPTH_MM) - 2, 0)] = False
    (box,) = ndimage.find_objects(inside.astype(np.uint8))
    box = tuple(slice(part.start - 1, part.stop + 1) for part in box)
    depth = ndimage.distance_transform_edt(inside[box])
    distance = sum(n * grid for n, grid in zip(normal, np.ogrid[box], strict=True)) + offset
    near = np.abs(distance / np.linalg.norm(normal))
    sinus = np.zeros(numbers.shape, dtype=np.bool_)
    # Triangular in section: as wide as it is high at the vault.
    sinus[box] = near * DEPTH_MM + depth * HALF_WIDTH_MM < HALF_WIDTH_MM * DEPTH_MM
    sinus[:, :, :low] = False
    return np.asarray(sinus & (numbers == FLUID))
