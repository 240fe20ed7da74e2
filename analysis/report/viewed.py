"""A scan's images as the viewer in the browser reads them: small, and in a script file.

A page opened from disk may not read other files, but it may run scripts that lie beside it. So the volumes of a scan
are text in ``SCAN_ID.js``: one call of ``synthsrVolumes`` with a gzipped NIfTI file in base64 per image, on a common
grid of :data:`VOXEL_MM`, cut to the brain and :data:`MARGIN_MM` around it, in 8 bits.
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from . import planes

Array = npt.NDArray[Any]

VOXEL_MM = 2.0
MARGIN_MM = 16.0
#: Levels of grey apart that are kept apart: noise in the last bits would take most of the space.
GREY_STEP = 4


def grid_around(data: Array, affine: Array) -> tuple[tuple[int, int, int], Array]:
    """Shape and affine (RAS+ mm, axes along the world's) of a grid about all labelled voxels.

    Parameters
    ----------
    data, affine
        Label map and its place; where it is empty the grid is about the whole map.
    """
    inside = np.argwhere(data > 0)
    if not len(inside):
        inside = np.argwhere(np.ones(data.shape, bool))
    low, high = inside.min(axis=0), inside.max(axis=0)
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    world = corners @ affine[:3, :3].T + affine[:3, 3]
    start, stop = world.min(axis=0) - MARGIN_MM, world.max(axis=0) + MARGIN_MM
    shape = np.ceil((stop - start) / VOXEL_MM).astype(int) + 1
    placed = np.diag([VOXEL_MM] * 3 + [1.0])
    placed[:3, 3] = start
    return (int(shape[0]), int(shape[1]), int(shape[2])), placed


def script(
    scan_id: str,
    *,
    raw: Path,
    at_1mm: Path,
    segmentation: Path,
    is_synthetic: bool = True,
    lesion: Path | None = None,
) -> str:
    """Text of the scan's script file.

    Parameters
    ----------
    scan_id
        Under which the viewer asks for it.
    raw, at_1mm, segmentation
        NIfTI images in one world.
    is_synthetic
        Whether the image at 1 mm has a synthetic T1's range of grey.
    lesion
        Mask of lesions in the same world, if there is one.
    """
    numbers, affine = planes.load(segmentation)
    shape, placed = grid_around(numbers, affine)
    points = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1) @ placed[:3, :3].T
    points = points + placed[:3, 3]
    images: dict[str, Array] = {}
    scan, place = planes.load(raw)
    window = planes.grey_window(scan)
    shown = planes.grey_levels(planes.sample(scan, place, points, order=1, outside=window[0]), window)
    images["input"] = shown // GREY_STEP * GREY_STEP
    t1, place = planes.load(at_1mm)
    window = (0.0, planes.T1_WHITE) if is_synthetic else planes.grey_window(t1)
    shown = planes.grey_levels(planes.sample(t1, place, points, order=1, outside=window[0]), window)
    images["synthetic"] = shown // GREY_STEP * GREY_STEP
    # The embedded segmenter's numbers fit into eight bits.
    images["segmentation"] = planes.sample(numbers, affine, points, order=0).astype(np.uint8)
    if lesion is not None:
        mask, place = planes.load(lesion)
        images["lesion"] = (planes.sample(mask > 0, place, points, order=0) > 0).astype(np.uint8)
    volumes = {name: _packed(data, placed) for name, data in images.items()}
    return f"synthsrVolumes({json.dumps(scan_id)}, {json.dumps(volumes)});\n"


def _packed(data: Array, affine: Array) -> str:
    image: Any = nib.Nifti1Image(data.astype(np.uint8), affine)
    image.header.set_xyzt_units("mm")
    return base64.b64encode(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)).decode("ascii")
