"""Where the pixels of a stack of slices lie, in DICOM's patient coordinates: left, posterior, superior, millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

#: Directions of a row (towards higher columns) and of a column (towards higher rows), as a viewer shows them: the
#: patient's left on the right, anterior up or left, superior up.
ORIENTATIONS: dict[str, tuple[Vector, Vector]] = {
    "axial": (np.array([1.0, 0, 0]), np.array([0, 1.0, 0])),
    "coronal": (np.array([1.0, 0, 0]), np.array([0, 0, -1.0])),
    "sagittal": (np.array([0, 1.0, 0]), np.array([0, 0, -1.0])),
}
#: Turns left-posterior-superior into right-anterior-superior and back.
FLIP = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """A stack of parallel slices.

    Attributes
    ----------
    row, column
        Unit vectors along a row and along a column.
    centre_mm
        Middle of the stack.
    matrix
        Rows and columns.
    pixel_mm
        In-plane pixel size.
    slices
        How many.
    spacing_mm
        Distance of slice centres.
    thickness_mm
        Width of the slice profile at half its height.
    """

    row: Vector
    column: Vector
    centre_mm: Vector
    matrix: int
    pixel_mm: float
    slices: int
    spacing_mm: float
    thickness_mm: float

    @property
    def normal(self) -> Vector:
        """Direction of rising slice number."""
        return np.cross(self.row, self.column)

    def position_mm(self, number: int) -> Vector:
        """Centre of the first pixel of a slice: ImagePositionPatient."""
        corner = self.centre_mm - (self.matrix - 1) / 2 * self.pixel_mm * (self.row + self.column)
        return np.asarray(corner + (number - (self.slices - 1) / 2) * self.spacing_mm * self.normal)

    def affine_ras(self) -> npt.NDArray[np.float64]:
        """Matrix (4, 4) from (column, row, slice) to right-anterior-superior millimetres."""
        affine = np.eye(4)
        affine[:3, 0] = FLIP * self.row * self.pixel_mm
        affine[:3, 1] = FLIP * self.column * self.pixel_mm
        affine[:3, 2] = FLIP * self.normal * self.spacing_mm
        affine[:3, 3] = FLIP * self.position_mm(0)
        return affine
