"""The base anatomy: a whole-head label map at 1 mm, its loading, and its making from a T1 scan and a segmentation.

``python -m analysis.simulate.anatomy T1 SEGMENTATION OUT`` makes one: the brain as segmented (with 24 for the fluid
around it; cortex, white matter and that fluid redrawn by intensity), and bone, soft tissue, fat and skin outside it, by
intensity too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from scipy import cluster, ndimage, sparse

from synthsr import files, labels

from ..errors import DataError, SynthSRError

#: Where the project's own base anatomy lies.
DEFAULT = Path(__file__).parent / "data" / "anatomy.nii.gz"
FLUID = 24
BONE, SOFT, FAT, CORD = 515, 507, 511, 512
#: Fluid further than this below the lowest part of the brain is the spine's, not the skull's.
BELOW_BRAIN_MM = 10
#: What of the neck a base anatomy made here keeps below the brain.
NECK_MM = 60
#: Thickness given to the skin.
SKIN_MM = 2
#: Bright tissue deeper than this is muscle, marrow or mucosa rather than the fat under the skin.
SCALP_MM = 12
#: What is darker than this part of white matter is taken for air when the head is looked for.
AIR = 0.1
#: Width over which a scan's sensitivity is taken to be even.
SENSITIVITY_MM = 25


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
        If the file is no image of 1 mm voxels with integer labels that ``synthsr/labels.tsv`` knows.
    """
    image, data = _read(path)
    spacing = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    if np.abs(spacing - 1).max() > 0.01:
        raise DataError(f"{path}: voxels of {spacing.round(3)} mm; a base anatomy has 1 mm")
    numbers = np.rint(data)
    unknown = sorted(set(np.unique(numbers).tolist()) - set(labels.by_number()))
    if unknown or np.abs(numbers - data).max() > 1e-3:
        raise DataError(f"{path}: not a label map of synthsr/labels.tsv: {unknown or 'values between whole numbers'}")
    fold = np.arange(labels.table()[-1].number + 1, dtype=np.uint16)
    for label in labels.table():
        fold[label.number] = label.segment_as if label.number < 500 else label.number
    return make(without_spine(fold[numbers.astype(np.intp)]), grid_mm=grid_mm)


def without_spine(numbers: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Give the fluid of the spinal canal the spinal cord's number, so that it is not counted as intracranial."""
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


def fold_cerebrum(t1: npt.NDArray[np.float32], brain: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Redraw cortex, cerebral white matter and outer fluid by the scan's own intensity.

    A network's segmentation may be smoother than the folds; on a T1 scan the three tissues are told apart by grey level
    alone. Each voxel takes the side of the nearest voxel that the segmentation calls cortex or white matter.

    Parameters
    ----------
    t1, brain
        Scan and segmentation on one grid of 1 mm.
    """
    region = np.isin(brain, (*labels.CORTEX, *labels.WHITE_MATTER, FLUID))
    # Slow changes of sensitivity would pass for tissue: divide by the local mean over the region.
    weight = ndimage.gaussian_filter(region.astype(np.float32), SENSITIVITY_MM)
    local = ndimage.gaussian_filter(np.where(region, t1, 0), SENSITIVITY_MM) / np.maximum(weight, 1e-6)
    grey = ndimage.gaussian_filter(t1, 0.5) / np.maximum(local, 1e-6)
    starts = np.percentile(grey[region], [10, 50, 90])[:, None]
    levels = np.sort(cluster.vq.kmeans2(grey[region][:, None], starts)[0].ravel())
    tissue = np.digitize(grey, (levels[1:] + levels[:-1]) / 2)
    sides = np.where(np.isin(brain, (labels.CORTEX[0], labels.WHITE_MATTER[0])), 1, 0) + np.where(
        np.isin(brain, (labels.CORTEX[1], labels.WHITE_MATTER[1])), 2, 0
    )
    nearest = ndimage.distance_transform_edt(sides == 0, return_distances=False, return_indices=True)
    side = sides[tuple(nearest)] - 1
    redrawn = np.stack([np.full_like(side, FLUID), np.array(labels.CORTEX)[side], np.array(labels.WHITE_MATTER)[side]])
    chosen = np.take_along_axis(redrawn, tissue[None], axis=0)[0]
    return np.where(region, chosen, brain).astype(np.uint16)


def around_brain(t1: npt.NDArray[np.float32], brain: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Label the head outside the intracranial space by its T1 intensity.

    Parameters
    ----------
    t1, brain
        Scan and segmentation (0 outside, 1–499 inside) on one grid of 1 mm.

    Returns
    -------
    numpy.ndarray
        ``brain`` with 515 (bone, air), 507 (soft tissue) and 511 (fat) for the dark, middle and bright of three
        clusters of intensity, 511 also within ``SKIN_MM`` of the air around the head and never deeper than
        ``SCALP_MM``; 0 outside the head and further than ``NECK_MM`` below the brain. Holes of ``brain`` count as
        fluid (24).

    Raises
    ------
    DataError
        If the segmentation has no white matter, to which intensities are related.
    """
    if not np.isin(brain, labels.WHITE_MATTER).any():
        raise DataError(f"the segmentation has no cerebral white matter (labels {labels.WHITE_MATTER})")
    inside = ndimage.binary_fill_holes(brain > 0)
    white = float(np.median(t1[np.isin(brain, labels.WHITE_MATTER)]))
    smooth = ndimage.gaussian_filter(t1, 0.7)
    head = (smooth > AIR * white) | inside
    head[:, :, : max(int(np.nonzero(inside.any(axis=(0, 1)))[0].min()) - NECK_MM, 0)] = False
    parts, _ = ndimage.label(head)
    head = parts == np.bincount(parts[inside]).argmax()
    # Closed with the edge repeated, so that the cut through the neck does not open the head.
    head = ndimage.binary_closing(np.pad(head, 12, mode="edge"), _ball(3), iterations=4)[12:-12, 12:-12, 12:-12]
    for axis in range(3):
        for plane in np.moveaxis(head, axis, 0):
            plane |= ndimage.binary_fill_holes(plane)
    around = head & ~inside
    levels = np.sort(
        cluster.vq.kmeans2(smooth[around][:, None], np.percentile(smooth[around], [10, 50, 90])[:, None])[0].ravel()
    )
    classes = np.array([BONE, SOFT, FAT], dtype=np.uint16)[np.digitize(smooth, (levels[1:] + levels[:-1]) / 2)]
    depth_mm = ndimage.distance_transform_edt(head)
    classes[(classes == FAT) & (depth_mm > SCALP_MM)] = SOFT
    classes[depth_mm <= SKIN_MM] = FAT
    return np.where(inside, np.where(brain > 0, brain, FLUID), np.where(head, classes, 0)).astype(np.uint16)


def _ball(radius: int) -> npt.NDArray[np.bool_]:
    x, y, z = np.ogrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y + z * z <= radius * radius)


def _read(path: Path) -> tuple[Any, npt.NDArray[np.float32]]:
    """Image in the nearest right-anterior-superior orientation and its values."""
    try:
        image = nib.as_closest_canonical(nib.load(path))
        data = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    if data.ndim != 3 or not np.isfinite(data).all():
        raise DataError(f"{path}: expected three dimensions of finite numbers, found shape {data.shape}")
    return image, data


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a base anatomy from a T1 scan and its segmentation."""
    parser = argparse.ArgumentParser(prog="python -m analysis.simulate.anatomy", description=__doc__)
    parser.add_argument("t1", type=Path, help="T1 scan, 1 mm")
    parser.add_argument("segmentation", type=Path, help="label map of it on the same grid, 24 for outer CSF")
    parser.add_argument("out", type=Path, help="label map to write, .nii.gz")
    given = parser.parse_args(arguments)
    try:
        scan, t1 = _read(given.t1)
        segmented, brain = _read(given.segmentation)
        if t1.shape != brain.shape or not np.allclose(scan.affine, segmented.affine, atol=1e-2):
            raise DataError(f"{given.segmentation}: not on the grid of {given.t1}; resample it to that grid")
        whole = around_brain(t1, fold_cerebrum(t1, np.rint(brain).astype(np.uint16)))
        made = nib.Nifti1Image(whole, scan.affine)
        with files.whole(given.out) as temporary:
            nib.save(made, temporary)
    except SynthSRError as error:
        print(f"analysis.simulate.anatomy: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
