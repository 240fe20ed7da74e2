"""Transforms from the space of a fixed scan to that of a moving scan, as maps of points.

Everything here is in world coordinates, RAS+ mm, as nibabel's affines give them, and a transform takes a point of the
*fixed* scan to its place in the *moving* scan: the direction in which images are resampled. NiftyReg's files mean the
same (tests/unit/test_registration.py proves each): the text file of an affine is that matrix, and the values of a
deformation field are the points themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import linalg, ndimage

from synthsr import files, preprocess

from ..errors import ConfigurationError, DataError

Matrix = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]
#: Formats of other laboratories' linear transforms, by the names that nitransforms has for them, and their suffixes.
LINEAR_FORMATS = {"itk": ".txt", "fsl": ".mat", "fs": ".lta"}
#: Voxels of a slab in which large fields are worked through.
SLAB = 8


class Grid(preprocess.Grid):
    """Voxels in the world."""

    @property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        """Distance between voxel centres along each axis, shape (3,)."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), dtype=float)

    def points(self, first: int = 0, last: int | None = None) -> Points:
        """Centres of the voxels of the slices ``first`` to ``last`` of the first axis, shape (x, y, z, 3), mm."""
        axes = [np.arange(first, self.shape[0] if last is None else last), *map(np.arange, self.shape[1:])]
        voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        return move(self.affine, voxels)

    def voxels(self, points_mm: Points) -> Points:
        """Voxel coordinates of points (…, 3)."""
        return move(inverse(self.affine), points_mm)

    def holds(self, points_mm: Points) -> npt.NDArray[np.bool_]:
        """Whether points (…, 3) lie within the field of view, the outer voxels' halves included."""
        voxels = self.voxels(points_mm)
        return np.asarray(((voxels >= -0.5) & (voxels <= np.array(self.shape) - 0.5)).all(axis=-1))

    def is_same(self, other: Grid) -> bool:
        """Whether another grid has the same voxels, to a hundredth of a millimetre at its corners."""
        if self.shape != other.shape:
            return False
        corners = np.stack(np.meshgrid(*([0, n - 1] for n in self.shape), indexing="ij"), axis=-1).reshape(-1, 3)
        return bool(np.abs(move(self.affine, corners) - move(other.affine, corners)).max() < 1e-2)


@dataclass(frozen=True)
class Field:
    """A displacement at every voxel of a grid.

    Attributes
    ----------
    displacement_mm
        Shape (x, y, z, 3), float32, along right, anterior and superior.
    grid
        Its voxels.
    """

    displacement_mm: npt.NDArray[np.float32]
    grid: Grid

    def carry(self, points_mm: Points) -> Points:
        """Where points (…, 3) go; linear between voxels, and beyond the grid the displacement of its border."""
        voxels = np.moveaxis(self.grid.voxels(points_mm), -1, 0)
        moved = [
            ndimage.map_coordinates(self.displacement_mm[..., axis], voxels, order=1, mode="nearest")
            for axis in range(3)
        ]
        return np.asarray(points_mm + np.stack(moved, axis=-1))

    def jacobian(self) -> npt.NDArray[np.float32]:
        """Determinant of the Jacobian of ``x + displacement(x)`` at every voxel, by central differences, (x, y, z)."""
        return jacobian(self.displacement_mm, self.grid)

    def save(self, path: Path) -> None:
        """Write as NIfTI of shape (x, y, z, 3), float32."""
        image = nib.Nifti1Image(self.displacement_mm.astype(np.float32), self.grid.affine)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = b"displacement, mm, RAS"
        with files.whole(path) as temporary:
            nib.save(image, temporary)

    @classmethod
    def load(cls, path: Path) -> Field:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If the file is none such.
        """
        try:
            image = nib.load(path)
            data = np.squeeze(np.asarray(image.dataobj, dtype=np.float32))
        except (OSError, nib.filebasedimages.ImageFileError, EOFError) as error:
            raise DataError(f"{path}: cannot be read as a displacement field ({error})") from error
        if data.ndim != 4 or data.shape[3] != 3 or not np.isfinite(data).all():
            raise DataError(f"{path}: shape {data.shape} is no displacement field; (x, y, z, 3), all finite, is")
        return cls(data, Grid((data.shape[0], data.shape[1], data.shape[2]), np.asarray(image.affine, dtype=float)))


@dataclass(frozen=True)
class Transform:
    """From points of a fixed scan to their places in a moving scan: a matrix, a field, and another matrix.

    Attributes
    ----------
    before
        From the fixed scan to where the field is defined, shape (4, 4), mm RAS.
    field
        Non-linear part; ``None`` if there is none.
    after
        From there to the moving scan, shape (4, 4), mm RAS.
    """

    before: Matrix
    field: Field | None
    after: Matrix

    @property
    def linear(self) -> Matrix:
        """The transform without its non-linear part, shape (4, 4)."""
        return np.asarray(self.after @ self.before)

    def carry(self, points_mm: Points) -> Points:
        """Where points of the fixed scan (…, 3) are in the moving scan."""
        points_mm = move(self.before, np.asarray(points_mm, dtype=float))
        if self.field is not None:
            points_mm = self.field.carry(points_mm)
        return move(self.after, points_mm)

    def on(self, grid: Grid) -> Field:
        """The whole transform as displacements on a grid of the fixed scan's space."""
        displacement = np.empty((*grid.shape, 3), dtype=np.float32)
        for first in range(0, grid.shape[0], SLAB):
            points = grid.points(first, min(first + SLAB, grid.shape[0]))
            displacement[first : first + SLAB] = self.carry(points) - points
        return Field(displacement, grid)


def linear(matrix: Matrix) -> Transform:
    """A transform that is a matrix alone."""
    return Transform(np.asarray(matrix, dtype=float), None, np.eye(4))


def inverse(matrix: Matrix) -> Matrix:
    """The matrix (4, 4) that undoes another."""
    return np.asarray(np.linalg.inv(matrix), dtype=float)


def move(matrix: Matrix, points: npt.NDArray[Any]) -> Points:
    """Points (…, 3) through a matrix (4, 4)."""
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def jacobian(displacement_mm: npt.NDArray[np.float32], grid: Grid) -> npt.NDArray[np.float32]:
    """Determinant of the Jacobian of ``x + displacement`` (x, y, z, 3; mm) on a grid, shape (x, y, z).

    Central differences, one-sided at the border: det(I + ∂u/∂voxel · affine⁻¹).
    """
    to_voxel = np.linalg.inv(grid.affine[:3, :3])
    determinant = np.empty(grid.shape, dtype=np.float32)
    size = grid.shape[0]
    for first in range(0, size, SLAB):
        low, high = max(first - 1, 0), min(first + SLAB + 1, size)
        by_voxel = np.stack(np.gradient(displacement_mm[low:high].astype(float), axis=(0, 1, 2)), axis=-1)
        inner = slice(first - low, first - low + min(SLAB, size - first))
        determinant[first : first + SLAB] = np.linalg.det(np.eye(3) + by_voxel[inner] @ to_voxel)
    return determinant


def half(matrix: Matrix) -> Matrix:
    """The matrix (4, 4) that applied twice is ``matrix``; of a rigid one it is rigid.

    Raises
    ------
    DataError
        If there is none that is real: the matrix turns by half a circle, or mirrors.
    """
    root = linalg.sqrtm(matrix)
    if not np.isfinite(root).all() or np.abs(np.imag(root)).max() > 1e-6:
        raise DataError("the two scans are turned by half a circle or mirrored, so that there is no way half between")
    return np.asarray(np.real(root), dtype=float)


def mean(matrices: list[Matrix]) -> Matrix:
    """Mean of matrices (4, 4) in log space (Alexa, ACM Trans Graph 2002, doi 10.1145/566654.566592).

    Raises
    ------
    DataError
        If a matrix has no real logarithm.
    """
    logarithms = [linalg.logm(matrix) for matrix in matrices]
    if any(np.abs(np.imag(logarithm)).max() > 1e-6 for logarithm in logarithms):
        raise DataError("a scan is turned by half a circle or mirrored against another: there is no mean of both")
    return np.asarray(np.real(linalg.expm(np.mean(np.real(logarithms), axis=0))), dtype=float)


def read_matrix(path: Path) -> Matrix:
    """Read NiftyReg's text file of an affine: four rows, from mm of the fixed to mm of the moving scan, RAS.

    Raises
    ------
    DataError
        If it is none such.
    """
    try:
        matrix = np.loadtxt(path, dtype=float)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as four rows of numbers ({error})") from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise DataError(f"{path}: holds no affine matrix of four rows, the last 0 0 0 1")
    return np.asarray(matrix)


def write_matrix(matrix: Matrix, path: Path) -> None:
    """Write a matrix as :func:`read_matrix` reads it."""
    rows = "\n".join(" ".join(f"{value:.10g}" for value in row) for row in matrix)
    files.write_text(path, rows + "\n")


def export_linear(matrix: Matrix, path: Path, *, kind: str, fixed: Path, moving: Path) -> None:
    """Write a matrix for ITK (ANTs, Slicer), FSL or FreeSurfer, by nitransforms.

    Parameters
    ----------
    matrix
        From mm of the fixed to mm of the moving scan, RAS, shape (4, 4).
    path
        Where to; see :data:`LINEAR_FORMATS` for the usual suffix.
    kind
        A key of :data:`LINEAR_FORMATS`.
    fixed, moving
        The scans: FSL's and FreeSurfer's files depend on their grids.
    """
    from nitransforms.linear import Affine

    with files.whole(path) as temporary:
        Affine(matrix, reference=nib.load(fixed)).to_filename(temporary, moving=nib.load(moving), fmt=kind)


def export_field(field: Field, path: Path) -> None:
    """Write a displacement as ITK and ANTs have it: (x, y, z, 1, 3), mm, LPS, from fixed to moving; by nitransforms."""
    from nitransforms.io.itk import ITKDisplacementsField

    with files.whole(path) as temporary:
        nib.save(ITKDisplacementsField.to_image(nib.Nifti1Image(field.displacement_mm, field.grid.affine)), temporary)


def import_linear(path: Path, *, kind: str, fixed: Path, moving: Path) -> Matrix:
    """Read a linear transform of ITK, FSL or FreeSurfer as a matrix from fixed to moving mm, RAS, shape (4, 4).

    Raises
    ------
    ConfigurationError
        If the format is unknown.
    DataError
        If the file cannot be read as one.
    """
    if kind not in LINEAR_FORMATS:
        raise ConfigurationError(f"format {kind!r} of {path.name}: expected one of {', '.join(LINEAR_FORMATS)}")
    from nitransforms.linear import load

    try:
        found = load(path, fmt=kind, reference=nib.load(fixed), moving=nib.load(moving))
    except Exception as error:  # nitransforms raises nearly anything
        raise DataError(f"{path}: cannot be read as a linear transform of {kind} ({error})") from error
    matrix = np.squeeze(np.asarray(found.matrix, dtype=float))
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise DataError(f"{path}: holds no single affine matrix")
    return matrix
