"""What every use of a network shares: a scan read for it, and the sidecar of what it made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from . import __version__, files, io, preprocess
from .errors import DataError
from .weights.storage import LoadedNetwork

#: Decimals of a matrix between two grids: far below what headers tell, and enough for equal grids to give whole voxels.
MATRIX_DECIMALS = 6


def read(source: Path, *, ct: bool) -> tuple[Tensor, preprocess.Grid]:
    """Load and prepare a scan; results as of :func:`synthsr.preprocess.prepare`.

    Raises
    ------
    DataError
        If the scan cannot be used; names the file.
    """
    data, affine = io.load(source)
    return prepared(source, data, affine, ct=ct)


def prepared(
    source: Path, data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], *, ct: bool
) -> tuple[Tensor, preprocess.Grid]:
    """As :func:`read`, of a scan that is loaded already; ``source`` is for the error's message."""
    try:
        return preprocess.prepare(data, affine, ct=ct)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def extremes(data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], *, ct: bool) -> tuple[float, float]:
    """What became 0 and 1 when :func:`synthsr.preprocess.prepare` scaled a scan."""
    seen, _ = preprocess.resample_to_1mm(np.clip(data, *preprocess.CT_WINDOW_HU) if ct else data, affine)
    return float(seen.min()), float(seen.max())


def onto_grid(
    data: npt.NDArray[np.float32],
    affine: npt.NDArray[np.float64],
    grid: preprocess.Grid,
    *,
    outside: float | None = None,
) -> npt.NDArray[np.float32]:
    """Resample a volume onto another grid, linearly, by where both lie in the world.

    Parameters
    ----------
    data, affine
        Volume, and its voxels' place in RAS+ mm.
    grid
        Where the result lies.
    outside
        Value where the volume has none; without it, that of the nearest voxel.

    Returns
    -------
    Shape ``grid.shape``, float32.
    """
    matrix = np.round(np.linalg.inv(affine) @ grid.affine, MATRIX_DECIMALS)
    how = {"mode": "nearest"} if outside is None else {"mode": "constant", "cval": outside}
    resampled: npt.NDArray[np.float32] = ndimage.affine_transform(
        data.astype(np.float32, copy=False), matrix, output_shape=grid.shape, order=1, **how
    )
    return resampled


def reliability(
    shape: tuple[int, ...], affine: npt.NDArray[np.float64], grid: preprocess.Grid
) -> npt.NDArray[np.float32]:
    """How far each voxel of a 1 mm grid lies on a slice that a scan acquired (Iglesias et al., NeuroImage 2021, 2.3).

    Along every axis coarser than the grid 1 on the voxels' centres, falling linearly to 0 at 1 mm from them, as
    :func:`synthsr.resample.slice_weights` has it for the generator; 0 outside the scan.

    Parameters
    ----------
    shape, affine
        Of the scan.
    grid
        From :func:`synthsr.preprocess.prepare`.

    Returns
    -------
    Shape ``grid.shape``, float32, from 0 to 1.
    """
    matrix = np.round(np.linalg.inv(affine) @ grid.affine, MATRIX_DECIMALS)
    spacing = np.linalg.norm(affine[:3, :3], axis=0) / preprocess.VOXEL_SIZE_MM
    voxel = np.meshgrid(*(np.arange(size) for size in grid.shape), indexing="ij", sparse=True)
    weight = np.ones(grid.shape, dtype=np.float32)
    for axis in range(3):
        place = sum(matrix[axis, k] * voxel[k] for k in range(3)) + matrix[axis, 3]
        if spacing[axis] <= 1:
            weight *= (place >= -0.5) & (place <= shape[axis] - 0.5)
            continue
        below = np.floor(place)
        each = [
            np.where((centre >= 0) & (centre < shape[axis]), 1 - np.abs(place - centre) * spacing[axis], 0).clip(0)
            for centre in (below, below + 1)
        ]
        weight *= (each[0] + each[1]).clip(max=1)
    return weight


def write_sidecar(
    target: Path,
    facts: dict[str, Any],
    *,
    source: Path,
    weights: LoadedNetwork,
    ct: bool,
    flip: bool,
    also: Sequence[Path] = (),
) -> None:
    """Write the JSON file beside ``target``: ``facts``, then where it came from."""
    content = {
        **facts,
        "Sources": [path.name for path in (source, *also)],
        "SourceSHA256": files.sha256(source),
        **({"FurtherSourcesSHA256": [files.sha256(path) for path in also]} if also else {}),
        "GeneratedBy": {"Name": "synthsr-cohort", "Version": __version__},
        "WeightsName": weights.path.stem,
        "WeightsSHA256": weights.sha256,
        "ComputedTomography": ct,
        "FlipAveraged": flip,
        **({"Arithmetic": "bfloat16"} if weights.network.dtype == torch.bfloat16 else {}),
        **({"Engine": weights.network.engine} if weights.network.engine != "torch" else {}),
    }
    files.write_json(target.parent / f"{io.stem(target)}.json", content)
