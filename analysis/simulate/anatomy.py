"""The base anatomy: a whole-head label map at 1 mm, and its loading. ``synthsr head`` makes one from a T1 scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage, sparse

from synthsr import labels
from synthsr.labels import FLUID as FLUID

from ..errors import DataError

#: Where the project's own base anatomy lies.
DEFAULT = Path(__file__).parent / "data" / "anatomy.nii.gz"
CORD = 512
#: Labels of the brain stem, and of what cannot lie below it.
BRAIN_STEM = 16
CEREBRUM = (*labels.WHITE_MATTER, *labels.CORTEX)
#: Fluid further than this below the lowest part of the brain is the spine's, not the skull's.
BELOW_BRAIN_MM = 10


@dataclass(frozen=True)
class Anatomy:
    """A base anatomy, cut to the head; world coordinates are its voxels, 1 mm, axes right, anterior, superior.

    Attributes
    ----------
    numbers
        Label number per voxel (X, Y, Z): those of the segmentation inside the skull, 500 and above outside.
    structures
        Numbers of the structures inside the skull that occur.
    volumes_mm3
        Their volumes.
    grid_mm
        Spacing of the deformation's grid; node *i* is the centre of block *i* of ``grid_mm``³ voxels.
    fractions
        Voxels of each structure (row) in each block (column).
    """

    numbers: npt.NDArray[np.uint16]
    structures: tuple[int, ...]
    volumes_mm3: npt.NDArray[np.float64]
    grid_mm: int
    fractions: sparse.csr_array

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Nodes of the deformation's grid."""
        x, y, z = (n // self.grid_mm for n in self.numbers.shape)
        return x, y, z

    @property
    def centre(self) -> npt.NDArray[np.float64]:
        """Middle of the intracranial space's bounding box, in voxels."""
        inside = np.argwhere((self.numbers >= 1) & (self.numbers <= 499))
        return np.asarray((inside.min(axis=0) + inside.max(axis=0)) / 2)


def load(path: Path, *, grid_mm: int) -> Anatomy:
    """Read a label map, fold what the segmenter does not tell apart, and cut it to the head with a margin.

    Raises
    ------
    DataError
        If the file is no image of 1 mm voxels with integer labels that ``synthsr/labels.tsv`` knows, or has no
        structure inside the skull.
    """
    image, data = _read(path)
    spacing = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    if np.abs(spacing - 1).max() > 0.01:
        raise DataError(f"{path}: voxels of {spacing.round(3)} mm; a base anatomy has 1 mm: resample it")
    numbers = np.rint(data)
    unknown = sorted(set(np.unique(numbers).tolist()) - set(labels.by_number()))
    if unknown or np.abs(numbers - data).max() > 1e-3:
        raise DataError(
            f"{path}: not a label map of synthsr/labels.tsv: {unknown or 'values between whole numbers'}; "
            "give a whole-head label map"
        )
    fold = np.arange(labels.table()[-1].number + 1, dtype=np.uint16)
    for label in labels.table():
        fold[label.number] = label.segment_as if label.number < 500 else label.number
    try:
        return make(without_spine(fold[numbers.astype(np.intp)]), grid_mm=grid_mm)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def without_spine(numbers: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Give what lies in the spinal canal the spinal cord's number, so that it is not counted as intracranial.

    That is fluid far below the brain, and what a segmentation takes for cerebrum below the brain stem.
    """
    stem = np.nonzero((numbers == BRAIN_STEM).any(axis=(0, 1)))[0]
    cord = numbers[:, :, : int(stem[0]) if len(stem) else 0]
    cord[np.isin(cord, CEREBRUM)] = CORD
    brain = (numbers >= 1) & (numbers <= 499) & (numbers != FLUID)
    lowest = int(np.nonzero(brain.any(axis=(0, 1)))[0].min(initial=numbers.shape[2]))
    canal = numbers[:, :, : max(lowest - BELOW_BRAIN_MM, 0)]
    canal[canal == FLUID] = CORD
    return numbers


def make(numbers: npt.NDArray[np.uint16], *, grid_mm: int) -> Anatomy:
    """Cut a label map (axes right, anterior, superior; 1 mm) to the head and measure it.

    Raises
    ------
    DataError
        If there is no structure inside a skull.
    """
    structures = tuple(int(n) for n in np.unique(numbers) if n in labels.intracranial_numbers())
    if not structures:
        raise DataError("the base anatomy has no label of 1–499")
    margin = 4 * grid_mm
    box = ndimage.find_objects((numbers > 0).astype(np.uint8))[0]
    numbers = np.pad(numbers[box], [(margin, margin + (-(s.stop - s.start)) % grid_mm) for s in box])
    inside = np.nonzero((numbers >= 1) & (numbers <= 499))
    blocks = np.ravel_multi_index(tuple(axis // grid_mm for axis in inside), tuple(n // grid_mm for n in numbers.shape))
    rows = np.searchsorted(structures, numbers[inside])
    fractions = sparse.csr_array(
        sparse.coo_array(
            (np.ones(rows.size, dtype=np.float32), (rows, blocks)),
            shape=(len(structures), numbers.size // grid_mm**3),
        )
    )
    fractions.sum_duplicates()
    volumes = np.bincount(rows, minlength=len(structures)).astype(float)
    return Anatomy(numbers, structures, volumes, grid_mm, fractions)


def _read(path: Path) -> tuple[Any, npt.NDArray[np.float32]]:
    """Image in the nearest right-anterior-superior orientation and its values."""
    try:
        image = nib.as_closest_canonical(nib.load(path))
        data = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error}); is it whole?") from error
    if data.ndim != 3 or not np.isfinite(data).all():
        raise DataError(
            f"{path}: expected three dimensions of finite numbers, found shape {data.shape}; "
            "give a whole-head label map"
        )
    return image, data
