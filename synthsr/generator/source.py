"""Label maps as the generator wants them: RAS, cropped to the head, label numbers replaced by table positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .. import io, labels
from ..errors import DataError
from . import lesions

#: Standard deviation of the blur that leaves of a T1's white matter only its bias field.
SENSITIVITY_SD_MM = 20.0
#: Share of the densest white matter below which the field is taken from the nearest place with more.
SEEN = 0.02


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label map in memory, with the real T1 it was made from if there is one.

    Attributes
    ----------
    index
        Positions in :func:`synthsr.labels.table`, shape (x, y, z), uint8, RAS, 1 mm.
    centre
        Voxel coordinates of the centre of the cerebrum.
    path
        Where it came from.
    t1
        Real T1 on the same grid, its white-matter lesions filled, float32; a target of training.
    """

    index: npt.NDArray[np.uint8]
    centre: npt.NDArray[np.float64]
    path: Path
    t1: npt.NDArray[np.float32] | None = None

    @cache  # noqa: B019 - label maps live as long as the training that reads them
    def white_matter_grey(self, statistic: Literal["median", "mean"]) -> float:
        """Median or mean of the real T1 over cerebral white matter."""
        assert self.t1 is not None
        white = np.isin(self.index, labels.index_lookup()[list(labels.WHITE_MATTER)])
        values = self.t1[white]
        return float(np.median(values) if statistic == "median" else values.mean())


def load_label_map(path: Path, *, t1: Path | None = None, crop: bool = True) -> LabelMap:
    """Read a label map of 1 mm isotropic voxels.

    Parameters
    ----------
    path
        NIfTI or MGZ file with the label numbers of ``labels.tsv``.
    t1
        Real T1 on the same grid, to be the target.
    crop
        Cut down to the labelled region and one voxel of background around it.

    Raises
    ------
    DataError
        If it cannot be read, has a label that the table lacks, no cerebrum, or voxels that are not 1 mm; or if the T1
        lies on another grid.
    """
    data, affine = io.load(path)
    number = _ras(data, affine).round().astype(np.int64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(spacing, 1, atol=0.01):
        raise DataError(f"{path}: label maps must have 1 mm voxels, found {tuple(map(float, spacing))}; resample it")
    lookup = labels.index_lookup()
    known = np.isin(number, np.flatnonzero(lookup >= 0))
    if not known.all():
        raise DataError(
            f"{path}: labels {sorted(np.unique(number[~known]).tolist())} are not in synthsr/labels.tsv; "
            "merge them into labels of the table"
        )
    cerebrum = np.argwhere(np.isin(number, labels.WHITE_MATTER + labels.CORTEX))
    if not cerebrum.size:
        raise DataError(f"{path}: no cerebral white matter or cortex (labels 2, 3, 41, 42) in it")
    target = None if t1 is None else _load_target(t1, number, data.shape, affine)
    start = np.zeros(3, dtype=int)
    if crop:
        inside = np.argwhere(number > 0)
        start, stop = inside.min(axis=0), inside.max(axis=0) + 1
        box = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
        number = number[box]
        target = None if target is None else target[box]
    index = np.pad(lookup[number].astype(np.uint8), 1)
    return LabelMap(index, cerebrum.mean(axis=0) - start + 1, Path(path), None if target is None else np.pad(target, 1))


def _ras(data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return np.asarray(nib.as_closest_canonical(nib.Nifti1Image(data, affine)).dataobj, dtype=np.float32)


def _load_target(
    path: Path, number: npt.NDArray[np.int64], shape: tuple[int, ...], affine: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Real T1 on the label map's RAS grid, evenly lit, lesions of the white matter (labels 25, 57) filled."""
    data, own = io.load(path)
    if data.shape != shape or not np.allclose(own, affine, atol=1e-3):
        raise DataError(
            f"{path}: shape {data.shape} or position differs from its label map's {shape}; resample it to that grid"
        )
    white, lesion = np.isin(number, labels.WHITE_MATTER), np.isin(number, labels.LESION)
    filled = lesions.fill(_ras(data, own), lesion, white)
    return np.asarray(filled / sensitivity(filled, white), dtype=np.float32)


def sensitivity(grey: npt.NDArray[np.float32], white: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Bias field of a T1: its white matter, blurred, over the white matter's mean.

    Parameters
    ----------
    grey
        T1, shape (x, y, z), 1 mm.
    white
        Its white matter; voxels at the border are left out.

    Returns
    -------
    Multiplicative field, about 1, float32; far from white matter the value nearest to it.
    """
    core = ndimage.binary_erosion(white)
    weight = ndimage.gaussian_filter(core.astype(np.float32), SENSITIVITY_SD_MM)
    seen = weight > SEEN * float(weight.max())
    blurred = ndimage.gaussian_filter(np.where(core, grey, 0).astype(np.float32), SENSITIVITY_SD_MM)
    field = blurred / np.maximum(weight, 1e-6) / float(grey[core].mean())
    nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
    return np.asarray(field[tuple(nearest)], dtype=np.float32)
