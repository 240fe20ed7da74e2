"""A 1 mm scan as it would be in thick slices: blurred by the slice's profile, one slice every so many mm.

Experiments ask what thick slices cost by making them from scans of 1 mm, of which the answer is known (Iglesias et al.,
NeuroImage 2021, table 2). The profile is the generator's (:mod:`.resample`), a Gaussian.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np
import numpy.typing as npt

from . import resample
from .errors import ConfigurationError
from .preprocess import Grid

#: Orientation of slices → axis of the world (right, anterior, superior) that they are stacked along.
ORIENTATIONS = {"sagittal": 0, "coronal": 1, "axial": 2}
#: Standard deviation of the profile, as a share of the slices' distance (reference implementation).
PROFILE = 0.42


def thicken(
    data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], *, spacing_mm: float, orientation: str
) -> tuple[npt.NDArray[np.float32], Grid]:
    """Thick slices of a scan.

    Parameters
    ----------
    data, affine
        The scan, shape (x, y, z).
    spacing_mm
        Distance of the slices, which touch.
    orientation
        A key of :data:`ORIENTATIONS`; slices lie along the scan's own axis that is nearest to it.

    Returns
    -------
    The slices, float32, fewer along that axis, and their grid: every slice is where it was in the world.

    Raises
    ------
    ConfigurationError
        If the orientation is none, or slices would be no thicker than they are or fewer than two.
    """
    if orientation not in ORIENTATIONS:
        raise ConfigurationError(f"orientation {orientation!r}: expected one of {', '.join(ORIENTATIONS)}")
    axis = int(np.flatnonzero(nib.orientations.io_orientation(affine)[:, 0] == ORIENTATIONS[orientation])[0])
    step_mm, count = float(np.linalg.norm(affine[:3, axis])), data.shape[axis]
    spacing = spacing_mm / step_mm
    slices = np.arange((spacing - 1) / 2, count - 1 + 1e-6, spacing)
    if spacing <= 1 or len(slices) < 2:
        raise ConfigurationError(
            f"spacing of {spacing_mm:g} mm: the scan has {count} {orientation} slices {step_mm:.3g} mm apart; "
            "give more than that, and less than half their extent"
        )
    matrix = resample.interpolation(slices, count) @ resample.gaussian_blur(count, PROFILE * spacing)
    thick = np.moveaxis(np.tensordot(data, matrix, axes=([axis], [1])), -1, axis)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, axis] * slices[0]
    moved[:3, axis] *= spacing
    return thick.astype(np.float32), Grid((thick.shape[0], thick.shape[1], thick.shape[2]), moved)
