"""Scans brought to 1 mm by cubic interpolation: the arm without SynthSR, and what a real 1 mm scan needs.

The comparison of Iglesias et al., NeuroImage 2021, table 2: a scan is upsampled as it is and segmented directly. Its
grid is the one on which SynthSR answers, so that both arms differ by nothing but the image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.interpolate import make_interp_spline

from synthsr import __version__, files, io, preprocess, scan

from .layout import sidecar_of

#: Of the interpolating splines; axes of fewer than four slices have to do with less.
DEGREE = 3


def to_1mm(source: Path, target: Path, *, ct: bool = False) -> None:
    """Write a scan on its 1 mm RAS grid, in its own grey levels, and a JSON sidecar beside it.

    Parameters
    ----------
    source
        Three-dimensional scan, NIfTI or MGH.
    target
        Output, ``.nii.gz``.
    ct
        ``source`` is computed tomography in Hounsfield units; clipped as :func:`synthsr.preprocess.prepare` does.

    Raises
    ------
    DataError
        If the scan cannot be used; nothing is written then.
    """
    data, affine = io.load(source)
    _, grid = scan.prepared(source, data, affine, ct=ct)
    if ct:
        data = np.clip(data, *preprocess.CT_WINDOW_HU)
    facts = {
        "Synthetic": False,
        "Description": "Scan interpolated to 1 mm by cubic splines, overshoot cut; no intensities are synthetic",
        "Sources": [source.name],
        "SourceSHA256": files.sha256(source),
        "GeneratedBy": {"Name": "cubic interpolation", "Version": __version__},
        "ComputedTomography": ct,
    }
    files.write_json(sidecar_of(target), facts)
    io.save(on_grid(data, affine, grid), grid, target)


def on_grid(
    data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], grid: preprocess.Grid
) -> npt.NDArray[np.float32]:
    """Interpolate a scan by cubic splines (not-a-knot) along its own axes, one after the other.

    Parameters
    ----------
    data, affine
        Scan, and its voxels' place in RAS+ mm.
    grid
        Of :func:`synthsr.preprocess.prepare` for this scan: its axes are the scan's own, in another order or direction.

    Returns
    -------
    Shape ``grid.shape``, float32. Beyond the outer slices' centres they are repeated, and what splines overshoot of the
    scan's range is cut.
    """
    to_scan = np.linalg.inv(affine) @ grid.affine
    axes = np.abs(to_scan[:3, :3]).argmax(axis=1)  # of the grid, for every axis of the scan
    image = data
    for axis, of_grid in enumerate(axes):
        size = data.shape[axis]
        places = to_scan[axis, of_grid] * np.arange(grid.shape[of_grid]) + to_scan[axis, 3]
        spline = make_interp_spline(np.arange(size), image, k=min(DEGREE, size - 1), axis=axis)
        image = spline(np.clip(places, 0, size - 1)).astype(np.float32)
    turned: npt.NDArray[np.float32] = image.transpose(np.argsort(axes))
    return turned.clip(data.min(), data.max())
