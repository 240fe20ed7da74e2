"""Reading and writing of scans."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from . import files
from .errors import DataError
from .preprocess import Grid

#: Limits of a field of view and of the departure of its axes from right angles.
MAXIMUM_EXTENT_MM = 1000.0
MINIMUM_EXTENT_MM = 8.0
MAXIMUM_SHEAR_DEG = 2.0
SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
#: Label maps become half as large as at level 1; images of floats as good as not.
GZIP_LEVEL, GZIP_LEVEL_FLOATS = 5, 1


def stem(path: Path) -> str:
    """File name without the image suffix: ``a.b.nii.gz`` → ``a.b``."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def list_images(path: Path) -> list[Path]:
    """The image itself, or all images directly in a folder, sorted.

    Raises
    ------
    DataError
        If there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if entry.name.lower().endswith(SUFFIXES))
        if not found:
            raise DataError(
                f"{path}: no image in this folder; expected files ending in {', '.join(SUFFIXES)} "
                "(DICOM goes through the pipeline, or dcm2niix first)"
            )
        return found
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    return [path]


def load(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Read a scan.

    Returns
    -------
    Data of shape (x, y, z), float32, and the affine from voxel to RAS+ mm.

    Raises
    ------
    DataError
        If the file cannot be read, is not three-dimensional, holds NaN or infinity, or its affine is sheared or not
        of a head's size.
    """
    try:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj)
        if data.dtype.names is not None or np.iscomplexobj(data):
            raise DataError(f"{path}: voxels are {data.dtype}, not grey levels; give a scalar image")
        data = data.astype(np.float32)
        affine = np.asarray(image.affine, dtype=np.float64)
    except DataError:
        raise
    except Exception as error:  # a damaged file makes nibabel, gzip and zlib raise nearly anything
        raise DataError(
            f"{path}: cannot be read as NIfTI or MGH ({error}); is it whole? (DICOM goes through the pipeline, or "
            "dcm2niix first)"
        ) from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise DataError(f"{path}: has {data.ndim} dimensions {data.shape}; give one three-dimensional volume")
    if min(data.shape) < 2:
        raise DataError(f"{path}: shape {data.shape} is a single slice; a volume is needed")
    bad = int(np.size(data) - np.isfinite(data).sum())
    if bad:
        raise DataError(f"{path}: {bad} voxels are NaN or infinite; repair or leave out this scan")
    _check_affine(path, affine, data.shape)
    return data, affine


def _check_affine(path: Path, affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> None:
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise DataError(f"{path}: its affine does not describe a volume; repair the header")
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    extent_mm = spacing_mm * shape
    if extent_mm.max() > MAXIMUM_EXTENT_MM or extent_mm.min() < MINIMUM_EXTENT_MM:
        found = " × ".join(f"{mm:.4g}" for mm in extent_mm)
        raise DataError(f"{path}: {found} mm is no field of view of a head; check the header's voxel sizes")
    cosines = (affine[:3, :3] / spacing_mm).T @ (affine[:3, :3] / spacing_mm)
    shear_deg = np.degrees(np.arcsin(np.abs(cosines - np.eye(3)).max().clip(0, 1)))
    if shear_deg > MAXIMUM_SHEAR_DEG:
        raise DataError(
            f"{path}: its axes are {90 - shear_deg:.0f}° apart instead of 90°, as of a CT with tilted gantry; "
            "resample it to a rectangular grid (dcm2niix does when it converts)"
        )


def save(data: npt.NDArray[np.generic], grid: Grid, path: Path) -> None:
    """Write a volume on a grid, whole or not at all; the suffix of ``path`` decides the format.

    Raises
    ------
    DataError
        If the suffix is not one of :data:`SUFFIXES`.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{path}: name the output with one of {', '.join(SUFFIXES)}")
    kind = nib.MGHImage if path.name.lower().endswith((".mgz", ".mgh")) else nib.Nifti1Image
    affine = grid.affine.astype(np.float32).astype(np.float64)
    image = kind(np.ascontiguousarray(data), affine)
    if kind is nib.Nifti1Image:
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
    with files.whole(path) as temporary:
        _write(image, temporary)


def _write(image: Any, path: Path) -> None:
    """Same bytes for the same image: gzip members without name or time."""
    content = image.to_bytes()
    if path.name.lower().endswith((".gz", ".mgz")):
        level = GZIP_LEVEL_FLOATS if image.get_data_dtype().kind == "f" else GZIP_LEVEL
        content = gzip.compress(content, compresslevel=level, mtime=0)
    path.write_bytes(content)
