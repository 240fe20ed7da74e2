"""Label maps as the generator wants them: RAS, cropped to the head, label numbers replaced by table positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from nibabel.processing import resample_from_to
from scipy import ndimage

from .. import io, labels
from ..errors import DataError
from . import lesions

#: Standard deviation of the blur that leaves of a T1's white matter only its bias field.
SENSITIVITY_SD_MM = 20.0
#: Spacing at which the field is computed, mm.
BLOCK_MM = 4
#: Estimates of the field, each of what the last left.
PASSES = 8
#: Share of the densest white matter below which the field is taken from the nearest place with more.
SEEN = 0.02
#: Share of the labelled brain that a real image must cover.
COVERED = 0.9


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label map in memory, with real images of the same head if there are any.

    Attributes
    ----------
    index
        Positions in :func:`synthsr.labels.table`, shape (x, y, z), uint8, RAS, 1 mm.
    centre
        Voxel coordinates of the centre of the cerebrum.
    path
        Where it came from.
    t1
        Real T1 on the same grid, its white-matter lesions filled and its bias field removed, float32; a target of
        training.
    scan
        Real scan of another contrast on the same grid, float32; an image of training.
    """

    index: npt.NDArray[np.uint8]
    centre: npt.NDArray[np.float64]
    path: Path
    t1: npt.NDArray[np.float32] | None = None
    scan: npt.NDArray[np.float32] | None = None

    @cache  # noqa: B019 - label maps live as long as the training that reads them
    def white_matter_grey(self, statistic: Literal["median", "mean"]) -> float:
        """Median or mean of the real T1 over cerebral white matter."""
        assert self.t1 is not None
        white = np.isin(self.index, labels.index_lookup()[list(labels.WHITE_MATTER)])
        values = self.t1[white]
        return float(np.median(values) if statistic == "median" else values.mean())


def load_label_map(path: Path, *, t1: Path | None = None, scan: Path | None = None, crop: bool = True) -> LabelMap:
    """Read a label map of 1 mm isotropic voxels.

    Parameters
    ----------
    path
        NIfTI or MGZ file with the label numbers of ``labels.tsv``.
    t1
        Real T1 of the same head, to be the target; on any grid of the same space, as is ``scan``.
    scan
        Real scan of another contrast, to be the image of the step ``real_scan``.
    crop
        Cut down to the labelled region and one voxel of background around it.

    Raises
    ------
    DataError
        If it cannot be read, has a label that the table lacks, no cerebrum, or voxels that are not 1 mm; or if T1 or
        scan do not cover the labelled brain.
    """
    data, affine = io.load(path)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(spacing, 1, atol=0.01):
        raise DataError(f"{path}: label maps must have 1 mm voxels, found {tuple(map(float, spacing))}; resample it")
    turned = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    number, affine = np.asarray(turned.dataobj).round().astype(np.int64), turned.affine.copy()
    lookup = labels.index_lookup()
    known = np.isin(number, np.flatnonzero(lookup >= 0))
    if not known.all():
        raise DataError(
            f"{path}: labels {sorted(np.unique(number[~known]).tolist())} are not in synthsr/labels.tsv; "
            "merge them into labels of the table"
        )
    if crop and number.any():
        box = ndimage.find_objects((number > 0).astype(np.uint8))[0]
        number = number[box]
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    cerebrum = np.argwhere(np.isin(number, labels.WHITE_MATTER + labels.CORTEX))
    if not cerebrum.size:
        raise DataError(f"{path}: no cerebral white matter or cortex (labels 2, 3, 41, 42) in it")
    target = None if t1 is None else np.pad(_evenly_lit(_placed(t1, number, affine), number, t1), 1)
    return LabelMap(
        index=np.pad(lookup[number].astype(np.uint8), 1),
        centre=cerebrum.mean(axis=0) + 1,
        path=Path(path),
        t1=target,
        scan=None if scan is None else np.pad(_placed(scan, number, affine), 1),
    )


def _placed(path: Path, number: npt.NDArray[np.int64], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """A real image on the label map's grid, linearly interpolated; zero where it has nothing."""
    data, own = io.load(path)
    to_image = np.linalg.inv(own) @ affine
    brain = np.argwhere((number >= 1) & (number <= 499)) @ to_image[:3, :3].T + to_image[:3, 3]
    covered = float(((brain > -0.5) & (brain < np.array(data.shape) - 0.5)).all(axis=1).mean())
    if covered < COVERED:
        raise DataError(
            f"{path}: covers {covered:.0%} of the brain of its label map, at least {COVERED:.0%} is needed; "
            "bring the two into one space"
        )
    # Zeros are taken to go on beyond the border, so that rounding of affines costs no voxel there.
    placed = resample_from_to(nib.Nifti1Image(data, own), (number.shape, affine), order=1, mode="grid-constant")
    return np.asarray(placed.dataobj, dtype=np.float32)


def _evenly_lit(grey: npt.NDArray[np.float32], number: npt.NDArray[np.int64], path: Path) -> npt.NDArray[np.float32]:
    """T1 without the lesions of its white matter (labels 25, 57) and without its bias field."""
    white = np.isin(number, labels.WHITE_MATTER) & (grey > 0)  # none where the image has nothing
    if not white.any():
        raise DataError(f"{path}: no grey level above zero in cerebral white matter (labels 2, 41); is it a T1?")
    filled = lesions.fill(grey, np.isin(number, labels.LESION), white)
    return np.asarray(filled / sensitivity(filled, white), dtype=np.float32)


def sensitivity(grey: npt.NDArray[np.float32], white: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Bias field of a T1: its white matter, blurred, over the white matter's mean.

    White matter lies to one side of most places, and a blur sees only that side's field; so the T1 is divided by the
    field and what is left is estimated again, :data:`PASSES` times.

    Parameters
    ----------
    grey
        T1, shape (x, y, z), 1 mm.
    white
        Its white matter, not empty; voxels at the border are left out where there are others.

    Returns
    -------
    Multiplicative field, about 1, float32; far from white matter the value nearest to it.
    """
    core = ndimage.binary_erosion(white)
    core = core if core.any() else white
    amount, total = _blocks(core), _blocks(np.where(core, grey, 0))
    sd = SENSITIVITY_SD_MM / BLOCK_MM
    weight = ndimage.gaussian_filter(amount, sd)
    seen = weight > SEEN * weight.max()
    nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
    field = np.ones_like(total)
    for _ in range(PASSES):
        even = total / field
        left = ndimage.gaussian_filter(even, sd) / np.maximum(weight, 1e-9) * (amount.sum() / even.sum())
        field *= left[tuple(nearest)]
    fine = F.interpolate(torch.from_numpy(field)[None, None], scale_factor=float(BLOCK_MM), mode="trilinear")[0, 0]
    x, y, z = grey.shape
    return np.asarray(fine.numpy()[:x, :y, :z], dtype=np.float32)


def _blocks(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Means over cubes of :data:`BLOCK_MM`, zeros added where the last are not whole."""
    padded = np.pad(values, [(0, -length % BLOCK_MM) for length in values.shape])
    x, y, z = (length // BLOCK_MM for length in padded.shape)
    cubes = padded.reshape(x, BLOCK_MM, y, BLOCK_MM, z, BLOCK_MM)
    return np.asarray(cubes.mean(axis=(1, 3, 5), dtype=np.float64))
