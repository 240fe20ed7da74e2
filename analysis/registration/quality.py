"""How good a registration is: similarity, overlap, volume change, folding, and how well its inverse undoes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import niftyreg, pairs
from .pairs import Image, Registration
from .transforms import Field

#: NiftyReg's measures of similarity: normalised mutual information, correlation, local correlation.
SIMILARITIES = ("nmi", "ncc", "lncc")
#: Every so many voxels along an axis the inverse is tried.
STEP = 3


@dataclass(frozen=True)
class Quality:
    """Measures of one registration, all on the fixed scan's grid.

    Attributes
    ----------
    nmi, ncc, lncc
        Normalised mutual information, correlation and local correlation of the fixed and the warped scan.
    overlap_fraction
        Part of the fixed voxels whose place the moving scan holds; the measures below are over these.
    jacobian_least, jacobian_p1, jacobian_p99, jacobian_largest
        Local volume in the moving scan over that in the fixed scan: extremes and percentiles.
    folding_fraction
        Part of the voxels where it is zero or less: space folds there.
    displacement_mean_mm, displacement_largest_mm
        How far points move.
    inverse_mean_mm, inverse_largest_mm
        How far from itself a point comes back by the inverse transform.
    """

    nmi: float
    ncc: float
    lncc: float
    overlap_fraction: float
    jacobian_least: float
    jacobian_p1: float
    jacobian_p99: float
    jacobian_largest: float
    folding_fraction: float
    displacement_mean_mm: float
    displacement_largest_mm: float
    inverse_mean_mm: float
    inverse_largest_mm: float

    def as_json(self) -> dict[str, Any]:
        """Numbers to five digits; what is unknown is null."""
        return {name: float(f"{value:.5g}") if np.isfinite(value) else None for name, value in asdict(self).items()}


def measure(
    fixed: Image, moving: Image, warped: npt.NDArray[np.float32], registration: Registration, displacement: Field
) -> Quality:
    """Measure a registration.

    Parameters
    ----------
    fixed, moving
        The scans.
    warped
        The moving scan on the fixed scan's grid.
    registration
        Their transforms.
    displacement
        ``registration.forward`` on the fixed scan's grid.
    """
    points = fixed.grid.points()
    there = points + displacement.displacement_mm
    held = moving.grid.holds(there)
    determinant = displacement.jacobian()[held]
    distance = np.linalg.norm(displacement.displacement_mm[held], axis=-1)
    every = tuple(slice(None, None, STEP) for _ in range(3))
    tried = held[every]
    back = registration.inverse.carry(there[every][tried])
    error = np.linalg.norm(back - points[every][tried], axis=-1)
    low, high = np.percentile(determinant, [1, 99])
    return Quality(
        **similarities(fixed, warped),
        overlap_fraction=float(held.mean()),
        jacobian_least=float(determinant.min()),
        jacobian_p1=float(low),
        jacobian_p99=float(high),
        jacobian_largest=float(determinant.max()),
        folding_fraction=float((determinant <= 0).mean()),
        displacement_mean_mm=float(distance.mean()),
        displacement_largest_mm=float(distance.max()),
        inverse_mean_mm=float(error.mean()),
        inverse_largest_mm=float(error.max()),
    )


def similarities(fixed: Image, warped: npt.NDArray[np.float32]) -> dict[str, float]:
    """The measures :data:`SIMILARITIES` of two images on one grid, by NiftyReg."""
    found = {}
    with niftyreg.workspace() as folder:
        inputs: dict[str, Any] = {
            name: str(niftyreg.write_image(data, fixed.grid.affine, folder / f"{name}.nii"))
            for name, data in (("ref_file", fixed.data), ("flo_file", warped))
        }
        for name in SIMILARITIES:
            out = folder / f"{name}.txt"
            niftyreg.call("reg_measure", folder, measure_type=name, out_file=str(out), outputs=("out_file",), **inputs)
            found[name] = float(out.read_text(encoding="utf-8").split()[-1])
    return found


def dice(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> dict[int, float]:
    """Overlap of every label of two label maps on one grid: 2|A ∩ B| / (|A| + |B|) (Dice 1945, Ecology 26:297)."""
    first, second = np.rint(first).astype(np.int64).ravel(), np.rint(second).astype(np.int64).ravel()
    numbers, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    one, other = places[: first.size], places[first.size :]
    sizes = np.bincount(places, minlength=numbers.size)
    common = np.bincount(one[one == other], minlength=numbers.size)
    return {int(n): float(2 * both / size) for n, both, size in zip(numbers, common, sizes, strict=True) if n != 0}


def label_overlap(fixed_labels: Image, fixed: Image, warped_labels: npt.NDArray[np.float32]) -> dict[int, float]:
    """Dice of every label of the fixed scan's label map with one brought onto its grid.

    Raises
    ------
    DataError
        If the fixed scan's label map lies on another grid.
    """
    pairs.check_grid(fixed_labels, fixed)
    return dice(fixed_labels.data, warped_labels)
