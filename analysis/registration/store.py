"""What a registration leaves in its folder, and reading it again.

``affine.txt``
    The linear part: four rows, from mm of the fixed to mm of the moving scan, RAS.
``displacement.nii.gz``
    (x, y, z, 3), float32, mm, RAS: from each fixed voxel to its place in the moving scan, the linear part included.
``inverse_displacement.nii.gz``
    The same the other way, on the moving scan's grid.
``velocity.nii.gz``, ``inverse_velocity.nii.gz``
    With a non-linear part: NiftyReg's control points of the stationary velocity fields, without the linear part.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from synthsr import files

from . import transforms
from .pairs import Registration
from .transforms import Field, Grid, Transform

AFFINE, DISPLACEMENT, INVERSE = "affine.txt", "displacement.nii.gz", "inverse_displacement.nii.gz"
VELOCITY, INVERSE_VELOCITY = "velocity.nii.gz", "inverse_velocity.nii.gz"


def save(registration: Registration, fixed: Grid, moving: Grid, out: Path) -> Field:
    """Write the files of a registration.

    Parameters
    ----------
    registration
        Of the two scans.
    fixed, moving
        Their grids.
    out
        Folder; made if need be.

    Returns
    -------
    The displacement on the fixed grid.
    """
    displacement = registration.forward.on(fixed)
    transforms.write_matrix(registration.forward.linear, out / AFFINE)
    displacement.save(out / DISPLACEMENT)
    registration.inverse.on(moving).save(out / INVERSE)
    for name, velocity in ((VELOCITY, registration.velocity), (INVERSE_VELOCITY, registration.inverse_velocity)):
        if velocity is None:
            (out / name).unlink(missing_ok=True)
            continue
        with files.whole(out / name) as temporary:
            nib.save(velocity, temporary)
    return displacement


def load(folder: Path) -> Registration:
    """Read what :func:`save` left; between voxels the non-linear part is linear.

    Raises
    ------
    DataError
        If a file is missing or damaged.
    """
    matrix = transforms.read_matrix(folder / AFFINE)
    if not (folder / VELOCITY).is_file():
        return Registration(transforms.linear(matrix), transforms.linear(transforms.inverse(matrix)))
    return Registration(
        _from_displacement(Field.load(folder / DISPLACEMENT), matrix),
        _from_displacement(Field.load(folder / INVERSE), transforms.inverse(matrix)),
        *(_in_memory(folder / name) for name in (VELOCITY, INVERSE_VELOCITY)),
    )


def _from_displacement(total: Field, matrix: transforms.Matrix) -> Transform:
    """A transform whose linear part comes last, as in a registration without a mid-space."""
    points = total.grid.points()
    before = transforms.move(transforms.inverse(matrix), points + total.displacement_mm) - points
    return Transform(np.eye(4), Field(before.astype(np.float32), total.grid), matrix)


def _in_memory(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    return nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
