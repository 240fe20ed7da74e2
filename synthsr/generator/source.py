"""Label maps as the generator wants them: RAS, cropped to the head, label numbers replaced by table positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .. import io, labels
from ..errors import DataError


@dataclass(frozen=True)
class LabelMap:
    """A label map in memory.

    Attributes
    ----------
    index
        Positions in :func:`synthsr.labels.table`, shape (x, y, z), uint8, RAS, 1 mm.
    centre
        Voxel coordinates of the centre of the cerebrum.
    path
        Where it came from.
    """

    index: npt.NDArray[np.uint8]
    centre: npt.NDArray[np.float64]
    path: Path


def load_label_map(path: Path, *, crop: bool = True) -> LabelMap:
    """Read a label map of 1 mm isotropic voxels.

    Parameters
    ----------
    path
        NIfTI or MGZ file with the label numbers of ``labels.tsv``.
    crop
        Cut down to the labelled region and one voxel of background around it.

    Raises
    ------
    DataError
        If it cannot be read, has a label that the table lacks, no cerebrum, or voxels that are not 1 mm.
    """
    data, affine = io.load(path)
    image = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(spacing, 1, atol=0.01):
        raise DataError(f"{path}: label maps must have 1 mm voxels, found {tuple(map(float, spacing))}; resample it")
    number = np.asarray(image.dataobj).round().astype(np.int64)
    lookup = labels.index_lookup()
    known = np.isin(number, np.flatnonzero(lookup >= 0))
    if not known.all():
        raise DataError(
            f"{path}: labels {sorted(np.unique(number[~known]).tolist())} are not in synthsr/labels.tsv; "
            "merge them into labels of the table"
        )
    cerebrum = np.argwhere(np.isin(number, (2, 3, 41, 42)))
    if not cerebrum.size:
        raise DataError(f"{path}: no cerebral white matter or cortex (labels 2, 3, 41, 42) in it")
    start = np.zeros(3, dtype=int)
    if crop:
        inside = np.argwhere(number > 0)
        start, stop = inside.min(axis=0), inside.max(axis=0) + 1
        number = number[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))]
    index = np.pad(lookup[number].astype(np.uint8), 1)
    return LabelMap(index, cerebrum.mean(axis=0) - start + 1, Path(path))
