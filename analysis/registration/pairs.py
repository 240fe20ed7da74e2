"""Registration of two scans: rigid, affine (block matching), or affine and then a stationary velocity field.

The methods are NiftyReg's: symmetric block matching (Modat 2014, J Med Imaging 1:024003) and free-form deformation
of a stationary velocity with local normalised cross-correlation (Modat 2012, SPIE 8314:83141E); of their settings only
the distance of control points is given, as Iglesias et al. (Science Advances 2023, figure 4) did. :func:`register` is
all that the rest sees of them: another engine is another function that gives a :class:`Registration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from synthsr import io

from ..errors import ConfigurationError, DataError
from . import niftyreg, transforms
from .transforms import Field, Grid, Matrix, Transform

KINDS = ("rigid", "affine", "svf")
#: Standard deviation of the Gaussian within which correlation is local.
LNCC_SD_MM = 5.0
#: Blocks are matched voxel by voxel, which leaves up to half of one. Scans are therefore matched once more in smaller
#: voxels, with a shortest side of this, or of half the scans' own where those are longer than twice this; by this
#: percentage of the blocks, so many times.
FINE_MM, FINE_BLOCKS_PERCENT, FINE_ITERATIONS = 0.8, 10, 2
#: Thick slices, whose longest voxel side is more than so many times the shortest, are not: there it has made it worse.
THICK = 1.5
#: Volume that an affine may make of a voxel; beyond it has lost the head.
LEAST_SCALE, LARGEST_SCALE = 0.3, 3.0
#: Part of the fixed scan's voxels whose place the moving scan must hold.
LEAST_OVERLAP = 0.1


@dataclass(frozen=True)
class Settings:
    """How two scans are registered.

    Attributes
    ----------
    kind
        One of :data:`KINDS`.
    spacing_mm
        Distance of the velocity field's control points.
    threads
        Of NiftyReg.
    iterations
        Most iterations of the velocity field at the last level; ``None`` for NiftyReg's 150.
    """

    kind: str = "svf"
    spacing_mm: float = 5.0
    threads: int = 1
    iterations: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"transform {self.kind!r}: expected one of {', '.join(KINDS)}")
        if not 1 <= self.spacing_mm <= 100:
            raise ConfigurationError(f"spacing_mm {self.spacing_mm:g}: control points lie 1 to 100 mm apart")
        if self.threads < 1 or (self.iterations is not None and self.iterations < 1):
            raise ConfigurationError("threads and iterations are 1 or more")


@dataclass(frozen=True)
class Image:
    """A scan, a mask or a label map in memory.

    Attributes
    ----------
    name
        What messages call it.
    data
        Shape (x, y, z).
    grid
        Its voxels.
    """

    name: str
    data: npt.NDArray[np.float32]
    grid: Grid

    @classmethod
    def load(cls, path: Path) -> Image:
        """Read and check an image; see :func:`synthsr.io.load` for what is refused."""
        data, affine = io.load(path)
        return cls(str(path), data, Grid((data.shape[0], data.shape[1], data.shape[2]), affine))


@dataclass(frozen=True)
class Registration:
    """What registering two scans gives.

    Attributes
    ----------
    forward
        From points of the fixed scan to their places in the moving scan: what resamples the moving scan.
    inverse
        From points of the moving scan to their places in the fixed scan.
    velocity, inverse_velocity
        NiftyReg's control points of the stationary velocity fields, on the side of the fixed and of the moving scan,
        without the affine part; ``None`` without a non-linear part. Fields of one fixed grid and spacing have one
        lattice: their mean is that of the velocities.
    """

    forward: Transform
    inverse: Transform
    velocity: nib.Nifti1Image | None = None
    inverse_velocity: nib.Nifti1Image | None = None


def register(
    fixed: Image,
    moving: Image,
    *,
    settings: Settings,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    initial: Matrix | None = None,
) -> Registration:
    """Find the transform that takes points of the fixed scan to their places in the moving scan.

    Parameters
    ----------
    fixed, moving
        The scans.
    settings
        Kind of transform.
    fixed_mask, moving_mask
        Voxels that count (not zero), on the scans' grids.
    initial
        Matrix (4, 4; mm RAS, fixed to moving) to start from; without, the centres of the images are laid on each other.

    Raises
    ------
    DataError
        If a scan is empty, a mask lies on another grid or is empty, the scans do not overlap, or the programs fail.
    ConfigurationError, ToolError
        If NiftyReg is not there.
    """
    check(fixed, fixed_mask)
    check(moving, moving_mask)
    with niftyreg.workspace() as folder:
        matrix = _linear(fixed, moving, settings, folder, fixed_mask, moving_mask, initial)
        _check_overlap(fixed, moving, matrix)
    if settings.kind != "svf":
        return Registration(transforms.linear(matrix), transforms.linear(transforms.inverse(matrix)))
    return bend(fixed, moving, matrix, settings=settings, fixed_mask=fixed_mask, moving_mask=moving_mask)


def bend(
    fixed: Image,
    moving: Image,
    matrix: Matrix,
    *,
    settings: Settings,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
) -> Registration:
    """Find the velocity field that is left between two scans whose linear transform is known.

    Parameters
    ----------
    fixed, moving, fixed_mask, moving_mask
        As in :func:`register`.
    matrix
        Shape (4, 4), mm RAS, from points of the fixed to places in the moving scan.
    settings
        Of kind ``svf``.
    """
    # The affine goes into the moving scan's header, so that the velocity field holds what is left.
    aligned, mask = _placed(moving, matrix), moving_mask and _placed(moving_mask, matrix)
    with niftyreg.workspace() as folder:
        field, back, velocities = _nonlinear(fixed, aligned, settings, folder, fixed_mask, mask)
    return Registration(
        Transform(np.eye(4), field, matrix), Transform(transforms.inverse(matrix), back, np.eye(4)), *velocities
    )


def register_midway(
    first: Image, second: Image, *, settings: Settings
) -> tuple[Registration, Transform, Transform, Grid]:
    """Register two scans of one person in a space half between them, so that neither is resampled more than the other.

    The linear part is the mean, in log space, of those found in both directions; its root takes either scan to the
    mid-space (Reuter 2010, NeuroImage 53:1181), where both are interpolated once and the velocity field is found.

    Parameters
    ----------
    first, second
        The scans.
    settings
        Kind of transform.

    Returns
    -------
    The registration with ``first`` as the fixed scan; transforms from points of the mid-space to the first and to the
    second scan, without the non-linear part; and the grid of the mid-space.
    """
    check(first)
    check(second)
    with niftyreg.workspace() as folder:
        there = _linear(first, second, settings, folder, None, None, None)
        back = _linear(second, first, settings, folder, None, None, None)
        matrix = transforms.mean([there, transforms.inverse(back)])
        _check_overlap(first, second, matrix)
        half = transforms.half(matrix)
        to_first, to_second = transforms.linear(transforms.inverse(half)), transforms.linear(half)
        grid = _mid_grid([(first.grid, half), (second.grid, transforms.inverse(half))])
        if settings.kind != "svf":
            found = Registration(transforms.linear(matrix), transforms.linear(transforms.inverse(matrix)))
            return found, to_first, to_second, grid
        middle = [
            Image(scan.name, resample(scan, transform, grid, threads=settings.threads), grid)
            for scan, transform in ((first, to_first), (second, to_second))
        ]
        forward, inverse, velocities = _nonlinear(middle[0], middle[1], settings, folder, None, None)
        found = Registration(
            Transform(half, forward, half),
            Transform(transforms.inverse(half), inverse, transforms.inverse(half)),
            *velocities,
        )
        return found, to_first, to_second, grid


def resample(
    image: Image, transform: Transform, grid: Grid, *, is_labels: bool = False, threads: int = 1
) -> npt.NDArray[np.float32]:
    """Bring an image of the moving scan's space onto a grid of the fixed scan's, interpolated once.

    Parameters
    ----------
    image
        In the world of the moving scan, on any grid.
    transform
        From the fixed to the moving scan.
    grid
        Of the result.
    is_labels
        Nearest neighbour instead of cubic splines.
    threads
        Of NiftyReg.

    Returns
    -------
    Shape of the grid, float32; 0 where the image does not reach.
    """
    with niftyreg.workspace() as folder:
        floating = niftyreg.write_image(image.data, image.grid.affine, folder / "floating.nii")
        reference = niftyreg.write_image(np.zeros(grid.shape, dtype=np.uint8), grid.affine, folder / "reference.nii")
        field = transform.on(grid)
        for first in range(0, grid.shape[0], transforms.SLAB):
            last = min(first + transforms.SLAB, grid.shape[0])
            field.displacement_mm[first:last] += grid.points(first, last).astype(np.float32)
        deformation = _write_deformation(field.displacement_mm, grid, folder / "deformation.nii")
        out = folder / "resampled.nii"
        niftyreg.call(
            "reg_resample",
            folder,
            threads=threads,
            ref_file=str(reference),
            flo_file=str(floating),
            trans_file=str(deformation),
            inter_val="NN" if is_labels else "CUB",
            pad_val=0.0,
            out_file=str(out),
            verbosity_off_flag=True,
            outputs=("out_file",),
        )
        return _data(out)


def exponential(velocity: nib.Nifti1Image, grid: Grid, *, threads: int = 1) -> Field:
    """The deformation that a stationary velocity field of NiftyReg's control points makes, on a grid.

    Parameters
    ----------
    velocity
        :attr:`Registration.velocity`, or a mean of such with their header.
    grid
        Any grid; beyond the control points there is no motion.
    threads
        Of NiftyReg.
    """
    with niftyreg.workspace() as folder:
        nib.save(velocity, folder / "velocity.nii")
        return _deformation(folder / "velocity.nii", grid, folder, threads=threads)


def check(scan: Image, mask: Image | None = None) -> None:
    """See that a scan holds something, and its mask something on its grid.

    Raises
    ------
    DataError
        If it does not.
    """
    if float(scan.data.min()) == float(scan.data.max()):
        raise DataError(f"{scan.name}: every voxel has the grey level {scan.data.flat[0]:g}; there is nothing in it")
    if mask is None:
        return
    check_grid(mask, scan)
    if not mask.data.any():
        raise DataError(f"{mask.name}: this mask is empty; give one that holds the head, or none")


def check_grid(image: Image, scan: Image) -> None:
    """See that a mask or a label map lies on its scan's grid.

    Raises
    ------
    DataError
        If it does not.
    """
    if not image.grid.is_same(scan.grid):
        raise DataError(
            f"{image.name}: lies on another grid ({_described(image.grid)}) than its scan {scan.name} "
            f"({_described(scan.grid)}); resample it to the scan"
        )


def _described(grid: Grid) -> str:
    size, spacing = (" × ".join(f"{n:.4g}" for n in values) for values in (grid.shape, grid.spacing_mm))
    return f"{size} voxels of {spacing} mm"


def _check_overlap(fixed: Image, moving: Image, matrix: Matrix) -> None:
    """A transform that leaves hardly a voxel in common has failed, whatever the program says."""
    scale = float(np.linalg.det(matrix[:3, :3]))
    if not LEAST_SCALE < scale < LARGEST_SCALE:
        raise DataError(
            f"{moving.name}: the affine to {fixed.name} makes {scale:.3g} of a volume; are both scans whole heads?"
        )
    shared = overlap(fixed.grid, moving.grid, transforms.linear(matrix))
    if shared < LEAST_OVERLAP:
        raise DataError(
            f"{moving.name}: holds {100 * shared:.0f} % of the field of view of {fixed.name}, "
            f"{100 * LEAST_OVERLAP:.0f} % is the least: the scans do not overlap; do they show the same part of the "
            "body, and are their headers right?"
        )


def overlap(fixed: Grid, moving: Grid, transform: Transform) -> float:
    """Part of the fixed grid's voxels whose place is within the moving grid; every fourth along an axis is asked."""
    every = tuple(slice(None, None, 4) for _ in range(3))
    return float(moving.holds(transform.carry(fixed.points()[every])).mean())


def _linear(
    fixed: Image,
    moving: Image,
    settings: Settings,
    folder: Path,
    fixed_mask: Image | None,
    moving_mask: Image | None,
    initial: Matrix | None,
) -> Matrix:
    """Rigid or affine matrix from fixed to moving, by block matching."""
    start = np.eye(4)
    if initial is not None:
        _check_overlap(fixed, moving, initial)
        start = initial
    # The start goes into the moving scan's header: reg_aladin takes means of matrices in log space, where half a circle
    # has no place.
    moving, moving_mask = _placed(moving, start), moving_mask and _placed(moving_mask, start)
    inputs = _inputs(fixed, moving, folder, fixed_mask, moving_mask)
    if settings.kind == "rigid":
        inputs["rig_only_flag"] = True
    if initial is not None:
        transforms.write_matrix(np.eye(4), folder / "start.txt")
        inputs["in_aff_file"] = str(folder / "start.txt")
    found = _matched(inputs, settings, folder)
    sides_mm = [scan.grid.spacing_mm for scan in (fixed, moving)]
    if max(side.max() / side.min() for side in sides_mm) > THICK:
        return np.asarray(start @ found)
    transforms.write_matrix(found, folder / "coarse.txt")
    factor = min(max(min(float(side.min()) for side in sides_mm) / FINE_MM, 1.0), 2.0)
    scans = [_finer(scan, factor, settings) for scan in (fixed, moving)]
    masks = [mask and _finer(mask, factor, settings, is_mask=True) for mask in (fixed_mask, moving_mask)]
    inputs = _inputs(scans[0], scans[1], folder, masks[0], masks[1]) | {
        "in_aff_file": str(folder / "coarse.txt"),
        "ln_val": 1,
        "v_val": FINE_BLOCKS_PERCENT,
        "maxit_val": FINE_ITERATIONS,
        "rig_only_flag" if settings.kind == "rigid" else "aff_direct_flag": True,
    }
    return np.asarray(start @ _matched(inputs, settings, folder))


def _placed(image: Image, matrix: Matrix) -> Image:
    """An image of the moving scan's space where a matrix (fixed to moving) puts it in the fixed scan's."""
    return Image(image.name, image.data, Grid(image.grid.shape, transforms.inverse(matrix) @ image.grid.affine))


def _matched(inputs: dict[str, Any], settings: Settings, folder: Path) -> Matrix:
    """What block matching finds."""
    out = folder / "affine.txt"
    niftyreg.call(
        "reg_aladin",
        folder,
        threads=settings.threads,
        **inputs,
        aff_file=str(out),
        res_file=str(folder / "result.nii"),
        verbosity_off_flag=True,
        outputs=("aff_file",),
    )
    return transforms.read_matrix(out)


def _finer(image: Image, factor: float, settings: Settings, *, is_mask: bool = False) -> Image:
    """The same field of view in more voxels, by this factor along every axis."""
    shape = np.array(image.grid.shape)
    x, y, z = (int(n) for n in np.rint(factor * shape))
    smaller = shape / (x, y, z)
    affine = image.grid.affine @ np.diag([*smaller, 1.0])
    affine[:3, 3] = transforms.move(image.grid.affine, (smaller - 1) / 2)
    grid = Grid((x, y, z), affine)
    data = resample(image, transforms.linear(np.eye(4)), grid, is_labels=is_mask, threads=settings.threads)
    return Image(image.name, data, grid)


def _nonlinear(
    fixed: Image,
    moving: Image,
    settings: Settings,
    folder: Path,
    fixed_mask: Image | None,
    moving_mask: Image | None,
) -> tuple[Field, Field, tuple[nib.Nifti1Image, nib.Nifti1Image]]:
    """Deformations on the fixed and on the moving grid, which lie on each other already, and the velocities behind."""
    inputs = _inputs(fixed, moving, folder, fixed_mask, moving_mask)
    if settings.iterations is not None:
        inputs["maxit_val"] = settings.iterations
    # NiftyReg names the inverse after the forward field.
    velocity, inverse = folder / "velocity.nii", folder / "velocity_backward.nii"
    niftyreg.call(
        "reg_f3d",
        folder,
        threads=settings.threads,
        **inputs,
        vel_flag=True,
        lncc_val=LNCC_SD_MM,
        sx_val=settings.spacing_mm,
        cpp_file=str(velocity),
        res_file=str(folder / "result.nii"),
        verbosity_off_flag=True,
        outputs=("cpp_file",),
    )
    if not inverse.is_file():
        raise DataError("NiftyReg's reg_f3d left no inverse velocity field")
    fields = [
        _deformation(path, image.grid, folder, threads=settings.threads)
        for path, image in ((velocity, fixed), (inverse, moving))
    ]
    images = []
    for path in (velocity, inverse):
        image = nib.load(path)
        images.append(nib.Nifti1Image(_data(path), image.affine, image.header))
    return fields[0], fields[1], (images[0], images[1])


def _inputs(
    fixed: Image, moving: Image, folder: Path, fixed_mask: Image | None, moving_mask: Image | None
) -> dict[str, Any]:
    """Scans and masks as files, by the names of the interfaces' inputs."""
    inputs: dict[str, Any] = {}
    for name, image in (
        ("ref_file", fixed),
        ("flo_file", moving),
        ("rmask_file", fixed_mask),
        ("fmask_file", moving_mask),
    ):
        if image is not None:
            data = (image.data != 0).astype(np.uint8) if "mask" in name else image.data
            inputs[name] = str(niftyreg.write_image(data, image.grid.affine, folder / f"{name}.nii"))
    return inputs


def _deformation(transformation: Path, grid: Grid, folder: Path, *, threads: int) -> Field:
    """Any of NiftyReg's transformations as a displacement on a grid."""
    reference = niftyreg.write_image(np.zeros(grid.shape, dtype=np.uint8), grid.affine, folder / "grid.nii")
    out = folder / "deformation_of.nii"
    niftyreg.call(
        "reg_transform",
        folder,
        threads=threads,
        ref1_file=str(reference),
        def_input=str(transformation),
        out_file=str(out),
        outputs=("out_file",),
    )
    displacement = _data(out).reshape(*grid.shape, 3)
    for first in range(0, grid.shape[0], transforms.SLAB):
        last = min(first + transforms.SLAB, grid.shape[0])
        displacement[first:last] -= grid.points(first, last).astype(np.float32)
    return Field(displacement, grid)


def _data(path: Path) -> npt.NDArray[np.float32]:
    """Values of an image, in memory: the file is about to go."""
    return np.asarray(nib.load(path).dataobj, dtype=np.float32).copy()


def _write_deformation(points_mm: npt.NDArray[np.float32], grid: Grid, path: Path) -> Path:
    """Write NiftyReg's deformation field: (x, y, z, 1, 3), the points themselves, marked by its intent."""
    image = nib.Nifti1Image(points_mm[:, :, :, np.newaxis, :], grid.affine)
    image.header.set_intent("vector", (), "NREG_TRANS")
    image.header["intent_p1"] = 0
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code=1)
    image.set_qform(None, code=0)
    nib.save(image, path)
    return path


def _mid_grid(parts: list[tuple[Grid, Matrix]]) -> Grid:
    """Grid of RAS axes that holds the fields of view of all grids, each moved by its matrix; voxels as the finest."""
    spacing = min(float(grid.spacing_mm.min()) for grid, _ in parts)
    corners = []
    for grid, matrix in parts:
        ends = np.stack(np.meshgrid(*([-0.5, n - 0.5] for n in grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
        corners.append(transforms.move(matrix @ grid.affine, ends))
    every = np.concatenate(corners)
    low, high = every.min(axis=0), every.max(axis=0)
    count = np.maximum(np.ceil((high - low) / spacing - 1e-6).astype(int), 2)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (low + high) / 2 - spacing * (count - 1) / 2
    return Grid((int(count[0]), int(count[1]), int(count[2])), affine)
