"""Images of many people on one grid: finding them, whose they are, that they match, and where a map is largest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from analysis.errors import DataError
from synthsr import io
from synthsr.preprocess import Grid

if TYPE_CHECKING:
    import pandas as pd

    from .voxelwise import Array

#: Corresponding voxels of images "on one grid" lie within this distance (mm).
GRID_TOLERANCE_MM = 0.1
#: A maximum is larger than every voxel nearer than this along each axis (mm), and so many are listed.
MAXIMUM_REACH_MM = 10.0
MAXIMA = 10
#: Folders inside a person's folder, which do not name anybody.
_INNER_FOLDERS = ("anat", "surf", "mri")


def find_images(given: Sequence[Path], suffixes: Sequence[str] = io.SUFFIXES) -> list[Path]:
    """Files, all images directly in folders, and what patterns such as ``*/lesion.nii.gz`` match; sorted.

    Raises
    ------
    DataError
        If one of them leads to nothing.
    """
    found: set[Path] = set()
    for path in given:
        try:
            matched = [path] if path.exists() else list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        except ValueError as error:  # ** beside other letters
            raise DataError(f"{path}: no such file, and no pattern: {error}") from error
        here = {match for match in matched if not match.is_dir()}
        for folder in (match for match in matched if match.is_dir()):
            here |= {entry for entry in folder.iterdir() if entry.name.lower().endswith(tuple(suffixes))}
        if not here:
            raise DataError(
                f"{path}: no such file, and no folder or pattern with files ending in {', '.join(suffixes)}"
            )
        found |= here
    return sorted(found)


def participants(paths: Sequence[Path]) -> list[str]:
    """Whose image each is.

    ``sub-…`` in the files' names, or else among their folders; where not all have one, the files' names without suffix
    if they differ, or else the folders' names (of ``X/surf/lh.thickness.mgh``: X).

    Raises
    ------
    DataError
        If two images look like one person's.
    """
    guesses = [
        [_subject([path.name]) for path in paths],
        [_subject([folder.name for folder in path.absolute().parents]) for path in paths],
        [io.stem(path) for path in paths],
        [next(p.name for p in path.absolute().parents if p.name not in _INNER_FOLDERS) for path in paths],
    ]
    named = next((guess for guess in guesses[:2] if all(guess)), None)
    if named is None:
        named = guesses[2] if len(set(guesses[2])) == len(paths) else guesses[3]
    repeated, times = Counter(named).most_common(1)[0]
    if times > 1:
        first, second = [path for path, name in zip(paths, named, strict=True) if name == repeated][:2]
        raise DataError(
            f"{first} and {second} both look like images of {repeated}; give one image per participant, named by "
            "sub-… in the file's or a folder's name"
        )
    return named


def _subject(parts: Sequence[str]) -> str:
    """First ``sub-…`` in the parts of a path; empty if there is none."""
    for part in parts:
        start = part.find("sub-")
        if start >= 0:
            label = part[start + 4 :]
            end = next((place for place, letter in enumerate(label) if not letter.isalnum()), len(label))
            if end:
                return f"sub-{label[:end]}"
    return ""


def common_grid(paths: Sequence[Path]) -> Grid:
    """The grid that all images share; only headers are read.

    Raises
    ------
    DataError
        If an image cannot be read, or lies on another grid than most do.
    """
    grids = [_grid(path) for path in paths]
    distinct = _distinct(grids)
    alike = [sum(is_same_grid(grid, other) for other in grids) for grid in distinct]
    common = distinct[int(np.argmax(alike))]
    for path, grid in zip(paths, grids, strict=True):
        if not is_same_grid(grid, common):
            example = next(p for p, g in zip(paths, grids, strict=True) if is_same_grid(g, common))
            raise DataError(
                f"{path}: its grid ({_told(grid)}) is not that of {max(alike)} of the {len(paths)} images, such as "
                f"{example} ({_told(common)}); resample it to that grid"
            )
    return common


def is_same_grid(grid: Grid, other: Grid) -> bool:
    """Whether shapes are the same and corresponding corners within :data:`GRID_TOLERANCE_MM`."""
    if grid.shape != other.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in grid.shape], [1.0])).reshape(4, -1)
    return bool(np.abs((grid.affine - other.affine) @ corners).max() < GRID_TOLERANCE_MM)


def load_on(path: Path, grid: Grid) -> npt.NDArray[np.float32]:
    """Read an image that must lie on ``grid`` (:class:`DataError` if not)."""
    data, affine = io.load(path)
    found = Grid((data.shape[0], data.shape[1], data.shape[2]), affine)
    if not is_same_grid(found, grid):
        raise DataError(f"{path}: its grid ({_told(found)}) is not that of the images ({_told(grid)}); resample it")
    return data


def load_labels(path: Path, grid: Grid) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
    """Read whole numbers on ``grid``, sparsely.

    Returns
    -------
    Flat indices of the voxels that are not zero, and their numbers.

    Raises
    ------
    DataError
        If a number is negative or a fraction.
    """
    data = load_on(path, grid).ravel()
    voxels = np.flatnonzero(data)
    found = data[voxels]
    numbers = np.rint(found).astype(np.int32)
    if np.abs(found - numbers).max(initial=0) > 1e-3 or numbers.min(initial=1) < 1:
        raise DataError(
            f"{path}: holds {data.min():.3g} to {data.max():.3g}, not only whole numbers from 0; an interpolated mask "
            "must be thresholded first"
        )
    return voxels, numbers


def label_names(path: Path) -> dict[int, str]:
    """Read names of an atlas's labels: lines of a number and a name, separated by ``|``, tab or space.

    Of several texts between ``|`` or tabs the longest is the name.

    Raises
    ------
    DataError
        If the file is not there or not in UTF-8, or a line has no number or no name.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a text with a number and a name in each line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8: {error}; save it as such") from error
    names = {}
    for place, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        separator = next((mark for mark in ("|", "\t") if mark in line), None)
        number, *texts = [part.strip() for part in (line.split(separator) if separator else line.split(None, 1))]
        if not number.isdigit() or not any(texts):
            raise DataError(f"{path}: line {place}: {line!r} is not a number and a name; write both")
        names[int(number)] = max(texts, key=len)
    return names


def maxima(values: Array, affine: Array) -> list[tuple[tuple[int, int, int], tuple[float, float, float]]]:
    """Voxels where a map is positive and larger than everywhere near (:data:`MAXIMUM_REACH_MM`), largest first.

    A plateau counts once, by the voxel nearest its centre, and so do equal ones near each other.

    Returns
    -------
    At most :data:`MAXIMA` pairs of a voxel's indices and its place in RAS+ mm.
    """
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    size = [2 * int(MAXIMUM_REACH_MM / mm) + 1 for mm in spacing_mm]
    top = (values > 0) & (values >= ndimage.maximum_filter(values, size=size, mode="nearest"))
    plateaus, _ = ndimage.label(top, structure=np.ones((3, 3, 3)))
    found = []
    for plateau, box in enumerate(ndimage.find_objects(plateaus), start=1):
        inside = np.argwhere(plateaus[box] == plateau) + [axis.start for axis in box]
        nearest = inside[np.argmin(((inside - inside.mean(axis=0)) ** 2).sum(axis=1))]
        found.append((-float(values[tuple(nearest)]), tuple(int(index) for index in nearest)))
    chosen: list[tuple[tuple[int, int, int], tuple[float, float, float]]] = []
    for _, (i, j, k) in sorted(found):
        x_mm, y_mm, z_mm = (float(mm) for mm in (affine @ [i, j, k, 1])[:3])
        apart = [max(abs(x_mm - x), abs(y_mm - y), abs(z_mm - z)) for _, (x, y, z) in chosen]
        if len(chosen) < MAXIMA and min(apart, default=np.inf) >= MAXIMUM_REACH_MM:
            chosen.append(((i, j, k), (x_mm, y_mm, z_mm)))
    return chosen


#: Columns of places in MNI space, beside those in the images' own.
MNI_COLUMNS = ("x_mni_mm", "y_mni_mm", "z_mni_mm")


def add_mni(table: pd.DataFrame, matrix: Path | None) -> pd.DataFrame:
    """Add :data:`MNI_COLUMNS` to a table with ``x_mm``, ``y_mm``, ``z_mm``, if there is a matrix.

    Parameters
    ----------
    table
        Places in the images' space.
    matrix
        Text of four rows, from there to MNI space in mm, RAS, as ``atlas`` leaves it.
    """
    if matrix is None:
        return table
    from analysis.registration import transforms

    places = table[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float).reshape(-1, 3)
    moved = np.round(transforms.move(transforms.read_matrix(matrix), places), 1) + 0.0
    return table.assign(**dict(zip(MNI_COLUMNS, moved.T, strict=True)))


def resampled(path: Path, grid: Grid) -> npt.NDArray[np.float32]:
    """Read an image of the same space on any grid, and interpolate it linearly to ``grid`` (zero outside)."""
    data, affine = io.load(path)
    mapping = np.linalg.inv(affine) @ grid.affine
    return ndimage.affine_transform(data, mapping[:3, :3], mapping[:3, 3], output_shape=grid.shape, order=1)


def draw_axial(
    figure: Any,
    values: Array,
    grid: Grid,
    heights_mm: Sequence[float],
    *,
    title: str,
    background: Array | None,
    look: Mapping[str, Any],
) -> None:
    """Fill a (sub)figure with a row of axial slices of a map, the left side on the left, and a colour bar.

    Parameters
    ----------
    figure
        Matplotlib's.
    values
        The map; NaN is transparent.
    heights_mm
        z of the slices.
    title
        Above the row.
    background
        Image of the same grid, drawn in grey beneath.
    look
        ``cmap``, ``vmin`` and ``vmax`` of the map.
    """
    from matplotlib.ticker import MaxNLocator

    orientation = nib.orientations.io_orientation(grid.affine)
    turned = nib.orientations.apply_orientation(values, orientation)
    affine = grid.affine @ nib.orientations.inv_ornt_aff(orientation, grid.shape)
    aspect = float(np.linalg.norm(affine[:3, 1]) / np.linalg.norm(affine[:3, 0]))
    if background is not None:
        beneath = nib.orientations.apply_orientation(background, orientation)
        brightest = float(np.percentile(background, 99.5)) or 1.0
    *axes, bar = figure.subplots(1, len(heights_mm) + 1, width_ratios=[1] * len(heights_mm) + [0.07])
    for axis, height_mm in zip(axes, heights_mm, strict=True):
        plane = int(np.clip(np.rint((height_mm - affine[2, 3]) / affine[2, 2]), 0, turned.shape[2] - 1))
        if background is not None:
            below = beneath[:, :, plane].T
            axis.imshow(below, cmap="gray", origin="lower", aspect=aspect, vmin=0, vmax=brightest)
        image = axis.imshow(turned[:, :, plane].T, origin="lower", aspect=aspect, interpolation="nearest", **look)
        axis.set_title(f"z = {affine[2, 3] + plane * affine[2, 2]:.0f} mm", fontsize=8)
        axis.set_axis_off()
    for place, side in ((0.02, "L"), (0.98, "R")):
        axes[0].text(place, 0.02, side, transform=axes[0].transAxes, fontsize=8, color="#767676", va="bottom",
                     ha="left" if side == "L" else "right")  # fmt: skip
    scale = figure.colorbar(image, cax=bar, ticks=MaxNLocator(4))
    scale.ax.tick_params(labelsize=7.5)
    figure.suptitle(title, fontsize=9.5)


def slice_heights(weight: Array, grid: Grid, number: int) -> list[float]:
    """Heights (z in mm) that cut a non-negative map into slabs of about the same weight."""
    voxels = np.argwhere(weight > 0)
    if not len(voxels):
        centre = grid.affine @ [*((size - 1) / 2 for size in grid.shape), 1]
        return [float(centre[2])] * number
    z_mm = voxels @ grid.affine[2, :3] + grid.affine[2, 3]
    order = np.argsort(z_mm)
    share = np.cumsum(weight[tuple(voxels[order].T)])
    at = np.searchsorted(share, share[-1] * np.linspace(0.04, 0.96, number))
    return [float(mm) for mm in z_mm[order][at]]


def _grid(path: Path) -> Grid:
    try:
        image: Any = nib.load(path)
        shape, affine = image.shape, np.asarray(image.affine, dtype=np.float64)
    except Exception as error:  # a damaged header makes nibabel, gzip and zlib raise nearly anything
        raise DataError(f"{path}: cannot be read as an image ({error}); is it whole?") from error
    return Grid((*shape[:3], *(1,) * (3 - len(shape[:3]))), affine)


def _distinct(grids: Sequence[Grid]) -> list[Grid]:
    distinct: list[Grid] = []
    for grid in grids:
        if not any(is_same_grid(grid, other) for other in distinct):
            distinct.append(grid)
    return distinct


def _told(grid: Grid) -> str:
    spacing = " × ".join(f"{mm:.3g}" for mm in np.linalg.norm(grid.affine[:3, :3], axis=0))
    origin = ", ".join(f"{mm:.4g}" for mm in grid.affine[:3, 3])
    return f"{' × '.join(map(str, grid.shape))} voxels of {spacing} mm from {origin} mm"
