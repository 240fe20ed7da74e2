"""Where the slices of a series really lie, from their positions and orientations alone.

``SliceThickness`` and ``SpacingBetweenSlices`` are what the operator asked for; some scanners write the gap between
slices into the latter. Positions are what was done.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Slices whose positions along the normal are nearer than this are the same slice.
SAME_POSITION_MM = 0.05
#: Row or column directions that differ by more than this are different orientations: 2 mm at the edge of a head.
SAME_ORIENTATION_DEGREES = 1.0
#: A slice may lie this far from its place in an even stack, as a fraction of the spacing or in mm (positions may be
#: rounded to 0.1 mm), and this far off the straight line on which first corners of a stack lie.
EVENNESS, ROUNDING_MM, OFF_LINE_MM = 0.15, 0.1, 1.0
#: No scanner is larger; numbers beyond it are no positions.
FARTHEST_MM = 1e5

#: Lengths of directions may differ from one, and their cosine from zero, by this.
DIRECTION_TOLERANCE = 1e-2

#: Anatomical plane by the patient axis (x, y, z) nearest to the normal.
PLANES = ("sag", "cor", "ax")


@dataclass(frozen=True)
class Stack:
    """Slices of a series, sorted along their normal.

    Attributes
    ----------
    n_orientations
        Distinct pairs of row and column directions; the other attributes mean something only if it is one.
    n_slices, n_volumes
        Distinct positions, and how many images lie at one (the median over positions).
    duplicate_slices
        Images beyond ``n_volumes`` at their position.
    spacing_mm
        Distance of slice centres along the normal; NaN for a single slice.
    missing_slices
        Empty places between the first and the last slice.
    is_even
        Whether every slice lies a whole number of spacings from the first, and all on one line.
    plane
        ``ax``, ``cor`` or ``sag``.
    oblique_degrees
        Angle between the normal and the nearest axis of the patient.
    tilt_degrees
        Angle between the normal and the direction in which the slices follow each other; that of a CT's gantry.
    """

    n_orientations: int
    n_slices: int
    n_volumes: int
    spacing_mm: float
    missing_slices: int
    is_even: bool
    plane: str
    duplicate_slices: int = 0
    oblique_degrees: float = 0.0
    tilt_degrees: float = 0.0


def is_orientation(directions: Sequence[float]) -> bool:
    """Whether these are row and column directions: six numbers, two unit vectors at a right angle."""
    if len(directions) != 6:
        return False
    row, column = directions[:3], directions[3:]
    products = ((row, row, 1), (column, column, 1), (row, column, 0))  # plain numbers: asked of every file
    return all(
        abs(sum(map(operator.mul, one, other)) - expected) < DIRECTION_TOLERANCE for one, other, expected in products
    )


def is_position(millimetres: Sequence[float]) -> bool:
    """Whether these are three numbers that can be a place in a scanner."""
    return len(millimetres) == 3 and max(map(abs, millimetres)) < FARTHEST_MM


def measure(orientations: npt.ArrayLike, positions: npt.ArrayLike) -> Stack:
    """Measure a stack of slices.

    Parameters
    ----------
    orientations
        (n, 6) row and column directions (``ImageOrientationPatient``).
    positions
        (n, 3) first voxels' centres in mm (``ImagePositionPatient``).
    """
    directions = np.asarray(orientations, float).reshape(-1, 2, 3)
    normals = np.cross(directions[:, 0], directions[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normal = normals[0]
    plane = PLANES[int(np.abs(normal).argmax())]
    n_orientations = _count_orientations(directions)

    oblique_degrees = _degrees(np.abs(normal).max())

    places = np.asarray(positions, float).reshape(-1, 3)
    places = places[np.argsort(places @ normal, kind="stable")]
    depths = places @ normal
    is_new = np.diff(depths, prepend=-np.inf) > SAME_POSITION_MM
    centres, counts = depths[is_new], np.bincount(np.cumsum(is_new) - 1)
    n_slices, n_volumes = len(centres), int(np.median(counts))
    n_duplicates = int((counts - n_volumes).clip(min=0).sum())
    if n_slices == 1:
        return Stack(n_orientations, 1, n_volumes, float("nan"), 0, True, plane, n_duplicates, oblique_degrees)

    way = places[-1] - places[0]
    tilt_degrees = _degrees(way @ normal / np.linalg.norm(way))
    distances = np.diff(centres)
    steps = np.maximum(np.rint(distances / np.median(distances)), 1)
    # The mean over the whole stack: a median of positions rounded to 0.1 mm would stretch it.
    spacing_mm = float((centres[-1] - centres[0]) / steps.sum())
    astray_mm = np.abs(centres[1:] - centres[0] - steps.cumsum() * spacing_mm)
    beside_mm = np.linalg.norm(places - places[0] - np.outer((depths - depths[0]) / (way @ normal), way), axis=1)
    is_even = bool(astray_mm.max() <= max(EVENNESS * spacing_mm, ROUNDING_MM) and beside_mm.max() <= OFF_LINE_MM)
    return Stack(
        n_orientations=n_orientations,
        n_slices=n_slices,
        n_volumes=n_volumes,
        spacing_mm=spacing_mm,
        missing_slices=int((steps - 1).sum()),
        is_even=is_even,
        plane=plane,
        duplicate_slices=n_duplicates,
        oblique_degrees=oblique_degrees,
        tilt_degrees=tilt_degrees,
    )


def _degrees(cosine: float) -> float:
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def _count_orientations(directions: npt.NDArray[np.float64]) -> int:
    """Count distinct (2, 3) pairs of directions; pairs of one normal may still be turned or mirrored in their plane."""
    limit = np.cos(np.radians(SAME_ORIENTATION_DEGREES))
    left = np.unique(directions.round(4), axis=0)
    left /= np.linalg.norm(left, axis=2, keepdims=True)
    count = 0
    while len(left):
        left = left[(left * left[0]).sum(axis=2).min(axis=1) < limit]
        count += 1
    return count
