"""Brains as the rounds of an atlas see them: cut out, of one grey scale, on its voxels, their centre at 0."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from synthsr import files, io

from ..errors import DataError
from ..layout import sidecar_of
from ..registration import pairs, transforms
from ..registration.pairs import Image
from ..registration.transforms import Grid, Matrix
from .members import Member

#: Raise when the output of unchanged input changes.
ALGORITHM_VERSION = 2
#: What of the surroundings of the labels stays: sulci and a rim, so that edges of the label map do not count.
RIM_MM = 4.0
#: Empty border around it, for the deformation to end in.
MARGIN_MM = 12.0
#: Percentile of the brain's grey levels that becomes 1: white matter in a T1.
WHITE_PERCENTILE = 95.0
#: Standard deviation of the blur before voxels become larger, over the new spacing (a full width of one voxel).
BLUR = 0.42


def prepare(member: Member, out: Path, *, voxel_mm: float, threads: int = 1) -> None:
    """Write a member's brain, and beside it ``CentreMM``, where its centre of volume is in the image's space.

    Parameters
    ----------
    member
        ``image``, and ``labels``, in whose structures the brain is; without, the whole image is taken, and the centre
        is that of its grey levels.
    out
        Image: float32, RAS axes, 0 outside the brain, 1 at :data:`WHITE_PERCENTILE`.
    voxel_mm
        Its voxels.

    Raises
    ------
    DataError
        If the image is empty, or the label map on another grid or empty.
    """
    image = Image.load(Path(member["image"]))
    pairs.check(image)
    inside, weights = np.ones(image.grid.shape, dtype=bool), image.data - float(image.data.min())
    if member["labels"]:
        labels = Image.load(Path(member["labels"]))
        pairs.check_grid(labels, image)
        weights = (labels.data > 0).astype(np.float32)
        if not weights.any():
            raise DataError(f"{labels.name}: this label map is empty; there is no brain to take")
        inside = _widened(weights > 0, image.grid)
    centre_mm = transforms.move(image.grid.affine, np.array(ndimage.center_of_mass(weights)))
    white = float(np.percentile(image.data[inside & (image.data > 0)], WHITE_PERCENTILE))
    grey = np.where(inside, image.data / white, 0).clip(min=0).astype(np.float32)
    blurred = blurred_for(Image(image.name, grey, image.grid), voxel_mm)
    centred = Image(image.name, blurred.data, Grid(image.grid.shape, shift(-centre_mm) @ image.grid.affine))
    corners = transforms.move(centred.grid.affine, np.argwhere(inside)[:: max(1, int(inside.sum()) // 100_000)])
    grid = about_centre(np.abs(corners).max(axis=0) + MARGIN_MM, voxel_mm)
    data = pairs.resample(centred, transforms.linear(np.eye(4)), grid, threads=threads).clip(min=0)
    io.save(data, grid, out)
    files.write_json(sidecar_of(out), {"CentreMM": [round(float(mm), 4) for mm in centre_mm], "WhiteLevel": white})


def blurred_for(image: Image, voxel_mm: float) -> Image:
    """An image without what larger voxels cannot hold: blurred along the axes along which its own are smaller."""
    spacing_mm = image.grid.spacing_mm
    sd_voxels = np.where(voxel_mm > 1.01 * spacing_mm, BLUR * voxel_mm / spacing_mm, 0)
    return Image(image.name, ndimage.gaussian_filter(image.data, sd_voxels), image.grid) if sd_voxels.any() else image


def _widened(inside: npt.NDArray[np.bool_], grid: Grid) -> npt.NDArray[np.bool_]:
    """Everything within :data:`RIM_MM`."""
    return np.asarray(ndimage.distance_transform_edt(~inside, sampling=grid.spacing_mm) <= RIM_MM)


def centre_mm(prepared: Path) -> npt.NDArray[np.float64]:
    """Where the centre of a prepared brain is in the image's space, shape (3,), mm RAS."""
    content = json.loads(sidecar_of(prepared).read_text(encoding="utf-8"))
    return np.array(content["CentreMM"], dtype=float)


def shift(by_mm: npt.NDArray[np.float64]) -> Matrix:
    """Translation as a matrix (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, 3] = by_mm
    return matrix


def about_centre(reach_mm: npt.NDArray[np.float64], voxel_mm: float) -> Grid:
    """Grid of RAS axes with a voxel at 0, that reaches as far as asked along every axis to both sides."""
    steps = np.ceil(np.asarray(reach_mm) / voxel_mm).astype(int)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = -voxel_mm * steps
    first, second, third = (int(count) for count in 2 * steps + 1)
    return Grid((first, second, third), affine)
