"""Where the slices of a series really lie, from their positions and orientations alone.

``SliceThickness`` and ``SpacingBetweenSlices`` are what the operator asked for; some scanners write the gap between
slices into the latter. Positions are what was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Slices whose positions along the normal are nearer than this are the same slice.
SAME_POSITION_MM = 0.05
#: Normals that differ by more than this are different orientations.
SAME_ORIENTATION_DEGREES = 5.0
#: A distance between neighbours may differ from a whole number of spacings by this fraction of the spacing.
EVENNESS = 0.15

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
        Distinct directions of the normal; the other attributes mean something only if it is one.
    n_slices, n_volumes
        Distinct positions, and how many images lie at one (the median over positions).
    duplicate_slices
        Images beyond ``n_volumes`` at their position.
    spacing_mm
        Distance of slice centres along the normal; NaN for a single slice.
    missing_slices
        Empty places between the first and the last slice.
    is_even
        Whether every distance is a whole number of spacings.
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
    row, column = np.array(directions).reshape(2, 3)
    return bool(np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=DIRECTION_TOLERANCE))


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
    n_orientations = _count_orientations(normals)

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
    is_even = bool((np.abs(distances - steps * spacing_mm) <= EVENNESS * spacing_mm).all())
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


def _count_orientations(normals: npt.NDArray[np.float64]) -> int:
    limit = np.cos(np.radians(SAME_ORIENTATION_DEGREES))
    distinct: list[npt.NDArray[np.float64]] = []
    for normal in np.unique(normals.round(6), axis=0):
        if all(abs(normal @ other) < limit for other in distinct):
            distinct.append(normal)
    return len(distinct)
